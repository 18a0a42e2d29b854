"""Networks of others whose every tensor is redrawn, and how far two outputs lie apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

RmsNorm = pytest.importorskip("timm.layers").RmsNorm

BAR = 1e-5  # of the largest value
VISIBLE = 10 * BAR  # what a wrong tensor moves at least


@torch.no_grad()
def redraw(net: nn.Module, seed: int = 0) -> None:
    """Values at which a transposed, forgotten or swapped tensor shows; a fresh network hides it."""
    generator = torch.Generator().manual_seed(seed)
    kinds = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm2d, RmsNorm)
    norms = {id(m.weight) for m in net.modules() if isinstance(m, kinds)}
    for name, p in net.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "gamma" in name:
            p.copy_(0.5 + torch.rand(p.shape, generator=generator))
        elif id(p) in norms:
            p.copy_(1 + 0.2 * noise)
        else:
            table = name.split(".")[-1] in ("cls_token", "dist_token", "reg_token", "pos_embed", "latent")
            p.copy_((0.3 if table or p.ndim < 2 else 0.05) * noise)
    for name, statistic in net.named_buffers():
        if name.endswith("running_mean"):
            statistic.copy_(0.3 * torch.randn(statistic.shape, generator=generator))
        elif name.endswith("running_var"):
            statistic.copy_(0.5 + torch.rand(statistic.shape, generator=generator))


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
