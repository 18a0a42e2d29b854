"""What colour policies do to a picture that has its final size: operations with strengths, and how they are drawn.

RandAugment (arXiv 1909.13719) and TrivialAugment (2103.10158) have torchvision's operations and tables, so that equal
draws give equal pixels; 3-Augment is DeiT-III's (2204.07118); jitter, grey, blur and solarising are those of SimCLR
(2002.05709) and BYOL (2006.07733), erasing is that of 1708.04896. All draws come from the generator that is given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Policy = Literal["none", "randaugment", "trivial", "three"]

TOP = 30  # the strongest magnitude; torchvision's tables have 31 entries, 0 to 30


class Operation(NamedTuple):
    """One row of a policy's table."""

    name: str
    weak: float = 0.0  # strength at magnitude 0
    strong: float = 0.0  # at magnitude TOP; linear between
    signed: bool = False  # half of the draws have the other sign
    of: Literal["", "width", "height"] = ""  # the strength is a share of this side, not a number of pixels


RAND = (  # torchvision.transforms.v2.RandAugment
    Operation("identity"),
    Operation("shear_x", 0.0, 0.3, True),
    Operation("shear_y", 0.0, 0.3, True),
    Operation("translate_x", 0.0, 150 / 331, True, "width"),
    Operation("translate_y", 0.0, 150 / 331, True, "height"),
    Operation("rotate", 0.0, 30.0, True),
    Operation("brightness", 0.0, 0.9, True),
    Operation("colour", 0.0, 0.9, True),
    Operation("contrast", 0.0, 0.9, True),
    Operation("sharpness", 0.0, 0.9, True),
    Operation("posterize", 8.0, 4.0),  # bits that are kept
    Operation("solarise", 1.0, 0.0),  # share of white from which on values are turned over
    Operation("autocontrast"),
    Operation("equalize"),
)
WIDE = (  # torchvision.transforms.v2.TrivialAugmentWide
    Operation("identity"),
    Operation("shear_x", 0.0, 0.99, True),
    Operation("shear_y", 0.0, 0.99, True),
    Operation("translate_x", 0.0, 32.0, True),
    Operation("translate_y", 0.0, 32.0, True),
    Operation("rotate", 0.0, 135.0, True),
    Operation("brightness", 0.0, 0.99, True),
    Operation("colour", 0.0, 0.99, True),
    Operation("contrast", 0.0, 0.99, True),
    Operation("sharpness", 0.0, 0.99, True),
    Operation("posterize", 8.0, 2.0),
    Operation("solarise", 1.0, 0.0),
    Operation("autocontrast"),
    Operation("equalize"),
)
SOLARISE = 128  # from this value on, in 3-Augment and in SimCLR's descendants
SIGMAS = (0.1, 2.0)  # pixels; of a blur
ERASE_SHARE, ERASE_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of the picture's area; height over width
ERASE_TRIES = 10


def strength(operation: Operation, magnitude: float, height: int, width: int) -> float:
    """Unsigned, in the operation's own unit."""
    value = operation.weak + (operation.strong - operation.weak) * magnitude / TOP
    if operation.of:
        value *= width if operation.of == "width" else height
    return float(round(value)) if operation.name == "posterize" else value


def apply(image: Tensor, name: str, value: float = 0.0) -> Tensor:
    """(C, h, w) of uint8, C 1 or 3, to the same; pixels that come from outside are black."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    bilinear = InterpolationMode.BILINEAR
    match name:
        case "identity":
            out = image
        case "shear_x" | "shear_y":  # the tables give the tangent
            angle = math.degrees(math.atan(value))
            shear = [angle, 0.0] if name == "shear_x" else [0.0, angle]
            out = F.affine(image, 0.0, [0, 0], 1.0, shear, bilinear, center=[0, 0])
        case "translate_x" | "translate_y":
            by = [int(value), 0] if name == "translate_x" else [0, int(value)]
            out = F.affine(image, 0.0, by, 1.0, [0.0, 0.0], bilinear)
        case "rotate":
            out = F.rotate(image, value, bilinear)
        case "brightness":
            out = F.adjust_brightness(image, 1 + value)
        case "colour":
            out = F.adjust_saturation(image, 1 + value)
        case "contrast":
            out = F.adjust_contrast(image, 1 + value)
        case "sharpness":
            out = F.adjust_sharpness(image, 1 + value)
        case "posterize":
            out = F.posterize(image, int(value))
        case "solarise":
            out = solarise(image, 255 * value)
        case "autocontrast":
            out = F.autocontrast(image)
        case "equalize":
            out = F.equalize(image)
        case _:
            raise ValueError(f"no operation {name!r}")
    return out  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------------- the policies


def rand_augment(image: Tensor, rng: np.random.Generator, count: int, magnitude: float, deviation: float) -> Tensor:
    """`count` operations of equal chance, one after the other; the magnitude is normal around the given one."""
    which = rng.integers(0, len(RAND), count).tolist()
    signs = rng.random(count).tolist()
    levels = [magnitude] * count
    if deviation:
        levels = np.clip(rng.normal(magnitude, deviation, count), 0, TOP).tolist()
    for k, sign, level in zip(which, signs, levels, strict=True):
        image = _one(image, RAND[k], level, sign < 0.5)
    return image


def trivial_augment(image: Tensor, rng: np.random.Generator) -> Tensor:
    """One operation, one of the 31 magnitudes, one sign: each of equal chance."""
    which, level, sign = rng.integers(0, (len(WIDE), TOP + 1, 2)).tolist()
    return _one(image, WIDE[which], level, bool(sign))


def three_augment(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Grey, solarised or blurred: one of the three, of equal chance."""
    which, at = rng.random(2).tolist()
    if which < 1 / 3:
        return grey(image)
    return solarise(image, SOLARISE) if which < 2 / 3 else blur(image, _sigma(at))


