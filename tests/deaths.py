"""Processes that die, or find the disk full, at a chosen file operation: each place where a writer can be cut off."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tessella import durable

OPERATIONS = ("open", "write", "fsync", "close", "rename", "replace", "link", "symlink", "unlink", "remove", "mkdir")
OPERATIONS += ("rmdir", "truncate", "ftruncate", "chmod", "utime")
AUDITED = {"os.rename": "rename", "os.remove": "unlink", "os.mkdir": "mkdir", "os.rmdir": "rmdir", "os.link": "link"}
Strike = Callable[[str, tuple[Any, ...], Callable[..., Any]], None]


def intercept(strike: Strike) -> None:
    """From now on `strike(name, arguments, function)` comes before each file operation of this process."""

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            strike(name, args, function)
            return function(*args, **kwargs)

        return call

    for name in OPERATIONS:
        setattr(os, name, wrapped(name, getattr(os, name)))
    durable._exchange = wrapped("exchange", durable._exchange)  # type: ignore[assignment]


def in_a_child(act: Callable[[], None], strike: Strike | None = None) -> int:
    """Runs `act` in a fork of this process; 0 when it came to its end, minus the signal that killed it otherwise."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            if strike is not None:
                intercept(strike)
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number: int) -> Strike:
    """SIGKILL in place of operation `number`; a write gets half of its bytes out first."""
    count = 0

    def strike(name: str, args: tuple[Any, ...], function: Callable[..., Any]) -> None:
        nonlocal count
        count += 1
        if count == number:
            if name == "write":
                function(args[0], bytes(args[1])[: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    return strike


def at_every_operation(
    prepare: Callable[[int], Path], act: Callable[[Path], None], check: Callable[[Path], None]
) -> int:
    """Kills `act(folder)` at its first, second, ... last file operation, and checks the folder each time; how often.

    Nothing waits for the disk meanwhile: what a process wrote outlives it without; only a power cut needs the sync.
    """
    sync = os.fsync
    os.fsync = lambda handle: None
    try:
        for number in itertools.count(1):
            folder = prepare(number)
            code = in_a_child(lambda place=folder: act(place), killed_at(number))  # type: ignore[misc]
            assert code in (0, -signal.SIGKILL), f"the writer failed by itself at operation {number}"
            check(folder)
            shutil.rmtree(folder)
            if code == 0:
                break
    finally:
        os.fsync = sync
    assert number > 15, "a writer with so few operations was not seen"
    return number


def folders_written(act: Callable[[], None], record: Path) -> set[str]:
    """The folders in which a child running `act` made, renamed or wrote anything, by the interpreter's own audit."""

    def watched() -> None:
        out = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def hook(event: str, args: tuple[Any, ...]) -> None:
            writing = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (writing or event in AUDITED) and isinstance(args[0], (str, os.PathLike)):
                os.write(out, os.path.dirname(os.path.realpath(args[0])).encode() + b"\n")

        sys.addaudithook(hook)
        act()

    assert in_a_child(watched) == 0
    return set(record.read_text().splitlines())


def counted(act: Callable[[], None], record: Path) -> tuple[int, int]:
    """How many changes of the file system the wrapper saw, and how many the interpreter's audit saw, in one run."""
    names = {"rename": 0, "unlink": 0, "mkdir": 0, "rmdir": 0, "link": 0}
    seen, audited = dict(names), dict(names)

    def strike(name: str, args: tuple[Any, ...], function: Callable[..., Any]) -> None:
        if name in seen:
            seen[name] += 1

    def watched() -> None:
        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event in AUDITED:
                audited[AUDITED[event]] += 1

        sys.addaudithook(hook)
        act()
        record.write_text(f"{sum(seen.values())} {sum(audited.values())}")

    assert in_a_child(watched, strike) == 0
    one, other = record.read_text().split()
    return int(one), int(other)
