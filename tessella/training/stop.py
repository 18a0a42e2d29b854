"""SIGTERM and Ctrl-C ask a run to finish its step, save and leave; a second Ctrl-C leaves at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from ..errors import Stopped

AGAIN = 1.0  # seconds after which Ctrl-C counts as a second one: torchrun passes on the first, which came here as well
WAIT = b"\nstopping after this step; Ctrl-C again leaves at once, without saving\n"


class StopSignal:
    """`with StopSignal() as stop: ... if stop.asked`. Outside the main thread signals cannot be caught: never asked."""

    def __init__(self) -> None:
        self.asked = False
        self._number: int = signal.SIGTERM  # what asked; on a rank that only heard it from another, this
        self._since = 0.0  # monotonic seconds of the first Ctrl-C
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._ask)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under nohup, or behind `&` of a script
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def stopped(self, step: int, folder: Path | None) -> Stopped:
        """What ends the run, once it is saved."""
        how = "nothing was kept" if folder is None else f"the state is saved, go on with --resume {folder}"
        error = Stopped(f"stopped after step {step}; {how}")
        error.exit_code = 128 + self._number
        return error

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked, self._number = True, number

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since and now - self._since > AGAIN:
            raise KeyboardInterrupt
        if not self._since:
            self._since = now
            self._ask(number, frame)
            if os.environ.get("RANK", "0") == "0":
                os.write(2, WAIT)  # not by sys.stderr, which this may have interrupted

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
