"""`evaluate`: how right a model is on labelled pictures. `--calibrate`, `--probe`, `--anomaly` have their own files."""

from __future__ import annotations

import csv
import io
import json as _json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..card import Head
from ..data.loading.loader import once
from ..data.loading.pictures import Pictures
from ..data.loading.quarantine import Quarantine
from ..data.origins.open import open_for
from ..data.source import Source
from ..durable import write_file
from ..errors import BadInput, readable
from ..metrics.accuracy import wilson
from ..metrics.calibration import reliability
from ..metrics.confusion import by_class, confusion, worst_pairs
from ..metrics.heads import figures
from ..metrics.kept import keep
from ..metrics.predictions import Predictions, fill, known
from ..metrics.probability import log_softmax
from ..metrics.summary import summary
from ..runtime.model import Model
from .labelled import Reading, how_read, opened, says, trained_on
from .report import write_evaluation

__all__ = ["Evaluation", "Reading", "evaluate"]
ROWS, PAIRS = 40, 5  # classes and mistakes that the table has room for; --json has them all


class Asked(NamedTuple):
    """Who was judged, on what: a page shows both."""

    place: Path
    model: Model
    pictures: Source
    data: str  # where these lie

    def with_heads(self, heads: tuple[Head, ...]) -> Asked:
        model = self.model
        return self._replace(model=Model(model.network, replace(model.card, heads=heads), model.device))


@dataclass(frozen=True)
class Evaluation:
    metrics: dict[str, float]  # of several heads by `head/figure`
    heads: tuple[Head, ...]
    found: dict[str, Predictions]  # by head
    notes: tuple[str, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)  # id -> reason
    learned: frozenset[str] | None = None  # ids of pictures that the model was trained on; None: nobody knows
    about: dict[str, Any] = field(default_factory=dict)  # what else JSON says
    asked: Asked | None = field(default=None, repr=False, compare=False)

    @property
    def predictions(self) -> Predictions:
        """Of the first head."""
        return self.found[self.heads[0].name]

    @property
    def classes(self) -> dict[str, float | None]:
        """Top-1 of each class of the first head; None: no picture of it."""
        head = self.heads[0]
        if head.task != "classify":
            return {}
        return {c: row.recall for c, row in zip(head.classes, by_class(confusion(self.predictions)), strict=True)}

    def tell(self, json: bool = False) -> None:
        if json:
            print(_json.dumps(self.plain(), indent=1))
            return
        for line in self.lines():
            print(readable(line))

    def plain(self) -> dict[str, Any]:
        """All of it as JSON."""
        parts = {head.name: _plain(head, self.found[head.name]) for head in self.heads}
        whole = parts[self.heads[0].name] if len(self.heads) == 1 else {"heads": parts}
        learned = None if self.learned is None else len(self.learned)
        told = {"pictures": len(self.predictions.ids), "trained_on": learned, **self.metrics}
        return told | whole | self.about | {"unreadable": self.unreadable}

    def lines(self) -> Iterator[str]:
        yield from self.notes
        if self.learned:
            n, some = len(self.predictions.ids), len(self.learned)
            yield f"the model was trained on {some:,} of these {n:,} pictures: these figures flatter it"
        for head in self.heads:
            if len(self.heads) > 1:
                yield f"{head.name}:"
            yield from _lines(head, self.found[head.name])
        if self.unreadable:
            named = ", ".join(list(self.unreadable)[:5])
            yield f"{len(self.unreadable):,} more cannot be read and do not count: {named}"

    def write(self, path: str | Path) -> None:
        """What the model said of each picture: a table (.csv), every output (.npz), or a page to look at (.html)."""
        refuse(path)
        if Path(path).suffix == ".npz":
            keep(path, self.found)
            return
        if Path(path).suffix == ".html":
            if self.asked is None:
                raise BadInput(f"--out {path}: a probe has answers and no page; name a .csv or .npz")
            place, model, pictures, data = self.asked
            learned = f", {len(self.learned):,} of which it was trained on" if self.learned else ""
            tested = f"pictures of {Path(data).name or data}{learned}"
            write_evaluation(Path(path), place, model, pictures, tested, self.found)
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(_table(self.heads, self.found))
        write_file(path, text.getvalue().encode("utf-8", "surrogateescape"))


