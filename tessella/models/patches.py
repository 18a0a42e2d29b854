"""Pictures cut into their patches and put together again, and pictures of which some patches are taken away.

Shape suffixes:  B batch  C channels  H,W pixels  p side of a patch  N patches, row by row  O = p * p * C numbers of one
                 patch: row, column, channel  n patches that are seen
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_patches(images_BCHW: Tensor, side: int) -> Tensor:
    """(B, N, O): the numbers of each patch."""
    b, c, height, width = images_BCHW.shape
    h, w = height // side, width // side
    cut_BChpwq = images_BCHW.reshape(b, c, h, side, w, side)
    return cut_BChpwq.permute(0, 2, 4, 3, 5, 1).reshape(b, h * w, side * side * c)


def from_patches(patches_BNO: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W), the other way."""
    (h, w), b = grid, patches_BNO.shape[0]
    cut_BhwpqC = patches_BNO.reshape(b, h, w, side, side, -1)
    return cut_BhwpqC.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h * side, w * side)


def blanked(images_BCHW: Tensor, hidden_BN: Tensor, side: int) -> Tensor:
    """With zeros, which is the mean colour of normalised pictures, where patches are hidden (True)."""
    b, _, height, width = images_BCHW.shape
    there_B1hw = ~hidden_BN.view(b, 1, height // side, width // side)
    each = there_B1hw.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return images_BCHW * each.to(images_BCHW.dtype)


def seen(hidden_BN: Tensor) -> Tensor:
    """(B, n): the patches that are not hidden, in order; of each picture as many."""
    order_BN = hidden_BN.to(torch.uint8).argsort(dim=1, stable=True)
    return order_BN[:, : int((~hidden_BN[:1]).sum())]


def hidden(keep_Bn: Tensor, patches: int) -> Tensor:
    """(B, N) bool: the patches that `keep` leaves out."""
    out = torch.ones(keep_Bn.shape[0], patches, dtype=torch.bool, device=keep_Bn.device)
    return out.scatter(1, keep_Bn, False)
