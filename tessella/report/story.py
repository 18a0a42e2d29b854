"""Everything that the report of a run is made from, gathered by `verbs/report.py`; a part that is missing says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..card import Head
from ..metrics.predictions import Predictions

Plain = dict[str, Any]
Counts = dict[str, int]


@dataclass(frozen=True)
class Shown:
    """A picture with what is said below it; `uri` is a data URI of a picture, or empty."""

    id: str
    uri: str
    words: str = ""


@dataclass(frozen=True)
class Looked:
    """A held-out picture, and the same in the light of the network's attention."""

    row: int  # of the predictions
    uri: str
    lit: str


@dataclass(frozen=True, kw_only=True)
class Story:
    """`missing`: name of a section -> one line that says why it has nothing to show."""

    name: str
    written: Plain = field(default_factory=dict)  # run.json
    rows: tuple[Plain, ...] = ()  # log.jsonl
    heads: tuple[Head, ...] = ()
    found: Mapping[str, Predictions] = field(default_factory=dict)  # by head, of the held-out pictures
    tested: str = "held-out pictures"  # what those are
    network: Plain = field(default_factory=dict)  # parameters, macs, pool: of the model that ships
    pictures: Mapping[str, str] = field(default_factory=dict)  # id -> data URI, of those that `shown` asks for
    first: tuple[Shown, ...] = ()
    attention: tuple[Looked, ...] = ()
    positions: str = ""  # data URI
    painted: tuple[Shown, ...] = ()  # picture, what was shown of it, what was painted, side by side
    components: tuple[Shown, ...] = ()  # picture and its patches in colour, side by side
    parts: Mapping[str, Counts] = field(default_factory=dict)  # part -> class -> pictures
    totals: Counts = field(default_factory=dict)  # part -> pictures
    quarantined: tuple[Plain, ...] = ()
    notes: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def run(self) -> Plain:
        return dict(self.written.get("run", {}))

    def setting(self, key: str) -> Any:
        """By dotted name; None where it is not known."""
        at: Any = self.run
        for part in key.split("."):
            if not isinstance(at, dict) or part not in at:
                return None
            at = at[part]
        return at

    def uri(self, name: str) -> str:
        return picture(self.pictures.get(name, ""))


def picture(uri: str) -> str:
    """Nothing but a picture goes into a `src`."""
    return (
        uri if uri.startswith(("data:image/jpeg;base64,", "data:image/png;base64,", "data:image/webp;base64,")) else ""
    )
