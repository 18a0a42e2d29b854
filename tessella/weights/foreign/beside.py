"""From the files beside somebody's weights, in a folder or on a hub, to what they tell of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ..files import settings
from . import open_clip, timm, transformers
from .told import Told

CONFIG, OPEN_CLIP = "config.json", "open_clip_config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # the second: of pictures and text together
README = "README.md"
Find = Callable[[str], Path | None]  # a file of this name beside the weights; None: there is none


def told_beside(weights: str, find: Find) -> Told | None:
    """`weights`: the name of the file that is read. None where nothing lies beside it."""
    clip = find(OPEN_CLIP) if weights.startswith("open_clip") else None
    config = None if clip is not None else find(CONFIG)
    if clip is None and config is None:
        clip = find(OPEN_CLIP)
    if clip is not None:
        out = open_clip.told(settings(clip), str(clip))
    elif config is not None:
        out = _of_config(config, find)
    else:
        return None
    return replace(out, licence=out.licence or _licence(find(README)))


def _of_config(path: Path, find: Find) -> Told:
    plain = settings(path)
    if isinstance(plain.get("architecture"), str):
        return timm.told(plain, str(path))
    if not isinstance(plain.get("model_type"), str):
        what = f"{path} names no architecture (timm) and no model_type (transformers)"
        raise BadInput(f"{what}; give the weights file itself, with --like NAME")
    return transformers.told(plain, str(path), _processor(find))


def _processor(find: Find) -> tuple[dict[str, Any], str] | None:
    """What is said of pictures, and where."""
    for name in PROCESSORS:
        found = find(name)
        if found is not None:
            plain = settings(found)
            inside = plain.get("image_processor", plain if name == PROCESSORS[0] else None)
            if isinstance(inside, dict):
                return inside, str(found)
    return None


def _licence(readme: Path | None) -> str | None:
    """What the head of a model card says, between its two lines of dashes."""
    if readme is None:
        return None
    try:
        text = readme.read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return None
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    said = re.search(r"^license:\s*['\"]?([\w.+-]+)", head[1], re.MULTILINE) if head else None
    return said[1] if said else None
