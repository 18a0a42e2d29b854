"""From weights: all of the network learns, the blocks near the pictures least."""

from __future__ import annotations

from dataclasses import replace

from ..build import Run
from ..data.pixels.augment import AugmentConfig
from ..data.pixels.mix import MixConfig
from ..data.source import DataConfig
from ..models.presets import classifier
from ..objectives.classify import ClassifyConfig
from ..training.settings import TrainConfig


def finetune(path: str, name: str = "vit_t16") -> Run:
    """`tessella train photos/ --weights W`: architecture, picture size and preprocessing are those of the weights.

    Command: `python bench/flowers.py --minutes 10 --who ours` (DeiT-tiny, 2,590 flowers). Device: 2 CPU cores.
    Expected: at least 88 % of the test part in 10 minutes. Measured: 84.4 % in 8.4 minutes (30 passes at 128 px, bf16,
    seed 0); transformers' Trainer 79.5 % in 6.7, timm's script 64.5 % in 8.3. Below 20 passes nothing is mixed.
    """
    model = classifier(name, classes=0)
    return Run(
        epochs=30,
        model=replace(model, backbone=replace(model.backbone, drop_path=0.1)),
        objective=ClassifyConfig(smoothing=0.1),
        data=DataConfig(path=path, augment=AugmentConfig(crop="resized"), mix=MixConfig(probability=0.5)),
        train=TrainConfig(
            batch=32, lr=7e-4, warmup=50, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.75, ema=0.99
        ),
    )
