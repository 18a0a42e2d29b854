"""Picture files that a table names: looked for once, each file one sample; what is odd about them is said."""

from __future__ import annotations

import itertools
import os
import re
import stat
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..names import Names
from ..source import Rows
from .columns import Texts, Told
from .folder import SUFFIXES, FolderReader
from .listing import Listing
from .targets import CaptionColumn, Spans

ROWS = 65_536  # looked for at a time
SHOWN = 3  # files named in a message
PROBED = 20  # files looked for before a folder or a suffix is thought to be left out


@dataclass
class _Found:
    """The files, as they are looked for."""

    root: str
    ids: Texts = field(default_factory=Texts)
    rows: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))  # equal for one file, whatever it is called
    missing: list[str] = field(default_factory=list)
    outside: int = 0
    mended: list[str] = field(default_factory=list)  # found under another spelling

    def look(self, names: Sequence[str]) -> list[str]:
        """The names under which these files are there; those that are not there as they are."""
        out: list[str] = []
        for name in names:
            found = _stat(self.root, name)
            if found is None:
                other, found = _elsewhere(self.root, name)
                self.mended += [name] if found is not None else []
                name = other
            if found is None:
                self.missing.append(name)
                self.sizes.append(-1)
                self.keys.append(hash(name))
            else:
                self.sizes.append(found.st_size)
                self.keys.append(hash((found.st_dev, found.st_ino)))
            out.append(name)
        self.outside += sum(name.startswith(("/", "../")) or "/../" in name or os.path.isabs(name) for name in out)
        return out

    def notes(self, given: int, where: str) -> list[str]:
        out = []
        if given > len(self.rows):
            out.append(f"{given - len(self.rows):,} rows name no picture: left out")
        if self.missing:
            told = f"{', '.join(self.missing[:SHOWN])}{', ...' if len(self.missing) > SHOWN else ''}"
            out.append(f"{len(self.missing):,} of {len(self.rows):,} files are not there: {told}")
        if self.mended:
            out.append(f"{len(self.mended):,} files are there under another spelling ({self.mended[0]!r}): used")
        if self.outside:
            out.append(f"{self.outside:,} files lie outside of the folder of {where}")
        return out


def beside(where: str, root: str, names: Names, told: Told) -> Listing:
    """The files as a listing. `names` are relative to `root`, or absolute; those that are not there stay, as holes."""
    found = _Found(root)
    before, after = _left_out(root, names)
    for start in range(0, len(names), ROWS):
        given = list(names[start : start + ROWS])
        found.rows.extend([start + i for i, name in enumerate(given) if name])
        found.ids.add(found.look([before + _short(root, name) + after for name in given if name]), where)
    n = len(found.rows)
    if not n:
        raise BadInput(f"{where}: no row names a picture; name the column with paths: --data.image COLUMN")
    if len(found.missing) == n:
        raise BadInput(_none_there(where, root, found.missing))
    rows = np.frombuffer(found.rows, dtype=np.int64)
    notes = [f"the files are found as {before}NAME{after}"] if before or after else []
    told = changed(told.take(rows), notes=[*told.notes, *notes, *found.notes(told.rows, where)])
    ids, sizes = found.ids.names(), np.array(found.sizes, dtype=np.int64)
    keep, first = _once(np.frombuffer(found.keys, dtype=np.int64))
    if len(keep) < n:
        told = _merged(told, ids, keep, first)
        ids, sizes = ids.take(keep), sizes[keep]
    return told.listing(where, FolderReader(root, ids), ids, sizes)


def _left_out(root: str, names: Names) -> tuple[str, str]:
    """(folder, suffix) that a table leaves out of all names, as Kaggle's do; empty where it does not, or in doubt."""
    first = [_short(root, name) for name in itertools.islice(filter(None, names), PROBED)]
    if not first or any(_stat(root, name) or _elsewhere(root, name)[1] for name in first):
        return "", ""
    rules: set[tuple[str, str]] = set()
    for at, _, files in _levels(root, 2):
        for path in (_short(root, f"{at}/{file}") for file in files if os.path.splitext(file)[1].lower() in SUFFIXES):
            for after in ("", os.path.splitext(path)[1]):
                before = path.removesuffix(first[0] + after)
                if before != path and (not before or before.endswith("/")):
                    rules.add((before, after))
    right = [rule for rule in rules if all(_stat(root, f"{rule[0]}{name}{rule[1]}") for name in first)]
    return right[0] if len(right) == 1 else ("", "")


