"""Pictures with YOLO's text files: a line for each object, its class by number, its place as shares of the picture.

    images/train/1.jpg + labels/train/1.txt, train/images/1.jpg + train/labels/1.txt, or 1.jpg beside 1.txt
    data.yaml (names), classes.txt or obj.names tell the classes; else they are called by their numbers

A line is `class centre_x centre_y width height`, or `class x y x y x y ...`: an outline. Shares are of the upright
picture, as these tools turn it by EXIF; so the header of every picture is read, for its size. A picture without a text
file, or with an empty one, is one without objects.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import BadInput
from ..names import Names
from ..pixels.decode import header
from ..source import Column, DataConfig
from .folder import FolderReader, open_pictures
from .frames import SizeColumn, clipped
from .listing import Listing
from .outlines import OutlineColumn
from .tally import Tally
from .targets import BoxColumn, Boxes, Spans

LAYOUT = "expected images/train/1.jpg beside labels/train/1.txt, or 1.jpg beside 1.txt, and names in data.yaml"
PARTS = ("train", "training", "val", "valid", "validation", "test")
OTHER = ("classes.txt", "obj.names", "labels.txt", "readme.txt", "train.txt", "val.txt", "test.txt")
HEAD = 65_536  # bytes that most often hold a picture's header
MOST = 100_000  # classes
FAR = 1.5  # above this a number is no share of a picture, but a pixel


def open_yolo(address: str, cfg: DataConfig) -> Listing:
    """A folder, or its data.yaml. Targets: boxes, size, and outlines where there are any."""
    given = os.path.abspath(address)
    top, tally = (os.path.dirname(given) if os.path.isfile(given) else given), Tally()
    if not os.path.isdir(top):
        raise BadInput(f"{address} is neither a folder nor a file; {LAYOUT}")
    pictures, texts = _files(top, tally)
    rows = _Rows()
    kept: list[str] = []
    sizes: list[tuple[int, int]] = []
    for picture in pictures:
        try:
            sizes.append(_picture_size(os.path.join(top, picture), picture))
        except BadInput as error:
            tally.add("pictures left out: they cannot be read", error)
            continue
        _lines(top, texts.get(picture), sizes[-1], rows, tally)
        kept.append(picture)
    if not kept or not texts:
        why = f" ({'; '.join(tally.notes())})" if tally.count else ""
        raise BadInput(f"{address} has no pictures with .txt labels{why}; {LAYOUT}")
    ids, named = Names.of(kept), _named(top, given)
    classes = _numbered(top, named, rows, tally)
    parts = tuple(part for part in PARTS if any(_part(name) == part for name in kept))
    split = [parts.index(_part(name)) if _part(name) else -1 for name in kept]
    targets = _targets(rows, np.array(sizes, dtype=np.int64), classes, ids, tally)
    return Listing(
        where=address,
        reader=FolderReader(top, ids),
        ids=ids,
        sizes=np.array([os.stat(os.path.join(top, name)).st_size for name in kept], dtype=np.int64),
        names=classes,
        ordered=True,
        split=np.array(split, dtype=np.int8) if parts else None,
        splits=parts,
        targets=targets,
        notes=[
            *tally.notes(),
            *([] if named else ["no data.yaml or classes.txt: classes are called by their numbers"]),
        ],
    )


# ------------------------------------------------------------------------------------------------------------ the files


def _files(top: str, tally: Tally) -> tuple[list[str], dict[str, str]]:
    """(pictures, {picture: its text}), below the top."""
    try:
        found = open_pictures([top]).source.ids
    except BadInput:
        found = Names.of(())
    pictures = sorted(os.path.relpath(path, top).replace(os.sep, "/") for path in found)
    all_texts = {
        os.path.relpath(os.path.join(folder, name), top).replace(os.sep, "/")
        for folder, _, names in os.walk(top)
        for name in names
        if name.lower().endswith(".txt") and name.lower() not in OTHER and not name.startswith(".")
    }
    texts = {}
    for picture in pictures:
        stem = os.path.splitext(picture)[0]
        beside = re.sub(r"(.*/|^)images(?=/)", r"\1labels", stem, count=1) + ".txt"  # the last folder that is called so
        text = next((t for t in (beside, stem + ".txt") if t in all_texts), None)
        if text is None:
            tally.add("pictures have no .txt: they are used as pictures without objects", picture)
        else:
            texts[picture] = text
    if alone := all_texts - set(texts.values()):
        tally.add("texts left out: they have no picture", min(alone), len(alone))
    return pictures, texts


def _part(name: str) -> str:
    return next((piece for piece in name.lower().split("/")[:-1] if piece in PARTS), "")


def _picture_size(path: str, name: str) -> tuple[int, int]:
    """(height, width), upright."""
    try:
        with open(path, "rb") as file:
            start = file.read(HEAD)
            try:
                head = header(start, name)
            except BadInput:
                head = header(start + file.read(), name)  # a long EXIF block stood before it
    except OSError as error:
        raise BadInput(f"{name} ({error.strerror})") from None
    return head.height, head.width


# ------------------------------------------------------------------------------------------------------------- one text


@dataclass
class _Rows:
    """Objects of all pictures, one picture after another."""

    lengths: list[int] = field(default_factory=list)  # of each picture
    rows: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    corners: list[tuple[float, float, float, float]] = field(default_factory=list)  # pixels
    shapes: list[Any] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def _lines(top: str, text: str | None, size: tuple[int, int], out: _Rows, tally: Tally) -> None:
    row = len(out.lengths)
    out.lengths.append(0)
    for number, line in enumerate(_read(top, text, tally).splitlines(), 1):
        where = f"{text}, line {number}"
        if not line.strip():
            continue
        values = _numbers(line)
        if values is None or len(values) < 5 or len(values) % 2 == 0 or values[0] < 0 or values[0] % 1:
            tally.add("lines left out: they are neither class and box nor class and outline", where)
        elif max(map(abs, values[1:])) > FAR:
            tally.add("lines left out: their numbers are pixels, not shares of the picture", where)
        else:
            shares = np.array(values[1:]).reshape(-1, 2)
            if len(shares) == 2:
                shares = np.stack([shares[0] - shares[1] / 2, shares[0] + shares[1] / 2])
            points = shares * (size[1], size[0])
            out.rows.append(row)
            out.classes.append(int(values[0]))
            (left, upper), (right, lower) = points.min(0).tolist(), points.max(0).tolist()
            out.corners.append((left, upper, right, lower))
            out.shapes.append([np.round(points, 3).ravel().tolist()] if len(values) > 5 else None)
            out.keys.append(where)


def _read(top: str, text: str | None, tally: Tally) -> str:
    if text is None:
        return ""
    try:
        with open(os.path.join(top, text), encoding="utf-8-sig", errors="replace") as file:
            return file.read()
    except OSError as error:
        tally.add("texts cannot be read", f"{text}: {error.strerror}")
        return ""


def _numbers(line: str) -> list[float] | None:
    try:
        values = [float(piece) for piece in line.split()]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


# ---------------------------------------------------------------------------------------------------------- the columns


def _targets(rows: _Rows, sizes: Any, classes: Sequence[str], ids: Names, tally: Tally) -> dict[str, Column]:
    where = np.array(rows.rows, dtype=np.int64)
    corners = np.array(rows.corners, dtype=np.float64).reshape(-1, 4)
    inside, good = clipped(corners, sizes[where], rows.keys, tally)
    spans = Spans.of(np.bincount(where[good], minlength=len(ids)))
    of_class = np.array(rows.classes, dtype=np.int64)[good]
    boxes = Boxes(inside[good], of_class, np.zeros(len(good), dtype=np.bool_))
    targets: dict[str, Column] = {"size": SizeColumn(sizes), "boxes": BoxColumn(boxes, spans, tuple(classes))}
    shapes = [rows.shapes[i] for i in good.tolist()]
    if any(shape is not None for shape in shapes):
        each = zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)
        targets["outlines"] = OutlineColumn.of([shapes[start:end] for start, end in each], sizes, ids)
    return targets


def _named(top: str, given: str) -> list[str]:
    """Names by number, from the first file that there is."""
    told = (
        [given] if os.path.isfile(given) else [os.path.join(top, n) for n in ("data.yaml", "dataset.yaml", "data.yml")]
    )
    for path in (*told, os.path.join(top, "classes.txt"), os.path.join(top, "obj.names")):
        try:
            with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                text = file.read()
        except OSError:
            continue
        if path.endswith((".yaml", ".yml")):
            return names_of(text, path)
        return [line.strip() for line in text.splitlines() if line.strip()]
    return []


def _numbered(top: str, names: Sequence[str], rows: _Rows, tally: Tally) -> tuple[str, ...]:
    """Numbers beyond the names are called by themselves."""
    for key, number in zip(rows.keys, rows.classes, strict=True):
        if number >= len(names) and names:
            tally.add("objects of a class that has no name: it is called by its number", key)
    most = max([len(names), *(n + 1 for n in rows.classes)], default=0)
    if most > MOST:
        raise BadInput(f"{top} has an object of class {most - 1:,}; classes are numbered from 0 without holes")
    return (*names, *map(str, range(len(names), most)))


COMMENT = re.compile(r"""(?<![^\s\[{,])("(?:[^"\\]|\\.)*"|'(?:[^']|'\')*')|(?:(?<=\s)|^)#.*""")  # but not in quotes
ENTRY = re.compile(r"""\s*(?:(\d+)\s*:\s*)?("(?:[^"\\]|\\.)*"|'(?:[^']|'\')*'|[^,\[\]{}]+?)\s*(?:,|$)""")


