"""`predict`: names and probabilities for picture files, or for all pictures of a folder."""

from __future__ import annotations

import json as _json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import notebook
from ..data.loading.quarantine import Bad
from ..data.origins.folder import open_pictures
from ..errors import BadInput, readable
from ..runtime.load import load
from ..runtime.model import Prediction
from ..training import choose

SHOWN = 20  # predictions that a notebook shows


@dataclass(frozen=True)
class Predicted:
    """An answer for every picture: what it shows, or why it cannot be read."""

    ids: tuple[str, ...]  # in the order given
    found: dict[str, Prediction]
    unreadable: dict[str, str]  # id -> reason

    def __iter__(self) -> Iterator[Prediction]:
        return (self.found[name] for name in self.ids if name in self.found)

    def __len__(self) -> int:
        return len(self.found)

    def _repr_html_(self) -> str:
        shown = [p._repr_html_() for p, _ in zip(self, range(SHOWN), strict=False)]
        more = len(self) - len(shown)
        told = {"more": f"{more:,} predictions"} if more else {}
        return "".join(shown) + notebook.rows(told | {k: v for k, v in list(self.unreadable.items())[:SHOWN]})

    def tell(self, json: bool = False) -> None:
        if json:
            print(_json.dumps([self._row(name) for name in self.ids], indent=1))
            return
        for prediction in self:
            print(prediction)

    def check(self, max_bad: float = 0.01) -> None:
        """BadInput above this share of unreadable pictures; below it they are only told."""
        if not self.unreadable:
            return
        reasons = list(self.unreadable.values())
        told = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3:,} more" if len(reasons) > 3 else "")
        if len(self.ids) > 1:
            told = f"{len(reasons):,} of {len(self.ids):,} pictures cannot be read: {told}"
        if len(reasons) > max_bad * len(self.ids):
            raise BadInput(told)
        print(readable(told), file=sys.stderr)

    def _row(self, name: str) -> dict[str, object]:
        if name in self.unreadable:
            return {"id": name, "error": self.unreadable[name]}
        p = self.found[name]
        each = {head: answer.plain() for head, answer in p.heads.items()}
        alone = len(each) == 1 and next(iter(p.heads.values())).task == "classify"
        return {"id": name} | (next(iter(each.values())) if alone else {"heads": each})


def predict(
    source: str | Path,
    pictures: Sequence[str | Path],
    *,
    top: int = 5,
    like: str | None = None,
    device: str = "auto",
) -> Predicted:
    """Those that can be read are answered; `check()` of the result judges the others."""
    opened = open_pictures(pictures)
    for note in opened.notes:
        print(readable(note), file=sys.stderr)
    model = load(source, like, choose.device(device)[0])
    ids = tuple(opened.source.ids)
    unreadable: dict[str, str] = {}

    def on_bad(bad: Bad) -> None:
        unreadable[bad.id] = bad.reason

    found = model.predict(ids, top=top, on_bad=on_bad)
    return Predicted(ids, {p.id: p for p in found}, unreadable)