def _short(root: str, name: str) -> str:
    """Relative to `root` where it lies below, with single slashes: as a walk through the folder would name it."""
    if name[0] == "/" and name.startswith(f"{root}/"):
        name = name[len(root) + 1 :]
    while "//" in name or "./" in name:
        plain = re.sub(r"(^|/)(\./+)+", r"\1", re.sub("//+", "/", name))
        if plain == name:
            break  # what is left is ../, or a folder whose name ends in a dot
        name = plain
    return name


def _stat(root: str, name: str) -> os.stat_result | None:
    try:
        found = os.stat(f"{root}/{name}" if name[:1] != "/" else name)
    except (OSError, ValueError):
        return None
    return None if stat.S_ISDIR(found.st_mode) else found


def _elsewhere(root: str, name: str) -> tuple[str, os.stat_result | None]:
    """The file under another spelling."""
    for other in _spellings(name):
        if (found := _stat(root, other)) is not None:
            return other, found
    return name, None


def _spellings(name: str) -> Iterator[str]:
    """Other ways in which a file system may write a name: Windows's slashes, composed or single letters, bytes."""
    for one in dict.fromkeys((name.replace("\\", "/"), name)):
        yield one
        yield unicodedata.normalize("NFC", one)
        yield unicodedata.normalize("NFD", one)
        try:
            yield one.encode("latin-1").decode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            continue


def _none_there(where: str, root: str, missing: Sequence[str]) -> str:
    told = f"{where}: none of the {len(missing):,} files that it names is there, such as {missing[0]!r}"
    if re.match(r"\w{2,}:/", missing[0]):
        return f"{told}: nothing is fetched from the web; download the pictures, and name them relative to the table"
    stem = os.path.splitext(os.path.basename(missing[0]))[0]
    if os.path.exists(missing[0]):
        return f"{told}: they are seen from the current folder; make them relative to {root}, or absolute"
    for at, _, files in _levels(root, 2):
        near = [file for file in files if os.path.splitext(file)[0] == stem]
        if near:
            return f"{told}; there is {os.path.relpath(os.path.join(at, near[0]), root)}: write the paths like this"
    return f"{told} in {root}; give paths relative to the table, or absolute"


def _levels(root: str, depth: int) -> Iterator[tuple[str, list[str], list[str]]]:
    for at, folders, files in os.walk(root):
        yield at, folders, files
        if os.path.relpath(at, root).count(os.sep) + (at != root) >= depth:
            folders.clear()


# ---------------------------------------------------------------- a file that several rows name


def _once(keys: NDArray[np.int64]) -> tuple[Rows, Rows]:
    """(the first row of every file, for each row the position of its file among those)."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return first[order], place[which]


def _merged(told: Told, ids: Names, keep: Rows, place: Rows) -> Told:
    """One sample for each file: its first row counts, but its captions are those of all its rows."""
    again = np.setdiff1d(np.arange(told.rows), keep)
    out, earlier = told.take(keep), keep[place[again]]
    row = int(again[0])
    note = f"{len(again):,} rows name a file that an earlier row names (as {ids[row]}): one sample"
    captions = told.targets.get("caption")
    if isinstance(captions, CaptionColumn):
        rows = np.argsort(place, kind="stable")
        counts = (captions.spans.ends - captions.spans.starts)[rows]
        texts = captions.texts.take(captions.spans.take(rows).flat())
        each = np.bincount(place[rows], weights=counts, minlength=len(keep)).astype(np.int64)
        out = changed(out, targets={**out.targets, "caption": CaptionColumn(texts, Spans.of(each))})
        note += " with all their captions"
    for what, values in (("classes", told.label), ("parts", told.split)):
        if values is not None and (apart := int((values[again] != values[earlier]).sum())):
            note += f"; {apart:,} of them lie in two {what}, the first counts"
    return changed(out, notes=[*out.notes, note])
