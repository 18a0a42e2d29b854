"""The classification sets that torchvision knows by name, as listings: their own files, or .npy bytes of their arrays.

Torchvision fetches, checks (its md5 sums stay on: some sets are pickles, and those are only read when the sum is right)
and unpacks; no picture is decoded by it. Files that are already there are used without touching the network.
"""

from __future__ import annotations

import fcntl
import importlib.util
import io
import os
import socket
import string
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...config import nearest
from ...errors import BadInput
from ..names import Names
from ..source import DataConfig
from .folder import FolderReader
from .listing import Listing

Arrays = NDArray[np.uint8]  # (N, H, W) or (N, H, W, C)
Parts = Mapping[str, Mapping[str, Any]]  # name of the part, as splits are called -> torchvision's arguments for it
WAIT = 30  # seconds without an answer after which a server counts as gone

DIGITS = tuple(string.digits)
BY_TRAIN: Parts = {"train": {"train": True}, "test": {"train": False}}
TWO: Parts = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE: Parts = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
WHOLE: Parts = {"": {}}  # no parts: all of it


class Pile(NamedTuple):
    """One part of a set, as torchvision holds it."""

    pictures: Arrays | _Shelf | list[str]  # or paths of files
    labels: NDArray[np.int64]  # -1: none
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Known:
    """A set: which class of torchvision it is, and what we must know beside."""

    kind: str  # class in torchvision.datasets
    parts: Parts
    place: str  # folder below the root that its archives belong into; empty: the root itself
    files: str  # what to put there by hand: torchvision unpacks it
    counts: tuple[int, ...]  # pictures of each part as published; fewer: the download was cut off
    take: Callable[[Any], Pile]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # NAME:VARIANT -> arguments; first: default
    needs: str = ""  # a package beside torchvision
    note: str = ""  # what a user should know


# ------------------------------------------------------------------------- from torchvision's objects to what they hold


def _arrays(
    names: Sequence[str] = (), labels: str = "targets", turned: bool = False, channels_first: bool = False
) -> Callable[[Any], Pile]:
    """Sets that are one array. `turned`: rows and columns are swapped there."""

    def take(found: Any) -> Pile:
        pictures = np.asarray(found.data)
        if channels_first:
            pictures = pictures.transpose(0, 2, 3, 1)
        if turned:
            pictures = pictures.swapaxes(1, 2)
        numbers = np.asarray(getattr(found, labels))
        numbers = numbers[:, 0] if numbers.ndim == 2 else numbers  # QMNIST: the writer and more stand beside it
        if pictures.strides[0] != max(pictures.strides):  # SVHN: a picture's bytes lie all over the array
            pictures = np.ascontiguousarray(pictures)
        return Pile(pictures, numbers.astype(np.int64), tuple(names or found.classes))

    return take


def _letters(found: Any) -> Pile:
    """EMNIST: pictures lie on their side, and the classes of its letters begin with one that is not there."""
    pile = _arrays(turned=True)(found)
    if pile.classes[0] == "N/A":
        return pile._replace(labels=pile.labels - 1, classes=pile.classes[1:])
    return pile


def _patches(found: Any) -> Pile:
    """PCAM: 7 GB, so the file stands for the array, and each picture is read when it is asked for."""
    pictures, labels = (
        os.path.join(found._base_folder, found._FILES[found._split][k][0]) for k in ("images", "targets")
    )
    with found.h5py.File(labels) as file:
        numbers = np.asarray(file["y"], dtype=np.int64).reshape(-1)
    return Pile(_Shelf(pictures, "x", len(numbers)), numbers, ("normal", "metastasis"))


class _Shelf:
    """An array in an HDF5 file."""

    def __init__(self, path: str, key: str, length: int) -> None:
        self._path, self._key, self._length = path, key, length
        self._open: tuple[int, Any] | None = None  # by process: handles do not survive a fork

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        if self._open is None or self._open[0] != os.getpid():
            try:
                import h5py  # type: ignore
            except ImportError:
                raise BadInput("pictures in HDF5 files need h5py: pip install h5py") from None
            self._open = os.getpid(), h5py.File(self._path, "r")[self._key]
        return np.asarray(self._open[1][i])


def _faces(found: Any) -> Pile:
    pictures = np.stack([np.asarray(picture) for picture, _ in found._samples])
    labels = [-1 if label is None else label for _, label in found._samples]
    return Pile(pictures, np.array(labels, dtype=np.int64), FACES)


FACES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def _paths(found: Any) -> Pile:
    """Sets of files whose loader can be replaced by one that does not load."""
    found.loader = os.fspath
    samples = [found[i] for i in range(len(found))]
    return _piled(samples, _class_names(found))


