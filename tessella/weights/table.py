"""A layout of tensors, as a table that reads both ways: what the world calls ours, and what theirs is made of.

A pair is two patterns, such as ("layers.{i}.attention.{part}", "blocks.{i}.attn.{part}"). `{i}` stands for one piece
between dots, `{*rest}` for one or more of them; both sides of a pair have the same ones. The first pair that fits a
name renames it, so the narrow ones stand before the wide. A new name must lead back to the old one: a table that would
lose a tensor on the way home is refused where it happens, by name.

A `Joint` says how tensors of ours are made of tensors of theirs, usually one of several: queries, keys and values
fused, rows in another order. A `Left` is one of theirs that says nothing (an index, a mask token): it is left out, by
name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from ..errors import BadInput, TessellaError

T = TypeVar("T")
Pair = tuple[str, str]
Architecture = Any  # whatever config the ways of a table read: heads, sizes


class Way(NamedTuple):
    """Their tensors to ours, and back; bit for bit, and without reading values where it can."""

    join: Callable[[Sequence[Tensor], Architecture], Sequence[Tensor]]
    cut: Callable[[Sequence[Tensor], Architecture], Sequence[Tensor]]


class Joint(NamedTuple):
    ours: tuple[str, ...]
    theirs: tuple[str, ...]  # with the slots of `ours`
    way: Way


class Left(NamedTuple):
    """A pattern of theirs that has no place here."""

    theirs: str


Rule = Pair | Joint | Left


class Read(NamedTuple):
    """What became of their tensors."""

    tensors: dict[str, Tensor]  # by our names
    left: tuple[str, ...]  # names of theirs that were left out


_SLOT = re.compile(r"\{(\*?)(\w+)\}")
_SHOWN = 5  # names in an error


class Table:
    """The rules, compiled. Left is our side, right is theirs."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        pairs = [rule for rule in rules if not isinstance(rule, (Joint, Left))]
        self._joints = [_Joint(rule) for rule in rules if isinstance(rule, Joint)]
        self._left = [_compiled(rule.theirs) for rule in rules if isinstance(rule, Left)]
        for ours, theirs in pairs:
            _refuse_other_slots(ours, theirs)
        self._there = [(_compiled(left), _SLOT.sub(r"{\2}", right)) for left, right in pairs]
        self._back = [(_compiled(right), _SLOT.sub(r"{\2}", left)) for left, right in pairs]

    def there(self, names: Iterable[str]) -> dict[str, str]:
        """Our name -> theirs, for all of `names`."""
        return _renamed(names, self._there, self._back)

    def back(self, names: Iterable[str]) -> dict[str, str]:
        """Their name -> ours, for all of `names`."""
        return _renamed(names, self._back, self._there)

    def knows(self, name: str) -> bool:
        """Whether any rule is about this name of theirs."""
        sides = (pattern for joint in self._joints for pattern in joint.reading.patterns)
        pairs = (pattern for pattern, _ in self._back)
        return any(pattern.fullmatch(name) for pattern in itertools.chain(self._left, sides, pairs))

    def read(self, tensors: Mapping[str, Tensor], architecture: Architecture) -> Read:
        """Their tensors as ours. One that no rule knows, or a joint of which a part is missing, is a BadInput."""
        left = tuple(name for name in tensors if any(pattern.fullmatch(name) for pattern in self._left))
        rest = {name: tensor for name, tensor in tensors.items() if name not in left}
        out, plain = _joined(rest, [joint.reading for joint in self._joints], architecture)
        return Read(out | rename(plain, self.back(plain)), left)

    def write(self, tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
        """Ours as theirs."""
        out, plain = _joined(tensors, [joint.writing for joint in self._joints], architecture)
        return out | rename(plain, self.there(plain))


class _Side(NamedTuple):
    """A joint, read in one of the two directions."""

    patterns: list[re.Pattern[str]]  # of what comes in
    inside: list[str]
    outside: list[str]
    move: Callable[[Sequence[Tensor], Architecture], Sequence[Tensor]]


class _Joint:
    def __init__(self, rule: Joint) -> None:
        for name in (*rule.ours, *rule.theirs):
            _refuse_other_slots(rule.ours[0], name)
        ours, theirs = ([_SLOT.sub(r"{\2}", name) for name in names] for names in (rule.ours, rule.theirs))
        self.reading = _Side([_compiled(name) for name in rule.theirs], theirs, ours, rule.way.join)
        self.writing = _Side([_compiled(name) for name in rule.ours], ours, theirs, rule.way.cut)


def _joined(
    tensors: Mapping[str, Tensor], sides: Sequence[_Side], architecture: Architecture
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the joints make of these tensors, and those that none of them knows."""
    plain: dict[str, Tensor] = {}
    found: dict[tuple[int, tuple[tuple[str, str], ...]], dict[str, str]] = {}  # which joint, at which slots
    for name, tensor in tensors.items():
        for number, side in enumerate(sides):
            match = next((m for pattern in side.patterns if (m := pattern.fullmatch(name))), None)
            if match is not None:
                slots = match.groupdict()
                found[number, tuple(sorted(slots.items()))] = slots
                break
        else:
            plain[name] = tensor
    out: dict[str, Tensor] = {}
    for (number, _), slots in found.items():
        side = sides[number]
        needed = [name.format(**slots) for name in side.inside]
        missing = [name for name in needed if name not in tensors]
        if missing:
            raise BadInput(f"{_listed(missing)} is missing, which goes with {next(n for n in needed if n in tensors)}")
        try:
            made = side.move([tensors[name] for name in needed], architecture)
        except BadInput as error:
            raise BadInput(f"{needed[0]}: {error}") from None
        out |= dict(zip((name.format(**slots) for name in side.outside), made, strict=True))
    return out, plain


def _refuse_other_slots(ours: str, theirs: str) -> None:
    if sorted(_SLOT.findall(ours)) != sorted(_SLOT.findall(theirs)):
        raise TessellaError(f"the pair {ours!r}, {theirs!r} has other slots on its right side than on its left")


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
