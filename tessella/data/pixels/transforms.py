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

from ...card import Preprocess
from .decode import Header, Pixels, decode, header
from .jpeg import SCALES

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
    head = _scalable(data, preprocess, name)
    pixels = decode(
        data,
        preprocess.channels,
        name,
        depth=preprocess.depth,
        least=_least(head, preprocess) if head else None,
        limits=preprocess.limits,
    )
    return evaluation_pixels(pixels, preprocess, head)


def evaluation_pixels(image: Pixels, preprocess: Preprocess, head: Header | None = None) -> Tensor:
    """(H, W, C) decoded to (C, h, w) of the card's size; the same in train, evaluate, predict and serve.

    `head`: of the file, where `image` may be a scaled decoding of it; the geometry is then the whole picture's.
    """
    if preprocess.resize in ("shortest", "squash"):
        image = _middle(image)
    whole, box = (image.shape[:2], None) if head is None else (head[:2], covered(head, image.shape[:2]))
    image = resize(image, _resized(whole, preprocess), preprocess.interpolation, box)
    return to_tensor(_placed(image, preprocess))


def resize(
    image: Pixels, size: tuple[int, int], interpolation: str, box: tuple[float, float, float, float] | None = None
) -> Pixels:
    """(H, W, C) to (h, w, C) by Pillow's antialiased filter; 16-bit and float pixels lose nothing on the way.

    `box` (left, top, right, bottom): the part of `image` that becomes the new one; None: all of it.
    """
    if image.shape[:2] == size and box is None:
        return image
    flat, how = (size[1], size[0]), FILTERS[interpolation]
    if image.dtype == np.uint8 and image.shape[2] == 3:
        whole: Pixels = np.asarray(Image.fromarray(image).resize(flat, how, box))
        return whole
    held = image if image.dtype == np.uint8 else image.astype(np.float32)
    planes = [Image.fromarray(np.ascontiguousarray(held[:, :, c])).resize(flat, how, box) for c in range(held.shape[2])]
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

    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))  # its own: Pillow's arrays cannot be written


def covered(head: Header, held: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Where in a scaled decoding of size `held` the picture lies; None: everywhere.

    A decoder rounds up: of 101 rows at a half it gives 51, of which the picture is 50.5. What is too much is at the end
    of the rows as stored, and turning the picture upright may bring it to the beginning.
    """
    scale = next((s for s in reversed(SCALES) if (-(-head.height // s), -(-head.width // s)) == held), 1)
    height, width = head.height / scale, head.width / scale
    if (height, width) == held:
        return None
    top = held[0] - height if head.turn in (3, 4, 7, 8) else 0.0
    left = held[1] - width if head.turn in (2, 3, 6, 7) else 0.0
    return left, top, left + width, top + height


def _scalable(data: bytes, preprocess: Preprocess, name: str) -> Header | None:
    """Of a picture that may be decoded at a part of its size; None: every pixel is wanted."""
    if preprocess.decode == "full" or preprocess.resize == "native" or data[:2] != b"\xff\xd8":
        return None
    head = header(data, name)
    longer, shorter = max(head.height, head.width), min(head.height, head.width)
    thin = preprocess.resize in ("shortest", "squash") and longer > THIN * shorter
    return None if thin else head


def _least(head: Header, preprocess: Preprocess) -> tuple[int, int]:
    height, width = _resized(head[:2], preprocess)
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


def before(rest: int, preprocess: Preprocess) -> int:
    """How much of what is too much lies before the centre."""
    return rest // 2 if preprocess.centre == "floor" else round(rest / 2)


def _placed(image: Pixels, preprocess: Preprocess) -> Pixels:
    """Cropped where it is larger than the card's size, bordered where it is smaller."""
    h, w = preprocess.size
    top, left = (max(0, before(have - want, preprocess)) for have, want in zip(image.shape[:2], (h, w), strict=True))
    image = image[top : top + h, left : left + w]
    if image.shape[:2] == (h, w):
        return image
    height, width = image.shape[:2]
    top, left = (0, 0) if preprocess.resize == "pad" else ((h - height) // 2, (w - width) // 2)
    out = np.empty((h, w, image.shape[2]), image.dtype)
    out[:] = border(preprocess)
    out[top : top + height, left : left + width] = image
    return out
