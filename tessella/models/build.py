"""From the architecture that a card holds to the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config import decode
from .architecture import Backbone, ClassifierConfig, MAEConfig, PainterConfig
from .classifier import Classifier, built
from .cvt import CvT
from .mae import MaskedAutoencoder
from .painter import Painter
from .swin import Swin
from .vit import ViT

Architecture = ClassifierConfig | MAEConfig | PainterConfig | Backbone


def network(architecture: dict[str, Any], *, empty: bool = False) -> nn.Module:
    """The network that `encode(config)` describes; a fault is a BadInput that names the key.

    empty: skip the random start, which for a large network takes longer than loading it. The buffers are right, the
    parameters hold anything: for whoever loads them all next.
    """
    cfg: Architecture = decode(Architecture, architecture, "architecture")
    if not empty:
        return make(cfg)
    with torch.device("meta"):
        net = make(cfg)
    _allocate(net)
    net.init_buffers()
    return net


def _allocate(net: nn.Module) -> None:
    """Memory for what has only shapes. `to_empty` does the same, and imports half a second of torch for it."""
    for part in net.modules():
        for name, p in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=p.requires_grad))
        for name, b in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(b.shape, dtype=b.dtype))


def make(cfg: Architecture) -> Classifier | MaskedAutoencoder | Painter | ViT | Swin | CvT:
    """The network with its random start."""
    match cfg:
        case ClassifierConfig():
            return Classifier(cfg)
        case MAEConfig():
            return MaskedAutoencoder(cfg)
        case PainterConfig():
            return Painter(cfg)
        case _:
            return built(cfg)
