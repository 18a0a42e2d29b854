"""Zip and tar archives read in place: an index of where each picture lies, then one read for each; nothing is unpacked.

What counts as a picture, what is hidden and what is said are the rules of folders. Zip after PKWARE's APPNOTE 6.3.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import re
import struct
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..names import Names
from ..pixels.decode import kind_of
from ..source import DataConfig, Reader
from .folder import OTHER, SUFFIXES
from .listing import Listing, by_path
from .pinned import Pinned, Place
from .tarindex import FILE, FOLDER, HARD, SOFT, Link, entries, follow, plain, text

MOST_UNPACKED = 2 << 30  # bytes of a compressed tar that memory is given for: it has no random access
LARGEST = 2 << 30  # bytes of one member: a picture is smaller, a bomb is not
HEAD = 512  # bytes that tell what a member is


def open_archive(address: str, cfg: DataConfig) -> Listing:
    """All pictures of a .zip, .tar, .tar.gz, ...: classes and parts by the paths inside."""
    place: Place = Pinned.of(address)
    head = place.pread(min(place.size, HEAD), 0)
    notes: list[str] = []
    if not head:
        raise BadInput(f"{address} is empty (0 bytes); fetch it again, or give another file")
    if head[:4] in (b"PK\3\4", b"PK\5\6") or (not _looks_like_tar(head) and _directory(place) is not None):
        return _open_zip(place)
    how = next((name for magic, name in PACKED if head.startswith(magic)), None)
    if how is not None:
        place = Unpacked.of(place, how)
        notes.append(f"{address} is compressed and held in memory unpacked: {place.size / 1e6:,.0f} MB")
    elif not _looks_like_tar(head):
        raise BadInput(f"{address} is {kind_of(head)}, neither zip nor tar; fetch it again, or give another file")
    return _open_tar(place, cfg, notes)


@dataclass
class Tally:
    """What was passed over or found odd among the members, by reason."""

    other: Counter[str] = field(default_factory=Counter)  # by suffix
    hidden: int = 0  # also __MACOSX/ and ._x
    sniffed: int = 0  # without a picture's suffix, used all the same
    outside: int = 0  # ../x
    twice: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)  # links to what is listed already
    loose: int = 0  # links to nothing here
    special: int = 0  # devices, pipes
    slashes: int = 0

    def notes(self) -> list[str]:
        kinds = ", ".join(f"{suffix or 'no suffix'} {n:,}" for suffix, n in self.other.most_common(5))
        told = [
            (self.other.total(), f"files without a picture's suffix left out ({kinds})"),
            (self.sniffed, "files without a picture's suffix hold pictures and are used"),
            (self.hidden, "hidden files (.name, __MACOSX) left out"),
            (self.outside, "files whose names lead out of the archive (../) left out"),
            (len(self.twice), f"names come twice: the last one counts ({', '.join(self.twice[:1])})"),
            (len(self.again), f"links to pictures that are listed already left out ({', '.join(self.again[:1])})"),
            (self.loose, "links to folders, or to nothing in the archive, left out"),
            (self.special, "devices and pipes left out"),
            (self.slashes, "names written with backslashes read as folders"),
        ]
        return [f"{n:,} {what}" for n, what in told if n]


def _odd(name: str) -> bool:
    return name.startswith((".", "/")) or "//" in name or "/." in name


@dataclass
class Found:
    """Files and links by name, as they are met; `row` is whatever number the reader knows a file by."""

    files: dict[str, int] = field(default_factory=dict)  # all of them, because links may lead to any
    links: dict[str, Link] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def add(self, raw: str, what: int | Link) -> None:
        name = plain(raw) if _odd(raw) else raw
        if not name:
            self.tally.outside += 1
            return
        if name in self.files or name in self.links:
            self.tally.twice.append(name)
            self.files.pop(name, None)
            self.links.pop(name, None)
        if isinstance(what, int):
            self.files[name] = what
        else:
            self.links[name] = what

    def pictures(self, head: Callable[[int], bytes]) -> tuple[list[str], list[int]]:
        """(names, rows), sorted by name as in a folder; a link counts where no other name stands for its picture."""
        chosen = {name: row for name, row in self.files.items() if self._shown(name, row, head)}
        names = {row: name for name, row in chosen.items()} if self.links else {}
        for name in sorted(self.links):
            target = follow(name, self.links, self.files)
            if target is None:
                self.tally.loose += 1
            elif (row := self.files[target]) in names:
                self.tally.again.append(f"{name} is {names[row]}")
            elif self._shown(name, row, head):
                chosen[name], names[row] = row, name
        order = sorted(chosen)
        return order, [chosen[name] for name in order]

    def _shown(self, name: str, row: int, head: Callable[[int], bytes]) -> bool:
        if name.startswith((".", "__MACOSX/")) or "/." in name:
            self.tally.hidden += 1
            return False
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            return True
        if suffix not in OTHER and kind_of(head(row)).endswith("picture"):
            self.tally.sniffed += 1
            return True
        self.tally.other[suffix] += 1
        return False


# ---------------------------------------------------------------- tar


@dataclass(frozen=True, eq=False)
class TarReader:
    """Members of a tar by where they start."""

    place: Place
    spans: NDArray[np.int64]  # (n, 2): start, size

    def read(self, row: int) -> bytes:
        start, size = self.spans[row].tolist()
        return self.place.pread(size, start)

    def head(self, row: int) -> bytes:
        start, size = self.spans[row].tolist()
        return self.place.pread(min(size, HEAD), start)


def _open_tar(place: Place, cfg: DataConfig, notes: list[str]) -> Listing:
    found = Found()
    spans = array("q")
    for entry in entries(place, notes):
        name = text(entry.name)
        if entry.kind == FILE:
            found.add(name, len(spans) // 2)
            spans.extend((entry.start, entry.size))
        elif entry.kind in (HARD, SOFT):
            found.add(name, Link(text(entry.link), entry.kind == HARD))
        elif entry.kind != FOLDER:
            found.tally.special += 1
    if any(name.endswith(".cls") for name in found.files):
        from .shards import open_shards  # shards are tars, and read them with this file's parts

        return open_shards(place.name, cfg)
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    order, rows = found.pictures(TarReader(place, table).head)
    notes += found.tally.notes()
    del found, spans  # a million of each
    return _listing(place, TarReader(place, table[rows]), order, table[rows, 1], notes)


def _listing(place: Place, reader: Reader, order: list[str], sizes: NDArray[np.int64], notes: list[str]) -> Listing:
    places = by_path(order)
    return Listing(where=place.name, reader=reader, ids=Names.of(order), sizes=sizes, notes=notes, **places._asdict())


def _looks_like_tar(head: bytes) -> bool:
    if len(head) < HEAD:
        return False
    digits = head[148:156].split(b"\0", 1)[0].strip()
    return head[257:262] == b"ustar" or (digits.isdigit() and not head[345:].strip(b"\0")) or not any(head)


# ---------------------------------------------------------------- compressed tar


def _zstd(file: IO[bytes]) -> Any:
    if sys.version_info < (3, 14):
        raise BadInput("a tar compressed with zstd needs Python 3.14; unpack it with `zstd -d`")
    return importlib.import_module("compression.zstd").open(file)


PACKED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gz"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
)
OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "zst": _zstd}
BROKEN = (EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)  # what the decompressors raise


class Unpacked:
    """A compressed tar in memory. Forked workers share it; a process that was not forked unpacks it for itself."""

    def __init__(self, origin: Place, how: str, data: bytes) -> None:
        self.origin, self.how, self._data = origin, how, data
        self.name, self.size = origin.name, len(data)

    @classmethod
    def of(cls, origin: Place, how: str) -> Unpacked:
        return cls(origin, how, _unpack(origin, how))

    def __reduce__(self) -> tuple[Any, ...]:
        return Unpacked.of, (self.origin, self.how)

    def pread(self, count: int, offset: int) -> bytes:
        return self._data[offset : offset + count]


def _unpack(origin: Place, how: str) -> bytes:
    out = bytearray()
    try:
        with OPENERS[how](io.BufferedReader(_Stream(origin), 1 << 20)) as file:
            while piece := file.read(1 << 20):
                out += piece
                if len(out) > MOST_UNPACKED:
                    raise BadInput(
                        f"{origin.name} unpacks to more than {MOST_UNPACKED / 2**30:,.0f} GiB, and what is compressed "
                        "whole can only be read from its start; repack it as .tar or .zip"
                    )
    except BROKEN as error:
        raise BadInput(f"{origin.name} cannot be unpacked ({error}); fetch or make it again") from None
    return bytes(out)


class _Stream(io.RawIOBase):
    """A place as the file object that decompressors ask for."""

    def __init__(self, place: Place) -> None:
        self.place, self.at = place, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.place.pread(min(len(buffer), self.place.size - self.at), self.at)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


# ---------------------------------------------------------------- zip

END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
CENTRAL = struct.Struct("<4s4B4H3L5H2L")
LOCAL = struct.Struct("<4s2B4HL2L2H")
FULL32, FULL16 = 0xFFFFFFFF, 0xFFFF
STORED, DEFLATED, ENCRYPTED = 0, 8, -1
UNIX = 3  # the system that made an entry
TOO_LARGE = -2
NAMES = {ENCRYPTED: "encrypted", TOO_LARGE: f"more than {LARGEST:,} bytes", 9: "packed with Deflate64"} | {
    number: f"packed with {name}" for number, name in ((12, "bzip2"), (14, "LZMA"), (93, "Zstandard"), (95, "xz"))
}


@dataclass(frozen=True, eq=False)
class ZipReader:
    """Members of a zip; the checksum of each is compared."""

    place: Place
    names: Names
    table: NDArray[np.int64]  # (n, 6): local header, packed size, size, CRC, method, CRC of the name

    def read(self, row: int) -> bytes:
        start, packed, size, crc, method, _ = self.table[row].tolist()
        data = self._packed(row, start, packed)
        data = self._plain(row, data, size, method)
        if len(data) != size or zlib.crc32(data) != crc:
            raise self._damaged(row, "its checksum is wrong")
        return data

    def head(self, row: int) -> bytes:
        """The first bytes of a member."""
        start, packed, size, _, method, _ = self.table[row].tolist()
        if method not in (STORED, DEFLATED):
            return b""
        return self._plain(row, self._packed(row, start, min(packed, 4 * HEAD)), min(size, HEAD), method)

    def _packed(self, row: int, start: int, count: int) -> bytes:
        size = self.place.size
        guess = LOCAL.size + 4 * len(self.names[row]) + 64  # fields beside the name
        data = self.place.pread(max(0, min(guess + count, size - start)), start)
        if len(data) < LOCAL.size or data[:4] != b"PK\3\4":
            raise self._damaged(row, "its header is not where the directory says")
        *_, name, extra = LOCAL.unpack_from(data)
        skip = LOCAL.size + name + extra
        if len(data) < min(LOCAL.size + name, size - start):
            data = self.place.pread(min(skip + count, size - start), start)
        if zlib.crc32(data[LOCAL.size : LOCAL.size + name]) != self.table[row, 5]:
            raise self._damaged(row, "it has another name in the directory")
        if start + skip + count > size:
            raise self._damaged(row, "it goes on behind the end of the file")
        have = data[skip : skip + count]
        return have if len(have) == count else have + self.place.pread(count - len(have), start + skip + len(have))

    def _plain(self, row: int, data: bytes, size: int, method: int) -> bytes:
        """At most `size` bytes, whatever the member would grow to."""
        if method == STORED:
            return data[:size]
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(size, 1))
        except zlib.error as error:
            raise self._damaged(row, str(error)) from None

    def _damaged(self, row: int, why: str) -> BadInput:
        return BadInput(f"{self.names[row]} in {self.place.name} is damaged ({why}); fetch or make the archive again")


class _Directory(NamedTuple):
    start: int  # of the first entry
    size: int  # bytes of all
    entries: int
    shift: int  # bytes before the archive: the program of a self-extracting one


def _directory(place: Place) -> _Directory | None:
    """Where the end of the file says that the directory lies; None: it says nothing."""
    tail = place.pread(min(place.size, END.size + FULL16), max(0, place.size - END.size - FULL16))
    ends = [found.start() for found in re.finditer(rb"PK\x05\x06", tail) if found.start() + END.size <= len(tail)]
    if not ends:
        return None
    exact = [at for at in ends if at + END.size + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail)]
    at = (exact or ends)[-1]  # the comment behind it, which may hold anything, goes on to the end of the file
    _, disk, first_disk, _, count, size, offset, _ = END.unpack_from(tail, at)
    end = place.size - len(tail) + at
    if at >= LOCATOR.size and tail[at - LOCATOR.size :].startswith(b"PK\6\7"):
        _, _, where, _ = LOCATOR.unpack_from(tail, at - LOCATOR.size)
        where = min(where, place.size)
        for start in (where, end - LOCATOR.size - END64.size):  # where it says, or just before: behind a program
            record = place.pread(max(0, min(END64.size, place.size - start)), start) if start >= 0 else b""
            if len(record) == END64.size and record.startswith(b"PK\6\6"):
                _, _, _, _, disk, first_disk, _, count, size, offset = END64.unpack(record)
                end = start
                break
    if disk or first_disk:
        raise BadInput(f"{place.name} is one part of a split zip; join the parts with `zip -s 0 PARTS --out WHOLE.zip`")
    shift = end - size - offset
    if shift < 0:
        raise _no_directory(place)
    return _Directory(offset + shift, size, count, shift)


def _no_directory(place: Place) -> BadInput:
    return BadInput(f"{place.name} has no whole directory at its end: it is cut off or damaged; fetch or make it again")


def _members(place: Place, tally: Tally) -> tuple[list[str], NDArray[np.int64], set[int]]:
    """Names and the reader's table of all entries of the central directory but folders; and which are links."""
    found = _directory(place)
    if found is None:
        raise _no_directory(place)
    data = place.pread(found.size, found.start)
    at = 0
    names: list[str] = []
    table = array("q")
    links: set[int] = set()
    for _ in range(found.entries):
        if data[at : at + 4] != b"PK\1\2" or at + CENTRAL.size > len(data):
            raise _no_directory(place)
        _, _, system, _, _, flags, method, _, _, crc, packed, size, n, extra, comment, disk, _, mode, start = (
            CENTRAL.unpack_from(data, at)
        )
        raw = data[at + CENTRAL.size : at + CENTRAL.size + n]
        fields = data[at + CENTRAL.size + n : at + CENTRAL.size + n + extra]
        at += CENTRAL.size + n + extra + comment
        if FULL32 in (packed, size, start):
            size, packed, start = _wide(fields, size, packed, start)
        start += found.shift
        if start + LOCAL.size + packed > found.start or disk not in (0, FULL16) or at > len(data) or size >> 62:
            raise _no_directory(place)
        name = _name(raw, flags)
        if system == 0 and "\\" in name and "/" not in name:
            name = name.replace("\\", "/")
            tally.slashes += 1
        if name.endswith("/"):
            continue
        method = ENCRYPTED if flags & 1 else method
        if system == UNIX and (mode >> 16) & 0o170000 == 0o120000:
            links.add(len(names))
        names.append(name)
        table.extend((start, packed, size, crc, method, zlib.crc32(raw)))
    if at != len(data):
        raise _no_directory(place)
    return names, np.array(table, dtype=np.int64).reshape(-1, 6), links


