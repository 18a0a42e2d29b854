"""`predict`: names and probabilities for picture files, or for all pictures of a folder."""

from __future__ import annotations

import json as _json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.folder import open_pictures
from ..runtime.load import load
from ..runtime.model import Prediction
from ..training import choose


def predict(
    source: str | Path, pictures: Sequence[str | Path], *, top: int = 5, like: str | None = None, device: str = "auto"
) -> list[Prediction]:
    """Every picture gets an answer, in the order given; one that cannot be read is an error that names it."""
    opened = open_pictures(pictures)
    for note in opened.notes:
        print(note, file=sys.stderr)
    return load(source, like, choose.device(device)[0]).predict(opened.source.ids, top=top)


def tell(found: list[Prediction], json: bool) -> None:
    if json:
        rows = [{"id": p.id, "classes": list(p.names), "probabilities": list(p.probabilities)} for p in found]
        print(_json.dumps(rows, indent=1))
    else:
        for prediction in found:
            print(str(prediction).encode("utf-8", "replace").decode())
