"""COCO folders against pycocotools and torchvision on the same files; every fault counted by name; mutations seen."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data.origins import coco as module
from tessella.data.origins.coco import open_coco
from tessella.data.origins.listing import Listing
from tessella.data.source import DataConfig
from tessella.errors import BadInput

oracle = pytest.importorskip("pycocotools.coco")
CFG = DataConfig(path="x", kind="coco")
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}, {"id": 90, "name": "zebra"}]  # holes, out of order


def picture(path: Path, width: int, height: int, turn: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)).save(path, exif=exif)


def write(path: Path, told: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    return path


def image(number: int, name: str, width: int = 40, height: int = 30) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": width, "height": height}


def box(number: Any, of: Any, category: Any, bbox: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": of, "category_id": category, "bbox": bbox, "iscrowd": 0, **more}


def told(images: list[Any], annotations: list[Any], categories: Any = None) -> dict[str, Any]:
    return {"images": images, "annotations": annotations, "categories": categories or CATEGORIES}


TRAIN = told(
    [image(7, "a.jpg"), image(5, "b.jpg", 64, 48), image(9, "none.jpg")],
    [
        box(1, 5, 90, [10, 20, 30.5, 8], segmentation=[[10, 20, 40, 20, 40, 28, 10, 28]]),
        box(2, 7, 3, [0, 0, 5, 6], segmentation=[[0, 0, 5, 0, 5, 6], [1, 1, 4, 1, 4, 4]]),
        box(3, 5, 18, [1, 2, 3, 4], iscrowd=1, segmentation={"size": [48, 64], "counts": [50, 20, 3002]}),
        box(4, 7, 90, [30.25, 20.5, 9.5, 9.25]),
    ],
)
VAL = told([image(1, "v.jpg")], [box(1, 1, 2, [4, 4, 8, 8])], [{"id": 2, "name": "zebra"}, {"id": 1, "name": "car"}])


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The layout of the data set itself."""
    for name, width, height in (("a", 40, 30), ("b", 64, 48), ("none", 40, 30)):
        picture(tmp_path / f"train2017/{name}.jpg", width, height)
    picture(tmp_path / "val2017/v.jpg", 40, 30)
    write(tmp_path / "annotations/instances_train2017.json", TRAIN)
    write(tmp_path / "annotations/instances_val2017.json", VAL)
    texts = [{"id": 1, "image_id": 5, "caption": "a zebra "}, {"id": 2, "image_id": 5, "caption": "stripes"}]
    write(tmp_path / "annotations/captions_train2017.json", {"images": TRAIN["images"], "annotations": texts})
    write(tmp_path / "annotations/person_keypoints_train2017.json", TRAIN)
    return tmp_path


def said(listing: Listing, *words: str) -> bool:
    return any(all(w in note for w in words) for note in listing.notes)


def boxes_of(listing: Listing, name: str) -> list[tuple[str, tuple[float, ...], bool]]:
    found = listing.targets["boxes"][list(listing.ids).index(name)]
    names = [listing.names[c] for c in found.classes]
    return sorted(zip(names, map(tuple, found.corners.tolist()), found.crowd.tolist(), strict=True))


def of_oracle(path: Path) -> dict[str, list[tuple[str, tuple[float, ...], bool]]]:
    """pycocotools' reading: corners by its own left, top, width, height."""
    with contextlib.redirect_stdout(io.StringIO()):
        api = oracle.COCO(str(path))
    names = {c["id"]: c["name"] for c in api.loadCats(api.getCatIds())}
    out = {}
    for entry in api.loadImgs(api.getImgIds()):
        rows = []
        for a in api.loadAnns(api.getAnnIds(imgIds=[entry["id"]])):
            x, y, w, h = a["bbox"]
            rows.append((names[a["category_id"]], tuple(np.float32([x, y, x + w, y + h]).tolist()), bool(a["iscrowd"])))
        out[entry["file_name"]] = sorted(rows)
    return out


def test_as_pycocotools_reads_it(published: Path) -> None:
    listing = open_coco(str(published), CFG)
    assert listing.label is None and listing.ordered and listing.names == ("car", "dog", "zebra")
    assert list(listing.ids) == ["train2017/a.jpg", "train2017/b.jpg", "train2017/none.jpg", "val2017/v.jpg"]
    assert listing.splits == ("train", "val") and listing.split.tolist() == [0, 0, 0, 1]
    for part in ("train2017", "val2017"):
        for name, want in of_oracle(published / f"annotations/instances_{part}.json").items():
            assert boxes_of(listing, f"{part}/{name}") == want
    for i, name in enumerate(listing.ids):
        assert listing.reader.read(i) == (published / name).read_bytes()
        assert listing.sizes[i] == (published / name).stat().st_size
    assert listing.targets["caption"][1] == ("a zebra", "stripes") and listing.targets["caption"][0] == ()
    assert listing.targets["size"][1] == (48, 64)
    assert said(listing, "person_keypoints_train2017.json is not used")
    assert said(listing, "1 of 4 pictures have no boxes")
    assert not said(listing, "left out")


