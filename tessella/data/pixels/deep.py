"""Pixels that are more than 8 bits of grey or colour: 16 bits, floats, signed numbers, many channels; TIFF, npy, PNG.

Nothing is lost on the way in: what a file holds becomes an array of its own type, then the channels that are asked for,
then the depth that is asked for.
"""

from __future__ import annotations

import functools
import io
import logging
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...errors import BadInput
from . import png
from .sniff import Header

Values = NDArray[Any]  # (H, W, C) as stored
GREY = (0.299, 0.587, 0.114)  # of red, green, blue: ITU-R 601, as Pillow

# TIFF tags
WIDTH, HEIGHT, BITS, PHOTOMETRIC, TURN, SAMPLES, PLANES, EXTRA, FORMAT = 256, 257, 258, 262, 274, 277, 284, 338, 339
OFFSETS, ROWS, COUNTS, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 273, 278, 279, 322, 323, 324, 325
TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
DEFLATE = (8, 32946)  # compressions
WHITE_IS_ZERO, PALETTE, INKS, YCBCR, LABS = 0, 3, 5, 6, (8, 9, 10)  # photometric interpretations
MIXED = 1  # of EXTRA: colours were multiplied by their transparency
NPY_HEADER = 65_536  # bytes; a longer one is no header of a picture


def read(data: bytes, head: Header) -> tuple[Values, int]:
    """((H, W, C) as stored, the turn that is left to do)."""
    if head.format == "NPY":
        return npy(data), 1
    if head.format == "PNG":
        return png.sixteen(data), head.turn
    if head.format == "PPM":
        return ppm(data), 1
    if head.format == "TIFF":
        return tiff(data, head)
    with Image.open(io.BytesIO(data)) as image:
        return np.atleast_3d(np.array(image)), head.turn


def to_channels(values: Values, head: Header, channels: int, white: float) -> Values:
    """Exactly these channels: as stored where their number agrees, else grey or colour with transparency on white."""
    if values.shape[2] == channels:
        return values
    if head.alpha:
        full = 1.0 if head.numbers == "float" else float(2**head.bits - 1)
        share = values[:, :, -1:].astype(np.float64) / full
        mixed = values[:, :, :-1] * share + white * (1 - share)
        values = mixed if head.numbers == "float" else np.rint(mixed).astype(values.dtype)
    if values.shape[2] == 1 and channels == 3:
        return np.repeat(values, 3, axis=2)
    if values.shape[2] == 3 and channels == 1:
        grey = values.astype(np.float64) @ np.array(GREY)
        whole = head.numbers != "float"
        values = np.rint(grey).astype(values.dtype) if whole else grey
        return values[:, :, None]
    return values


def to_depth(values: Values, head: Header, depth: str, limits: tuple[float, float] | None) -> Values:
    """Numbers as stored to the depth asked for. With limits, those are black and white; else the bits say it."""
    if limits is None and head.numbers == "uint" and head.bits <= 16:
        return _by_bits(values, head.bits, depth)
    if head.numbers == "float" and not np.isfinite(values).all():
        raise BadInput("holds numbers that are not finite; replace them in the file by a value that stands for nothing")
    if depth == "float32":
        with np.errstate(over="ignore"):
            out = values.astype(np.float32)
        if not np.isfinite(out).all():
            raise BadInput("holds numbers beyond the range of 32-bit floats; scale them down")
        return out
    assert limits is not None, "refused before"
    low, high = limits
    full = 255 if depth == "uint8" else 65535
    share = (values.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(share, 0, 1) * full).astype(depth)


def of_eight(pixels: NDArray[np.uint8], depth: str, limits: tuple[float, float] | None) -> Values:
    """8-bit pixels on the scale of a deeper network: 0 and 255 are its black and white."""
    if depth == "uint8":
        return pixels
    if depth == "uint16":
        return pixels.astype(np.uint16) * 257
    low, high = limits or (0.0, 1.0)
    return (pixels * np.float32((high - low) / 255) + np.float32(low)).astype(np.float32)


