"""Where pictures come from: folders of files, with labels by class name. Reads the names, never writes beside them.

A source is a fixed list: sample `i` stays the same file while the folder is unchanged, in whatever order it is listed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .augment import AugmentConfig

Labels = NDArray[np.int64]

SUFFIXES = frozenset(".jpg .jpeg .png .bmp .gif .webp .tif .tiff .ppm .pgm".split())
TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "test")  # the first of these that is there is used
LAYOUT = "expected one folder per class (photos/cat/1.jpg, photos/dog/2.jpg), or train/ and val/ that hold such folders"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, and how they are fed."""

    path: str  # folder with one folder per class, or with train/ and val|valid|validation|test/
    validation: str | None = None  # folder with class folders; None: the one in `path`, else a share of train
    val_share: float = 0.2  # share of each class held out where no validation folder is found; 0: no validation
    seed: int = 0  # which files are held out; apart from the run's seed, so that runs stay comparable
    workers: int | None = None  # processes that decode; None: by the number of cores; 0: in the main process
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)  # None: training pictures as in evaluation

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 1:
            raise BadInput(f"data.val_share is {self.val_share}; give a share in [0, 1)")
        if self.workers is not None and self.workers < 0:
            raise BadInput(f"data.workers is {self.workers}; give 0 or more")


class Source(Protocol):
    """A fixed, ordered list of encoded pictures."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def labels(self) -> Labels | None: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def read(self, i: int) -> bytes: ...
    def manifest(self) -> list[tuple[str, int]]: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Files below one folder. Ids are POSIX paths relative to it; bytes that are no UTF-8 survive as surrogates."""

    root: str
    ids: list[str]
    sizes: NDArray[np.int64]  # bytes of each file
    labels: Labels | None = None  # index into classes
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, i: int) -> bytes:
        try:
            with open(os.path.join(self.root, self.ids[i]), "rb") as file:
                return file.read()
        except OSError as error:
            raise BadInput(f"{self.ids[i]} in {self.root} cannot be read ({error.strerror}); restore it") from None

    def manifest(self) -> list[tuple[str, int]]:
        """(id, bytes) of every sample, in order."""
        return list(zip(self.ids, self.sizes.tolist(), strict=True))

    def fingerprint(self) -> str:
        """sha256 of names, sizes and labels in order: equal for the same data, cheap because no picture is read."""
        hasher = hashlib.sha256("\0".join(self.ids).encode("utf-8", "surrogateescape"))
        hasher.update(self.sizes.astype("<i8").tobytes())
        hasher.update(b"" if self.labels is None else self.labels.astype("<i8").tobytes())
        return hasher.hexdigest()

    def labels_present(self) -> list[int]:
        return [] if self.labels is None else np.unique(self.labels).tolist()

    def take(self, keep: NDArray[np.int64]) -> FolderSource:
        """The samples of these indices, in that order."""
        labels = None if self.labels is None else self.labels[keep]
        return FolderSource(self.root, [self.ids[i] for i in keep], self.sizes[keep], labels, self.classes)


class Opened(NamedTuple):
    """A source, and what the user should know about it."""

    source: FolderSource
    notes: list[str]


class Splits(NamedTuple):
    """What a training run reads; `classes` in the order of the network's outputs."""

    train: FolderSource
    val: FolderSource | None
    classes: tuple[str, ...]
    notes: list[str]


def open_data(cfg: DataConfig) -> Splits:
    """`open_folder` by a config."""
    return open_folder(cfg.path, validation=cfg.validation, val_share=cfg.val_share, seed=cfg.seed)


def open_folder(
    path: str | Path, *, validation: str | Path | None = None, val_share: float = 0.2, seed: int = 0
) -> Splits:
    """Training and validation pictures. Classes: the names of train's folders, sorted; validation follows by name."""
    root = os.fspath(path)
    train_root, found, notes = _layout(root)
    classes = tuple(_class_folders(train_root))
    train, said = _scan(root, train_root, classes, "train")
    notes += said
    if len(classes) < 2:
        raise BadInput(f"{train_root} holds one class folder only ({classes[0]!r}); {LAYOUT}")
    if not len(train):
        raise BadInput(f"no pictures below {train_root} ({', '.join(notes) or 'all folders are empty'}); {LAYOUT}")
    val_root = os.fspath(validation) if validation is not None else found
    if val_root is not None:
        if os.path.realpath(val_root) == os.path.realpath(train_root):
            notes.append(f"validation is the training folder itself ({val_root}): its figures will flatter")
        val, said = _open_known(root if validation is None else val_root, val_root, classes)
        return Splits(train, val, classes, notes + said)
    if not val_share:
        return Splits(train, None, classes, [*notes, "no validation pictures: val_share is 0"])
    everything, (train, val) = train, split(train, val_share, seed)
    if not len(val):
        return Splits(everything, None, classes, [*notes, "no validation pictures: each class has one only"])
    total = len(train) + len(val)
    notes.append(f"no validation folder: {len(val):,} of {total:,} pictures held out, the same share of each class")
    alone = sorted(set(train.labels_present()) - set(val.labels_present()))
    notes += [f"class {classes[c]!r} has one picture: none of it is left to validate on" for c in alone]
    return Splits(train, val, classes, notes)


