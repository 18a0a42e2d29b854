"""Which question `tessella evaluate` was asked: how right, how sure, how good are the features, how strange is it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import BadInput
from .anomaly import AnomalyConfig, anomalies
from .calibrate import calibrate
from .evaluate import Evaluation, refuse
from .evaluate import evaluate as judged
from .labelled import Reading
from .probe import probe


@dataclass(frozen=True, kw_only=True)
class Asked:
    """At most one of the first three; without any of them it is how right the model is."""

    probe: str | None = None  # knn or linear
    anomaly: str | None = None  # the class of what is usual
    whole: bool = False  # compare whole pictures instead of patches
    calibrate: bool = False
    out: str | None = None  # where answers are written as well

    def __post_init__(self) -> None:
        given = {"--probe": self.probe, "--anomaly": self.anomaly, "--calibrate": self.calibrate}
        several = [name for name, value in given.items() if value]
        if len(several) > 1:
            raise BadInput(f"{' and '.join(several)} are different questions; ask one at a time")
        if self.whole and not self.anomaly:
            raise BadInput("--whole says how --anomaly compares; add --anomaly GOOD, or leave it out")
        if self.out is not None:
            refuse(self.out)
            if self.probe and self.out.endswith(".html"):
                raise BadInput(f"--out {self.out}: a probe has answers and no page; name a .csv or .npz")
            if self.anomaly:
                raise BadInput("--anomaly has scores instead of answers; leave --out away, --json has each picture's")


class Told(Protocol):
    def tell(self, json: bool = False) -> None: ...


def evaluate(
    source: str | Path,
    data: str | Path,
    asked: Asked,
    *,
    like: str | None = None,
    reading: Reading | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Told:
    if asked.anomaly:
        cfg = AnomalyConfig(good=asked.anomaly, by="whole" if asked.whole else "patches")
        return anomalies(source, data, cfg, like=like, reading=reading, settings=settings)
    if asked.calibrate:
        done = calibrate(source, data, reading=reading, settings=settings)
        _write(done.evaluation, asked.out)
        return done
    if asked.probe:
        found = probe(source, data, asked.probe, like=like, reading=reading, settings=settings)
    else:
        found = judged(source, data, like=like, reading=reading, settings=settings)
    _write(found, asked.out)
    return found


def _write(found: Evaluation, out: str | None) -> None:
    if out is not None:
        found.write(out)