def _by_bits(values: Values, bits: int, depth: str) -> Values:
    if bits == 8:
        return of_eight(values.astype(np.uint8), depth, None)
    if depth == "float32":
        return (values / np.float32(2**bits - 1)).astype(np.float32)
    values = values.astype(np.uint16)
    if depth == "uint8":
        return (values >> (bits - 8)).astype(np.uint8)
    return values << (16 - bits) | values >> (2 * bits - 16)  # so that full stays full


# ---------------------------------------------------------------- npy


def npy_header(data: bytes) -> Header:
    shape, _, dtype, _ = _npy(data)
    bits = 8 if dtype.kind == "b" else 8 * dtype.itemsize
    numbers = {"b": "uint", "u": "uint", "i": "int", "f": "float"}[dtype.kind]
    return Header(shape[0], shape[1], 1, "NPY", shape[2] if len(shape) == 3 else 1, bits, 1, numbers)


def npy(data: bytes) -> Values:
    """(H, W) or (H, W, C); never a pickle."""
    shape, fortran, dtype, start = _npy(data)
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) - start < count * dtype.itemsize:
        raise ValueError(f"it holds {len(data) - start:,} bytes of {count * dtype.itemsize:,}")
    flat = np.frombuffer(data, dtype, count, start)
    values = np.atleast_3d(flat.reshape(shape, order="F" if fortran else "C"))
    return values.astype(np.uint8) * np.uint8(255) if dtype.kind == "b" else values


