"""Pascal VOC folders against torchvision on the same files; pixels counted from 1; files that attack the parser."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data.origins import voc as module
from tessella.data.origins.frames import clipped
from tessella.data.origins.listing import Listing
from tessella.data.origins.voc import TWENTY, open_voc, parse
from tessella.data.source import DataConfig
from tessella.errors import BadInput

CFG = DataConfig(path="x", kind="voc")
Object = tuple[str, tuple[Any, Any, Any, Any], int]


def picture(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)).save(path)


def xml(objects: list[Object], width: int = 40, height: int = 30) -> str:
    """As published: parts of a person have boxes of their own inside the object."""
    rows = "".join(
        f"<object>\n<name>{name}</name><pose>Left</pose><truncated>1</truncated><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>10</xmax><ymax>10</ymax></bndbox></part>"
        "</object>"
        for name, b, difficult in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>old.jpg</filename>{size}<segmented>0</segmented>{rows}</annotation>"


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def year(root: Path, name: str, samples: dict[str, tuple[str, list[Object]]]) -> Path:
    """{stem: (part, objects)} as published."""
    base = root / "VOCdevkit" / name
    for stem, (_, objects) in samples.items():
        picture(base / f"JPEGImages/{stem}.jpg")
        write(base / f"Annotations/{stem}.xml", xml(objects))
    for part in ("train", "val"):
        write(base / f"ImageSets/Main/{part}.txt", "".join(f"{s}\n" for s, (p, _) in samples.items() if p == part))
        write(base / f"ImageSets/Main/cat_{part}.txt", "".join(f"{s} -1\n" for s in samples))
    write(base / "ImageSets/Main/trainval.txt", "".join(f"{s}\n" for s, (p, _) in samples.items() if p))
    return base


SAMPLES: dict[str, tuple[str, list[Object]]] = {
    "2008_000001": ("train", [("person", (1, 1, 2, 2), 0), ("cat", (5, 6, 20, 30), 1)]),
    "2008_000002": ("val", [("tvmonitor", (10, 11, 40, 30), 0)]),
    "2008_000003": ("train", []),
    "2008_000004": ("", [("cat", (3, 3, 4, 4), 0)]),
}


def boxes_of(listing: Listing, name: str) -> list[tuple[str, list[float], bool]]:
    found = listing.targets["boxes"][list(listing.ids).index(name)]
    named = [listing.names[c] for c in found.classes]
    return list(zip(named, found.corners.tolist(), found.crowd.tolist(), strict=True))


def said(listing: Listing, *words: str) -> bool:
    return any(all(w in note for w in words) for note in listing.notes)


def of_torchvision(root: Path, part: str) -> dict[str, list[tuple[str, list[float], bool]]]:
    """Its dictionary, from 1 and inclusive, to corners from 0."""
    datasets = pytest.importorskip("torchvision.datasets")
    theirs = datasets.VOCDetection(root, year="2012", image_set=part)
    out = {}
    for path, (_, told) in zip(theirs.images, theirs, strict=True):
        rows = []
        for entry in told["annotation"].get("object", []):
            x, y, right, bottom = (float(entry["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax"))
            rows.append((entry["name"], [x - 1, y - 1, right, bottom], entry["difficult"] == "1"))
        out[os.path.basename(path)] = rows
    return out


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_as_torchvision_reads_it(tmp_path: Path, below: str) -> None:
    base = year(tmp_path, "VOC2012", SAMPLES)
    listing = open_voc(str(tmp_path / below), CFG)
    assert listing.names == TWENTY and listing.ordered and listing.label is None
    prefix = (base / "JPEGImages").relative_to(tmp_path / below).as_posix()
    assert list(listing.ids) == [f"{prefix}/{stem}.jpg" for stem in SAMPLES]
    assert listing.splits == ("train", "val") and listing.split.tolist() == [0, 1, 0, -1]
    for part in ("train", "val"):
        for name, want in of_torchvision(tmp_path, part).items():
            assert boxes_of(listing, f"{prefix}/{name}") == want
    assert boxes_of(listing, f"{prefix}/2008_000001.jpg")[0] == ("person", [0, 0, 2, 2], False)
    assert listing.targets["size"][0] == (30, 40) and said(listing, "1 pictures have no boxes", "2008_000003")
    copy = pickle.loads(pickle.dumps(listing.reader))
    for i, name in enumerate(listing.ids):
        assert copy.read(i) == (tmp_path / below / name).read_bytes() and listing.sizes[i] == len(copy.read(i))
    assert not said(listing, "left out")


@pytest.mark.parametrize("mutation", ["from_0", "swapped", "parts"])
def test_the_oracle_sees_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    """The 1 forgotten, x for y, or a part of a person taken for the person."""
    year(tmp_path, "VOC2012", SAMPLES)
    if mutation == "from_0":
        monkeypatch.setattr(module, "clipped", lambda corners, *rest: clipped(corners + np.array([1, 1, 0, 0]), *rest))
    elif mutation == "swapped":
        monkeypatch.setattr(module, "SIDES", ("ymin", "xmin", "ymax", "xmax"))
    else:
        plain = module.parse
        monkeypatch.setattr(
            module, "parse", lambda data, name: plain(data.replace(b"<part>", b"").replace(b"</part>", b""), name)
        )
    listing = open_voc(str(tmp_path / "VOCdevkit/VOC2012"), CFG)
    want = of_torchvision(tmp_path, "train") | of_torchvision(tmp_path, "val")
    assert any(boxes_of(listing, f"JPEGImages/{name}") != rows for name, rows in want.items())


def test_two_years_are_one_set(tmp_path: Path) -> None:
    year(tmp_path, "VOC2007", {"000001": ("train", []), "000002": ("val", [])})
    year(tmp_path, "VOC2012", SAMPLES)
    listing = open_voc(str(tmp_path), CFG)
    assert len(listing.ids) == 6 and listing.ids[0] == "VOCdevkit/VOC2007/JPEGImages/000001.jpg"
    assert listing.split.tolist() == [0, 1, 0, 1, 0, -1]


def test_masks_go_with_their_pictures(tmp_path: Path) -> None:
    base = year(tmp_path, "VOC2012", SAMPLES)
    mask = Image.fromarray(np.array([[0, 1], [20, 255]], np.uint8), "P")
    mask.putpalette(list(range(256)) * 3)
    (base / "SegmentationClass").mkdir()
    mask.save(base / "SegmentationClass/2008_000002.png")
    column = open_voc(str(base), CFG).targets["mask"]
    assert column[1] == (base / "SegmentationClass/2008_000002.png").read_bytes() and column[0] == b""
    assert column.names == ("background", *TWENTY) and column.void == 255
    assert column.take(np.array([1]))[0] == column[1]


@pytest.mark.parametrize(
    ("xmls", "pictures"), [("Annotations", "images"), ("annotations", ""), ("", ""), ("train", "train")]
)
def test_loose_layouts(tmp_path: Path, xmls: str, pictures: str) -> None:
    picture(tmp_path / pictures / "b.png")
    write(tmp_path / xmls / "b.xml", xml([("zebra", (1, 2, 3, 4), 0), ("ant", ("1.5", 2, 3.25, 4), 0)]))
    listing = open_voc(str(tmp_path), CFG)
    name = f"{pictures}/b.png".lstrip("/")
    assert list(listing.ids) == [name] and listing.names == ("ant", "zebra")
    assert boxes_of(listing, name) == [("zebra", [0, 1, 3, 4], False), ("ant", [0.5, 1, 3.25, 4], False)]
    assert listing.splits == (("train",) if xmls == "train" else ())


def test_classes_in_a_given_order(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    write(tmp_path / "b.xml", xml([("zebra", (1, 2, 3, 4), 0), ("odd", (1, 2, 3, 4), 0)]))
    write(tmp_path / "classes.txt", "zebra\n\nant\n")
    listing = open_voc(str(tmp_path), CFG)
    assert listing.names == ("zebra", "ant", "odd") and said(listing, "1 classes of annotations are not in", "odd")


def test_every_fault_is_counted_and_named(tmp_path: Path) -> None:
    objects: list[Object] = [
        ("a", (1, 1, 5, 5), 0),
        ("a", (5, 1, 4, 5), 0),  # backwards
        ("a", (100, 1, 110, 5), 0),  # outside
        ("a", (30, 20, 90, 30), 0),  # reaches out
        ("a", ("x", 1, 4, 5), 0),
        ("a", ("nan", 1, 4, 5), 0),
        ("", (1, 1, 5, 5), 0),
        ("a", (0, 0, 5, 5), 0),
    ]
    for name in ("ok", "extra", "torn", "latin", "twice"):
        picture(tmp_path / f"images/{name}.png")
    picture(tmp_path / "images/twice.bmp")
    write(tmp_path / "Annotations/ok.xml", xml(objects))
    write(tmp_path / "Annotations/gone.xml", xml([]))
    write(tmp_path / "Annotations/torn.xml", xml(objects)[:200])
    write(tmp_path / "Annotations/latin.xml", b'<?xml version="1.0" encoding="no-such"?><annotation/>')
    write(tmp_path / "Annotations/twice.xml", "<annotation/>")
    listing = open_voc(str(tmp_path), CFG)
    assert list(listing.ids) == ["images/ok.png", "images/twice.bmp"]
    assert [b[1] for b in boxes_of(listing, "images/ok.png")] == [[0, 0, 5, 5], [29, 19, 40, 30], [0, 0, 5, 5]]
    for words in (
        ("1 annotations left out: there is no picture", "gone.xml"),
        ("1 pictures left out: another has the same name", "twice.png"),
        ("1 pictures left out: they have no .xml", "extra.png"),
        ("2 pictures left out: their .xml is damaged", "no whole XML"),
        ("1 annotations do not tell the size", "twice.xml"),
        ("3 objects left out: they have no name or no box", "ok.png, object 4"),
        ("1 boxes begin at 0", "object 7"),
        ("1 boxes left out: their width or height", "object 1"),
        ("1 boxes left out: nothing of them", "object 2"),
        ("1 boxes reach out", "object 3"),
    ):
        assert said(listing, *words), (words, listing.notes)
    assert not any("\n" in note for note in listing.notes)


def test_lists_that_name_what_is_not_there(tmp_path: Path) -> None:
    base = year(tmp_path, "VOC2012", SAMPLES)
    write(base / "ImageSets/Main/val.txt", "2008_000002\n2009_999999\n\n")
    assert said(open_voc(str(base), CFG), "1 names of ImageSets", "2009_999999")
    for part in ("train", "val"):
        (base / f"ImageSets/Main/{part}.txt").unlink()
    listing = open_voc(str(base), CFG)
    assert listing.splits == ("train",) and listing.split.tolist() == [0, 0, 0, -1]


@pytest.mark.parametrize("make", ["nowhere", "empty", "pictures", "all_torn", "file"])
def test_folders_that_cannot_be_used(tmp_path: Path, make: str) -> None:
    if make in ("pictures", "all_torn"):
        picture(tmp_path / "images/a.png")
    if make == "all_torn":
        write(tmp_path / "Annotations/a.xml", "<annotation")
    write(tmp_path / "file", "")
    with pytest.raises(BadInput, match=r"expected Annotations/\*\.xml") as caught:
        open_voc(str(tmp_path / {"nowhere": "nowhere", "file": "file"}.get(make, "")), CFG)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------- files that attack the parser

LAUGHS = (
    "<!DOCTYPE lolz [<!ENTITY a '" + "ha" * 10 + "'>"
    + "".join(f"<!ENTITY {chr(98 + i)} '{('&' + chr(97 + i) + ';') * 10}'>" for i in range(9))
    + "]><annotation><object><name>&j;</name></object></annotation>"
)  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        LAUGHS.encode(),
        b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><annotation><object><name>&x;</name></object></annotation>",
        b"<!DOCTYPE a SYSTEM 'http://example.org/a.dtd'><annotation/>",
        b"<a>" * 100_000,
        b"<annotation>" + b" " * (module.LARGEST + 1),
        b"<annotation>&undeclared;</annotation>",
        "<?xml version='1.0' encoding='utf-16'?><annotation/>".encode("utf-16")[:-7],
        b"",
        b"\0" * 100,
        b"\xff\xd8\xff\xe0 a picture",
    ],
    ids=["laughs", "file", "dtd", "deep", "large", "undeclared", "cut", "empty", "zeros", "jpeg"],
)
def test_hostile_files_are_refused_at_once(data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(BadInput, match=r"^x\.xml ") as caught:
        parse(data, "x.xml")
    assert time.perf_counter() - start < 60 and "\n" not in str(caught.value) and len(str(caught.value)) < 300


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text("<>/annotiobjecmxy &;![]'\"1", max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse(data, "x.xml")
    except BadInput as error:
        assert "\n" not in str(error)


# ---------------------------------------------------------------------------------------------------------- round trips

SIDE = st.integers(1, 20)
NAME = st.text("abc äöü-_0", min_size=1).map(str.strip).filter(bool)
OBJECTS = st.lists(st.tuples(NAME, st.tuples(SIDE, SIDE, SIDE, SIDE), st.integers(0, 1)), max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.lists(OBJECTS, min_size=1, max_size=4))
def test_whatever_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, pages: list[list[Object]]) -> None:
    root = tmp_path_factory.mktemp("voc")
    whole = []
    for i, objects in enumerate(pages):
        (root / f"{i}.jpg").write_bytes(b"no picture: boxes do not need one")
        grown = [(name, (x, y, x + w - 1, y + h - 1), hard) for name, (x, y, w, h), hard in objects]
        write(root / f"{i}.xml", xml(grown, 40, 40))
        whole.append(grown)
    listing = open_voc(str(root), CFG)
    assert listing.names == tuple(sorted({name for objects in pages for name, _, _ in objects}))
    for i, objects in enumerate(whole):
        want = [(name, [b[0] - 1, b[1] - 1, b[2], b[3]], bool(hard)) for name, b, hard in objects]
        assert boxes_of(listing, f"{i}.jpg") == want
