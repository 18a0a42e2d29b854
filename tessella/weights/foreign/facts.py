"""Somebody else's settings, read key by key, so that none passes unnoticed: what nobody asked for is refused by name.

A key that says nothing (null, false, an empty list) is let pass, and so is one that is known to change no answer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from ...config import nearest
from ...errors import BadInput

_NOTHING: tuple[Any, ...] = (None, False, [], {}, "", 0, 0.0)
_SHOWN = 5  # names in an error


class Facts:
    """One table of such a file."""

    def __init__(self, plain: Mapping[str, Any], where: str, idle: Collection[str] = ()) -> None:
        self.plain, self.where, self._idle = plain, where, idle  # idle: keys that change no answer
        self._asked: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether it says anything of this."""
        return self.plain.get(key) is not None

    def take(self, key: str, default: Any = None) -> Any:
        """Of any type; a null counts as not said."""
        self._asked.add(key)
        value = self.plain.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._wanted(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.refused(key, "a whole number is wanted")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._wanted(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.refused(key, "a finite number is wanted")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._wanted(key, default)
        if not isinstance(value, bool):
            raise self.refused(key, "true or false is wanted")
        return value

    def word(self, key: str, known: Mapping[str, str], default: str | None = None) -> str:
        """What it says, in our word for it."""
        value = self._wanted(key, default)
        if not isinstance(value, str) or value not in known:
            raise self.refused(key, f"known here is {', '.join(known)}")
        return known[value]

    def sides(self, key: str, default: int | None = None) -> tuple[int, int]:
        """(height, width), also where it gives one number for both."""
        value = self._wanted(key, default)
        pair = value if isinstance(value, (list, tuple)) else [value, value]
        if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in pair):
            raise self.refused(key, "a number of pixels, or height and width, is wanted")
        return pair[0], pair[1]

    def picture(self, key: str, default: int | None = None) -> tuple[int, int] | int:
        """As an image_size is written here: one number for a square."""
        height, width = self.sides(key, default)
        return height if height == width else (height, width)

    def side(self, key: str, default: int | None = None) -> int:
        """Of a square."""
        height, width = self.sides(key, default)
        if height != width:
            raise self.refused(key, "a square is wanted")
        return height

    def numbers(self, key: str, count: int, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """One for each of `count` channels; one alone is for all."""
        value = self._wanted(key, default)
        found = list(value) if isinstance(value, (list, tuple)) else [value]
        found = found * count if len(found) == 1 else found
        good = all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in found)
        if len(found) != count or not good:
            raise self.refused(key, f"{count} finite numbers are wanted")
        return tuple(float(n) for n in found)

    def inner(self, key: str, idle: Collection[str] = ()) -> Facts:
        """The table under this key; empty where there is none."""
        value = self.take(key, {})
        if not isinstance(value, dict):
            raise self.refused(key, "a table is wanted")
        return Facts(value, f"{self.where}: {key}", idle)

    def must(self, key: str, wanted: Any, default: Any = None) -> None:
        """It says this and nothing else; where it says nothing, `default` is meant."""
        if self.take(key, wanted if default is None else default) != wanted:
            raise self.refused(key, f"only {wanted!r} is known here")

    def done(self) -> None:
        """Refuses what nobody asked for."""
        left = sorted(
            key
            for key, value in self.plain.items()
            if key not in self._asked and key not in self._idle and not key.startswith("_") and value not in _NOTHING
        )
        if left:
            more = ", ..." if len(left) > _SHOWN else ""
            said = ", ".join(f"{key} = {_short(self.plain[key])}" for key in left[:_SHOWN])
            what = f"{self.where}: {said}{more} is not known here, and may change what the network answers"
            raise BadInput(f"{what}; give the weights file itself, with --like NAME")

    def refused(self, key: str, why: str) -> BadInput:
        return BadInput(f"{self.where}: {key} is {_short(self.plain.get(key))}; {why}")

    def unknown(self, key: str, known: Collection[str]) -> BadInput:
        """A name that we have nothing for."""
        named = str(self.plain.get(key))
        return BadInput(f"{self.where}: {key} is {_short(named)}, which is not known here{nearest(named, known)}")

    def _wanted(self, key: str, default: Any) -> Any:
        value = self.take(key, default)
        if value is None:
            raise BadInput(f"{self.where} lacks {key}; get the file again, or give the weights file with --like NAME")
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
