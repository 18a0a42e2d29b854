"""From decoded pixels to the uint8 tensor that the network's card asks for: the same in every verb.

Pillow's antialiased resize then the centre crop, equal to timm's bit for bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..card import Preprocess
from .decode import Pixels, decode

if TYPE_CHECKING:
    from torch import Tensor

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
THIN = 16  # side ratio beyond which only the middle is resized: 1 x 10,000 would become 224 x 2,240,000


def prepare(data: bytes, preprocess: Preprocess, name: str = "the picture") -> Tensor:
    """Bytes of a file to the (C, h, w) that evaluating, predicting and serving see."""
    return evaluation_pixels(decode(data, preprocess.channels, name), preprocess)


def evaluation_pixels(image: Pixels, preprocess: Preprocess) -> Tensor:
    """(H, W, C) decoded to (C, h, w) of the card's size; the same in train, evaluate, predict and serve."""
    h, w = preprocess.size
    large = math.floor(h / preprocess.crop), math.floor(w / preprocess.crop)
    picture = Image.fromarray(_middle(image) if image.shape[2] == 3 else _middle(image)[:, :, 0])
    if preprocess.resize == "shortest":
        large = _covering((picture.height, picture.width), large)
    if large != (picture.height, picture.width):
        picture = picture.resize((large[1], large[0]), FILTERS[preprocess.interpolation])
    top, left = round((large[0] - h) / 2), round((large[1] - w) / 2)
    if (h, w) != large:
        picture = picture.crop((left, top, left + w, top + h))
    return _to_tensor(np.array(picture).reshape(h, w, -1))


def _middle(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    limit = THIN * min(height, width)
    top, left = max(0, (height - limit) // 2), max(0, (width - limit) // 2)
    return image[top : height - top, left : width - left] if top or left else image


def _covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The size with the picture's aspect that just covers `target`, rounded as timm and torchvision round."""
    height, width = size
    if target[0] == target[1]:
        side = target[0]
        return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    ratio = min(height / target[0], width / target[1])
    return round(height / ratio), round(width / ratio)


def _to_tensor(image: Pixels) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