def refuse(out: str | Path) -> None:
    """Before the pictures are looked at: a file that cannot be written."""
    at = Path(out)
    if at.suffix not in (".csv", ".npz", ".html"):
        what = ".csv (a table of answers), .npz (all outputs) or .html (a page to look at)"
        raise BadInput(f"--out {out} ends in none of {what}; name one of them")
    if at.is_dir() or not at.absolute().parent.is_dir():
        raise BadInput(f"--out {out} cannot be written; give a file in a folder that is there")


def evaluate(
    source: str | Path,
    data: str | Path,
    *,
    like: str | None = None,
    reading: Reading | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Classes of the data are matched to the model's by name; an unknown one is an error. `settings` are those of the
    data, by dotted name ({"data.label": "species"}); what a run was trained with holds unless another is given."""
    reading = reading or Reading()
    how = how_read(Path(source), str(data), settings or {})
    model = opened(source, like, reading)
    heads = model.card.heads
    if not heads:
        raise BadInput(f"{source} has no head, so there is nothing to judge; its features can be: --probe knn")
    labelled = open_for(how.path, heads, how)
    pictures = Pictures(labelled.source, model.preprocess)
    bad = Quarantine(None, len(labelled.source), reading.max_bad, "given")
    found = fill(says(model, reading), once(pictures, reading.batch, reading.workers, quarantine=bad), heads)
    learned = trained_on(Path(source), labelled.source, how.path)
    asked = Asked(Path(source), model, labelled.source, how.path)
    notes = tuple(labelled.notes)
    return Evaluation(figures(found, heads), heads, found, notes, bad.reasons, learned, asked=asked)


# -- what is told of one head ------------------------------------------------------------------------------------------


def _lines(head: Head, p: Predictions) -> Iterator[str]:
    m = summary(p, head.task)
    match head.task:
        case "classify":
            yield from _classes(head, p, m)
        case "tags":
            shown = (("mean average precision", "map"), ("macro F1", "macro_f1"), ("AUROC", "auroc"))
            told = [f"{name} {m[key]:.4f}" for name, key in (*shown, ("loss", "loss")) if key in m]
            yield " · ".join([f"{len(known(p).ids):,} pictures", *told])
        case "number":
            shown = (("off by", "mae"), ("root mean square", "rmse"), ("R2", "r2"))
            yield " · ".join(
                [f"{len(known(p).ids):,} pictures", *(f"{name} {m[key]:.4g}" for name, key in shown if key in m)]
            )
        case _:
            yield f"{len(known(p).ids):,} pictures"


def _classes(head: Head, p: Predictions, m: dict[str, float]) -> Iterator[str]:
    p = known(p)
    n = len(p.ids)
    if not n:
        yield "no picture of a known class"
        return
    table = confusion(p)
    rows = sorted(zip(head.classes, by_class(table), strict=True), key=lambda row: row[1].support == 0)
    there = sum(row.support > 0 for _, row in rows)
    if len(rows) > ROWS:  # the worst are what somebody looks for
        rows = sorted(rows[:there], key=lambda row: row[1].recall or 0.0)
    yield f"  {'class':<24} {'precision':>10} {'recall':>8} {'F1':>8} {'pictures':>9}"
    for name, row in rows[:ROWS]:
        found = f"{_percent(row.precision):>10} {_percent(row.recall):>8} {_percent(row.f1):>8} {row.support:>9,}"
        yield f"  {name:<24} {found}"
    if len(rows) > ROWS:
        yield f"  and {len(rows) - ROWS:,} more classes, all of higher recall: --json has them"
    for truth, answer, times in worst_pairs(table, PAIRS):
        share = f"{times:,} of {int(table[truth].sum()):,}"
        yield f"  {head.classes[truth]} taken for {head.classes[answer]}: {share}"
    loss = f"{m['loss']:.4f}" if "loss" in m else "is no number"
    five = f" · top-5 {100 * m['top5']:.2f} %" if len(head.classes) > 5 else ""  # else it is 100 % always
    yield f"{n} pictures · top-1 {100 * m['top1']:.2f} %{five} · loss {loss}"
    low, high = (100 * edge for edge in wilson(m["top1"], n))
    yield f"top-1 of more such pictures: {low:.1f} to {high:.1f} % (95 % sure)"
    last = [f"balanced accuracy {100 * m['balanced_accuracy']:.2f} %", f"macro F1 {100 * m['macro_f1']:.2f} %"]
    last += [f"AUROC {m['auroc']:.4f}"] if "auroc" in m else []
    last += [f"calibration error {100 * m['ece']:.2f} %"] if "ece" in m else []
    last += [f"temperature {head.temperature:.3g}"] if head.temperature != 1 else []
    yield " · ".join(last)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _plain(head: Head, p: Predictions) -> dict[str, Any]:
    if head.task != "classify":
        return {}
    p = known(p)
    table = confusion(p)
    told: dict[str, Any] = {
        "per_class": {c: asdict(row) for c, row in zip(head.classes, by_class(table), strict=True)},
        "taken_for": [
            {"class": head.classes[t], "for": head.classes[a], "times": n} for t, a, n in worst_pairs(table, table.size)
        ],
        "temperature": head.temperature,
    }
    if len(p.ids):
        told["top1_interval"] = wilson(summary(p, "classify")["top1"], len(p.ids))
        curve = reliability(p)
        told["reliability"] = [
            {"from": low, "confidence": sure, "accuracy": right, "pictures": n}
            for low, sure, right, n in zip(
                curve.edges.tolist(), curve.confidence.tolist(), curve.accuracy.tolist(), curve.count.tolist(),
                strict=False,
            )
            if n
        ]  # fmt: skip
    return told


def _table(heads: tuple[Head, ...], found: Mapping[str, Predictions]) -> Iterator[list[str]]:
    """A line for each picture: its name, and of each head what is true, what is answered, and how surely."""
    columns: list[list[str]] = [["id", *found[heads[0].name].ids]]
    for head in heads:
        before = f"{head.name}/" if len(heads) > 1 else ""
        truth, answer, sure = _words(head, found[head.name])
        columns += [[f"{before}truth", *truth], [f"{before}answer", *answer]]
        columns += [[f"{before}probability", *sure]] if sure else []
    return (list(line) for line in zip(*columns, strict=True))


def _words(head: Head, p: Predictions) -> tuple[list[str], list[str], list[str]]:
    """(truth, answer, probability of it or nothing) of each sample, empty where nobody knows."""
    match head.task:
        case "classify":
            names = [*head.classes, ""]  # -1: the last
            sure = np.exp(log_softmax(p.outputs).max(1))
            answers = p.outputs.argmax(1)
            return [names[t] for t in p.targets], [names[a] for a in answers], [f"{s:.6f}" for s in sure]
        case "tags":
            return _joined(head, p.targets > 0.5), _joined(head, p.outputs > 0), []
        case _:
            told = ["" if np.isnan(t) else f"{t:.9g}" for t in p.targets.tolist()]
            return told, [f"{v:.9g}" for v in p.outputs[:, 0].tolist()], []


def _joined(head: Head, there: np.ndarray[Any, np.dtype[np.bool_]]) -> list[str]:
    return [";".join(c for c, yes in zip(head.classes, row, strict=True) if yes) for row in there.tolist()]
