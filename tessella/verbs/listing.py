"""`list`: the architectures of the house."""

from __future__ import annotations

import json as _json
from typing import Any

from ..config import encode, nearest
from ..errors import BadInput
from ..models.presets import PRESETS, describe


def listing(name: str | None = None) -> list[dict[str, Any]]:
    """One row an architecture; with a name, that one with all its settings."""
    rows = [row._asdict() for row in describe()]
    if name is None:
        return rows
    if name not in PRESETS:
        raise BadInput(f"there is no architecture {name!r}{nearest(name, PRESETS)}")
    return [row | {"settings": encode(PRESETS[name])} for row in rows if row["name"] == name]


def tell(rows: list[dict[str, Any]], json: bool) -> None:
    if json:
        print(_json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "picture", "parameters", "GMACs", box=None, header_style="bold")
    for row in rows:
        size = " x ".join(str(side) for side in row["image_size"])
        table.add_row(row["name"], size, f"{row['parameters']:,}", f"{row['gmacs']:.2f}")
    Console().print(table)
    for key, value in rows[0].get("settings", {}).items():
        print(f"  {key} = {value}")
