"""Evaluation pixels equal timm's bit for bit; the other ways to resize equal Pillow's and torchvision's."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as theirs

from tessella.card import Preprocess
from tessella.data.pixels import transforms
from tessella.data.pixels.decode import decode
from tessella.data.pixels.transforms import border, evaluation_pixels, prepare, resize


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def card(size: tuple[int, int], channels: int = 3, **more: object) -> Preprocess:
    return Preprocess(size=size, mean=(0.5,) * channels, std=(0.5,) * channels, channels=channels, **more)


SIZES = [(32, 32), (61, 47), (47, 61), (500, 375), (224, 300), (37, 224), (1, 1), (1, 9)]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("target", [(224, 224), (32, 32), (96, 64)])
@pytest.mark.parametrize(("resize", "mode"), [("shortest", "center"), ("squash", "squash")])
@pytest.mark.parametrize(("crop", "interpolation"), [(1.0, "bicubic"), (0.9, "bicubic"), (0.875, "bilinear")])
def test_equal_to_timm(
    shape: tuple[int, int], target: tuple[int, int], resize: str, mode: str, crop: float, interpolation: str
) -> None:
    image = picture(*shape)
    theirs = timm.data.create_transform(
        (3, *target), crop_pct=crop, crop_mode=mode, interpolation=interpolation, normalize=False
    )(Image.fromarray(image))
    ours = evaluation_pixels(image, card(target, crop=crop, resize=resize, interpolation=interpolation))
    assert ours.dtype == torch.uint8 and torch.equal(ours, theirs)


def test_the_comparison_can_fail() -> None:
    image = picture(61, 47)
    good = evaluation_pixels(image, card((32, 32), crop=0.9))
    for other in ({"crop": 0.875}, {"crop": 0.9, "interpolation": "bilinear"}, {"crop": 0.9, "resize": "squash"}):
        assert not torch.equal(good, evaluation_pixels(image, card((32, 32), **other)))


def test_grey_nearest_and_a_line() -> None:
    grey = picture(28, 28, 1)
    assert torch.equal(evaluation_pixels(grey, card((28, 28), 1))[0], torch.from_numpy(grey[:, :, 0]))
    assert evaluation_pixels(grey, card((56, 56), 1, interpolation="nearest")).shape == (1, 56, 56)
    assert evaluation_pixels(picture(1, 10_000), card((224, 224))).shape == (3, 224, 224)
    assert evaluation_pixels(picture(10_000, 1), card((64, 32), crop=0.9)).shape == (3, 64, 32)


# ---------------------------------------------------------------- letterbox, pad, native

sides = st.integers(1, 90)


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, sides, st.sampled_from(["letterbox", "pad"]))
def test_fitting_inside_equals_pillows_own(height: int, width: int, h: int, w: int, how: str) -> None:
    image = picture(height, width)
    ours = evaluation_pixels(image, card((h, w), resize=how, fill=(9.0, 200.0, 77.0)))
    ratio = max(height / h, width / w)
    inner = min(h, max(1, round(height / ratio))), min(w, max(1, round(width / ratio)))
    small = Image.fromarray(image).resize(inner[::-1], Image.Resampling.BICUBIC)
    place = ((w - inner[1]) // 2, (h - inner[0]) // 2) if how == "letterbox" else (0, 0)
    want = Image.new("RGB", (w, h), (9, 200, 77))
    want.paste(small, place)
    assert np.array_equal(ours.numpy().transpose(1, 2, 0), np.array(want))
    whole = ImageOps.contain(Image.fromarray(image), (w, h), Image.Resampling.BICUBIC)
    assert abs(whole.height - inner[0]) <= 1 and abs(whole.width - inner[1]) <= 1, "another's idea of fitting inside"


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, sides)
def test_native_equals_torchvisions_centre_crop(height: int, width: int, h: int, w: int) -> None:
    image = picture(height, width)
    ours = evaluation_pixels(image, card((h, w), resize="native", fill=(0.0,)))
    assert torch.equal(ours, theirs.center_crop(torch.from_numpy(image).permute(2, 0, 1), [h, w]))


def test_borders_are_the_mean_unless_said() -> None:
    grey = Preprocess(size=(8, 8), mean=(0.2, 0.4, 0.6), std=(1.0, 1.0, 1.0), resize="letterbox")
    got = evaluation_pixels(np.full((2, 8, 3), 255, np.uint8), grey)
    assert (
        got[:, 0, 0].tolist() == [51, 102, 153]
        and got[:, 4, 0].tolist() == [255] * 3
        and got[:, 7, 7].tolist() == [51, 102, 153]
    )
    assert border(replace(grey, depth="uint16")).tolist() == [13107, 26214, 39321]
    assert np.allclose(border(replace(grey, depth="float32", limits=(-10.0, 10.0))), [-6, -2, 2])
    assert border(replace(grey, depth="float32", limits=(0.0, 510.0), fill=(255.0,))).tolist() == [510] * 3


@pytest.mark.parametrize("how", ["shortest", "squash", "letterbox", "pad", "native"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (3, 700)])
def test_the_smallest_and_the_longest(how: str, shape: tuple[int, int]) -> None:
    data = io.BytesIO()
    Image.fromarray(np.full((*shape, 3), 7, np.uint8)).save(data, "JPEG", quality=95)
    for size in ((224, 224), (17, 40)):
        got = prepare(data.getvalue(), card(size, resize=how, decode="scaled", fill=(7.0,)), "thin.jpg")
        assert got.shape == (3, *size) and (got == 7).all()


# ---------------------------------------------------------------- deeper than 8 bits


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 31), (96, 80), (61, 20)])
@pytest.mark.parametrize("channels", [1, 4, 13])
def test_deep_pixels_are_resized_as_torch_resizes_floats(mode: str, size: tuple[int, int], channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (61, 47, channels)).astype(np.uint16)
    held = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    want = interpolate(held, size, mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()
    floats = resize(image.astype(np.float32), size, mode)
    assert floats.dtype == np.float32 and floats.shape == (*size, channels)
    # Pillow's bicubic has another constant than torch's plain one, but the same as its antialiased one.
    assert np.abs(floats - want).max() < 65535 * 2e-5
    whole = resize(image, size, mode)
    assert whole.dtype == np.uint16 and np.abs(whole - want.clip(0, 65535)).max() <= 0.5 + 65535 * 2e-5
    through_eight = resize((image >> 8).astype(np.uint8), size, mode).astype(float) * 257
    assert np.abs(through_eight - want).max() > 100, "the mutation: 8 bits on the way"


def test_eight_bit_planes_are_resized_like_colours() -> None:
    """Transparency as a channel is no reason to weigh the others by it, as Pillow does for RGBA."""
    image = picture(40, 30, 4)
    got = resize(image, (20, 20), "bicubic")
    assert np.array_equal(got[:, :, :3], resize(image[:, :, :3].copy(), (20, 20), "bicubic"))
    assert not np.array_equal(got, np.array(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC)))


# ---------------------------------------------------------------- scaled decoding


def photo(height: int, width: int, turn: int = 1) -> bytes:
    """Smooth, as photographs of many pixels are."""
    rng = np.random.default_rng(height)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = turn
    small.resize((width, height), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90, exif=exif.tobytes())
    return data.getvalue()


@pytest.mark.parametrize("how", ["shortest", "squash", "letterbox", "pad"])
@pytest.mark.parametrize(
    ("shape", "scale"), [((300, 390), 1), ((399, 400), 1), ((500, 640), 2), ((900, 1300), 4), ((1693, 1611), 8)]
)
def test_scaled_keeps_twice_the_size_to_come(
    how: str, shape: tuple[int, int], scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def spy(*words: object, **more: object) -> np.ndarray:
        seen.append(decode(*words, **more))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(transforms, "decode", spy)
    asked = card((100, 100), resize=how, decode="scaled")
    for turn in range(1, 9):
        data = photo(*shape, turn)
        got = prepare(data, asked)
        stored = tuple(-(-side // scale) for side in shape)
        assert seen[-1].shape[:2] == (stored if turn < 5 else stored[::-1])
        full = prepare(data, replace(asked, decode="full"))
        assert np.abs(got.numpy().astype(int) - full.numpy()).max() <= 3, "a smooth picture hardly changes"
    monkeypatch.setattr(transforms, "SPARE", 4)
    prepare(photo(*shape), asked)
    assert (seen[-1].shape[0] > -(-shape[0] // scale)) == (scale > 1), "the mutation: another rule shows"


def test_without_a_word_every_pixel_is_decoded() -> None:
    data = photo(900, 1300)
    want = evaluation_pixels(np.array(Image.open(io.BytesIO(data))), card((64, 64), crop=0.9))
    assert torch.equal(prepare(data, card((64, 64), crop=0.9)), want)
    assert not torch.equal(prepare(data, card((64, 64), crop=0.9, decode="scaled")), want)
