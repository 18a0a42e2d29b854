"""A dataset without files: sample i is a picture full of i, and what is asked for happens when it is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tessella.data.loading import shared
from tessella.data.loading.order import Key
from tessella.data.loading.samples import Batch, Spot


@dataclass
class Numbers:
    """Sample i is a picture full of i. What is said in `acts` happens when it is read."""

    acts: dict[int, Callable[[], object]] = field(default_factory=dict)
    n: int = 1000
    labels = chunks = None
    paired = False

    def __len__(self) -> int:
        return self.n

    def name(self, sample: int) -> str:
        return f"{sample:04}.jpg"

    def megapixels(self) -> float | None:
        return None

    def ready(self) -> None:
        pass

    def sample(self, key: Key) -> dict[str, Any]:
        self.acts.get(key.sample, bool)()
        return {"ids": self.name(key.sample), "image": torch.full((3, 32, 32), key.sample % 256, dtype=torch.uint8)}

    def collate(self, samples: Sequence[dict[str, Any]], spots: Sequence[Spot]) -> Batch:
        images = shared.empty((len(samples), 3, 32, 32), torch.uint8)
        for row, sample in zip(images, samples, strict=True):
            row.copy_(sample["image"])
        return {"ids": [s["ids"] for s in samples], "image": images, "pid": [os.getpid()] * len(samples)}
