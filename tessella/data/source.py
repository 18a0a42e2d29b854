"""A fixed, ordered list of encoded pictures with what is known of each: one class, wherever the pictures lie.

Sample `i` stays the same picture while the data is unchanged, in whatever order its origin lists it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..card import Head, alone
from ..config import nearest
from ..errors import BadInput
from .names import Names
from .pixels.augment import AugmentConfig
from .pixels.mix import MixConfig
from .pixels.views import Views

Rows = NDArray[np.int64]
Labels = NDArray[np.int64]
Kind = Literal["classify", "tags", "number"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, and how they are fed."""

    path: str  # folder, archive, shards, table, name of a known set, or hf:owner/name: see data/origins/open.py
    kind: Literal["auto", "coco", "voc", "yolo", "masks"] = "auto"  # auto: by the address and what lies there
    image: str | None = None  # of a table: the column with the file's name or bytes; None: found by its name
    label: str | None = None  # of a table: the column with the class; of tar shards: the suffix or JSON key
    split: str | None = None  # of a table: the column that says train, val or test
    targets: tuple[str, ...] = ()  # of a table: the columns to be learned, each by a head of its own; instead of label
    kinds: dict[str, Kind] = field(default_factory=dict)  # of these columns, where their values say another
    cache: str | None = None  # where what is fetched is kept; None: the user's cache folder
    validation: str | None = None  # another address with the same classes; None: what `path` has, else a share of train
    add: tuple[str, ...] = ()  # more data sets whose classes are learned as well: see `train --from RUN --add DATA`
    replay: float = 1.0  # share of the pictures from before the last of these that is seen again
    val_share: float = 0.2  # share of each class held out where no validation pictures are found; 0: no validation
    seed: int = 0  # which files are held out; apart from the run's seed, so that runs stay comparable
    workers: int | None = None  # processes that decode; None: by the number of cores; 0: in the main process
    max_bad: float = 0.01  # share of unreadable pictures above which the run stops
    balance: Literal["none", "classes", "root"] = "none"  # rare classes come as often, or by the root of their number
    repeats: int = 1  # views of a picture side by side in a batch (repeated augmentation)
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)  # None: training pictures as in evaluation
    mix: MixConfig | None = None  # mixup and CutMix; None: pictures stay apart
    views: Views | None = None  # what learning without labels sees: crops, hidden patches, turns; the method sets it

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 1:
            raise BadInput(f"data.val_share is {self.val_share}; give a share in [0, 1)")
        if self.workers is not None and self.workers < 0:
            raise BadInput(f"data.workers is {self.workers}; give 0 or more")
        if not 0 <= self.replay <= 1:
            raise BadInput(f"data.replay is {self.replay}; give a share in [0, 1]")
        if self.add and self.targets:
            raise BadInput("data.add brings classes, and data.targets are columns of a table; leave one of them out")
        if not 0 <= self.max_bad <= 1:
            raise BadInput(f"data.max_bad is {self.max_bad}; give a share in [0, 1], such as 0.01")
        twice = [name for name in self.targets if self.targets.count(name) > 1]
        if twice or not all(self.targets):
            raise BadInput(f"data.targets names {twice[0] if twice else ''!r} twice or nothing; name each column once")
        if any(name.split("/")[0] == "val" for name in self.targets):
            raise BadInput("data.targets names 'val', which is what validation is called in a log; rename the column")
        if self.targets and self.label is not None:
            raise BadInput(f"data.label is {self.label!r} and data.targets are given too; add it to the targets")
        for name in self.kinds:
            if name not in self.targets:
                raise BadInput(f"data.kinds has {name!r}, which is no target{nearest(name, self.targets)}")
        if self.repeats < 1:
            raise BadInput(f"data.repeats is {self.repeats}; give 1 or more")
        if self.views is not None and self.mix is not None:
            raise BadInput("data.mix mixes labels, and data.views is for learning without any; leave one of them out")


class Reader(Protocol):
    """Where the bytes are. Pickles; opens its files lazily, in each process anew."""

    def read(self, row: int) -> bytes: ...