def names_of(text: str, path: str = "data.yaml") -> list[str]:
    """`names` of a data.yaml; of YAML only what is seen there: [a, b], {0: a}, or a line for each, `- a` or `0: a`."""
    lines = [COMMENT.sub(lambda m: m[1] or "", line).rstrip() for line in text.splitlines()]
    start = next((i for i, line in enumerate(lines) if re.match(r"names\s*:", line)), None)
    if start is None:
        raise BadInput(f"{path} has no `names`; add names: [cat, dog]")
    body = [lines[start].partition(":")[2].strip()]
    for line in lines[start + 1 :]:
        if re.match(r"[^\s\-\]}]", line):
            break  # the next key
        body.append(line.strip())
    whole = " ".join(body).strip()
    if whole[:1] in ("[", "{"):
        found = [(m[1], m[2]) for m in ENTRY.finditer(whole[1:].rstrip("]} "))]
    else:
        matches = (re.fullmatch(r"(?:-|(\d+)\s*:)\s+(.+)", line) for line in body if line)
        found = [(m[1], m[2]) if m else ("?", "") for m in matches]
    numbers = [str(i) if number is None else number for i, (number, _) in enumerate(found)]
    if not found or {n for n in numbers if n.isdigit()} != {str(i) for i in range(len(found))}:
        raise BadInput(f"{path}: its `names` are no list and no numbers from 0 with names; write names: [cat, dog]")
    by_number = dict(zip(map(int, numbers), (_unquoted(value.strip()) for _, value in found), strict=True))
    return [by_number[i] for i in range(len(found))]


def _unquoted(value: str) -> str:
    if value[:1] == '"':
        return str(json.loads(value))
    return value[1:-1].replace("''", "'") if value[:1] == "'" else value
