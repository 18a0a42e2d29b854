"""What a run says while it runs: one JSON line a row, always; a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import parallel
from ..durable import write_file

Row = dict[str, Any]


class Log:
    """Rows go to `folder/log.jsonl`. On resuming, rows of steps that will be run again are dropped first."""

    def __init__(self, folder: Path | None, steps: int, quiet: bool = False):
        self.path = folder / "log.jsonl" if folder is not None and parallel.is_main() else None
        self.steps = steps
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
        if self.file is not None:
            self.file.close()

    def row(self, row: Row) -> None:
        """A row of figures at a step."""
        if self.file is not None:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        told = " · ".join(f"{k} {_short(v)}" for k, v in row.items() if k in _TOLD or "/" in k)
        if self.bar is not None:
            self.bar.update(self.task, told=told)
        elif self.shown and (time.monotonic() - self.said > 10 or any("/" in k for k in row)):
            self.said = time.monotonic()
            print(f"step {row['step'] + 1}/{self.steps} · {told}", file=sys.stderr, flush=True)

    def advance(self, step: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=step + 1)

    def note(self, text: str) -> None:
        """A sentence for the person who watches."""
        if self.shown:
            print(text, file=sys.stderr, flush=True) if self.bar is None else self.bar.console.print(text, markup=False)


_TOLD = ("loss", "lr", "images/s", "waiting", "eta")


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
