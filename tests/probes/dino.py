"""Self-distillation without labels (DINO), small enough to train in a test; its teacher lives and dies with the run.

B samples  G global views (the teacher sees them)  V = G + local views  K prototypes  D width
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessella import parallel
from tessella.data.loading.seeded import generator
from tessella.data.origins.scenes import ScenesConfig, scene_batch
from tessella.errors import TessellaError
from tessella.models.vit import ViT, ViTConfig
from tessella.objectives.objective import Batch, Losses, Metrics, Objective
from tessella.training import Job, TrainConfig, distributed, train

SCENES = ScenesConfig(size=48, objects=(1, 1), radius=(0.25, 0.4), background="plain")
VIT = ViTConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2)
PROTOTYPES, GLOBAL, LOCAL = 48, 2, 2
FOLLOW = 0.1  # share of the student that the teacher takes in a step
SAMPLES = 12  # of the global batch


class Branch(nn.Module):
    """Pictures (N, C, H, W) to prototype scores (N, K)."""

    def __init__(self, cfg: ViTConfig):
        super().__init__()
        self.backbone = ViT(cfg)
        self.head = nn.Sequential(nn.Linear(cfg.width, 64), nn.GELU(), nn.Linear(64, 24))
        self.prototypes = nn.Linear(24, PROTOTYPES, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.prototypes(F.normalize(self.head(self.backbone(images).cls), dim=-1))
        return scores


class DINO(Objective):
    """The student sees all views and says what the teacher, its own running average, says of the global ones."""

    own_average = True
    centre: Tensor  # (K,) mean score of the teacher: taken off its scores, so that no prototype wins everywhere
    seen: Tensor  # (K + 1,) sum of the teacher's scores in this step, and how many; no buffer: it lives for one step

    def __init__(self, drop_path: float = 0.0):
        super().__init__()
        self.student = Branch(replace(VIT, drop_path=drop_path))
        self.teacher = Branch(VIT).requires_grad_(False)
        for ours, theirs in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
            theirs.data.copy_(ours)
        self.register_buffer("centre", torch.zeros(PROTOTYPES))

    @property
    def model(self) -> nn.Module:
        return self.teacher.backbone

    def before_step(self, progress: float) -> None:
        self.seen = torch.zeros(PROTOTYPES + 1, device=self.centre.device)

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        views, local = batch["image"], batch["local"]  # (B, G, C, H, W), (B, V - G, C, h, w)
        with torch.no_grad():
            scores_BGK = each_view(self.teacher, views)
            target_BGK = ((scores_BGK - self.centre) / 0.05).softmax(-1)
            self.seen = self.seen + torch.cat([scores_BGK.sum((0, 1)), torch.tensor([scores_BGK[..., 0].numel()])])
        said_BVK = torch.cat([each_view(self.student, views), each_view(self.student, local)], 1)
        cross_BGV = -torch.einsum("bgk,bvk->bgv", target_BGK, (said_BVK / 0.1).log_softmax(-1))
        other_GV = 1 - torch.eye(GLOBAL, said_BVK.shape[1])  # a view is not compared with itself
        loss = (cross_BGV * other_GV).sum() / (other_GV.sum() * len(cross_BGV))
        return {"views": loss}, {"peak": target_BGK.amax(-1).mean()}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        for ours, theirs in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
            theirs.lerp_(ours, FOLLOW)
        seen = parallel.sum_over_ranks(self.seen)
        self.centre.lerp_(seen[:-1] / seen[-1], 0.1)


def each_view(branch: Branch, views: Tensor) -> Tensor:
    """(B, v, C, H, W) to (B, v, K)."""
    scores: Tensor = branch(views.flatten(0, 1))
    return scores.unflatten(0, views.shape[:2])


# -- data -------------------------------------------------------------------------------------------------------------


def crop(image: Tensor, size: int, area: tuple[float, float], *key: int | str) -> Tensor:
    """A square part of the picture, drawn from `key` alone."""
    rng = generator(*key)
    side = int(image.shape[-1] * rng.uniform(*area) ** 0.5)
    top, left = rng.integers(0, image.shape[-1] - side + 1, 2)
    part = image[None, :, top : top + side, left : left + side].float()
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0] / 64 - 2


def crops(start: int) -> Iterator[Batch]:
    """This rank's share of each step: two large views and some small ones of every scene."""
    each = SAMPLES // parallel.world()
    while True:
        first = start * SAMPLES + parallel.rank() * each
        batch = scene_batch(SCENES, 0, range(first, first + each))
        named = list(zip(batch["image"], batch["ids"], strict=True))
        large = [[crop(x, 32, (0.5, 1.0), n, "large", v) for v in range(GLOBAL)] for x, n in named]
        small = [[crop(x, 16, (0.1, 0.4), n, "small", v) for v in range(LOCAL)] for x, n in named]
        image, local = (torch.stack([torch.stack(views) for views in sets]) for sets in (large, small))
        yield {"ids": batch["ids"], "image": image, "local": local}
        start += 1


