"""What happens to a batch on the device before the objective sees it: stored pixels become normalised floats there.

Pixels travel as bytes: a quarter of the traffic, and the same arithmetic wherever the batch came from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...card import Preprocess

DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}
PLAIN = torch.contiguous_format
DONE = "normalised_here"  # an attribute of each tensor that comes out: at depth float32 the type does not tell


class Finish(nn.Module):
    """`finish(batch)`: a new dict in which every leaf of pictures (..., C, H, W), of the card's depth and channels, is
    (share - mean) / std, where share is 0 for black and 1 for white; all else is passed on untouched."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.dtype = DTYPES[preprocess.depth]
        self.channels = preprocess.channels
        self.low, high = (preprocess.limits or (0.0, 1.0)) if preprocess.depth == "float32" else (0.0, 1.0)
        self.full = {"uint8": 255.0, "uint16": 65535.0, "float32": high - self.low}[preprocess.depth]
        # Not persistent: the card already says these numbers, and no model file should say them again.
        self.register_buffer("mean", torch.tensor(preprocess.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std)[:, None, None], persistent=False)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.refuse_finished(batch["image"])
        return {key: self.pixels(leaf) if self.is_pictures(leaf) else leaf for key, leaf in batch.items()}

    def pixels(self, image: Tensor) -> Tensor:
        """(..., C, H, W) of the card's depth to normalised floats on this module's device."""
        self.refuse_finished(image)
        held = image.to(self.mean.device, non_blocking=True)
        out = held - self.low if self.dtype == torch.float32 else held.to(torch.float32, memory_format=PLAIN)
        out = out.contiguous()  # batches come with channels last, on which each step below is several times slower
        out = out.div_(self.full).sub_(self.mean).div_(self.std)
        setattr(out, DONE, True)
        return out

    def is_pictures(self, leaf: Any) -> bool:
        """A mask (B, 1, H, W) beside colour pictures is none, nor is anything with fewer than four dimensions."""
        alike = isinstance(leaf, Tensor) and leaf.dtype == self.dtype and leaf.ndim >= 4
        return alike and leaf.shape[-3] == self.channels

    def refuse_finished(self, image: Tensor) -> None:
        if getattr(image, DONE, False) or (image.dtype != self.dtype and image.is_floating_point()):
            raise TypeError(f"Finish takes {self.dtype} pixels as stored: this batch was normalised before")
        if image.dtype != self.dtype:
            raise TypeError(f"Finish takes {self.dtype} pixels by the card's depth, not {image.dtype}")
