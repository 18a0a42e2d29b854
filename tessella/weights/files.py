"""Tensors out of anyone's weights file, by the names that it has: nothing in it can run, and none of it is invented.

safetensors, also in several files with an index beside them; what torch.save wrote, as long as it is tensors in plain
containers; numpy's .npz. A file that is truncated, hostile, or of an unknown kind is a BadInput.
"""

from __future__ import annotations

import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import tensorfile
from ..config import read_plain
from ..errors import BadInput

INDEX = ".index.json"  # behind the name of a file that lies there in several
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".npz")
AVERAGES = ("model_ema", "ema_state_dict", "state_dict_ema", "ema", "teacher")  # taken before what they are of
WRAPPERS = (*AVERAGES, "model", "state_dict", "model_state_dict", "module", "net", "network", "student")
# keys under which training scripts put the weights
SWELLS = 4  # times its size that a compressed file may need, beside SMALL: weights hardly compress
SMALL = 128 << 20  # bytes
SETTINGS = 8 << 20  # bytes: the names of ImageNet's 21,843 classes, twice, are a quarter of it
_SHOWN = 5  # names in an error


def _print(note: str) -> None:
    print(note, file=sys.stderr)


def read_tensors(path: Path | str, note: Callable[[str], None] = _print) -> dict[str, Tensor]:
    """Says in a `note` what it took the tensors out of, and left behind."""
    path = Path(path)
    kinds = f"give a {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]} file, or the {INDEX} of several"
    if not path.is_file():
        raise BadInput(f"{path} is not a file; {kinds}")
    refuse_distributed(path)
    if path.name.endswith(INDEX):
        return _several(path, note)
    match path.suffix:
        case ".safetensors":
            return tensorfile.read(path)
        case ".npz":
            return _arrays(path)
        case ".pth" | ".pt" | ".bin":
            return _pick(path, _unpickled(path), note)
    raise BadInput(f"{path} is not a weights file by its name; {kinds}")


def refuse_distributed(path: Path) -> None:
    """What torch.distributed.checkpoint leaves: its list of parts is a pickle, and its parts are nothing without it."""
    folder = path if path.is_dir() else path.parent
    if path.suffix == ".distcp" or path.name == ".metadata" or (path.is_dir() and (path / ".metadata").is_file()):
        what = f"{path} is of a checkpoint of torch.distributed (DCP), whose list of parts may run code: not opened"
        cure = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth"
        raise BadInput(f"{what}; where you trust it: {cure}")


def settings(path: Path) -> dict[str, Any]:
    """A small JSON file beside weights, which may be anybody's."""
    if path.stat().st_size > SETTINGS:
        what = f"{path} has {path.stat().st_size:,} bytes, and of settings {SETTINGS:,} are enough"
        raise BadInput(f"{what}; get it again, or give the weights file itself, with --like NAME")
    try:
        return read_plain(path)
    except RecursionError:
        raise BadInput(f"{path} is nested too deeply; get it again") from None


def _several(index: Path, note: Callable[[str], None]) -> dict[str, Tensor]:
    """All files that the index names, which hold what it says and nothing else."""
    where = settings(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise BadInput(f"{index} has no weight_map of names and files; get the index again")
    out: dict[str, Tensor] = {}
    for file in sorted(set(where.values())):
        if file != Path(file).name or not file.endswith(ENDINGS):
            raise BadInput(f"{index} names the file {file!r}; it must name weights files beside it")
        found = read_tensors(index.parent / file, note)
        wanted = {name for name, at in where.items() if at == file}
        for names, what in ((wanted - found.keys(), "lacks"), (found.keys() - wanted, "also holds")):
            if names:
                raise BadInput(f"{index.parent / file} {what} {_some(names)}, by {index.name}; get both again")
        out |= found
    return out


def _refuse_bombs(path: Path) -> None:
    """Before anything is unpacked: what the list of a zip says that it will need."""
    try:
        with zipfile.ZipFile(path) as archive:
            swollen = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # no zip: an old torch file, or a damaged one, which its reader refuses
    if swollen > SWELLS * path.stat().st_size + SMALL:
        what = f"{path} would unpack from {path.stat().st_size:,} to {swollen:,} bytes"
        raise BadInput(f"{what}, and weights hardly compress; get it again from where you trust it")


def _arrays(path: Path) -> dict[str, Tensor]:
    """Names with dots for the slashes of big_vision."""
    _refuse_bombs(path)
    out: dict[str, Tensor] = {}
    try:
        with np.load(path, allow_pickle=False) as found:
            for name in found.files:
                out[name.replace("/", ".")] = torch.from_numpy(np.asarray(found[name]))
    except Exception as error:  # a hostile file decides what is raised here, so any kind of it means the same
        told = f"{type(error).__name__}; nothing in it was run"
        raise BadInput(f"{path} is damaged or holds more than arrays of numbers ({told}); get it again") from None
    if not out:
        raise BadInput(f"{path} holds no arrays; get it again")
    return out


def _unpickled(path: Path) -> Any:
    _refuse_bombs(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats and storages: nothing that the user can mend
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file decides what is raised here, so any kind of it means the same
        raise BadInput(
            f"{path} is damaged or holds more than tensors ({type(error).__name__}; nothing in it was run); "
            "get it again, or have its tensors exported as safetensors"
        ) from None


def _pick(path: Path, found: Any, note: Callable[[str], None]) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds a {type(found).__name__}; expected tensors by name")
    if not _is_flat(found):
        inside = [key for key in WRAPPERS if isinstance(found.get(key), dict) and _is_flat(found[key])]
        if not inside or (len(inside) > 1 and inside[0] not in AVERAGES):
            keys = _some(repr(key) for key in found) or "nothing"
            raise BadInput(f"{path} holds {keys}; expected tensors by name, also under one of {', '.join(WRAPPERS)}")
        left = _some(repr(key) for key in found if key != inside[0]) or "nothing"
        note(f"{path}: took the tensors under {inside[0]!r} and left {left}")
        found = found[inside[0]]
    return {name: tensor.detach() for name, tensor in found.items()}


def _is_flat(found: dict[Any, Any]) -> bool:
    return bool(found) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
