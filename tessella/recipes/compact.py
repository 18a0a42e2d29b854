"""Small pictures, from nothing: a convolutional stem, a few blocks, light augmentation, Muon, pictures that grow."""

from __future__ import annotations

from ..build import Run
from ..data.pixels.augment import AugmentConfig
from ..data.pixels.mix import MixConfig
from ..data.source import DataConfig
from ..models.presets import classifier
from ..objectives.classify import ClassifyConfig
from ..training.trainer import TrainConfig


def compact(path: str, name: str = "vit_n4") -> Run:
    """`tessella train photos/ --recipe compact`: pictures up to about 112 px, hundreds to tens of thousands of them.

    Command: `tessella demo` (10,000 Fashion-MNIST pictures of 28 px). Device: 2 CPU cores. Expected: at least 86 % on
    the 2,000 test pictures within 3 minutes. Measured: 88.0 % in 104 s, evaluation and report included (bf16, seed 0).

    Command: `tessella train cifar10.tar --recipe compact --epochs 8`. Device: 2 CPU cores. Expected: at least 76.2 %
    on CIFAR-10's test pictures within 8 minutes, 84 % within 30 with as many passes as then fit (bench/cifar.py).
    Measured: 78.4 % in 6.6 minutes (8 passes), 84.4 % in 27.1 (34 passes; 82.2 % in 26.3 without mixing), bf16, seed 0,
    start and evaluations included. Below 20 passes nothing is mixed (build.MIXES).

    By experiment at few passes: Muon before AdamW; its matrices at half the rate of the rest; pictures that grow; a
    stem of one convolution per halving and normalised queries. Wider or deeper blocks gained nothing for their time.
    """
    return Run(
        epochs=10,
        model=classifier(name, classes=0),
        objective=ClassifyConfig(smoothing=0.1, start_size=0.625, light_until=0.8),
        data=DataConfig(path=path, augment=AugmentConfig(crop="pad", padding=2), mix=MixConfig(probability=0.6)),
        train=TrainConfig(
            batch=128,
            optimizer="muon",
            lr=5e-3,
            matrix_scale=0.5,
            warmup=100,
            schedule="wsd",
            cooldown=1.0,
            cooldown_shape="linear",
            weight_decay=0.05,
            betas=(0.9, 0.95),
            compile="off",  # two sizes of pictures are two graphs; all that would gain less than it takes
        ),
    )
