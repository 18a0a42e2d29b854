"""`evaluate --calibrate`: one temperature, found on pictures that the model has not learned from, kept in its card."""

from __future__ import annotations

import json as _json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import card as cards
from ..card import Head
from ..errors import BadInput, readable
from ..metrics.heads import figures
from ..metrics.predictions import Predictions, at_temperature
from ..metrics.summary import summary
from ..metrics.temperature import temperature
from .evaluate import Evaluation, evaluate
from .labelled import Reading


@dataclass(frozen=True)
class Found:
    """One head, before and after, on the pictures that its temperature was found on."""

    head: str
    pictures: int
    temperature: float
    loss: tuple[float, float]
    ece: tuple[float, float]


@dataclass(frozen=True)
class Calibrated:
    evaluation: Evaluation  # with the new temperatures
    found: tuple[Found, ...]
    folder: Path  # whose card has them

    def tell(self, json: bool = False) -> None:
        if json:
            told = [vars(one) for one in self.found]
            print(_json.dumps(self.evaluation.plain() | {"calibration": told}, indent=1))
            return
        self.evaluation.tell()
        seen = "it was not trained on"
        if self.evaluation.learned is None:
            seen = "(whether it was trained on them is not known: if so, it is still too sure)"
        for one in self.found:
            loss, ece = (f"{a:.4f} to {b:.4f}" for a, b in (one.loss, [100 * e for e in one.ece]))
            where = f"on {one.pictures:,} pictures {seen}"
            print(
                f"{readable(one.head)} calibrated {where}: temperature {one.temperature:.4g}, "
                f"calibration error {ece} %, loss {loss}; no answer changes; kept in {readable(str(self.folder))}"
            )


def calibrate(
    source: str | Path,
    data: str | Path,
    *,
    reading: Reading | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Calibrated:
    """Writes `temperature` of each head of classes into the model's card; weights and answers stay as they are."""
    reading = reading or Reading()
    if reading.size is not None or reading.flips:
        raise BadInput("a temperature is for what predict does; leave --size and --flips out of --calibrate")
    folder = _folder(Path(source))
    before = evaluate(source, data, reading=reading, settings=settings)
    heads, found = _heads(before)
    card = cards.read(folder)
    if card.heads != before.heads:
        raise BadInput(f"{folder} was changed meanwhile; calibrate again when its training has ended")
    provenance = card.provenance | {"calibration": [vars(one) for one in found]}
    cards.write(folder, replace(card, heads=heads, provenance=provenance))
    cooled = {
        new.name: at_temperature(before.found[new.name], new.temperature, old.temperature)
        for old, new in zip(before.heads, heads, strict=True)
    }
    asked = before.asked and before.asked.with_heads(heads)
    after = replace(before, metrics=figures(cooled, heads), heads=heads, found=cooled, asked=asked)
    return Calibrated(after, tuple(found), folder)


def _folder(path: Path) -> Path:
    """Whose model.json is to be written."""
    for folder in (path, path / "model"):
        if (folder / cards.NAME).is_file():
            return folder
    raise BadInput(f"{path} has no {cards.NAME} to keep a temperature in; give a run folder or a model folder")


def _heads(before: Evaluation) -> tuple[tuple[Head, ...], list[Found]]:
    heads: list[Head] = []
    found: list[Found] = []
    for head in before.heads:
        if head.task == "classify":
            p = _unseen(before.found[head.name], before.learned)
            try:
                factor = temperature(p)
            except BadInput as error:
                raise BadInput(f"head {head.name}: {error}" if len(before.heads) > 1 else str(error)) from None
            new = replace(head, temperature=head.temperature * factor)
            told = (summary(p, "classify"), summary(at_temperature(p, new.temperature, head.temperature), "classify"))
            loss, ece = ((told[0][key], told[1][key]) for key in ("loss", "ece"))
            found.append(Found(head.name, int((p.targets >= 0).sum()), new.temperature, loss, ece))
            head = new
        heads.append(head)
    if not found:
        raise BadInput("this model has no head of classes, and nothing else has a temperature; leave --calibrate out")
    return tuple(heads), found


def _unseen(p: Predictions, learned: frozenset[str] | None) -> Predictions:
    """What was learned is answered too surely: a temperature found there would make all others too sure."""
    rows = np.flatnonzero([name not in (learned or ()) for name in p.ids])
    if not len(rows):
        raise BadInput("the model was trained on all of these pictures; calibrate on some that were held out")
    return Predictions(tuple(p.ids[i] for i in rows), p.targets[rows], p.outputs[rows])
