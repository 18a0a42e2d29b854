"""Masks of patches have the count they say, in the shapes they say, and follow their key alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.loading.seeded import generator
from tessella.data.pixels.blocks import MaskConfig, block_mask, kept, mask, mask_of, random_mask
from tessella.errors import BadInput

GRIDS = st.tuples(st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=150, deadline=None)
@given(GRIDS, st.sampled_from(["block", "random", "inverse"]), st.floats(0, 1), st.booleans(), st.integers(0, 10**6))
def test_counts_on_any_grid(grid: tuple[int, int], kind: str, share: float, exact: bool, seed: int) -> None:
    cfg = MaskConfig(kind=kind, share=(share, share), exact=exact)
    hidden = mask(grid, cfg, generator(seed))
    wanted = round(share * grid[0] * grid[1])
    assert hidden.shape == grid and hidden.dtype == np.bool_
    if exact or kind == "random":
        assert hidden.sum() == wanted
    else:
        assert hidden.sum() <= wanted
    assert np.array_equal(kept(hidden), [i for i in range(hidden.size) if not hidden.flat[i]])


def test_a_mask_follows_its_key_alone() -> None:
    cfg = MaskConfig()
    masks = [mask_of(cfg, (14, 14), *key) for key in ((0, 0, "a"), (0, 0, "b"), (0, 1, "a"), (1, 0, "a"))]
    assert np.array_equal(masks[0], mask_of(cfg, (14, 14), 0, 0, "a"))
    assert all(not np.array_equal(masks[0], other) for other in masks[1:])
    state = np.random.get_state()[1].copy()
    mask_of(cfg, (14, 14), 0, 0, "c")
    assert np.array_equal(state, np.random.get_state()[1])


def runs(hidden: np.ndarray) -> float:
    """How many of the neighbours of hidden patches are hidden too."""
    across = (hidden[:, 1:] & hidden[:, :-1]).sum() + (hidden[1:] & hidden[:-1]).sum()
    return float(across / hidden.sum())


def test_blocks_hang_together_and_single_patches_do_not() -> None:
    """The mutation: single patches instead of blocks would pass every count above."""
    share = (0.4, 0.4)
    pieces = {
        kind: np.mean([runs(mask((14, 14), MaskConfig(kind=kind, share=share), generator(i))) for i in range(40)])
        for kind in ("block", "random", "inverse")
    }
    assert pieces["random"] < 0.85 < 1.2 < min(pieces["block"], pieces["inverse"])


def test_boxes_are_as_large_as_asked_and_nearly_fill_the_share() -> None:
    """BEiT's setting: 75 of 14 x 14, boxes of 16 or more."""
    cfg = MaskConfig(share=(75 / 196, 75 / 196), smallest=16, exact=False)
    counts = [int(mask((14, 14), cfg, generator(i)).sum()) for i in range(200)]
    assert max(counts) <= 75 and np.mean(counts) > 70


@pytest.mark.parametrize(("ratio", "count", "sides"), [(1.0, 25, (5, 5)), (3.0, 27, (9, 3)), (1 / 3, 27, (3, 9))])
def test_one_box_has_its_ratio(ratio: float, count: int, sides: tuple[int, int]) -> None:
    cfg = MaskConfig(smallest=count, ratio=(ratio, ratio), exact=False)
    places = set()
    for i in range(600):
        rows, columns = np.nonzero(block_mask((11, 12), count, cfg, generator(i)))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == sides and len(rows) == count
        places.add((rows.min(), columns.min()))
    assert len(places) == (11 - sides[0] + 1) * (12 - sides[1] + 1)


def test_shares_are_drawn_evenly_and_some_pictures_stay_whole() -> None:
    cfg = MaskConfig(share=(0.1, 0.5), probability=0.5)  # DINOv2's
    shares = np.array([mask((16, 16), cfg, generator(i)).mean() for i in range(600)])
    masked = shares[shares > 0]
    assert 0.43 < len(masked) / 600 < 0.57
    assert masked.min() < 0.12 and masked.max() > 0.48 and abs(masked.mean() - 0.3) < 0.02


def test_random_masks_reach_every_patch_alike() -> None:
    total = sum(random_mask((4, 5), 5, generator(i)).astype(int) for i in range(2000))
    assert total.sum() == 10_000 and total.min() > 400 and total.max() < 600


@pytest.mark.parametrize("bad", [{"share": (0.5, 0.2)}, {"share": (0.0, 1.1)}, {"ratio": (2.0, 1.0)}, {"smallest": 0},
                                 {"probability": 2.0}, {"ratio": (0.0, 1.0)}])  # fmt: skip
def test_impossible_masks_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"^mask[^\n]*$"):
        MaskConfig(**bad)
