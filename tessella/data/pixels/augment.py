"""Random views of a training picture at the size that the card asks for; every draw comes from one generator.

The order: crop, mirror, colour policy, jitter, grey, blur, solarise, erase. A resized crop is drawn in pixels of the
whole upright picture, from its header; only then is the file decoded, no larger than the crop needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ...card import Preprocess
from ...errors import BadInput
from . import policies
from .decode import Pixels, decode, header
from .geometry import Geometry, evaluation_geometry
from .sniff import Header
from .transforms import prepare

if TYPE_CHECKING:
    from torch import Tensor

TRIES = 10  # crops tried before taking the largest central one
BOX_DRAWS = 2 + 2 * TRIES  # numbers that `crop_box` takes
ENOUGH = 1  # pixels of a scaled decoding for each pixel of the view, along each side: views differ by more than filters
Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """A random crop, perhaps mirrored; colours only where asked for."""

    crop: Literal["resized", "pad", "none"] = "resized"  # "pad" shifts by a few pixels: for small or centred pictures
    scale: tuple[float, float] = (0.35, 1.0)  # share of the area that a resized crop keeps
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height of a resized crop
    padding: int = 2  # pixels of black on each side before a pad crop
    flip: float = 0.5  # probability of mirroring left-right; 0 where sides mean something (digits, text)
    vertical: float = 0.0  # probability of turning upside down: for pictures from above or through a microscope
    policy: policies.Policy = "none"  # "three" is DeiT-III's: one of grey, solarise, blur
    operations: int = 2  # of RandAugment, one after the other
    magnitude: float = 9.0  # of RandAugment, 0 to 30 as in torchvision (timm's m9 of 10 is 27 here)
    deviation: float = 0.0  # of RandAugment's magnitude, in its unit (timm's mstd0.5 is 1.5 here)
    jitter: tuple[float, float, float, float] = (
        0.0,
        0.0,
        0.0,
        0.0,
    )  # brightness, contrast, saturation; hue up to 0.5
    jittered: float = 1.0  # probability that the jitter is applied
    grey: float = 0.0  # probability of losing all colour
    blur: float = 0.0  # probability of a Gaussian of 0.1 to 2 pixels
    solarise: float = 0.0  # probability that values from 128 on are turned over
    erase: float = 0.0  # probability that a box of 2 to 33 % of the area is filled with noise, each pixel its own

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise BadInput(f"augment.scale is {list(self.scale)}; give shares of the area with 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise BadInput(f"augment.ratio is {list(self.ratio)}; give width / height with 0 < low <= high")
        if self.padding < 0 or self.operations < 0:
            what = f"augment has padding {self.padding} and operations {self.operations}"
            raise BadInput(f"{what}; give whole numbers >= 0")
        if not 0 <= self.magnitude <= policies.TOP or not self.deviation >= 0:
            what = f"augment has magnitude {self.magnitude:g} and deviation {self.deviation:g}"
            raise BadInput(f"{what}; give a magnitude in [0, {policies.TOP}] and a deviation >= 0")
        for name in ("flip", "vertical", "jittered", "grey", "blur", "solarise", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"augment.{name} is {getattr(self, name):g}; give a probability in [0, 1]")
        if not all(0 <= reach < math.inf for reach in self.jitter) or self.jitter[3] > 0.5:
            raise BadInput(f"augment.jitter is {list(self.jitter)}; give reaches >= 0, the last (hue) at most 0.5")

    @property
    def coloured(self) -> tuple[str, ...]:
        """The settings in use that need colours as they are: 1 or 3 channels of 8 bits."""
        used = (self.policy != "none", any(self.jitter) and self.jittered, self.grey)
        return tuple(name for name, on in zip(("policy", "jitter", "grey"), used, strict=True) if on)


def refuse(cfg: AugmentConfig, preprocess: Preprocess) -> None:
    """What is not defined for the card's kind of pictures. To be called once, before workers start."""
    kind = None
    if preprocess.channels not in (1, 3):
        kind = f"pictures of {preprocess.channels} channels"
    elif preprocess.depth != "uint8":
        kind = f"{preprocess.depth} pictures"
    if kind and cfg.coloured:
        raise BadInput(f"augment.{cfg.coloured[0]} is not defined for {kind}; leave it out (crops, flips, blur work)")
    for name in ("solarise", "erase"):
        whole = ("uint8",) if name == "solarise" else ("uint8", "uint16")
        if getattr(cfg, name) and preprocess.depth not in whole:
            raise BadInput(f"augment.{name} is not defined for {preprocess.depth} pictures; set it to 0")


