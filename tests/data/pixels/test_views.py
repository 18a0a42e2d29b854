"""Several views of a picture: their number, size and strength, each a crop of its own, from one decoding."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from tessella.card import Preprocess
from tessella.data.loading.seeded import generator
from tessella.data.pixels import views as module
from tessella.data.pixels.augment import BOX_DRAWS, crop_box
from tessella.data.pixels.decode import decode
from tessella.data.pixels.views import CropsConfig, crops
from tessella.errors import BadInput

PLAIN = {"jitter": (0.0, 0.0, 0.0, 0.0), "grey": 0.0, "blur": (0.0,), "solarise": (0.0,), "small_blur": 0.0}


def photo(height: int = 90, width: int = 120) -> bytes:
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = [np.sin(9 * x + 4 * y + c) * 90 + np.cos(7 * y * (c + 1)) * 35 + 128 for c in range(3)]
    held = io.BytesIO()
    Image.fromarray(np.stack(planes, 2).clip(0, 255).astype(np.uint8)).save(held, "JPEG", quality=95)
    return held.getvalue()


def card(side: int = 32, **more: object) -> Preprocess:
    return Preprocess(size=(side, side), mean=(0.5,) * 3, std=(0.5,) * 3, **more)


@pytest.mark.parametrize(("large", "small"), [(2, 8), (2, 0), (1, 3), (4, 1)])
def test_numbers_and_sizes(large: int, small: int) -> None:
    leaves = crops(photo(), CropsConfig(large=large, small=small, small_size=16), card(), generator(0))
    assert leaves["global"].shape == (large, 3, 32, 32)
    assert ("local" in leaves) == (small > 0)
    assert small == 0 or leaves["local"].shape == (small, 3, 16, 16)
    every = [view for leaf in leaves.values() for view in leaf]
    assert all(v.dtype == torch.uint8 for v in every)
    flat = [tuple(F.resize(v, [4, 4]).flatten().tolist()) for v in every]
    assert len(set(flat)) == len(flat), "no two views alike"


def test_views_follow_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (crops(photo(), CropsConfig(small_size=16), card(), generator(k)) for k in (0, 0, 1))
    for key in ("global", "local"):
        assert torch.equal(first[key], again[key]) and not torch.equal(first[key], other[key])
    assert torch.equal(before, torch.get_rng_state())


def test_each_view_is_its_crop() -> None:
    """Without colours: torchvision's resized crop of the box that was drawn, perhaps mirrored."""
    cfg = CropsConfig(large=2, small=3, small_size=16, **PLAIN)
    image = torch.from_numpy(decode(photo())).permute(2, 0, 1)
    draws = generator(4).random((5, 1 + BOX_DRAWS)).tolist()
    leaves = crops(photo(), cfg, card(), generator(4))
    for k, row in enumerate(draws):
        kind = cfg.large_view(k) if k < 2 else cfg.small_view()
        side = 32 if k < 2 else 16
        box = crop_box(90, 120, kind, row[1:])
        expected = F.resized_crop(image, *box, [side, side], interpolation=InterpolationMode.BICUBIC, antialias=True)
        expected = F.hflip(expected) if row[0] < 0.5 else expected
        got = leaves["global"][k] if k < 2 else leaves["local"][k - 2]
        assert (got.int() - expected.int()).abs().max() <= 1
        share = box[2] * box[3] / (90 * 120)
        assert (0.39 if k < 2 else 0.045) < share < (1.01 if k < 2 else 0.41)


def test_strengths_are_those_of_each_view() -> None:
    """DINO's: the first large view always blurred and never solarised, the second seldom, small ones half the time."""
    cfg = CropsConfig(jittered=0.0, grey=0.0, small=1, small_size=32)
    plain = CropsConfig(small=1, small_size=32, **PLAIN)
    changed = {"first": 0, "second": 0, "small": 0}
    for i in range(200):
        a, b = (crops(photo(40, 40), c, card(), generator(i)) for c in (cfg, plain))
        changed["first"] += not torch.equal(a["global"][0], b["global"][0])
        changed["second"] += not torch.equal(a["global"][1], b["global"][1])
        changed["small"] += not torch.equal(a["local"][0], b["local"][0])
    assert changed["first"] > 180, "a blur of 0.1 pixels changes nothing"
    assert 35 < changed["second"] < 85 and 70 < changed["small"] < 115
    assert CropsConfig(large=5).large_view(4).blur == 0.1 and CropsConfig(large=5).large_view(0).blur == 1.0


def test_one_decoding_of_the_size_that_the_neediest_view_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    read = module.read

    def watched(*args: object) -> np.ndarray:
        image = read(*args)  # type: ignore[arg-type]
        shapes.append(image.shape[:2])
        return image

    monkeypatch.setattr(module, "read", watched)
    cfg = CropsConfig(large_scale=(1.0, 1.0), small_scale=(1.0, 1.0), ratio=(1.0, 1.0), small_size=16)
    for side, policy in ((32, "scaled"), (100, "scaled"), (32, "full")):
        crops(photo(512, 512), cfg, card(side, decode=policy), generator(0))
    assert shapes == [(64, 64), (128, 128), (512, 512)]


def test_other_channels_and_depths_need_plain_views() -> None:
    held = io.BytesIO()
    np.save(held, np.random.default_rng(0).integers(0, 65536, (40, 50, 5), dtype=np.uint16))
    deep = Preprocess(size=(16, 16), mean=(0.5,) * 5, std=(0.5,) * 5, channels=5, depth="uint16")
    leaves = crops(held.getvalue(), CropsConfig(small_size=8, **PLAIN), deep, generator(0))
    assert leaves["global"].shape == (2, 5, 16, 16) and leaves["local"].dtype == torch.uint16
    with pytest.raises(BadInput, match=r"^augment\.jitter"):
        crops(held.getvalue(), CropsConfig(), deep, generator(0))


BAD = [{"large": 0}, {"small": -1}, {"small_size": 0}, {"blur": ()}, {"solarise": ()}, {"blur": (1.0, 2.0)},
       {"grey": -1.0}, {"large_scale": (0.5, 0.2)}, {"small_scale": (0.0, 0.2)},
       {"solarise": (0.0, 0.0, 3.0)}]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_impossible_views_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"^(crops|augment)[^\n]*$"):
        CropsConfig(**bad)
