"""Rotation prediction (RotNet, arXiv 1803.07728): by how many quarters was the picture turned?

Who can say that has seen which way up things are, so what they are. It fails where pictures have no way up.

B samples  C channels  H,W pixels  K turns
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..models.classifier import Classifier
from .objective import Batch, Losses, Metrics, Objective

TURNS = ("upright", "a quarter to the left", "upside down", "a quarter to the right")  # by data.views.quarters


@dataclass(frozen=True, kw_only=True)
class RotateConfig:
    """Nothing to settle: the turns are drawn where pictures are read, see data.views."""


class Rotate(Objective):
    calls: ClassVar[tuple[str, ...]] = ("embed",)

    def __init__(self, cfg: RotateConfig, network: Classifier) -> None:
        super().__init__()
        self.cfg, self.network = cfg, network

    @property
    def model(self) -> Classifier:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, C, H, W) normalised and turned; turn (B,) int64: by which of the turns."""
        said_BK, turn_B = self.network(batch["image"]).float(), batch["turn"]
        loss = F.cross_entropy(said_BK, turn_B, reduction="sum") / max(1, len(turn_B))
        right = (said_BK.argmax(1) == turn_B).float().sum() / max(1, len(turn_B))
        return {"turn": loss}, {"accuracy": right}

    def infer(self, batch: Batch) -> Tensor:
        """Features (B, D) of whole pictures."""
        return self.network.embed(batch["image"])