def _wide(fields: bytes, *values: int) -> list[int]:
    """Sizes and offsets that need more than 32 bits stand in an extra field, in this order, where they are needed."""
    at = 0
    while at + 4 <= len(fields):
        kind, length = struct.unpack_from("<2H", fields, at)
        if kind == 1:
            wide = iter([fields[i : i + 8] for i in range(at + 4, at + 4 + length, 8)])
            return [int.from_bytes(next(wide, b""), "little") if value == FULL32 else value for value in values]
        at += 4 + length
    return list(values)  # a size that really is 2**32 - 1


def _name(raw: bytes, flags: int) -> str:
    """UTF-8 by its flag, or because it is: macOS forgets the flag. Else as the first zip wrote it, in code page 437."""
    if flags & 0x800:
        return text(raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _open_zip(place: Place) -> Listing:
    found = Found()
    names, rows, links = _members(place, found.tally)
    reader = ZipReader(place, Names.of(names), rows)
    for row, name in enumerate(names):
        found.add(name, Link(text(reader.read(row)), False) if row in links else row)
    order, chosen = found.pictures(reader.head)
    notes = found.tally.notes()
    del found, names, reader  # a million of each
    rows = rows[chosen]
    _refuse(place, order, rows)
    return _listing(place, ZipReader(place, Names.of(order), rows), order, rows[:, 2], notes)


def _refuse(place: Place, names: list[str], table: NDArray[np.int64]) -> None:
    """What cannot be read is not left out: the archive is to be made again."""
    methods = np.where(table[:, 2] > LARGEST, TOO_LARGE, table[:, 4])
    for method in np.setdiff1d(methods, (STORED, DEFLATED)).tolist():
        which = np.flatnonzero(methods == method)
        told = NAMES.get(method, f"packed with method {method}")
        others = f" and {len(which) - 1:,} more" if len(which) > 1 else ""
        raise BadInput(f"{names[which[0]]}{others} in {place.name}: {told}; make a plain zip of them, with deflate")
