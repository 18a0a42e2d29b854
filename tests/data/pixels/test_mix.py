"""Mixing follows its papers, gives each label its exact share, and is the same for any workers and ranks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import mixing as oracle
from scipy import stats
from torch import Tensor

from tessella.data.loading.seeded import generator
from tessella.data.pixels.mix import STEPS, Mix, MixConfig, blend, draw, mixed, refuse
from tessella.errors import BadInput

BOTH = MixConfig()
MIXUP, CUTMIX = MixConfig(cutmix=0), MixConfig(mixup=0)


def batch(rows: list[int], size: tuple[int, int] = (6, 8), kind: torch.dtype = torch.uint8) -> dict[str, Any]:
    top = 65535 if kind == torch.uint16 else 255
    pictures = [np.random.default_rng(row).integers(0, top + 1, (3, *size)) for row in rows]
    image = torch.from_numpy(np.stack(pictures)).to(kind) if rows else torch.empty((0, 3, *size), dtype=kind)
    return {"ids": [f"p{row}" for row in rows], "image": image, "label": torch.tensor(rows, dtype=torch.int64) % 7}


def mixed_rows(rows: list[int], cfg: MixConfig = BOTH, epoch: int = 0, **more: Any) -> dict[str, Any]:
    return mixed(batch(rows, **more), rows, [epoch] * len(rows), cfg, 3)


def draws(cfg: MixConfig, n: int, size: tuple[int, int] = (224, 224)) -> list[Mix]:
    return [draw(cfg, size, generator(5, i)) for i in range(n)]


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_the_weight_of_a_mixup_is_beta(alpha: float) -> None:
    weights = [m.weight for m in draws(MixConfig(mixup=alpha, cutmix=0), 3000)]
    edges = (np.array([0, 1, 2, 8, 32, 64, 96, 128, 161, 193, 225, 249, 255, 256, 257]) - 0.5) / STEPS
    counts = np.histogram(weights, edges)[0]

    def agrees(law: Any) -> float:
        shares = np.diff(law.cdf(edges.clip(0, 1)))
        return float(stats.chisquare(counts, 3000 * shares / shares.sum()).pvalue)

    assert agrees(stats.beta(alpha, alpha)) > 0.01
    assert agrees(stats.beta(alpha * 1.5, alpha)) < 1e-6, "the comparison can fail"


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_boxes_of_cutmix_are_those_of_timm(alpha: float) -> None:
    """The same shares and the same places, as far as two samples can tell."""
    from timm.data.mixup import cutmix_bbox_and_lam

    ours = draws(MixConfig(mixup=0, cutmix=alpha), 2500, (60, 90))
    np.random.seed(0)
    theirs = [cutmix_bbox_and_lam((3, 60, 90), np.random.beta(alpha, alpha)) for _ in range(2500)]
    assert stats.ks_2samp([m.weight for m in ours], [lam for _, lam in theirs]).pvalue > 0.01
    boxes = [m.box for m in ours if m.box is not None]
    for axis, (low, high) in enumerate(((0, 1), (2, 3))):
        middles = [b[axis] + b[axis + 2] / 2 for b in boxes]
        assert stats.ks_2samp(middles, [(b[low] + b[high]) / 2 for b, _ in theirs]).pvalue > 0.01


def test_probability_and_switch() -> None:
    cfg = MixConfig(probability=0.4, switch=0.3)
    found = draws(cfg, 2000)
    mixes = [m for m in found if m != Mix(1.0)]
    assert 0.36 < len(mixes) / 2000 < 0.44
    assert 0.25 < sum(m.box is not None for m in mixes) / len(mixes) < 0.36
    assert all(m.box is None for m in draws(MIXUP, 100)) and all(m.box for m in draws(CUTMIX, 100))
    assert draws(MixConfig(probability=0.0), 50) == [Mix(1.0)] * 50


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16])
def test_mixup_is_the_slow_one(kind: torch.dtype) -> None:
    """Equal to the float formula, rounded to the nearest, and the label has the weight of the pixels."""
    plain, out = batch(list(range(20)), kind=kind), mixed_rows(list(range(20)), MIXUP, kind=kind)
    seen = set()
    for row in range(20):
        own, other = (plain["image"][i].flatten().tolist() for i in (row, row ^ 1))
        weight = float(out["mix"][row])
        assert out["image"][row].flatten().tolist() == oracle.mixup(own, other, weight)
        assert int(out["mix_label"][row]) == int(plain["label"][row ^ 1 if weight < 1 else row])
        seen.add(weight)
    assert len(seen) > 15 and out["image"].dtype == kind
    assert torch.equal(out["label"], plain["label"])


def test_every_weight_of_every_pair_of_bytes() -> None:
    own, other = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for steps in (0, 1, 77, 128, 255, 256):
        out = own.copy()[None]
        blend(out, other[None], Mix(steps / STEPS))
        exact = np.floor(own * (steps / STEPS) + other * (1 - steps / STEPS) + 0.5)
        assert np.array_equal(out[0], exact)
    floats = own.astype(np.float32)[None].copy()
    blend(floats, other.astype(np.float32)[None], Mix(0.25))
    assert np.allclose(floats[0], own * 0.25 + other * 0.75)


def test_cutmix_is_the_slow_one() -> None:
    rows = list(range(30))
    plain, out = batch(rows), mixed_rows(rows, CUTMIX)
    cut = 0
    for row in rows:
        mix = draw(CUTMIX, (6, 8), generator(3, "mix", 0, f"p{row}"))
        assert mix.box is not None
        for c in range(3):
            own, other = (plain["image"][i, c].tolist() for i in (row, row ^ 1))
            expected, share = oracle.cutmix(own, other, mix.box)
            assert out["image"][row, c].tolist() == expected
            assert math.isclose(float(out["mix"][row]), share, rel_tol=1e-6)
        cut += 0 < mix.weight < 1
    assert cut > 20


def test_another_partner_or_weight_is_seen() -> None:
    """The mutations: a neighbour on the other side, the partner's weight, the weight turned round."""
    plain, out = batch([0, 1, 2, 3]), mixed_rows([0, 1, 2, 3], MIXUP)
    weight, got = float(out["mix"][1]), out["image"][1].flatten().tolist()
    own, right, wrong = (plain["image"][i].flatten().tolist() for i in (1, 0, 2))
    assert got == oracle.mixup(own, right, weight)
    for bad in (oracle.mixup(own, wrong, weight), oracle.mixup(own, right, 1 - weight),
                oracle.mixup(own, right, float(out["mix"][0]))):  # fmt: skip
        assert got != bad


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), unique=True, max_size=14),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_sample_depends_on_its_own_pair_only(rows: list[int], epoch: int, last: bool) -> None:
    """Whatever else is in the batch, in whatever order; and what has no partner stays as it is."""
    out = mixed_rows(rows, epoch=epoch)
    plain = batch(rows)
    for k, row in enumerate(rows):
        if row ^ 1 not in rows:
            assert torch.equal(out["image"][k], plain["image"][k]) and out["mix"][k] == 1
            assert out["mix_label"][k] == plain["label"][k]
            continue
        pair = sorted((row, row ^ 1), reverse=last)
        alone, at = mixed_rows(pair, epoch=epoch), pair.index(row)
        for key in ("image", "label", "mix_label", "mix"):
            assert torch.equal(out[key][k], alone[key][at])