class Column(Protocol):
    """One kind of target, of all samples: captions, boxes, masks."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Any: ...
    def take(self, rows: Rows) -> Column: ...
    def digest(self) -> bytes: ...  # another one when a value is another


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """What training and evaluation read. `ids` are unique names, POSIX paths where the pictures are files."""

    reader: Reader
    ids: Names
    sizes: NDArray[np.int64]  # bytes of each picture, -1: not known
    rows: Rows  # where the reader has each sample
    labels: Labels | None = None  # index into classes
    classes: tuple[str, ...] = ()
    targets: Mapping[str, Column] = field(
        default_factory=dict
    )  # beside the label: caption, number, labels, boxes, mask
    chunks: NDArray[np.int64] | None = None  # shard or row group of each sample: they are read together
    seal: str = ""  # what tells the pictures from others where names and sizes do not: a hash of some of the bytes

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, i: int) -> bytes:
        return self.reader.read(int(self.rows[i]))

    def manifest(self) -> list[tuple[str, int]]:
        """(id, bytes) of every sample, in order."""
        return list(zip(self.ids, self.sizes.tolist(), strict=True))

    def fingerprint(self) -> str:
        """sha256 of names, sizes, labels and targets in order: equal for the same data, cheap: no picture is read."""
        hasher = hashlib.sha256()
        self.ids.feed(hasher)
        hasher.update(self.sizes.astype("<i8").tobytes())
        hasher.update(b"" if self.labels is None else self.labels.astype("<i8").tobytes())
        for name in sorted(self.targets):
            hasher.update(name.encode() + self.targets[name].digest())
        hasher.update(self.seal.encode())
        return hasher.hexdigest()

    def labels_present(self) -> list[int]:
        return [] if self.labels is None else np.unique(self.labels).tolist()

    def take(self, keep: Rows) -> Source:
        """The samples of these indices, in that order."""
        return replace(
            self,
            ids=self.ids.take(keep),
            sizes=self.sizes[keep],
            rows=self.rows[keep],
            labels=None if self.labels is None else self.labels[keep],
            targets={name: column.take(keep) for name, column in self.targets.items()},
            chunks=None if self.chunks is None else self.chunks[keep],
        )


class Opened(NamedTuple):
    """A source, and what the user should know about it."""

    source: Source
    notes: list[str]


class Splits(NamedTuple):
    """What a training run reads; `classes` in the order of the network's outputs."""

    train: Source
    val: Source | None
    classes: tuple[str, ...]
    notes: list[str]
    targets: tuple[Head, ...] = ()  # what is to be said of a picture, where somebody named it; empty: its class

    @property
    def heads(self) -> tuple[Head, ...]:
        return self.targets or (alone(self.classes),)


def held_out(everything: Source, share: float, seed: int, notes: list[str]) -> Splits:
    """Splits with a validation part made from train."""
    classes = everything.classes
    if not share:
        return Splits(everything, None, classes, [*notes, "no validation pictures: val_share is 0"])
    train, val = split(everything, share, seed)
    if not len(val):
        return Splits(everything, None, classes, [*notes, "no validation pictures: each class has one only"])
    told = f"{len(val):,} of {len(everything):,} pictures held out, the same share of each class"
    alone = sorted(set(train.labels_present()) - set(val.labels_present()))
    notes = [*notes, f"no validation part: {told}"]
    notes += [f"class {classes[c]!r} has one picture: none of it is left to validate on" for c in alone]
    return Splits(train, val, classes, notes)


NOTHING_HELD = "no pictures are held out, so nothing will show whether it works"


def apart(everything: Source, share: float, seed: int, notes: list[str]) -> Splits:
    """Splits for learning without labels: what is held out shows whether it works."""
    classes = everything.classes
    if not share or len(everything) < 2:
        return Splits(everything, None, classes, [*notes, NOTHING_HELD])
    train, val = split(everything, share, seed)
    told = f"no validation part: {len(val):,} of {len(everything):,} pictures held out"
    return Splits(train, val, classes, [*notes, told])


def split(source: Source, share: float, seed: int, strata: Labels | None = None) -> tuple[Source, Source]:
    """Hold out the same share of every class (at least one, never all), by hash: new files move few old ones.
    `strata`: other groups than the classes of which the same share is held out."""
    none = np.zeros(len(source), dtype=np.int64)
    labels = strata if strata is not None else none if source.labels is None else source.labels
    salt = str(seed).encode() + b"\0"
    ranks = np.frombuffer(
        b"".join(
            hashlib.blake2b(salt + name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
            for name in source.ids
        ),
        dtype=">u8",
    )
    held = np.zeros(len(source), dtype=bool)
    order = np.lexsort((ranks, labels))  # by class, within it by hash
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0, True])
    for start, end in itertools.pairwise(starts):
        n = int(end - start)
        held[order[start : start + min(n - 1, max(1, round(share * n)))]] = True
    return source.take(np.flatnonzero(~held)), source.take(np.flatnonzero(held))


def relabelled(source: Source, classes: tuple[str, ...]) -> Source:
    """With its labels as places in `classes`, by name; -1 where a class is none of these."""
    if source.labels is None or not classes:
        return replace(source, labels=None, classes=classes)
    place = {name: i for i, name in enumerate(classes)}
    where = np.array([*(place.get(name, -1) for name in source.classes), -1], dtype=np.int64)  # the last is for -1
    return replace(source, labels=where[source.labels], classes=classes)