def test_as_torchvision_reads_it(published: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = datasets.CocoDetection(published / "train2017", published / "annotations/instances_train2017.json")
    listing = open_coco(str(published), CFG)
    for i, key in enumerate(theirs.ids):
        name = theirs.coco.loadImgs(key)[0]["file_name"]
        found = listing.targets["boxes"][list(listing.ids).index(f"train2017/{name}")]
        image, annotations = theirs[i]
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(published / f"train2017/{name}")))
        wide = [a["bbox"] for a in annotations]
        ours = np.concatenate([found.corners[:, :2], found.corners[:, 2:] - found.corners[:, :2]], axis=1)
        assert np.allclose(ours, np.array(wide, dtype=np.float32).reshape(-1, 4))


def test_outlines_belong_to_their_boxes(published: Path) -> None:
    listing = open_coco(str(published), CFG)
    with contextlib.redirect_stdout(io.StringIO()):
        api = oracle.COCO(str(published / "annotations/instances_train2017.json"))
    for row, key in ((0, 7), (1, 5)):
        wanted = api.loadAnns(api.getAnnIds(imgIds=[key]))
        masks = listing.targets["outlines"][row].bitmaps()
        assert len(masks) == len(wanted) == len(listing.targets["boxes"][row].classes)
        for mask, annotation in zip(masks, wanted, strict=True):
            want = api.annToMask(annotation) if "segmentation" in annotation else np.zeros_like(mask)
            assert np.array_equal(mask, want.astype(bool))


