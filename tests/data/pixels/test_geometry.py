"""Boxes and masks land where their pixels land, for every way in which a picture is brought to a size."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from tessella.card import Preprocess
from tessella.data.loading.seeded import generator
from tessella.data.pixels.augment import AugmentConfig, augment, augment_followed
from tessella.data.pixels.decode import decode, upright
from tessella.data.pixels.geometry import (
    Geometry,
    evaluation_geometry,
    upright_boxes,
    upright_mask,
    upright_size,
    whole,
)
from tessella.data.pixels.transforms import evaluation_pixels, prepare

RESIZES = ["shortest", "squash", "letterbox", "pad", "native"]


def card(size: tuple[int, int], resize: str = "shortest", **more: object) -> Preprocess:
    return Preprocess(size=size, resize=resize, mean=(0.5,) * 3, std=(0.5,) * 3, **more)


def boxes(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (n, 2, 2)) * [width, height]
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def mask(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (height, width), dtype=np.uint8)


def theirs(corners: np.ndarray, height: int, width: int) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(torch.from_numpy(corners), format="XYXY", canvas_size=(height, width))


def torchvisions(value: torch.Tensor, g: Geometry) -> torch.Tensor:
    """The same steps by torchvision: crop, resize, pad, crop, flip."""
    top, left, height, width = (int(v) for v in g.window)
    value = F.crop(value, top, left, height, width)
    mode = InterpolationMode.NEAREST_EXACT
    value = F.resize(value, list(g.scaled), interpolation=mode, antialias=False)
    before = [max(0, o) for o in g.offset]
    after = [max(0, s - o - d) for s, o, d in zip(g.size, g.offset, g.scaled, strict=True)]
    value = F.pad(value, [before[1], before[0], after[1], after[0]], fill=255)
    value = F.crop(value, max(0, -g.offset[0]), max(0, -g.offset[1]), *g.size)
    value = F.horizontal_flip(value) if g.flip else value
    return F.vertical_flip(value) if g.vertical else value


def clear(g: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the result whose centre falls on no edge between two source pixels: it may take either."""
    out = []
    for offset, scaled, length, size, turned in zip(
        g.offset, g.scaled, g.window[2:], g.size, (g.vertical, g.flip), strict=True
    ):
        tied = (2 * (np.arange(size) - offset) + 1) * length % (2 * scaled) == 0
        out.append(np.flatnonzero(~tied[::-1] if turned else ~tied))
    return out[0], out[1]


def same(ours: np.ndarray, theirs: np.ndarray, g: Geometry) -> bool:
    assert ours.shape == theirs.shape == g.size
    return np.array_equal(ours[np.ix_(*clear(g))], theirs[np.ix_(*clear(g))])


SIDE = st.integers(1, 60)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, int, Geometry]:
    height, width = draw(SIDE), draw(SIDE)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    window = (top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left)))
    scaled, size = (draw(SIDE), draw(SIDE)), (draw(SIDE), draw(SIDE))
    offset = (draw(st.integers(1 - scaled[0], size[0] - 1)), draw(st.integers(1 - scaled[1], size[1] - 1)))
    flips = {"flip": draw(st.booleans()), "vertical": draw(st.booleans())}
    return height, width, Geometry(window=window, scaled=scaled, offset=offset, size=size, **flips)


@settings(max_examples=150, deadline=None)
@given(geometries())
def test_boxes_and_masks_follow_as_in_torchvision(case: tuple[int, int, Geometry]) -> None:
    height, width, g = case
    corners = boxes(9, height, width)
    expected = torchvisions(theirs(corners, height, width), g).numpy()
    kept = g.boxes(corners)
    assert np.allclose(kept.corners, expected[kept.rows], atol=2e-3)
    values = mask(height, width)
    picture = torchvisions(tv_tensors.Image(torch.from_numpy(values)[None]), g).numpy()[0]
    assert same(g.mask(values), picture, g)


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_masks_without_resizing_are_torchvisions_masks(case: tuple[int, int, Geometry]) -> None:
    height, width, g = case
    g = replace(g, scaled=(int(g.window[2]), int(g.window[3])))
    if min(o + s for o, s in zip(g.offset, g.scaled, strict=True)) < 1:
        return
    values = mask(height, width)
    assert np.array_equal(g.mask(values), torchvisions(tv_tensors.Mask(torch.from_numpy(values)), g).numpy())


