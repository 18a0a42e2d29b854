"""Bytes of a picture file to upright pixels: the one place that decodes, so that every verb sees the same.

What is declared here: EXIF orientation is applied; transparency lies on white; of an animation the first frame counts;
CMYK and YCCK follow Pillow's plain formula (Adobe's inversion undone), and colour profiles are ignored; the 8 bits of
deeper pixels are their high byte, so 65535 becomes 255 and nothing saturates, in grey as in colour; numbers without a
range of their own (float, signed, 32-bit) need the limits that become black and white. AVIF and HEIC give 8 bits.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...errors import BadInput
from . import deep, jpeg, png
from .sniff import Header as Header
from .sniff import kind_of as kind_of

Pixels = NDArray[Any]  # (H, W, C) of uint8, uint16 or float32
Depth = Literal["uint8", "uint16", "float32"]
Limits = tuple[float, float]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # Pillow would also hand EPS to an interpreter
PIXEL_CAP = 178_956_970  # pixels, read from the header; Pillow's own limit, 512 MiB as RGB
COLOURED = {"1": 1, "L": 1, "LA": 2, "La": 2, "PA": 4, "RGBA": 4, "RGBa": 4, "I": 1, "F": 1}  # else 3


def header(data: bytes, name: str = "the picture") -> Header:
    """What the file says about its picture, without decoding it; what is no picture is a BadInput."""
    if not data:
        raise BadInput(f"{name} is empty (0 bytes); remove it or put the picture back")
    try:
        found = _header(data)
    except BadInput as error:
        raise BadInput(f"{name} {error}") from None
    except UnidentifiedImageError:
        raise BadInput(f"{name} cannot be read as a picture: it holds {kind_of(data)}; remove or replace it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadInput(f"{name} has more than {PIXEL_CAP:,} pixels; scale it down first") from None
    except Exception as error:  # a header that was tampered with may raise anything
        raise _damaged(name, data, error) from None
    if found.width * found.height > PIXEL_CAP:
        size = f"{found.width} x {found.height}"
        raise BadInput(f"{name} has {size} pixels, more than {PIXEL_CAP:,}; scale it down first")
    if found.width * found.height * found.channels > 3 * PIXEL_CAP:
        size = f"{found.width} x {found.height} x {found.channels}"
        raise BadInput(f"{name} has {size} numbers, more than {3 * PIXEL_CAP:,}; scale it down or cut it first")
    return found


def decode(
    data: bytes,
    channels: int = 3,
    name: str = "the picture",
    *,
    depth: Depth = "uint8",
    least: tuple[int, int] | None = None,
    limits: Limits | None = None,
) -> Pixels:
    """(H, W, channels) of `depth`, upright; whatever is wrong with the bytes is a BadInput that starts with `name`.

    `least` (height, width): a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as no side falls below.
    `limits`: the numbers that are black and white, for all pixels but those of 8 unsigned bits, which are 0 and 255.
    """
    if channels < 1:
        raise BadInput(f"pictures are decoded to 1 channel or more, not {channels}; mend preprocess.channels")
    head = header(data, name)
    _refuse(head, channels, depth, limits, name)
    try:
        pixels, turn = _decode(data, head, channels, depth, least, limits)
    except BadInput as error:
        raise BadInput(f"{name} {error}") from None
    except Exception as error:  # a codec fed with damaged bytes may raise anything
        raise _damaged(name, data, error) from None
    pixels = upright(pixels, turn)
    if pixels.shape != (*head[:2], channels) and (least is None or head.format != "JPEG"):
        raise _damaged(
            name, data, ValueError(f"its header says {head.width} x {head.height} pixels, and it has others")
        )
    return pixels


def upright(pixels: Pixels, turn: int) -> Pixels:
    """EXIF orientations 5 to 8 swap the axes; then each is a flip of rows, columns or both."""
    if turn >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.require(pixels, requirements=("C", "W"))


def _damaged(name: str, data: bytes, error: Exception) -> BadInput:
    text = " ".join(str(error).split()) or type(error).__name__
    return BadInput(f"{name} is damaged ({kind_of(data)}: {text}); remove it or replace it")


# ---------------------------------------------------------------- what the file says


def _header(data: bytes) -> Header:
    """Whole for JPEG, PNG, TIFF and npy, which are read here; Pillow's opening for the rest."""
    kind = kind_of(data)
    if kind == "a JPEG picture":
        frame = jpeg.frame(data)
        height, width = (frame.width, frame.height) if frame.turn >= 5 else (frame.height, frame.width)
        return Header(height, width, frame.turn, "JPEG", 1 if frame.components == 1 else 3, frame.bits, 1)
    if kind == "a PNG picture":
        return png.header(data)
    if kind == "a TIFF picture":
        return deep.tiff_header(data)
    if kind == "a numpy array":
        return deep.npy_header(data)
    with _opened(data, kind) as image:
        turn = 1 if image.format == "HEIF" else _turn(image)  # HEIF's own rotation is applied by its library
        width, height = image.size[::-1] if turn >= 5 else image.size
        clear = image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
        channels = COLOURED.get(image.mode, 1 if image.mode.startswith("I;") else 3) + clear
        bits = {"1": 1, "I": 16}.get(image.mode, 8)  # "I": a PGM with two bytes a pixel
        if image.format == "PPM":
            bits = 16 if deep.ppm_largest(data) > 255 else bits
        return Header(height, width, turn, image.format or "", channels, bits, getattr(image, "n_frames", 1))


