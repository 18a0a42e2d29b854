"""A set predictor (DETR) small enough to train in a test: targets differ in number from picture to picture.

B pictures  Q queries  K classes  D width  n objects of one picture
Boxes are centre x, centre y, width, height, as shares of the picture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou

from tessella.models.vit import ViT, ViTConfig
from tessella.objectives.objective import Batch, Losses, Metrics, Objective

NOTHING = 0.2  # weight of a query that should find no object
L1, GIOU = 5.0, 2.0  # weights of the two losses of a box, in the matching as well
ANCHORS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75), (0.5, 0.5))  # where each query starts to look


class Detector(nn.Module):
    """The house's ViT, and a few queries that look at its patches."""

    def __init__(self, classes: int, size: int = 48) -> None:
        super().__init__()
        width, queries = 48, len(ANCHORS)
        self.backbone = ViT(
            ViTConfig(image_size=size, patch_size=8, width=width, depth=2, heads=3, mlp_ratio=2, position="sincos")
        )
        self.query = nn.Parameter(torch.randn(queries, width) * 0.5)
        self.cross = nn.TransformerDecoderLayer(width, 3, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.classes = nn.Linear(width, classes + 1)  # the last class is: nothing
        self.box = nn.Linear(width, 4)
        nn.init.zeros_(self.box.weight)
        start = torch.tensor([(x, y, 0.3, 0.3) for x, y in ANCHORS])
        self.register_buffer("start", start.logit(), persistent=False)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, Q, K + 1) and boxes (B, Q, 4)."""
        patches_BND = self.backbone(images_BCHW).patches
        found_BQD = self.cross(self.query.expand(len(images_BCHW), -1, -1), patches_BND)
        return self.classes(found_BQD), (self.box(found_BQD) + self.start).sigmoid()


def giou(boxes_Q4: Tensor, truth_n4: Tensor) -> Tensor:
    """(Q, n) generalised intersection over union."""
    return generalized_box_iou(box_convert(boxes_Q4, "cxcywh", "xyxy"), box_convert(truth_n4, "cxcywh", "xyxy"))


@torch.no_grad()
def match(logits_QK: Tensor, boxes_Q4: Tensor, labels_n: Tensor, truth_n4: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest pairing (Hungarian): numbers of the queries, and of the objects that they are to find."""
    cost = L1 * torch.cdist(boxes_Q4, truth_n4, p=1) - GIOU * giou(boxes_Q4, truth_n4)
    cost = cost - logits_QK.softmax(-1)[:, labels_n]
    cost = cost.nan_to_num(0.0, 1e4, -1e4)  # the assignment refuses a NaN, but to tell of it is the trainer's affair
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(rows).to(labels_n.device), torch.from_numpy(columns).to(labels_n.device)


class Detect(Objective):
    """`fails(samples)` says whether the device is out of memory for a micro-batch of so many."""

    def __init__(self, detector: Detector, fails: Callable[[int], bool] = lambda samples: False) -> None:
        super().__init__()
        self.detector = detector
        self.fails = fails

    @property
    def model(self) -> Detector:
        return self.detector

    def counts(self, batch: Batch) -> dict[str, float]:
        """Boxes for what is a mean over boxes; for the class, the weights of all queries."""
        queries = len(self.detector.query)
        boxes = float(sum(min(len(truth), queries) for truth in batch["boxes"]))
        nothing = len(batch["ids"]) * queries - boxes
        return {"class": boxes + NOTHING * nothing, "l1": boxes, "giou": boxes, "iou": boxes}

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        if self.fails(len(batch["ids"])):
            raise torch.OutOfMemoryError("simulated")
        logits_BQK, boxes_BQ4 = (out.float() for out in self.detector(batch["image"]))
        nothing = logits_BQK.shape[-1] - 1
        wanted_BQ = torch.full(logits_BQK.shape[:2], nothing, device=logits_BQK.device)
        l1, overlap = [], []
        for b, (labels_n, truth_n4) in enumerate(zip(batch["labels"], batch["boxes"], strict=True)):
            rows, columns = match(logits_BQK[b], boxes_BQ4[b], labels_n, truth_n4)
            wanted_BQ[b, rows] = labels_n[columns]
            l1.append((boxes_BQ4[b, rows] - truth_n4[columns]).abs().sum(-1))
            overlap.append(giou(boxes_BQ4[b, rows], truth_n4[columns]).diagonal())
        weights = torch.ones_like(logits_BQK[0, 0])
        weights[nothing] = NOTHING
        losses = {
            "class": F.cross_entropy(logits_BQK.flatten(0, 1), wanted_BQ.flatten(), weights),
            "l1": L1 * self.mean(torch.cat(l1), batch),
            "giou": GIOU * self.mean(1 - torch.cat(overlap), batch),
        }
        return losses, {"iou": self.mean(torch.cat(overlap).detach().clamp(min=0), batch)}

    def mean(self, each: Tensor, batch: Batch) -> Tensor:
        """Over the boxes; 0, but with a gradient of 0 for every rank, where there are none."""
        return each.sum() / max(len(each), 1)


@torch.no_grad()
def found(outputs: tuple[Tensor, Tensor], batch: Batch) -> dict[str, float]:
    """Of the objects: how well the matched box covers them, and how often it has their class."""
    overlaps, right = [], []
    for logits, boxes, labels, truth in zip(*outputs, batch["labels"], batch["boxes"], strict=True):
        rows, columns = match(logits, boxes, labels, truth)
        overlaps += giou(boxes[rows], truth[columns]).diagonal().clamp(min=0).tolist()
        right += (logits[rows, :-1].argmax(-1) == labels[columns]).tolist()
    return {"iou": sum(overlaps) / len(overlaps), "right": sum(right) / len(right)}