def test_the_comparison_can_fail() -> None:
    """The mutations: a wrong flip, swapped axes, the offset forgotten, the window forgotten, scaling by one side."""
    g = Geometry(window=(3, 5, 30, 20), scaled=(60, 50), offset=(4, -6), size=(64, 40), flip=True)
    corners, values = boxes(9, 40, 50), mask(40, 50)
    expected = torchvisions(theirs(corners, 40, 50), g).numpy()
    picture = torchvisions(tv_tensors.Image(torch.from_numpy(values)[None]), g).numpy()[0]
    assert same(g.mask(values), picture, g)
    for change in ({"flip": False}, {"vertical": True}, {"offset": (-6, 4)}, {"offset": (0, 0)},
                   {"window": (5, 3, 30, 20)}, {"scaled": (60, 60)}):  # fmt: skip
        bad = replace(g, **change)
        kept = bad.boxes(corners)
        assert not np.allclose(kept.corners, expected[kept.rows], atol=0.1)
        assert not same(bad.mask(values), picture, g)


def test_boxes_are_dropped_by_the_declared_rule() -> None:
    g = Geometry(window=(0, 0, 100, 100), scaled=(100, 100), offset=(0, -50), size=(100, 50))
    given = [[40, 0, 60, 10], [0, 0, 49, 99], [41, 0, 51, 50], [40.5, 0, 51, 50], [60, 10, 60.5, 50], [70, 10, 90, 30]]
    kept = g.boxes(np.array(given, np.float32))
    assert kept.rows.tolist() == [0, 2, 5], "a tenth of the area inside, and sides of a pixel"
    assert np.allclose(kept.corners, [[0, 0, 10, 10], [0, 0, 1, 50], [20, 10, 40, 30]])
    assert kept.corners.dtype == np.float32 and kept.rows.dtype == np.int64
    nothing = g.boxes(np.zeros((0, 4), np.float32))
    assert nothing.corners.shape == (0, 4) and nothing.rows.shape == (0,)
    flat = g.boxes(np.array([[60, 10, 60, 50], [70, 20, 60, 30]], np.float32))
    assert len(flat.rows) == 0, "no area, or corners the wrong way round"


@settings(max_examples=80, deadline=None)
@given(geometries())
def test_there_and_back_again(case: tuple[int, int, Geometry]) -> None:
    _, _, g = case
    big = replace(g, size=(2000, 2000), offset=(700, 700))  # nothing is cut off
    top, left, h, w = g.window
    inside = boxes(6, int(h), int(w)) + np.array([left, top, left, top], np.float32)
    kept = big.boxes(inside)
    assert np.allclose(big.back(kept.corners), inside[kept.rows], atol=0.05)


def marked(height: int, width: int, spot: tuple[int, int, int, int]) -> np.ndarray:
    """Dark, but for a bright box."""
    image = np.full((height, width, 3), 20, np.uint8)
    image[spot[1] : spot[3], spot[0] : spot[2]] = 240
    return image


def found(view: torch.Tensor) -> tuple[float, float, float, float]:
    """The bright box again: edges to a part of a pixel, from how bright the rows and columns are."""
    bright = (view.float().mean(0) - 20) / 220
    bright = torch.where(bright > 0.99, 1.0, torch.where(bright < 0.01, 0.0, bright))
    out = []
    for axis in (0, 1):
        line = bright.amax(axis)
        middle = int(torch.nonzero(line > 0.5).float().mean())
        out.append((middle - float(line[:middle].clamp(0, 1).sum()), middle + float(line[middle:].clamp(0, 1).sum())))
    return out[0][0], out[1][0], out[0][1], out[1][1]


