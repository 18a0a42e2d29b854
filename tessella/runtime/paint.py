"""A picture with holes, and how a network that learned to fill them in paints it.

What is seen stays as it is; only hidden patches are painted. A network whose targets were normalised says the shape of
a patch, and neither its brightness nor its contrast: these are then taken from the patches that are seen around it,
never from the hidden truth.

Shape suffixes:  B batch  C channels  H,W pixels  N patches  O numbers of one patch
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..card import Preprocess
from ..data.pixels.decode import header
from ..data.pixels.masks import MasksConfig, hidden
from ..data.pixels.transforms import prepare
from ..errors import BadInput
from ..models.mae import MaskedAutoencoder
from ..models.painter import Painter, grey
from ..models.patches import blanked, from_patches, seen, to_patches
from .model import Model

SHARES = {"token": MasksConfig(share=0.6), "pixels": MasksConfig(kind="block", share=0.4)}  # as in training
MAE = MasksConfig(share=0.75)
REACH = 1.5  # patches: how far away a seen one still tells of a hidden one's brightness
Pixels = NDArray[np.uint8]  # (H, W, C)


@dataclass(frozen=True)
class Painting:
    """Three pictures of the size that the network sees."""

    id: str
    original: Pixels
    shown: Pixels
    painted: Pixels
    hidden: int  # patches
    patches: int

    def beside(self, gap: int = 4) -> Pixels:
        """All three as one, on white."""
        line = np.full((len(self.original), gap, self.original.shape[2]), 255, np.uint8)
        return np.concatenate([self.original, line, self.shown, line, self.painted], axis=1)


def painters(model: Model) -> MaskedAutoencoder | Painter:
    """The network, if it can paint pictures of 8 bits."""
    network, image = model.network, model.preprocess
    if not isinstance(network, (MaskedAutoencoder, Painter)):
        what = "this model has no decoder, so it cannot paint"
        raise BadInput(f"{what}; train one: tessella train photos/ --method mae (or simmim, inpaint, colorize)")
    if image.depth != "uint8" or image.channels not in (1, 3):
        raise BadInput(f"this model sees {image.channels} channels of {image.depth}; painting is for grey or colour")
    return network


def mask_of(mask: str | Path, picture: str | Path, model: Model) -> NDArray[np.bool_]:
    """(rows, columns): the patches that lie under the white half of a mask, which is a picture of the same size."""
    data, other = Path(mask).read_bytes(), Path(picture).read_bytes()
    here, there = header(data, str(mask)), header(other, str(picture))
    if (here.height, here.width) != (there.height, there.width):
        what = f"the mask {mask} has {here.width} x {here.height} px, the picture {there.width} x {there.height}"
        raise BadInput(f"{what}; give one of the same size, white where it is to be painted")
    image: Preprocess = model.preprocess
    plain = replace(image, channels=1, mean=(0.0,), std=(1.0,), fill=(0.0,), decode="full", interpolation="bilinear")
    encoder = painters(model).cfg.encoder
    white_1N = to_patches((prepare(data, plain, str(mask))[None] >= 128).float(), encoder.patch_size).mean(-1)
    found: NDArray[np.bool_] = (white_1N >= 0.5).view(encoder.grid).numpy()
    if not found.any() or found.all():
        what = "nothing" if not found.any() else "everything"
        raise BadInput(f"the mask {mask} hides {what}; it must be white where the picture is to be painted, else black")
    return found


def drawn_mask(model: Model, name: str, seed: int = 0) -> NDArray[np.bool_] | None:
    """As training draws it, the same for the same name; None where all of the picture is to be painted."""
    network = painters(model)
    kind = MAE if isinstance(network, MaskedAutoencoder) else SHARES.get(network.cfg.lacks)
    if kind is None:
        return None
    words = np.frombuffer(name.encode("utf-8", "surrogateescape"), np.uint8)
    return hidden(kind, network.cfg.encoder.grid, np.random.default_rng([seed, *words.tolist()]))


@torch.no_grad()
def paint(model: Model, pixels_CHW: Tensor, mask: NDArray[np.bool_] | None, name: str) -> Painting:
    """`pixels` as `prepare` gives them; `mask` (rows, columns), None where the network paints without one."""
    network = painters(model)
    images = model.finish({"image": pixels_CHW[None].to(model.device)})["image"]
    side, grid = network.cfg.encoder.patch_size, network.cfg.encoder.grid
    if mask is None:
        shown = grey(images).expand_as(images)
        done = shown + from_patches(network(images).float(), side, grid)
        count = grid[0] * grid[1]
    else:
        hidden_1N = torch.from_numpy(mask).flatten()[None].to(model.device)
        shown, count = blanked(images, hidden_1N, side), int(mask.sum())
        patches_1NO = to_patches(images, side)
        said_1NO = _said(network, images, hidden_1N, patches_1NO)
        done = from_patches(torch.where(hidden_1N[..., None], said_1NO, patches_1NO), side, grid)
    original, shown_, painted = (_pixels(model, x) for x in (images, shown, done))
    return Painting(name, original, shown_, painted, count, grid[0] * grid[1])


def _said(network: Any, images: Tensor, hidden_1N: Tensor, patches_1NO: Tensor) -> Tensor:
    """(1, N, O) in normalised pixels."""
    if isinstance(network, Painter):
        by_layer_1NO: Tensor = network(images, hidden_1N).float()
        return by_layer_1NO
    said_1NO: Tensor = network(images, seen(hidden_1N)).float()
    if not network.cfg.normalised:
        return said_1NO
    mean, spread = (
        _around(x, hidden_1N, network.cfg.encoder.grid) for x in (patches_1NO.mean(-1), patches_1NO.std(-1))
    )
    return said_1NO * spread[..., None] + mean[..., None]


def _around(values_1N: Tensor, hidden_1N: Tensor, grid: tuple[int, int]) -> Tensor:
    """For every patch the mean of those that are seen, near ones first."""
    rows, columns = (x.flatten().float() for x in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    square_NN = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    near_NN = (-square_NN.to(values_1N.device) / (2 * REACH**2)).masked_fill(hidden_1N, -torch.inf).softmax(-1)
    return values_1N @ near_NN.mT


def _pixels(model: Model, images_1CHW: Tensor) -> Pixels:
    share = images_1CHW[0].float() * model.finish.std + model.finish.mean
    out: Pixels = (share * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return out
