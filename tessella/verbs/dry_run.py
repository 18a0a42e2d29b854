"""`train --dry-run`: what a run would do, take and last, before it is started. Writes nothing."""

from __future__ import annotations

import json as _json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..build import Run
from ..config import encode, flatten
from ..data.source import Source
from ..errors import BadInput, readable
from ..training import memory
from .train import Asked, settle
from .trial import Figures, rehearse


@dataclass(frozen=True)
class Forecast:
    """What is known of a run that was not started."""

    run: Run
    data: dict[str, dict[str, Any]]  # part -> its row of the data table
    notes: tuple[str, ...]
    reasons: dict[str, tuple[Any, str]]  # what the program chose, and why
    figures: Figures
    asking: float  # seconds that opening the data and settling took

    @property
    def evaluations(self) -> int:
        if "validation" not in self.data:
            return 0
        every, steps = self.run.train.evaluate_every, self.run.train.steps
        again = bool(self.run.train.best)  # at the end once more what ships, unless that is the newest
        return 1 + ((steps - 1) // every if every else 0) + again

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of the whole run, by what it does."""
        f, t = self.figures, self.run.train
        return {
            "start": self.asking + f.start + f.first,
            "steps": t.steps * sum(f.steps) / len(f.steps),
            "evaluations": self.evaluations * f.evaluation,
            "saves": (1 + (t.steps - 1) // t.save_every) * f.save,
        }

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    def plain(self) -> dict[str, Any]:
        chosen = {key: {"value": encode(value), "why": why} for key, (value, why) in self.reasons.items()}
        return {
            "data": self.data,
            "notes": list(self.notes),
            "chosen": chosen,
            "settings": flatten(encode(self.run)),
            "prediction": {"peak_bytes": self.figures.peak, "seconds": self.seconds, "parts": self.parts},
            "measured": asdict(self.figures),
        }

    def tell(self, json: bool = False) -> None:
        if json:
            print(_json.dumps(self.plain(), indent=1))
            return
        from rich.console import Console
        from rich.table import Table

        console = Console()
        table = Table("part", "pictures", "classes", "fewest", "most", "unreadable", box=None, header_style="bold")
        for part, row in self.data.items():
            few, many = (_class(row[key]) for key in ("fewest", "most"))
            table.add_row(part, f"{row['pictures']:,}", str(row["classes"]), few, many, "not scanned")
        console.print(table)
        for note in self.notes:
            print(f"  {readable(note)}")
        print("\nchosen")
        for key, (value, why) in self.reasons.items():
            print(f"  {key} = {f'{value:.3g}' if isinstance(value, float) else value}  ({why})")
        print(f"\npredicted from {self.figures.measured} real steps")
        beside = f", and {memory.show(self.figures.workers)} of its loaders" if self.figures.workers else ""
        print(f"  memory  {memory.show(self.figures.peak)} at most{beside}")
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.parts.items() if seconds >= 0.5)
        print(f"  time    {duration(self.seconds)}: {parts}")
        print("nothing was written; the same command without --dry-run starts the run")


def dry_run(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    files: tuple[str | Path, ...] = (),
    settings: Mapping[str, Any] | None = None,
) -> Forecast:
    """Takes what `train` takes. Some real steps run in a process of their own, with real pictures."""
    asked = Asked(data, model, recipe, files, settings or {}, method)
    asked.device()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput("a dry run is of one process; start it without torchrun")
    began = time.perf_counter()
    settled = settle(asked)
    asking = time.perf_counter() - began
    run, splits = settled.choices.run, settled.splits
    print("some real steps ...", file=sys.stderr, flush=True)
    table = {"training": _row(splits.train)} | ({"validation": _row(splits.val)} if splits.val is not None else {})
    notes = (*splits.notes, *settled.notes)
    return Forecast(run, table, notes, settled.choices.reasons, rehearse(run), asking)


def _row(source: Source) -> dict[str, Any]:
    """One part of the data. No picture is read: `tessella check` does that."""
    row: dict[str, Any] = {"pictures": len(source), "classes": len(source.classes), "fewest": None, "most": None}
    if source.labels is not None and len(source.labels) and source.classes:
        counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes))
        for key, place in (("fewest", int(counts.argmin())), ("most", int(counts.argmax()))):
            row[key] = {"class": source.classes[place], "pictures": int(counts[place])}
    return row


def _class(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{found['pictures']:,} {readable(found['class'])}"


def duration(seconds: float) -> str:
    """For people: 42 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
