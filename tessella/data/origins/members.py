"""What a shard's index holds: its members, and the words of the small ones, so that labels need no second look."""

from __future__ import annotations

import os

from .folder import SUFFIXES
from .pinned import Place
from .tarindex import FILE, HARD, SOFT, Link, Window, entries, follow, plain, text

WORDS = 1 << 16  # bytes of the largest member that may be a label, a caption or a .json
WORDY = (".json", ".txt", ".cls")

Member = tuple[str, int, int, str | None]  # name, start, size, words


def members_of(place: Place) -> tuple[list[Member], list[str]]:
    """(files of a tar in order, notes); a link is the file that it leads to."""
    notes: list[str] = []
    out: list[Member] = []
    links: dict[str, Link] = {}
    window = Window(place)
    lost = long = 0
    for entry in entries(place, notes, window):
        raw = text(entry.name)
        name = plain(raw) if raw.startswith((".", "/")) or "//" in raw or "/." in raw else raw
        if not name:
            lost += entry.kind == FILE
        elif entry.kind == FILE:
            words, suffix = None, os.path.splitext(name)[1].lower()
            if entry.size <= WORDS and suffix not in SUFFIXES:
                words = _words(window.read(entry.start, entry.size))
            long += entry.size > WORDS and suffix in WORDY
            out.append((name, entry.start, entry.size, words))
        elif entry.kind in (HARD, SOFT):
            links[name] = Link(text(entry.link), entry.kind == HARD)
            out.append((name, -1, 0, None))
    if long:
        notes.append(f"{place.name}: {long:,} members ({', '.join(WORDY)}) of more than {WORDS:,} bytes are not read")
    if lost:
        notes.append(f"{place.name}: {lost:,} files whose names lead out of the archive (../) left out")
    return (_followed(out, links, place, notes) if links else out), notes


def _followed(members: list[Member], links: dict[str, Link], place: Place, notes: list[str]) -> list[Member]:
    files = {member[0]: member for member in members if member[1] >= 0}
    out: list[Member] = []
    for member in members:
        target = follow(member[0], links, files) if member[1] < 0 else member[0]
        if target is not None:
            out.append(member if member[1] >= 0 else (member[0], *files[target][1:]))
    if lost := len(members) - len(out):
        notes.append(f"{place.name}: {lost:,} links that lead to no file in the shard left out")
    return out


def _words(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
