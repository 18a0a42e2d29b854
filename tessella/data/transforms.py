"""From decoded pixels to the tensor that the network's card asks for: the same in every verb.

Pillow's antialiased resize then the centre crop, equal to timm's bit for bit at 8 bits; deeper pixels go through the
same filter in floats.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..card import Preprocess
from .decode import Pixels, decode, header

if TYPE_CHECKING:
    from torch import Tensor

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
THIN = 16  # side ratio beyond which only the middle is resized: 1 x 10,000 would become 224 x 2,240,000
SPARE = 2  # times the size to come that a scaled decoding keeps: closer, and the two filters together show


def prepare(data: bytes, preprocess: Preprocess, name: str = "the picture") -> Tensor:
    """Bytes of a file to the (C, h, w) that evaluating, predicting and serving see; not yet normalised."""
    pixels = decode(
        data,
        preprocess.channels,
        name,
        depth=preprocess.depth,
        least=_least(data, preprocess, name),
        limits=preprocess.limits,
    )
    return evaluation_pixels(pixels, preprocess)


def evaluation_pixels(image: Pixels, preprocess: Preprocess) -> Tensor:
    """(H, W, C) decoded to (C, h, w) of the card's size; the same in train, evaluate, predict and serve."""
    if preprocess.resize in ("shortest", "squash"):
        image = _middle(image)
    image = resize(image, _resized(image.shape[:2], preprocess), preprocess.interpolation)
    return to_tensor(_placed(image, preprocess))


def resize(image: Pixels, size: tuple[int, int], interpolation: str) -> Pixels:
    """(H, W, C) to (h, w, C) by Pillow's antialiased filter; 16-bit and float pixels lose nothing on the way."""
    if image.shape[:2] == size:
        return image
    flat, how = (size[1], size[0]), FILTERS[interpolation]
    if image.dtype == np.uint8 and image.shape[2] == 3:
        whole: Pixels = np.asarray(Image.fromarray(image).resize(flat, how))
        return whole
    held = image if image.dtype == np.uint8 else image.astype(np.float32)
    planes = [Image.fromarray(np.ascontiguousarray(held[:, :, c])).resize(flat, how) for c in range(image.shape[2])]
    out: Pixels = np.stack([np.asarray(plane) for plane in planes], axis=2)
    if image.dtype == np.uint16:  # bicubic overshoots at edges
        out = np.rint(np.clip(out, 0, 65535)).astype(np.uint16)
    return out


def border(preprocess: Preprocess) -> NDArray[Any]:
    """(C,) of the card's depth: what stands where there is no picture."""
    low, high = preprocess.limits or (0.0, 1.0)
    given = preprocess.mean if preprocess.fill is None else [v / 255 for v in preprocess.fill]
    share = np.broadcast_to(np.asarray(given, np.float64), preprocess.channels)
    if preprocess.depth == "float32":
        return (low + share * (high - low)).astype(np.float32)
    full = 255 if preprocess.depth == "uint8" else 65535
    return np.rint(np.clip(share, 0, 1) * full).astype(preprocess.depth)


def to_tensor(image: Pixels) -> Tensor:
    """(H, W, C) to (C, H, W)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _least(data: bytes, preprocess: Preprocess, name: str) -> tuple[int, int] | None:
    """The size that a scaled decoding must keep; None: every pixel."""
    if preprocess.decode == "full" or preprocess.resize == "native" or data[:2] != b"\xff\xd8":
        return None
    size = header(data, name)[:2]
    if preprocess.resize in ("shortest", "squash") and max(size) > THIN * min(size):
        return None
    height, width = _resized(size, preprocess)
    return SPARE * height, SPARE * width


def _resized(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Height and width of the whole picture before it is cropped or bordered."""
    h, w = preprocess.size
    large = math.floor(h / preprocess.crop), math.floor(w / preprocess.crop)
    match preprocess.resize:
        case "native":
            return size
        case "squash":
            return large
        case "shortest":
            return _covering(size, large)
        case "letterbox" | "pad":
            ratio = max(size[0] / h, size[1] / w)
            return min(h, max(1, round(size[0] / ratio))), min(w, max(1, round(size[1] / ratio)))


def _covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The size with the picture's aspect that just covers `target`, rounded as timm and torchvision round."""
    height, width = size
    if target[0] == target[1]:
        side = target[0]
        return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    ratio = min(height / target[0], width / target[1])
    return round(height / ratio), round(width / ratio)


def _middle(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    limit = THIN * min(height, width)
    top, left = max(0, (height - limit) // 2), max(0, (width - limit) // 2)
    return image[top : height - top, left : width - left] if top or left else image


def _placed(image: Pixels, preprocess: Preprocess) -> Pixels:
    """Cropped where it is larger than the card's size, bordered where it is smaller."""
    h, w = preprocess.size
    top, left = (max(0, round((have - want) / 2)) for have, want in zip(image.shape[:2], (h, w), strict=True))
    image = image[top : top + h, left : left + w]
    if image.shape[:2] == (h, w):
        return image
    height, width = image.shape[:2]
    top, left = (0, 0) if preprocess.resize == "pad" else ((h - height) // 2, (w - width) // 2)
    out = np.empty((h, w, image.shape[2]), image.dtype)
    out[:] = border(preprocess)
    out[top : top + height, left : left + width] = image
    return out
