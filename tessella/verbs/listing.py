"""`list`: the architectures of the house, and the weights that it knows by name."""

from __future__ import annotations

import json as _json
from typing import Any

from ..config import encode, flatten, nearest
from ..errors import BadInput
from ..models.presets import PRESETS, describe
from ..models.size import macs, parameters
from ..weights.catalog import CATALOG, Entry

EVERY = "all"
WIDE = 132  # columns of a table of weights, so that no name is cut


def listing(name: str | None = None, family: str | None = None) -> list[dict[str, Any]]:
    """One row an architecture; with a name, that one with all its settings; with a family, its weights."""
    if family is not None:
        families = list(dict.fromkeys(entry.family for entry in CATALOG.values()))
        if family not in (EVERY, *families):
            known = f"there are {', '.join(families)}, and {EVERY}"
            raise BadInput(f"there is no family {family!r}{nearest(family, families)}; {known}")
        return [_weights(entry) for entry in CATALOG.values() if family in (EVERY, entry.family)]
    rows = [row._asdict() for row in describe()]
    if name is None:
        return rows
    if name in CATALOG:
        return [_weights(CATALOG[name]) | {"settings": flatten(encode(CATALOG[name].architecture))}]
    if name not in PRESETS:
        raise BadInput(f"there is no architecture {name!r}{nearest(name, [*PRESETS, *CATALOG])}")
    return [row | {"settings": encode(PRESETS[name])} for row in rows if row["name"] == name]


def _weights(entry: Entry) -> dict[str, Any]:
    cfg, image = entry.architecture, entry.preprocess
    return {
        "name": entry.name,
        "family": entry.family,
        "image_size": list(cfg.backbone.size),
        "parameters": parameters(cfg),
        "gmacs": macs(cfg) / 1e9,
        "accuracy": entry.accuracy,
        "licence": entry.licence,
        "classes": entry.labels,
        "origins": [origin.id for origin in entry.origins],
        "preprocess": {"resize": image.resize, "crop": image.crop, "mean": list(image.mean), "std": list(image.std)},
    }


def tell(rows: list[dict[str, Any]], json: bool) -> None:
    if json:
        print(_json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    known = ("top-1 %", "licence", "from") if "licence" in rows[0] else ()
    table = Table(box=None, header_style="bold")
    for column in ("name", "picture", "parameters", "GMACs", *known):
        table.add_column(column, no_wrap=True)
    for row in rows:
        size = " x ".join(str(side) for side in row["image_size"])
        cells = [row["name"], size, f"{row['parameters']:,}", f"{row['gmacs']:.2f}"]
        if known:
            top1 = "" if row["accuracy"] is None else f"{row['accuracy']:.1f}"
            cells += [top1, row["licence"], row["origins"][0]]
        table.add_row(*cells)
    Console(width=WIDE if known else None).print(table)
    for key, value in rows[0].get("settings", {}).items():
        print(f"  {key} = {value}")
