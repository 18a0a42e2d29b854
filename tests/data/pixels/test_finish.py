"""Pixels are normalised once, wherever in the batch they lie; nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tessella.card import Preprocess
from tessella.data.pixels.finish import Finish

CARD = Preprocess(size=(4, 4), mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))


def test_every_leaf_of_pictures_is_normalised() -> None:
    pictures = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    crops = torch.randint(0, 256, (2, 5, 3, 2, 2), dtype=torch.uint8)
    flags = torch.ones(2, 7, dtype=torch.uint8)
    batch = {"ids": ["a", "b"], "image": pictures, "crops": crops, "flags": flags}
    done = Finish(CARD)(batch)
    mean, std = torch.tensor(CARD.mean).view(3, 1, 1), torch.tensor(CARD.std).view(3, 1, 1)
    torch.testing.assert_close(done["image"], (pictures / 255 - mean) / std)
    torch.testing.assert_close(done["crops"], (crops / 255 - mean) / std)
    assert done["flags"] is flags and done["ids"] == ["a", "b"]
    assert batch["image"].dtype == torch.uint8  # the batch that came in is as it was
    assert not torch.allclose(done["image"], pictures / 255)  # the mutation: no mean and deviation


def test_twice_is_refused() -> None:
    finish = Finish(CARD)
    with pytest.raises(TypeError, match="normalised before"):
        finish(finish({"ids": ["a"], "image": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}))


def test_masks_beside_pictures_are_left_alone() -> None:
    """(B, 1, H, W) minus a mean of three channels would be a picture of three channels, and nothing would say so."""
    mask = torch.ones(2, 1, 4, 4, dtype=torch.uint8)
    done = Finish(CARD)({"image": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "mask": mask})
    assert done["mask"] is mask and done["image"].shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("depth", "limits", "black", "white"),
    [
        ("uint8", None, 0, 255),
        ("uint8", (5.0, 9.0), 0, 255),  # the limits were applied where the file was read
        ("uint16", None, 0, 65535),
        ("float32", None, 0.0, 1.0),
        ("float32", (-1000.0, 3000.0), -1000.0, 3000.0),
    ],
)
def test_black_and_white_are_the_same_at_every_depth(depth: Any, limits: Any, black: float, white: float) -> None:
    card = replace(CARD, depth=depth, limits=limits)
    finish = Finish(card)
    row = torch.tensor([black, white], dtype=torch.float64).to(finish.dtype).expand(1, 3, 1, 2).clone()
    before = row.clone()
    done = finish({"ids": ["a"], "image": row})["image"]
    mean, std = torch.tensor(CARD.mean).view(3, 1), torch.tensor(CARD.std).view(3, 1)
    torch.testing.assert_close(done[0, :, 0, :], (torch.tensor([0.0, 1.0]) - mean) / std)
    assert done.dtype == torch.float32 and torch.equal(row, before), "what came in is as it was"
    with pytest.raises(TypeError, match="normalised before"):
        finish({"ids": ["a"], "image": done})
    other = replace(card, depth="uint16" if depth == "uint8" else "uint8", limits=None)
    with pytest.raises(TypeError, match=r"card's depth|normalised before"):
        Finish(other)({"ids": ["a"], "image": row})