def png(image: np.ndarray, turn: int = 1) -> bytes:
    exif, held = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    Image.fromarray(image).save(held, "PNG", exif=exif)
    return held.getvalue()


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(120, 90), (90, 121), (200, 200), (61, 47)])
@pytest.mark.parametrize("size", [(64, 64), (96, 48), (150, 160)])
def test_evaluation_pixels_lie_where_the_geometry_says(
    resize: str, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    height, width = shape
    spot = (width // 3, height // 3, width * 2 // 3, height * 2 // 3)
    for crop in (1.0, 0.875) if resize in ("shortest", "squash") else (1.0,):
        pre = card(size, resize, crop=crop, interpolation="bilinear", fill=(20.0,))
        g = evaluation_geometry(shape, pre)
        kept = g.boxes(np.array([spot], np.float32))
        seen = found(evaluation_pixels(marked(height, width, spot), pre))
        assert np.allclose(kept.corners[0], seen, atol=0.6), (g, seen)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(33, 20), (20, 33), (1, 400), (500, 2), (64, 64), (7, 9)])
def test_masks_are_the_nearest_pixels_of_evaluation(resize: str, shape: tuple[int, int]) -> None:
    """With `nearest` the pixels of a picture go exactly where those of a mask go, borders included."""
    values = mask(*shape)
    for size in ((32, 32), (24, 40)):
        pre = card(size, resize, interpolation="nearest", fill=(255.0,))
        view = evaluation_pixels(np.repeat(values[:, :, None], 3, 2), pre)
        g = evaluation_geometry(shape, pre)
        assert same(g.mask(values), view[0].numpy(), g)


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
def test_boxes_follow_random_views(crop: str) -> None:
    cfg, pre = AugmentConfig(crop=crop, padding=9, vertical=0.5), card((60, 80), interpolation="bilinear")
    spot = (50, 40, 70, 75)
    data, seen = png(marked(110, 130, spot)), 0
    for i in range(40):
        view, g = augment_followed(data, cfg, pre, generator(i))
        assert torch.equal(view, augment(data, cfg, pre, generator(i))), "the same draws"
        kept = g.boxes(np.array([spot], np.float32))
        inside = len(kept.rows) and (kept.corners[0] > 2).all() and (kept.corners[0] < [78, 58, 78, 58]).all()
        if inside:
            assert np.allclose(kept.corners[0], found(view), atol=0.7), (i, g)
            seen += 1
    assert seen > 10


def test_boxes_follow_a_scaled_decoding() -> None:
    spot = (300, 200, 420, 360)
    for turn in range(1, 9):
        held, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(marked(603, 805, spot)).save(held, "JPEG", quality=98, exif=exif)
        corners = upright_boxes(np.array([spot]), turn, (603, 805))
        pre = card((64, 64), interpolation="bilinear", decode="scaled")
        for i in range(3):
            view, g = augment_followed(held.getvalue(), AugmentConfig(scale=(0.7, 1.0)), pre, generator(i))
            kept = g.boxes(corners)
            inside = len(kept.rows) and (kept.corners[0] > 2).all() and (kept.corners[0] < 62).all()
            assert not inside or np.allclose(kept.corners[0], found(view), atol=0.5), (turn, i)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_boxes_and_masks_as_it_turns_pixels(turn: int) -> None:
    spot = (5, 9, 17, 12)
    data = png(marked(20, 30, spot), turn)
    image = decode(data)
    size = upright_size((20, 30), turn)
    assert image.shape[:2] == size
    x1, y1, x2, y2 = upright_boxes(np.array([spot], np.float32), turn, (20, 30))[0].astype(int)
    assert (image[y1:y2, x1:x2] == 240).all() and (image == 240).sum() == 3 * 12 * 3
    values = mask(20, 30)
    assert np.array_equal(upright_mask(values, turn), decode(png(np.repeat(values[:, :, None], 3, 2), turn))[:, :, 0])
    others = [upright_boxes(np.array([spot]), t, (20, 30)).tolist() for t in range(1, 9) if t != turn]
    assert upright_boxes(np.array([spot]), turn, (20, 30)).tolist() not in others
    assert upright(image, 1) is not None


def test_nothing_happens_to_a_whole_picture() -> None:
    g, values = whole((20, 30)), mask(20, 30)
    corners = np.array([[1, 2, 9, 11]], np.float32)
    assert np.array_equal(g.mask(values), values) and np.array_equal(g.boxes(corners).corners, corners)
    assert prepare(png(marked(20, 30, (1, 2, 9, 11))), card((20, 30), "native")).shape == (3, 20, 30)
