"""A folder that timm opens: `timm.create_model("local-dir:FOLDER", pretrained=True)`, and `hf-hub:` once it is pushed.

timm builds a network from a name and arguments. A network of the catalogue has its name there; any other must be a
plain VisionTransformer, whose arguments say everything but its epsilon.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from ...card import Card, Preprocess
from ...errors import BadInput
from ...models.architecture import ClassifierConfig, PoolConfig
from ...models.staged import SwinConfig
from ..catalog import CATALOG, Entry
from .abroad import Abroad, classes_of, image_of, refuse_other, temperature

WHERE = "timm"
SAME = ("deit", "dino")  # families whose repositories have our names, so the catalogue need not say so
OPENS = ("import timm", 'model = timm.create_model("local-dir:FOLDER", pretrained=True)')
EPSILONS = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}  # a name for each: it is no argument
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}
POOLS = {"cls": "token", "mean": "avg", "attention": "map"}


def describe(cfg: ClassifierConfig, card: Card) -> Abroad:
    if isinstance(cfg.backbone, SwinConfig):
        _refuse_padded(cfg.backbone)
    entry = known(cfg, card)
    classes, image = classes_of(card, cfg), image_of(card)
    if entry is None:
        name, args, layout = _swin(cfg, cfg.backbone) if isinstance(cfg.backbone, SwinConfig) else _plain(cfg)
    else:
        name, args, layout = named(entry), _changed(cfg, entry), entry.origins[0].layout
    outputs = cfg.classes or cfg.pool.projection
    pictures, lost = _pictures(cfg, image)
    told: dict[str, Any] = {
        "architecture": name, "num_classes": outputs, "num_features": cfg.backbone.features,
        "global_pool": POOLS[cfg.pool.kind],
    }  # fmt: skip
    told |= {"label_names": list(classes)} if classes else {}
    told |= {"model_args": args, "pretrained_cfg": pictures | _rest(cfg, card, outputs)}
    return Abroad(
        layout=layout, weights="model.safetensors", files={"config.json": told}, opens=OPENS,
        lost=(*lost, *temperature(card)),
    )  # fmt: skip


def known(cfg: ClassifierConfig, card: Card, library: str = WHERE) -> Entry | None:
    """The entry of the catalogue that these weights are of, or the first that is built alike, of those that this
    library has."""
    told = CATALOG.get(str(card.provenance.get("like")))
    first = [told] if told is not None else []
    for entry in (*first, *CATALOG.values()):
        there = entry.origins[0].library == WHERE if library == WHERE else layout_of(entry, library) is not None
        if there and _same_but_size(cfg, entry.architecture):
            return entry
    return None


def layout_of(entry: Entry, library: str) -> str | None:
    """In which it was published there, if it was."""
    found = next((name for name in entry.layouts if name.startswith(f"{library}/")), None)
    return "meta/vit" if found is None and library == "meta" and entry.family in SAME else found


def named(entry: Entry) -> str:
    """Its architecture in timm, which computes as the weights were trained."""
    name = entry.origins[0].id.removeprefix("timm/").partition(".")[0]
    return name.replace("_clip_", "_clip_quickgelu_") if entry.name.endswith(".openai") else name


def _same_but_size(cfg: ClassifierConfig, other: ClassifierConfig) -> bool:
    """Whether timm's arguments tell the rest: picture size, channels, classes, and what only training knows."""
    b, o = cfg.backbone, other.backbone
    if type(b) is not type(o) or cfg.pool != other.pool:
        return False
    for name in (field.name for field in fields(b)):
        have, wanted = getattr(b, name), getattr(o, name)
        both = name == "layer_scale" and None not in (have, wanted)  # the factor to start with
        free = name in {"image_size", "channels", "remat", "drop_path"} or name.endswith("_dropout")
        if not (free or both or have == wanted or {have, wanted} == {"conv", "linear"}):
            return False
    return True


def _changed(cfg: ClassifierConfig, entry: Entry) -> dict[str, Any]:
    b, native = cfg.backbone, entry.architecture.backbone
    args: dict[str, Any] = {"img_size": list(b.size)} if b.size != native.size else {}
    args |= {"in_chans": b.channels} if b.channels != native.channels else {}
    if entry.family == "dinov3":
        args["global_pool"] = "token"  # as the paper, and as ours; timm's own takes the mean
    return args


def _refuse_padded(b: SwinConfig) -> None:
    """timm shifts a map before it pads it: rows of one rim then see those of the other, and the answers differ."""
    for i, (h, w) in enumerate(b.grids_of(*b.size)):
        (rows, columns), window = b.tile(i), b.window_of(i)
        if b.depths[i] > 1 and any(b.shift(i)) and (h % rows or w % columns):
            what = f"in {b.size} px the {h}x{w} patches of stage {i} are no whole windows of {window}"
            raise BadInput(f"{what}, and {WHERE} pads those otherwise; write --to transformers, or keep our own folder")


