"""Predictions come back from disk as they were, names of any bytes included; anything else is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tessella.errors import BadInput
from tessella.metrics.kept import keep, kept
from tessella.metrics.predictions import Predictions

ODD = ("a\0b", "caf\u00e9/花.jpg", "no-utf8-\udce9.jpg", "", "a\n<script>", "trailing\0")


def some(task: str) -> Predictions:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(len(ODD), 1 if task == "number" else 3)).astype(np.float32)
    targets = {"classify": np.arange(len(ODD)) % 3, "number": rng.normal(size=len(ODD)).astype(np.float32)}
    return Predictions(ODD, targets.get(task, np.eye(3, dtype=np.float32)[np.arange(len(ODD)) % 3]), outputs)


def test_they_come_back(tmp_path: Path) -> None:
    heads = {"colour/1": some("classify"), "price \udce9": some("number"), "tags": some("tags")}
    keep(tmp_path / "p.npz", heads)
    back = kept(tmp_path / "p.npz")
    assert list(back) == list(heads)
    for name, found in heads.items():
        assert back[name].ids == ODD
        for mine, theirs in ((found.targets, back[name].targets), (found.outputs, back[name].outputs)):
            assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
    keep(tmp_path / "p.npz", {"label": Predictions((), np.zeros(0), np.zeros((0, 2)))})
    assert kept(tmp_path / "p.npz")["label"].ids == ()


@pytest.mark.parametrize("damage", ["absent", "text", "cut", "other", "short"])
def test_what_holds_none_is_one_line(tmp_path: Path, damage: str) -> None:
    at = tmp_path / "p.npz"
    keep(at, {"label": some("classify")})
    held = at.read_bytes()
    match damage:
        case "absent":
            at.unlink()
        case "text":
            at.write_bytes(b"no archive")
        case "cut":
            at.write_bytes(held[: len(held) // 2])
        case "other":
            np.savez(at, x=np.zeros(3))
        case "short":  # the mutation of the file that is otherwise whole: a row is missing
            whole = dict(np.load(at))
            np.savez(at, **(whole | {"0.targets": whole["0.targets"][1:]}))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"p\.npz holds no predictions"):
        kept(at)
