"""Photos, from nothing: a plain ViT, random resized crops, weight averaging."""

from __future__ import annotations

from ..build import Run
from ..data.pixels.augment import AugmentConfig
from ..data.source import DataConfig
from ..models.presets import classifier
from ..objectives.classify import ClassifyConfig
from ..training.trainer import TrainConfig


def scratch(path: str, name: str = "vit_t16") -> Run:
    """`tessella train photos/ --recipe scratch`: pictures above 112 px.

    Settings after DeiT, with its crops and flips but none of its colours and mixing yet. No accuracy is claimed: a ViT
    from nothing needs more pictures than most folders hold. Measured: nothing yet.
    """
    return Run(
        epochs=100,
        model=classifier(name, classes=0),
        objective=ClassifyConfig(smoothing=0.1),
        data=DataConfig(path=path, augment=AugmentConfig(crop="resized")),
        train=TrainConfig(batch=128, lr=1e-3, warmup=200, weight_decay=0.05, betas=(0.9, 0.999), ema=0.999),
    )
