"""Pixels are normalised once, wherever in the batch they lie; nothing else is touched."""

from __future__ import annotations

import pytest
import torch

from tessella.card import Preprocess
from tessella.data.finish import Finish

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