def augment(
    data: bytes, cfg: AugmentConfig, preprocess: Preprocess, rng: np.random.Generator, name: str = "the picture"
) -> Tensor:
    """Bytes of a file to a random (C, h, w) view. It may lie in memory with its channels last, as it was decoded:
    `stacked` puts a batch together without turning that around."""
    refuse(cfg, preprocess)
    view, _ = _placed(data, cfg, preprocess, rng, name)
    return recolour(view, cfg, rng)


def augment_followed(
    data: bytes, cfg: AugmentConfig, preprocess: Preprocess, rng: np.random.Generator, name: str = "the picture"
) -> tuple[Tensor, Geometry]:
    """The same view, and where its pixels come from, for boxes and masks. The draws are those of `augment`."""
    if cfg.policy in ("randaugment", "trivial"):
        raise BadInput(f"augment.policy {cfg.policy!r} turns pictures, and boxes and masks cannot follow; use 'three'")
    refuse(cfg, preprocess)
    view, geometry = _placed(data, cfg, preprocess, rng, name)
    return recolour(view, cfg, rng), geometry()


def _placed(
    data: bytes, cfg: AugmentConfig, preprocess: Preprocess, rng: np.random.Generator, name: str
) -> tuple[Tensor, Callable[[], Geometry]]:
    draws = rng.random(4 + BOX_DRAWS).tolist()  # in one call, and always as many
    flip, vertical = draws[0] < cfg.flip, draws[1] < cfg.vertical
    if cfg.crop == "resized":
        full = header(data, name)
        box = crop_box(full.height, full.width, cfg, draws[4:])
        least = least_size((full.height, full.width), box, preprocess.size) if preprocess.decode == "scaled" else None
        image = read(data, preprocess, name, least)
        window = scaled_window(full, image.shape, box)
        size = preprocess.size
        view = mirrored(cut(image, window.box, preprocess), flip, vertical)
        return view, lambda: Geometry(window=window.seen, scaled=size, size=size, flip=flip, vertical=vertical)
    view = prepare(data, preprocess, name)
    reach = cfg.padding if cfg.crop == "pad" else 0
    down, right = (reach - int(at * (2 * reach + 1)) for at in draws[2:4])
    if down or right:
        view = _shifted(view, down, right)

    def followed() -> Geometry:
        full = header(data, name)
        return evaluation_geometry((full.height, full.width), preprocess).moved(down, right).mirrored(flip, vertical)

    return mirrored(view, flip, vertical), followed


