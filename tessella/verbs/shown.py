"""Pictures for the report that need no labels: what a network paints, and what its features of patches tell apart."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.pixels.preview import SIDE, encoded
from ..data.pixels.transforms import prepare
from ..data.source import Source
from ..errors import BadInput
from ..explainers.components import coloured
from ..report.story import Shown
from ..runtime.model import Model
from ..runtime.paint import drawn_mask, paint, painters

SOME = 6  # pictures of each kind


def painted(model: Model, source: Source) -> tuple[Shown, ...]:
    painters(model)
    out = []
    for name, pixels in _some(model, source):
        done = paint(model, pixels, drawn_mask(model, name), name)
        out.append(Shown(name, encoded(_larger(done.beside(gap=1)))))
    return tuple(out)


@torch.no_grad()
def components(model: Model, source: Source) -> tuple[Shown, ...]:
    """Of the last block's patches."""
    if model.preprocess.channels not in (1, 3) or model.preprocess.depth != "uint8":
        raise BadInput("the network takes no grey or colour pictures of 8 bits, and others cannot be shown as they are")
    names, pictures = zip(*_some(model, source), strict=True)
    images = model.finish({"image": torch.stack(pictures).to(model.device)})["image"]
    maps = [m.cpu() for m in model.classifier.tokens(images).map()]
    out = []
    for name, picture, colours in zip(names, pictures, coloured(maps), strict=True):
        large = F.interpolate(colours.permute(2, 0, 1)[None].float(), picture.shape[-2:], mode="nearest")[0]
        plain = picture if picture.shape[0] == 3 else picture.expand(3, -1, -1)
        both = torch.cat([plain, large.round().to(torch.uint8)], dim=2)
        out.append(Shown(name, encoded(_larger(both.permute(1, 2, 0).numpy()))))
    return tuple(out)


def _some(model: Model, source: Source) -> list[tuple[str, Tensor]]:
    """From all over the source; what cannot be read is left out, the account of the data names it."""
    out: list[tuple[str, Tensor]] = []
    for row in np.unique(np.linspace(0, len(source) - 1, 2 * SOME).astype(int)).tolist():
        try:
            out.append((source.ids[row], prepare(source.read(row), model.preprocess, source.ids[row])))
        except BadInput:
            continue
    if not out:
        raise BadInput("no held-out picture could be read")
    return out[:: max(1, len(out) // SOME)][:SOME]


def _larger(pixels: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Tiny pictures in whole pixels, so that nothing is mud."""
    factor = max(1, round(SIDE / pixels.shape[0]))
    return pixels.repeat(factor, 0).repeat(factor, 1)
