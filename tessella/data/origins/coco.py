"""Pictures with COCO's JSON: boxes, outlines and captions, checked line by line; nothing left out without a count.

    annotations/instances_train2017.json + train2017/     as published, also captions_train2017.json
    train/_annotations.coco.json beside the pictures      as exported by labelling tools, also valid/ and test/
    one .json beside its pictures or beside images/       or its own address with data.kind="coco"

Boxes are told as left, top, width, height from 0 and become left, top, right, bottom (see `frames` for turned ones).
Classes are the categories in the order of their ids, which may have holes, and go by name: two files may number them
differently. A picture of the JSON without annotations is one without objects; one that it does not list is unused.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..names import Names
from ..source import Column, DataConfig
from .folder import FolderReader, open_pictures
from .frames import SizeColumn, clipped, compared
from .listing import Listing
from .outlines import OutlineColumn
from .tally import Tally
from .targets import BoxColumn, Boxes, CaptionColumn, Spans

LAYOUT = (
    "expected annotations/instances_train2017.json beside train2017/, train/_annotations.coco.json beside its "
    "pictures, or one COCO .json beside its pictures"
)
PART = re.compile(r"(?:^|[_\-. ])(train|training|val|valid|validation|test)[_\-]?\d{0,4}(?=$|[_\-. ])", re.IGNORECASE)
Four = tuple[float, float, float, float]  # left, top, width, height
UNUSED = ("person_keypoints", "panoptic", "stuff", "image_info")  # beginnings of names of files that hold other things
TRIED = 64  # file names that are looked for to find out in which folder the pictures lie


def open_coco(address: str, cfg: DataConfig) -> Listing:
    """A folder, or the .json itself. Targets: boxes, size, and where there are any, outlines and caption."""
    with _no_collection():
        return _listed(address)


def _listed(address: str) -> Listing:
    top, files, notes = _files(address)
    pages = [_page(file, notes) for file in files]
    _places(top, files, pages)
    found = _on_disk(top, {page.folder for page in pages})
    listed = [os.path.normpath(os.path.join(page.folder, name)) for page in pages for name in page.names]
    sizes = np.fromiter(
        (found.pop(path, -1) if path in found else _size(path) for path in listed), np.int64, len(listed)
    )
    kept = np.flatnonzero(sizes >= 0)
    if not len(kept):
        raise BadInput(f"{address}: none of the {len(listed):,} pictures of {files[0].path} is on disk; {LAYOUT}")
    if len(kept) < len(listed):
        first = listed[int(np.flatnonzero(sizes < 0)[0])]
        notes.append(f"{len(listed) - len(kept):,} pictures of the JSON are not on disk and left out (first: {first})")
    if found:
        notes.append(f"{len(found):,} pictures on disk are not in the JSON and not used (first: {min(found)})")
    ids = Names.of(os.path.relpath(listed[i], top).replace(os.sep, "/") for i in kept.tolist())
    classes = tuple(dict.fromkeys(name for page in pages for name in page.classes))
    targets = {name: column.take(kept) for name, column in _targets(pages, classes, Names.of(listed)).items()}
    reader = FolderReader(top, ids)
    notes += _empty(classes, targets) + compared(reader, ids, targets["size"])
    parts = [file.part for file in files if file.part]
    numbers = np.repeat(np.arange(len(pages), dtype=np.int8), [len(page.names) for page in pages])
    return Listing(
        where=address,
        reader=reader,
        ids=ids,
        sizes=sizes[kept],
        names=classes,
        ordered=True,
        split=numbers[kept] if parts else None,
        splits=tuple(parts),
        targets=targets,
        notes=notes,
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python looks through all objects whenever many are new: a quarter of the time that a large JSON takes."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


# ------------------------------------------------------------------------------------------------------------ the files


@dataclass(frozen=True, kw_only=True)
class _File:
    """Which JSON, for which part."""

    path: str
    part: str = ""  # train, val, ...; empty: the only one
    captions: str | None = None  # the file with captions of the same pictures


def _files(address: str) -> tuple[str, list[_File], list[str]]:
    """(folder that everything lies below, JSON files, notes)."""
    if os.path.isfile(address):
        folder = os.path.dirname(os.path.abspath(address))
        top = os.path.dirname(folder) if os.path.basename(folder).lower() in ("annotations", "labels") else folder
        beside = os.path.join(folder, os.path.basename(address).replace("instances_", "captions_"))
        captions = beside if os.path.isfile(beside) and beside != os.path.abspath(address) else None
        return top, [_File(path=os.path.abspath(address), captions=captions)], []
    top = os.path.abspath(address)
    if not os.path.isdir(top):
        raise BadInput(f"{address} is neither a folder nor a file; {LAYOUT}")
    inner = next((n for n in sorted(os.listdir(top)) if n.lower() == "annotations"), "")
    for names in (_jsons(top, inner) if inner else [], _exported(top), _jsons(top, "")):
        if names:
            files, notes = _chosen(top, names)
            return top, files, notes
    raise BadInput(f"{address} has no COCO file; {LAYOUT}")


def _jsons(top: str, below: str) -> list[str]:
    names = sorted(os.listdir(os.path.join(top, below)))
    return [os.path.join(below, n) for n in names if n.lower().endswith(".json") and not n.startswith(".")]


def _exported(top: str) -> list[str]:
    """train/_annotations.coco.json and its like: the only JSON of a folder that is called as a part."""
    folders = [n for n in sorted(os.listdir(top)) if PART.fullmatch(n) and os.path.isdir(os.path.join(top, n))]
    found = [(_jsons(top, n), n) for n in folders]
    return [names[0] for names, _ in found if len(names) == 1]


def _chosen(top: str, names: Sequence[str]) -> tuple[list[_File], list[str]]:
    """Files by part; captions join the boxes of the same name."""
    notes: list[str] = []
    parts: dict[str, _File] = {}
    captions = {n for n in names if os.path.basename(n).startswith("captions_")}
    for name in names:
        stem = os.path.basename(name)
        if stem.startswith(UNUSED):
            notes.append(f"{name} is not used: of COCO's files, instances and captions are read")
        elif name not in captions or name.replace("captions_", "instances_") not in names:
            beside = name.replace("instances_", "captions_")
            part = (PART.search(os.path.splitext(stem)[0]) or PART.search(os.path.dirname(name)) or [""] * 2)[1].lower()
            if part in parts:
                other = os.path.basename(parts[part].path)
                raise BadInput(
                    f"{top} has two files for {part or 'all'}: {other} and {stem}; give one of them as address"
                )
            with_captions = os.path.join(top, beside) if beside in captions and beside != name else None
            parts[part] = _File(path=os.path.join(top, name), part=part, captions=with_captions)
    if not parts:
        raise BadInput(f"{top} has no COCO file with boxes or captions ({', '.join(names)}); {LAYOUT}")
    if "" in parts and len(parts) > 1:
        stem = os.path.basename(parts.pop("").path)
        notes.append(f"{stem} is not used: it is called neither train nor val, and others are")
    return list(parts.values()), notes


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            told = json.load(file)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); restore it") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no whole JSON ({' '.join(str(error).split())}); fetch or export it anew") from None
    if not isinstance(told, dict):
        raise BadInput(f"{path} is a list; a COCO file is an object with images, annotations, categories")
    for key in ("images", "annotations"):
        if not isinstance(told.get(key), list) or not all(isinstance(entry, dict) for entry in told[key]):
            has = ", ".join(map(str, told)) or "nothing"
            raise BadInput(
                f"{path} has no list of {key} (it has {has}); a COCO file has images, annotations, categories"
            )
    return told


# ----------------------------------------------------------------------------------------------------------- one file


@dataclass(eq=False)
class _Page:
    """What one file says, checked."""

    names: list[str]  # of pictures, below `folder`
    sizes: NDArray[np.int64]  # (n, 2) height, width
    classes: tuple[str, ...]
    rows: NDArray[np.int64]  # picture of each box
    boxes: Boxes  # in the order of pictures
    shapes: list[Any]  # of each box
    captions: list[list[str]]
    folder: str = ""


def _page(file: _File, notes: list[str]) -> _Page:
    told, tally = _read(file.path), Tally()
    names, sizes, row_of = _pictures(told["images"], file.path, tally)
    captions: list[list[str]] = [[] for _ in names]
    only_captions = not told.get("categories") and any("caption" in entry for entry in told["annotations"])
    classes, class_of = ((), {}) if only_captions else _categories(told.get("categories"), file.path, tally)
    drawn = _Drawn() if only_captions else _drawn(told["annotations"], row_of, class_of, tally)
    if only_captions or file.captions:
        said = told if only_captions or not file.captions else _read(file.captions)
        _write_down(said["annotations"], row_of, captions, tally)
    rows, boxes, shapes = _checked(drawn, sizes, tally)
    if any("keypoints" in entry for entry in told["annotations"][:1000]):
        notes.append(f"{os.path.basename(file.path)}: keypoints are not used")
    notes += tally.notes(os.path.basename(file.path))
    return _Page(names, sizes, classes, rows, boxes, shapes, captions)


def _pictures(
    entries: Sequence[Mapping[str, Any]], path: str, tally: Tally
) -> tuple[list[str], NDArray[np.int64], dict[Any, int]]:
    """(names, (n, 2) sizes, {id: row})."""
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    row_of: dict[Any, int] = {}
    row_of_name: dict[str, int] = {}
    for i, entry in enumerate(entries):
        name = entry.get("file_name") or urlsplit(str(entry.get("coco_url") or "")).path
        if not isinstance(name, str) or not name or not isinstance(entry.get("id"), int | str):
            raise BadInput(f"{path}: images[{i}] has no 'file_name' or no 'id'; export it anew")
        plain = _plain(name)
        row = row_of_name.setdefault(plain, len(names))
        if row_of.setdefault(entry["id"], row) != row:
            other = names[row_of[entry["id"]]]
            raise BadInput(f"{path}: {other} and {plain} have the same id {entry['id']}; give each picture its own")
        if row < len(names):
            tally.add("pictures listed twice: their annotations are joined", plain)
            continue
        names.append(plain)
        sizes.append((_whole(entry.get("height")), _whole(entry.get("width"))))
    if not names:
        raise BadInput(f"{path} lists no pictures; export it anew")
    return names, np.array(sizes, dtype=np.int64), row_of


def _plain(name: str) -> str:
    """A path below the folder of pictures; of one that leads out, or lay on another machine, its last part."""
    parts = [p for p in name.replace("\\", "/").split("/") if p not in ("", ".")]
    away = name[:1] in ("/", "\\") or ".." in parts or re.match(r"[A-Za-z]:", name)
    return parts[-1] if away and parts else "/".join(parts)


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0


def _categories(entries: Any, path: str, tally: Tally) -> tuple[tuple[str, ...], dict[Any, int]]:
    """(names in the order of ids, {id: index})."""
    try:
        named = sorted((int(entry["id"]), entry["id"], str(entry["name"])) for entry in entries or ())
    except (TypeError, KeyError, ValueError):
        raise BadInput(f"{path}: its categories are no list of 'id' (a number) and 'name'; export it anew") from None
    if not named:
        raise BadInput(f"{path} has no categories; a COCO file has images, annotations, categories")
    classes = tuple(dict.fromkeys(name for _, _, name in named))
    ids = {number: classes.index(name) for _, number, name in named}
    if len(ids) < len(named):
        raise BadInput(f"{path}: two categories have the same id; give each its own")
    for name in classes if len(classes) < len(named) else ():
        if (n := sum(name == other for _, _, other in named)) > 1:
            tally.add("categories with a name that another has: they are one class", name, n - 1)
    return classes, ids


@dataclass
class _Drawn:
    """Annotations with a picture, a class and four numbers, as they come."""

    rows: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    numbers: list[Four] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    shapes: list[Any] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # ids, for messages


def _drawn(
    entries: Iterable[Mapping[str, Any]], row_of: Mapping[Any, int], class_of: Mapping[Any, int], tally: Tally
) -> _Drawn:
    out = _Drawn()
    seen: dict[str, tuple[Any, ...]] = {}
    for i, entry in enumerate(entries):
        key = str(entry.get("id", f"number {i}"))
        row, number = _looked_up(row_of, entry.get("image_id")), _looked_up(class_of, entry.get("category_id"))
        box = _four(entry.get("bbox"))
        if row is None:
            tally.add("boxes left out: their image_id is not in the file", f"annotation {key}")
        elif number is None:
            tally.add("boxes left out: their category_id is not in the file", f"annotation {key}")
        elif box is None:
            tally.add("annotations left out: they have no box of four finite numbers", f"annotation {key}")
        elif seen.get(key) == (row, number, box):
            tally.add("boxes left out: the same annotation a second time", f"annotation {key}")
        else:
            if key in seen:
                tally.add("annotations with an id that another has: all are used", f"annotation {key}")
            seen[key] = (row, number, box)
            out.rows.append(row)
            out.classes.append(number)
            out.numbers.append(box)
            out.crowd.append(bool(entry.get("iscrowd")) or bool(entry.get("ignore")))
            out.shapes.append(entry.get("segmentation") or None)
            out.keys.append(f"annotation {key}")
    return out


def _looked_up(known: Mapping[Any, int], key: Any) -> int | None:
    return known.get(key) if isinstance(key, int | str) else None


def _four(value: Any) -> Four | None:
    try:
        left, top, width, height = map(float, value)
    except (TypeError, ValueError, OverflowError):
        return None
    box = (left, top, width, height)
    return box if all(map(math.isfinite, box)) else None


def _checked(drawn: _Drawn, sizes: NDArray[np.int64], tally: Tally) -> tuple[NDArray[np.int64], Boxes, list[Any]]:
    """Corners from left, top, width, height; clipped to the picture; in the order of pictures."""
    rows = np.array(drawn.rows, dtype=np.int64)
    numbers = np.array(drawn.numbers, dtype=np.float64).reshape(-1, 4)
    corners = np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], axis=1)
    inside, good = clipped(corners, sizes[rows], drawn.keys, tally)
    order = good[np.argsort(rows[good], kind="stable")]
    classes, crowd = np.array(drawn.classes, dtype=np.int64)[order], np.array(drawn.crowd, dtype=np.bool_)[order]
    return rows[order], Boxes(inside[order], classes, crowd), [drawn.shapes[i] for i in order.tolist()]


def _write_down(
    entries: Iterable[Mapping[str, Any]], row_of: Mapping[Any, int], captions: list[list[str]], tally: Tally
) -> None:
    for i, entry in enumerate(entries):
        row, text = _looked_up(row_of, entry.get("image_id")), entry.get("caption")
        where = f"annotation {entry.get('id', f'number {i}')}"
        if row is None:
            tally.add("captions left out: their image_id is not in the file", where)
        elif not isinstance(text, str) or not text.strip():
            tally.add("captions left out: they are empty", where)
        else:
            captions[row].append(text.strip())


# ----------------------------------------------------------------------------------------------------------- all files


def _targets(pages: Sequence[_Page], classes: tuple[str, ...], ids: Names) -> dict[str, Any]:
    """Columns over the pictures of all pages, one page after another."""
    counts = [len(page.names) for page in pages]
    sizes = np.concatenate([page.sizes for page in pages])
    spans = Spans.of(np.concatenate([np.bincount(p.rows, minlength=n) for p, n in zip(pages, counts, strict=True)]))
    number = {name: i for i, name in enumerate(classes)}
    of_class = [np.array([number[name] for name in page.classes], dtype=np.int64) for page in pages]
    targets: dict[str, Column] = {"size": SizeColumn(sizes)}
    if classes:
        parts = [p.boxes._replace(classes=table[p.boxes.classes]) for p, table in zip(pages, of_class, strict=True)]
        boxes = Boxes(*(np.concatenate(values) for values in zip(*parts, strict=True)))
        targets["boxes"] = BoxColumn(boxes, spans, classes)
    shapes = [shape for page in pages for shape in page.shapes]
    if any(shape is not None for shape in shapes):
        each = zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)
        targets["outlines"] = OutlineColumn.of([shapes[start:end] for start, end in each], sizes, ids)
    if any(texts for page in pages for texts in page.captions):
        targets["caption"] = CaptionColumn.of([texts for page in pages for texts in page.captions])
    return targets


def _empty(classes: Sequence[str], targets: Mapping[str, Column]) -> list[str]:
    column = targets.get("boxes")
    if not isinstance(column, BoxColumn):
        return []
    notes = []
    counts = np.bincount(column.boxes.classes[column.spans.flat()], minlength=len(classes))
    none = [name for name, n in zip(classes, counts, strict=True) if not n]
    if none:
        told = ", ".join(map(repr, none[:10])) + (", ..." if len(none) > 10 else "")
        notes.append(f"{len(none):,} of {len(classes):,} classes have no boxes: {told}")
    if negatives := int((column.spans.starts == column.spans.ends).sum()):
        notes.append(
            f"{negatives:,} of {len(column):,} pictures have no boxes: they are used as pictures without objects"
        )
    return notes


def _places(top: str, files: Sequence[_File], pages: Sequence[_Page]) -> None:
    """In which folder the pictures of each page lie: the one that has most of some that are looked for."""
    for file, page in zip(files, pages, strict=True):
        base, stem = os.path.dirname(file.path), os.path.splitext(os.path.basename(file.path))[0]
        suffix = stem.rpartition("_")[2]
        below = [n for name in (suffix, file.part, stem) if name for n in (name, f"images/{name}", f"{name}/images")]
        inside = [] if os.path.samefile(base, top) else [base, os.path.join(base, "images")]
        places = [*inside, *(os.path.join(top, n) for n in below), os.path.join(top, "images"), top]
        some = [page.names[int(i)] for i in np.unique(np.linspace(0, len(page.names) - 1, TRIED).astype(int))]
        hits = [sum(_size(os.path.join(place, name)) >= 0 for name in some) for place in places]
        page.folder = os.path.normpath(places[int(np.argmax(hits))])


def _on_disk(top: str, folders: set[str]) -> dict[str, int]:
    """{path: bytes} of every picture in these folders."""
    outermost = [
        f for f in sorted(folders) if not any(f != g and f.startswith(g.rstrip(os.sep) + os.sep) for g in folders)
    ]
    try:
        source, _ = open_pictures(outermost)
    except BadInput:
        return {}  # none there at all: said by name, with what was looked for
    return {os.path.normpath(path): size for path, size in source.manifest()}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size if os.path.isfile(path) else -1
    except (OSError, ValueError):  # a zero byte in the name
        return -1
