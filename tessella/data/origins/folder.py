"""Folders of picture files, with labels by class name. Reads the names, never writes beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..names import Names, in_order
from ..pixels.decode import kind_of
from ..source import Labels, Opened, Source, Splits, apart, held_out

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .avif .heic .heif .npy".split()
)
OTHER = frozenset(".txt .json .jsonl .xml .csv .tsv .parquet .md .html .py .toml .yaml .yml .zip .tar .gz .xz".split())
TRAIN = ("train", "training")
UNLABELLED = ("unlabelled", "unlabeled")  # beside class folders, where labels are not needed of all
VALIDATION = ("val", "valid", "validation", "test")  # the first of these that is there is used
LAYOUT = "expected one folder per class (photos/cat/1.jpg, photos/dog/2.jpg), or train/ and val/ that hold such folders"


@dataclass(frozen=True)
class FolderReader:
    """Files by their path below `root`; empty: the names are paths themselves."""

    root: str
    names: Names

    def read(self, row: int) -> bytes:
        name = self.names[row]
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                return file.read()
        except OSError as error:
            where = f" in {self.root}" if self.root else ""
            raise BadInput(f"{name}{where} cannot be read ({error.strerror}); restore it") from None


def open_folder(
    path: str | Path, *, validation: str | Path | None = None, val_share: float = 0.2, seed: int = 0
) -> Splits:
    """Training and validation pictures. Classes: the names of train's folders, sorted; validation follows by name."""
    root = os.fspath(path)
    train_root, found, notes = _layout(root)
    classes, _ = in_order(_class_folders(train_root))
    train, said = _scan(root, train_root, classes, "train")
    notes += said
    if len(classes) < 2:
        raise BadInput(f"{train_root} holds one class folder only ({classes[0]!r}); {LAYOUT}")
    if not len(train):
        raise BadInput(f"no pictures below {train_root} ({', '.join(notes) or 'all folders are empty'}); {LAYOUT}")
    if validation is not None:
        if os.path.realpath(validation) == os.path.realpath(train_root):
            notes.append(
                f"validation is the training folder itself ({os.fspath(validation)}): its figures will flatter"
            )
        val, said = open_labelled(validation, classes)
        return Splits(train, val, classes, notes + said)
    if found is not None:
        val, said = _open_known(root, found, classes)
        return Splits(train, val, classes, notes + said)
    return held_out(train, val_share, seed, notes)


def open_labelled(path: str | Path, classes: Sequence[str]) -> Opened:
    """A folder to evaluate a network with these classes on: its validation part where it has one, labels by name."""
    root = os.fspath(path)
    names = _folders(root)
    part = next((name for name in parts_in(names, VALIDATION) if _folders(os.path.join(root, name))), None)
    if part is None or part in classes:
        return _open_known(root, root, tuple(classes))
    source, notes = _open_known(root, os.path.join(root, part), tuple(classes))
    return Opened(source, [f"evaluating on {part}/ of {root}", *notes])


def open_all(path: str | Path, *, val_share: float = 0.2, seed: int = 0) -> Splits:
    """For learning without labels: every picture below train/, or below the folder itself, wherever it lies. Folders of
    the first level are classes by which features can be judged, where there are two or more."""
    root = os.fspath(path)
    names = _folders(root)
    parts = parts_in(names, TRAIN + VALIDATION)
    train_part, val_part = (next(iter(parts_in(parts, known)), None) for known in (TRAIN, VALIDATION))
    home = root if train_part is None else os.path.join(root, train_part)
    classes = () if train_part is None and parts and len(parts) == len(names) else _classes_in(home)
    train, notes = _everything(root, home, classes, train_part or "")
    if not len(train):
        raise BadInput(f"no pictures below {home}{_because(notes)}; give a folder of pictures")
    if train_part is not None and val_part is not None:
        val, said = _everything(root, os.path.join(root, val_part), classes, val_part)
        return Splits(train, val if len(val) else None, classes, notes + said)
    return apart(train, val_share, seed, notes)


def _classes_in(folder: str) -> tuple[str, ...]:
    names = [name for name in _folders(folder) if name.lower() not in UNLABELLED]
    return in_order(names)[0] if len(names) > 1 else ()


