"""The image side of a CLIP of open_clip: the tensors of `model.visual`, and the part of its config that describes them.

A whole CLIP needs its text side, which is not ours to write yet; so the folder opens as an image tower, and says so.
"""

from __future__ import annotations

from typing import Any

from ...card import Card
from ...errors import BadInput
from ...models.architecture import ClassifierConfig, PoolConfig
from ..catalog import CATALOG
from ..layouts import LAYOUTS
from . import timm
from .abroad import Abroad, image_of, refuse_other, temperature, vit_of

WHERE = "open_clip"
LOST = "the text side, which this model does not hold: the tensors are those of model.visual"


def describe(cfg: ClassifierConfig, card: Card) -> Abroad:
    if cfg.classes:
        raise BadInput(f"{WHERE} holds towers without classes, and this is a classifier; write --to timm")
    image = image_of(card)
    modes = {"shortest": "shortest", "squash": "squash", "letterbox": "longest"}
    lost = [LOST]
    if image.resize not in modes or image.crop != 1:
        lost.append(f"preprocess: {WHERE} resizes to the size itself, not to {image.resize} of {image.crop:g}")
    pictures = {
        "size": list(image.size), "mode": "RGB", "mean": list(image.mean), "std": list(image.std),
        "interpolation": image.interpolation, "resize_mode": modes.get(image.resize, "shortest"),
    }  # fmt: skip
    layout, vision, quick = _tower(cfg, card)
    told = {"embed_dim": cfg.pool.projection or cfg.backbone.features, "vision_cfg": vision, "quick_gelu": quick}
    opens = (
        "from open_clip.model import _build_vision_tower",
        "told = json.load(open('FOLDER/open_clip_config.json'))['model_cfg']",
        "tower = _build_vision_tower(told['embed_dim'], told['vision_cfg'], told['quick_gelu'])",
        "held = safetensors.torch.load_file('FOLDER/open_clip_model.safetensors')",
        "tower.load_state_dict({name.removeprefix('visual.'): t for name, t in held.items()})",
    )
    return Abroad(
        layout=layout, weights="open_clip_model.safetensors",
        files={"open_clip_config.json": {"model_cfg": told, "preprocess_cfg": pictures}},
        opens=opens, lost=(*lost, *temperature(card)),
    )  # fmt: skip


def _tower(cfg: ClassifierConfig, card: Card) -> tuple[str, dict[str, Any], bool]:
    """(layout, vision_cfg, quick_gelu): OpenAI's own, or one of timm's."""
    b = vit_of(WHERE, cfg)
    size: Any = b.size[0] if b.size[0] == b.size[1] else list(b.size)
    if b.norm_pre:
        refuse_other(WHERE, cfg, frozenset({"mlp"}), {"norm_pre": True, "embed_bias": False})
        if cfg.pool != PoolConfig(projection=cfg.pool.projection) or b.norm_eps != 1e-5 or not cfg.pool.projection:
            raise BadInput(f"{WHERE}'s CLIP projects its class token, with norms at 1e-5; this network does not")
        if b.mlp not in ("gelu", "quick_gelu"):
            raise BadInput(f"{WHERE}'s CLIP has GELU or its quick form, not model.backbone.mlp {b.mlp!r}")
        vision = {
            "layers": b.depth, "width": b.width, "head_width": b.size_of_head, "patch_size": b.patch_size,
            "image_size": size, "mlp_ratio": b.mlp_ratio,
        }  # fmt: skip
        return "open_clip/clip", vision, b.mlp == "quick_gelu"
    entry = timm.known(cfg, card)
    layout = next((name for name in CATALOG[entry.name].also if name.startswith("open_clip/")), "") if entry else ""
    if entry is not None and b.size != entry.architecture.backbone.size:
        sides = " and ".join("x".join(map(str, s)) for s in (entry.architecture.backbone.size, b.size))
        raise BadInput(f"{WHERE} builds {entry.name} for one size of pictures ({sides} differ); write --to timm")
    if entry is None or layout not in LAYOUTS:
        raise BadInput(f"{WHERE} has no such tower: of timm's it knows those of SigLIP and PE-Core; write --to timm")
    projected = "linear" if cfg.pool.projection else "none"
    vision = {
        "timm_model_name": timm.named(entry), "timm_model_pretrained": False, "timm_pool": "map",
        "timm_proj": projected, "image_size": size,
    }  # fmt: skip
    return layout, vision, False
