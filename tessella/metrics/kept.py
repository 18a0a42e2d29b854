"""Predictions on disk, one file for all heads: what a report reads without asking the model again."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..durable import write_file
from ..errors import BadInput
from .predictions import Array, Predictions

_ENCODING = ("utf-8", "surrogateescape")  # names of files that are no UTF-8 come back as they were


def keep(path: Path | str, heads: Mapping[str, Predictions]) -> None:
    """Whole or not at all. The heads are told apart by number: their names may be anything, those in an archive not."""
    arrays: dict[str, Array] = {"heads": _packed(heads)}
    for number, found in enumerate(heads.values()):
        arrays |= {f"{number}.ids": _packed(found.ids)}
        arrays |= {f"{number}.targets": found.targets, f"{number}.outputs": found.outputs}
    held = io.BytesIO()
    np.savez(held, **arrays)  # type: ignore[arg-type]  # its own flag is taken for one of them
    write_file(path, held.getvalue())


def kept(path: Path | str) -> dict[str, Predictions]:
    """{head: Predictions}, as they were kept."""
    try:
        with np.load(path, allow_pickle=False) as held:
            names = _unpacked(held["heads"])
            return {name: _head(held, str(number)) for number, name in enumerate(names)}
    except (OSError, ValueError, KeyError, EOFError, UnicodeError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} holds no predictions ({error}); evaluate the model again") from None


def _head(held: Mapping[str, Array], number: str) -> Predictions:
    ids = tuple(_unpacked(held[f"{number}.ids"]))
    targets, outputs = held[f"{number}.targets"], held[f"{number}.outputs"]
    if not len(ids) == len(targets) == len(outputs):
        raise ValueError(f"{len(ids)} names, {len(targets)} targets, {len(outputs)} outputs")
    return Predictions(ids, targets, outputs)


def _packed(names: Iterable[str]) -> Array:
    """Texts as bytes, each after the number of its bytes: arrays of text would lose surrogates and trailing zeros."""
    pieces = [name.encode(*_ENCODING) for name in names]
    return np.frombuffer(b"".join(len(p).to_bytes(4, "little") + p for p in pieces), dtype=np.uint8)


def _unpacked(packed: Array) -> list[str]:
    data, at, out = packed.tobytes(), 0, []
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data):
            raise ValueError("a name is cut off")
        out.append(data[at + 4 : end].decode(*_ENCODING))
        at = end
    return out