def _swin(cfg: ClassifierConfig, b: SwinConfig) -> tuple[str, dict[str, Any], str]:
    """A SwinTransformer or SwinTransformerV2 by its arguments."""
    if b.norm_eps != 1e-5 or cfg.pool != PoolConfig(kind="mean"):
        what = f"{WHERE}'s Swins end in the mean of their patches, with norms at 1e-5"
        raise BadInput(f"{what}; this network does not; keep our own folder")
    args: dict[str, Any] = {
        "img_size": list(b.size), "patch_size": b.patch_size, "in_chans": b.channels, "embed_dim": b.width,
        "depths": list(b.depths), "num_heads": list(b.heads), "mlp_ratio": b.mlp_ratio,
        "window_size": [b.window_of(i) for i in range(len(b.depths))],
    }  # fmt: skip
    if len({*args["window_size"]}) == 1:  # a list of two would be height and width
        args["window_size"] = b.window_of(0)
    if b.version == "v1":
        return "swin_tiny_patch4_window7_224", args, "timm/swin"
    args["pretrained_window_sizes"] = list(b.trained_window or (0,) * len(b.depths))
    return "swinv2_tiny_window8_256", args, "timm/swin"


def _plain(cfg: ClassifierConfig) -> tuple[str, dict[str, Any], str]:
    """A VisionTransformer by its arguments."""
    pool = cfg.pool
    free = frozenset({"class_token", "registers", "prefix_position", "qkv_bias", "qk_norm", "norm_pre", "embed_bias"})
    free |= {"layer_scale", "final_norm", "mlp", "distill_token"}
    b = refuse_other(WHERE, cfg, free)
    if b.distill_token or b.norm_eps not in EPSILONS or b.mlp not in ACTIVATIONS or b.embed_bias == b.norm_pre:
        odd = {"distill_token": b.distill_token, "norm_eps": b.norm_eps, "mlp": b.mlp, "embed_bias": b.embed_bias}
        raise BadInput(f"{WHERE} has no such network ({_told(odd)} together); keep our own folder")
    if pool.tanh or pool.projection or pool.prefix or (pool.norm and b.final_norm):
        told = {f.name: getattr(pool, f.name) for f in fields(pool)}
        raise BadInput(f"{WHERE} has no such pool ({_told(told)}); keep our own folder")
    if pool.kind == "attention" and (pool.heads not in (None, b.heads) or pool.mlp_ratio not in (None, b.mlp_ratio)):
        raise BadInput(f"{WHERE} gives a pool the heads and MLP of its backbone; keep our own folder")
    args: dict[str, Any] = {
        "img_size": list(b.size), "patch_size": b.patch_size, "in_chans": b.channels, "embed_dim": b.width,
        "depth": b.depth, "num_heads": b.heads, "mlp_ratio": b.mlp_ratio, "qkv_bias": b.qkv_bias,
        "qk_norm": b.qk_norm, "init_values": b.layer_scale, "class_token": b.class_token,
        "no_embed_class": not b.prefix_position, "reg_tokens": b.registers, "pre_norm": b.norm_pre,
        "final_norm": b.final_norm or pool.norm, "fc_norm": pool.norm, "global_pool": POOLS[pool.kind],
        "act_layer": ACTIVATIONS[b.mlp],
    }  # fmt: skip
    return EPSILONS[b.norm_eps], args, "timm/vit"


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in values.items())


def _pictures(cfg: ClassifierConfig, image: Preprocess) -> tuple[dict[str, Any], tuple[str, ...]]:
    """timm's words for how a picture is prepared, and what it has none for."""
    modes = {"shortest": "center", "squash": "squash", "letterbox": "border"}
    lost: list[str] = []
    if image.resize not in modes:
        lost.append(f"preprocess.resize {image.resize!r}: timm has none; prepare pictures as our card says")
    if image.resize == "letterbox":
        lost.append("the colour of preprocess.fill: timm borders with the mean of its own config")
    if image.centre != "even":
        lost.append("that the centre lies where transformers cuts it: timm's may lie a pixel further down or right")
    if image.depth != "uint8" or image.limits is not None:
        lost.append(f"pixels of {image.depth}: timm reads 8 bits; scale them as our card says")
    height, width = image.size
    out = {
        "input_size": [image.channels, height, width], "crop_pct": image.crop, "crop_mode": modes.get(image.resize),
        "interpolation": image.interpolation, "mean": list(image.mean), "std": list(image.std),
    }  # fmt: skip
    if image.size != cfg.backbone.size:
        raise BadInput(f"its pictures are {height}x{width}, its network is for {cfg.backbone.size}; mend model.json")
    return {key: value for key, value in out.items() if value is not None}, tuple(lost)


def _rest(cfg: ClassifierConfig, card: Card, outputs: int) -> dict[str, Any]:
    out: dict[str, Any] = {
        "num_classes": outputs, "pool_size": None, "first_conv": cfg.backbone.first_weight.removesuffix(".weight"),
        "custom_load": False,
        "fixed_input_size": True, "license": card.licence or "other",
    }  # fmt: skip
    head = "head.fc" if isinstance(cfg.backbone, SwinConfig) else "head"
    heads = ["head", "head_dist"] if cfg.backbone.distill_token else head
    return out | {"classifier": heads}


def side_of(image: Preprocess) -> int:
    """Of the shorter side before the centre is cut out, as timm and torchvision round it."""
    return math.floor(image.size[0] / image.crop)
