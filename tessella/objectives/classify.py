"""Supervised classification: cross-entropy with smoothed labels, perhaps of mixed pictures, perhaps weighted by class.

B samples, K classes. A model with a distillation token has two heads; without a teacher both learn from the labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadInput
from ..models.classifier import Classifier
from .objective import Batch, Losses, Metrics, Objective


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    smoothing: float = 0.1  # share of each target spread evenly over all classes
    weights: tuple[float, ...] = ()  # of a sample's loss, by its class; mean 1 over the samples; empty: all alike

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise BadInput(f"objective.smoothing is {self.smoothing}; give a share in [0, 1)")
        if not all(math.isfinite(w) and w > 0 for w in self.weights):
            raise BadInput(
                "objective.weights has a number that is not above 0; give one positive weight for each class"
            )


class Classify(Objective):
    calls = ("both",)
    weights_K: Tensor | None

    def __init__(self, cfg: ClassifyConfig, network: Classifier):
        super().__init__()
        if cfg.weights and len(cfg.weights) != network.cfg.classes:
            raise BadInput(f"objective.weights has {len(cfg.weights)} numbers for {network.cfg.classes} classes")
        self.cfg = cfg
        self.network = network
        # Not persistent: the settings already say these numbers.
        self.register_buffer("weights_K", torch.tensor(cfg.weights) if cfg.weights else None, persistent=False)

    @property
    def model(self) -> Classifier:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, C, H, W) normalised, label (B,) class numbers; where pictures were mixed also mix_label
        (B,), the class of the other, and mix (B,), the weight of the own one.

        A mean over B, whatever the weights: so it does not matter how a batch was cut. B may be 0, because all pictures
        of a micro-batch were unreadable; the mean over nothing is 0.
        """
        labels_B: Tensor = batch["label"]
        heads = [logits_BK.float() for logits_BK in self.network.both(batch["image"]) if logits_BK is not None]
        losses = []
        most_B = labels_B  # the label that most of the picture has
        for logits_BK in heads:
            loss_B = self._cross_entropy(logits_BK, labels_B)
            if "mix" in batch:
                own_B, others_B = batch["mix"], batch["mix_label"]
                loss_B = own_B * loss_B + (1 - own_B) * self._cross_entropy(logits_BK, others_B)
                most_B = torch.where(own_B >= 0.5, labels_B, others_B)
            losses.append(_mean(loss_B))
        right_B = torch.stack(heads).detach().mean(0).argmax(-1) == most_B
        return {"label": torch.stack(losses).mean()}, {"accuracy": _mean(right_B.float())}

    def _cross_entropy(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        loss_B = F.cross_entropy(logits_BK, labels_B, reduction="none", label_smoothing=self.cfg.smoothing)
        return loss_B if self.weights_K is None else loss_B * self.weights_K[labels_B]


def _mean(values_B: Tensor) -> Tensor:
    return values_B.sum() / max(1, len(values_B))
