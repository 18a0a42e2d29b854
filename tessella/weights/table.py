"""Names of tensors, renamed by a table of pairs that reads both ways.

A pair is two patterns, such as ("layers.{i}.attention.{part}", "blocks.{i}.attn.{part}"). `{i}` stands for one piece
between dots, `{*rest}` for one or more of them; both sides of a pair have the same ones. The first pair that fits a
name renames it, so the narrow ones stand before the wide. A new name must lead back to the old one: a table that would
lose a tensor on the way home is refused where it happens, by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ..errors import BadInput, TessellaError

T = TypeVar("T")
Pair = tuple[str, str]

_SLOT = re.compile(r"\{(\*?)(\w+)\}")
_SHOWN = 5  # names in an error


class Table:
    """`PAIRS`, compiled. Left is our side, right is theirs."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        for left, right in pairs:
            if sorted(_SLOT.findall(left)) != sorted(_SLOT.findall(right)):
                raise TessellaError(f"the pair {left!r}, {right!r} has other slots on its right side than on its left")
        self._there = [(_compiled(left), _SLOT.sub(r"{\2}", right)) for left, right in pairs]
        self._back = [(_compiled(right), _SLOT.sub(r"{\2}", left)) for left, right in pairs]

    def there(self, names: Iterable[str]) -> dict[str, str]:
        """Our name -> theirs, for all of `names`."""
        return _renamed(names, self._there, self._back)

    def back(self, names: Iterable[str]) -> dict[str, str]:
        """Their name -> ours, for all of `names`."""
        return _renamed(names, self._back, self._there)


def rename(tensors: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """The same values under the new names, in the same order."""
    return {names[name]: value for name, value in tensors.items()}


_Rules = list[tuple[re.Pattern[str], str]]


def _compiled(pattern: str) -> re.Pattern[str]:
    out, end = "", 0
    for slot in _SLOT.finditer(pattern):
        piece = rf"(?P<{slot[2]}>[^.]+(?:\.[^.]+)*)" if slot[1] else rf"(?P<{slot[2]}>[^.]+)"
        out += re.escape(pattern[end : slot.start()]) + piece
        end = slot.end()
    return re.compile(out + re.escape(pattern[end:]), re.DOTALL)


def _first(name: str, rules: _Rules) -> str | None:
    for pattern, target in rules:
        found = pattern.fullmatch(name)
        if found is not None:
            return target.format(**found.groupdict())
    return None


def _renamed(names: Iterable[str], rules: _Rules, reverse: _Rules) -> dict[str, str]:
    out: dict[str, str] = {}
    unmatched, ambiguous = [], []
    for name in names:
        new = _first(name, rules)
        if new is None:
            unmatched.append(repr(name))
            continue
        home = _first(new, reverse)
        if home != name:
            ambiguous.append(f"{name!r} becomes {new!r}, which would come back as {home!r}")
        out[name] = new
    if unmatched:
        raise BadInput(f"{_listed(unmatched)} has no place in the table of names; is this file of another network?")
    if ambiguous:
        raise BadInput(f"{_listed(ambiguous)}; rename that tensor, or add a narrower pair before the one that fits")
    return out


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