def _everything(root: str, folder: str, classes: tuple[str, ...], part: str) -> Opened:
    tally = _Tally()
    prefix = "" if os.path.samefile(root, folder) else _posix(os.path.relpath(folder, root)) + "/"
    files = _walk(folder, {_inode(folder)}, tally)
    ids = Names.of(f"{prefix}{file.name}" for file in files)
    source = _source(root, ids, np.fromiter((file.size for file in files), np.int64, len(files)))
    if not classes:
        return Opened(source, tally.notes(part))
    number = {name: i for i, name in enumerate(classes)}
    firsts = (file.name.partition("/") for file in files)
    labels = np.fromiter((number.get(first, -1) if rest else -1 for first, _, rest in firsts), np.int64, len(files))
    return Opened(replace(source, labels=labels, classes=classes), tally.notes(part))


def open_pictures(paths: Iterable[str | Path]) -> Opened:
    """Pictures without labels, in the order given; a folder stands for all below it. Ids are the paths as given."""
    ids: list[str] = []
    sizes: list[int] = []
    tally = _Tally()
    for path in paths:
        given = os.fspath(path)
        if os.path.isdir(given):
            files = _walk(given, {_inode(given)}, tally)
            ids += [_posix(os.path.join(given, file.name)) for file in files]
            sizes += [file.size for file in files]
        else:
            try:
                sizes.append(os.stat(given).st_size)  # any suffix: the user named it, and decoding looks at the bytes
            except OSError as error:
                raise BadInput(f"{given} cannot be read ({error.strerror}); give pictures or folders") from None
            ids.append(_posix(given))
    if not ids:
        raise BadInput(f"no pictures found{_because(tally.notes(''))}; give pictures or folders of pictures")
    return Opened(_source("", Names.of(ids), np.array(sizes, dtype=np.int64)), tally.notes(""))


def every_folder(path: str | Path) -> tuple[dict[str, Source], tuple[str, ...], list[str]]:
    """All parts of a folder as they lie there ("train", "val", "test"; "all" where there are none), for looking at:
    classes are those of all parts together, and nothing is refused that can be said."""
    root = os.fspath(path)
    train_root, _, notes = _layout(root)
    parts = {"all": root}
    if train_root != root:
        parts = {name: os.path.join(root, name) for name in sorted(parts_in(_folders(root), TRAIN + VALIDATION))}
        notes = [note for note in notes if not note.endswith("for validation")]
    found = {name: _folders(folder) for name, folder in parts.items()}
    classes, _ = in_order({c for names in found.values() for c in names})
    out: dict[str, Source] = {}
    for name, folder in parts.items():
        present = tuple(found[name])
        source, said = _scan(root, folder, present, name)
        where = np.array([classes.index(c) for c in present], dtype=np.int64)
        labels = where[source.labels] if source.labels is not None and len(present) else source.labels
        out[name] = replace(source, labels=labels, classes=classes)
        notes += said
        notes += [f"{name}: class {c!r} is missing" for c in classes if c not in present]
    return out, classes, notes


