"""Hidden patches: of each picture as many as were asked for, in the shape that was asked for, and drawn evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.pixels.masks import MasksConfig, hidden
from tessella.errors import BadInput

GRIDS = st.tuples(st.integers(2, 16), st.integers(2, 16))


def drawn(cfg: MasksConfig, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
    return hidden(cfg, grid, np.random.default_rng(seed))


@settings(max_examples=200, deadline=None)
@given(GRIDS, st.floats(0.1, 0.9), st.integers(0, 10_000), st.sampled_from(["random", "block"]))
def test_as_many_as_asked_for(grid: tuple[int, int], share: float, seed: int, kind: str) -> None:
    cfg = MasksConfig(kind=kind, share=share)  # type: ignore[arg-type]
    wanted = round(share * grid[0] * grid[1])
    if not 0 < wanted < grid[0] * grid[1]:
        with pytest.raises(BadInput, match="hides"):
            drawn(cfg, grid, seed)
        return
    found = drawn(cfg, grid, seed)
    assert found.shape == grid and found.dtype == np.bool_ and found.sum() == wanted


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 999))
def test_units_are_hidden_together(down: int, across: int, unit: int, seed: int) -> None:
    grid, units = (down * unit, across * unit), down * across
    if units < 2:
        return
    found = drawn(MasksConfig(share=(units // 2) / units, unit=unit), grid, seed)
    blocks = found.reshape(down, unit, across, unit).sum((1, 3))
    assert set(np.unique(blocks)) <= {0, unit**2} and (blocks > 0).sum() == units // 2


def test_every_patch_is_hidden_as_often() -> None:
    for kind in ("random", "block"):
        cfg = MasksConfig(kind=kind, share=0.5)  # type: ignore[arg-type]
        mean = np.mean([drawn(cfg, (6, 6), seed) for seed in range(3000)], axis=0)
        if kind == "random":
            assert np.abs(mean - 0.5).max() < 0.04  # 4 deviations of a fair coin
        else:  # blocks lie in the middle more often, and still leave no patch alone
            assert mean.min() > 0.2 and mean.max() < 0.8


def test_blocks_hang_together() -> None:
    """More neighbours of hidden patches are hidden than at random."""

    def together(kind: str) -> float:
        masks = [drawn(MasksConfig(kind=kind, share=0.4), (14, 14), seed) for seed in range(100)]  # type: ignore[arg-type]
        return float(np.mean([(m[:, 1:] & m[:, :-1]).sum() / m.sum() for m in masks]))

    assert together("block") > 0.7 > 0.5 > together("random")


def test_a_grid_leaves_every_second_patch() -> None:
    seen = [~drawn(MasksConfig(kind="grid", share=0.75), (4, 6), seed) for seed in range(40)]
    for left in seen:
        rows, columns = np.nonzero(left)
        assert len(rows) == 6 and len(set(rows % 2)) == 1 == len(set(columns % 2))
    assert len({tuple(left.ravel()) for left in seen}) == 4, "all four places of the grid are drawn"


@pytest.mark.parametrize(
    ("settings_", "grid", "why"),
    [
        ({"share": 0.0}, None, "above 0"),
        ({"share": 1.0}, None, "below 1"),
        ({"unit": 0}, None, "unit is 0"),
        ({"unit": 2, "kind": "block"}, None, "unit is 2"),
        ({"kind": "grid", "share": 0.6}, None, "a quarter or a ninth"),
        ({"kind": "grid"}, (3, 4), "no grid of 2 by 2"),
        ({"share": 0.01}, (4, 4), "hides 0 of 16"),
    ],
)
def test_what_cannot_be_is_refused(settings_: dict, grid: tuple[int, int] | None, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        cfg = MasksConfig(**settings_)
        drawn(cfg, grid or (4, 4))
