"""Colour policies do to pixels what torchvision does, with its strengths, each operation as often as it should."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tessella.data.loading.seeded import generator
from tessella.data.pixels import policies
from tessella.data.pixels.policies import RAND, TOP, WIDE, Operation, apply, strength

THEIRS = {
    "identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX",
    "translate_y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "colour": "Color",
    "contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarise": "Solarize",
    "autocontrast": "AutoContrast", "equalize": "Equalize",
}  # fmt: skip
TABLES = [(RAND, v2.RandAugment), (WIDE, v2.TrivialAugmentWide)]


def picture(height: int = 40, width: int = 56, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth with some noise: an even spread of values, so that equalising and contrast have something to do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * (c + 1) * 3 + y * 2 + rng.integers(0, 60, x.shape)) % 230 + 10 for c in range(channels)]
    return torch.from_numpy(np.stack(planes).astype(np.uint8))


@pytest.mark.parametrize(("table", "policy"), TABLES)
def test_tables_are_torchvisions(table: tuple[Operation, ...], policy: type) -> None:
    space = policy._AUGMENTATION_SPACE
    assert [THEIRS[row.name] for row in table] == list(space)
    for row in table:
        values, signed = space[THEIRS[row.name]]
        assert row.signed == signed
        theirs = values(TOP + 1, 224, 180)
        if theirs is None:
            assert row.weak == row.strong == 0
        else:
            ours = [strength(row, m, 224, 180) for m in range(TOP + 1)]
            assert ours == pytest.approx([float(v) for v in theirs], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("table", "policy"), TABLES)
def test_pixels_are_torchvisions(table: tuple[Operation, ...], policy: type, channels: int) -> None:
    image, theirs = picture(channels=channels), policy(interpolation=InterpolationMode.BILINEAR)
    for row in table:
        for m in range(TOP + 1):
            for sign in (1, -1)[: 1 + row.signed]:
                value = sign * strength(row, m, *image.shape[-2:])
                expected = theirs._apply_image_or_video_transform(
                    image, THEIRS[row.name], value, interpolation=theirs.interpolation, fill=theirs._fill
                )
                assert torch.equal(apply(image, row.name, value), expected), (row.name, m, sign)


class Scripted:
    """torchvision's draws dictated, and its tables free of rounding: a translation of 15.999... is cut to 15 there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, numbers: list[int], coins: list[float]) -> None:
        draws, flips = iter(numbers), iter(coins)
        monkeypatch.setattr(torch, "randint", lambda *a, **k: torch.tensor(next(draws)))
        line = torch.linspace  # asked for "steps" it draws grids, not tables
        monkeypatch.setattr(torch, "linspace", lambda *a, **k: line(*a, **k) if "steps" in k else np.linspace(*a))
        monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.tensor(next(flips)))


