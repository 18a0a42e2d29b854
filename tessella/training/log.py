"""What a run says while it runs: one JSON line a row, always; a bar on a terminal, plain lines elsewhere; and sinks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import parallel
from ..durable import write_file
from .sinks import Sinks, open_sinks

Row = dict[str, Any]


class Log:
    """Rows go to `folder/log.jsonl`. On resuming, rows of steps that will be run again are dropped first."""

    def __init__(self, folder: Path | None, steps: int, quiet: bool = False, sinks: Sequence[str] = ()):
        self.path = folder / "log.jsonl" if folder is not None and parallel.is_main() else None
        self.steps = steps
        self.names = sinks
        self.sinks: Sinks | None = None
        self.shown = parallel.is_main() and not quiet
        self.file: Any = None
        self.bar: Any = None
        self.task: Any = None
        self.said = 0.0  # monotonic seconds of the last plain line

    def start(self, step: int) -> Log:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                kept = [line for line in self.path.read_text().splitlines() if _before(line, step)]
                write_file(self.path, "".join(line + "\n" for line in kept))
            self.file = open(self.path, "a", encoding="utf-8")  # closed in __exit__
            if self.names:
                self.sinks = open_sinks(self.names, self.path.parent, step)
        if self.shown and sys.stderr.isatty():
            self.bar = _bar()
            self.bar.start()
            self.task = self.bar.add_task("train", total=self.steps, completed=step, told="")
        return self

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        if self.file is not None:
            self.file.close()
        if self.sinks is not None and kind is not KeyboardInterrupt:  # who wants to leave at once waits for nobody
            self._tell(self.sinks.close(done=kind is None))

    def row(self, row: Row) -> None:
        """A row of figures at a step."""
        if self.file is not None:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        if self.sinks is not None:
            self._tell(self.sinks.row(row))
        result, told = any(key.startswith("val/") for key in row), _told(row)
        if self.bar is not None:
            self.bar.update(self.task, told=told)
        elif self.shown and (time.monotonic() - self.said > 10 or result):
            self.said = time.monotonic()
            print(f"step {row['step'] + 1}/{self.steps} · {told}", file=sys.stderr, flush=True)

    def advance(self, step: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=step + 1)

    def note(self, text: str) -> None:
        """A sentence for the person who watches."""
        self._tell([text])
        if self.sinks is not None:
            self._tell(self.sinks.note(text))

    def _tell(self, lines: Sequence[str]) -> None:
        for line in lines if self.shown else ():
            print(line, file=sys.stderr, flush=True) if self.bar is None else self.bar.console.print(line, markup=False)


_TOLD = ("loss", "lr", "images/s", "waiting", "eta")
MOST = 7  # figures of an evaluation on the console; several heads have dozens


def _told(row: Row) -> str:
    """loss 1.2 · lr 0.001 · ..., or val top1 0.9 · top5 1 · ... for the figures of an evaluation."""
    found = [f"{key.removeprefix('val/')} {_short(v)}" for key, v in row.items() if key.startswith("val/")]
    if found:
        return "val " + " · ".join(found[:MOST] + ["..."] * (len(found) > MOST))
    return " · ".join(f"{key} {_short(row[key])}" for key in row if key in _TOLD)


def _before(line: str, step: int) -> bool:
    """A line that a crash cut in half is dropped as well."""
    try:
        return bool(json.loads(line)["step"] < step)
    except (ValueError, KeyError, TypeError):
        return False


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}", markup=False),
        console=Console(stderr=True),
    )
