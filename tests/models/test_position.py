"""Positions: the resampling against ATen's, the sin-cos table against MAE's loop, rotary angles by their properties."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessella.models import position
from tessella.models.architecture import RotaryConfig
from tessella.models.position import Place, related, resample, rotary, sincos

BAR = 1e-6
sides = st.integers(1, 40)


def aten(table: Tensor, h: int, w: int, antialias: bool = True) -> Tensor:
    grid = table.permute(2, 0, 1)[None]
    out = F.interpolate(grid, (h, w), mode="bicubic", antialias=antialias, align_corners=False)
    return out[0].permute(1, 2, 0)


def apart(table: Tensor, h: int, w: int) -> float:
    """The largest difference as a share of the largest value."""
    right = aten(table, h, w)
    return ((resample(table, h, w) - right).abs().max() / right.abs().max()).item()


@settings(max_examples=200, deadline=None)
@given(sides, sides, sides, sides)
def test_resample_equals_interpolate(rows: int, columns: int, h: int, w: int) -> None:
    # ATen (2.15, CPU) resizes the rows of a map of width 1 wrongly: it disagrees with itself on two equal columns
    assume(w > 1 or h == rows)
    table = torch.randn(rows, columns, 3, generator=torch.Generator().manual_seed(rows * 41 + w), dtype=torch.float64)
    assert apart(table, h, w) <= BAR * 1e-6
    assert apart(table.float(), h, w) <= 2 * BAR  # ATen's own 32-bit weights are no better than that


@settings(max_examples=100, deadline=None)
@given(sides, sides, sides, sides)
def test_plain_resampling_is_interpolate_without_antialias(rows: int, columns: int, h: int, w: int) -> None:
    table = torch.randn(rows, columns, 3, generator=torch.Generator().manual_seed(rows * 41 + w), dtype=torch.float64)
    right = aten(table, h, w, antialias=False)
    ours = resample(table, h, w, plain=True)
    assert (ours - right).abs().max() <= BAR * 1e-6 * right.abs().max()
    halves = resample(table.float(), h, w, plain=True)
    assert (halves - aten(table.float(), h, w, antialias=False)).abs().max() <= 4 * BAR * right.abs().max()
    if (h, w) not in ((rows, columns),) and rows > 3 and columns > 3 and h > 1 and w > 1:
        assert (resample(table, h, w) - right).abs().max() > 100 * BAR, "the mutation: with antialias"


def test_one_column_is_half_of_two() -> None:
    table = torch.randn(9, 4, 3, dtype=torch.float64)
    both = torch.cat([resample(table, 9, 1)] * 2, dim=1)
    assert torch.allclose(resample(table, 5, 1), aten(both, 5, 2)[:, :1], atol=1e-12)


@pytest.mark.parametrize("old", [14, 16, 24, 37])
def test_resample_of_usual_grids(old: int) -> None:
    table = torch.randn(old, old, 4, generator=torch.Generator().manual_seed(old)) * 0.3
    for h, w in [(7, 7), (14, 14), (14, 10), (16, 24), (24, 14), (32, 32), (37, 37), (64, 48)]:
        assert apart(table, h, w) <= BAR


def test_the_comparison_sees_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.rand(14, 14, 4)
    assert (resample(table, 9, 9) - aten(table, 9, 9, antialias=False)).abs().max() > 100 * BAR
    right = position._bicubic_weights
    monkeypatch.setattr(position, "_bicubic_weights", lambda *key: right(*key)[::-1].copy())  # upside down
    assert (resample(table, 9, 20) - aten(table, 9, 20)).abs().max() > 100 * BAR


def test_gradient_equals_that_of_interpolate() -> None:
    table = torch.rand(6, 9, 5, requires_grad=True)
    weight = torch.rand(11, 4, 5)
    (ours,) = torch.autograd.grad((resample(table, 11, 4) * weight).sum(), table)
    (theirs,) = torch.autograd.grad((aten(table, 11, 4) * weight).sum(), table)
    assert (ours - theirs).abs().max() <= BAR * 10


def test_weights_cached_in_inference_mode_serve_training() -> None:
    position._bicubic_weights.cache_clear()
    table = torch.rand(5, 5, 2)
    with torch.inference_mode():
        first = resample(table, 8, 3)
    again = resample(table.requires_grad_(), 8, 3)
    again.sum().backward()
    assert torch.equal(first, again.detach()) and table.grad is not None


def test_resample_stays_in_32_bits_under_autocast() -> None:
    table = torch.rand(5, 5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resample(table, 8, 3), resample(table, 8, 3).float())
        inside = resample(table, 8, 3)
    assert torch.equal(inside, resample(table, 8, 3))


def test_sincos_is_the_table_of_mae() -> None:
    width, h, w = 16, 3, 5
    table = sincos(width, h, w)
    for y in range(h):
        for x in range(w):
            row = []
            for at in (x, y):  # MAE puts the column first
                angles = [at / 10000 ** (i / (width / 4)) for i in range(width // 4)]
                row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            assert torch.allclose(table[y, x], torch.tensor(row), atol=1e-6)


def scores(place: Place, a: Tensor, b: Tensor) -> Tensor:
    q, k = place.turn(a), place.turn(b)
    return (q @ k.transpose(-2, -1))[0, 0]


def test_rotary_scores_depend_on_the_difference_of_places() -> None:
    h, w, size = 4, 6, 16
    place = rotary(RotaryConfig(), size, h, w, torch.device("cpu"))
    one = torch.randn(1, 1, 1, size).expand(1, 1, h * w, size)
    other = torch.randn(1, 1, 1, size).expand(1, 1, h * w, size)
    grid = scores(place, one, other).view(h, w, h, w)
    assert torch.allclose(grid[0, 0, 1, 2], grid[2, 3, 3, 5], atol=1e-4)
    assert not torch.allclose(grid[0, 0, 1, 2], grid[0, 0, 2, 1], atol=1e-2)  # rows and columns are told apart


def test_a_token_without_place_is_not_turned_and_places_follow_their_tokens() -> None:
    place = rotary(RotaryConfig(), 8, 2, 3, torch.device("cpu"))
    x = torch.randn(2, 4, 6, 8)
    turned = place.turn(x)
    more = place.with_placeless(2, at=1)
    wide = torch.cat([x[:, :, :1], torch.ones(2, 4, 2, 8), x[:, :, 1:]], dim=2)
    again = more.turn(wide)
    assert torch.equal(again[:, :, 1:3], wide[:, :, 1:3])
    assert torch.equal(torch.cat([again[:, :, :1], again[:, :, 3:]], dim=2), turned)
    index = torch.tensor([[5, 0], [2, 3]])
    chosen = place.select(index)
    picked = torch.stack([x[i, :, index[i]] for i in range(2)])
    assert torch.equal(chosen.turn(picked), torch.stack([turned[i, :, index[i]] for i in range(2)]))
    assert Place().turn(x) is x and Place().select(index) == Place() and Place().with_placeless(3) == Place()


@pytest.mark.parametrize(("cfg", "first", "last"), [
    (RotaryConfig(), -2 * math.pi * 3 / 4, 2 * math.pi * 3 / 4),
    (RotaryConfig(reference=8), 0.0, 6.0),
    (RotaryConfig(reference=(8, 2), offset=1.0), 2.0, 8.0),
])  # fmt: skip
def test_places_of_rows_by_each_way_to_count(cfg: RotaryConfig, first: float, last: float) -> None:
    """The first pair of features turns by the row's place itself."""
    place = rotary(cfg, 8, 4, 3, torch.device("cpu"))
    assert place.cos is not None and place.sin is not None
    rows = place.cos.view(4, 3, 8)[:, 0, 0]
    assert rows[0] == pytest.approx(math.cos(first), abs=1e-6) and rows[-1] == pytest.approx(math.cos(last), abs=1e-6)


def test_related_tokens_follow_selection_and_insertion() -> None:
    place = Place(related=related(2, 3, torch.device("cpu"))).with_placeless(1)
    assert place.related is not None and place.related.at.tolist() == [[-1, 0, 1, 2, 3, 4, 5]]
    chosen = place.select(torch.tensor([[0, 6, 2]])).related
    assert chosen is not None and torch.equal(chosen.rows(), place.related.rows()[:, [0, 6, 2]][:, :, [0, 6, 2]])
