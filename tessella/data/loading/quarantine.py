"""Pictures that cannot be read: each is written down once, with the reason, and too many of them stop the run.

Nothing takes the place of such a picture: it leaves a hole in the batch, so the order of all others stays what it was.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import BadInput, readable

NAMED = 3  # files told by name; the list has them all


class Bad(NamedTuple):
    """A sample that could not be read."""

    id: str
    reason: str
    deadly: bool = False  # decoding it ends the process: it is not tried again


def tell(text: str) -> None:
    """One line for the person who watches."""
    print(readable(text), file=sys.stderr, flush=True)


class Quarantine:
    """The unreadable files of one part of the data. The list may be shared: by parts, ranks and resumed runs.

    Files are tried again in every epoch, so that what a run learns depends on the files and on nothing else. Those that
    kill whoever decodes them are not: taking their line out of the list gives them another chance.
    """

    def __init__(self, path: Path | None, total: int, max_bad: float = 0.01, split: str = "train") -> None:
        self.path, self.total, self.max_bad, self.split = path, total, max_bad, split
        self.reasons: dict[str, str] = {}  # id -> why, in the order of finding
        self.deadly: dict[str, str] = {}  # those of them that are not tried again
        self._read = 0  # bytes of the list that were read
        self._owed = b""  # lines that found no room on the disk
        self.refresh()

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, bad: Bad) -> None:
        """Raises BadInput when that is one too many."""
        if not self._take(bad):
            return
        line = {"split": self.split, "id": bad.id, "reason": bad.reason} | ({"deadly": True} if bad.deadly else {})
        self._append(json.dumps(line).encode() + b"\n")  # ASCII: names that are no UTF-8 stay whole
        self.check()  # first: what ends the run is one line
        if len(self) <= NAMED:
            tell(f"quarantined ({self.split}): {_named(bad.id, bad.reason)}")

    def refresh(self) -> None:
        """Takes in what others have written, which counts here as well."""
        if self.path is None or not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self._read)
            held = file.read()
        whole = held[: held.rfind(b"\n") + 1]  # the rest is being written, or was cut off by a crash
        self._read += len(whole)
        for line in whole.splitlines():
            found = _record(line)
            if found.get("split") == self.split and isinstance(found.get("id"), str):
                self._take(Bad(found["id"], str(found.get("reason", "")), found.get("deadly") is True))

    def check(self) -> None:
        """BadInput above `max_bad`."""
        if len(self) <= self.max_bad * self.total:
            return
        allowed = math.ceil(1000 * len(self) / max(self.total, 1)) / 1000
        named = "; ".join(_named(name, why) for name, why in list(self.reasons.items())[:NAMED])
        more = f"; and {len(self) - NAMED:,} more" if len(self) > NAMED else ""
        where = f"; all of them are in {self.path}" if self.path is not None else ""
        raise BadInput(
            f"{len(self):,} of {self.total:,} {self.split} pictures cannot be read, above --max-bad {self.max_bad:g}: "
            f"{named}{more}{where}; mend or remove them, or allow them with --max-bad {allowed:g}"
        )

    def __str__(self) -> str:
        return f"{len(self):,} of {self.total:,} {self.split} pictures cannot be read"

    def _take(self, bad: Bad) -> bool:
        """Whether it is new."""
        if bad.deadly:
            self.deadly.setdefault(bad.id, bad.reason)
        new = bad.id not in self.reasons
        self.reasons.setdefault(bad.id, bad.reason)
        return new

    def _append(self, line: bytes) -> None:
        """One write at the end of the file: lines of several processes never mix."""
        if self.path is None:
            return
        self._owed += line
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                end = os.lseek(handle, 0, os.SEEK_END)
                torn = end > 0 and os.pread(handle, 1, end - 1) != b"\n"  # by a crash
                os.write(handle, b"\n" * torn + self._owed)
            finally:
                os.close(handle)
            self._owed = b""
        except OSError as error:
            tell(f"{self.path} cannot be written ({error.strerror}); the run goes on, the list is written later")


def _record(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _named(name: str, reason: str) -> str:
    return reason if name in reason else f"{name}: {reason}"