def _one(image: Tensor, operation: Operation, magnitude: float, negative: bool) -> Tensor:
    value = strength(operation, magnitude, *image.shape[-2:])
    return apply(image, operation.name, -value if negative and operation.signed else value)


def jitter(image: Tensor, rng: np.random.Generator, ranges: tuple[float, float, float, float]) -> Tensor:
    """Brightness, contrast, saturation by a factor in [1 - r, 1 + r], hue turned by [-r, r]: in a random order."""
    draws = rng.random(8)
    for k in np.argsort(draws[4:]).tolist():
        if ranges[k]:
            image = _jitter_one(image, k, ranges[k], float(draws[k]))
    return image


def _jitter_one(image: Tensor, k: int, reach: float, at: float) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    if k == 3:
        return turn_hue(image, reach * (2 * at - 1))
    low = max(0.0, 1 - reach)
    factor = low + (1 + reach - low) * at
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)[k]
    return adjust(image, factor)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------------- the operations


def grey(image: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    return F.rgb_to_grayscale(image, num_output_channels=image.shape[0]).contiguous()  # type: ignore[no-any-return]


def solarise(image: Tensor, threshold: float) -> Tensor:
    """Values from `threshold` on are turned over. Equal to torchvision's, which takes thirty times as long."""
    import torch

    pixels = image.numpy()
    bright = pixels >= math.ceil(np.float32(threshold))  # single precision: a share of 255 that means 34 is 34
    return torch.from_numpy(pixels ^ (bright.view(np.uint8) * np.uint8(255)))


def turn_hue(image: Tensor, by: float) -> Tensor:
    """(3, h, w) of uint8 with all hues turned by a share of the circle; grey pictures (1, h, w) have none.

    Equal to torchvision's within one level (both are exact but for rounding), at two fifths of its time: the sector of
    a hue is never looked up, because each channel is a ramp of the distance to its own hue.
    """
    import torch

    if image.shape[0] == 1:
        return image
    one = np.float32  # numpy would go on in double precision
    red, green, blue = image.numpy().astype(one)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    chroma = high - low
    most_red, most_green = high == red, high == green
    hue = np.where(most_red, green - blue, np.where(most_green, blue - red, red - green))
    hue /= np.maximum(chroma, one(1))
    hue += np.where(most_red, one(0), np.where(most_green, one(2), one(4)))
    hue += one(6 * by)
    hue -= one(6) * np.floor(hue * one(1 / 6))  # 0 to 6
    out = np.empty(image.shape, np.uint8)
    for channel, (own, sign) in enumerate(((3, 1), (2, -1), (4, -1))):  # |h - 3| - 1, 2 - |h - 2|, 2 - |h - 4|
        ramp = np.abs(hue - one(own))
        ramp = ramp - one(1) if sign > 0 else one(2) - ramp
        np.clip(ramp, 0, 1, out=ramp)
        ramp *= chroma
        ramp += low
        ramp *= one(255.999 / 255)  # rounded as torchvision does
        out[channel] = ramp
    return torch.from_numpy(out)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian up to three sigmas, edges mirrored; along rows, then along columns, each a sum of shifted pictures.

    A quarter of torchvision's time, equal to it within one level; any number of channels, 8 bits, 16 or floats."""
    import torch
    from torch.nn import functional

    height, width = image.shape[-2:]
    rows, columns = (min(math.ceil(3 * sigma), side - 1) for side in (height, width))  # a mirror reaches no further
    padded = functional.pad(image.float(), (columns, columns, rows, rows), mode="reflect")
    across = _spread(padded, 2, columns, width, sigma)
    out = _spread(across, 1, rows, height, sigma)
    return out if image.dtype == torch.float32 else out.round_().to(image.dtype)


def _spread(image: Tensor, axis: int, reach: int, side: int, sigma: float) -> Tensor:
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    out = image.narrow(axis, reach, side) * (weights[0] / total)
    for k in range(1, reach + 1):
        pair = image.narrow(axis, reach - k, side) + image.narrow(axis, reach + k, side)
        out.add_(pair, alpha=weights[k] / total)
    return out


def _sigma(at: float) -> float:
    return SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * at


def random_blur(image: Tensor, rng: np.random.Generator) -> Tensor:
    return blur(image, _sigma(rng.random()))


def erase(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A random box is overwritten, each pixel with evenly drawn noise (the paper's best, RE-R). Changes `image`."""
    import torch

    box = erased_box(image.shape[-2], image.shape[-1], rng)
    if box is not None:
        top, left, h, w = box
        kind = image.numpy().dtype
        noise = rng.integers(0, np.iinfo(kind).max, (image.shape[0], h, w), dtype=kind, endpoint=True)
        image[:, top : top + h, left : left + w] = torch.from_numpy(noise)
    return image


def erased_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """(top, left, height, width), or None where no try fits. Area even, aspect even in its logarithm."""
    draws = rng.random((ERASE_TRIES, 2)).tolist()
    place = rng.random(2).tolist()
    low, high = math.log(ERASE_RATIO[0]), math.log(ERASE_RATIO[1])
    for share, aspect in draws:
        area = height * width * (ERASE_SHARE[0] + (ERASE_SHARE[1] - ERASE_SHARE[0]) * share)
        ratio = math.exp(low + (high - low) * aspect)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            return int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1)), h, w
    return None
