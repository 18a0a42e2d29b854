"""What the pictures of a source are like: how large, of which kind, how many of each class."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..pixels.decode import header
from ..source import Source
from .duplicates import flat
from .inspection import Inspection

SMALL = 16  # pixels of the shorter side below which a picture is tiny
LONG = 8  # longer : shorter side above which it is long


def median_side(source: Source, looks: int = 64) -> int:
    """The median of the longer sides, in pixels; pictures that cannot be read are left to the loader to name."""
    n = len(source)
    sides = []
    for i in range(0, n, max(1, n // looks)):
        try:
            found = header(source.read(i), source.ids[i])
        except BadInput:
            continue
        sides.append(max(found.height, found.width))
    return int(statistics.median(sides)) if sides else 0


def facts(found: Inspection, classes: tuple[str, ...]) -> dict[str, Any]:
    """One part as plain data; every list of ids is whole."""
    rows, ids, labels = found.rows, found.source.ids, found.source.labels
    good = rows["good"]
    counts = np.zeros(len(classes), np.int64)
    if labels is not None:
        counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    per_class = {name: int(n) for name, n in zip(classes, counts, strict=True)}
    return {
        "pictures": len(rows),
        "readable": int(good.sum()),
        "unreadable": [{"id": ids[i], "reason": why, "holds": found.holds[i]} for i, why in found.reasons.items()],
        "classes": per_class,
        "missing": [name for name, n in per_class.items() if not n],
        "unlabelled": len(rows) if labels is None else int((labels < 0).sum()),
        "bytes": {"total": int(rows["bytes"].sum()), **_spread(rows["bytes"][good])},
        "height": _spread(rows["height"][good]),
        "width": _spread(rows["width"][good]),
        "formats": dict(Counter(name.decode() for name in rows["format"][good].tolist()).most_common()),
        "odd": {kind: [ids[i] for i in np.flatnonzero(which).tolist()] for kind, which in _odd(found).items()},
        "wrong_suffix": [{"id": ids[i], "holds": real} for i, real in found.wrong_suffix()],
    }


def _odd(found: Inspection) -> dict[str, NDArray[np.bool_]]:
    """Kinds of pictures that training may treat otherwise than one thinks."""
    rows, good = found.rows, found.rows["good"]
    short, long = np.minimum(rows["height"], rows["width"]), np.maximum(rows["height"], rows["width"])
    colours = rows["channels"] - rows["alpha"]
    return {
        "rotated": good & (rows["turn"] > 1),
        "deep": good & (rows["bits"] > 8) & (rows["numbers"] == b"uint"),
        "float": good & (rows["numbers"] != b"uint"),
        "grey": good & (colours == 1),
        "inks": good & rows["inks"],
        "alpha": good & rows["alpha"],
        "channels": good & (colours != 1) & (colours != 3),
        "frames": good & (rows["frames"] > 1),
        "tiny": good & (short < SMALL),
        "long": good & (long > LONG * short),
        "plain": good & flat(rows["thumb"]),
    }


def _spread(values: NDArray[Any]) -> dict[str, int]:
    if not len(values):
        return {"min": 0, "median": 0, "max": 0}
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}
