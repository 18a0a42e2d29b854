"""Mixup (arXiv 1710.09412) and CutMix (1905.04899) on the bytes of a batch, where the workers put it together.

The sample at position p of the whole step is mixed with the one at p XOR 1. What is drawn for it depends on (seed,
epoch, its own name) alone, so any number of workers or ranks mixes alike, as long as no pair is shared by two ranks:
`refuse` says so before a run starts. A sample whose partner could not be read stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...card import is_target
from ...errors import BadInput
from ..loading.seeded import generator

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 256  # the weight of a mixup is a whole number of these: whole-number arithmetic, and the label has it exactly


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Each sample mixed with a neighbour of its batch; its label then counts by the share that is left of it."""

    mixup: float = 0.8  # alpha of Beta(alpha, alpha), from which the weight is drawn; 0: no mixup
    cutmix: float = 1.0  # the same for the share of the area; 0: no CutMix
    probability: float = 1.0  # that a sample is mixed at all
    switch: float = 0.5  # share of CutMix where both are on

    def __post_init__(self) -> None:
        if not (self.mixup >= 0 and self.cutmix >= 0) or not self.mixup + self.cutmix > 0:
            raise BadInput(
                f"mix has mixup {self.mixup:g} and cutmix {self.cutmix:g}; give alphas >= 0, one of them above 0"
            )
        for name, value in (("probability", self.probability), ("switch", self.switch)):
            if not 0 <= value <= 1:
                raise BadInput(f"mix.{name} is {value:g}; give a probability in [0, 1]")


class Mix(NamedTuple):
    """What is drawn for one sample."""

    weight: float  # of the own picture and label
    box: tuple[int, int, int, int] | None = None  # (top, left, height, width) that comes from the partner; None: mixup


def refuse(batch: int, ranks: int = 1) -> None:
    """The partner of each sample must be on its own rank, else other ranks would see other samples. To be called once
    with the size of the whole step."""
    if ranks > 1 and any(rank * batch // ranks % 2 for rank in range(ranks)):
        what = f"train.batch {batch} gives {ranks} ranks odd shares, and mixing goes in pairs"
        raise BadInput(f"{what}; make it a multiple of {2 * ranks}")


def draw(cfg: MixConfig, size: tuple[int, int], rng: np.random.Generator) -> Mix:
    """How a sample of this (height, width) is mixed. The share of a box counts the pixels that it really covers."""
    mixes, kind, y, x = rng.random(4).tolist()
    if mixes >= cfg.probability:
        return Mix(1.0)
    cut = cfg.cutmix > 0 and (cfg.mixup == 0 or kind < cfg.switch)
    alpha = cfg.cutmix if cut else cfg.mixup
    own = float(rng.beta(alpha, alpha))
    if not cut:
        return Mix(round(own * STEPS) / STEPS)
    height, width = size
    h, w = round(height * (1 - own) ** 0.5), round(width * (1 - own) ** 0.5)
    middle = int(y * height), int(x * width)
    top, left = max(0, middle[0] - h // 2), max(0, middle[1] - w // 2)
    bottom, right = min(height, middle[0] - h // 2 + h), min(width, middle[1] - w // 2 + w)
    share = (bottom - top) * (right - left) / (height * width)
    return Mix(1 - share, (top, left, bottom - top, right - left))


def mixed(
    batch: dict[str, Any],
    positions: Sequence[int],
    epochs: Sequence[int],
    cfg: MixConfig,
    seed: int,
    turns: Sequence[int] = (),
) -> dict[str, Any]:
    """The batch with mixed `image` (B, C, h, w), and beside `label` the leaves `mix_label` (B,) int64, the partner's
    label, and `mix` (B,) float32, the weight of the own one. Of several targets `mix_target/NAME` beside each.

    For a collate: `mixed(batch, [positions in the whole step], [epochs], cfg, seed, [turns])`, one entry for each
    sample that is really there; the batch holds `ids`, `image`, `label`. `turns` tells apart the views of a picture
    that an epoch repeats; where nothing is repeated they are all 0 and may be left out.
    """
    import torch

    ids: list[str] = batch["ids"]
    turns = turns or [0] * len(ids)
    if not len(positions) == len(epochs) == len(turns) == len(ids):
        raise ValueError(f"{len(ids)} samples, {len(positions)} positions, {len(epochs)} epochs")
    targets = [leaf for leaf in batch if is_target(leaf)]
    if not targets:
        raise BadInput("mixing needs labels, and this data has none; leave data.mix out")
    row_of = {position: row for row, position in enumerate(positions)}
    image: Tensor = batch["image"]
    out, partners = image.clone(), list(range(len(ids)))
    weights = torch.ones(len(ids), dtype=torch.float32)
    for row, (position, epoch, name, turn) in enumerate(zip(positions, epochs, ids, turns, strict=True)):
        other = row_of.get(position ^ 1)
        if other is None:
            continue
        rng = generator(seed, "mix", epoch, name, *([turn] if turn else []))
        mix = draw(cfg, (image.shape[-2], image.shape[-1]), rng)
        if mix.weight < 1:
            blend(out[row].numpy(), image[other].numpy(), mix)
            partners[row], weights[row] = other, mix.weight
    others = {f"mix_{leaf}": batch[leaf][partners] for leaf in targets}
    return batch | {"image": out, **others, "mix": weights}


def blend(image: NDArray[Any], other: NDArray[Any], mix: Mix) -> None:
    """`image` (C, h, w) becomes the mixture with `other`; whole numbers are rounded to the nearest, halves up."""
    if mix.box is not None:
        top, left, h, w = mix.box
        image[:, top : top + h, left : left + w] = other[:, top : top + h, left : left + w]
    elif image.dtype.kind == "f":
        image *= image.dtype.type(mix.weight)
        image += other * other.dtype.type(1 - mix.weight)
    else:
        own = round(mix.weight * STEPS)
        wide: Any = np.uint16 if image.dtype == np.uint8 else np.uint32  # holds the largest value times STEPS
        total: Any = image.astype(wide)
        total *= wide(own)
        total += other.astype(wide) * wide(STEPS - own)
        total += wide(STEPS // 2)
        total >>= wide(8)  # STEPS is 2 to the 8th
        image[...] = total
