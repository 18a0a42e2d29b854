"""A dataset whose samples were made once and are kept in memory: what a frozen network says of each picture.

The order, its balance and the holes are those of the pictures; only what a batch holds under `image` is another thing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import BadInput
from ..source import Source
from .order import Key
from .samples import Batch, Spot


def gathered(batches: Iterable[Batch], see: Callable[[Batch], Tensor]) -> Batch:
    """All batches as one, with what `see` makes of their pictures in place of these; {} where there were none."""
    seen = [{**batch, "image": see(batch)} for batch in batches if batch["ids"]]
    return joined(seen)


def joined(parts: Sequence[Batch]) -> Batch:
    """One batch after the other."""
    parts = [part for part in parts if part]
    return {name: _joined([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _joined(leaves: list[Any]) -> Any:
    return torch.cat(leaves) if isinstance(leaves[0], Tensor) else [value for leaf in leaves for value in leaf]


@dataclass(frozen=True, eq=False)
class Kept:
    """`held`: one large batch with every sample of the source that could be read, in any order."""

    source: Source
    held: Batch

    def __post_init__(self) -> None:
        if not self.held:
            raise BadInput("there is no picture to learn from: none could be read; see the list of bad files")

    @functools.cached_property
    def _at(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.held["ids"])}

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return self.source.labels

    @property
    def chunks(self) -> None:
        """Nothing is read any more, so nothing need be read together."""

    @property
    def paired(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self.source)

    def name(self, sample: int) -> str:
        return self.source.ids[sample]

    def megapixels(self) -> None:
        """No advice on decoding."""

    def ready(self) -> None:
        """Everything is."""

    def sample(self, key: Key) -> dict[str, Any]:
        row = self._at.get(self.name(key.sample))
        if row is None:
            raise BadInput(f"{self.name(key.sample)} could not be read when all pictures were looked at")
        return {"row": row}

    def collate(self, samples: Sequence[dict[str, Any]], spots: Sequence[Spot]) -> Batch:
        rows = [sample["row"] for sample in samples]
        return {
            name: leaf[rows] if isinstance(leaf, Tensor) else [leaf[row] for row in rows]
            for name, leaf in self.held.items()
        }
