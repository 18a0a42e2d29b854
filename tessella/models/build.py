"""From the architecture that a card holds to the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config import decode
from .architecture import ClassifierConfig, MAEConfig, ViTConfig
from .classifier import Classifier
from .mae import MaskedAutoencoder
from .vit import ViT

Architecture = ClassifierConfig | ViTConfig | MAEConfig


def network(architecture: dict[str, Any], *, empty: bool = False) -> nn.Module:
    """The network that `encode(config)` describes; a fault is a BadInput that names the key.

    empty: skip the random start, which for a large network takes longer than loading it. The buffers are right, the
    parameters hold anything: for whoever loads them all next.
    """
    cfg: Architecture = decode(Architecture, architecture, "architecture")
    if not empty:
        return _build(cfg)
    with torch.device("meta"):
        net = _build(cfg)
    net.to_empty(device="cpu")
    net.init_buffers()
    return net


def _build(cfg: Architecture) -> Classifier | ViT | MaskedAutoencoder:
    match cfg:
        case ClassifierConfig():
            return Classifier(cfg)
        case ViTConfig():
            return ViT(cfg)
        case MAEConfig():
            return MaskedAutoencoder(cfg)
