"""Folders of pictures with masks: a picture and a picture of class numbers, paired by name.

    images/ + masks/ (annotations/, labels/), also inside train/ and val/     train/images/1.jpg, train/masks/1.png
    images/train/ + annotations/train/                                       as ADE20K
    1.jpg + 1_mask.png                                                       side by side

A mask is grey, palette or 16 bits, or .npy of whole numbers: its numbers are classes, 255 stands for nothing. Where all
masks looked at hold 0 and 255 alone, 255 is a class: foreground. Names come from classes.txt, one a line, 0 first.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import BadInput
from ..names import Names
from ..pixels.sniff import kind_of
from ..source import DataConfig, Reader
from .folder import FolderReader, open_pictures
from .listing import Listing
from .tally import Tally
from .targets import MaskColumn

LAYOUT = "expected images/ beside masks/ (in it or above train/ and val/), or 1.jpg beside 1_mask.png"
PICTURES = ("images", "image", "imgs", "img", "jpegimages", "pictures", "leftimg8bit")
MASKS = ("masks", "mask", "annotations", "annotation", "labels", "label", "segmentation", "segmentationclass", "gtfine")
ENDINGS = ("_mask", "-mask", ".mask", "_masks", "_seg", "_segmentation", "_label", "_labels", "_gt", "_labelids",
           "_gtfine_labelids", "_labeltrainids", "_gtfine_labeltrainids")  # fmt: skip
OF_PICTURES = ("_leftimg8bit", "_image", "_img", "_sat")  # endings of pictures that masks do not have
PARTS = ("train", "training", "val", "valid", "validation", "test")
VOID = 255
LOOKED_AT = 24  # masks whose numbers are looked at when a listing is made
FORMATS = ("PNG", "TIFF", "BMP")  # those whose numbers Pillow gives as they are
NOT_EXACT = ("a JPEG picture", "a WebP picture", "an AVIF picture", "a HEIC picture", "a PPM picture", "a GIF picture")
PIXEL_CAP = 178_956_970  # pixels of a mask: as of a picture


def open_masks(address: str, cfg: DataConfig) -> Listing:
    """A folder as above. Target: mask."""
    top, tally = os.path.abspath(address), Tally()
    if not os.path.isdir(top):
        raise BadInput(f"{address} is no folder; {LAYOUT}")
    pairs = _pairs(top, tally)
    if not pairs:
        why = f" ({'; '.join(tally.notes())})" if tally.count else ""
        raise BadInput(f"{address} has no pictures with masks{why}; {LAYOUT}")
    ids, masks = Names.of(pair.picture for pair in pairs), Names.of(pair.mask for pair in pairs)
    names = _classes(top)
    column = MaskColumn(
        reader=FolderReader(top, masks),
        rows=np.arange(len(pairs), dtype=np.int64),
        ids=masks,
        sizes=_sizes(top, masks),
        names=names,
        void=VOID,
    )
    column, notes = _looked_at(column)
    parts = tuple(part for part in PARTS if any(pair.part == part for pair in pairs))
    return Listing(
        where=address,
        reader=FolderReader(top, ids),
        ids=ids,
        sizes=_sizes(top, ids),
        names=column.names,
        ordered=True,
        split=np.array([parts.index(p.part) if p.part else -1 for p in pairs], dtype=np.int8) if parts else None,
        splits=parts,
        targets={"mask": column},
        notes=[*tally.notes(), *notes],
    )


# ---------------------------------------------------------------------------------------------------------------- pairs


class _Pair(NamedTuple):
    """Paths below the top."""

    picture: str
    mask: str
    part: str


def _pairs(top: str, tally: Tally) -> list[_Pair]:
    """A mask belongs to the picture of its own name, or of its name without what its ending adds."""
    pictures, masks = _found(top, tally)
    bare: dict[str, str] = {}
    for key in pictures:
        bare.setdefault(_without(key, OF_PICTURES), key)
    mask_of: dict[str, str] = {}
    for key, path in masks.items():
        short = _without(key, ENDINGS)
        picture = next((p for p in (key, short, bare.get(key), bare.get(short)) if p in pictures), None)
        if picture is None:
            tally.add("masks left out: they have no picture", path)
        elif mask_of.setdefault(picture, path) != path:
            tally.add("masks left out: their picture has another", path)
    for key in sorted(pictures.keys() - mask_of.keys()):
        tally.add("pictures left out: they have no mask", pictures[key])
    return [_Pair(pictures[key], mask_of[key], _part(pictures[key])) for key in sorted(mask_of)]


def _found(top: str, tally: Tally) -> tuple[dict[str, str], dict[str, str]]:
    """Pictures and masks as {path without suffix and without the folder that tells them apart: path below the top}."""
    try:
        found = open_pictures([top])
    except BadInput:
        return {}, {}
    paths = [os.path.relpath(path, top).replace(os.sep, "/") for path in found.source.ids]
    with_masks = any(_folder(path, MASKS) is not None for path in paths)
    with_pictures = any(_folder(path, PICTURES) is not None for path in paths)
    pictures: dict[str, str] = {}
    masks: dict[str, str] = {}
    for path in paths:
        stem = os.path.splitext(path)[0]
        of_mask, of_picture = _folder(path, MASKS), _folder(path, PICTURES)
        is_mask = of_mask is not None if with_masks else _without(stem, ENDINGS) != stem
        at = of_mask if is_mask else of_picture
        if with_masks and with_pictures and at is None:
            tally.add("files left out: they are in no folder of pictures or masks", path)
            continue
        pieces = stem.split("/")
        key = "/".join(pieces if at is None else [*pieces[:at], *pieces[at + 1 :]])
        if (masks if is_mask else pictures).setdefault(key, path) != path:
            tally.add("files left out: another has the same name but for its suffix", path)
    return pictures, masks


def _folder(path: str, names: Sequence[str]) -> int | None:
    """Where in the path the folder of this kind is; the last one counts."""
    pieces = path.lower().split("/")[:-1]
    return next((i for i in reversed(range(len(pieces))) if pieces[i] in names), None)


def _without(stem: str, endings: Sequence[str]) -> str:
    lower = stem.lower()
    ending = max(
        (e for e in endings if lower.endswith(e) and len(e) < len(stem.rpartition("/")[2])), key=len, default=""
    )
    return stem[: len(stem) - len(ending)]


def _part(path: str) -> str:
    return next((piece for piece in path.lower().split("/")[:-1] if piece in PARTS), "")


def _sizes(top: str, names: Names) -> NDArray[np.int64]:
    return np.fromiter((_size(os.path.join(top, name)) for name in names), np.int64, len(names))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _classes(top: str) -> tuple[str, ...]:
    for name in ("classes.txt", "labels.txt"):
        try:
            with open(os.path.join(top, name), encoding="utf-8-sig", errors="surrogateescape") as file:
                names = tuple(line.strip() for line in file if line.strip())
        except OSError:
            continue
        if len(set(names)) < len(names):
            again = next(n for i, n in enumerate(names) if n in names[:i])
            raise BadInput(f"{name} in {top} names {again!r} twice; classes need names of their own")
        return names
    return ()


# -------------------------------------------------------------------------------------------------------------- numbers


def _looked_at(column: MaskColumn) -> tuple[MaskColumn, list[str]]:
    """What the numbers of a few masks, evenly spread, say about all."""
    rows = np.unique(np.linspace(0, len(column) - 1, LOOKED_AT).astype(np.int64)).tolist()
    values: set[int] = set()
    notes, bad = [], []
    for row in rows:
        try:
            values |= set(np.unique(decode_mask(column[row], column.ids[row])).tolist())
        except BadInput as error:
            bad.append(str(error))
    if bad:
        notes.append(f"{len(bad):,} of {len(rows):,} masks looked at cannot be used: {bad[0]}")
    if values == {0, VOID} and len(column.names) in (0, 2):
        notes.append(f"masks hold 0 and {VOID} alone: {VOID} is taken as a class, foreground, not as nothing")
        names = column.names or ("background", "foreground")
        return replace(column, reader=TwoValued(column.reader, column.ids), names=names, void=None), notes
    beyond = sorted(v for v in values - {VOID} if v >= len(column.names))
    if column.names and beyond:
        notes.append(f"masks hold {beyond[0]}, but classes.txt names 0 to {len(column.names) - 1}: mend one of them")
    if not column.names:
        notes.append(f"no classes.txt: classes are numbers, {_span(values - {VOID})} in {len(rows):,} masks looked at")
    return column, notes


def _span(values: set[int]) -> str:
    return f"{min(values)} to {max(values)}" if values else "none"


@dataclass(frozen=True)
class TwoValued:
    """Masks of 0 and 255 as masks of 0 and 1."""

    reader: Reader
    ids: Names

    def read(self, row: int) -> bytes:
        values = decode_mask(self.reader.read(row), self.ids[row])
        other = values[(values != 0) & (values != VOID)]
        if other.size:
            raise BadInput(f"{self.ids[row]} holds {other[0]}, but the masks looked at 0 and {VOID} alone; mend it")
        file = io.BytesIO()
        np.save(file, (values == VOID).astype(np.uint8))
        return file.getvalue()


def decode_mask(data: bytes, name: str = "the mask", size: tuple[int, int] | None = None) -> NDArray[Any]:
    """(H, W) numbers as stored: palette indices, never colours; uint8, or uint16 where the file is deeper. EXIF is not
    applied: who decodes the picture knows whether it was turned. `size`: the height and width that it must have."""
    kind = kind_of(data)
    try:
        values = _npy(data) if kind == "a numpy array" else _indices(data, kind)
    except BadInput as error:
        raise BadInput(f"{name} {error}") from None
    except Exception as error:  # a codec fed with damaged bytes may raise anything
        told = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{name} is damaged ({kind}: {told}); remove it or replace it") from None
    if size is not None and values.shape != tuple(size):
        told = f"{values.shape[1]} x {values.shape[0]} pixels, its picture {size[1]} x {size[0]}"
        raise BadInput(f"{name} has {told}; export it anew in the size of its picture")
    return values


def _npy(data: bytes) -> NDArray[Any]:
    values = np.load(io.BytesIO(data), allow_pickle=False)
    if values.dtype.kind not in "bui" or values.ndim != 2:
        raise BadInput(f"is an array of {values.dtype} and shape {values.shape}; masks are (H, W) of whole numbers")
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise BadInput("holds numbers below 0 or above 65535; write 255 for what stands for nothing")
    return np.asarray(values, dtype=np.uint8 if values.dtype.itemsize == 1 else np.uint16)


def _indices(data: bytes, kind: str) -> NDArray[Any]:
    if kind in NOT_EXACT:
        raise BadInput(f"is {kind}, which may not keep numbers as they were; export masks as PNG")
    if not kind.endswith("picture"):
        raise BadInput(f"is no mask: it holds {kind}; remove or replace it")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > PIXEL_CAP:
        raise BadInput(f"has {image.width} x {image.height} pixels, more than {PIXEL_CAP:,}; scale it down first")
    image.load()
    if image.mode in ("P", "L", "1"):
        return np.asarray(np.asarray(image) // _stretch(image, data), dtype=np.uint8)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadInput("holds numbers below 0 or above 65535; write 255 for what stands for nothing")
        return np.asarray(values.astype(np.uint16))
    bands = np.asarray(image) if image.mode in ("RGB", "RGBA", "LA") else np.empty((0, 0, 0))
    colours = bands[:, :, : {"RGB": 3, "RGBA": 3, "LA": 1}.get(image.mode, 0)]
    if colours.size and (colours == colours[:, :, :1]).all():
        return np.ascontiguousarray(colours[:, :, 0])  # grey that was saved as colour
    raise BadInput(f"is a mask of colours ({image.mode}); export class numbers, as grey or with a palette")


def _stretch(image: Image.Image, data: bytes) -> int:
    """By how much Pillow multiplies grey of 2 or 4 bits, to make its white 255: numbers of classes must not be."""
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        bits, photometric = tags.get(258, (1,)), tags.get(262)
        if image.mode == "L" and (bits not in ((8,), 8) or photometric != 1):
            raise BadInput(f"is a TIFF of {bits} bits and photometric {photometric}; export masks as PNG")
        return 1
    return {2: 85, 4: 17}.get(data[24], 1) if image.format == "PNG" and image.mode == "L" else 1
