"""Our own layout on disk: the names that timm has for such a network, so that `model.safetensors` loads there strictly.

In memory a classifier keeps its backbone, its pool and its heads apart; on disk all lie in one flat list of names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .table import Pair, Table

PAIRS: list[Pair] = [
    ("pool.attn_pool.{*rest}", "attn_pool.{*rest}"),
    ("pool.fc_norm.{*rest}", "fc_norm.{*rest}"),
    ("pool.pre_logits.{*rest}", "pre_logits.{*rest}"),
    ("pool.projection.{*rest}", "projection.{*rest}"),
    ("head.{*rest}", "head.{*rest}"),
    ("head_dist.{*rest}", "head_dist.{*rest}"),
    ("backbone.{*rest}", "{*rest}"),
]

SWIN: list[Pair] = [("head.{*rest}", "head.fc.{*rest}"), *PAIRS]
AUTOENCODER: list[Pair] = [
    *((f"{part}.{{*rest}}", f"{part}.{{*rest}}") for part in ("decoder_embed", "decoder_blocks", "decoder_norm")),
    ("decoder_pred.{*rest}", "decoder_pred.{*rest}"),
    ("decoder_pos_embed", "decoder_pos_embed"),
    ("mask_token", "mask_token"),
    ("backbone.{*rest}", "{*rest}"),
]
PAINTER: list[Pair] = [
    ("decoder.{*rest}", "decoder.{*rest}"),
    ("mask_token", "mask_token"),
    ("backbone.{*rest}", "{*rest}"),
]

_TABLES = {
    "ClassifierConfig": Table(PAIRS),
    "ClassifierConfig of SwinConfig": Table(SWIN),
    "MAEConfig": Table(AUTOENCODER),
    "PainterConfig": Table(PAINTER),
}
# by the kind of architecture, and of backbone where timm has other names; backbones alone keep their names


def to_file(architecture: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Name in memory -> name in `model.safetensors`."""
    table = _table(architecture)
    return table.there(names) if table is not None else {name: name for name in names}


def from_file(architecture: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Name in `model.safetensors` -> name in memory."""
    table = _table(architecture)
    return table.back(names) if table is not None else {name: name for name in names}


def head_of(architecture: dict[str, Any]) -> str:
    """What the head's weight is called in `model.safetensors`."""
    return to_file(architecture, ["head.weight"])["head.weight"]


def _table(architecture: dict[str, Any]) -> Table | None:
    kind, backbone = architecture["type"], architecture.get("backbone", {}).get("type")
    return _TABLES.get(f"{kind} of {backbone}", _TABLES.get(kind))
