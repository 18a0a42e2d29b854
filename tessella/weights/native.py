"""Our own layout on disk: the names of timm's VisionTransformer, so that `model.safetensors` loads there strictly.

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

AUTOENCODER: list[Pair] = [
    *((f"{part}.{{*rest}}", f"{part}.{{*rest}}") for part in ("decoder_embed", "decoder_blocks", "decoder_norm")),
    ("decoder_pred.{*rest}", "decoder_pred.{*rest}"),
    ("decoder_pos_embed", "decoder_pos_embed"),
    ("mask_token", "mask_token"),
    ("backbone.{*rest}", "{*rest}"),
]

_TABLES = {
    "ClassifierConfig": Table(PAIRS),
    "MAEConfig": Table(AUTOENCODER),
}  # by the kind of architecture; other networks keep their names


def to_file(architecture: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Name in memory -> name in `model.safetensors`."""
    table = _TABLES.get(architecture["type"])
    return table.there(names) if table is not None else {name: name for name in names}


def from_file(architecture: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Name in `model.safetensors` -> name in memory."""
    table = _TABLES.get(architecture["type"])
    return table.back(names) if table is not None else {name: name for name in names}
