"""A full disk costs nothing that is there: a run goes on unsaved, and stops when it could not save three times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import parallel
from ..errors import DiskFull
from . import distributed

MOST = 3  # saves in a row that found no room


class Room:
    def __init__(self) -> None:
        self.missed = 0  # saves in a row

    def save(self, write: Callable[[], Any], step: int, last: bool) -> str:
        """Empty if written, else what to tell; DiskFull where there will be no other save. The same on all ranks."""

        def attempt() -> str:
            try:
                write()
            except DiskFull as error:
                return str(error)
            return ""

        problem = str(parallel.gather_objects(distributed.on_every_rank(attempt))[0])
        self.missed = self.missed + 1 if problem else 0
        if self.missed == MOST or (problem and last):
            raise DiskFull(f"{problem}; the last whole state is kept, make room and go on with --resume")
        return f"step {step} is not saved: {problem}; trying again at the next save" if problem else ""
