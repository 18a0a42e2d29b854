"""A teacher and a student small enough for a test: other widths, patches, classes and normalisations."""

from __future__ import annotations

from typing import Any

import torch
from oracle import distillation as oracle
from torch import Tensor

from tessella.card import Preprocess, alone
from tessella.data.pixels.finish import Finish
from tessella.models.architecture import ClassifierConfig, PoolConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.objectives.distill import Distill, DistillConfig, Teacher

CLASSES = ("ant", "bee", "cat", "dog", "elk")
KNOWN = ("yak", "dog", "bee", "elk", "fox", "ant", "cat")  # to the teacher
ROWS = (5, 2, 6, 1, 3)
GIVEN = Preprocess(size=(16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
WANTS = Preprocess(size=(16, 16), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
KINDS: dict[str, dict[str, Any]] = {
    "hard": {"kind": "hard"},
    "soft": {"kind": "soft"},
    "soft, summed": {"kind": "soft", "divergence": "sum"},
    "pooled": {"kind": "features", "of": "pooled"},
    "patches": {"kind": "features", "of": "patches", "distance": "smooth_l1"},
    "both": {"kind": "features", "of": "both"},
    "both, straight": {"kind": "features", "of": "both", "distance": "smooth_l1", "delta": 0.5},
}
ANSWERS, VECTORS = ("hard", "soft", "soft, summed"), ("pooled", "patches", "both", "both, straight")


def network(
    distill: bool = False, classes: int = 5, pool: str = "cls", backbone: ViTConfig | None = None
) -> Classifier:
    """Sure of something: an initial head is small, and all classes look alike to it."""
    backbone = backbone or ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, distill_token=distill)
    out = Classifier(ClassifierConfig(backbone=backbone, pool=PoolConfig(kind=pool), classes=classes))  # type: ignore[arg-type]
    with torch.no_grad():
        for p in out.parameters():
            p.normal_(0, 0.3)
        for name in ("head.weight", "head_dist.weight"):
            dict(out.named_parameters()).get(name, torch.zeros(1)).mul_(4)
    return out


def teacher(wants: Preprocess = WANTS) -> Teacher:
    """Wider, with smaller patches, and knows more classes."""
    torch.manual_seed(4)
    backbone = ViTConfig(image_size=wants.size, patch_size=4, width=24, depth=2, heads=3, drop_path=0.5)
    return Teacher(network=network(classes=7, backbone=backbone), wants=wants, given=GIVEN, rows=ROWS)


def objective(kind: str = "hard", distill: bool = False, pool: str = "cls", **more: Any) -> Distill:
    torch.manual_seed(7)
    student = network(distill, pool=pool)
    return Distill(DistillConfig(**KINDS[kind] | {"share": 0.3} | more), student, teacher(), (alone(CLASSES),))


def raw(n: int = 6) -> Tensor:
    """Noise, each of another colour."""
    g = torch.Generator().manual_seed(1)
    colour, noise = torch.rand(6, 3, 1, 1, generator=g), torch.rand(6, 3, 16, 16, generator=g)
    return (255 * (0.7 * colour + 0.3 * noise)).to(torch.uint8)[:n]


def batch(n: int = 6, labels: bool = True) -> dict[str, Any]:
    b: dict[str, Any] = {"ids": [str(i) for i in range(n)], "image": Finish(GIVEN).pixels(raw(n))}
    return b | ({"label": torch.tensor([0, -1, 2, 3, 4, -1])[:n]} if labels else {})


def mixed(n: int = 6) -> dict[str, Any]:
    b = batch(n)
    return b | {"mix_label": b["label"].flip(0), "mix": torch.tensor([1.0, 0.25, 0.9, 0.5, 0.0, 0.4])[:n]}


def rows_of(x: Tensor) -> Any:
    return x.detach().double().tolist()


def told(o: Distill, b: dict[str, Any]) -> dict[str, float]:
    losses, metrics = o(b, 0.0)
    assert set(losses) == ({"label", "teacher"} if o.cfg.share < 1 else {"teacher"})
    return {name: float(value.detach()) for name, value in {**losses, **metrics}.items()}


def taught(o: Distill, b: dict[str, Any], rows: tuple[int, ...] = ROWS) -> list[list[float]]:
    """What the teacher says, from the pixels as they were stored, and class by class."""
    scores = o.teacher.network(Finish(WANTS).pixels(raw(len(b["ids"]))))
    return [oracle.chosen(row, rows) for row in rows_of(scores)]
