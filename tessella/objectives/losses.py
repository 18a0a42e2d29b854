"""Losses of a single head: its outputs and targets to a loss for each sample, or for each of its classes. No state.

Shape suffixes:  B samples  K classes  E what a target holds: K tags, or one thing. `bce`, `focal` and `asymmetric` ask
a yes or no of every class; their targets may be soft, and they are linear in them: the loss of a mixed picture is the
mixture of two losses. How much of a target counts stands at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..card import Task
from ..errors import BadInput
from .objective import Batch

Loss = Literal["auto", "cross_entropy", "bce", "focal", "asymmetric", "mse", "l1", "huber"]
FIT: dict[Task, tuple[Loss, ...]] = {  # the first is what "auto" stands for
    "classify": ("cross_entropy", "bce", "focal", "asymmetric"),
    "tags": ("bce", "focal", "asymmetric"),
    "number": ("huber", "mse", "l1"),
}
TINY = 1e-8  # the root of 0 has no slope


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What a loss is called, and the numbers in it; each has a meaning for the losses that its comment names."""

    loss: Loss = "auto"  # auto: cross_entropy for a class, bce for tags, huber for a number
    smoothing: float = 0.1  # of a class: share of each target spread evenly over all classes
    gamma: float | None = None  # how little what is easy counts; None: 2 (focal), 4 (asymmetric: of absent classes)
    gamma_present: float = 1.0  # asymmetric: the same, of the classes that are there
    alpha: float | None = None  # focal: weight of what is there, 1 - alpha of what is not; None: both 1
    margin: float = 0.05  # asymmetric: an absent class of a probability below this counts for nothing
    delta: float = 1.0  # huber: the error, in deviations of the target, from which it counts straight, not squared

    def __post_init__(self) -> None:
        _require(0 <= self.smoothing < 1, f"objective.smoothing is {self.smoothing}; give a share in [0, 1)")
        for name, value in (("gamma", self.gamma or 0.0), ("gamma_present", self.gamma_present)):
            _require(0 <= value < math.inf, f"objective.{name} is {value}; give a finite number, 0 or more")
        _require(
            self.alpha is None or 0 < self.alpha < 1,
            f"objective.alpha is {self.alpha}; give a share in (0, 1), or none",
        )
        _require(0 <= self.margin < 1, f"objective.margin is {self.margin}; give a probability in [0, 1)")
        _require(0 < self.delta < math.inf, f"objective.delta is {self.delta}; give a finite number above 0")


def _require(good: bool, otherwise: str) -> None:
    if not good:
        raise BadInput(otherwise)


def of_class(cfg: LossConfig, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """(B,): one class for each sample. A mean over classes where each has its own yes or no."""
    if cfg.loss in ("auto", "cross_entropy"):
        return F.cross_entropy(logits_BK, labels_B, reduction="none", label_smoothing=cfg.smoothing)
    hard_BK = F.one_hot(labels_B, logits_BK.shape[1]).to(logits_BK)
    return of_tags(cfg, logits_BK, hard_BK * (1 - cfg.smoothing) + cfg.smoothing / logits_BK.shape[1]).mean(1)


def of_tags(cfg: LossConfig, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """(B, K)"""
    match cfg.loss:
        case "focal":
            return focal(logits_BK, targets_BK, 2.0 if cfg.gamma is None else cfg.gamma, cfg.alpha)
        case "asymmetric":
            gamma = 4.0 if cfg.gamma is None else cfg.gamma
            return asymmetric(logits_BK, targets_BK, gamma, cfg.gamma_present, cfg.margin)
        case _:
            return F.binary_cross_entropy_with_logits(logits_BK, targets_BK, reduction="none")


def of_number(cfg: LossConfig, values_B: Tensor, targets_B: Tensor) -> Tensor:
    """(B,): both in deviations of the target, so that losses of two heads can be compared."""
    match cfg.loss:
        case "mse":
            return F.mse_loss(values_B, targets_B, reduction="none")
        case "l1":
            return F.l1_loss(values_B, targets_B, reduction="none")
        case _:
            return F.huber_loss(values_B, targets_B, reduction="none", delta=cfg.delta)


def focal(logits_BK: Tensor, targets_BK: Tensor, gamma: float, alpha: float | None = None) -> Tensor:
    """arXiv 1708.02002: what is already right counts the less, the surer it is."""
    yes, no = F.logsigmoid(logits_BK), F.logsigmoid(-logits_BK)
    present, absent = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    # The power of a probability from its logarithm: exact where the probability rounds to 0 or 1, and it has a slope.
    there_BK = -present * torch.exp(gamma * no) * yes
    away_BK = -absent * torch.exp(gamma * yes) * no
    return targets_BK * there_BK + (1 - targets_BK) * away_BK


def asymmetric(logits_BK: Tensor, targets_BK: Tensor, gamma: float, gamma_present: float, margin: float) -> Tensor:
    """arXiv 2009.14119, for many tags of which few are there: absent ones are focused harder, and easy ones dropped."""
    yes, no = F.logsigmoid(logits_BK), F.logsigmoid(-logits_BK)
    there_BK = -torch.exp(gamma_present * no) * yes
    if margin:
        shifted_BK = (torch.sigmoid(logits_BK) - margin).clamp(min=TINY)
        away_BK = -shifted_BK.pow(gamma) * torch.log1p(-shifted_BK)
    else:
        away_BK = -torch.exp(gamma * yes) * no
    return targets_BK * there_BK + (1 - targets_BK) * away_BK


# -- what of a batch's targets counts, and how much -------------------------------------------------------------------


class Told(NamedTuple):
    """Targets, and how much each of them counts: nothing where it is unknown, its share where pictures were mixed."""

    targets: Tensor  # a class (B,) int64, tags (B, K), a number (B,)
    share_BE: Tensor


def known(task: Task, targets: Tensor) -> Tensor:
    """(B, E): 1 or 0. An unknown class is -1, all else is NaN."""
    there = targets >= 0 if task == "classify" else ~targets.isnan()
    return there.float() if task == "tags" else there.float()[:, None]


def told(task: Task, leaf: str, batch: Batch) -> list[Told]:
    """Of the picture itself, and of the one that it was mixed with. `leaf`: where the batch has the targets."""
    own = batch[leaf]
    if "mix" not in batch:
        return [Told(own, known(task, own))]
    other, own_B1 = batch[f"mix_{leaf}"], batch["mix"][:, None]
    return [Told(own, own_B1 * known(task, own)), Told(other, (1 - own_B1) * known(task, other))]


def mass(parts: list[Told]) -> Tensor:
    """How many targets are known, a mixed one by its share: over so much a loss is a mean."""
    return torch.stack([part.share_BE.mean(1).sum() for part in parts]).sum()


def over_known(parts: list[Told], judge: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of what `judge` says of targets, (B, E), over what is known; over nothing it is 0. Of an unknown target
    `judge` may say any number, but a number."""
    each = [(part.share_BE * judge(part.targets)).mean(1).sum() for part in parts]
    whole = mass(parts)
    return torch.stack(each).sum() / torch.where(whole > 0, whole, 1.0)


def most(leaf: str, batch: Batch) -> Tensor:
    """The target of what most of the picture is."""
    own: Tensor = batch[leaf]
    if "mix" not in batch:
        return own
    mine = (batch["mix"] >= 0.5).reshape(-1, *[1] * (own.ndim - 1))
    return torch.where(mine, own, batch[f"mix_{leaf}"])
