"""Evaluation pixels equal timm's bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from tessella.card import Preprocess
from tessella.data.transforms import evaluation_pixels


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