def test_a_whole_policy_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same operations, same magnitude, same signs: the whole class gives the same picture."""
    image = picture()
    for seed in range(25):
        rng = generator(seed)
        which, signs = rng.integers(0, 14, 2).tolist(), rng.random(2).tolist()
        coins = [0.4 if s < 0.5 else 0.6 for s, k in zip(signs, which, strict=True) if RAND[k].signed]
        with monkeypatch.context() as patch:
            Scripted(patch, which, coins)
            expected = v2.RandAugment(2, 17, interpolation=InterpolationMode.BILINEAR)(image)
        assert torch.equal(policies.rand_augment(image, generator(seed), 2, 17, 0.0), expected)
        which, level, sign = generator(seed).integers(0, (14, 31, 2)).tolist()
        with monkeypatch.context() as patch:
            Scripted(patch, [which, level], [0.4 if sign else 0.6])
            expected = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)(image)
        assert torch.equal(policies.trivial_augment(image, generator(seed)), expected)


def test_the_comparison_can_fail() -> None:
    """The mutations: one magnitude more, the other sign, the other axis."""
    image = picture()
    for row in RAND:
        if row.weak == row.strong:
            continue
        value = strength(row, 12, *image.shape[-2:])
        others = [strength(row, 26, *image.shape[-2:])] + [-value] * row.signed
        assert all(not torch.equal(apply(image, row.name, value), apply(image, row.name, v)) for v in others), row.name
    assert not torch.equal(apply(image, "shear_x", 0.2), apply(image, "shear_y", 0.2))
    with pytest.raises(ValueError, match="cartoon"):
        apply(image, "cartoon")


def used(monkeypatch: pytest.MonkeyPatch, draw: Callable[[np.random.Generator], object], n: int) -> Counter[str]:
    """How often each operation comes, without doing any."""
    seen: Counter[str] = Counter()

    def note(image: Tensor, name: str, value: float = 0.0) -> Tensor:
        seen[f"{name} {math.copysign(1, value):+.0f}" if value < 0 else name] += 1
        return image

    monkeypatch.setattr(policies, "apply", note)
    for i in range(n):
        draw(generator(1, i))
    return seen


@pytest.mark.parametrize("trivial", [False, True])
def test_operations_and_signs_have_equal_chances(monkeypatch: pytest.MonkeyPatch, trivial: bool) -> None:
    image = picture(4, 4)
    draw = policies.trivial_augment if trivial else lambda im, rng: policies.rand_augment(im, rng, 2, 9.0, 0.0)
    seen = used(monkeypatch, lambda rng: draw(image, rng), 2800)
    each = sum(seen.values()) / 14
    for name in THEIRS:
        both = seen[name] + seen[f"{name} -1"]
        assert abs(both - each) < 5 * math.sqrt(each), name
    turned = sum(v for k, v in seen.items() if k.endswith("-1"))
    share = turned / sum(v for k, v in seen.items() if RAND[list(THEIRS).index(k.split()[0])].signed)
    assert 0.45 < share < 0.55 if not trivial else 0.43 < share < 0.55  # magnitude 0 has no sign


def test_deviation_spreads_the_magnitude_within_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[float] = []
    monkeypatch.setattr(policies, "_one", lambda image, row, level, negative: levels.append(level) or image)
    for i in range(500):
        policies.rand_augment(picture(2, 2), generator(i), 2, 27.0, 1.5)
    assert max(levels) == TOP and 26.6 < float(np.mean(levels)) < 27.4 and 1.2 < float(np.std(levels)) < 1.8


def test_three_augment_is_one_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    image, seen = picture(12, 12), Counter[str]()
    grey, solarised = policies.grey(image), F.solarize(image, 128)
    for i in range(600):
        out = policies.three_augment(image, generator(i))
        seen["grey" if torch.equal(out, grey) else "solarise" if torch.equal(out, solarised) else "blur"] += 1
    assert len(seen) == 3 and all(150 < times < 250 for times in seen.values())


@pytest.mark.parametrize("shape", [(20, 30), (1, 9), (5, 2), (1, 1)])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.3, 2.0])
def test_blur_is_a_gaussian(shape: tuple[int, int], sigma: float) -> None:
    image = picture(*shape)
    ours = policies.blur(image, sigma)
    reach = [min(math.ceil(3 * sigma), side - 1) for side in shape[::-1]]
    theirs = F.gaussian_blur(image, [2 * r + 1 for r in reach], [sigma, sigma])
    assert ours.dtype == torch.uint8 and (ours.int() - theirs.int()).abs().max() <= 1
    if min(shape) > 5 and sigma > 1:
        assert (policies.blur(image, sigma * 1.1).int() - theirs.int()).abs().max() > 1


def test_blur_takes_deep_pictures_of_any_channels() -> None:
    deep = (picture(9, 9, 5).float() * 257).to(torch.uint16)
    ours = policies.blur(deep, 1.0)
    assert ours.dtype == torch.uint16
    assert (ours.float() / 257 - policies.blur(picture(9, 9, 5), 1.0).float()).abs().max() <= 0.51
    assert policies.blur(deep.float(), 1.0).dtype == torch.float32


@pytest.mark.parametrize("threshold", [0, 0.5, 127.5, 128, 200.01, 254.5, 255])
def test_solarise_is_torchvisions(threshold: float) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(policies.solarise(every, threshold), F.solarize(every, threshold))
    assert not torch.equal(policies.solarise(every, 100), F.solarize(every, 101))


def test_jitter_draws_evenly_and_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders, factors = Counter[tuple[int, ...]](), []
    done: list[int] = []

    def note(image: Tensor, k: int, reach: float, at: float) -> Tensor:
        done.append(k)
        factors.append(at)
        return image

    monkeypatch.setattr(policies, "_jitter_one", note)
    for i in range(1200):
        policies.jitter(picture(2, 2), generator(i), (0.4, 0.4, 0.2, 0.1))
        orders[tuple(done)] += 1
        done.clear()
    assert len(orders) == 24 and max(orders.values()) < 90 and min(orders.values()) > 20
    assert np.histogram(factors, 8, (0, 1))[0].min() > 500
    policies.jitter(picture(2, 2), generator(0), (0.4, 0.0, 0.0, 0.0))
    assert done == [0]


@pytest.mark.parametrize(("k", "name"), list(enumerate(["brightness", "contrast", "saturation", "hue"])))
def test_jitter_is_torchvisions(k: int, name: str) -> None:
    image, reach = picture(), 0.4
    adjust = getattr(F, f"adjust_{name}")
    for at in (0.0, 0.3, 0.5, 0.99):
        factor = reach * (2 * at - 1) if name == "hue" else 1 - reach + 2 * reach * at
        ours = policies._jitter_one(image, k, reach, at)
        assert (ours.int() - adjust(image, factor).int()).abs().max() <= 1
    assert torch.equal(policies._jitter_one(image, 0, 3.0, 0.0), torch.zeros_like(image)), "no factor below 0"


@pytest.mark.parametrize("by", [-0.5, -0.31, -0.1, 0.0, 1e-4, 0.07, 0.25, 0.5])
def test_every_hue_turns_as_in_torchvision(by: float) -> None:
    """All colours of a fine grid, the greys among them."""
    steps = torch.arange(0, 256, 5, dtype=torch.uint8)
    image = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).reshape(3, len(steps), -1)
    assert (policies.turn_hue(image, by).int() - F.adjust_hue(image, by).int()).abs().max() <= 1
    assert (policies.turn_hue(image, by + 0.02).int() - F.adjust_hue(image, by).int()).abs().max() > 1
    assert torch.equal(policies.turn_hue(image[:1], by), image[:1])


def test_erased_boxes_keep_to_the_paper() -> None:
    shares, ratios = [], []
    for i in range(800):
        box = policies.erased_box(200, 300, generator(i))
        assert box is not None
        top, left, h, w = box
        assert 0 <= top <= 200 - h and 0 <= left <= 300 - w
        shares.append(h * w / 60_000)
        ratios.append(h / w)
    assert 0.019 < min(shares) < 0.03 and 0.31 < max(shares) < 0.336
    assert 0.29 < min(ratios) < 0.35 and 2.8 < max(ratios) < 3.4
    assert abs(np.median(np.log(ratios))) < 0.25  # a little less than even: the flattest often do not fit
    assert policies.erased_box(1, 1, generator(0)) is None


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16])
def test_erase_writes_noise_into_one_box(kind: torch.dtype) -> None:
    before = torch.zeros(3, 40, 40, dtype=kind)
    after = policies.erase(before.clone(), generator(5)).numpy().astype(int)
    rows, columns = np.nonzero(after.any(0))
    inside = after[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    top = torch.iinfo(kind).max
    assert (inside > 0).mean() > 0.98 and abs(inside.mean() / top - 0.5) < 0.05 and inside.max() > 0.97 * top
    tall = policies.erase(torch.zeros(1, 1, 9, dtype=kind), generator(0))
    assert not tall.numpy().any(), "no box fits in a line"