def test_input_is_not_changed_and_channels_may_be_last() -> None:
    plain = batch([0, 1, 2, 3])
    before: Tensor = plain["image"].clone()
    out = mixed(plain, [0, 1, 2, 3], [0] * 4, BOTH, 3)
    assert torch.equal(plain["image"], before) and "mix" not in plain
    last = plain | {"image": before.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)}
    again = mixed(last, [0, 1, 2, 3], [0] * 4, BOTH, 3)
    assert torch.equal(again["image"], out["image"]) and again["image"].stride() == last["image"].stride()


def test_epochs_and_seeds_mix_differently() -> None:
    first, second = mixed_rows([0, 1]), mixed_rows([0, 1], epoch=1)
    assert not torch.equal(first["mix"], second["mix"])
    assert not torch.equal(first["mix"], mixed(batch([0, 1]), [0, 1], [0, 0], BOTH, 4)["mix"])
    assert torch.equal(first["mix"], mixed_rows([0, 1])["mix"])
    again, turned = (mixed(batch([0, 1]), [0, 1], [0, 0], BOTH, 3, turns) for turns in ([0, 0], [0, 1]))
    assert torch.equal(first["mix"], again["mix"])
    assert turned["mix"][0] == first["mix"][0] and turned["mix"][1] != first["mix"][1]


@pytest.mark.parametrize(("total", "ranks", "fine"), [(8, 1, True), (7, 1, True), (8, 2, True), (6, 2, False),
                                                      (12, 3, True), (9, 3, False), (10, 4, False)])  # fmt: skip
def test_pairs_that_ranks_would_share_are_refused(total: int, ranks: int, fine: bool) -> None:
    if fine:
        refuse(total, ranks)
        starts = [r * total // ranks for r in range(ranks)]
        assert all(start % 2 == 0 for start in starts)
    else:
        with pytest.raises(BadInput, match=f"multiple of {2 * ranks}"):
            refuse(total, ranks)


def test_what_cannot_be_is_refused_in_one_line() -> None:
    for bad in ({"mixup": 0, "cutmix": 0}, {"mixup": -1.0}, {"cutmix": math.nan}, {"probability": 1.1}, {"switch": -1}):
        with pytest.raises(BadInput, match=r"^mix[^\n]*$"):
            MixConfig(**bad)  # type: ignore[arg-type]
    bare = batch([0, 1])
    del bare["label"]
    with pytest.raises(BadInput, match="labels"):
        mixed(bare, [0, 1], [0, 0], BOTH, 0)
    with pytest.raises(ValueError, match="positions"):
        mixed(batch([0, 1]), [0], [0, 0], BOTH, 0)
    assert mixed(batch([]), [], [], BOTH, 0)["mix"].shape == (0,)
