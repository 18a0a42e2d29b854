"""A file as it was when it was indexed: read at any offset, from any process; a file that changed meanwhile is refused.

An index that outlives its file would hand out other bytes under the old names, so every read compares size and time.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Protocol

from ...errors import BadInput

MOST_OPEN = 128  # files that a process keeps open; a system's own limit may be 256


class Place(Protocol):
    """Bytes that can be read from anywhere: a file, a file that is fetched first, an unpacked archive in memory."""

    @property
    def name(self) -> str: ...  # for messages
    @property
    def size(self) -> int: ...  # bytes
    def pread(self, count: int, offset: int) -> bytes: ...  # all that were asked for, or BadInput


class Handle:
    """An open file that is closed when nobody reads it any more, so that evicting one is safe beside other threads."""

    def __init__(self, path: str) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


@dataclass(frozen=True)
class Pinned:
    """One file on a disk of ours."""

    name: str  # as it was given
    path: str  # absolute: a process may go elsewhere
    size: int  # bytes
    changed: int  # ns

    @classmethod
    def of(cls, path: str) -> Pinned:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise BadInput(f"{path} cannot be opened ({error.strerror}); check the path") from None
        return cls(path, os.path.abspath(path), stat.st_size, stat.st_mtime_ns)

    def check(self) -> None:
        """BadInput when another file lies there by now; for those who open it by its path."""
        try:
            stat = os.stat(self.path)
        except OSError as error:
            raise BadInput(f"{self.name} cannot be read ({error.strerror}); restore it") from None
        if (stat.st_size, stat.st_mtime_ns) != (self.size, self.changed):
            raise BadInput(f"{self.name} changed on disk after it was opened; start again to read it anew")

    def pread(self, count: int, offset: int) -> bytes:
        try:
            return read_whole(self._handle().number, count, offset, self.name)
        except OSError as error:
            raise BadInput(f"{self.name} cannot be read ({error.strerror}); restore it") from None

    def _handle(self) -> Handle:
        for _ in range(2):  # what is open may be a file that lay there before this one
            handle = _opened(self.path)
            stat = os.fstat(handle.number)
            if (stat.st_size, stat.st_mtime_ns) == (self.size, self.changed):
                return handle
            _OPEN.pop(self.path, None)
        raise BadInput(f"{self.name} changed on disk after it was opened; start again to read it anew")


def read_whole(number: int, count: int, offset: int, name: str) -> bytes:
    """`count` bytes, in as many calls as the system needs."""
    data = os.pread(number, count, offset)
    while len(data) < count:
        more = os.pread(number, count - len(data), offset + len(data))
        if not more:
            raise BadInput(f"{name} ends at byte {offset + len(data):,}, before its contents do; copy it again")
        data += more
    return data


# One dict per process. What a fork inherits stays right: pread neither uses nor moves the position that both share.
# No lock, which a fork could inherit locked: a race between two threads costs a second handle and nothing else.
_OPEN: dict[str, Handle] = {}


def _opened(path: str) -> Handle:
    handle = _OPEN.pop(path, None) or Handle(path)
    _OPEN[path] = handle  # the last one used is the last one closed
    while len(_OPEN) > MOST_OPEN:
        with contextlib.suppress(StopIteration, RuntimeError):  # another thread was at it
            _OPEN.pop(next(iter(_OPEN)), None)
    return handle


def forget(path: str) -> None:
    """Closes the file, when its last reader is done."""
    _OPEN.pop(os.path.abspath(path), None)
