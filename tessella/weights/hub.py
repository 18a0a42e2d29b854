"""Weights out of a hub, by huggingface_hub: its cache, its resuming, its tokens and mirrors (HF_ENDPOINT, HF_HOME).

What arrives is hashed and compared with what the hub says of it; whatever is in the way is one line and its cure.
"""

from __future__ import annotations

import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import BadInput
from .files import INDEX, settings

FILES = (
    "model.safetensors", f"model.safetensors{INDEX}", "open_clip_model.safetensors", "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}", "open_clip_pytorch_model.bin",
)  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Unreachable(BadInput):
    """Nobody answers, and it is not in the cache."""


def is_id(source: str) -> bool:
    """Whether this may be OWNER/NAME of a hub."""
    return _ID.fullmatch(source) is not None


def fetch(id: str, files: Sequence[str] = FILES) -> Path:
    """The first of these files that the repository has, out of the cache if it is there; of several files the index,
    with all beside it."""
    for ask in (_cached, _file):
        for file in files:
            path = ask(id, file)
            if path is None:
                continue
            if file.endswith(INDEX):
                where = settings(path).get("weight_map", {})
                for part in sorted(set(where.values())) if isinstance(where, dict) else ():
                    if (_cached(id, str(part)) or _file(id, str(part))) is None:
                        raise BadInput(f"{id} lacks {part}, which its {file} names; tell its owner, or take another")
            return path
    raise BadInput(f"{id} holds none of {', '.join(files)}; get its weights elsewhere, and give the file")


def beside(id: str, file: str) -> Path | None:
    """A small file of the repository whose weights are here; None where it has none, or where nobody can be asked."""
    try:
        return _cached(id, file) or (None if _known_absent(id, file) else _file(id, file))
    except Unreachable:
        return None


def library(id: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise BadInput(f'{id} comes from a hub, by huggingface_hub: pip install "tessella[hub]"') from None
    return huggingface_hub


def _cached(id: str, name: str) -> Path | None:
    found = library(id).try_to_load_from_cache(id, name)
    return Path(found) if isinstance(found, str) else None


def _known_absent(id: str, name: str) -> bool:
    """Whether the hub has said before that the repository lacks it."""
    found = library(id).try_to_load_from_cache(id, name)
    return found is not None and not isinstance(found, str)  # a mark of its own stands for that


def _file(id: str, name: str) -> Path | None:
    """Fetched, and hashed; None where the repository is there and the file is not."""
    hub = library(id)
    constants, errors = hub.constants, hub.errors
    offline = (
        f"{constants.ENDPOINT} cannot be reached, and {name} of {id} is not in {constants.HF_HUB_CACHE}; "
        "get the file elsewhere and give it with --like NAME, or name a mirror: HF_ENDPOINT=URL"
    )
    if not answers(constants.ENDPOINT):
        raise Unreachable(offline)
    try:
        path = Path(hub.hf_hub_download(id, name))
    except errors.LocalEntryNotFoundError:
        raise Unreachable(offline) from None
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError:
        where = f"{constants.ENDPOINT}/{id}"
        raise BadInput(f"{id} wants its terms accepted: do that on {where}, then `hf auth login` or HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        what = f"there is no {id} on {constants.ENDPOINT}, or it is private"
        raise BadInput(f"{what}; check the name, or log in: `hf auth login`") from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{name} of {id} did not arrive ({reason}); try again: what is there is kept") from None
    _refuse_damaged(path, id)
    return path


def answers(endpoint: str) -> bool:
    """Whether anybody listens there; else the library tries for half a minute. Behind a proxy only it can tell."""
    if urllib.request.getproxies() or os.environ.get("HF_HUB_OFFLINE"):
        return True
    place = urllib.parse.urlsplit(endpoint)
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), timeout=10).close()
    except OSError:
        return False
    return True


def _refuse_damaged(path: Path, id: str) -> None:
    """The cache names large files by the sha256 that the hub says they have."""
    blob = path.resolve()
    if _SHA256.fullmatch(blob.name) and durable.sha256_file(blob) != blob.name:
        blob.unlink()
        raise BadInput(f"{path.name} of {id} arrived damaged and was removed; try again")
