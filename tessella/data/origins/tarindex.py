"""Where the members of a tar lie, from its headers alone: formats v7, ustar, GNU and pax, as POSIX.1-2001 and GNU tar
write them. Python's tarfile needs a hundred microseconds a member and ends in silence at the first damaged header.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import NamedTuple

from ...errors import BadInput
from .pinned import Place

BLOCK = 512
ZEROS = bytes(BLOCK)
NEAR, FAR = 1 << 16, 1 << 12  # bytes read at once: many small members, or a label and headers between large ones
SMALL = 1 << 14  # a member below this many bytes makes the next ones likely to be small
LONGEST = 1 << 20  # bytes of a member's name or extended header; more is damage
FILE, FOLDER, HARD, SOFT, OTHER = range(5)
KINDS = {0: FILE, ord("0"): FILE, ord("7"): FILE, ord("1"): HARD, ord("2"): SOFT, ord("5"): FOLDER}
WITHOUT_DATA = frozenset(b"123456")  # whatever size they state
LINKS = 40  # steps from link to link; more go in circles


class Entry(NamedTuple):
    name: bytes
    kind: int
    start: int  # of its bytes
    size: int
    link: bytes  # where a link leads


class Window:
    """The bytes of a place through a buffer that fits how far the next header is."""

    def __init__(self, place: Place) -> None:
        self.place, self.base, self.data, self.ahead = place, 0, b"", NEAR

    def read(self, at: int, count: int) -> bytes:
        """Fewer than `count` bytes at the end of the file."""
        start = at - self.base
        if start < 0 or start + count > len(self.data):
            wanted = max(count, self.ahead)
            self.base, self.data = at, self.place.pread(max(0, min(wanted, self.place.size - at)), at)
            start = 0
        return self.data[start : start + count]


def entries(place: Place, notes: list[str], window: Window | None = None) -> Iterator[Entry]:
    """All members in order; a damaged or shortened archive is an error, whatever else is odd a note."""
    window = window or Window(place)
    at = 0
    common: dict[bytes, bytes] = {}  # of all members that follow
    own: dict[bytes, bytes] = {}  # of the next one
    while block := window.read(at, BLOCK):
        if block == ZEROS:
            if _more(place, at):
                notes.append(f"{place.name}: what follows its end mark at byte {at:,} is not read (a tar appended?)")
            return
        if len(block) < BLOCK:
            raise _short(place, at)
        kind, size = _checked(block, place, at)
        start = at + BLOCK
        if kind in b"LKxXg":
            if size > LONGEST or start + size > place.size:
                raise _damaged(place, at)
            data = window.read(start, size)
            if kind in b"LK":
                own[b"path" if kind == ord("L") else b"linkpath"] = data.split(b"\0", 1)[0]
            else:
                (common if kind == ord("g") else own).update(_records(data, place, at))
            at = start + -(-size // BLOCK) * BLOCK
            continue
        told = common | own if common or own else own
        name = told[b"path"] if b"path" in told else _name(block)
        if kind == ord("S") or any(key.startswith(b"GNU.sparse.") for key in told):
            raise BadInput(f"{place.name} holds {text(name)} as a sparse file; repack it without tar's --sparse")
        if b"size" in told:
            size = _number(told[b"size"], 10, place, at)
        if kind == 0 and name.endswith(b"/"):
            kind = ord("5")  # as in the seventh edition
        if kind in WITHOUT_DATA:
            size = 0
        if start + size > place.size:
            raise _short(place, start)
        link = told[b"linkpath"] if b"linkpath" in told else block[157:257].split(b"\0", 1)[0]
        yield Entry(name, KINDS.get(kind, OTHER), start, size, link)
        window.ahead = NEAR if size < SMALL else FAR
        at = start + -(-size // BLOCK) * BLOCK
        own = {}
    if at > place.size:
        raise _short(place, at)
    notes.append(f"{place.name} has no end mark: it may have been cut off between two members")


class Link(NamedTuple):
    target: str
    hard: bool  # from the top of the archive, not from the link's folder


def follow(name: str, links: Mapping[str, Link], files: Container[str]) -> str | None:
    """The file that a link ends at; None: it leads out of the archive, to a folder, or in a circle."""
    for _ in range(LINKS):
        target, hard = links[name]
        path = plain(target if hard else "/".join([*name.split("/")[:-1], target]))
        if path is None or (target.startswith("/") and not hard):
            return None
        if path in files:
            return path
        if path not in links:
            return None
        name = path
    return None


def plain(path: str) -> str | None:
    """The path without ".", ".." and doubled slashes; None: it leads out of the archive."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _more(place: Place, at: int) -> bool:
    """Whether anything but zeros comes; usually a few blocks of them are left."""
    step = 1 << 20
    return any(place.pread(min(step, place.size - i), i).strip(b"\0") for i in range(at, place.size, step))


def _checked(block: bytes, place: Place, at: int) -> tuple[int, int]:
    """(type, size) of a header whose checksum is right."""
    stated = _number(block[148:156], 8, place, at)
    total = sum(block) - sum(block[148:156]) + 8 * 32  # the sum counts itself as blanks
    if stated != total and stated != total - 256 * sum(b > 127 for b in block[:148] + block[156:]):  # signed, once
        raise _damaged(place, at)
    size = block[124:136]
    if size[0] == 0x80:  # too large for octal digits
        return block[156], int.from_bytes(size[1:], "big")
    return block[156], _number(size, 8, place, at)


def _number(digits: bytes, base: int, place: Place, at: int) -> int:
    text = digits.split(b"\0", 1)[0].strip()
    if text and not text.isdigit():
        raise _damaged(place, at)
    try:
        return int(text or b"0", base)
    except ValueError:
        raise _damaged(place, at) from None


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[345] and block[257:263] == b"ustar\0":
        return block[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _records(data: bytes, place: Place, at: int) -> dict[bytes, bytes]:
    """pax: "LENGTH KEY=VALUE\\n" one after the other; LENGTH counts all of it."""
    out: dict[bytes, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        digits, blank, _ = data[position : position + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[position : position + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not (blank and equals and len(record) == length and record.endswith(b"\n")):
            raise _damaged(place, at)
        out[key] = value
        position += length
    return out


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _damaged(place: Place, at: int) -> BadInput:
    what = "is no tar archive" if at == 0 else f"is damaged at byte {at:,}"
    return BadInput(f"{place.name} {what}; fetch or make it again")


def _short(place: Place, at: int) -> BadInput:
    return BadInput(f"{place.name} is cut off: a member at byte {at:,} goes on behind its end; fetch or make it again")
