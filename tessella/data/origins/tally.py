"""What was found wrong in annotations: how often each thing, and where first. Nothing is left out without a count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Filled while a data set is read; its notes are what the user is told."""

    count: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, where: Any, n: int = 1) -> None:
        self.count[what] = self.count.get(what, 0) + n
        self.first.setdefault(what, str(where))

    def notes(self, where: str = "") -> list[str]:
        before = f"{where}: " if where else ""
        return [f"{before}{n:,} {what} (first: {self.first[what]})" for what, n in self.count.items()]