def open_labelled(path: str | Path, classes: Sequence[str]) -> Opened:
    """A folder to evaluate a network with these classes on: its validation part where it has one, labels by name."""
    root = os.fspath(path)
    names = _folders(root)
    part = next((name for name in VALIDATION if name in names and _folders(os.path.join(root, name))), None)
    if part is None or part in classes:
        return _open_known(root, root, tuple(classes))
    source, notes = _open_known(root, os.path.join(root, part), tuple(classes))
    return Opened(source, [f"evaluating on {part}/ of {root}", *notes])


def open_pictures(paths: Iterable[str | Path]) -> Opened:
    """Pictures without labels, in the order given; a folder stands for all below it. Ids are the paths as given."""
    ids: list[str] = []
    sizes: list[int] = []
    tally = _Tally()
    for path in paths:
        given = os.fspath(path)
        if os.path.isdir(given):
            files = sorted(_walk(given, {_inode(given)}, tally))
            ids += [_posix(os.path.join(given, name)) for name, _ in files]
            sizes += [size for _, size in files]
        else:
            try:
                sizes.append(os.stat(given).st_size)  # any suffix: the user named it, and decoding looks at the bytes
            except OSError as error:
                raise BadInput(f"{given} cannot be read ({error.strerror}); give pictures or folders") from None
            ids.append(_posix(given))
    if not ids:
        raise BadInput(f"no pictures found{_because(tally.notes(''))}; give pictures or folders of pictures")
    return Opened(FolderSource("", ids, np.array(sizes, dtype=np.int64)), tally.notes(""))


def split(source: FolderSource, share: float, seed: int) -> tuple[FolderSource, FolderSource]:
    """Hold out the same share of every class (at least one, never all), by hash: new files move few old ones."""
    labels = np.zeros(len(source), dtype=np.int64) if source.labels is None else source.labels
    salt = str(seed).encode() + b"\0"
    ranks = np.array(
        [
            hashlib.blake2b(salt + name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
            for name in source.ids
        ],
        dtype="V8",
    ).view(">u8")
    held = np.zeros(len(source), dtype=bool)
    order = np.lexsort((ranks, labels))  # by class, within it by hash
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0, True])
    for start, end in itertools.pairwise(starts):
        n = int(end - start)
        held[order[start : start + min(n - 1, max(1, round(share * n)))]] = True
    return source.take(np.flatnonzero(~held)), source.take(np.flatnonzero(held))


# ---------------------------------------------------------------- the file system


@dataclass
class _Tally:
    """What a walk passed over, by reason."""

    other: Counter[str] = field(default_factory=Counter)  # by suffix
    hidden: int = 0
    again: int = 0  # folders reached a second time, through links
    broken: int = 0

    def notes(self, where: str) -> list[str]:
        notes = []
        if self.other:
            kinds = ", ".join(f"{suffix or 'no suffix'} {n:,}" for suffix, n in self.other.most_common(5))
            notes.append(f"{self.other.total():,} files without a picture's suffix left out ({kinds})")
        if self.hidden:
            notes.append(f"{self.hidden:,} hidden files or folders left out")
        if self.again:
            notes.append(f"{self.again:,} links to folders that were already read left out")
        if self.broken:
            notes.append(f"{self.broken:,} files or folders that cannot be read left out (broken links, permissions)")
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
    splits = {name: os.path.join(root, name) for name in names if name in TRAIN + VALIDATION}
    nested = {name for name, path in splits.items() if _folders(path)}
    train = next((name for name in TRAIN if name in nested), None)
    if train is None:
        if splits and len(splits) == len(names):
            why = "no train/ folder" if nested else f"no class folders in {', '.join(splits)}"
            raise BadInput(f"{root} has {why}; {LAYOUT}")
        return root, None, []  # a class may well be called "train"
    found = [name for name in VALIDATION if name in splits]
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
    return Opened(FolderSource(root, source.ids, source.sizes, labels, classes), notes)


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
    ids: list[str] = []
    sizes: list[int] = []
    counts: list[int] = []
    for name in classes:
        files = sorted(_walk(os.path.join(folder, name), visited, tally))
        ids += [f"{prefix}{name}/{file}" for file, _ in files]
        sizes += [size for _, size in files]
        counts.append(len(files))
    notes = [f"{part}: class {name!r} has no pictures" for name, n in zip(classes, counts, strict=True) if not n]
    with os.scandir(folder) as entries:
        loose = sum(not e.is_dir() and not e.name.startswith(".") for e in entries)
    notes += [f"{part}: {loose:,} files outside the class folders left out"] if loose else []
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return Opened(FolderSource(root, ids, np.array(sizes, dtype=np.int64), labels, classes), notes + tally.notes(part))


def _walk(folder: str, visited: set[tuple[int, int]], tally: _Tally) -> list[tuple[str, int]]:
    """(path relative to `folder`, bytes) of every picture below; a folder that was visited is not entered again."""
    found: list[tuple[str, int]] = []
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
            suffix = os.path.splitext(name)[1].lower()
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
                elif suffix in SUFFIXES:
                    found.append((prefix + name, entry.stat().st_size))
                else:
                    tally.other[suffix] += 1
            except OSError:
                tally.broken += 1
    return found
