"""Bytes of a picture file to upright uint8 pixels: the one place that decodes, so that every verb sees the same.

What is declared here: EXIF orientation is applied; transparency lies on white; of an animation the first frame counts;
CMYK and YCCK follow Pillow's plain formula (Adobe's inversion undone, colour profiles ignored); 16-bit pixels keep
their high byte, so 65535 becomes 255 and nothing saturates, in grey as in colour; 32-bit and float pixels have no
declared range and are refused.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import BadInput

Pixels = NDArray[np.uint8]  # (H, W, C)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # named: Pillow would also hand EPS to an interpreter
PIXEL_CAP = 178_956_970  # pixels, read from the header; Pillow's own limit, 512 MiB as RGB
ORIENTATION = 0x0112  # EXIF tag
PHOTOMETRIC, BITS = 262, 258  # TIFF tags

SIGNATURES: tuple[tuple[int, bytes, str], ...] = (  # (offset, bytes, what it is)
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (8, b"avif", "an AVIF picture"),
    (8, b"heic", "a HEIC picture"),
    (8, b"mif1", "a HEIF picture"),
    (4, b"ftyp", "a video"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"PK\3\4", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\0\5\x16\7", "an AppleDouble file (what macOS keeps beside a picture)"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
)


def kind_of(data: bytes) -> str:
    """What the bytes are, in words, whatever the file is called."""
    for offset, signature, name in SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return name
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith(b"<?xml"):
        return "an XML document"
    if data and not any(data[:512]):
        return "nothing but zero bytes"
    printable = sum(32 <= b < 127 or b in b"\t\r\n" for b in data[:512])
    return "text" if printable >= 0.95 * min(len(data), 512) else "unknown bytes"


def decode(data: bytes, channels: int = 3, name: str = "the picture") -> Pixels:
    """(H, W, channels) of uint8; whatever is wrong with the bytes is a BadInput that starts with `name`."""
    if channels not in (1, 3):
        raise BadInput(f"pictures are decoded to 1 or 3 channels, not {channels}; set preprocess.channels to 1 or 3")
    if not data:
        raise BadInput(f"{name} is empty (0 bytes); remove it or put the picture back")
    image = _open(data, name)
    try:
        image.load()
        turn = _orientation(image)  # after load: PNG and TIFF know it only then
        pixels = _pixels(image, channels, name)
    except BadInput:
        raise
    except Exception as error:  # a codec fed with damaged bytes may raise anything
        raise BadInput(f"{name} is damaged ({kind_of(data)}: {_one_line(error)}); remove it or replace it") from None
    return _upright(pixels, turn)


def _open(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadInput(f"{name} cannot be read as a picture: it holds {kind_of(data)}; remove or replace it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadInput(f"{name} has more than {PIXEL_CAP:,} pixels; scale it down first") from None
    except Exception as error:  # a header that was tampered with may raise anything
        raise BadInput(f"{name} is damaged ({kind_of(data)}: {_one_line(error)}); remove it or replace it") from None
    if image.width * image.height > PIXEL_CAP:
        size = f"{image.width} x {image.height}"
        raise BadInput(f"{name} has {size} pixels, more than {PIXEL_CAP:,}; scale it down first")
    return image


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _orientation(image: Image.Image) -> int:
    """1 to 8; damaged EXIF counts as none, because the pixels are fine."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a free-form block written by any camera or editor
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _pixels(image: Image.Image, channels: int, name: str) -> Pixels:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        grey = _sixteen_bits(image)
        return np.repeat(grey[:, :, None], channels, axis=2)
    if image.mode in ("I", "F"):
        kind = "float" if image.mode == "F" else "signed or 32-bit integer"
        raise BadInput(f"{name} has {kind} pixels, whose range is not known; save it with 8 or 16 bits per channel")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode in ("RGBa", "La"):
            image = image.convert(image.mode.upper())
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "RGB" if channels == 3 else "L"
    if image.mode == "P" or (channels == 1 and image.mode not in ("1", "L")):
        image = image.convert("RGB")  # one formula for grey, whatever the file was
    array = np.array(image if image.mode == mode else image.convert(mode))
    return array if channels == 3 else array[:, :, None]


def _sixteen_bits(image: Image.Image) -> Pixels:
    values = np.asarray(image).astype(np.uint16)
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(BITS, (16,))
    if bits == (12,) or bits == 12:
        values <<= 4  # 4095 is white
    if tags.get(PHOTOMETRIC) == 0:  # white is zero: Pillow leaves that to us at this depth
        values = 65535 - values
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        values = np.where(values == clear, np.uint16(65535), values)
    return (values >> 8).astype(np.uint8)


def _upright(pixels: Pixels, turn: int) -> Pixels:
    """EXIF orientations 5 to 8 swap the axes; then each is a flip of rows, columns or both."""
    if turn >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
