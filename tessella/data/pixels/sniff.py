"""What a file holds, told from its first bytes: names and suffixes lie, and nothing needs to be decoded for it."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

SIGNATURES: tuple[tuple[int, bytes, str], ...] = (  # (offset, bytes, what it is)
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"II+\0", "a TIFF picture"),  # BigTIFF
    (0, b"MM\0+", "a TIFF picture"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (4, b"ftyp", "a video"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"PK\3\4", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\0\5\x16\7", "an AppleDouble file (what macOS keeps beside a picture)"),
    (0, b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
)
BRANDS = (  # of the container that AVIF and HEIC share with video; AVIF first, because it also claims "mif1"
    ({b"avif", b"avis"}, "an AVIF picture"),
    ({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}, "a HEIC picture"),
)
TURN = 0x0112  # the EXIF tag of the orientation


class Header(NamedTuple):
    """What a picture file says about itself; sizes are those of the upright picture."""

    height: int
    width: int
    turn: int  # EXIF orientation, 1 to 8, that decoding has still to undo
    format: str  # "JPEG", "PNG", "NPY", ...
    channels: int  # palette and CMYK count as colour (3), transparency as one more; TIFF and npy as stored
    bits: int  # per channel
    frames: int  # of an animation or a file of several pages, of which the first counts
    numbers: str = "uint"  # or "int", "float": numbers that have no range of their own
    alpha: bool = False  # the last channel is transparency


def kind_of(data: bytes) -> str:
    """What the bytes are, in words, whatever the file is called."""
    if data[4:8] == b"ftyp":
        end = min(len(data), int.from_bytes(data[:4], "big"), 256)
        claimed = {data[8:12], *(data[i : i + 4] for i in range(16, end, 4))}
        for brands, name in BRANDS:
            if claimed & brands:
                return name
    if re.match(rb"P[1-6][\s#]", data[:3]):
        return "a PPM picture"
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


def exif_turn(block: bytes) -> int | None:
    """The orientation that an EXIF block (from its byte-order mark on) declares; None: it declares none."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for i in range(count):
            tag, kind = struct.unpack_from(order + "HH", block, start + 2 + 12 * i)
            if tag == TURN:
                (turn,) = struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], block, start + 10 + 12 * i)
                return turn if 1 <= turn <= 8 else 1
    except (struct.error, KeyError):  # a free-form block written by any camera or editor: the pixels are fine
        pass
    return None
