"""A source's pictures as samples: read, decoded, brought to the card's size, and put together to batches."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...card import Preprocess, is_target
from ...errors import BadInput
from ..pixels.augment import AugmentConfig, augment, augment_followed, stacked
from ..pixels.decode import header
from ..pixels.geometry import Geometry, evaluation_geometry
from ..pixels.masks import MasksConfig, hidden
from ..pixels.mix import MixConfig, mixed
from ..pixels.transforms import prepare
from ..pixels.views import CropsConfig, StrongConfig, TurnsConfig, Views, crops, masks_of_crops
from ..source import Column, Source
from .following import PLACED, follow
from .order import Key
from .samples import Batch, Spot
from .seeded import generator
from .shared import empty

LOOKS = 9  # headers looked at for advice
KINDS = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}


@dataclass(frozen=True, eq=False)
class Pictures:
    """With `augment` a new random view in every epoch, without it exactly what evaluation sees."""

    source: Source
    preprocess: Preprocess
    augment: AugmentConfig | None = None
    seed: int = 0  # of the augmentation and of mixing
    mix: MixConfig | None = None
    views: Views | None = None  # with `augment`; of crops instead of it
    grid: tuple[int, int] = (1, 1)  # rows and columns of patches, some of which are hidden

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return self.source.labels

    @property
    def chunks(self) -> NDArray[np.int64] | None:
        return self.source.chunks

    @property
    def paired(self) -> bool:
        return self.mix is not None

    def __len__(self) -> int:
        return len(self.source)

    def name(self, sample: int) -> str:
        return self.source.ids[sample]

    def megapixels(self) -> float | None:
        """The median of a few, by their headers."""
        sizes = []
        for i in range(0, len(self), max(1, len(self) // LOOKS)):
            with contextlib.suppress(BadInput):
                found = header(self.source.read(i), self.source.ids[i])
                sizes.append(found.height * found.width / 1e6)
        return median(sizes) if sizes else None

    def ready(self) -> None:
        """Imports that take a second, and a fork then has."""
        if self.augment is not None:
            importlib.import_module("torchvision.transforms.v2.functional")

    def sample(self, key: Key) -> dict[str, Any]:
        """Leaves beside `ids` and `image`: `label`, the source's other targets by their names (see `follow`), and what
        views add: `local` crops beside the large ones, which are the `image`; the `mask` of hidden patches; the `turn`,
        a place in `quarters`; the `strong` view of the same picture."""
        name, source = self.source.ids[key.sample], self.source
        data = source.read(key.sample)
        values = {kind: column[key.sample] for kind, column in source.targets.items()}
        out: dict[str, Any] = {"ids": name}
        if PLACED & values.keys():
            out["image"], geometry = self._followed(data, key, name)
            values = follow(values, geometry, header(data, name), name)
        else:
            out |= self._seen(data, key, name)
        if source.labels is not None:
            out["label"] = int(source.labels[key.sample])
        return out | values

    def _seen(self, data: bytes, key: Key, name: str) -> dict[str, Any]:
        """The picture, and what the views add. Their draws are apart from those of the augmentation."""
        views = self.views
        if views is None:
            return {"image": self._view(data, key, name)}
        rng = generator(self.seed, "views", key.epoch, name, *((key.turn,) if key.turn else ()))
        match views:
            case CropsConfig():
                found = crops(data, views, self.preprocess, self._draws(key, name), name)
                out: dict[str, Any] = {"image": found["global"]} | {k: v for k, v in found.items() if k == "local"}
                return out | ({"mask": masks_of_crops(views, self.grid, rng)} if views.masked else {})
            case MasksConfig():
                mask = torch.from_numpy(hidden(views, self.grid, rng))
                return {"image": self._view(data, key, name), "mask": mask}
            case TurnsConfig():
                turn = int(rng.integers(len(views.quarters)))
                return {"image": self._view(data, key, name).rot90(views.quarters[turn], (-2, -1)), "turn": turn}
            case StrongConfig():
                strong = augment(data, views.augment, self.preprocess, rng, name)
                return {"image": self._view(data, key, name), "strong": strong}

    def _view(self, data: bytes, key: Key, name: str) -> Tensor:
        if self.augment is None:
            return prepare(data, self.preprocess, name)
        return augment(data, self.augment, self.preprocess, self._draws(key, name), name)

    def _followed(self, data: bytes, key: Key, name: str) -> tuple[Tensor, Geometry]:
        """The same view, and where its pixels come from."""
        if self.augment is not None:
            return augment_followed(data, self.augment, self.preprocess, self._draws(key, name), name)
        full = header(data, name)
        return prepare(data, self.preprocess, name), evaluation_geometry((full.height, full.width), self.preprocess)

    def _draws(self, key: Key, name: str) -> np.random.Generator:
        turn = (key.turn,) if key.turn else ()  # the first is drawn as it always was
        return generator(self.seed, key.epoch, name, *turn)

    def collate(self, samples: Sequence[dict[str, Any]], spots: Sequence[Spot]) -> Batch:
        """Pictures, labels and masks become tensors, other targets lists: those of two pictures may differ in size."""
        batch: Batch = {"ids": [s["ids"] for s in samples], "image": self._stack([s["image"] for s in samples])}
        batch |= self._viewed(samples)
        if self.source.labels is not None:
            batch["label"] = torch.tensor([s["label"] for s in samples], dtype=torch.int64)
        for name, column in self.source.targets.items():
            values = [s[name] for s in samples if name in s]
            if is_target(name):
                batch[name] = _targets(column, values)
            elif name == "mask" and self.views is None:
                batch[name] = (
                    torch.stack(values) if values else torch.empty(0, *self.preprocess.size, dtype=torch.uint8)
                )
            elif len(values) == len(samples):  # `size` is gone by now
                batch[name] = values
        if self.mix is not None:
            keys = [spot.key for spot in spots]
            epochs, turns = [key.epoch for key in keys], [key.turn for key in keys]
            batch = mixed(batch, [spot.position for spot in spots], epochs, self.mix, self.seed, turns)
        return batch

    def _viewed(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """What views add, of any number of samples, none too."""
        views, kind = self.views, KINDS[self.preprocess.depth]
        match views:
            case CropsConfig():
                side = views.small_size
                nothing = {"local": torch.empty(0, views.small, self.preprocess.channels, side, side, dtype=kind)}
                nothing = nothing if views.small else {}
                nothing |= {"mask": torch.empty(0, views.large, *self.grid, dtype=torch.bool)} if views.masked else {}
            case MasksConfig():
                nothing = {"mask": torch.empty(0, *self.grid, dtype=torch.bool)}
            case StrongConfig():
                nothing = {"strong": self._stack([])}
            case TurnsConfig():
                nothing = {"turn": torch.empty(0, dtype=torch.int64)}
            case None:
                nothing = {}
        return {name: _together([s[name] for s in samples]) if samples else leaf for name, leaf in nothing.items()}

    def _stack(self, images: list[Tensor]) -> Tensor:
        crops = (self.views.large,) if isinstance(self.views, CropsConfig) else ()
        if not images:
            shape = (0, *crops, self.preprocess.channels, *self.preprocess.size)
            return torch.empty(shape, dtype=KINDS[self.preprocess.depth])
        if crops:
            return _together(images)
        return stacked(images, None if self.mix is not None else empty)  # mixing makes a copy


def _together(leaves: Sequence[Any]) -> Tensor:
    """In shared memory where they are pictures: workers hand them on."""
    if not isinstance(leaves[0], Tensor):
        return torch.tensor(leaves, dtype=torch.int64)
    out = empty((len(leaves), *leaves[0].shape), leaves[0].dtype)
    torch.stack(list(leaves), out=out)
    return out


def _targets(column: Column, values: list[Any]) -> Tensor:
    """(B,) whole numbers or floats, or (B, K), of any number of samples, none too."""
    whole = np.stack([np.asarray(value) for value in (column[0], *values)])[1:]
    return torch.from_numpy(whole.astype(np.float32) if whole.dtype == np.float64 else whole)