@pytest.mark.parametrize("mutation", ["corners", "ids", "rows"])
def test_the_oracle_sees_a_mistake(published: Path, monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    """Width and height taken for corners, ids taken for numbers of classes, pictures taken in the order of boxes."""
    checked, categories = module._checked, module._categories

    def wrong(drawn: Any, sizes: Any, tally: Any) -> Any:
        if mutation == "corners":
            drawn.numbers = [(x, y, max(w - x, 0.5), max(h - y, 0.5)) for x, y, w, h in drawn.numbers]
        if mutation == "rows":
            drawn.rows = sorted(drawn.rows)
        return checked(drawn, sizes, tally)

    def as_listed(entries: Any, path: str, tally: Any) -> Any:
        names, _ = categories(entries, path, tally)
        return names, dict(zip((entry["id"] for entry in entries), range(len(names)), strict=True))

    monkeypatch.setattr(module, "_checked", wrong)
    if mutation == "ids":
        monkeypatch.setattr(module, "_categories", as_listed)
    listing = open_coco(str(published), CFG)
    want = of_oracle(published / "annotations/instances_train2017.json")
    assert any(boxes_of(listing, f"train2017/{name}") != want[name] for name in want)


def test_classes_of_two_files_go_by_name(published: Path) -> None:
    """In val, zebra is 2 and car is 1; by number they would be dog and car."""
    listing = open_coco(str(published), CFG)
    assert boxes_of(listing, "val2017/v.jpg") == [("zebra", (4.0, 4.0, 12.0, 12.0), False)]
    write(published / "annotations/instances_val2017.json", told(VAL["images"], [], [{"id": 1, "name": "extra"}]))
    listing = open_coco(str(published), CFG)
    assert listing.names == ("car", "dog", "zebra", "extra") and said(listing, "1 of 4 classes", "'extra'")


@pytest.mark.parametrize("layout", ["exported", "beside", "images", "address", "address_annotations", "images_part"])
def test_layouts(tmp_path: Path, layout: str) -> None:
    one = told([image(1, "x.jpg")], [box(1, 1, 3, [1, 1, 5, 5])])
    where = {
        "exported": ("train/_annotations.coco.json", "train/x.jpg", ""),
        "beside": ("labels.json", "x.jpg", ""),
        "images": ("labels.json", "images/x.jpg", ""),
        "address": ("some.json", "images/x.jpg", "some.json"),
        "address_annotations": (
            "annotations/instances_minival.json",
            "images/x.jpg",
            "annotations/instances_minival.json",
        ),
        "images_part": ("annotations/train.json", "images/train/x.jpg", ""),
    }[layout]
    write(tmp_path / where[0], one)
    picture(tmp_path / where[1], 40, 30)
    listing = open_coco(str(tmp_path / where[2]), CFG)
    assert list(listing.ids) == [where[1]] and boxes_of(listing, where[1]) == [("car", (1.0, 1.0, 6.0, 6.0), False)]
    assert listing.splits == (("train",) if "train" in where[0] else ())
    assert pickle.loads(pickle.dumps(listing.reader)).read(0) == (tmp_path / where[1]).read_bytes()


def test_exported_parts(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        write(tmp_path / part / "_annotations.coco.json", told([image(0, f"{part}.jpg")], []))
        picture(tmp_path / part / f"{part}.jpg", 40, 30)
    listing = open_coco(str(tmp_path), CFG)
    assert sorted(listing.splits) == ["test", "train", "valid"]
    assert {listing.splits[s]: name for s, name in zip(listing.split, listing.ids, strict=True)} == {
        part: f"{part}/{part}.jpg" for part in ("train", "valid", "test")
    }


def test_captions_alone(tmp_path: Path) -> None:
    annotations = [{"image_id": 1, "caption": "one"}, {"image_id": 8, "caption": "?"}, {"image_id": 1, "caption": " "}]
    write(tmp_path / "annotations/captions_val2014.json", {"images": [image(1, "x.jpg")], "annotations": annotations})
    picture(tmp_path / "val2014/x.jpg", 40, 30)
    listing = open_coco(str(tmp_path), CFG)
    assert set(listing.targets) == {"size", "caption"} and listing.targets["caption"][0] == ("one",)
    assert listing.names == () and said(listing, "1 captions left out", "image_id") and said(listing, "empty")


# --------------------------------------------------------------------------------------------------------------- faults


def one_folder(root: Path, content: Any, *names: str) -> Path:
    for name in names or ("x.jpg",):
        picture(root / name, 40, 30)
    write(root / "labels.json", content)
    return root


def test_every_fault_is_counted_and_named(tmp_path: Path) -> None:
    annotations = [
        box(1, 1, 3, [1, 1, 5, 5]),
        box(1, 1, 3, [1, 1, 5, 5]),  # the same again
        box(1, 1, 3, [2, 2, 5, 5]),  # its id again, another box
        box(11, 99, 3, [1, 1, 5, 5]),  # no such picture
        box(12, 1, 1, [1, 1, 5, 5]),  # no such category: ids have holes
        box(13, 1, 3, [1, 1, 0, 5]),  # no width
        box(14, 1, 3, [1, 1, 5, -2]),
        box(15, 1, 3, [100, 1, 5, 5]),  # outside
        box(16, 1, 3, [30, 20, 50, 50]),  # reaches out
        box(17, 1, 3, [1, 1, float("nan"), 5]),
        box(18, 1, 3, [1, 1, 5]),
        box(19, 1, 3, None),
        box(20, 1, 3, [-0.4, 1, 5.4, 5]),  # by rounding: not worth a word
        box(21, [1], 3, [1, 1, 5, 5]),
    ]
    content = told([image(1, "x.jpg"), image(2, "gone.jpg"), image(3, "./x.jpg")], annotations)
    root = one_folder(tmp_path, content, "x.jpg", "extra.jpg", "also/extra.png")
    listing = open_coco(str(root), CFG)
    assert list(listing.ids) == ["x.jpg"]
    assert boxes_of(listing, "x.jpg") == [
        ("car", corners, False)
        for corners in [(0.0, 1.0, 5.0, 6.0), (1.0, 1.0, 6.0, 6.0), (2.0, 2.0, 7.0, 7.0), (30.0, 20.0, 40.0, 30.0)]
    ]
    for words in (
        ("1 boxes left out: the same annotation", "annotation 1)"),
        ("1 annotations with an id that another has", "annotation 1)"),
        ("2 boxes left out: their image_id", "annotation 11)"),
        ("1 boxes left out: their category_id", "annotation 12)"),
        ("2 boxes left out: their width or height", "annotation 13)"),
        ("1 boxes left out: nothing of them is inside", "annotation 15)"),
        ("1 boxes reach out", "annotation 16)"),
        ("3 annotations left out: they have no box", "annotation 17)"),
        ("1 pictures of the JSON are not on disk", "gone.jpg"),
        ("2 pictures on disk are not in the JSON", "also/extra.png"),
        ("1 pictures listed twice", "x.jpg"),
        ("2 of 3 classes have no boxes", "'dog', 'zebra'"),
    ):
        assert said(listing, *words), (words, listing.notes)
    assert not any("\n" in note for note in listing.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"images": [{"id": 1', "no whole JSON"),
        ("[" * 200_000, "no whole JSON"),
        ("\x00", "no whole JSON"),
        ([box(1, 1, 3, [1, 1, 2, 2])], "is a list"),
        ({"images": [], "annotations": []}, "lists no pictures"),
        ({"pictures": []}, "no list of images (it has pictures)"),
        ({"images": [image(1, "x.jpg")], "annotations": [7]}, "no list of annotations"),
        ({"images": [{"id": 1}], "annotations": []}, r"images[0] has no 'file_name'"),
        (told([image(1, "x.jpg"), image(1, "y.jpg")], []), "x.jpg and y.jpg have the same id 1"),
        (told([image(1, "x.jpg")], [], [{"id": "one", "name": "a"}]), "categories are no list"),
        (told([image(1, "x.jpg")], [], [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "two categories"),
        ({"images": [image(1, "x.jpg")], "annotations": [], "categories": []}, "has no categories"),
        (told([image(1, "elsewhere.jpg")], []), "none of the 1 pictures"),
        (told([image(1, "a\0b.jpg")], []), "none of the 1 pictures"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        open_coco(str(one_folder(tmp_path, content)), CFG)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_folders_without_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(BadInput, match="no whole JSON"):
        open_coco(str(tmp_path), CFG)
    (tmp_path / "x.json").unlink()
    for address in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadInput, match="expected annotations/instances_train2017"):
            open_coco(str(address), CFG)


def test_two_files_for_one_part(published: Path) -> None:
    write(published / "annotations/instances_train2014.json", TRAIN)
    with pytest.raises(BadInput, match=r"two files for train: instances_train2014.json and instances_train2017"):
        open_coco(str(published), CFG)
    os.rename(published / "annotations/instances_train2014.json", published / "annotations/instances_odd.json")
    assert said(open_coco(str(published), CFG), "instances_odd.json is not used")


@pytest.mark.parametrize("name", ["/data/else/x.jpg", "..\\..\\x.jpg", "../../../x.jpg", "C:\\data\\x.jpg", "./x.jpg"])
def test_paths_of_another_machine_stay_inside(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "x.jpg", 8, 8)  # outside of the folder: must not be what is found
    root = one_folder(tmp_path / "in", told([image(1, name)], []))
    listing = open_coco(str(root), CFG)
    assert list(listing.ids) == ["x.jpg"] and listing.reader.read(0) == (root / "x.jpg").read_bytes()


def test_categories_of_one_name_are_one_class(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "car"}, {"id": 1, "name": "car"}, {"id": 2, "name": "bus"}]
    content = told([image(1, "x.jpg")], [box(i, 1, i, [1, 1, 5, 5 + i]) for i in range(3)], categories)
    listing = open_coco(str(one_folder(tmp_path, content)), CFG)
    assert listing.names == ("car", "bus") and listing.targets["boxes"][0].classes.tolist() == [0, 0, 1]
    assert said(listing, "1 categories with a name that another has", "car")


def test_sizes_that_contradict_the_file_and_turned_pictures(tmp_path: Path) -> None:
    names = ("x.jpg", "odd.jpg", "turned.jpg")
    picture(tmp_path / "x.jpg", 40, 30)
    picture(tmp_path / "odd.jpg", 41, 30)
    picture(tmp_path / "turned.jpg", 40, 30, turn=6)
    write(tmp_path / "l.json", told([image(i, name) for i, name in enumerate(names)], []))
    listing = open_coco(str(tmp_path), CFG)
    assert said(listing, "1 of 3 pictures looked at are not what", "odd.jpg is 41 x 30 pixels")
    assert said(listing, "1 of 3 pictures looked at were annotated as stored", "turned.jpg")


# ---------------------------------------------------------------------------------------------------------- round trips

NUMBER = st.integers(0, 400).map(lambda n: n / 4)
BOXES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([18, 3, 90]), NUMBER, NUMBER, st.integers(1, 80), st.booleans()),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(BOXES, st.permutations(range(4)))
def test_whatever_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: Any, order: list[int]) -> None:
    root = tmp_path_factory.mktemp("coco")
    for i in range(4):
        (root / f"{i}.jpg").write_bytes(b"no picture: boxes do not need one")
    annotations = [
        box(i, 10 - of, category, [x, y, side, side + 0.5], iscrowd=int(crowd))
        for i, (of, category, x, y, side, crowd) in enumerate(rows)
    ]
    images = [image(10 - i, f"{i}.jpg", 300, 300) for i in order]
    path = write(root / "l.json", told(images, annotations))
    listing = open_coco(str(root), CFG)
    want = of_oracle(path)
    unique = {name: sorted(set(rows)) for name, rows in want.items()}
    assert list(listing.ids) == [f"{i}.jpg" for i in order]
    for name in want:
        assert sorted(set(boxes_of(listing, name))) == unique[name] and len(boxes_of(listing, name)) == len(want[name])
    kept = np.array(order[:2])
    assert (
        listing.targets["boxes"].take(kept)[1].corners.tolist() == listing.targets["boxes"][order[1]].corners.tolist()
    )
