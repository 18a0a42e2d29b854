"""What is learned, and what is seen for it: `--method` changes these in any recipe, which says size and schedule.

Each takes a recipe's run and returns it with another objective. The average of weights is left out: what ships is the
network as it is, which whoever fine-tunes it starts from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..build import Run
from ..data.pixels.augment import AugmentConfig
from ..data.pixels.masks import MasksConfig
from ..data.pixels.views import CropsConfig, StrongConfig, TurnsConfig
from ..objectives.colorize import ColorizeConfig
from ..objectives.dino import DINOConfig
from ..objectives.distill import DistillConfig
from ..objectives.fixmatch import FixMatchConfig
from ..objectives.inpaint import InpaintConfig
from ..objectives.mae import MaskedConfig
from ..objectives.rotate import RotateConfig
from ..objectives.simmim import SimMIMConfig

CROPS = AugmentConfig(crop="resized", scale=(0.2, 1.0))  # as MAE and SimMIM have it (the latter from 0.67)


def mae(run: Run) -> Run:
    """`--method mae`: three quarters of the patches are hidden; an encoder sees the rest, a decoder says the others."""
    data = replace(run.data, augment=CROPS, mix=None, views=MasksConfig(share=0.75))
    return replace(run, objective=MaskedConfig(), data=data, train=replace(run.train, ema=None))


def simmim(run: Run) -> Run:
    """`--method simmim`: 60 % of the patches are a learned token; a linear layer says their pixels."""
    data = replace(run.data, augment=CROPS, mix=None, views=MasksConfig(share=0.6))
    return replace(run, objective=SimMIMConfig(), data=data, train=replace(run.train, ema=None))


def inpaint(run: Run) -> Run:
    """`--method inpaint`: 40 % of the picture is blank, in blocks; a linear layer fills it in."""
    data = replace(run.data, augment=CROPS, mix=None, views=MasksConfig(kind="block", share=0.4))
    return replace(run, objective=InpaintConfig(), data=data, train=replace(run.train, ema=None))


def colorize(run: Run) -> Run:
    """`--method colorize`: the picture is grey; a linear layer says what colour adds."""
    data = replace(run.data, augment=CROPS, mix=None, views=None)
    return replace(run, objective=ColorizeConfig(), data=data, train=replace(run.train, ema=None))


def rotate(run: Run) -> Run:
    """`--method rotate`: by how many quarters was the picture turned?"""
    augment = run.data.augment or CROPS
    data = replace(run.data, augment=replace(augment, vertical=0.0), mix=None, views=TurnsConfig())
    return replace(run, objective=RotateConfig(), data=data, train=replace(run.train, ema=None))


def fixmatch(run: Run) -> Run:
    """`--method fixmatch`: some pictures have a label; of the others the network learns what it is sure of already."""
    weak = run.data.augment or AugmentConfig(crop="resized")
    strong = replace(weak, policy="randaugment", operations=2, magnitude=15, erase=0.5)
    data = replace(run.data, augment=weak, mix=None, views=StrongConfig(augment=strong))
    return replace(run, objective=FixMatchConfig(), data=data)


def dino(run: Run) -> Run:
    """`--method dino`: of every view the student says what its own average says of another, larger one.

    Small pictures get a smaller head, a sharper teacher that follows faster, as short runs need it, and no blur, which
    would wipe them out. Measured: nothing yet; with the papers' temperatures 2,000 steps taught nothing (docs/log.md).
    """
    small = run.data.augment is not None and run.data.augment.crop == "pad"
    crops, learns = CropsConfig(small=6), DINOConfig()
    if small:
        crops = CropsConfig(small=6, blur=(0.0,), small_blur=0.0)
        learns = DINOConfig(width=512, bottleneck=128, prototypes=1024, teacher_temperature=0.04, momentum=0.99)
    data = replace(run.data, augment=None, mix=None, views=crops)
    return replace(run, objective=learns, data=data, train=replace(run.train, ema=None))


def distill(run: Run) -> Run:
    """`--method distill --teacher MODEL`: a finished network looks at the same pictures and says what it sees."""
    return replace(run, objective=DistillConfig())


METHODS: dict[str, Callable[[Run], Run]] = {
    "dino": dino,
    "mae": mae,
    "simmim": simmim,
    "inpaint": inpaint,
    "colorize": colorize,
    "rotate": rotate,
    "fixmatch": fixmatch,
    "distill": distill,
}