def _samples(field_of_paths: str, field_of_labels: str = "") -> Callable[[Any], Pile]:
    """Sets of files that open pictures themselves: the paths that they hold."""

    def take(found: Any) -> Pile:
        held = getattr(found, field_of_paths)
        samples = list(zip(held, getattr(found, field_of_labels), strict=True)) if field_of_labels else held
        return _piled(samples, _class_names(found))

    return take


def _signs(found: Any) -> Pile:
    """The class of a training picture is the number that its folder is called by, whichever folders are there."""
    numbers = [(path, os.path.basename(os.path.dirname(path)), label) for path, label in found._samples]
    samples = [(path, int(folder) if folder.isdigit() else label) for path, folder, label in numbers]
    return _piled(samples, tuple(f"{i:05d}" for i in range(43)))


def _caltech(folder: str) -> Callable[[Any], Pile]:
    def take(found: Any) -> Pile:
        paths = [
            os.path.join(found.root, folder, found.categories[label], _caltech_file(folder, label, number))
            for label, number in zip(found.y, found.index, strict=True)
        ]
        names = [name.partition(".")[2] if folder.startswith("256") else name for name in found.categories]
        return _piled(list(zip(paths, found.y, strict=True)), tuple(names))

    return take


def _caltech_file(folder: str, label: int, number: int) -> str:
    return f"image_{number:04d}.jpg" if folder.startswith("101") else f"{label + 1:03d}_{number:04d}.jpg"


def _places(found: Any) -> Pile:
    pile = _paths(found)
    by_number = sorted(found.class_to_idx, key=found.class_to_idx.__getitem__)
    return pile._replace(classes=tuple(name[3:] for name in by_number))  # /a/airfield


def _species(found: Any) -> Pile:
    samples = [(os.path.join(found.root, found.all_categories[label], name), label) for label, name in found.index]
    return _piled(samples, tuple(found.all_categories))


def _piled(found: Sequence[tuple[Any, Any]], classes: tuple[str, ...]) -> Pile:
    """Sorted by path: some of torchvision's lists are in the order of the file system."""
    samples = sorted((os.fspath(path), label) for path, label in found)
    labels = np.array([-1 if label is None else int(label) for _, label in samples], dtype=np.int64)
    return Pile([path for path, _ in samples], labels, classes)


def _class_names(found: Any) -> tuple[str, ...]:
    """One name for each class: the first of its synonyms that is its own, else all of them, else with its number."""
    classes = getattr(found, "classes", None)
    if classes is None:
        return ()
    synonyms = [(name,) if isinstance(name, str) else tuple(name) for name in classes]
    firsts = Counter(names[0] for names in synonyms)
    alls = Counter(", ".join(names) for names in synonyms)
    out = []
    for i, names in enumerate(synonyms):
        told = ", ".join(names)
        keys = getattr(found, "wnids", range(len(synonyms)))
        out.append(names[0] if firsts[names[0]] == 1 else told if alls[told] == 1 else f"{told} ({keys[i]})")
    return tuple(out)


# ------------------------------------------------------------------------------------------------------------ the table

