"""Training views are random in the declared way and seeded by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tessella.card import Preprocess
from tessella.data.augment import AugmentConfig, augment, crop_box
from tessella.data.seeded import generator
from tessella.data.transforms import evaluation_pixels
from tessella.errors import BadInput


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def card(size: tuple[int, int], channels: int = 3, **more: object) -> Preprocess:
    return Preprocess(size=size, mean=(0.5,) * channels, std=(0.5,) * channels, channels=channels, **more)


SIZES = [(32, 32), (61, 47), (47, 61), (500, 375), (224, 300), (37, 224), (1, 1), (1, 9)]


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
@pytest.mark.parametrize("shape", [(28, 28), (1, 1), (1, 500), (70, 40)])
def test_views_have_the_cards_size_and_follow_the_generator(crop: str, shape: tuple[int, int]) -> None:
    image, pre, cfg = picture(*shape), card((32, 48)), AugmentConfig(crop=crop)
    views = [augment(image, cfg, pre, generator(0, epoch, "a")) for epoch in (0, 0, 1, 2, 3, 4, 5)]
    assert all(v.shape == (3, 32, 48) and v.dtype == torch.uint8 for v in views)
    assert torch.equal(views[0], views[1])
    if min(shape) > 1:  # one row leaves a crop of one pixel
        assert any(not torch.equal(views[0], v) for v in views[2:])


def test_views_touch_no_global_generator() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    augment(picture(40, 40), AugmentConfig(), card((32, 32)), generator(0))
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


def test_flip_has_its_probability() -> None:
    image, pre = picture(8, 8), card((8, 8))
    plain = evaluation_pixels(image, pre)
    for flip, low, high in ((0.0, 0, 0), (0.5, 75, 125), (1.0, 200, 200)):
        cfg = AugmentConfig(crop="none", flip=flip)
        views = [augment(image, cfg, pre, generator(1, i)) for i in range(200)]
        mirrored = sum(torch.equal(v, plain.flip(-1)) for v in views)
        assert low <= mirrored <= high and mirrored + sum(torch.equal(v, plain) for v in views) == 200


def test_pad_crop_reaches_every_shift() -> None:
    image = np.full((9, 9, 1), 255, np.uint8)
    cfg = AugmentConfig(crop="pad", padding=1, flip=0)
    views = {augment(image, cfg, card((9, 9), 1), generator(2, i)).numpy().tobytes() for i in range(120)}
    assert len(views) == 9


def test_crops_keep_to_scale_and_ratio() -> None:
    cfg = AugmentConfig(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    shares, ratios = [], []
    for i in range(300):
        top, left, h, w = crop_box(300, 400, cfg, generator(3, i))
        assert 0 <= top <= 300 - h and 0 <= left <= 400 - w
        shares.append(h * w / 120_000)
        ratios.append(w / h)
    assert 0.19 < min(shares) < 0.25 and 0.55 < max(shares) < 0.61
    assert 0.49 < min(ratios) < 0.6 and 1.7 < max(ratios) < 2.02
    assert crop_box(1, 1000, cfg, generator(0))[2:] == (1, 2)


def test_generator_keys_do_not_run_together() -> None:
    keys = [(1, 23), (12, 3), (123,), ("1", 23), (1, "23"), ("123",), (0, 1, "a"), (0, 1, "b"), (1, 0, "a")]
    assert len({generator(*key).integers(2**62) for key in keys}) == len(keys)
    assert generator(7, 2, "caf\udce9").random() == generator(7, 2, "caf\udce9").random()
    assert generator(0, 1, "a").integers(2**31) == 441832018, "an old run would no longer be repeated"


@pytest.mark.parametrize("bad", [{"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"ratio": (2.0, 1.0)}, {"flip": 1.5}])
def test_impossible_augmentation_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="augment"):
        AugmentConfig(**bad)
