"""A tower and an objective small enough to train in a test, without any entry in a table of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessella import parallel
from tessella.objectives.objective import Batch, Losses, Metrics, Objective


class ToyBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(self.norm(x)).tanh()


class ToyTower(nn.Module):
    def __init__(self, width: int = 16, depth: int = 3, outputs: int = 4):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, width) * 0.1)
        self.embed = nn.Linear(12, width)
        self.blocks = nn.ModuleList(ToyBlock(width) for _ in range(depth))
        self.head = nn.Linear(width, outputs)

    def units(self) -> list[nn.Module]:
        return list(self.blocks)

    def depth_of(self, name: str) -> int:
        parts = name.split(".")
        return int(parts[1]) + 1 if parts[0] == "blocks" else (4 if parts[0] == "head" else 0)

    def no_decay(self) -> frozenset[str]:
        return frozenset({"token"})

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1)) + self.token
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Toy(Objective):
    """Classifies points; a second loss is a mean over a number of things that differs from sample to sample."""

    def __init__(self, too_many: int | None = None, dropout: float = 0.0, ragged: bool = True):
        super().__init__()
        self.net = ToyTower()
        self.dropout = nn.Dropout(dropout)
        self.too_many = too_many
        self.ragged = ragged

    @property
    def model(self) -> nn.Module:
        return self.net

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"things": float(sum(len(t) for t in batch["things"]))} if self.ragged else {}

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        if self.too_many is not None and len(batch["ids"]) >= self.too_many:
            raise torch.OutOfMemoryError("simulated")
        out = self.dropout(self.net(batch["image"]))
        losses = {"label": F.cross_entropy(out, batch["label"])}
        if self.ragged:
            each = [(out[i, :1] - t).square().sum() for i, t in enumerate(batch["things"])]
            losses["things"] = torch.stack(each).sum() / max(sum(len(t) for t in batch["things"]), 1)
        return losses, {"accuracy": (out.argmax(1) == batch["label"]).float().mean()}


def toy_batches(batch: int = 12, seed: int = 0) -> Callable[[int], Iterator[Batch]]:
    """This rank's contiguous share of each step, a pure function of (seed, step)."""

    def batches(start: int) -> Iterator[Batch]:
        step = start
        while True:
            g = torch.Generator().manual_seed(seed * 1000 + step)
            x = torch.randn(batch, 3, 2, 2, generator=g)
            things = [torch.randn(int(n), generator=g) for n in torch.randint(0, 5, (batch,), generator=g)]
            whole: dict[str, Any] = {
                "ids": [f"{step}-{i}" for i in range(batch)],
                "image": x,
                "label": x.flatten(1)[:, :4].argmax(1),
                "things": things,
            }
            each = batch // parallel.world()
            first = parallel.rank() * each
            yield {k: v[first : first + each] for k, v in whole.items()}
            step += 1

    return batches
