"""A DINO and its batches of views, small enough to train in a test."""

from __future__ import annotations

from typing import Any

import torch

from tessella.models.architecture import ClassifierConfig, PoolConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.objectives.dino import DINO, DINOConfig

VIT = ViTConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2)
POOLS = {"cls": PoolConfig(), "mean": PoolConfig(kind="mean"), "attention": PoolConfig(kind="attention", norm=True)}
MODES: dict[str, dict[str, Any]] = {
    "mean": {},
    "none": {"centring": "none"},
    "sinkhorn": {"centring": "sinkhorn"},
    "hidden": {"masked": 0.5},
    "two heads": {"masked": 1.0, "shared_head": False},
    "koleo": {"koleo": 0.2},
    "all": {"centring": "sinkhorn", "masked": 1.0, "shared_head": False, "koleo": 0.1},
}
HALF = 0.5  # progress at which the teacher's temperature is no number of the settings' own


def fresh(pool: str = "cls", backbone: ViTConfig = VIT, **settings: Any) -> DINO:
    """Far from the start, where all answers are alike, and with a teacher that is not the student."""
    torch.manual_seed(0)
    small = {"width": 24, "bottleneck": 8, "prototypes": 12, "teacher_warmup": 0.8, "frozen": 0.0}
    network = Classifier(ClassifierConfig(backbone=backbone, pool=POOLS[pool], classes=0))
    o = DINO(DINOConfig(**small | settings), network)
    with torch.no_grad():
        for p in o.parameters():
            p.add_(torch.randn_like(p) * (0.5 if p.ndim < 2 else p.std() / 2))
        for part in (o.of_views, o.of_patches):
            if part is not None and part.centre is not None:
                part.centre.normal_(0, 0.1)
    return o


def batch(n: int = 5, seed: int = 1) -> dict[str, Any]:
    """Many of the large views have nothing hidden, the first of all has one patch."""
    g = torch.Generator().manual_seed(seed)
    mask = (torch.rand(n, 2, 4, 4, generator=g) < 0.4) & (torch.rand(n, 2, 1, 1, generator=g) < 0.6)
    mask[:1, 0] = torch.arange(16).view(4, 4) == 5
    large, small = torch.randn(n, 2, 3, 16, 16, generator=g), torch.randn(n, 3, 3, 8, 8, generator=g)
    return {"ids": [f"{seed}-{i}" for i in range(n)], "image": large, "local": small, "mask": mask}


def losses_of(o: DINO, b: dict[str, Any], progress: float = HALF) -> dict[str, float]:
    o.before_step(progress)
    return {name: float(loss.detach()) for name, loss in o(b, progress)[0].items()}
