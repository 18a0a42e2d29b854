"""timm's `config.json`: an architecture by its name, changed by `model_args`, and the pictures of `pretrained_cfg`."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from ...card import Preprocess, Resize
from ...errors import BadInput
from ...models.architecture import Backbone, ClassifierConfig, PoolConfig, ViTConfig
from .. import labels
from ..catalog import CATALOG, COUNTS, Labels
from .facts import Facts
from .told import Told, named

IDLE = {"num_features", "labels", "label_descriptions", "label_names", "global_pool", "pretrained_cfg", "model_args"}
IDLE_PICTURES = IDLE | {
    "tag", "custom_load", "fixed_input_size", "pool_size", "first_conv", "classifier", "min_input_size", "url", "file",
    "test_input_size", "test_crop_pct", "test_pool_size", "hf_hub_id", "hf_hub_filename", "source", "architecture",
    "description", "origin_url", "paper_name", "paper_ids", "notes", "num_classes",
}  # fmt: skip
IDLE_ARGS = {
    "dynamic_img_size", "strict_img_size", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate",
    "attn_drop_rate", "drop_path_rate", "weight_init", "fix_init",
}  # fmt: skip  # of training, and of sizes that the network takes
FIELDS = {
    "patch_size": "patch_size", "embed_dim": "width", "depth": "depth", "num_heads": "heads", "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias", "qk_norm": "qk_norm", "init_values": "layer_scale", "class_token": "class_token",
    "reg_tokens": "registers", "num_reg_tokens": "registers", "pre_norm": "norm_pre", "final_norm": "final_norm",
    "in_chans": "channels",
    "depths": "depths", "window_size": "window", "pretrained_window_sizes": "trained_window",  # of Swins
}  # fmt: skip
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}
POOLS = {"token": "cls", "tok": "cls", "avg": "mean", "map": "attention"}
RESIZES: dict[str, Resize] = {"center": "shortest", "squash": "squash", "border": "letterbox"}
INTERPOLATIONS = {name: name for name in ("bicubic", "bilinear", "nearest")}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # timm's own where a file says nothing
_NAME = re.compile(r"(?P<size>.+?)_patch(?P<patch>\d+)(?P<rest>.*?)(?:_(?P<pixels>\d{2,3}))?")


class Known(NamedTuple):
    config: ClassifierConfig
    layout: str


def told(plain: dict[str, Any], where: str) -> Told:
    facts = Facts(plain, where, IDLE)
    own = None if plain.get("pretrained_cfg") is None else facts.inner("pretrained_cfg").plain
    pictures = Facts(plain if own is None else own, where if own is None else f"{where}: pretrained_cfg", IDLE_PICTURES)
    known = network(facts, "architecture")
    config = _changed(known.config, facts)
    outputs = facts.whole("num_classes", pictures.whole("num_classes", 1000))
    classes = _classes(facts, pictures, outputs)
    layouts: tuple[str, ...] = (known.layout,)
    projected = config.pool.projection
    if projected and (classes or outputs != projected):  # somebody put a head where the projection was
        config, layouts = replace(config, pool=replace(config.pool, projection=0)), ("timm/vit",)
    preprocess = _pictures(pictures, config.backbone)
    licence = pictures.take("license")
    if own is not None:
        facts.done()
    pictures.done()
    return Told(
        library="timm",
        where=where,
        config=config,
        preprocess=preprocess,
        classes=classes,
        outputs=None if config.pool.projection else outputs,
        layouts=layouts,
        licence=None if licence is None else str(licence),
    )


# -- the network -------------------------------------------------------------------------------------------------------


@cache
def _networks() -> dict[str, Known]:
    """By timm's names without their tags."""
    out: dict[str, Known] = {}
    for entry in CATALOG.values():
        for origin in entry.origins:
            if origin.library == "timm":
                name = origin.id.removeprefix("timm/").partition(".")[0]
                if entry.name.endswith(".openai"):  # timm lists the weights under the plain name too
                    name = name.replace("_clip_", "_clip_quickgelu_")
                out.setdefault(name, Known(entry.architecture, origin.layout))
    return out


