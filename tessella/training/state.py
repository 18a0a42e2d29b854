"""The state of a training on disk: folders `step-000123` that are whole or not there, and never hold code.

Each holds one safetensors file per part, `facts.json`, and the completion mark `complete.json` with size and sha256 of
both. A folder without a mark, or whose files disagree with it, is passed over by `latest`.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import config, durable, tensorfile
from ..errors import BadInput, TessellaError

FORMAT_VERSION = 1
MARK, FACTS = "complete.json", "facts.json"
_STEP = re.compile(r"step-(\d{6,})")
_STEM = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Snapshot:
    """All that a training needs to go on as if nothing had happened."""

    step: int  # updates done
    tensors: dict[str, dict[str, Tensor]]  # file stem -> name -> CPU tensor
    facts: dict[str, Any]  # plain JSON: what the run was told, and what it counted


# -- writing ---------------------------------------------------------------------------------------------------------


def save(folder: Path, snapshot: Snapshot, keep: int = 2) -> Path:
    """Write `folder/step-...` whole, then forget the oldest beyond `keep`."""
    if keep < 1:
        raise BadInput(f"keep is {keep}; keep at least 1 state")
    facts = _as_json(snapshot)
    everything = {f"{stem}/{n}": t for stem, part in snapshot.tensors.items() for n, t in part.items()}
    tensorfile.refuse_shared(everything)
    durable.sweep(folder)
    _refuse_newer(folder, snapshot.step)
    durable.require_space(folder, len(facts) + sum(tensorfile.size_of(part) for part in snapshot.tensors.values()))

    def write(place: Path) -> None:
        files = {FACTS: durable.pour(place / FACTS, [facts])}
        for stem, part in snapshot.tensors.items():
            files[f"{stem}.safetensors"] = tensorfile.write(place / f"{stem}.safetensors", part)
        listed = {name: {"sha256": file.sha256, "size": file.size} for name, file in files.items()}
        mark = {"format_version": FORMAT_VERSION, "step": snapshot.step, "files": listed}
        durable.pour(place / MARK, [json.dumps(mark).encode("ascii")])

    target = folder / f"step-{snapshot.step:06d}"
    durable.write_folder(target, write)
    _forget(folder, snapshot.step, keep)
    return target


def _as_json(snapshot: Snapshot) -> bytes:
    odd = [stem for stem in snapshot.tensors if not _STEM.fullmatch(stem)]
    if odd or snapshot.step < 0:
        raise TessellaError(f"step {snapshot.step}, parts {odd}: a step is 0 or more, a part is named a-z, 0-9 and _")
    try:
        return json.dumps(snapshot.facts).encode("ascii")
    except (TypeError, ValueError) as error:
        raise TessellaError(f"the facts of step {snapshot.step} are not plain JSON: {error}") from None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Newest first: by number, because clocks jump."""
    found = [(_STEP.fullmatch(p.name), p) for p in (folder.iterdir() if folder.is_dir() else ())]
    return sorted(((int(m[1]), p) for m, p in found if m and p.is_dir()), reverse=True)


def _refuse_newer(folder: Path, step: int) -> None:
    for other, path in _steps(folder):
        if other > step and not _faults(path):
            raise TessellaError(f"{path} is newer than step {step}, which is to be saved; use a folder of its own")


def _forget(folder: Path, step: int, keep: int) -> None:
    """Keeps the one just written and `keep` - 1 before it; damaged later ones stay until their step comes again."""
    earlier = [path for n, path in _steps(folder) if n < step]
    kept = [path for path in earlier if (path / MARK).is_file()][: keep - 1]
    for path in earlier:
        if path not in kept:
            durable.remove_folder(path)


# -- reading ---------------------------------------------------------------------------------------------------------


def _print(note: str) -> None:
    print(note, file=sys.stderr)


def latest(folder: Path, note: Callable[[str], None] = _print) -> Path | None:
    """The newest state that is whole, every byte of it; each newer one that is not is named in a `note`."""
    durable.sweep(folder)
    for _, path in _steps(folder):
        fault = _faults(path)
        if not fault:
            return path
        note(f"{path} is passed over: {fault}")
    return None


