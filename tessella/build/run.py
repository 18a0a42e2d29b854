"""All the settings of one run: one frozen tree, one JSON file. No room below build/ sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..card import Preprocess
from ..data.pixels.masks import MasksConfig
from ..data.pixels.views import CropsConfig, StrongConfig, TurnsConfig
from ..data.source import DataConfig
from ..errors import BadInput
from ..models.architecture import ClassifierConfig
from ..objectives.classify import ClassifyConfig
from ..objectives.colorize import ColorizeConfig
from ..objectives.dino import DINOConfig
from ..objectives.distill import DistillConfig
from ..objectives.fixmatch import FixMatchConfig
from ..objectives.inpaint import InpaintConfig
from ..objectives.mae import MaskedConfig
from ..objectives.rotate import RotateConfig
from ..objectives.simmim import SimMIMConfig
from ..training import TrainConfig

FREE = (
    "name",
    "folder",
    "weights",
    "licence",
    "memory",
    "objective.teacher",
    "data.path",
    "data.add",
    "data.validation",
    "data.workers",
    "data.cache",
    "data.max_bad",
    "train.device",
    "train.log_every",
    "train.keep",
    "train.save_every",
    "train.sinks",
)

ClassWeights = Literal["none", "balanced", "effective"]
Method = (
    ClassifyConfig
    | DistillConfig
    | FixMatchConfig
    | DINOConfig
    | MaskedConfig
    | SimMIMConfig
    | RotateConfig
    | ColorizeConfig
    | InpaintConfig
)
VIEWS: dict[type, type] = {  # what a method has to see of a picture beside the picture
    MaskedConfig: MasksConfig,
    SimMIMConfig: MasksConfig,
    InpaintConfig: MasksConfig,
    RotateConfig: TurnsConfig,
    DINOConfig: CropsConfig,
    FixMatchConfig: StrongConfig,
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run = this tree = one JSON file."""

    name: str = ""  # of the run folder; empty: from the data's name, with a number
    folder: str = "runs"  # where run folders are made
    epochs: float = 30.0  # passes over the training pictures; train.steps follows from it unless given
    warmup_epochs: float | None = None  # passes of warm-up; train.warmup follows from it; None: the recipe's steps
    size: int = 0  # side of the picture that the model sees, pixels; 0: the architecture's own
    weights: str = ""  # what it starts from: a model or run folder, a weights file, a known name; empty: random numbers
    weights_sha256: str = ""  # of that file; a value that is given must be this one
    weights_like: str = ""  # the known name as which a bare file is read; empty: its architecture says enough
    licence: str | None = None  # of the trained weights; None: that of the weights it starts from, if they say so
    features: Literal["each", "once"] = "each"  # once: a frozen network sees each picture one time, and the head learns
    memory: str = ""  # that the run stays below, such as 8GB; auto: what is there; empty: nothing is measured
    class_weights: ClassWeights = "none"  # rare classes weigh more in the loss: objective.weights follow from it
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    objective: Method = field(default_factory=ClassifyConfig)
    data: DataConfig
    preprocess: Preprocess | None = None  # None: from the architecture
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not (self.epochs > 0 and self.size >= 0):
            raise BadInput(f"epochs is {self.epochs:g}, size {self.size}; give epochs > 0 and size >= 0")
        if not 0 <= (self.warmup_epochs or 0.0) < self.epochs:
            what = f"warmup_epochs is {self.warmup_epochs:g}"
            raise BadInput(f"{what}; give 0 or more, and fewer than epochs, {self.epochs:g}")
        wanted, views = VIEWS.get(type(self.objective), type(None)), type(self.data.views)
        if views is not wanted:
            kind, other = (_shown(cls) for cls in (wanted, views))
            what = f"objective is a {type(self.objective).__name__}, which goes with {kind} in data.views, not {other}"
            raise BadInput(f"{what}; choose both by --method")
        if not isinstance(self.objective, ClassifyConfig) and (self.features == "once" or self.class_weights != "none"):
            key = "features" if self.features == "once" else "class_weights"
            what = f"{key} is {getattr(self, key)!r}, which goes with plain learning from labels alone"
            raise BadInput(f"{what}; leave it out")
        if self.features == "once":
            self._refuse_each()

    @property
    def labelled(self) -> bool:
        """Whether it learns what somebody said of the pictures. If not, classes only show how it goes."""
        match self.objective:
            case ClassifyConfig() | FixMatchConfig():
                return True
            case DistillConfig(kind="features", share=1):
                return False
            case DistillConfig():
                return True
            case _:
                return False

    def _refuse_each(self) -> None:
        """What needs to see a picture each time anew."""
        assert isinstance(self.objective, ClassifyConfig), "the others are refused"
        for key, off, value in (
            ("data.augment", None, self.data.augment),
            ("data.mix", None, self.data.mix),
            ("train.shard", "ddp", self.train.shard),
            ("objective.patch_dropout", 0.0, self.objective.patch_dropout),
            ("objective.start_size", 1.0, self.objective.start_size),
        ):
            if value != off:
                what = f'features = "once" keeps what the network makes of each picture, so {key} must be {off}'
                raise BadInput(f'{what}; set it, or features to "each"')


def _shown(cls: type) -> str:
    return "nothing" if cls is type(None) else cls.__name__
