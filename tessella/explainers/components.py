"""Features of patches as colours: their three main directions are red, green and blue (as DINOv2's authors show them).

Shape suffixes:  D width  h,w patches  N patches of all pictures
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CUT = 0.02  # share of the patches beyond which colours are full


def coloured(maps: Sequence[Tensor]) -> list[Tensor]:
    """Maps (D, h, w) of some pictures to (h, w, 3) uint8 each; directions and scale are of all of them together."""
    rows_ND = torch.cat([each.flatten(1).mT.float() for each in maps])
    centred_ND = rows_ND - rows_ND.mean(0)
    directions = torch.linalg.svd(centred_ND, full_matrices=False).Vh[:3]  # (up to 3, D)
    heaviest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    told_N3 = centred_ND @ (directions * heaviest.sign()).mT  # a direction and its opposite are the same: settle it
    told_N3 = torch.nn.functional.pad(told_N3, (0, 3 - told_N3.shape[1]))
    low, high = told_N3.quantile(CUT, dim=0), told_N3.quantile(1 - CUT, dim=0)
    share_N3 = ((told_N3 - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    bytes_N3 = (255 * share_N3).round().to(torch.uint8)
    sizes = [each.shape[1] * each.shape[2] for each in maps]
    parts = torch.split(bytes_N3, sizes)
    return [part.view(*each.shape[1:], 3) for part, each in zip(parts, maps, strict=True)]
