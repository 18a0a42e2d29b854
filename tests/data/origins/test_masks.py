"""Pictures and masks find each other by name; numbers of classes come out as they were written, bit for bit."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data.origins.listing import Listing
from tessella.data.origins.masks import decode_mask, open_masks
from tessella.data.source import DataConfig
from tessella.errors import BadInput

CFG = DataConfig(path="x", kind="masks")
NUMBERS = np.array([[0, 1, 2], [3, 150, 255]], np.uint8)


def encoded(values: np.ndarray, kind: str = "png", mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(values)
    if mode == "P":
        image = Image.frombytes("P", image.size, values.tobytes())
        image.putpalette(list(range(255, -1, -1)) * 3)
    elif mode is not None:
        image = image.convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


def shallow(values: np.ndarray, bits: int, colour: int = 0) -> bytes:
    """A PNG of few bits, which Pillow does not write: grey (0) or palette (3)."""
    rows = b""
    for row in values:
        packed = "".join(f"{v:0{bits}b}" for v in row)
        packed += "0" * (-len(packed) % 8)
        rows += b"\0" + int(packed, 2).to_bytes(len(packed) // 8, "big")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits))) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + palette
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def write(path: Path, data: bytes | str = b"a picture") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def said(listing: Listing, *words: str) -> bool:
    return any(all(w in note for w in words) for note in listing.notes)


# ---------------------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize(
    ("picture", "mask", "part"),
    [
        ("images/a.jpg", "masks/a.png", ""),
        ("images/deep/a.jpg", "labels/deep/a.png", ""),
        ("train/images/a.jpg", "train/masks/a.png", "train"),
        ("val/imgs/a.jpeg", "val/annotations/a.png", "val"),
        ("images/training/ADE_1.jpg", "annotations/training/ADE_1.png", "training"),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png", ""),
        ("leftImg8bit/train/ulm/u_leftImg8bit.png", "gtFine/train/ulm/u_gtFine_labelIds.png", "train"),
        ("a.jpg", "a_mask.png", ""),
        ("train/a.JPG", "train/a-mask.tif", "train"),
        ("1_sat.jpg", "1_mask.png", ""),
        ("a.jpg", "masks/a.png", ""),
        ("images/x_label.jpg", "masks/x_label.png", ""),
        ("images/a.b.jpg", "masks/a.b_mask.png", ""),
    ],
)
def test_a_mask_finds_its_picture(tmp_path: Path, picture: str, mask: str, part: str) -> None:
    write(tmp_path / picture)
    write(tmp_path / mask, encoded(NUMBERS))
    listing = open_masks(str(tmp_path), CFG)
    assert list(listing.ids) == [picture] and listing.label is None
    assert listing.reader.read(0) == b"a picture" and listing.sizes[0] == 9
    assert np.array_equal(decode_mask(listing.targets["mask"][0]), NUMBERS)
    assert listing.splits == ((part,) if part else ()) and not said(listing, "left out")
    copy = pickle.loads(pickle.dumps(listing.targets["mask"]))
    assert copy[0] == (tmp_path / mask).read_bytes() and copy.digest() == listing.targets["mask"].digest()


def test_many_pairs_by_name_not_by_order(tmp_path: Path) -> None:
    for i in range(12):
        write(tmp_path / f"train/images/{i}.jpg", f"picture {i}")
        write(tmp_path / f"train/masks/{i}_mask.png", encoded(np.full((2, 2), i, np.uint8)))
    write(tmp_path / "val/images/0.jpg", "picture 99")
    write(tmp_path / "val/masks/0.png", encoded(np.full((2, 2), 99, np.uint8)))
    listing = open_masks(str(tmp_path), CFG)
    assert np.bincount(listing.split).tolist() == [12, 1] and listing.splits == ("train", "val")
    column = listing.targets["mask"].take(np.arange(12, -1, -1))
    for k, i in enumerate(range(12, -1, -1)):
        assert listing.reader.read(i) == f"picture {decode_mask(column[k])[0, 0]}".encode()


def test_what_has_no_partner_is_counted_and_named(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "images/b.jpg", "images/c.jpg", "images/c.png", "logo.png"):
        write(tmp_path / name)
    for name in ("masks/a.png", "masks/z.png", "masks/b_mask.png", "masks/b.png"):
        write(tmp_path / name, encoded(NUMBERS))
    listing = open_masks(str(tmp_path), CFG)
    assert list(listing.ids) == ["images/a.jpg", "images/b.jpg"]
    for words in (
        ("1 pictures left out: they have no mask", "images/c.jpg"),
        ("1 masks left out: they have no picture", "masks/z.png"),
        ("1 masks left out: their picture has another", "masks/b_mask.png"),
        ("1 files left out: another has the same name", "images/c.png"),
        ("1 files left out: they are in no folder", "logo.png"),
    ):
        assert said(listing, *words), (words, listing.notes)


@pytest.mark.parametrize(
    "names", [[], ["images/a.jpg"], ["masks/a.png"], ["a.jpg", "b.jpg"], ["images/a.jpg", "masks/b.png"]]
)
def test_folders_that_cannot_be_used(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write(tmp_path / name)
    with pytest.raises(BadInput, match="expected images/ beside masks/") as caught:
        open_masks(str(tmp_path / ("" if names else "nowhere")), CFG)
    assert "\n" not in str(caught.value)


def pair(root: Path, *masks: bytes) -> Path:
    for i, data in enumerate(masks):
        write(root / f"images/{i}.jpg")
        write(root / f"masks/{i}.png", data)
    return root


def test_classes_and_numbers_that_have_no_name(tmp_path: Path) -> None:
    pair(tmp_path, encoded(NUMBERS))
    assert said(open_masks(str(tmp_path), CFG), "no classes.txt", "0 to 150 in 1 masks")
    write(tmp_path / "classes.txt", "sky\nroad\n\ncar\ntree\n")
    listing = open_masks(str(tmp_path), CFG)
    assert listing.names == listing.targets["mask"].names == ("sky", "road", "car", "tree")
    assert said(listing, "masks hold 150, but classes.txt names 0 to 3") and listing.targets["mask"].void == 255
    write(tmp_path / "classes.txt", "sky\nroad\nsky\n")
    with pytest.raises(BadInput, match="names 'sky' twice"):
        open_masks(str(tmp_path), CFG)


def test_black_and_white_is_two_classes(tmp_path: Path) -> None:
    two = np.array([[0, 255], [255, 0]], np.uint8)
    pair(tmp_path, encoded(two), encoded(np.zeros((2, 2), np.uint8)))
    listing = open_masks(str(tmp_path), CFG)
    column = pickle.loads(pickle.dumps(listing.targets["mask"]))
    assert listing.names == column.names == ("background", "foreground") and column.void is None
    assert decode_mask(column[0]).tolist() == [[0, 1], [1, 0]] and not decode_mask(column[1]).any()
    assert said(listing, "0 and 255 alone")
    write(tmp_path / "masks/1.png", encoded(np.array([[0, 1]], np.uint8)))  # not among those that were looked at
    with pytest.raises(BadInput, match=r"^masks/1\.png holds 1, but the masks looked at 0 and 255 alone"):
        column[1]
    pair(tmp_path, encoded(two), encoded(np.array([[0, 1], [255, 0]], np.uint8)))
    assert open_masks(str(tmp_path), CFG).targets["mask"].void == 255


def test_bad_masks_among_those_looked_at(tmp_path: Path) -> None:
    listing = open_masks(str(pair(tmp_path, encoded(NUMBERS), encoded(NUMBERS, "jpeg"), b"<html>")), CFG)
    assert len(listing.ids) == 3 and said(listing, "2 of 3 masks looked at cannot be used", "masks/1.png is a JPEG")


# -------------------------------------------------------------------------------------------------------------- numbers


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_numbers_come_out_as_they_went_in(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([1, 2, 4, 8, 16]))
    height, width = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    flat = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=height * width, max_size=height * width))
    values = np.array(flat, np.uint16 if bits == 16 else np.uint8).reshape(height, width)
    forms = [npy(values), npy(values.astype(np.int64))]
    if bits < 8:
        forms += [shallow(values, bits), shallow(values, bits, 3)]
    elif bits == 8:
        forms += [encoded(values), encoded(values, mode="P"), encoded(values, "tiff"), encoded(values, "bmp"),
                  encoded(values, mode="RGB"), encoded(values, mode="LA"),
                  encoded(values, "tiff", compression="tiff_lzw"), encoded(values, "bmp", mode="P")]  # fmt: skip
    else:
        forms += [encoded(values), encoded(values, "tiff")]
    for form in forms:
        found = decode_mask(form)
        assert found.dtype in (np.uint8, np.uint16) and np.array_equal(found, values)


def test_the_bar_sees_a_palette_turned_into_colours() -> None:
    data = encoded(NUMBERS, mode="P")
    grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    assert not np.array_equal(grey, NUMBERS) and np.array_equal(decode_mask(data), NUMBERS)
    few = np.array([[0, 1, 2, 3]], np.uint8)
    stretched = np.asarray(Image.open(io.BytesIO(shallow(few, 2))))
    assert not np.array_equal(stretched, few) and np.array_equal(decode_mask(shallow(few, 2)), few)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(NUMBERS, "jpeg"), "is a JPEG picture, which may not keep numbers"),
        (encoded(np.zeros((4, 4, 3), np.uint8), "webp"), "is a WebP picture"),
        (encoded(np.dstack([NUMBERS, NUMBERS + 1, NUMBERS])), "is a mask of colours"),
        (encoded(np.zeros((2, 2), np.float32), "tiff"), "is a mask of colours|below 0"),
        (encoded(NUMBERS, "gif"), "is a GIF picture"),
        (encoded(NUMBERS)[:50], "is damaged"),
        (b"", "is no mask"),
        (b"<html>", "is no mask: it holds an HTML page"),
        (npy(np.zeros((2, 2, 3), np.uint8)), r"an array of uint8 and shape \(2, 2, 3\)"),
        (npy(np.zeros((2, 2))), "an array of float64"),
        (npy(np.array([[-1]])), "below 0"),
        (npy(np.array([[70_000]])), "above 65535"),
        (npy(np.array([[{}]], dtype=object)), "is damaged"),
        (npy(NUMBERS)[:-3], "is damaged"),
    ],
)
def test_masks_that_cannot_be_used(data: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=f"^m.png .*({words})") as caught:
        decode_mask(data, "m.png")
    assert "\n" not in str(caught.value)


def test_white_is_zero_is_refused() -> None:
    data = encoded(NUMBERS, "tiff", tiffinfo={262: 0})
    if Image.open(io.BytesIO(data)).tag_v2[262] == 0:
        with pytest.raises(BadInput, match="photometric 0"):
            decode_mask(data)


def test_another_size_than_the_picture() -> None:
    assert decode_mask(encoded(NUMBERS), "m.png", (2, 3)).shape == (2, 3)
    with pytest.raises(BadInput, match=r"^m\.png has 3 x 2 pixels, its picture 2 x 3;"):
        decode_mask(encoded(NUMBERS), "m.png", (3, 2))
