"""A few labels and many pictures (FixMatch, arXiv 2001.07685): what the network is sure of becomes a label.

Each picture is seen twice, weakly and strongly changed. Of the weak view of an unlabelled picture the network says a
class; where it is sure, that class is what it has to say of the strong view. Labelled pictures count as ever.

B samples  K classes
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
class FixMatchConfig:
    sure: float = 0.95  # probability from which what the network says of the weak view counts as a label
    weight: float = 1.0  # of the unlabelled pictures' loss beside the labelled ones'
    temperature: float = 1.0  # of the weak view's logits, before they are probabilities
    smoothing: float = 0.0  # share of each label spread evenly over all classes

    def __post_init__(self) -> None:
        for name, good in (
            ("sure", 0 < self.sure < 1),
            ("weight", self.weight >= 0),
            ("temperature", self.temperature > 0),
            ("smoothing", 0 <= self.smoothing < 1),
        ):
            if not good:
                raise BadInput(f"objective.{name} is {getattr(self, name)}; see FixMatchConfig for what it may be")


class FixMatch(Objective):
    def __init__(self, cfg: FixMatchConfig, network: Classifier) -> None:
        super().__init__()
        self.cfg, self.network = cfg, network

    @property
    def model(self) -> Classifier:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image and strong (B, C, H, W) normalised, label (B,) int64, -1 unknown.

        Both views in one pass. The weak one is a target for all pictures, labelled or not, as its authors have it."""
        n, labels_B = len(batch["label"]), batch["label"]
        weak_BK, strong_BK = self.network(torch.cat([batch["image"], batch["strong"]])).float().split([n, n])
        sure_B, said_B = (weak_BK.detach() / self.cfg.temperature).softmax(1).max(1)
        taken_B = (sure_B >= self.cfg.sure).float()
        pseudo_B = F.cross_entropy(strong_BK, said_B, reduction="none") * taken_B
        known_B = (labels_B >= 0).float()
        label_B = F.cross_entropy(weak_BK, labels_B.clamp(min=0), reduction="none", label_smoothing=self.cfg.smoothing)
        right_B = (said_B == labels_B).float()
        losses = {"label": over(label_B, known_B), "pseudo": self.cfg.weight * pseudo_B.sum() / max(1, n)}
        return losses, {"accuracy": over(right_B, known_B), "taken": taken_B.sum() / max(1, n)}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Of the labelled ones; the others count samples."""
        labelled = float((batch["label"] >= 0).sum())
        return {"label": labelled, "accuracy": labelled}


def over(values_B: Tensor, known_B: Tensor) -> Tensor:
    """The mean over what is known; over nothing it is 0."""
    return (values_B * known_B).sum() / known_B.sum().clamp(min=1)