def load(path: Path) -> Snapshot:
    """One state, checked again."""
    fault = _faults(path)
    if fault:
        raise BadInput(f"{path} cannot be loaded: {fault}; resume from an earlier state")
    mark = _read_json(path / MARK)
    stems = [name.removesuffix(".safetensors") for name in mark["files"] if name != FACTS]
    tensors = {stem: tensorfile.read(path / f"{stem}.safetensors") for stem in stems}
    return Snapshot(mark["step"], tensors, _read_json(path / FACTS))


def _faults(path: Path) -> str:
    """Why this state must not be used; empty if it is whole."""
    try:
        mark = _read_json(path / MARK)
        version = mark["format_version"]
        if type(version) is not int or version > FORMAT_VERSION:
            return f"made by a newer tessella (format_version {version!r}, this one reads up to {FORMAT_VERSION})"
        if mark["step"] != int(path.name.removeprefix("step-")):
            return f"{MARK} is about step {mark['step']}"
        listed = {name: durable.Written(entry["sha256"], entry["size"]) for name, entry in mark["files"].items()}
    except BadInput as error:
        return str(error)
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{MARK} is damaged"
    there = {p.name for p in path.iterdir()} - {MARK}
    if there != listed.keys() or FACTS not in listed:
        return f"{', '.join(sorted(there ^ listed.keys()) or [FACTS])} is missing or is not listed in {MARK}"
    for name, written in listed.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != written.size or durable.sha256_file(file) != written.sha256:
            return f"{name} is not what was written"
    return ""


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{path.name} is damaged") from None


# -- what may not change between stop and resume ---------------------------------------------------------------------


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each dotted key whose value is another; lists say which entries went, came or moved."""
    return [line for _, line in _differences(old, new)]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    before, after = config.flatten(config.encode(dict(old))), config.flatten(config.encode(dict(new)))
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            yield key, f"{key}: was {_short(before[key])}, is gone"
        elif key not in before:
            yield key, f"{key}: is new ({_short(after[key])})"
        elif isinstance(before[key], list) and isinstance(after[key], list):
            if before[key] != after[key]:
                yield key, f"{key}: {_list_difference(before[key], after[key])}"
        elif before[key] != after[key] and not (before[key] != before[key] and after[key] != after[key]):  # two NaN
            yield key, f"{key}: was {_short(before[key])}, is {_short(after[key])}"


def _list_difference(old: list[Any], new: list[Any]) -> str:
    was, now = Counter(map(_short, old)), Counter(map(_short, new))
    gone, came = list((was - now).elements()), list((now - was).elements())
    parts = [f"{_named(found)} {verb}" for found, verb in ((gone, "gone"), (came, "new")) if found]
    if not parts:
        at, (one, other) = next((i, pair) for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        return f"in another order ({_short(one)} was at place {at}, {_short(other)} is there now)"
    return "; ".join(parts)


def _named(values: list[str]) -> str:
    shown = ", ".join(values[:3])
    if len(values) > 3:
        return f"{len(values)} ({shown}, ...) are"
    return shown + (" is" if len(values) == 1 else " are")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any], allow: tuple[str, ...] = ()) -> None:
    """BadInput that lists what changed since the state was written, save for keys in `allow` and those below them."""
    known = config.flatten(config.encode(dict(old))) | config.flatten(config.encode(dict(new)))
    parents = {key[:i] for key in known for i, letter in enumerate(key) if letter == "."}
    for key in allow:
        if key not in known and key not in parents:
            raise BadInput(f"--allow-change {key}: no such key{config.nearest(key, [*known, *parents])}")
    refused = [(k, line) for k, line in _differences(old, new) if not any(f"{k}.".startswith(f"{a}.") for a in allow)]
    if refused:
        cure = " ".join(f"--allow-change {key}" for key, _ in refused)
        changes = " | ".join(line for _, line in refused)
        raise BadInput(f"this is not the run that was stopped: {changes}; undo that, or allow it with {cure}")
