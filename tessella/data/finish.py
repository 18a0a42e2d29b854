"""What happens to a batch on the device before the objective sees it: uint8 pixels become normalised floats there.

Pixels travel as bytes: a quarter of the traffic, and the same arithmetic wherever the batch came from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..card import Preprocess


class Finish(nn.Module):
    """`finish(batch)`: a new dict in which every leaf of uint8 pictures (..., C, H, W) is (value / 255 - mean) / std;
    all else is passed on untouched."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        # Not persistent: the card already says these numbers, and no model file should say them again.
        self.register_buffer("mean", torch.tensor(preprocess.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std)[:, None, None], persistent=False)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.refuse_floats(batch["image"])
        return {key: self.pixels(leaf) if _is_pictures(leaf) else leaf for key, leaf in batch.items()}

    def pixels(self, image: Tensor) -> Tensor:
        """(..., C, H, W) of uint8 to floats on this module's device."""
        self.refuse_floats(image)
        image = image.to(self.mean.device, non_blocking=True)
        return image.float().div_(255).sub_(self.mean).div_(self.std)

    @staticmethod
    def refuse_floats(image: Tensor) -> None:
        if image.dtype != torch.uint8:
            raise TypeError(f"Finish takes uint8 pixels, not {image.dtype}: this batch was normalised before")


def _is_pictures(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype == torch.uint8 and leaf.ndim >= 4
