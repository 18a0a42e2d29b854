"""open_clip's `open_clip_config.json`: `model_cfg.vision_cfg` for the image side, `preprocess_cfg` for its pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...card import Preprocess, Resize
from ...models.architecture import Backbone, ClassifierConfig, PoolConfig, ViTConfig
from .facts import Facts
from .timm import network, pooled
from .told import Told

IDLE = {
    "patch_dropout", "timm_drop", "timm_drop_path", "timm_model_pretrained", "output_tokens", "attn_pooler_queries",
    "attn_pooler_heads", "head_width", "layers", "width", "mlp_ratio", "patch_size",
}  # fmt: skip  # of training; and of OpenAI's network, where the tower is timm's
TEXT = {
    "text_cfg", "custom_text", "init_logit_scale", "init_logit_bias", "multimodal_cfg", "cast_dtype",
    "nonscalar_logit_scale",
}  # fmt: skip
INTERPOLATIONS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}  # random: in training
RESIZES: dict[str, Resize] = {"shortest": "shortest", "squash": "squash", "longest": "letterbox"}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def told(plain: dict[str, Any], where: str) -> Told:
    facts = Facts(plain, where)
    model = facts.inner("model_cfg", TEXT)
    vision = model.inner("vision_cfg", IDLE)
    space = model.whole("embed_dim")
    quick = model.flag("quick_gelu", False)
    config, layout = _trunk(vision, space) if vision.has("timm_model_name") else _own(vision, space, quick)
    pictures = facts.inner("preprocess_cfg")
    preprocess = _pictures(pictures, config.backbone)
    for part in (facts, model, vision, pictures):
        part.done()
    return Told(
        library="open_clip", where=where, config=config, preprocess=preprocess, layouts=(f"open_clip/{layout}",)
    )


def _own(vision: Facts, space: int, quick: bool) -> tuple[ClassifierConfig, str]:
    """The network of OpenAI."""
    width, size = vision.whole("width", 768), vision.whole("head_width", 64)
    for key, wanted in (("pos_embed_type", "learnable"), ("pool_type", "tok"), ("no_ln_pre", False)):
        vision.must(key, wanted)
    backbone = ViTConfig(
        image_size=vision.picture("image_size", 224),
        patch_size=vision.side("patch_size", 16),
        width=width,
        depth=vision.whole("layers", 12),
        heads=width // size,
        mlp_ratio=vision.number("mlp_ratio", 4.0),
        mlp="quick_gelu" if quick else "gelu",
        norm_eps=1e-5,
        norm_pre=True,
        embed_bias=False,
    )
    return ClassifierConfig(backbone=backbone, pool=PoolConfig(projection=space), classes=0), "clip"


def _trunk(vision: Facts, space: int) -> tuple[ClassifierConfig, str]:
    """A network of timm's; it has its own activation, whatever is said of the others."""
    config, layout = network(vision, "timm_model_name")
    backbone = replace(config.backbone, image_size=vision.picture("image_size", 224))
    pool = pooled(config, vision, "timm_pool") if vision.take("timm_pool", "avg") else config.pool
    how = vision.take("timm_proj", "linear")
    if how not in ("linear", "none", ""):
        raise vision.refused("timm_proj", "known here is linear and none")
    vision.must("timm_proj_bias", False)
    keeps = how == "" and config.pool.projection  # timm's own head is the projection
    pool = replace(pool, projection=space if how == "linear" or keeps else 0)
    kind = layout.removeprefix("timm/")
    return replace(config, backbone=backbone, pool=pool, classes=0), f"timm {kind}"


def _pictures(facts: Facts, backbone: Backbone) -> Preprocess:
    facts.must("mode", "RGB")
    resize = RESIZES.get(facts.take("resize_mode", "shortest"))
    if resize is None:
        raise facts.refused("resize_mode", f"known here is {', '.join(RESIZES)}")
    border = facts.number("fill_color", 0)
    return Preprocess(
        size=facts.sides("size") if facts.has("size") else backbone.size,
        resize=resize,
        fill=(border,) if resize == "letterbox" else None,
        interpolation=facts.word("interpolation", INTERPOLATIONS, "bicubic"),  # type: ignore[arg-type]
        mean=facts.numbers("mean", 3, MEAN),
        std=facts.numbers("std", 3, STD),
    )
