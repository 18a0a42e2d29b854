"""Sinks: where rows go beside log.jsonl (TensorBoard, Weights & Biases, trackio), each in a process of its own.

Such a package brings threads, signal handlers, exit hooks and a network. In another process none of them can stop,
delay or outlive the training, whatever they do, and the workers that are forked here inherit none of their locks.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import BadInput, readable

SinkName = Literal["tensorboard", "wandb", "trackio"]
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
PROGRAM = Path(__file__).with_name("sink_process.py")
CLOSING = 10.0  # seconds that all sinks together may take to close
WITHOUT = "the run goes on without it, and log.jsonl has every row"
OWED = 1 << 18  # bytes that may wait for a sink, beside its pipe and the rows that its process has taken


def refuse_missing(names: Sequence[str]) -> None:
    """Said before anything is written. Nothing is imported: that may take seconds, or phone home."""
    for name in names:
        found = importlib.util.find_spec(PACKAGES[name])
        if found is None or found.origin is None:  # without an origin it is a folder of that name, such as ./wandb
            raise BadInput(f"train.sinks names {name}, which is not installed; pip install 'tessella[{name}]'")


class Sinks:
    """Those of a run. Each method returns at once, but `close`; what they return is to be told, a line each."""

    def __init__(self, commands: dict[str, list[str]], folder: Path, step: int) -> None:
        self._all: list[_Outside] = []
        self._told: list[str] = []
        for name, command in commands.items():
            try:
                self._all.append(_Outside(name, command))
            except OSError as error:  # no memory, no process left
                self._told.append(f"{name}: it cannot be started ({error.strerror}); {WITHOUT}")
        self._told += self._send({"folder": str(folder.resolve()), "step": step})

    def row(self, row: dict[str, Any]) -> list[str]:
        return self._send({"row": row})

    def note(self, text: str) -> list[str]:
        return self._send({"note": text})

    def close(self, done: bool, patience: float = CLOSING) -> list[str]:
        """`done`: the training came to its end. After so many seconds whoever has not closed is killed."""
        told = self._send({"done": done})
        until = time.monotonic() + patience
        return told + [line for sink in self._all for line in sink.close(until)]

    def _send(self, message: dict[str, Any]) -> list[str]:
        line = json.dumps(message).encode() + b"\n"
        before, self._told = self._told, []
        return before + [told for sink in self._all for told in sink.send(line)]


def open_sinks(names: Sequence[str], folder: Path, step: int) -> Sinks:
    python = [sys.executable, "-P"]  # -P: the files beside the program shadow no module of others
    return Sinks({name: [*python, str(PROGRAM), name] for name in names}, folder, step)


class _Outside:
    """The process of one sink. It leads a session: what is meant for the training, as Ctrl-C, does not reach it."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._owed = b""
        self._heard = b""
        self._last_word = ""  # why it ended, if it said so
        self._lost = False
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def send(self, line: bytes) -> list[str]:
        if self._lost:
            return []
        self._owed += line
        try:
            self._push()
        except BrokenPipeError:
            return self._drop("has ended")
        told = self._listen()
        if self._last_word or len(self._owed) > OWED:
            return told + self._drop("takes no rows any more")
        return told

    def close(self, until: float) -> list[str]:
        """It has been told that this is the end, and closes by itself once it has read so far."""
        if self._lost:
            return []
        assert self._process.stdin is not None
        try:
            while self._owed and time.monotonic() < until:
                self._push()
                time.sleep(0.01)
            code = self._process.wait(max(0.0, until - time.monotonic()))
        except BrokenPipeError:
            return self._drop("has ended")
        except subprocess.TimeoutExpired:
            return self._drop("did not close in time")
        finally:
            self._process.stdin.close()
        told = self._listen()
        if code:
            return told + self._drop(f"ended with {code}")
        self._end()
        return told

    def _push(self) -> None:
        try:
            while self._owed:
                self._owed = self._owed[os.write(self._to, self._owed) :]
        except BlockingIOError:
            return  # it is busy; the rest waits

    def _listen(self) -> list[str]:
        """What it has said, in lines; no more at a time than a pipe holds, however much that is."""
        try:
            self._heard += os.read(self._from, 1 << 16)
        except BlockingIOError:
            return []
        *whole, self._heard = self._heard.split(b"\n")
        lines = [f"{self.name}: {readable(line[1:].decode(errors='replace'))[:500]}" for line in whole]
        self._last_word = next((told for told, line in zip(lines, whole, strict=True) if line[:1] == b"!"), "")
        return [told for told, line in zip(lines, whole, strict=True) if line[:1] != b"!"]

    def _drop(self, why: str) -> list[str]:
        """No more rows for it, and nothing is left of it; the training goes on."""
        self._lost = True
        told = [] if self._last_word else self._listen()
        self._end()
        return [*told, f"{self._last_word or f'{self.name}: it {why}'}; {WITHOUT}"]

    def _end(self) -> None:
        """With what it started; where nobody is left of its group there is none of that number."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
