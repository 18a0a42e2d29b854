"""Supervised learning: a class, tags or a number for each picture, or several of these at once, each with its loss.

B samples, K classes, O outputs of all heads side by side, E what a target holds: K tags, or one thing. A model with a
distillation token says everything twice; without a teacher both learn from the labels. Pictures may be mixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..card import LABEL, Head, alone, leaves, slices
from ..config import nearest
from ..errors import BadInput
from ..models.classifier import Classifier
from .lighten import LightenConfig, light, refuse_unfit
from .losses import FIT, TINY, Loss, LossConfig, known, mass, most, of_class, of_number, of_tags, over_known, told
from .objective import Batch, Losses, Metrics, Objective


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What holds for one head only; None: as for all."""

    weight: float = 1.0  # of this head's loss beside the others'
    weights: tuple[float, ...] = ()  # of its classes; empty: all alike
    loss: Loss | None = None
    smoothing: float | None = None
    gamma: float | None = None
    gamma_present: float | None = None
    alpha: float | None = None
    margin: float | None = None
    delta: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """What these numbers mean: see LossConfig, and LightenConfig for the last three."""

    loss: Loss = "auto"  # of the heads that can have it
    smoothing: float = 0.1
    gamma: float | None = None
    gamma_present: float = 1.0
    alpha: float | None = None
    margin: float = 0.05
    delta: float = 1.0
    weights: tuple[float, ...] = ()  # of a sample's loss, by its class; mean 1 over the samples; empty: all alike
    heads: dict[str, HeadConfig] = field(default_factory=dict)  # by name, where one of several differs
    patch_dropout: float = 0.0
    start_size: float = 1.0
    light_until: float = 0.7

    def __post_init__(self) -> None:
        self.of(HeadConfig())
        _ = self.lighten
        for name, head in self.heads.items():
            try:
                self.of(head)
            except BadInput as error:
                raise BadInput(str(error).replace("objective.", f"objective.heads.{name}.", 1)) from None
            if not 0 <= head.weight < math.inf:
                raise BadInput(f"objective.heads.{name}.weight is {head.weight}; give a finite number, 0 or more")
        each = {"objective.weights": self.weights}
        each |= {f"objective.heads.{name}.weights": head.weights for name, head in self.heads.items()}
        for key, weights in each.items():
            if not all(math.isfinite(w) and w > 0 for w in weights):
                raise BadInput(f"{key} has a number that is not above 0; give one positive weight for each class")

    def of(self, head: HeadConfig) -> LossConfig:
        """What holds for this head."""
        names = [f.name for f in fields(LossConfig)]
        own = {name: value for name, value in asdict(head).items() if name in names and value is not None}
        return LossConfig(**{name: getattr(self, name) for name in names} | own)

    @property
    def lighten(self) -> LightenConfig:
        return LightenConfig(**{f.name: getattr(self, f.name) for f in fields(LightenConfig)})


class Part(NamedTuple):
    """One head, and how it is judged."""

    head: Head
    at: slice  # of the network's outputs
    leaf: str  # of a batch: its targets
    loss: LossConfig
    weight: float