def _opened(data: bytes, kind: str) -> Image.Image:
    if kind == "a HEIC picture":
        return _heif(data)
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _heif(data: bytes) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise BadInput('is a HEIC picture, which needs pillow-heif: pip install "tessella[heif]"') from None
    opener: Any = pillow_heif.HeifImageFile
    image: Image.Image = opener(io.BytesIO(data))
    return image


def _turn(image: Image.Image) -> int:
    """1 to 8; damaged EXIF counts as none, because the pixels are fine."""
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # a free-form block written by any camera or editor
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


# ---------------------------------------------------------------- pixels


def _refuse(head: Header, channels: int, depth: Depth, limits: Limits | None, name: str) -> None:
    colours = head.channels - head.alpha
    if channels != head.channels and not (channels in (1, 3) and colours in (1, 3)):
        has = f"{head.channels} channels" + " (the last is transparency)" * head.alpha
        has = has if head.channels > 1 else "1 channel"
        raise BadInput(f"{name} has {has}, and {channels} are asked for; set preprocess.channels to {head.channels}")
    if limits is None and depth != "float32" and (head.numbers != "uint" or head.bits > 16):
        kind = "float" if head.numbers == "float" else "signed or 32-bit integer"
        cure = "set preprocess.limits to those that are black and white, or save 8 or 16 bits per channel"
        raise BadInput(f"{name} has {kind} pixels, whose range is not known; {cure}")


def _decode(
    data: bytes, head: Header, channels: int, depth: Depth, least: tuple[int, int] | None, limits: Limits | None
) -> tuple[Pixels, int]:
    """(pixels, the turn that is left to do)."""
    if head.format == "JPEG":
        stored = least[::-1] if least and head.turn >= 5 else least
        pixels = _shared(jpeg.pixels(data, jpeg.frame(data), stored), channels)
        return deep.of_eight(pixels, depth, limits), head.turn
    if head.format == "PNG":
        png.check(data)
    eight = head.bits <= 8 and head.numbers == "uint"
    if eight and head.format != "NPY" and (head.format != "TIFF" or deep.tiff_is_plain(data)):
        with contextlib.suppress(UnidentifiedImageError), _opened(data, kind_of(data)) as image:
            image.load()
            pixels = _pixels(image, channels)
            turn = 1 if head.format == "TIFF" else head.turn  # Pillow turns TIFF by itself
            return deep.of_eight(pixels, depth, limits), turn
    values, turn = deep.read(data, head)
    white = limits[1] if limits and not eight else 1.0 if head.numbers == "float" else 2.0**head.bits - 1
    values = deep.to_channels(values, head, channels, white)
    return deep.of_eight(values, depth, limits) if eight else deep.to_depth(values, head, depth, limits), turn


def _shared(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.array(Image.fromarray(pixels).convert("L"))[:, :, None]  # one formula for grey, whatever the file was


def _pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """8-bit pixels of what Pillow has loaded."""
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        whole = "LA" if image.mode in ("1", "L", "LA") and channels == 2 else "RGBA"
        image = image.convert(whole)
        if channels == len(whole):
            return np.array(image)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "RGB" if channels == 3 else "L"
    if image.mode == "P" or (channels == 1 and image.mode not in ("1", "L")):
        image = image.convert("RGB")
    array = np.array(image if image.mode == mode else image.convert(mode))
    return array if channels == 3 else array[:, :, None]
