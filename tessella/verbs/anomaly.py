"""`evaluate --anomaly GOOD`: which pictures are unlike the good ones, for inspection: no fault needs to be known.

Good ones of the training part are what is usual. Judged are the good ones held out, and all of other classes.
"""

from __future__ import annotations

import json as _json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import nearest
from ..data.origins.folder import TRAIN, VALIDATION, parts_in
from ..data.origins.open import open_splits
from ..data.source import Source, split
from ..errors import BadInput, readable
from ..metrics.anomaly import Scores, scores
from ..metrics.predictions import Array
from ..metrics.ranking import auroc, average_precision
from .labelled import Reading, classifier_of, features, how_read, opened

SHOWN = 10  # strangest pictures that are printed
HELD_OUT = 0.2  # share of the good ones to judge, where the data has no part for that


@dataclass(frozen=True, eq=False)
class Anomalies:
    good: str  # the class of what is usual
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: Array  # (N,) class numbers, -1 unknown
    found: Scores
    notes: tuple[str, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """AUROC and average precision of telling other classes from the good one, and the shares beyond the limit."""
        known = self.labels >= 0
        values, strange = self.found.values[known], self.labels[known] != self.classes.index(self.good)
        flagged = values > self.found.limit
        told = {
            "auroc": auroc(values, strange),
            "average_precision": average_precision(values, strange) if not strange.all() else None,
            "found": _mean(flagged[strange]),
            "false_alarms": _mean(flagged[~strange]),
        }
        return {name: value for name, value in told.items() if value is not None}

    def tell(self, json: bool = False) -> None:
        if json:
            print(_json.dumps(self.plain(), indent=1))
            return
        for line in self.lines():
            print(readable(line))

    def plain(self) -> dict[str, Any]:
        names = [*self.classes, None]
        each = zip(self.ids, self.labels.tolist(), self.found.values.tolist(), strict=True)
        return {
            "good": self.good,
            "known": self.found.known,
            "limit": self.found.limit,
            **self.metrics,
            "pictures": [
                {"id": name, "class": names[label], "score": value, "flagged": value > self.found.limit}
                for name, label, value in each
            ],
            "unreadable": self.unreadable,
        }

    def lines(self) -> Iterator[str]:
        yield from self.notes
        limit, order = self.found.limit, np.argsort(-self.found.values, kind="stable")
        yield f"  {'class':<24} {'pictures':>9} {'flagged':>9} {'median score':>13}"
        for number, name in enumerate(self.classes):
            mine = self.found.values[self.labels == number]
            if len(mine):
                share = f"{100 * float((mine > limit).mean()):.1f} %"
                yield f"  {name:<24} {len(mine):>9,} {share:>9} {float(np.median(mine)):>13.4f}"
        yield "  strangest: " + ", ".join(f"{self.ids[i]} {self.found.values[i]:.3f}" for i in order[:SHOWN])
        m = self.metrics
        shown = (("AUROC", "auroc", 1), ("found %", "found", 100), ("false alarms %", "false_alarms", 100))
        told = [f"{name} {by * m[key]:.{1 if by > 1 else 4}f}" for name, key, by in shown if key in m]
        compared = f"{len(self.ids):,} pictures against {self.found.known:,} of {self.good}"
        yield " · ".join([compared, *told, f"limit {limit:.4f}"])
        if self.unreadable:
            named = ", ".join(list(self.unreadable)[:5])
            yield f"{len(self.unreadable):,} more cannot be read and do not count: {named}"


def anomalies(
    source: str | Path,
    data: str | Path,
    good: str,
    *,
    like: str | None = None,
    reading: Reading | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Anomalies:
    """`good` is the class of what is usual; pictures without a label are scored too."""
    reading = reading or Reading()
    how = how_read(Path(source), str(data), settings or {})
    parts, classes, notes = open_splits(how)
    if good not in classes:
        raise BadInput(f"{how.path} has no class {good!r} to learn from{nearest(good, classes)}")
    known, asked = _divided(parts, classes.index(good))
    if not len(known):
        raise BadInput(f"no picture of {good!r} is there to learn from; put some into train/{good}")
    model = opened(source, like, reading)
    embed = classifier_of(model).embed
    usual, others = (features(model, part, reading, embed) for part in (known, asked))
    assert asked.labels is not None
    return Anomalies(
        good=good,
        classes=classes,
        ids=others.ids,
        labels=asked.labels[others.rows],
        found=scores(usual.vectors, others.vectors),
        notes=tuple(notes),
        unreadable=usual.unreadable | others.unreadable,
    )


def _divided(parts: Mapping[str, Source], good: int) -> tuple[Source, Source]:
    """What is usual, and what is judged: the parts of the data, or a fifth of the good ones with all others."""
    train, val = (next(iter(parts_in(parts, kind)), None) for kind in (TRAIN, VALIDATION))
    if train is not None and val is not None:
        return parts[train].take(_of(parts[train], good)), parts[val]
    if len(parts) > 1 or train is not None or val is not None:
        raise BadInput(f"the data has {', '.join(parts)}; good pictures are learned from train/ and judged in test/")
    whole = next(iter(parts.values()))
    known, held_out = split(whole.take(_of(whole, good)), HELD_OUT, 0)
    judged = np.ones(len(whole), bool)
    judged[_of(whole, good)] = np.isin(whole.rows[_of(whole, good)], held_out.rows)
    return known, whole.take(np.flatnonzero(judged))


def _of(source: Source, good: int) -> Array:
    assert source.labels is not None
    return np.flatnonzero(source.labels == good)


def _mean(flags: Array) -> float | None:
    return float(flags.mean()) if len(flags) else None
