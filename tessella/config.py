"""A dataclass tree as plain data and back, with dotted overrides. The only file that knows how a run is written down.

Values are plain: numbers, text, booleans, None, tuples, dicts, nested frozen dataclasses, and unions of these. A
dataclass is written with its class name under "type", so that a union finds its way back.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import math
import tomllib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import BadInput

T = TypeVar("T")
TAG = "type"  # so no settings class may have a field of this name


def encode(value: Any) -> Any:
    """Dataclasses to dicts with their "type", tuples to lists, the rest as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {TAG: type(value).__name__, **fields}
    if isinstance(value, (tuple, list)):
        return [encode(v) for v in value]
    return {k: encode(v) for k, v in value.items()} if isinstance(value, dict) else value


def nearest(word: str, known: Iterable[str]) -> str:
    """The ending of an error about an unknown name: ', did you mean ...?', or what there is to choose from."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"


def decode(hint: Any, plain: Any, where: str = "run") -> Any:
    """Plain data to what `hint` says; an unknown key or a value of the wrong type is a BadInput that names it."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if isinstance(plain, Word):
        plain = plain.read_as(options)
    if plain is None and type(None) in options:
        return None
    classes = {c.__name__: c for c in options if isinstance(c, type) and dataclasses.is_dataclass(c)}
    if classes and isinstance(plain, dict):
        return _decode_dataclass(classes, plain, where)
    for option in options:
        found = _decode_leaf(option, plain, where)
        if found is not _NOTHING:
            return found
    raise BadInput(f"{where} is {plain!r}; expected {_spell(hint)}")


_NOTHING = object()


def _decode_dataclass(classes: dict[str, type], plain: dict[str, Any], where: str) -> Any:
    kind = plain.get(TAG) or (next(iter(classes)) if len(classes) == 1 else None)
    if not isinstance(kind, str) or kind not in classes:
        raise BadInput(f"{where}.{TAG} is {kind!r}; choose one of {', '.join(sorted(classes))}")
    cls = classes[kind]
    hints = get_type_hints(cls)
    for key in plain.keys() - hints.keys() - {TAG}:
        raise BadInput(f"{where} has no key {key!r}{nearest(key, hints)}")
    kinds = _default_kinds(cls)
    values = {}
    for key, value in plain.items():
        if key != TAG:
            untold = isinstance(value, dict) and TAG not in value and key in kinds
            values[key] = decode(hints[key], {TAG: kinds[key], **value} if untold else value, f"{where}.{key}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BadInput(f"{where} lacks {', '.join(missing)}")
    return cls(**values)


def _default_kinds(cls: type) -> dict[str, str]:
    """Which dataclass stands in a field if nobody says: what was written before there were others had no choice."""
    out: dict[str, str] = {}
    for f in dataclasses.fields(cls):
        made_by: Any = f.default_factory
        if isinstance(made_by, type) and dataclasses.is_dataclass(made_by):
            out[f.name] = made_by.__name__
    return out


def _decode_leaf(option: Any, plain: Any, where: str) -> Any:
    origin, inner = get_origin(option), get_args(option)
    if option is Any:
        return plain
    if origin is Literal:
        plain = "none" if plain is None and "none" in inner else plain  # typed on a command line it reads as None
        return next((v for v in inner if v == plain and type(v) is type(plain)), _NOTHING)
    if origin is tuple and isinstance(plain, (list, tuple)):
        if inner[-1] is Ellipsis:
            return tuple(decode(inner[0], v, f"{where}[{i}]") for i, v in enumerate(plain))
        if len(inner) == len(plain):
            return tuple(decode(t, v, f"{where}[{i}]") for i, (t, v) in enumerate(zip(inner, plain, strict=True)))
        return _NOTHING
    if origin is dict and isinstance(plain, dict):
        return {k: decode(inner[1], v, f"{where}.{k}") for k, v in plain.items()}
    if option is float and isinstance(plain, (int, float)) and not isinstance(plain, bool):
        if not math.isfinite(plain):
            raise BadInput(f"{where} is {plain!r}; expected a finite number")
        return float(plain)
    return plain if isinstance(option, type) and type(plain) is option else _NOTHING


def _spell(hint: Any) -> str:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    words = []
    for option in options:
        if get_origin(option) is Literal:
            words.append("one of " + ", ".join(repr(v) for v in get_args(option)))
        else:
            words.append("None" if option is type(None) else getattr(option, "__name__", str(option)))
    return " or ".join(words)


def merge(base: Any, over: Any) -> Any:
    """`over` on top of `base`, key by key; another "type" starts afresh."""
    if not isinstance(over, dict) or not isinstance(base, dict):
        return over
    if over.get(TAG, base.get(TAG)) != base.get(TAG):
        base = {}
    return base | {k: merge(base.get(k), v) for k, v in over.items()}


def parse_value(text: str) -> Any:
    """A Python literal where it reads as one, `true`/`none` as in JSON, else text."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class Word(str):
    """What was typed for one setting. What it means depends on the field: 2024 is a number of steps or a name."""

    def read_as(self, options: tuple[Any, ...]) -> Any:
        value = parse_value(str(self))
        is_name = str in options and not isinstance(value, str) and type(value) not in options
        return str(self) if is_name else value


def typed(text: str) -> Any:
    """The right side of `key=value`, to be read by the field that it is for; a dict is merged before, so it is read."""
    value = parse_value(text)
    return value if isinstance(value, dict) else Word(text)


def flatten(plain: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists are leaves."""
    if not isinstance(plain, dict):
        return {prefix: plain}
    out: dict[str, Any] = {}
    for key, value in plain.items():
        out |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return out


def read_plain(path: Path) -> dict[str, Any]:
    """A TOML or JSON file as plain data."""
    try:
        text = path.read_text(encoding="utf-8")
        plain = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give a TOML or JSON file") from None
    except ValueError as error:  # both parsers' errors, and undecodable bytes
        raise BadInput(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(plain, dict):
        raise BadInput(f"{path} holds no table of settings; write keys such as train.steps = 100")
    return plain


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}"""
    out: dict[str, Any] = {}
    for path, value in flat.items():
        over = value
        for key in reversed(path.split(".")):
            over = {key: over}
        out = merge(out, over)
    return out


def override(run: T, sources: Iterable[str | Path | Mapping[str, Any]]) -> tuple[T, dict[str, str]]:
    """`override(run, ["my.toml", {"train.steps": 10}])`: later sources win. Also returns dotted key -> what set it."""
    plain = encode(run)
    origins: dict[str, str] = {}
    for source in sources:
        over = nested(source) if isinstance(source, Mapping) else read_plain(Path(source))
        origins |= dict.fromkeys(flatten(over), "given" if isinstance(source, Mapping) else str(source))
        plain = merge(plain, over)
    return decode(type(run), plain), origins
