"""PNG at the level of its chunks: what the header says, whether every checksum agrees, and 16 bits per channel."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .sniff import Header, exif_turn

COLOURS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # the colour type's channels; 3: palette
XMP_TURN = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)  # y, x, steps
TEXT_CAP = 1 << 20  # bytes of a text chunk after unpacking; the orientation is in front


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each chunk's body; ends quietly where the data end."""
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at + 8, at + 8 + length
        at += length + 12


def header(data: bytes) -> Header:
    """Orientation may stand behind the pixels, so this hops over all chunks; none is unpacked but short texts."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("its header ends too soon")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    if not width or not height or colour not in COLOURS:
        raise ValueError(f"its header says {width} x {height} pixels of colour type {colour}")
    channels, clear, frames = COLOURS[colour], False, 1
    turn = text = None
    for name, start, end in chunks(data):
        if name == b"tRNS":
            clear = colour in (0, 2, 3)
        elif name == b"acTL":
            frames = int.from_bytes(data[start : start + 4], "big")
        elif name == b"eXIf":
            turn = exif_turn(data[start:end])
        elif name in (b"iTXt", b"tEXt", b"zTXt") and text is None:
            text = _turn_in_text(name, data[start : min(end, start + TEXT_CAP)])
        elif name == b"IEND":
            break
    turn = turn or text or 1
    height, width = (width, height) if turn >= 5 else (height, width)
    alpha = clear or colour in (4, 6)
    return Header(height, width, turn, "PNG", channels + clear, max(bits, 8), frames, alpha=alpha)


def _turn_in_text(name: bytes, body: bytes) -> int | None:
    """The orientation in XMP, or in the EXIF block that older tools wrote as hexadecimal text."""
    key, _, rest = body.partition(b"\0")
    if key == b"XML:com.adobe.xmp":
        found = XMP_TURN.search(rest)
        return int(found[1]) if found else None
    if key != b"Raw profile type exif":
        return None
    try:
        text = zlib.decompressobj().decompress(rest[1:], TEXT_CAP) if name == b"zTXt" else rest
        block = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return None
    return exif_turn(block.removeprefix(b"Exif\0\0"))


def check(data: bytes) -> None:
    """Every chunk that pixels depend on agrees with its checksum: Pillow and libpng look away for some."""
    view = memoryview(data)
    for name, start, end in chunks(data):
        if end + 4 > len(data):
            raise ValueError(f"it ends in the middle of a {name.decode('ascii', 'replace')} chunk")
        if name[:1].isupper() and zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"the checksum of its {name.decode('ascii', 'replace')} chunk does not agree")
        if name == b"IEND":
            return


def sixteen(data: bytes) -> NDArray[np.uint16]:
    """(H, W, C) as stored, of a PNG with 16 bits per channel: Pillow alone would keep 8 bits of its colours.

    A filter predicts each byte from the same byte of the neighbouring pixels, so the high bytes alone are an 8-bit PNG,
    and so are the low bytes: two pictures that Pillow decodes.
    """
    width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    channels = COLOURS[colour]
    sizes = [s for s in _passes(width, height, interlaced) if s[0] and s[1]]
    lengths = [h * (1 + 2 * channels * w) for h, w in sizes]
    packed = b"".join(data[start:end] for name, start, end in chunks(data) if name == b"IDAT")
    whole = np.frombuffer(zlib.decompressobj().decompress(packed, sum(lengths)), np.uint8)
    if len(whole) < sum(lengths):
        raise ValueError(f"it holds {len(whole):,} bytes of {sum(lengths):,}")
    ends = np.cumsum(lengths)
    rows = [whole[end - n : end].reshape(h, -1) for end, n, (h, _) in zip(ends, lengths, sizes, strict=True)]
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlaced)
    high, low = (_eight(head, b"".join(np.c_[r[:, :1], r[:, k::2]].tobytes() for r in rows)) for k in (1, 2))
    values = np.atleast_3d(high.astype(np.uint16) << 8 | low)
    clear = next((data[start:end] for name, start, end in chunks(data) if name == b"tRNS"), None)
    if clear is None or colour not in (0, 2):
        return values
    key = np.frombuffer(clear, ">u2", channels)
    return np.dstack([values, np.where((values == key).all(2), 0, 65535).astype(np.uint16)])


def _passes(width: int, height: int, interlaced: int) -> list[tuple[int, int]]:
    """(height, width) of the pictures that an interlaced file holds one after the other."""
    if not interlaced:
        return [(height, width)]
    return [(len(range(y, height, dy)), len(range(x, width, dx))) for y, x, dy, dx in ADAM7]


def _eight(head: bytes, rows: bytes) -> NDArray[np.uint8]:
    body = [(b"IHDR", head), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]
    parts = [len(b).to_bytes(4, "big") + n + b + zlib.crc32(n + b).to_bytes(4, "big") for n, b in body]
    with Image.open(io.BytesIO(b"".join([b"\x89PNG\r\n\x1a\n", *parts])), formats=("PNG",)) as image:
        return np.array(image)
