"""Every set by name against torchvision's own reading of the same files: pixels, labels, names, parts; no network."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tessella.data.origins import torchvision_sets
from tessella.data.origins.listing import Listing, settle
from tessella.data.origins.torchvision_sets import KNOWN, NAMES, open_set
from tessella.data.source import DataConfig
from tessella.errors import BadInput

datasets = pytest.importorskip("torchvision.datasets")
DRAW = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whoever asks the network is written down, and gets no answer."""
    asked: list[str] = []

    def refuse(*address: Any, **_: Any) -> Any:
        asked.append(str(address[0]))
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: refuse(address))
    return asked


@pytest.fixture
def any_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins have not the published sums: here, and only here, a file that is there is right."""
    for name, module in list(sys.modules.items()):
        if name.startswith("torchvision.datasets") and "check_integrity" in vars(module):
            monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))


def cfg(root: Path) -> DataConfig:
    return DataConfig(path="x", cache=str(root))


def opened(address: str, root: Path) -> Listing:
    return open_set(address, cfg(root))


def said(notes: list[str], *words: str) -> bool:
    return any(all(w in note for w in words) for note in notes)


# ------------------------------------------------------------------------------------ small stand-ins of every layout


def noise(*shape: int) -> np.ndarray:
    return DRAW.integers(0, 256, shape, np.uint8)


def picture(path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(6, 5, 3)).save(path, **options)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"u1": 8, "i4": 12}[array.dtype.str[1:]]
    big = array.astype(array.dtype.newbyteorder(">"))
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + big.tobytes())


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


def mat(path: Path, **values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("scipy.io").savemat(path, values)


def cifar(root: Path, folder: str, files: list[str], key: str, names: list[str], meta: tuple[str, str]) -> None:
    for name in files:
        labels = DRAW.integers(0, len(names), 7).tolist()
        dump(root / folder / name, {"data": noise(7, 3072), key: labels})
    dump(root / folder / meta[0], {meta[1]: names})


def cifar10(root: Path) -> None:
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    cifar(root, "cifar-10-batches-py", batches, "labels", names, ("batches.meta", "label_names"))


def cifar100(root: Path) -> None:
    names = [f"thing_{i}" for i in range(100)]
    cifar(root, "cifar-100-python", ["train", "test"], "fine_labels", names, ("meta", "fine_label_names"))


def mnist(folder: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for part in ("train", "t10k"):
            idx(root / folder / f"raw/{part}-images-idx3-ubyte", noise(9, 28, 28))
            idx(root / folder / f"raw/{part}-labels-idx1-ubyte", (np.arange(9) % 10).astype(np.uint8))

    return make


def qmnist(root: Path) -> None:
    for part in ("train", "test"):
        idx(root / f"QMNIST/raw/qmnist-{part}-images-idx3-ubyte", noise(9, 28, 28))
        idx(root / f"QMNIST/raw/qmnist-{part}-labels-idx2-int", DRAW.integers(0, 10, (9, 8)).astype(np.int32))


def emnist(kind: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        low = 1 if kind == "letters" else 0
        for part in ("train", "test"):
            idx(root / f"EMNIST/raw/emnist-{kind}-{part}-images-idx3-ubyte", noise(9, 28, 28))
            idx(root / f"EMNIST/raw/emnist-{kind}-{part}-labels-idx1-ubyte", (np.arange(9) + low).astype(np.uint8))

    return make


def svhn(root: Path) -> None:
    for part in ("train", "test"):
        mat(root / f"{part}_32x32.mat", X=noise(32, 32, 3, 9), y=np.array([[10, 1, 2, 3, 4, 5, 9, 10, 7]]).T)


def stl10(root: Path) -> None:
    for part, n in (("train", 4), ("test", 3), ("unlabeled", 5)):
        text(root / f"stl10_binary/{part}_X.bin", "")
        (root / f"stl10_binary/{part}_X.bin").write_bytes(noise(n, 3, 96, 96).tobytes())
        (root / f"stl10_binary/{part}_y.bin").write_bytes(bytes(range(1, n + 1)))
    text(root / "stl10_binary/class_names.txt", "\n".join(f"thing{i}" for i in range(10)))


def usps(root: Path) -> None:
    for name in ("usps.bz2", "usps.t.bz2"):
        rows = [
            f"{i + 1} " + " ".join(f"{j + 1}:{v:.3f}" for j, v in enumerate(DRAW.uniform(-1, 1, 256)))
            for i in range(10)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(rows).encode()))


def semeion(root: Path) -> None:
    rows = [[*DRAW.integers(0, 2, 256), *(np.arange(10) == i)] for i in range(10)]
    np.savetxt(root / "semeion.data", np.array(rows, float))


def fer2013(root: Path) -> None:
    rows = [f"{i % 7},{' '.join(map(str, noise(48 * 48)))},{'Training' if i < 8 else 'PublicTest'}" for i in range(12)]
    text(root / "fer2013/fer2013.csv", "emotion,pixels,Usage\n" + "\n".join(rows))


def pcam(root: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (root / "pcam").mkdir()
    for part in ("train", "valid", "test"):
        for key, value in (("x", noise(5, 96, 96, 3)), ("y", np.array([0, 1, 1, 0, 1]).reshape(5, 1, 1, 1))):
            with h5py.File(root / f"pcam/camelyonpatch_level_2_split_{part}_{key}.h5", "w") as file:
                file[key] = value


def flowers102(root: Path) -> None:
    for i in range(1, 10):
        picture(root / f"flowers-102/jpg/image_{i:05d}.jpg")
    mat(root / "flowers-102/imagelabels.mat", labels=np.array([1, 1, 2, 77, 5, 102, 3, 2, 9]))
    mat(root / "flowers-102/setid.mat", trnid=[9, 1, 2, 3], valid=[4, 5, 6], tstid=[7, 8])


def food101(root: Path) -> None:
    for part, rows in (("train", {"sushi": ["sushi/1", "sushi/2"], "apple_pie": ["apple_pie/9"]}),
                       ("test", {"apple_pie": ["apple_pie/3"], "sushi": ["sushi/7"]})):  # fmt: skip
        text(root / f"food-101/meta/{part}.json", json.dumps(rows))
        for name in (n for names in rows.values() for n in names):
            picture(root / f"food-101/images/{name}.jpg")


def pets(root: Path) -> None:
    for part in ("trainval", "test"):
        rows = [f"{name}_{part}{i} {k} 1 1" for k, name in ((1, "Abyssinian"), (2, "american_bulldog")) for i in (1, 2)]
        text(root / f"oxford-iiit-pet/annotations/{part}.txt", "\n".join(rows))
        for row in rows:
            picture(root / f"oxford-iiit-pet/images/{row.split()[0]}.jpg")


def dtd(root: Path) -> None:
    for partition in (1, 4):
        for k, part in enumerate(("train", "val", "test")):
            rows = [f"{c}/{c}_{(k + partition) % 3}{i}.jpg" for c in ("banded", "dotted") for i in (1, 2)]
            text(root / f"dtd/dtd/labels/{part}{partition}.txt", "\n".join(rows))
            for row in rows:
                picture(root / f"dtd/dtd/images/{row}")


def folders(*paths: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for path in paths:
            picture(root / path)

    return make


def gtsrb(root: Path) -> None:
    for name in ("00000/a", "00000/b", "00001/c"):
        picture(root / f"gtsrb/GTSRB/Training/{name}.ppm")
    picture(root / "gtsrb/GTSRB/Final_Test/Images/00000.ppm")
    text(root / "gtsrb/GT-final_test.csv", "Filename;Width;ClassId\n00000.ppm;5;1\n")


def aircraft(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b/data"
    for level, file, names in (("variant", "variants", ("707-320", "A 300")), ("family", "families", ("707", "A3"))):
        text(base / f"{file}.txt", "\n".join(names))
        for k, part in enumerate(("train", "val", "test")):
            text(base / f"images_{level}_{part}.txt", f"{k}1 {names[0]}\n{k}2 {names[1]}\n")
            for n in (1, 2):
                picture(base / f"images/{k}{n}.jpg")


def cars(root: Path) -> None:
    kind = [("fname", "O"), ("class", "O")]
    for part, place in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.array([(f"{i}.jpg", k) for i, k in ((1, 2), (2, 1), (3, 2))], dtype=kind)
        mat(root / "stanford_cars" / place, annotations=rows)
        for i in (1, 2, 3):
            picture(root / f"stanford_cars/cars_{part}/{i}.jpg")
    mat(root / "stanford_cars/devkit/cars_meta.mat", class_names=np.array(["AM General", "Acura RL"], dtype=object))


def sun397(root: Path) -> None:
    text(root / "SUN397/ClassName.txt", "/a/abbey\n/b/bar/outdoor\n")
    for name in ("a/abbey/sun_b", "a/abbey/sun_a", "b/bar/outdoor/sun_c"):
        picture(root / f"SUN397/{name}.jpg")


def places365(root: Path) -> None:
    text(root / "categories_places365.txt", "/a/airfield 1\n/a/arch 0\n/b/bar/outdoor 2\n")
    text(root / "places365_train_standard.txt", "/a/airfield/1.jpg 1\n/b/bar/outdoor/2.jpg 2\n/a/arch/1.jpg 0\n")
    text(root / "places365_val.txt", "v1.jpg 2\nv2.jpg 0\n")
    for name in ("a/airfield/1", "b/bar/outdoor/2", "a/arch/1"):
        picture(root / f"data_256_standard/{name}.jpg")
    for name in ("v1", "v2"):
        picture(root / f"val_256/{name}.jpg")


def imagenet(root: Path) -> None:
    names = {"n01": ("crane",), "n02": ("maillot", "tank suit"), "n03": ("crane",), "n04": ("tench", "Tinca tinca")}
    torch.save((names, ["n01"]), root / "meta.bin")
    for part in ("train", "val"):
        for wnid in names:
            picture(root / f"{part}/{wnid}/{part}_{wnid}.JPEG", format="JPEG")


def inaturalist(root: Path) -> None:
    for version in ("2021_train", "2021_valid"):
        for k, rest in enumerate(("A_B_C_D_E_F_g", "A_B_C_D_E_H_i")):
            for name in ("b", "a"):
                picture(root / f"{version}/{k:05d}_{rest}/{name}{version}.jpg")


EURO = folders("eurosat/2750/Forest/1.jpg", "eurosat/2750/River/2.jpg", "eurosat/2750/AnnualCrop/3.jpg")
C101 = folders(*(f"caltech101/101_ObjectCategories/{n}_0001.jpg" for n in
                 ("ant/image", "yin_yang/image", "BACKGROUND_Google/image")))  # fmt: skip
C256 = folders(*(f"caltech256/256_ObjectCategories/{n}.jpg" for n in
                 ("001.ak47/001_0001", "001.ak47/001_0002", "002.american-flag/002_0001")))  # fmt: skip
LAND = folders(*(f"country211/{p}/{c}/{p}.jpg" for p in ("train", "valid", "test") for c in ("AD", "ZW")))
NETTE = folders(*(f"imagenette2-160/{p}/{c}/{p}_{c}.JPEG".replace("JPEG", "jpeg") for p in ("train", "val")
                  for c in ("n01440764", "n03000684")))  # fmt: skip
SST2 = folders(
    *(f"rendered-sst2/{p}/{c}/{p}.png" for p in ("train", "valid", "test") for c in ("negative", "positive"))
)

# address, what makes it, the arguments of torchvision's class for each part, its names as we give them (None: as there)
DIGITS = tuple("0123456789")
SETS: list[tuple[str, Callable[[Path], None], dict[str, dict[str, Any]], tuple[str, ...] | None]] = [
    ("cifar10", cifar10, {"train": {"train": True}, "test": {"train": False}}, None),
    ("cifar100", cifar100, {"train": {"train": True}, "test": {"train": False}}, None),
    ("mnist", mnist("MNIST"), {"train": {"train": True}, "test": {"train": False}}, DIGITS),
    ("fashion-mnist", mnist("FashionMNIST"), {"train": {"train": True}, "test": {"train": False}}, None),
    ("kmnist", mnist("KMNIST"), {"train": {"train": True}, "test": {"train": False}}, None),
    ("qmnist", qmnist, {"train": {"what": "train"}, "test": {"what": "test"}}, DIGITS),
    ("emnist", emnist("balanced"), {"train": {"split": "balanced"}, "test": {"split": "balanced", "train": False}},
     None),
    ("emnist:letters", emnist("letters"), {"train": {"split": "letters"}, "test": {"split": "letters", "train": False}},
     tuple("abcdefghijklmnopqrstuvwxyz")),
    ("svhn", svhn, {"train": {"split": "train"}, "test": {"split": "test"}}, DIGITS),
    ("stl10", stl10, {"train": {"split": "train"}, "test": {"split": "test"}}, None),
    ("stl10-unlabeled", stl10, {"train": {"split": "train+unlabeled"}, "test": {"split": "test"}}, None),
    ("usps", usps, {"train": {"train": True}, "test": {"train": False}}, DIGITS),
    ("semeion", semeion, {"": {"download": False}}, DIGITS),
    ("fer2013", fer2013, {"train": {"split": "train"}, "test": {"split": "test"}},
     ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")),
    ("pcam", pcam, {p: {"split": p} for p in ("train", "val", "test")}, ("normal", "metastasis")),
    ("flowers102", flowers102, {p: {"split": p} for p in ("train", "val", "test")}, None),
    ("food101", food101, {p: {"split": p} for p in ("train", "test")}, None),
    ("oxford-pets", pets, {"train": {"split": "trainval"}, "test": {"split": "test"}},
     ("Abyssinian", "American Bulldog")),
    ("dtd", dtd, {p: {"split": p} for p in ("train", "val", "test")}, None),
    ("dtd:4", dtd, {p: {"split": p, "partition": 4} for p in ("train", "val", "test")}, None),
    ("eurosat", EURO, {"": {}}, None),
    ("caltech101", C101, {"": {}}, ("ant", "yin_yang")),
    ("caltech256", C256, {"": {}}, ("ak47", "american-flag")),
    ("gtsrb", gtsrb, {p: {"split": p} for p in ("train", "test")}, tuple(f"{i:05d}" for i in range(43))),
    ("fgvc-aircraft", aircraft, {p: {"split": p} for p in ("train", "val", "test")}, None),
    ("fgvc-aircraft:family", aircraft,
     {p: {"split": p, "annotation_level": "family"} for p in ("train", "val", "test")}, None),
    ("stanford-cars", cars, {p: {"split": p} for p in ("train", "test")}, None),
    ("country211", LAND, {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}}, None),
    ("sun397", sun397, {"": {}}, ("abbey", "bar/outdoor")),
    ("places365", places365, {"train": {"split": "train-standard", "small": True}, "val": {"split": "val",
     "small": True}}, ("arch", "airfield", "bar/outdoor")),
    ("imagenette:160px", NETTE, {p: {"split": p, "size": "160px"} for p in ("train", "val")}, ("tench", "chain saw")),
    ("imagenet", imagenet, {p: {"split": p} for p in ("train", "val")},
     ("crane (n01)", "maillot", "crane (n03)", "tench")),
    ("inaturalist", inaturalist, {"train": {"version": "2021_train"}, "val": {"version": "2021_valid"}},
     ("00000_A_B_C_D_E_F_g", "00001_A_B_C_D_E_H_i")),
    ("rendered-sst2", SST2, {p: {"split": p} for p in ("train", "val", "test")}, None),
]  # fmt: skip


def pixels(data: bytes) -> np.ndarray:
    array = np.load(io.BytesIO(data), allow_pickle=False) if data[:6] == b"\x93NUMPY" else Image.open(io.BytesIO(data))
    return np.asarray(array)


def ours(listing: Listing, part: str) -> list[tuple[bytes, int]]:
    where = range(len(listing.ids))
    if part:
        where = np.flatnonzero(listing.split == listing.splits.index(part)).tolist()
    return sorted((pixels(listing.reader.read(i)).tobytes(), int(listing.label[i])) for i in where)


@pytest.mark.parametrize(("address", "make", "parts", "names"), SETS, ids=[s[0] for s in SETS])
def test_as_torchvision_reads_it(
    tmp_path: Path, any_sum: None, no_network: list[str], address: str, make: Callable[[Path], None],
    parts: dict[str, dict[str, Any]], names: tuple[str, ...] | None,
) -> None:  # fmt: skip
    make(tmp_path)
    listing = opened(address, tmp_path)
    assert not no_network and listing.ordered and listing.where == address
    assert listing.splits == (() if "" in parts else tuple(parts))
    kind, turned = getattr(datasets, KNOWN[address.split(":")[0]].kind), address.startswith("emnist")
    shift = 1 if address == "emnist:letters" else 0
    for part, arguments in parts.items():
        theirs = kind(tmp_path, **arguments)
        if names is None and part in ("", "train"):
            assert listing.names == tuple(theirs.classes)
        want = []
        for i in range(len(theirs)):
            image, label = theirs[i]
            array = np.asarray(image)
            if isinstance(image, Image.Image) and "data" not in vars(theirs) and address not in ("fer2013", "pcam"):
                array = np.asarray(image.convert("RGB"))
            want.append(((array.T if turned else array).tobytes(), int(label) - shift))
        assert ours(listing, part) == sorted(want)
    if names is not None:
        assert listing.names == names
    assert len(set(listing.ids)) == len(listing.ids)
    split = listing.split if listing.split is not None else np.zeros(len(listing.ids), int)
    for part in np.unique(split):  # in an order that no file system decides
        inside = [listing.ids[i] for i in np.flatnonzero(split == part)]
        assert inside == sorted(inside)
    for i in range(len(listing.ids)):
        assert listing.sizes[i] == len(listing.reader.read(i))
    copy = pickle.loads(pickle.dumps(listing.reader))
    assert [copy.read(i) for i in range(len(listing.ids))] == [listing.reader.read(i) for i in range(len(listing.ids))]
    assert len(pickle.dumps(listing.reader)) < 5_000
    again = opened(address, tmp_path)
    assert list(again.ids) == list(listing.ids) and not no_network


def test_every_set_of_the_table_is_tried_and_exists() -> None:
    assert {s[0].split(":")[0] for s in SETS} == set(NAMES)
    assert all(isinstance(getattr(datasets, known.kind), type) for known in KNOWN.values())


def test_the_oracle_sees_swapped_labels_and_pixels(tmp_path: Path, any_sum: None) -> None:
    cifar10(tmp_path)
    listing = opened("cifar10", tmp_path)
    theirs = datasets.CIFAR10(tmp_path, train=False)
    want = sorted((np.asarray(image).tobytes(), label) for image, label in theirs)
    assert ours(listing, "test") == want
    channels_first = [(pixels(listing.reader.read(i)).transpose(2, 0, 1).tobytes(), int(listing.label[i]))
                      for i in range(35, 42)]  # fmt: skip
    assert sorted(channels_first) != want
    assert ours(listing, "train") != want


# ---------------------------------------------------------------------------------------------------- the real thing


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("fashion")
    (root / "fashion-mnist/FashionMNIST/raw").mkdir(parents=True)
    # its archives are not, byte by byte, the published ones: what is in them is
    for file in (shared_data / "fashion-mnist").glob("*.gz"):
        (root / "fashion-mnist/FashionMNIST/raw" / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    yield root


def test_fashion_mnist(fashion: Path, no_network: list[str]) -> None:
    listing = opened("fashion-mnist", fashion)
    assert not no_network and not listing.notes
    assert np.bincount(listing.split).tolist() == [60_000, 10_000]
    assert np.bincount(listing.label).tolist() == [7_000] * 10
    assert listing.names[0] == "T-shirt/top" and listing.ids[60_000] == "test/000000"
    theirs = datasets.FashionMNIST(fashion / "fashion-mnist", train=False)
    for i in range(0, 10_000, 499):
        assert np.array_equal(pixels(listing.reader.read(60_000 + i)), theirs.data[i].numpy())
        assert listing.label[60_000 + i] == theirs.targets[i]
    splits = settle(listing, DataConfig(path="fashion-mnist"))
    assert (len(splits.train), len(splits.val), splits.classes) == (60_000, 10_000, tuple(theirs.classes))


# --------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("name", NAMES)
def test_offline_says_what_to_put_where(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(BadInput) as caught:
        opened(name, tmp_path)
    told = str(caught.value)
    assert told.startswith(name) and str(tmp_path / name) in told and "\n" not in told and len(told) < 1000
    assert KNOWN[name].files.split()[0] in told
    assert socket.getdefaulttimeout() is None


def test_damaged_pickles_are_not_read(tmp_path: Path, no_network: list[str]) -> None:
    """Without the published sums nothing is unpickled: a file that would run a program is refused unread."""
    cifar10(tmp_path / "cifar10")

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    dump(tmp_path / "cifar10/cifar-10-batches-py/data_batch_1", Bomb())
    with pytest.raises(BadInput, match="cifar-10-python"):
        opened("cifar10", tmp_path)
    assert no_network and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("cifar11", "did you mean 'cifar10'"),
        ("wholly-unlike", "there are caltech101, "),
        ("emnist:all", "emnist:balanced or emnist:byclass"),
        ("cifar10:fine", "no variant 'fine'; give cifar10$"),
    ],
)
def test_unknown_names(tmp_path: Path, address: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        opened(address, tmp_path)


def test_missing_pictures_are_counted_and_all_missing_is_an_error(tmp_path: Path) -> None:
    food101(tmp_path)
    (tmp_path / "food-101/images/sushi/1.jpg").unlink()
    listing = opened("food101", tmp_path)
    assert "food-101/images/sushi/1.jpg" not in list(listing.ids) and len(listing.ids) == len(listing.label) == 4
    assert listing.names[listing.label[list(listing.ids).index("food-101/images/sushi/2.jpg")]] == "sushi"
    assert said(listing.notes, "1 pictures of the set are not on disk", "sushi/1.jpg")
    assert said(listing.notes, "3 of the 75,750 train pictures") and said(listing.notes, "2 of the 25,250 test")
    for path in (tmp_path / "food-101/images").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(BadInput, match="none of its 5 pictures"):
        opened("food101", tmp_path)


def test_classes_of_parts_are_joined_by_name(tmp_path: Path) -> None:
    """DTD numbers the classes of each part anew: a class that a part lacks must not shift the others."""
    dtd(tmp_path)
    text(tmp_path / "dtd/dtd/labels/val1.txt", "dotted/dotted_21.jpg\n")
    listing = opened("dtd", tmp_path)
    val = np.flatnonzero(listing.split == listing.splits.index("val"))
    assert [listing.names[listing.label[i]] for i in val] == ["dotted"]


def test_a_sign_is_what_its_folder_is_called_by(tmp_path: Path) -> None:
    """Torchvision numbers the folders that are there: one missing shifts what follows, but not the test part."""
    gtsrb(tmp_path)
    os.rename(tmp_path / "gtsrb/GTSRB/Training/00001", tmp_path / "gtsrb/GTSRB/Training/00042")
    listing = opened("gtsrb", tmp_path)
    assert [listing.names[label] for label in listing.label] == ["00000", "00000", "00042", "00001"]


def test_archives_put_there_by_hand_are_unpacked(tmp_path: Path, any_sum: None, no_network: list[str]) -> None:
    mnist("MNIST")(tmp_path / "mnist")
    for path in list((tmp_path / "mnist/MNIST/raw").iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert len(opened("mnist", tmp_path).ids) == 18 and not no_network


def test_two_processes_wait_for_each_other(tmp_path: Path) -> None:
    """Ranks that open the same set at once fetch it once."""
    code = (
        "import sys, time; from tessella.data.origins.torchvision_sets import _alone\n"
        "with _alone(sys.argv[1]):\n  print(time.time(), flush=True); time.sleep(0.3); print(time.time(), flush=True)"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)]
    spans = sorted(tuple(map(float, run.communicate(timeout=60)[0].split())) for run in runs)
    assert spans[0][1] <= spans[1][0]


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_sets.importlib.util, "find_spec", lambda name: None)
    for name, package in (("svhn", "scipy"), ("pcam", "h5py")):
        with pytest.raises(BadInput, match=f"pip install {package}"):
            opened(name, tmp_path)


def test_the_users_cache_is_where_sets_lie_by_default(
    tmp_path: Path, any_sum: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "tessella/sets/cifar10").mkdir(parents=True)
    cifar10(tmp_path / "tessella/sets/cifar10")
    assert len(open_set("cifar10", DataConfig(path="cifar10")).ids) == 42


def test_names_are_known_without_torchvision() -> None:
    start = "import sys; from tessella.data.origins.torchvision_sets import NAMES"
    code = f"{start}; print('torchvision' in sys.modules, len(NAMES))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", str(len(NAMES))], done.stderr