def parts_in(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Those of `names` that are `known` parts, also as Train or TEST, in the order of `known`."""
    found = sorted((name for name in names if name.lower() in known), reverse=True)  # lower case first
    return sorted(found, key=lambda name: known.index(name.lower()))


def _source(root: str, ids: Names, sizes: NDArray[np.int64]) -> Source:
    return Source(reader=FolderReader(root, ids), ids=ids, sizes=sizes, rows=np.arange(len(ids), dtype=np.int64))


# ---------------------------------------------------------------- the file system


@dataclass
class _Tally:
    """What a walk passed over, by reason."""

    other: Counter[str] = field(default_factory=Counter)  # by suffix
    hidden: int = 0
    sniffed: int = 0  # without a picture's suffix, used all the same
    again: int = 0  # folders reached a second time, through links
    broken: int = 0
    special: int = 0  # pipes, sockets, devices: opening one may wait for ever

    def notes(self, where: str) -> list[str]:
        notes = []
        if self.other:
            kinds = ", ".join(f"{suffix or 'no suffix'} {n:,}" for suffix, n in self.other.most_common(5))
            notes.append(f"{self.other.total():,} files without a picture's suffix left out ({kinds})")
        if self.sniffed:
            notes.append(f"{self.sniffed:,} files without a picture's suffix hold pictures and are used")
        if self.hidden:
            notes.append(f"{self.hidden:,} hidden files or folders left out")
        if self.again:
            notes.append(f"{self.again:,} links to folders that were already read left out")
        if self.broken:
            notes.append(f"{self.broken:,} files or folders that cannot be read left out (broken links, permissions)")
        if self.special:
            notes.append(f"{self.special:,} pipes, sockets or devices left out")
        return [f"{where}: {note}" if where else note for note in notes]


def _because(notes: list[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def _posix(path: str) -> str:
    return path if os.sep == "/" else path.replace(os.sep, "/")


def _inode(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _folders(root: str) -> list[str]:
    """Names of the visible folders in `root`, sorted."""
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise BadInput(f"{root} cannot be opened as a folder ({error.strerror}); {LAYOUT}") from None


def _class_folders(root: str) -> list[str]:
    names = _folders(root)
    if not names:
        flat = any(os.path.splitext(name)[1].lower() in SUFFIXES for name in os.listdir(root))
        what = "holds pictures but no class folders" if flat else "holds no folders"
        raise BadInput(f"{root} {what}; {LAYOUT}")
    return names


def _layout(root: str) -> tuple[str, str | None, list[str]]:
    """(folder with train's classes, the same for validation or None, notes)."""
    names = _class_folders(root)
    splits = {name: os.path.join(root, name) for name in parts_in(names, TRAIN + VALIDATION)}
    nested = {name for name, path in splits.items() if _folders(path)}
    train = next(iter(parts_in(nested, TRAIN)), None)
    if train is None:
        if splits and len(splits) == len(names):
            why = "no train/ folder" if nested else f"no class folders in {', '.join(splits)}"
            raise BadInput(f"{root} has {why}; {LAYOUT}")
        return root, None, []  # a class may well be called "train"
    found = parts_in(splits, VALIDATION)
    notes = [f"{name}/ is not used: {found[0]}/ is there for validation" for name in found[1:]]
    unused = [name for name in names if name != train and name not in found]
    notes += [f"folders beside {train}/ not used: {', '.join(unused)}"] if unused else []
    return splits[train], splits[found[0]] if found else None, notes


def _open_known(root: str, folder: str, classes: tuple[str, ...]) -> Opened:
    """Labels by name from given classes; a folder that none of them is called by is an error when it holds pictures."""
    part = os.path.basename(os.path.normpath(folder))
    names = _class_folders(folder)
    unknown = [name for name in names if name not in classes]
    for name in unknown:
        if _walk(os.path.join(folder, name), {_inode(folder)}, _Tally()):
            known = f"the {len(classes)} classes are {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
            raise BadInput(f"{folder} has pictures of an unknown class {name!r}; rename or remove it ({known})")
    present = tuple(name for name in classes if name in set(names))
    source, notes = _scan(root, folder, present, part)
    if not len(source):
        raise BadInput(f"no pictures below {folder}{_because(notes)}; {LAYOUT}")
    where = np.array([classes.index(name) for name in present], dtype=np.int64)
    labels = where[source.labels] if source.labels is not None else None
    notes += [f"{part}: class {name!r} is missing" for name in classes if name not in present]
    notes += [f"{part}: folder {name!r} is no class and is empty" for name in unknown]
    return Opened(replace(source, labels=labels, classes=classes), notes)


def _scan(root: str, folder: str, classes: tuple[str, ...], part: str) -> Opened:
    """All pictures of these class folders; ids relative to `root`."""
    tally = _Tally()
    seen = {_inode(folder): "the folder itself"}
    for name in classes:
        inode = _inode(os.path.join(folder, name))
        if inode in seen:
            raise BadInput(f"{folder}: class folder {name!r} is a link to {seen[inode]}; a picture has one label")
        seen[inode] = f"{name!r}"
    visited = set(seen)
    prefix = "" if os.path.samefile(root, folder) else _posix(os.path.relpath(folder, root)) + "/"
    found = [_walk(os.path.join(folder, name), visited, tally) for name in classes]
    counts = [len(files) for files in found]
    notes = [f"{part}: class {name!r} has no pictures" for name, n in zip(classes, counts, strict=True) if not n]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    ids = Names.of(f"{prefix}{name}/{file.name}" for name, files in zip(classes, found, strict=True) for file in files)
    sizes = np.fromiter((file.size for files in found for file in files), np.int64, len(ids))
    keys = np.fromiter((file.key for files in found for file in files), np.int64, len(ids))
    linked = np.fromiter((file.linked for files in found for file in files), np.bool_, len(ids))
    del found  # a million names need not be here twice
    with os.scandir(folder) as entries:
        loose = sum(not e.is_dir() and not e.name.startswith(".") for e in entries)
    notes += [f"{part}: {loose:,} files outside the class folders left out"] if loose else []
    source = replace(_source(root, ids, sizes), labels=labels, classes=classes)
    again = _again(source, root, keys, linked)
    if again:
        notes.append(_told_again(source, part, again))
        source = source.take(np.setdiff1d(np.arange(len(ids)), np.array(list(again))))
    return Opened(source, notes + tally.notes(part))


def _again(source: Source, root: str, keys: NDArray[np.int64], linked: NDArray[np.bool_]) -> dict[int, int]:
    """{sample: the earlier one that is the same file under another name}, for links; usually there are none."""
    suspects = np.flatnonzero(np.isin(keys, keys[linked])) if linked.any() else np.empty(0, dtype=np.int64)
    first: dict[int, int] = {}
    out: dict[int, int] = {}
    for i in suspects.tolist():
        earlier = first.setdefault(int(keys[i]), i)
        paths = [os.path.join(root, source.ids[n]) for n in (earlier, i)]
        if earlier != i and os.path.samefile(*paths):
            out[i] = earlier
    return out


def _told_again(source: Source, part: str, again: dict[int, int]) -> str:
    labels: Labels = source.labels if source.labels is not None else np.zeros(len(source), dtype=np.int64)
    apart = [(i, first) for i, first in again.items() if labels[i] != labels[first]]
    i, first = (apart or list(again.items()))[0]
    told = f"{len(again):,} files are others under a second name and left out ({source.ids[i]} is {source.ids[first]})"
    return f"{part}: {told}" + (f"; {len(apart):,} of them lie in two classes, the first counts" if apart else "")


class _File(NamedTuple):
    name: str  # relative to the folder that was walked
    size: int  # bytes
    key: int  # of the inode
    linked: bool  # may have another name


def _walk(folder: str, visited: set[tuple[int, int]], tally: _Tally) -> list[_File]:
    """Every picture below, sorted by name; a folder that was visited is not entered again."""
    found: list[_File] = []
    pending = [("", folder)]
    while pending:
        prefix, path = pending.pop()
        try:
            entries = sorted(os.scandir(path), key=lambda e: e.name)  # which link is entered first must not vary
        except OSError:
            tally.broken += 1
            continue
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                tally.hidden += 1
                continue
            try:
                if entry.is_dir():
                    inode = _inode(entry.path)  # not entry.inode(): that is the link's own
                    if inode in visited:
                        tally.again += 1
                    else:
                        visited.add(inode)
                        pending.append((f"{prefix}{name}/", entry.path))
                elif not entry.is_file() and os.path.exists(entry.path):  # else a broken link, which is told below
                    tally.special += 1
                elif _is_picture(entry, tally):
                    stat = entry.stat()
                    linked = stat.st_nlink > 1 or entry.is_symlink()
                    found.append(_File(prefix + name, stat.st_size, hash((stat.st_dev, stat.st_ino)), linked))
            except OSError:
                tally.broken += 1
    return sorted(found)


def _is_picture(entry: os.DirEntry[str], tally: _Tally) -> bool:
    """By suffix; without a known one, by the first bytes. What is called a picture and is none is found in decoding."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in SUFFIXES:
        return True
    if suffix not in OTHER:
        with open(entry.path, "rb") as file:
            if kind_of(file.read(512)).endswith("picture"):
                tally.sniffed += 1
                return True
    tally.other[suffix] += 1
    return False