class Classify(Objective):
    calls = ("both",)
    weights_O: Tensor | None

    def __init__(self, cfg: ClassifyConfig, network: Classifier, heads: Sequence[Head] = ()):
        """heads: what the outputs of the network mean; none: all of them are the classes of `label`."""
        super().__init__()
        outputs = network.cfg.classes
        heads = heads or (alone(tuple(str(i) for i in range(outputs))),)
        if sum(head.outputs for head in heads) != outputs:
            raise BadInput(f"model.classes is {outputs}, and the heads need {sum(head.outputs for head in heads)}")
        self.cfg, self.lighten = cfg, cfg.lighten
        refuse_unfit(self.lighten, network.cfg.backbone)
        self.network = network
        self.parts = _parts(cfg, heads)
        self.single = len(heads) == 1
        # Not persistent: the settings already say these numbers.
        self.register_buffer("weights_O", _weights(cfg, self.parts), persistent=False)

    @property
    def model(self) -> Classifier:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, C, H, W) normalised; one head: label, several: target/NAME for each. A class is (B,) int64,
        -1 unknown; tags are (B, K), a number (B,) in its own unit; NaN: unknown. Where pictures were mixed also mix
        (B,), the weight of the own one, and mix_label or mix_target/NAME, the target of the other.

        A mean over the targets that are known, whatever their weights: so it does not matter how a batch was cut. There
        may be none, because no picture of a micro-batch could be read; the mean over nothing is 0.
        """
        images, keep = light(batch["image"], self.lighten, self.network.cfg.backbone, progress)
        said = [outputs_BO.float() for outputs_BO in self.network.both(images, keep) if outputs_BO is not None]
        together_BO = torch.stack(said).detach().mean(0)
        losses, metrics = {}, {}
        for part in self.parts:
            each = [self._loss(part, outputs_BO[:, part.at], batch) for outputs_BO in said]
            loss, figure = self._names(part)
            losses[loss] = part.weight * torch.stack(each).mean()
            metrics[figure] = _figure(part, together_BO[:, part.at], batch)
        return losses, metrics

    def counts(self, batch: Batch) -> dict[str, float]:
        """Known targets, and of a mixed picture by their share; a class alone is always known."""
        if self.single and self.parts[0].head.task == "classify":
            return {}
        named = {}
        for part in self.parts:
            loss, figure = self._names(part)
            named[loss] = mass(told(part.head.task, part.leaf, batch))
            named[figure] = known(part.head.task, most(part.leaf, batch)).mean(1).sum()
        return dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))

    def _loss(self, part: Part, outputs_BE: Tensor, batch: Batch) -> Tensor:
        return over_known(told(part.head.task, part.leaf, batch), partial(self._judge, part, outputs_BE))

    def _judge(self, part: Part, outputs_BE: Tensor, targets: Tensor) -> Tensor:
        """(B, E); of an unknown target any number, but a number."""
        if part.head.task == "classify":
            labels_B = targets.clamp(min=0)
            loss_B = of_class(part.loss, outputs_BE, labels_B)
            return (loss_B if self.weights_O is None else loss_B * self.weights_O[part.at][labels_B])[:, None]
        if part.head.task == "tags":
            return of_tags(part.loss, outputs_BE, targets.nan_to_num())
        normal_B = (targets.nan_to_num() - part.head.mean) / part.head.scale
        return of_number(part.loss, outputs_BE[:, 0], normal_B)[:, None]

    def _names(self, part: Part) -> tuple[str, str]:
        """Of loss and figure, in the log."""
        figure = "mae" if part.head.task == "number" else "accuracy"
        return (LABEL, figure) if self.single else (f"{part.head.name}/loss", f"{part.head.name}/{figure}")


def _figure(part: Part, outputs_BE: Tensor, batch: Batch) -> Tensor:
    """Share of right classes or tags, or mean error of the number in its own unit; over what is known."""
    targets = most(part.leaf, batch)
    if part.head.task == "classify":
        value_BE = (outputs_BE.argmax(-1) == targets).float()[:, None]
    elif part.head.task == "tags":
        value_BE = ((outputs_BE > 0).float() == targets).float()
    else:
        value_BE = (outputs_BE * part.head.scale + part.head.mean - targets.nan_to_num()[:, None]).abs()
    there_BE = known(part.head.task, targets)
    return (value_BE * there_BE).mean(1).sum() / there_BE.mean(1).sum().clamp(min=TINY)


def _parts(cfg: ClassifyConfig, heads: Sequence[Head]) -> list[Part]:
    names = {head.name for head in heads}
    for name in cfg.heads:
        if name not in names:
            raise BadInput(f"objective.heads has {name!r}, which is no target{nearest(name, names)}")
    if cfg.loss != "auto" and not any(cfg.loss in FIT[head.task] for head in heads):
        told = " or ".join(dict.fromkeys(f"{_a(head)}: {', '.join(FIT[head.task])}" for head in heads))
        raise BadInput(f"objective.loss is {cfg.loss!r}, and no target can have it; for {told}")
    parts = []
    for head, at, leaf in zip(heads, slices(heads).values(), leaves(heads).values(), strict=True):
        own = cfg.heads.get(head.name, HeadConfig())
        loss = cfg.of(own)
        if loss.loss not in ("auto", *FIT[head.task]):
            if own.loss is not None:
                what = f"objective.heads.{head.name}.loss is {own.loss!r}, but {head.name} is {_a(head)}"
                raise BadInput(f"{what}; choose one of {', '.join(FIT[head.task])}")
            loss = replace(loss, loss="auto")
        parts.append(Part(head, at, leaf, loss, own.weight))
    return parts


def _a(head: Head) -> str:
    match head.task:
        case "number":
            return "a number"
        case "tags":
            return "tags"
        case _:
            return "a class"


def _weights(cfg: ClassifyConfig, parts: Sequence[Part]) -> Tensor | None:
    """(O,) for all outputs; None where nobody weighs any."""
    out: list[float] = []
    for part in parts:
        head = part.head
        own = cfg.heads.get(head.name, HeadConfig()).weights or (cfg.weights if len(parts) == 1 else ())
        key = "objective.weights" if len(parts) == 1 else f"objective.heads.{head.name}.weights"
        if own and head.task != "classify":
            raise BadInput(f"{key} weighs classes, and {head.name} is {_a(head)}; leave it out")
        if own and len(own) != head.outputs:
            raise BadInput(f"{key} has {len(own)} numbers for {len(head.classes)} classes")
        out += own or [1.0] * head.outputs
    if cfg.weights and len(parts) > 1:
        raise BadInput("objective.weights is for one target; say of which: objective.heads.NAME.weights")
    return torch.tensor(out) if any(w != 1.0 for w in out) else None
