"""JPEG by libjpeg-turbo: every byte accounted for, and pictures a half, a quarter or an eighth the size for little.

Three libraries give the same pixels bit for bit (simplejpeg, Pillow, torchvision). simplejpeg decodes here because it
is the fastest and the only one that says when the compressed data were damaged: the others fill in grey or noise.
"""

from __future__ import annotations

import io
import re
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from ...errors import BadInput
from .sniff import exif_turn

SCALES = (8, 4, 2, 1)  # powers of two: what every decoder built on libjpeg offers, with the same pixels
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that carry the size
SEQUENTIAL = (0xC0, 0xC1)
BARE = frozenset([0x01, *range(0xD0, 0xD8)])  # markers without a length
XMP_TURN = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}
BENIGN = re.compile(  # warnings about wrappers, not about pixels
    "unknown JFIF revision|Unknown Adobe color transform|Invalid SOS parameters for sequential|bad ICC marker"
)
LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
OTHERS = re.compile("Could not determine|[Uu]nsupported color conversion")  # what this library leaves to Pillow


class Frame(NamedTuple):
    """What stands before the compressed data; sizes as stored, before the turn."""

    height: int
    width: int
    bits: int
    components: int  # 1 grey, 3 colour, 4 inks
    process: int  # the marker: 0xC0 baseline, 0xC2 progressive, ...
    turn: int  # EXIF orientation
    litter: tuple[tuple[int, int], ...]  # stretches of bytes between the segments that belong to none of them


def frame(data: bytes) -> Frame:
    """Read from the segments in front; ValueError where there is no picture to come. Takes about 10 microseconds."""
    at, end = 2, len(data)
    turn = xmp = None
    size: tuple[int, int, int, int, int] | None = None
    litter = []
    while at + 4 <= end:
        if data[at] != 0xFF:
            start, at = at, data.find(b"\xff", at)
            if at < 0:
                break
            litter.append((start, at))
            continue
        marker = data[at + 1]
        if marker == 0xFF or marker in BARE:  # filling, or nothing to skip
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0:  # not a marker: a byte that belongs to nothing
            litter.append((at, at + 2))
            at += 2
            continue
        if marker in (0xD9, 0xDA):
            break
        length = data[at + 2] << 8 | data[at + 3]
        if length < 2 or at + 2 + length > end:
            break
        if marker in FRAMES and length >= 8:
            size = (*(data[i] << 8 | data[i + 1] for i in (at + 5, at + 7)), data[at + 4], data[at + 9], marker)  # type: ignore[assignment]
        elif marker == 0xE1 and turn is None and data[at + 4 : at + 10] == b"Exif\0\0":
            turn = exif_turn(data[at + 10 : at + 2 + length])
        elif marker == 0xE1 and xmp is None:
            found = XMP_TURN.search(data, at + 4, at + 2 + length)
            xmp = int(found[1]) if found else None
        at += 2 + length
    if size is None:
        raise ValueError("its header ends before the size of the picture")
    if not size[0] or not size[1]:
        raise ValueError(f"its header says {size[1]} x {size[0]} pixels")
    return Frame(*size, turn or xmp or 1, tuple(litter))


def scale_for(height: int, width: int, least: tuple[int, int] | None) -> int:
    """The divisor of the smallest decoding whose sides both stay at `least` or above."""
    if least is None or max(height, width) < 8:  # so small, 3/8 and 1/2 round to one size, and decoders differ
        return 1
    return next((s for s in SCALES if height // s >= least[0] and width // s >= least[1]), 1)


def pixels(data: bytes, head: Frame, least: tuple[int, int] | None) -> NDArray[np.uint8]:
    """(H, W, 1 or 3) as stored, not yet upright; `least` is stored height and width. A ValueError says why."""
    scale = scale_for(head.height, head.width, least)
    if head.litter:
        data = _without(data, head.litter)
    if head.components not in COLOURS:
        return _by_pillow(data, head, scale)
    try:
        return _coloured(_strictly(data, head, scale))
    except ValueError as error:
        text = str(error)
        if "Premature end of JPEG file" in text:
            return _coloured(_ended(data, head, scale))
        left = LEFT_OVER.search(text)
        if left and not _filling(data, int(left[1])):
            raise ValueError(f"{left[1]} bytes of codes are left over, so one before them is wrong") from None
        if left or BENIGN.search(text) or OTHERS.search(text):
            return _by_pillow(data, head, scale)  # which still refuses data that end too soon
        if "nsupported" in text or "not supported" in text:
            raise BadInput(
                f"is a JPEG picture of a kind that is not read ({text}); save it again with 8 bits"
            ) from None
        raise


def _filling(data: bytes, count: int) -> bool:
    """Whether the bytes before the end mark only fill up, as some cameras do: one value again and again."""
    end = data.rfind(b"\xff\xd9")
    return len(set(data[max(0, end - count) : end])) <= 1


def _ended(data: bytes, head: Frame, scale: int) -> NDArray[np.uint8]:
    """Some cameras leave out the end mark. Where more is missing, a mark that is put there comes too soon."""
    if head.process not in SEQUENTIAL:
        raise ValueError("truncated")  # whole scans may be missing, and nothing would tell
    try:
        return _strictly(data + b"\xff\xd9", head, scale)
    except ValueError as error:
        raise ValueError(f"truncated: {error}") from None


def _strictly(data: bytes, head: Frame, scale: int) -> NDArray[np.uint8]:
    least = (-(-head.height // scale), -(-head.width // scale)) if scale > 1 else (0, 0)
    out: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, COLOURS[head.components], min_height=least[0], min_width=least[1]
    )
    return out


def _by_pillow(data: bytes, head: Frame, scale: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if scale > 1:
            image.draft(None, (head.width // scale, head.height // scale))  # type: ignore[arg-type]
        image.load()
        if image.mode not in ("L", "RGB", "CMYK"):
            raise ValueError(f"its {head.components} components are none of grey, colour or CMYK")
        whole = np.array(image)
    return _coloured(255 - whole if whole.shape[2:] == (4,) else whole)


def _coloured(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Inks to colours by Pillow's plain formula. Adobe writes inks inverted, and everyone has followed since."""
    if stored.shape[2:] == (4,):
        return np.array(Image.frombuffer("CMYK", stored.shape[1::-1], 255 - stored, "raw", "CMYK", 0, 1).convert("RGB"))
    return stored if stored.ndim == 3 else stored[:, :, None]


def _without(data: bytes, litter: tuple[tuple[int, int], ...]) -> bytes:
    kept: list[Any] = []
    at = 0
    for start, end in litter:
        kept.append(data[at:start])
        at = end
    return b"".join([*kept, data[at:]])
