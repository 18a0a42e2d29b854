"""The folder of a run, going on or finished: what it was told, how far it is, its figures."""

from __future__ import annotations

import json
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import notebook
from ..config import flatten, read_plain
from ..errors import BadInput
from .load import load
from .model import Model

Row = dict[str, Any]


class Run:
    """`Run("runs/photos-1")`. What changes while it trains is read anew each time."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "run.json").is_file():
            raise BadInput(f"{self.folder} holds no run.json; give the folder of a run, such as runs/photos-1")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """By dotted name, as on the command line."""
        return flatten(self._written.get("run", {}))

    @cached_property
    def origins(self) -> dict[str, str]:
        """Setting -> who decided it: a file, "given", "recipe", or "chosen: why"."""
        return dict(self._written.get("origins", {}))

    @cached_property
    def _written(self) -> dict[str, Any]:
        return read_plain(self.folder / "run.json")

    def rows(self) -> list[Row]:
        """All figures so far; a line that is being written is left out."""
        path = self.folder / "log.jsonl"
        found = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    @property
    def metrics(self) -> dict[str, float]:
        """Of the newest evaluation."""
        newest: Row = next((r for r in reversed(self.rows()) if any(key.startswith("val/") for key in r)), {})
        return {key.removeprefix("val/"): value for key, value in newest.items() if key.startswith("val/")}

    @property
    def status(self) -> str:
        steps, rows = int(self.settings.get("train.steps", 0)), self.rows()
        done = rows[-1]["step"] + 1 if rows else 0
        if done >= steps and (self.folder / "model").exists():
            return f"finished after {steps:,} steps"
        if self._exhausted(rows):
            return f"finished early after {done:,} of {steps:,} steps"
        if not rows:
            return f"no row of figures yet, of {steps:,} steps"
        ago = max(0.0, time.time() - (self.folder / "log.jsonl").stat().st_mtime)
        return f"at step {done:,} of {steps:,}, last heard of {ago:,.0f} s ago"

    def _exhausted(self, rows: list[Row]) -> bool:
        """Whether as many evaluations as `train.patience` allows were no better than the best."""
        patience, told = int(self.settings.get("train.patience", 0)), [row for row in rows if "best/step" in row]
        worse = sum(1 for row in told if row["step"] > told[-1]["best/step"])
        return 0 < patience <= worse

    def _told(self, key: str) -> str:
        """A setting; recipe and architecture by the names that they went by."""
        value = self._written.get(key) if key in ("recipe", "model") else self.settings.get(key)
        return "" if value is None else str(value)

    def load(self) -> Model:
        return load(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}): {self.status}"

    def _repr_html_(self) -> str:
        rows, metrics = self.rows(), self.metrics
        names = ["loss", *(f"val/{key}" for key in list(metrics)[:1])]
        curves = [notebook.curve(name, [(r["step"], r[name]) for r in rows if name in r]) for name in names]
        whole = self.origins.get("model")  # of the architecture its name says the rest
        why = {k: o.removeprefix("chosen: ") for k, o in self.origins.items() if o.startswith("chosen: ")}
        why = {k: o for k, o in why.items() if not (k.startswith("model.") and self.origins[k] == whole)}
        chosen = {k: f"{self._told(k)} ({o})" for k, o in why.items()}
        given = {k: self._told(k) for k, o in self.origins.items() if o == "given"}
        return notebook.card(
            str(self.folder),
            self.status,
            *curves,
            notebook.rows({key: f"{value:.4g}" for key, value in metrics.items()}),
            notebook.folded("given", given),
            notebook.folded("chosen by the program", chosen),
        )