_MNIST = "train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz"
_EMNIST_KINDS = {kind: {"split": kind} for kind in ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")}


def _digits(kind: str, names: Sequence[str] = DIGITS) -> Known:
    return Known(
        kind=kind, parts=BY_TRAIN, place=f"{kind}/raw", files=_MNIST, counts=(60_000, 10_000), take=_arrays(names)
    )


KNOWN: Mapping[str, Known] = {
    "cifar10": Known(kind="CIFAR10", parts=BY_TRAIN, place="", files="cifar-10-python.tar.gz",
                     counts=(50_000, 10_000), take=_arrays()),
    "cifar100": Known(kind="CIFAR100", parts=BY_TRAIN, place="", files="cifar-100-python.tar.gz",
                      counts=(50_000, 10_000), take=_arrays()),
    "mnist": _digits("MNIST"),
    "fashion-mnist": _digits("FashionMNIST", ()),
    "kmnist": _digits("KMNIST", ()),
    "qmnist": Known(kind="QMNIST", parts=BY_TRAIN, place="QMNIST/raw", counts=(60_000, 60_000), take=_arrays(DIGITS),
                    files="qmnist-{train,test}-images-idx3-ubyte.gz qmnist-{train,test}-labels-idx2-int.gz"),
    "emnist": Known(kind="EMNIST", parts=BY_TRAIN, place="EMNIST/raw", files="gzip.zip", counts=(), take=_letters,
                    variants=_EMNIST_KINDS, note="turned upright (they are published on their side)"),
    "svhn": Known(kind="SVHN", parts=TWO, place="", files="train_32x32.mat test_32x32.mat",
                  counts=(73_257, 26_032), take=_arrays(DIGITS, "labels", channels_first=True), needs="scipy"),
    "stl10": Known(kind="STL10", parts=TWO, place="", files="stl10_binary.tar.gz", counts=(5_000, 8_000),
                   take=_arrays((), "labels", channels_first=True),
                   note="the unlabelled pictures are in stl10-unlabeled"),
    "stl10-unlabeled": Known(kind="STL10", place="", files="stl10_binary.tar.gz", counts=(105_000, 8_000),
                             parts={"train": {"split": "train+unlabeled"}, "test": {"split": "test"}},
                             take=_arrays((), "labels", channels_first=True), note="2.9 GB in memory"),
    "usps": Known(kind="USPS", parts=BY_TRAIN, place="", files="usps.bz2 usps.t.bz2", counts=(7_291, 2_007),
                  take=_arrays(DIGITS)),
    "semeion": Known(kind="SEMEION", parts=WHOLE, place="", files="semeion.data", counts=(1_593,),
                     take=_arrays(DIGITS, "labels")),
    "fer2013": Known(kind="FER2013", parts=TWO, place="fer2013", files="fer2013.csv (or icml_face_data.csv)",
                     counts=(28_709, 7_178), take=_faces),
    "pcam": Known(kind="PCAM", parts=THREE, place="pcam", counts=(262_144, 32_768, 32_768), needs="h5py",
                  files="camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5", take=_patches),
    "flowers102": Known(kind="Flowers102", parts=THREE, place="flowers-102", counts=(1_020, 1_020, 6_149), take=_paths,
                        files="102flowers.tgz imagelabels.mat setid.mat", needs="scipy"),
    "food101": Known(kind="Food101", parts=TWO, place="", files="food-101.tar.gz", counts=(75_750, 25_250),
                     take=_paths),
    "oxford-pets": Known(kind="OxfordIIITPet", parts={"train": {"split": "trainval"}, "test": {"split": "test"}},
                         place="oxford-iiit-pet", files="images.tar.gz annotations.tar.gz", counts=(3_680, 3_669),
                         take=_samples("_images", "_labels")),
    "dtd": Known(kind="DTD", parts=THREE, place="dtd", files="dtd-r1.0.1.tar.gz", counts=(1_880, 1_880, 1_880),
                 take=_paths, variants={str(i): {"partition": i} for i in range(1, 11)}),
    "eurosat": Known(kind="EuroSAT", parts=WHOLE, place="eurosat", files="EuroSAT.zip", counts=(27_000,), take=_paths),
    "caltech101": Known(kind="Caltech101", parts=WHOLE, place="caltech101", files="caltech-101.zip", counts=(8_677,),
                        take=_caltech("101_ObjectCategories")),
    "caltech256": Known(kind="Caltech256", parts=WHOLE, place="caltech256", files="256_ObjectCategories.tar",
                        counts=(30_607,), take=_caltech("256_ObjectCategories")),
    "gtsrb": Known(kind="GTSRB", parts=TWO, place="gtsrb", counts=(26_640, 12_630), take=_signs,
                   files="GTSRB-Training_fixed.zip GTSRB_Final_Test_Images.zip GTSRB_Final_Test_GT.zip"),
    "fgvc-aircraft": Known(kind="FGVCAircraft", parts=THREE, place="", take=_paths,
                           files="fgvc-aircraft-2013b.tar.gz", counts=(3_334, 3_333, 3_333),
                           variants={k: {"annotation_level": k} for k in ("variant", "family", "manufacturer")}),
    "stanford-cars": Known(kind="StanfordCars", parts=TWO, place="stanford_cars", counts=(8_144, 8_041), take=_paths,
                           files="cars_train/ cars_test/ devkit/ cars_test_annos_withlabels.mat", needs="scipy"),
    "country211": Known(kind="Country211", parts={"train": {"split": "train"}, "val": {"split": "valid"},
                                                  "test": {"split": "test"}},
                        place="", files="country211.tgz", counts=(31_650, 10_550, 21_100), take=_paths),
    "sun397": Known(kind="SUN397", parts=WHOLE, place="", files="SUN397.tar.gz", counts=(108_754,), take=_paths),
    "places365": Known(kind="Places365", parts={"train": {"split": "train-standard"}, "val": {"split": "val"}},
                       place="", counts=(1_803_460, 36_500), take=_places,
                       files="filelist_places365-standard.tar and the archives of pictures",
                       variants={"small": {"small": True}, "large": {"small": False}}),
    "imagenette": Known(kind="Imagenette", parts={"train": {"split": "train"}, "val": {"split": "val"}},
                        place="", files="imagenette2.tgz", counts=(9_469, 3_925), take=_paths,
                        variants={"full": {"size": "full"}, "320px": {"size": "320px"}, "160px": {"size": "160px"}}),
    "imagenet": Known(kind="ImageNet", parts={"train": {"split": "train"}, "val": {"split": "val"}}, place="",
                      files="ILSVRC2012_devkit_t12.tar.gz ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar",
                      counts=(1_281_167, 50_000), take=_paths, needs="scipy"),
    "inaturalist": Known(kind="INaturalist", parts={"train": {"version": "2021_train"},
                                                    "val": {"version": "2021_valid"}},
                         place="", files="2021_train.tgz 2021_valid.tgz", counts=(2_686_843, 100_000),
                         take=_species),
    "rendered-sst2": Known(kind="RenderedSST2", parts=THREE, place="", files="rendered-sst2.tgz",
                           counts=(6_920, 872, 1_821), take=_paths),
}  # fmt: skip
NAMES = tuple(sorted(KNOWN))


# ---------------------------------------------------------------------------------------------------------- the listing


def open_set(address: str, cfg: DataConfig) -> Listing:
    """NAME or NAME:VARIANT of `NAMES`; fetched into the cache where it is not there yet."""
    name, variant = _asked(address)
    known = KNOWN[name]
    if known.needs and importlib.util.find_spec(known.needs) is None:
        raise BadInput(f"{name} is read with {known.needs}, which is not installed; pip install {known.needs}")
    root, piles = _load(name, variant, _roots(cfg, name))
    lengths = [len(pile.labels) for pile in piles]
    notes = [f"{address}: {known.note}"] if known.note else []
    for part, n, count in zip(known.parts, lengths, known.counts or lengths, strict=True):
        if n < count:
            told = f"{n:,} of the {count:,} {part} pictures that it has are in {root}".replace("  ", " ")
            notes.append(f"{address}: {told}; to fetch them anew, delete it there")
    classes = tuple(dict.fromkeys(c for pile in piles for c in pile.classes))
    number = {c: i for i, c in enumerate(classes)}
    label = np.concatenate(
        [np.array([*(number[c] for c in pile.classes), -1], dtype=np.int64)[pile.labels] for pile in piles]
    )
    split = np.repeat(np.arange(len(piles), dtype=np.int8), lengths)
    kept: Any = slice(None)
    reader: ArrayReader | FolderReader
    paths = [path for pile in piles if isinstance(pile.pictures, list) for path in pile.pictures]
    arrays = [pile.pictures for pile in piles if not isinstance(pile.pictures, list)]
    if paths:
        ids, sizes, kept = _files(root, paths, notes)
        reader = FolderReader(root, ids)
    else:
        reader = ArrayReader(name, variant, root, arrays)
        sizes = np.repeat(np.array(reader.lengths(), dtype=np.int64), lengths)
        numbered = zip(known.parts, lengths, strict=True)
        ids = Names.of(f"{part}/{i:06d}".lstrip("/") for part, n in numbered for i in range(n))
    whole = list(known.parts) == [""]
    return Listing(
        where=address,
        reader=reader,
        ids=ids,
        sizes=sizes,
        label=label[kept],
        names=classes,
        ordered=True,
        split=None if whole else split[kept],
        splits=() if whole else tuple(known.parts),
        notes=notes,
    )


def _asked(address: str) -> tuple[str, str]:
    """(name, variant); the first variant where none is named."""
    name, _, variant = address.lower().partition(":")
    if name not in KNOWN:
        raise BadInput(f"{address} is no set that torchvision knows{nearest(name, NAMES)}")
    variants = KNOWN[name].variants
    if variant and variant not in variants:
        told = f"give {' or '.join(f'{name}:{v}' for v in variants)}" if variants else f"give {name}"
        raise BadInput(f"{address}: {name} has no variant {variant!r}; {told}")
    return name, variant or next(iter(variants), "")


def _roots(cfg: DataConfig, name: str) -> list[str]:
    """Where a set may lie: the first is where it is fetched to."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    top = os.path.abspath(os.path.expanduser(cfg.cache or os.path.join(user, "tessella", "sets")))
    return [os.path.join(top, name), top]


def _load(name: str, variant: str, roots: Sequence[str]) -> tuple[str, list[Pile]]:
    """(the root where it is, its parts). The network is asked only where no root has it."""
    torn = ""
    for root in filter(os.path.isdir, roots):
        try:
            return root, _piles(name, variant, root, download=False)
        except RuntimeError:
            continue  # not there, or not with the published sums
        except Exception as error:  # there in part: anything may be missed
            torn = f"; what is in {root} is not whole: {_one_line(error)}"
    root, known = roots[0], KNOWN[name]
    try:
        with _alone(root):
            return root, _piles(name, variant, root, download=True)
    except BadInput:
        raise
    except Exception as error:
        place = os.path.join(root, known.place)
        raise BadInput(
            f"{name} is not in {root} and could not be fetched ({_one_line(error)}{torn}); put {known.files} "
            f"into {place}, set data.cache to a folder where torchvision has put it, or give a folder or an archive"
        ) from None


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _piles(name: str, variant: str, root: str, *, download: bool) -> list[Pile]:
    from torchvision import datasets

    known = KNOWN[name]
    kind, more = getattr(datasets, known.kind), known.variants.get(variant, {})
    out = []
    for part in known.parts.values():
        if download and not _fetches(kind):
            raise BadInput(f"{name} cannot be fetched by a program; put {known.files} into {root}/{known.place}")
        found = kind(root, **more, **part, **({"download": True} if download else {}))
        out.append(known.take(found))
    if not any(len(pile.labels) for pile in out):
        raise ValueError("it has no pictures")
    return out


def _fetches(kind: Any) -> bool:
    """Whether this class can fetch at all: three are not published in a way that a program may use."""
    return kind.__name__ not in ("FER2013", "ImageNet", "StanfordCars")


@contextmanager
def _alone(root: str) -> Iterator[None]:
    """One process fetches, the others wait; a server that says nothing is gone."""
    os.makedirs(root, exist_ok=True)
    before = socket.getdefaulttimeout()
    with open(os.path.join(root, ".fetching"), "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # this file system has no locks: two processes may fetch the same
        socket.setdefaulttimeout(WAIT)
        try:
            yield
        finally:
            socket.setdefaulttimeout(before)


def _files(root: str, paths: Sequence[str], notes: list[str]) -> tuple[Names, NDArray[np.int64], NDArray[np.int64]]:
    """(paths below the root, bytes, which of the given paths these are), sorted by part and path as given."""
    sizes = np.fromiter((_size(path) for path in paths), np.int64, len(paths))
    kept = np.flatnonzero(sizes >= 0)
    if not len(kept):
        raise BadInput(f"none of its {len(paths):,} pictures lie in {root} (first: {paths[0]}); restore them")
    if len(kept) < len(paths):
        first = paths[int(np.flatnonzero(sizes < 0)[0])]
        notes.append(f"{len(paths) - len(kept):,} pictures of the set are not on disk and left out (first: {first})")
    below = (os.path.relpath(paths[i], root).replace(os.sep, "/") for i in kept.tolist())
    return Names.of(below), sizes[kept], kept


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


class ArrayReader:
    """Pictures of arrays as .npy bytes. Another process reads the set's files again: arrays are not sent to it."""

    def __init__(self, name: str, variant: str, root: str, arrays: Sequence[Arrays | _Shelf]) -> None:
        self._of = (name, variant, root)
        self._set(arrays)

    def _set(self, arrays: Sequence[Any]) -> None:
        self._arrays = list(arrays)
        self._ends = list(accumulate(len(a) for a in arrays))
        self._heads = [_npy_head(np.asarray(a[0])) if len(a) else b"" for a in arrays]

    def __getstate__(self) -> tuple[str, str, str]:
        return self._of

    def __setstate__(self, state: tuple[str, str, str]) -> None:
        self._of, self._arrays = state, []

    def read(self, row: int) -> bytes:
        if not self._arrays:
            name, variant, root = self._of
            self._set([pile.pictures for pile in _load(name, variant, [root])[1]])
        part = bisect_right(self._ends, row)
        at = row - (self._ends[part - 1] if part else 0)
        return self._heads[part] + bytes(self._arrays[part][at].tobytes())

    def lengths(self) -> list[int]:
        """Bytes of a picture of each part."""
        return [
            len(head) + np.asarray(a[0]).nbytes if len(a) else 0
            for head, a in zip(self._heads, self._arrays, strict=True)
        ]


def _npy_head(picture: NDArray[np.uint8]) -> bytes:
    """What stands before the pixels in a .npy file: the same for all pictures of an array, so it is made once."""
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise BadInput(f"pictures of {picture.dtype} and shape {picture.shape} where bytes of (H, W, C) were expected")
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(picture)))
    return file.getvalue()