def network(facts: Facts, key: str) -> Known:
    """What timm builds by this name; also of other patches and pictures than the catalogue has."""
    name = str(facts.take(key, "")).partition(".")[0]
    known = _networks()
    if name in known:
        return known[name]
    asked = _NAME.fullmatch(name)
    for other, found in known.items() if asked else ():
        like, b = _NAME.fullmatch(other), found.config.backbone
        if not isinstance(b, ViTConfig):
            continue
        alike = like and asked and (like["size"], like["rest"]) == (asked["size"], asked["rest"])
        if alike and asked and not (b.rotary and b.rotary.reference):  # its places are counted on one grid
            b = replace(b, patch_size=int(asked["patch"]), image_size=int(asked["pixels"] or b.size[0]))
            return Known(replace(found.config, backbone=b), found.layout)
    raise facts.unknown(key, known)


def _changed(config: ClassifierConfig, facts: Facts) -> ClassifierConfig:
    """With what `model_args` say beside the name."""
    args = facts.inner("model_args", IDLE_ARGS)
    b, changes = config.backbone, dict[str, Any]()
    for theirs, ours in FIELDS.items():
        if args.has(theirs):
            changes[ours] = args.take(theirs)
    if args.has("img_size"):
        changes["image_size"] = args.picture("img_size")
    if args.has("no_embed_class"):
        changes["prefix_position"] = not args.flag("no_embed_class")
    if args.has("pre_norm"):
        changes["embed_bias"] = not args.flag("pre_norm")
    if args.has("act_layer"):
        changes["mlp"] = args.word("act_layer", ACTIVATIONS)
    if args.take("dynamic_img_pad"):
        changes["indivisible"] = "pad"
    for name in ("depths", "heads", "window", "trained_window"):
        if isinstance(changes.get(name), list):
            changes[name] = tuple(changes[name])
    if "trained_window" in changes and not any(changes["trained_window"]):
        changes["trained_window"] = None
    if "mlp_ratio" in changes:
        changes["mlp_ratio"] = args.number("mlp_ratio")
    pool = pooled(config, args if args.has("global_pool") else facts, "global_pool")
    args.take("num_classes"), args.take("global_pool"), args.take("fc_norm")  # the tensors settle them
    args.done()
    try:
        return replace(config, backbone=replace(b, **changes), pool=pool)
    except (BadInput, TypeError) as error:
        raise BadInput(f"{args.where}: {error}") from None


def pooled(config: ClassifierConfig, facts: Facts, key: str) -> PoolConfig:
    """The network's own pool, or the one that is said instead."""
    if not facts.has(key):
        return config.pool
    kind = facts.word(key, POOLS)
    return config.pool if kind == config.pool.kind else replace(config.pool, kind=kind)  # type: ignore[arg-type]


# -- pictures and classes ----------------------------------------------------------------------------------------------


def _pictures(facts: Facts, backbone: Backbone) -> Preprocess:
    size = facts.take("input_size", [backbone.channels, *backbone.size])
    if not isinstance(size, list) or len(size) != 3 or not all(isinstance(n, int) for n in size):
        raise facts.refused("input_size", "channels, height and width are wanted")
    mode = facts.take("crop_mode", "center")
    if mode not in RESIZES:
        raise facts.refused("crop_mode", f"known here is {', '.join(RESIZES)}")
    crop = facts.number("crop_pct", 0.875)
    if RESIZES[mode] == "letterbox" and crop != 1:
        raise facts.refused("crop_pct", "beside crop_mode 'border' only 1 is known here")
    return Preprocess(
        size=(size[1], size[2]),
        resize=RESIZES[mode],
        crop=crop,
        interpolation=facts.word("interpolation", INTERPOLATIONS, "bicubic"),  # type: ignore[arg-type]
        mean=facts.numbers("mean", size[0], MEAN if size[0] == 3 else None),
        std=facts.numbers("std", size[0], STD if size[0] == 3 else None),
        channels=size[0],
    )


def _classes(facts: Facts, pictures: Facts, outputs: int) -> tuple[str, ...]:
    """The names that it lists, or those of the label set that the tag of the weights ends with."""
    for source, key in ((facts, "label_names"), (pictures, "label_names"), (facts, "labels")):
        if source.has(key):
            return named(source, key, source.take(key))
    tag = str(pictures.plain.get("tag") or "")
    ends: dict[str, Labels] = {"in1k": "imagenet-1k", "in12k": "imagenet-12k", "in21k": "imagenet-21k"}
    known = ends.get(tag.rpartition("_")[2])
    return labels.names(known) if known and COUNTS[known] == outputs else ()