def nearest(infer: Callable[[Batch], Any]) -> dict[str, float]:
    """How often the nearest neighbour has the same label, and how far it is; every rank embeds its share."""
    each = 48 // parallel.world()
    batch = scene_batch(SCENES, 1, range(parallel.rank() * each, (parallel.rank() + 1) * each))
    tokens = infer({"image": F.interpolate(batch["image"] / 64 - 2, (32, 32)), "ids": batch["ids"]})
    parts = parallel.gather_objects([(p, y) for p, y in zip(tokens.cls.tolist(), batch["label"].tolist(), strict=True)])
    points, labels = zip(*(pair for part in parts for pair in part), strict=True)
    distance, neighbour = torch.cdist(*[torch.tensor(points)] * 2).fill_diagonal_(torch.inf).min(1)
    same = [labels[i] == label for i, label in zip(neighbour.tolist(), labels, strict=True)]
    return {"same": sum(same) / len(same), "distance": float(distance.mean())}


# -- runs -------------------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    losses: list[float]
    distances: list[float]  # of the nearest neighbours, at every evaluation


CFG: dict[str, Any] = {"batch": SAMPLES, "steps": 10, "warmup": 2, "lr": 2e-3, "precision": "fp32", "device": "cpu"}
CFG |= {"log_every": 1, "evaluate_every": 3, "save_every": 4}


def learn(
    objective: DINO, folder: Path | None = None, batches: Callable[[int], Iterator[Batch]] = crops, **more: Any
) -> Done:
    """Trains by the unchanged trainer; goes on with what lies in `folder`."""
    job = Job(folder=folder, quiet=True, evaluate=nearest)
    rows = train(TrainConfig(**CFG | more), objective, batches, job).history
    losses, distances = ([r[key] for r in rows if key in r] for key in ("loss", "val/distance"))
    return Done(losses, distances)


def fresh(kind: type[DINO] = DINO, drop_path: float = 0.0) -> DINO:
    torch.manual_seed(0)
    return kind(drop_path)


class Twice(DINO):
    """What the design forbids: the network that ships is an attribute of its own, and has two names."""

    def __init__(self, drop_path: float = 0.0):
        super().__init__(drop_path)
        self.shipped = self.teacher.backbone


# -- what each of two processes does ----------------------------------------------------------------------------------

DROP = 0.3  # randomness that must come back after a death


def slow(start: int) -> Iterator[Batch]:
    """So that death comes in the middle."""
    for batch in crops(start):
        time.sleep(0.5)
        yield batch


def spoilt(start: int) -> Iterator[Batch]:
    """In step 1 the first picture of the last rank is not a number."""
    for step, batch in enumerate(crops(start), start):
        if step == 1 and parallel.rank() + 1 == parallel.world():
            batch["image"][0, 0, 0, 0, 0] = torch.nan
        yield batch


class Odd(DINO):
    """A metric, which is only logged, is not a number on one rank."""

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        losses, metrics = super().forward(batch, progress)
        return losses, metrics | {"odd": torch.tensor(torch.nan if parallel.rank() else 1.0)}


def refused(kind: type[DINO], folder: Path | None, batches: Callable[[int], Iterator[Batch]], shard: str) -> str:
    try:
        learn(fresh(kind), folder, batches, shard=shard)
    except TessellaError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was wrong"


def victim(folder: str) -> None:
    """Goes on until it is killed."""
    with distributed.processes(torch.device("cpu"), 60.0):
        learn(fresh(drop_path=DROP), Path(folder), slow, shard="fsdp")


def survivor(folder: str) -> dict[str, Any]:
    """All that two processes have to show, in `folder`: going on after the death, and what it is compared with."""
    place = Path(folder)
    with distributed.processes(torch.device("cpu"), 60.0):
        learn(fresh(drop_path=DROP), place / "killed", shard="fsdp")
        learn(fresh(drop_path=DROP), place / "undisturbed", shard="fsdp", save_every=1, keep=99)
        found: dict[str, Any] = {
            "fsdp": tuple(learn(fresh(), place / "of two", shard="fsdp", keep=9)),
            "ddp": tuple(learn(fresh(), shard="ddp")),
            "ddp, cut": tuple(learn(fresh(), shard="ddp", accumulate=3)),
            "from one": tuple(learn(fresh(), place / "from one", shard="fsdp")),
        }
        found["twice"] = refused(Twice, place / "twice", crops, "fsdp")
        found["spoilt"] = [refused(DINO, None, spoilt, shard) for shard in ("ddp", "fsdp")]
        found["odd"] = learn(fresh(Odd), shard="ddp").losses
    return found