def _npy(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """(shape, whether columns come first, type, where the numbers start)"""
    wide = 4 if data[6:7] == b"\2" else 2  # bytes that say how long the header is
    end = 8 + wide + int.from_bytes(data[8 : 8 + wide], "little")
    return _npy_header(bytes(data[: min(end, NPY_HEADER)]))


@functools.lru_cache(maxsize=256)
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Remembered: thousands of small arrays start alike, and reading a header costs four times what its pixels do."""
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise BadInput(f"is a numpy array of version {version[0]}.{version[1]}; save numbers with np.save")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "buif" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise BadInput(f"is a numpy array of {dtype}; save pixels as whole numbers or floats")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise BadInput(f"is a numpy array of shape {shape}; save (height, width) or (height, width, channels)")
    return shape, fortran, dtype, file.tell()


# ---------------------------------------------------------------- PPM with two bytes a pixel


def ppm_words(data: bytes, count: int) -> tuple[list[bytes], int]:
    """The first words of the file, comments left out, and where the next byte stands."""
    words: list[bytes] = []
    at = 0
    while len(words) < count and at < len(data):
        if data[at : at + 1] == b"#":
            at = data.find(b"\n", at) % (len(data) + 1)
        elif data[at : at + 1].isspace():
            at += 1
        else:
            start = at
            while at < len(data) and not data[at : at + 1].isspace() and data[at : at + 1] != b"#":
                at += 1
            words.append(data[start:at])
    return words, at


def ppm_largest(data: bytes) -> int:
    """The value of white."""
    words, _ = ppm_words(data[:4096], 4)
    return int(words[3]) if len(words) == 4 and words[0] in (b"P2", b"P3", b"P5", b"P6") else 1


def ppm(data: bytes) -> Values:
    words, start = ppm_words(data, 4)
    width, height, largest = (int(word) for word in words[1:])
    channels = 3 if words[0] in (b"P3", b"P6") else 1
    count = width * height * channels
    if words[0] in (b"P2", b"P3"):
        found, _ = ppm_words(data[start:], count)
        values = np.array([int(word) for word in found], np.int64)
    else:
        stored = data[start + 1 : start + 1 + 2 * count]  # one blank after the header
        values = np.frombuffer(stored, ">u2", len(stored) // 2).astype(np.int64)
    if len(values) != count or values.min() < 0 or values.max() > largest:
        raise ValueError(f"it holds {len(values):,} numbers of {count:,}, or some beyond {largest}")
    scaled: Values = np.rint(values * (65535 / largest)).astype(np.uint16)
    return scaled.reshape(height, width, channels)


# ---------------------------------------------------------------- TIFF


def tiff_header(data: bytes) -> Header:
    """From the tags of the first page."""
    tags, frames = tiff_tags(data)
    if not (tags.get(WIDTH) and tags.get(HEIGHT)):
        raise ValueError("its first page has no size")
    width, height = tags[WIDTH][0], tags[HEIGHT][0]
    samples, photometric = tags.get(SAMPLES, (1,))[0], tags.get(PHOTOMETRIC, (1,))[0]
    numbers = {1: "uint", 2: "int", 3: "float", 4: "uint"}.get(tags.get(FORMAT, (1,))[0])
    if numbers is None:
        raise BadInput("is a TIFF picture of complex numbers; save their size or their parts")
    alpha = photometric <= 2 and samples > 1 and tags.get(EXTRA, (0,))[-1] in (1, 2)
    inks = photometric == INKS and samples == 4
    channels = 3 if photometric in (PALETTE, YCBCR, *LABS) or inks else samples
    bits = 8 if photometric == PALETTE else max(8, *tags.get(BITS, (1,)))
    turn = tags.get(TURN, (1,))[0]
    turn = turn if 1 <= turn <= 8 else 1
    height, width = (width, height) if turn >= 5 else (height, width)
    return Header(height, width, turn, "TIFF", channels, bits, frames, numbers, alpha)


def tiff_tags(data: bytes) -> tuple[dict[int, tuple[int, ...]], int]:
    """({tag: numbers} of the first page, pages); classic TIFF and BigTIFF."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    offset, count, entry, width = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    tags: dict[int, tuple[int, ...]] = {}
    seen: set[int] = set()
    while at and at not in seen:
        if seen and at + struct.calcsize(count) > len(data):
            break  # a later page is cut off: the first counts
        (entries,) = struct.unpack_from(order + count, data, at)
        first = at + struct.calcsize(count)
        if not seen:
            for i in range(entries):
                tag, kind, n = struct.unpack_from(order + "HH" + offset, data, first + i * entry)
                if kind not in TIFF_TYPES or not n:
                    continue
                where = first + i * entry + entry - width
                if n * struct.calcsize("=" + TIFF_TYPES[kind]) > width:
                    (where,) = struct.unpack_from(order + offset, data, where)
                tags[tag] = struct.unpack_from(f"{order}{n}{TIFF_TYPES[kind]}", data, where)
        seen.add(at)
        end = first + entries * entry
        at = struct.unpack_from(order + offset, data, end)[0] if end + width <= len(data) else 0
    return tags, len(seen)


def tiff_is_plain(data: bytes) -> bool:
    """Grey or colour of 8 bits or fewer in a form that Pillow reads without loss; more is read here."""
    tags, _ = tiff_tags(data)
    samples, photometric = tags.get(SAMPLES, (1,))[0], tags.get(PHOTOMETRIC, (1,))[0]
    usual = {0: (1,), 1: (1, 2), 2: (3, 4), PALETTE: (1,), INKS: (4,), YCBCR: (3,), LABS[0]: (3,)}.get(photometric, ())
    extra = tags.get(EXTRA, ())
    known = not extra or extra in ((1,), (2,))
    return samples in usual and known and tags.get(FORMAT, (1,))[0] in (1, 4) and max(tags.get(BITS, (1,))) <= 8


def tiff(data: bytes, head: Header) -> tuple[Values, int]:
    """Pillow for one channel, tifffile for the rest."""
    tags, _ = tiff_tags(data)
    check_stretches(tags, len(data))
    photometric, bits = tags.get(PHOTOMETRIC, (1,))[0], set(tags.get(BITS, (1,)))
    values, turn = None, head.turn
    if head.channels == 1 and (head.numbers, head.bits) != ("uint", 32):
        values = _grey_by_pillow(data)
        turn = 1 if values is not None else turn  # Pillow turns TIFF by itself
    if values is None:
        if photometric in (PALETTE, INKS, YCBCR, *LABS) or len(bits) > 1 or min(bits) < 8:
            what = f"{sorted(bits)} bits per channel, photometric interpretation {photometric}"
            raise BadInput(f"is a TIFF picture in a form that is not read ({what}); save it as plain grey or RGB")
        values = _by_tifffile(data, (tags[HEIGHT][0], tags[WIDTH][0], tags.get(SAMPLES, (1,))[0]))
    if photometric == WHITE_IS_ZERO and head.numbers == "uint":
        values = 2**head.bits - 1 - values
    return (_unmixed(values, head) if head.alpha and tags[EXTRA][-1] == MIXED else values), turn


def _unmixed(values: Values, head: Header) -> Values:
    """Colours that were stored as their share of the mixture with what lies behind, as they were before."""
    full = 1.0 if head.numbers == "float" else float(2**head.bits - 1)
    alpha = values[:, :, -1:].astype(np.float64)
    colours = np.divide(values[:, :, :-1] * full, alpha, out=np.zeros(values[:, :, :-1].shape), where=alpha > 0)
    if head.numbers == "uint":
        colours = np.rint(colours.clip(0, full))
    return np.concatenate([colours.astype(values.dtype), values[:, :, -1:]], axis=2)


def check_stretches(tags: dict[int, tuple[int, ...]], length: int) -> None:
    """All stretches of pixels are there and lie inside the file: readers fill in what is missing with zeros."""
    width, height = tags[WIDTH][0], tags[HEIGHT][0]
    planes = tags.get(SAMPLES, (1,))[0] if tags.get(PLANES, (1,))[0] == 2 else 1
    if TILE_OFFSETS in tags:
        offsets, counts = tags[TILE_OFFSETS], tags.get(TILE_COUNTS, ())
        wanted = planes * _tiles(width, tags.get(TILE_WIDTH, (0,))[0]) * _tiles(height, tags.get(TILE_HEIGHT, (0,))[0])
    else:
        offsets, counts = tags.get(OFFSETS, ()), tags.get(COUNTS, ())
        wanted = planes * _tiles(height, tags.get(ROWS, (height,))[0])
    if min(len(offsets), len(counts)) < wanted:
        raise ValueError(f"it lists {min(len(offsets), len(counts))} of {wanted} stretches of pixels")
    reach = max((start + count for start, count in zip(offsets, counts, strict=False)), default=0)
    if reach > length:
        raise ValueError(f"its pixels should reach to byte {reach:,}, and it has {length:,}")


def _tiles(length: int, step: int) -> int:
    return -(-length // max(1, step))


def _grey_by_pillow(data: bytes) -> Values | None:
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            if not (image.mode.startswith("I") or image.mode == "F"):
                return None
            image.load()
            return np.array(image)[:, :, None]
    except UnidentifiedImageError:
        return None


def _by_tifffile(data: bytes, size: tuple[int, int, int]) -> Values:
    """`size`: height, width and samples by the tags that the cap was held against."""
    try:
        import tifffile
    except ImportError:
        raise BadInput('is a TIFF picture that needs tifffile: pip install "tessella[tiff]"') from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it tells of every odd tag, and raises where it matters
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if (page.imagelength, page.imagewidth, page.samplesperpixel) != size or page.imagedepth != 1:
            raise ValueError("its tags contradict each other")
        if page.compression in DEFLATE:
            _no_bomb(data, page.dataoffsets, page.databytecounts, int(page.nbytes))
        try:
            values = np.asarray(page.asarray(maxworkers=1))
        except ValueError as error:
            if "imagecodecs" in str(error):
                cure = "pip install imagecodecs, or save it uncompressed or with deflate"
                raise BadInput(f"is a TIFF picture whose compression needs another package: {cure}") from None
            raise
        return _channels_last(values, page.axes)


def _no_bomb(data: bytes, offsets: Sequence[int], counts: Sequence[int], whole: int) -> None:
    """Deflate grows a thousandfold, and tifffile unpacks a stretch before it looks at its size."""
    for start, count in zip(offsets, counts, strict=False):
        if count > 1 << 18:
            unpacking = zlib.decompressobj()
            unpacking.decompress(data[start : start + count], whole + 1024)
            if unpacking.unconsumed_tail:
                raise ValueError("its stretches hold more than the picture")


def _channels_last(values: Values, axes: Sequence[str]) -> Values:
    if axes == "SYX":
        return np.moveaxis(values, 0, 2)
    if axes not in ("YX", "YXS"):
        raise BadInput(f"is a TIFF picture with axes {axes}; save one plane of height, width and channels")
    return np.atleast_3d(values)
