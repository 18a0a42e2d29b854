"""Pictures with Pascal VOC's XML: one file of boxes for each, and masks of classes where there are any.

    VOCdevkit/VOC2012/{Annotations,JPEGImages,ImageSets/Main,SegmentationClass}    as published, also several years
    Annotations/*.xml beside images/, or .xml beside their pictures                as labelling tools write them
    train/, valid/, test/ that hold such pairs

VOC counts pixels from 1 and its last corner belongs to the box: 1, 1, 2, 2 are four pixels, here 0, 0, 2, 2. What is
marked difficult counts as crowd: no object to learn, none to be blamed for. Classes are those of classes.txt where
there is one, VOC's twenty in a VOC folder, else the names found, sorted. In masks 0 is the background, n + 1 class n.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..names import Names
from ..source import Column, DataConfig
from .folder import FolderReader, open_pictures
from .frames import SizeColumn, clipped, compared
from .listing import Listing
from .tally import Tally
from .targets import BoxColumn, Boxes, MaskColumn, Spans

LAYOUT = "expected Annotations/*.xml beside JPEGImages/ or images/, or .xml files beside their pictures"
TWENTY = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)
PARTS = ("train", "training", "val", "valid", "validation", "test")
LARGEST = 16 << 20  # bytes of one XML: a picture with 50,000 boxes
DEEPEST = 32  # elements inside each other: VOC needs five
SIDES = ("xmin", "ymin", "xmax", "ymax")


def open_voc(address: str, cfg: DataConfig) -> Listing:
    """A folder as above. Targets: boxes, size, and mask where there is SegmentationClass."""
    top, tally = os.path.abspath(address), Tally()
    if not os.path.isdir(top):
        raise BadInput(f"{address} is no folder; {LAYOUT}")
    places = _places(top)
    read = [(s, _parsed(top, s, tally)) for place in places for s in _samples(top, place, tally)]
    found = [sample for sample, page in read if page is not None]
    told = [page for _, page in read if page is not None]
    if not found:
        why = f" ({'; '.join(tally.notes())})" if tally.count else ""
        raise BadInput(f"{address} has no pictures with an .xml{why}; {LAYOUT}")
    ids = Names.of(sample.picture for sample in found)
    names = {entry.name for page in told for entry in page.objects}
    classes = _classes(top, places, names, tally)
    sizes = np.array([page.size for page in told], dtype=np.int64).reshape(-1, 2)
    targets: dict[str, Column] = {"size": SizeColumn(sizes), "boxes": _boxes(told, sizes, classes, ids, tally)}
    if any(sample.mask for sample in found):
        targets["mask"] = _masks(top, found, ("background", *classes))
    reader = FolderReader(top, ids)
    parts = tuple(p for p in PARTS if any(sample.part == p for sample in found))
    return Listing(
        where=address,
        reader=reader,
        ids=ids,
        sizes=np.array([_size(os.path.join(top, name)) for name in ids], dtype=np.int64),
        names=classes,
        ordered=True,
        split=np.array([parts.index(s.part) if s.part else -1 for s in found], dtype=np.int8) if parts else None,
        splits=parts,
        targets=targets,
        notes=[*tally.notes(), *compared(reader, ids, SizeColumn(sizes))],
    )


# ------------------------------------------------------------------------------------------------------------ the files


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Folders of one year or one part, below the top."""

    xmls: str
    pictures: str
    masks: str = ""
    part: str = ""  # of all its pictures
    lists: Mapping[str, str] | None = None  # name without suffix -> part, from ImageSets/Main


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Paths below the top."""

    picture: str
    xml: str
    mask: str
    part: str


def _places(top: str) -> list[_Place]:
    for below in ("", "VOCdevkit"):
        base = os.path.join(top, below)
        if not os.path.isdir(base):
            continue
        if (one := _year(top, below)) is not None:
            return [one]
        inner = [os.path.join(below, n) for n in sorted(os.listdir(base)) if os.path.isdir(os.path.join(base, n))]
        years = [(name, _year(top, name)) for name in inner]
        if any(year is not None for _, year in years):
            parts = {name: os.path.basename(name).lower() for name, _ in years}
            return [_in_part(year, parts[name]) for name, year in years if year is not None]
        pairs = [n for n in inner if os.path.basename(n).lower() in PARTS and _with_suffix(top, n, ".xml")]
        if pairs:
            return [_Place(xmls=n, pictures=n, part=os.path.basename(n).lower()) for n in pairs]
        if _with_suffix(top, below, ".xml"):
            return [_Place(xmls=below, pictures=below)]
    raise BadInput(f"{top} has no VOC annotations; {LAYOUT}")


def _in_part(year: _Place, name: str) -> _Place:
    return _Place(**{**vars(year), "part": name}) if name in PARTS and year.lists is None else year


def _year(top: str, below: str) -> _Place | None:
    """Annotations/ with what belongs to it."""
    inside = {n.lower(): os.path.join(below, n) for n in sorted(os.listdir(os.path.join(top, below)))}
    xmls = inside.get("annotations", "")
    if not xmls or not _with_suffix(top, xmls, ".xml"):
        return None
    pictures = next((inside[n] for n in ("jpegimages", "images", "image", "imgs") if n in inside), below)
    lists = _lists(os.path.join(top, inside["imagesets"], "Main")) if "imagesets" in inside else None
    return _Place(xmls=xmls, pictures=pictures, masks=inside.get("segmentationclass", ""), lists=lists)


def _lists(folder: str) -> Mapping[str, str] | None:
    """trainval.txt only where the two are not told apart. Lists of single classes (cat_train.txt) are not parts."""
    out: dict[str, str] = {}
    for name, part in (("trainval", "train"), ("train", "train"), ("val", "val"), ("test", "test")):
        try:
            with open(os.path.join(folder, f"{name}.txt"), encoding="utf-8", errors="surrogateescape") as file:
                stems = [line.split()[0] for line in file if line.strip()]
        except OSError:
            continue
        out.update(dict.fromkeys(stems, part))
    return out or None


def _with_suffix(top: str, below: str, suffix: str) -> list[str]:
    try:
        names = os.listdir(os.path.join(top, below))
    except OSError:
        return []
    return sorted(n for n in names if n.lower().endswith(suffix) and not n.startswith("."))


def _samples(top: str, place: _Place, tally: Tally) -> Iterator[_Sample]:
    """Pictures with an XML of the same name."""
    folder = os.path.join(top, place.pictures)
    by_stem: dict[str, str] = {}
    for path in open_pictures([folder]).source.ids if os.path.isdir(folder) else ():
        name = os.path.relpath(path, folder)
        if place.masks and os.path.join(place.pictures, name).startswith(place.masks + os.sep):
            continue
        if by_stem.setdefault(os.path.splitext(name)[0], name) != name:
            tally.add("pictures left out: another has the same name before its suffix", name)
    masks = {os.path.splitext(n)[0]: n for n in _with_suffix(top, place.masks, ".png")} if place.masks else {}
    lists = place.lists or {}
    used = set()
    for xml in _with_suffix(top, place.xmls, ".xml"):
        stem = os.path.splitext(xml)[0]
        if stem not in by_stem:
            tally.add("annotations left out: there is no picture of the same name", os.path.join(place.xmls, xml))
            continue
        used.add(stem)
        yield _Sample(
            picture=_posix(os.path.join(place.pictures, by_stem[stem])),
            xml=os.path.join(place.xmls, xml),
            mask=_posix(os.path.join(place.masks, masks[stem])) if stem in masks else "",
            part=place.part or lists.get(stem, ""),
        )
    if bare := by_stem.keys() - used:
        tally.add("pictures left out: they have no .xml", min(by_stem[stem] for stem in bare), len(bare))
    gone = lists.keys() - used
    if gone:
        tally.add("names of ImageSets have no picture with an .xml and are left out", min(gone), len(gone))


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


# -------------------------------------------------------------------------------------------------------------- one XML


@dataclass
class _Object:
    name: str = ""
    sides: dict[str, str] = field(default_factory=dict)
    difficult: bool = False


@dataclass
class _Page:
    """What one XML says."""

    size: tuple[int, int]  # height, width; (0, 0): not told
    objects: list[_Object]


def _parsed(top: str, sample: _Sample, tally: Tally) -> _Page | None:
    """None where the file is damaged: its picture is left out, or it would count as one without objects."""
    try:
        with open(os.path.join(top, sample.xml), "rb") as file:
            page = parse(file.read(LARGEST + 1), sample.xml)
    except OSError as error:
        tally.add("pictures left out: their .xml cannot be read", f"{sample.xml}: {error.strerror}")
        return None
    except BadInput as error:
        tally.add("pictures left out: their .xml is damaged", error)
        return None
    if page.size == (0, 0):
        tally.add("annotations do not tell the size of their picture", sample.xml)
    return page


def parse(data: bytes, name: str) -> _Page:
    """Plain elements only: a document type could declare entities that swell or that read other files."""
    if len(data) > LARGEST:
        raise BadInput(f"{name} has more than {LARGEST:,} bytes; VOC annotations are small")
    reader = _Reader(name)
    try:
        reader.parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two: an encoding that is not known
        raise BadInput(f"{name} is no whole XML ({' '.join(str(error).split())}); write it anew") from None
    return _Page((reader.number("height"), reader.number("width")), reader.objects)


class _Reader:
    """Texts by the path of their element; nothing else is kept."""

    def __init__(self, name: str) -> None:
        self.name, self.path, self.text = name, [""], ""
        self.objects: list[_Object] = []
        self.told: dict[str, str] = {}
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def number(self, key: str) -> int:
        value = _float(self.told.get(key, ""))
        return int(value) if value is not None and 0 < value < 2**31 else 0

    def _refuse(self, *_: object) -> None:
        raise BadInput(f"{self.name} declares a document type or entities, which annotations do not need; remove that")

    def _start(self, tag: str, _: object) -> None:
        if len(self.path) > DEEPEST:
            raise BadInput(f"{self.name} has more than {DEEPEST} elements inside each other; VOC annotations are flat")
        self.path.append(tag)
        self.text = ""
        if self.path[2:] == ["object"]:
            self.objects.append(_Object())

    def _characters(self, text: str) -> None:
        self.text += text

    def _end(self, tag: str) -> None:
        where, text = self.path[2:], self.text.strip()
        if where[:1] == ["object"]:
            last = self.objects[-1]
            if where == ["object", "name"]:
                last.name = text
            elif where == ["object", "difficult"]:
                last.difficult = text == "1"
            elif where[:2] == ["object", "bndbox"] and len(where) == 3:
                last.sides[tag] = text
        elif len(where) == 2 and where[0] == "size":
            self.told[tag] = text
        self.path.pop()
        self.text = ""


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------------------- the columns


def _classes(top: str, places: Iterable[_Place], found: set[str], tally: Tally) -> tuple[str, ...]:
    found = found - {""}
    for name in ("classes.txt", "labels.txt"):
        try:
            with open(os.path.join(top, name), encoding="utf-8-sig", errors="surrogateescape") as file:
                told = tuple(dict.fromkeys(line.strip() for line in file if line.strip()))
        except OSError:
            continue
        for extra in sorted(found - set(told)):
            tally.add(f"classes of annotations are not in {name} and come after its own", extra)
        return (*told, *sorted(found - set(told)))
    published = any(re.search(r"VOC\d{4}", os.path.join(top, place.xmls)) for place in places)
    return TWENTY if published and found <= set(TWENTY) else tuple(sorted(found))


def _boxes(
    told: Sequence[_Page], sizes: NDArray[np.int64], classes: tuple[str, ...], ids: Names, tally: Tally
) -> BoxColumn:
    number = {name: i for i, name in enumerate(classes)}
    rows, corners, of_class, crowd, keys = [], [], [], [], []
    for row, page in enumerate(told):
        for k, entry in enumerate(page.objects):
            sides = [_float(entry.sides.get(side, "")) for side in SIDES]
            if None in sides or not entry.name:
                tally.add("objects left out: they have no name or no box of four numbers", f"{ids[row]}, object {k}")
                continue
            if 0 in sides[:2]:
                tally.add("boxes begin at 0, but VOC counts from 1: they may be a pixel off", f"{ids[row]}, object {k}")
            rows.append(row)
            corners.append([float(v or 0) - (i < 2) for i, v in enumerate(sides)])  # from 1 and inclusive
            of_class.append(number[entry.name])
            crowd.append(entry.difficult)
            keys.append(f"{ids[row]}, object {k}")
    where = np.array(rows, dtype=np.int64)
    inside, good = clipped(np.array(corners, dtype=np.float64).reshape(-1, 4), sizes[where], keys, tally)
    boxes = Boxes(inside[good], np.array(of_class, dtype=np.int64)[good], np.array(crowd, dtype=np.bool_)[good])
    counts = np.bincount(where[good], minlength=len(told))
    if empty := int((counts == 0).sum()):
        first = ids[int(np.argmin(counts))]
        tally.add("pictures have no boxes: they are used as pictures without objects", first, empty)
    return BoxColumn(boxes, Spans.of(counts), classes)


def _masks(top: str, found: Sequence[_Sample], names: tuple[str, ...]) -> MaskColumn:
    ids = Names.of(sample.mask for sample in found)
    return MaskColumn(
        reader=FolderReader(top, ids),
        rows=np.array([i if sample.mask else -1 for i, sample in enumerate(found)], dtype=np.int64),
        ids=ids,
        sizes=np.array([_size(os.path.join(top, s.mask)) if s.mask else -1 for s in found], dtype=np.int64),
        names=names,
    )
