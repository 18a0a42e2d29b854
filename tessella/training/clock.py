"""Pictures a second and the share of time spent waiting for data. Monotonic: a clock that jumps changes nothing."""

from __future__ import annotations

from typing import Protocol


class Feed(Protocol):
    """Whoever brings the batches, as the trainer sees it: what it counts goes to the log, what it says to the user."""

    def figures(self) -> dict[str, float]: ...
    def remarks(self, waiting: float) -> list[str]: ...  # `waiting`: share of the time since the last call


class Clock:
    """Adds up steps until it is read, then starts afresh."""

    def __init__(self) -> None:
        self.working = self.waiting = self.samples = 0.0  # seconds, seconds, samples of all ranks
        self.steps = 0

    def add(self, working: float, waiting: float, samples: float) -> None:
        self.working += working
        self.waiting += waiting
        self.samples += samples
        self.steps += 1

    def read(self, left: int) -> dict[str, float]:
        """`left`: steps still to do, for the time that they will take."""
        seconds, steps = max(self.working + self.waiting, 1e-9), max(self.steps, 1)
        out = {"images/s": self.samples / seconds, "waiting": self.waiting / seconds, "eta": left * seconds / steps}
        self.working = self.waiting = self.samples = 0.0
        self.steps = 0
        return out
