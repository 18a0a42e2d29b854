"""Contrast of pictures with their captions (CLIP), small enough to train in a test; the batch is embedded in chunks.

B pictures of this rank  G = ranks * B all of them  L words of a caption  D width of a tower  E width of an embedding
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tessella import parallel
from tessella.data.origins.scenes import VOCABULARY, ScenesConfig, scene_batches
from tessella.errors import BadInput
from tessella.models.vit import ViT, ViTConfig
from tessella.objectives.objective import Batch, Losses, Metrics, Objective
from tessella.training import Job, TrainConfig, distributed, train

SCENES = ScenesConfig(size=32, objects=(1, 1), radius=(0.3, 0.42), background="plain")
VIT = ViTConfig(image_size=32, patch_size=8, embed="stem", width=32, depth=2, heads=2)
PAIRS = 16  # of the global batch


class Pairs(NamedTuple):
    images: Tensor  # (B, E), length 1
    texts: Tensor  # (B, E), length 1
    scale: Tensor  # () what multiplies their products


class Dual(nn.Module):
    """Two towers that meet in one space. All parameters are used inside `forward`: shards are gathered around it."""

    def __init__(self, width: int = 32, dropout: float = 0.0):
        super().__init__()
        self.image = ViT(VIT)
        self.words = nn.Embedding(len(VOCABULARY), width, padding_idx=0)
        self.text = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout, batch_first=True, norm_first=True)
        self.dropout = nn.Dropout(dropout)
        self.image_proj = nn.Linear(VIT.width, width, bias=False)
        self.text_proj = nn.Linear(width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0)]))  # (1,): FSDP2 shards no scalars

    def forward(self, images: Tensor, ids_BL: Tensor) -> Pairs:
        there_BL1 = (ids_BL != 0)[..., None]
        place_L = torch.linspace(0, 1, ids_BL.shape[1], dtype=self.words.weight.dtype)
        words_BLD = self.text(self.words(ids_BL) + place_L[:, None], src_key_padding_mask=~there_BL1[..., 0])
        text_BD = (words_BLD * there_BL1).sum(1) / there_BL1.sum(1)
        image_BD = self.dropout(self.image(images).patches.mean(1))
        image, text = F.normalize(self.image_proj(image_BD), dim=-1), F.normalize(self.text_proj(text_BD), dim=-1)
        return Pairs(image, text, self.log_scale[0].exp())


class Contrast(Objective):
    """Which caption belongs to which picture, among those of all ranks.

    `chunk` samples are embedded at a time and embedded again in the backward pass, with the same dropout: of each chunk
    only its inputs and its embeddings are kept.
    """

    whole_batch = True

    def __init__(self, chunk: int | None = None, dropout: float = 0.0):
        super().__init__()
        self.dual = Dual(dropout=dropout)
        self.chunk = chunk
        self.gather = parallel.gather_with_gradient
        self.gradients: dict[str, Tensor] = {}

    @property
    def model(self) -> nn.Module:
        return self.dual

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        mine = self.embed(batch["image"], batch["caption_ids"])
        images_GE, texts_GE = self.gather(mine.images), self.gather(mine.texts)
        rows = len(mine.images)
        right_B = torch.arange(rows) + rows * parallel.rank()
        to_text_BG = mine.scale * mine.images @ texts_GE.T
        to_image_BG = mine.scale * mine.texts @ images_GE.T
        loss = (F.cross_entropy(to_text_BG, right_B) + F.cross_entropy(to_image_BG, right_B)) / 2
        return {"contrast": loss}, {"scale": mine.scale.detach()}

    def embed(self, images: Tensor, ids_BL: Tensor) -> Pairs:
        if self.chunk is None:
            pairs: Pairs = self.dual(images, ids_BL)
            return pairs
        chunks = zip(images.split(self.chunk), ids_BL.split(self.chunk), strict=True)
        done = [self.embed_again(part, ids) for part, ids in chunks]
        return Pairs(torch.cat([d.images for d in done]), torch.cat([d.texts for d in done]), done[0].scale)

    def embed_again(self, images: Tensor, ids_BL: Tensor) -> Pairs:
        """Recomputed in the backward pass, with the state that the random generator has now."""
        pairs: Pairs = checkpoint(self.dual, images, ids_BL, use_reentrant=False)
        return pairs

    def infer(self, batch: Batch) -> Any:
        return self.dual(batch["image"], batch["caption_ids"])

    def after_backward(self, progress: float) -> None:
        """What the optimiser would see; for the test."""
        grads = {n: p.grad for n, p in self.named_parameters() if p.grad is not None}
        self.gradients = {n: g.clone() for n, g in distributed.whole(grads).items()}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.dual.log_scale.clamp_(0, math.log(100))


class Floats(nn.Module):
    """Pixels to numbers around 0, of the type that is asked for."""

    def __init__(self, kind: torch.dtype = torch.float32):
        super().__init__()
        self.kind = kind

    def forward(self, batch: Batch) -> Batch:
        return {**batch, "image": batch["image"].to(self.kind) / 64 - 2}


class Done(NamedTuple):
    losses: list[float]
    gradients: dict[str, Tensor]  # of the last step
    metrics: dict[str, float]


def learn(
    objective: Contrast, kind: torch.dtype = torch.float32, job: dict[str, Any] | None = None, **more: Any
) -> Done:
    """Trains by the unchanged trainer."""
    cfg = {"batch": PAIRS, "steps": 1, "warmup": 2, "lr": 3e-3, "precision": "fp32", "log_every": 1, "device": "cpu"}
    batches = scene_batches(SCENES, (cfg | more)["batch"], 0, parallel.rank(), parallel.world())
    surround = Job(finish=Floats(kind), quiet=True, **(job or {}))
    done = train(TrainConfig(**cfg | more), objective.to(kind), batches, surround)
    return Done([row["loss"] for row in done.history if "loss" in row], objective.gradients, done.metrics)


def fresh(chunk: int | None = None, dropout: float = 0.0) -> Contrast:
    torch.manual_seed(0)
    return Contrast(chunk, dropout)


# -- what each of two processes does ----------------------------------------------------------------------------------


def deaf(x: Tensor) -> Tensor:
    """A wrong gather: the rows of other ranks come without their gradient."""
    parts = list(parallel.gather_with_gradient(x.detach()).split(len(x)))
    parts[parallel.rank()] = x
    return torch.cat(parts)


def gradients(kind: torch.dtype, chunk: int | None = None, gather: Any = None, shard: str = "ddp") -> dict[str, Tensor]:
    objective = fresh(chunk)
    objective.gather = gather or objective.gather
    return learn(objective, kind, shard=shard).gradients


def in_ranks() -> dict[str, Any]:
    with distributed.processes(torch.device("cpu"), 60.0):
        found: dict[str, Any] = {
            "fp32": gradients(torch.float32, 3),
            "fp64": gradients(torch.float64, 3),
            "fsdp": gradients(torch.float64, 3, shard="fsdp"),
            "deaf": gradients(torch.float32, 3, deaf),
            "losses": learn(fresh(3), steps=10).losses,
        }
        try:
            learn(fresh(3), batch=PAIRS + 1)
        except BadInput as error:
            found["uneven"] = str(error)
    return found