def crop_box(height: int, width: int, cfg: AugmentConfig, draws: Sequence[float]) -> Box:
    """Area even and aspect even in its logarithm, as in the Inception papers; `draws`: BOX_DRAWS numbers in [0, 1)."""
    low, high = cfg.scale
    narrow, wide = math.log(cfg.ratio[0]), math.log(cfg.ratio[1])
    for k in range(2, BOX_DRAWS, 2):
        area = height * width * (low + (high - low) * draws[k])
        ratio = math.exp(narrow + (wide - narrow) * draws[k + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[0] * (height - h + 1)), int(draws[1] * (width - w + 1)), h, w
    w = min(width, max(1, round(height * cfg.ratio[1])))  # nothing fitted: a very long or tiny picture
    h = min(height, max(1, round(width / cfg.ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def least_size(full: tuple[int, int], box: Box, out: tuple[int, int]) -> tuple[int, int]:
    """How small a picture may be decoded, upright, so that the box still holds ENOUGH times the pixels of the view."""
    return -(-ENOUGH * out[0] * full[0] // box[2]), -(-ENOUGH * out[1] * full[1] // box[3])


class Window(NamedTuple):
    """A crop in pixels of what was decoded, which may be a half, a quarter or an eighth of the picture."""

    box: Box
    step: int  # pixels of the picture for each decoded one, along each side
    before: tuple[int, int]  # rows and columns by which the first decoded ones stand out over the picture

    @property
    def seen(self) -> Box:
        """In pixels of the whole upright picture."""
        top, left, height, width = (side * self.step for side in self.box)
        return top - self.before[0], left - self.before[1], height, width


def scaled_window(full: Header, decoded: tuple[int, ...], box: Box) -> Window:
    """Decoding at 1/step rounds sizes up: the last row as stored holds less than a whole one, and where the picture was
    turned over that is the first row."""
    height, width = decoded[:2]
    if (height, width) == (full.height, full.width):
        return Window(box, 1, (0, 0))
    step = next((s for s in (2, 4, 8) if (-(-full.height // s), -(-full.width // s)) == (height, width)), 0)
    step = step or max(1, round(max(full.height, full.width) / max(height, width)))
    above = height * step - full.height if full.turn in (3, 4, 7, 8) else 0
    aside = width * step - full.width if full.turn in (2, 3, 6, 7) else 0
    top, bottom = (round((at + above) / step) for at in (box[0], box[0] + box[2]))
    left, right = (round((at + aside) / step) for at in (box[1], box[1] + box[3]))
    top, left = min(top, height - 1), min(left, width - 1)
    h, w = max(1, min(bottom, height) - top), max(1, min(right, width) - left)
    return Window((top, left, h, w), step, (above, aside))


def read(data: bytes, preprocess: Preprocess, name: str, least: tuple[int, int] | None) -> Pixels:
    return decode(data, preprocess.channels, name, depth=preprocess.depth, least=least, limits=preprocess.limits)


def cut(image: Pixels, box: Box, preprocess: Preprocess, size: tuple[int, int] | None = None) -> Tensor:
    """The box of (H, W, C), resized with antialias to (C, h, w); channels stay last in memory.

    torch's kernel for bytes is twice as fast where its input is contiguous with channels last and says so by strides;
    copying the window costs a twentieth of what that saves.
    """
    import torch
    from torch.nn import functional

    top, left, height, width = box
    window = np.ascontiguousarray(image[top : top + height, left : left + width])
    if window.base is not None:  # all of the picture: a view must not change with what others do to it
        window = window.copy()
    depth, channels, size = window.dtype, window.shape[2], size or preprocess.size
    if depth == np.uint16:
        window = window.astype(np.float32)
    if (height, width) == size:
        out = torch.from_numpy(window).permute(2, 0, 1)
    else:
        strides = (window.size, 1, width * channels, channels)
        single = torch.from_numpy(window).as_strided((1, channels, height, width), strides)
        mode = preprocess.interpolation
        out = functional.interpolate(single, size, mode=mode, antialias=mode != "nearest")[0]
    if depth == np.uint16:
        out = torch.from_numpy(out.round_().clamp_(0, 65535).numpy().astype(np.uint16))
    return out


def mirrored(view: Tensor, flip: bool, vertical: bool) -> Tensor:
    axes = [-1] * flip + [-2] * vertical
    return view.flip(axes) if axes else view


def _shifted(view: Tensor, down: int, right: int) -> Tensor:
    """The picture moved by so many pixels, black where it came from."""
    import torch

    h, w = view.shape[-2:]
    out = torch.zeros_like(view)
    rows, columns = max(0, h - abs(down)), max(0, w - abs(right))
    source = view[:, max(0, -down) :, max(0, -right) :][:, :rows, :columns]
    out[:, max(0, down) :, max(0, right) :][:, :rows, :columns] = source
    return out


def recolour(view: Tensor, cfg: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Everything after the crop; draws nothing where nothing is asked for."""
    if not (cfg.coloured or cfg.blur or cfg.solarise or cfg.erase):
        return view
    view = view.contiguous()  # most operations are faster so
    match cfg.policy:
        case "randaugment":
            view = policies.rand_augment(view, rng, cfg.operations, cfg.magnitude, cfg.deviation)
        case "trivial":
            view = policies.trivial_augment(view, rng)
        case "three":
            view = policies.three_augment(view, rng)
        case "none":
            pass
    jittered, grey, blur, solarise, erase = rng.random(5).tolist()
    if jittered < cfg.jittered and any(cfg.jitter):
        view = policies.jitter(view, rng, cfg.jitter)
    if grey < cfg.grey:
        view = policies.grey(view)
    if blur < cfg.blur:
        view = policies.random_blur(view, rng)
    if solarise < cfg.solarise:
        view = policies.solarise(view, policies.SOLARISE)
    if erase < cfg.erase:
        view = policies.erase(view, rng)
    return view.contiguous()


def stacked(views: Sequence[Tensor], room: Callable[[tuple[int, ...], Any], Tensor] | None = None) -> Tensor:
    """(B, C, h, w) in the layout that the views have: torch.stack would take twenty times as long on views whose
    channels are last, because it turns them around one number at a time. The device does that in its first pass.

    `room(shape, dtype)` gives the memory to write to (shared, pinned); None: memory of its own.
    """
    import torch

    c, h, w = views[0].shape
    last = not views[0].is_contiguous()
    shape = (len(views), h, w, c) if last else (len(views), c, h, w)
    out = torch.empty(shape, dtype=views[0].dtype) if room is None else room(shape, views[0].dtype)
    torch.stack([view.permute(1, 2, 0) for view in views] if last else list(views), out=out)
    return out.permute(0, 3, 1, 2) if last else out
