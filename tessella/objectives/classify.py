"""Supervised classification: cross-entropy with smoothed labels.

B samples, K classes. A model with a distillation token has two heads; without a teacher both learn from the labels.
"""

from __future__ import annotations

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

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise BadInput(f"objective.smoothing is {self.smoothing}; give a share in [0, 1)")


class Classify(Objective):
    calls = ("both",)

    def __init__(self, cfg: ClassifyConfig, network: Classifier):
        super().__init__()
        self.cfg = cfg
        self.network = network

    @property
    def model(self) -> Classifier:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, C, H, W) normalised, label (B,) class numbers."""
        labels_B: Tensor = batch["label"]
        heads = [logits_BK.float() for logits_BK in self.network.both(batch["image"]) if logits_BK is not None]
        losses = [F.cross_entropy(logits_BK, labels_B, label_smoothing=self.cfg.smoothing) for logits_BK in heads]
        right = torch.stack(heads).detach().mean(0).argmax(-1) == labels_B
        return {"label": torch.stack(losses).mean()}, {"accuracy": right.float().mean()}
