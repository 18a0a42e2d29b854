"""A folder that transformers opens: `AutoModel...from_pretrained(FOLDER)` and `AutoImageProcessor`.

Each of its networks is one class with its own settings; which one a backbone is follows from its settings alone. The
names are those of its files, which both of its versions read. What has no counterpart there is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...card import Card, Preprocess
from ...errors import BadInput
from ...models.architecture import Backbone, ClassifierConfig, PoolConfig, RotaryConfig, ViTConfig
from ...models.staged import CvTConfig, SwinConfig
from .abroad import Abroad, classes_of, image_of, refuse_other, temperature, vit_of
from .timm import side_of

WHERE = "transformers"
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}
RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
MASKS = {"dinov2_with_registers": (1,), "dinov3_vit": (1, 1)}  # the axes before the width of a token for hidden patches
ODD = "a centre: where the margin around it is odd it may lie a pixel further up or left than timm's and ours"
MLP = frozenset({"mlp"})
Told = tuple[str, str, dict[str, Any]]  # class, layout, settings beside those that all have


def describe(cfg: ClassifierConfig, card: Card) -> Abroad:
    kind = _kind(cfg)
    called, layout, more = KINDS[kind](cfg)
    classes = classes_of(card, cfg)
    sizes = _sizes(cfg.backbone) if isinstance(cfg.backbone, ViTConfig) else {}
    settings = {"architectures": [called], "model_type": kind, "dtype": "float32"} | sizes | more
    settings |= _labels(card, classes)
    pictures, lost = processor(image_of(card))
    auto = "AutoModelForImageClassification" if called.endswith("ForImageClassification") else called
    opens = [f"from transformers import AutoImageProcessor, {auto}", f'model = {auto}.from_pretrained("FOLDER")']
    if pictures:
        opens.append('processor = AutoImageProcessor.from_pretrained("FOLDER")')
    mask = MASKS.get(kind, ())
    if mask:
        lost = (*lost, "the mask token of its pretraining, which we do not keep: zeros stand there")
    files = {"config.json": settings} | ({"preprocessor_config.json": pictures} if pictures else {})
    return Abroad(
        layout=f"{WHERE}/{layout}", weights="model.safetensors", files=files, opens=tuple(opens),
        zeros=({"embeddings.mask_token": (*mask, cfg.backbone.features)} if mask else {}) | _counters(cfg.backbone),
        lost=(*lost, *temperature(card)),
    )  # fmt: skip


def _kind(cfg: ClassifierConfig) -> str:
    """By what only that family has."""
    b = cfg.backbone
    if isinstance(b, SwinConfig):
        return "swin" if b.version == "v1" else "swinv2"
    if isinstance(b, CvTConfig):
        return "cvt"
    if b.relative:
        return "beit"
    if b.rotary is not None:
        return "dinov3_vit"
    if b.norm_pre:
        return "clip_vision_model"
    if cfg.pool.kind == "attention":
        return "siglip_vision_model"
    if b.layer_scale is not None:
        return "dinov2_with_registers" if b.registers else "dinov2"
    return "deit" if b.distill_token else "vit"


# -- the kinds ---------------------------------------------------------------------------------------------------------


def _vit(cfg: ClassifierConfig) -> Told:
    b = refuse_other(WHERE, cfg, MLP | {"qkv_bias"})
    _refuse_pool(cfg, PoolConfig(tanh=cfg.pool.tanh and not cfg.classes))
    more = {"intermediate_size": b.hidden, "hidden_act": _activation(b), "qkv_bias": b.qkv_bias}
    if cfg.classes:
        return "ViTForImageClassification", "vit", more
    return "ViTModel", "vit bare", more


def _deit(cfg: ClassifierConfig) -> Told:
    b = refuse_other(WHERE, cfg, MLP | {"qkv_bias"}, {"distill_token": True})
    _refuse_pool(cfg, PoolConfig())
    if not cfg.classes:
        raise BadInput(f"{WHERE} has no distilled DeiT without its two heads; keep our own folder")
    more = {"intermediate_size": b.hidden, "hidden_act": _activation(b), "qkv_bias": b.qkv_bias}
    return "DeiTForImageClassificationWithTeacher", "deit distilled", more


def _beit(cfg: ClassifierConfig) -> Told:
    b = refuse_other(WHERE, cfg, MLP | {"layer_scale"}, {"position": "none", "relative": True, "final_norm": False})
    _refuse_pool(cfg, PoolConfig(kind="mean", norm=True))
    if not cfg.classes:
        raise BadInput(f"{WHERE}'s BEiT without a head ends in a pooler of another kind; keep our own folder")
    if b.layer_scale is None:
        raise BadInput(f"{WHERE}'s BEiT has scaled branches, and this network has none; keep our own folder")
    more = {"intermediate_size": b.hidden, "hidden_act": _activation(b), "use_relative_position_bias": True}
    more |= {"layer_scale_init_value": b.layer_scale, "use_mean_pooling": True, "drop_path_rate": b.drop_path}
    return "BeitForImageClassification", "beit", more


def _dinov2(cfg: ClassifierConfig) -> Told:
    registers = {"prefix_position": False} if vit_of(WHERE, cfg).registers else {}
    b = refuse_other(WHERE, cfg, frozenset({"mlp", "layer_scale", "registers", "qkv_bias"}), registers)
    _refuse_pool(cfg, PoolConfig())
    _refuse_head(cfg, "DINOv2", "reads the mean of the patches as well")
    gated = b.mlp == "swiglu"
    ratio = _whole_ratio(b, gated)
    more = {"mlp_ratio": ratio, "hidden_act": "gelu" if gated else _activation(b), "qkv_bias": b.qkv_bias}
    more |= {"layerscale_value": b.layer_scale, "use_swiglu_ffn": gated, "use_mask_token": False}
    more |= {"num_register_tokens": b.registers} if b.registers else {}
    called = "Dinov2WithRegistersModel" if b.registers else "Dinov2Model"
    return called, "dinov2" + " registers" * bool(b.registers) + " gated" * gated, more


def _whole_ratio(b: ViTConfig, gated: bool) -> int:
    """Its mlp_ratio is a whole number, of which a gated MLP takes two thirds, in eights."""
    for ratio in range(1, 17):
        hidden = b.width * ratio
        if (((hidden * 2 // 3) + 7) // 8 * 8 if gated else hidden) == b.hidden:
            return ratio
    raise BadInput(f"{WHERE}'s DINOv2 has no MLP of {b.hidden} features at width {b.width}; keep our own folder")


def _dinov3(cfg: ClassifierConfig) -> Told:
    free = frozenset({"mlp", "layer_scale", "registers", "rotary", "qkv_bias"})
    b = refuse_other(WHERE, cfg, free, {"position": "none"})
    _refuse_pool(cfg, PoolConfig())
    _refuse_head(cfg, "DINOv3", "is not in every version")
    if b.rotary != RotaryConfig(base=b.rotary.base if b.rotary else 0.0) or not b.registers or b.layer_scale is None:
        raise BadInput(
            f"{WHERE} turns by place in DINOv3 only, with registers and scaled branches; keep our own folder"
        )
    gated = b.mlp == "swiglu"
    more = {"intermediate_size": b.hidden, "hidden_act": "silu" if gated else _activation(b)}
    more |= {"use_gated_mlp": gated, "num_register_tokens": b.registers, "layerscale_value": b.layer_scale}
    more |= {"rope_theta": b.rotary.base, "query_bias": b.qkv_bias, "value_bias": b.qkv_bias, "key_bias": False}
    return "DINOv3ViTModel", "dinov3" + " gated" * gated + " biases", more


def _clip(cfg: ClassifierConfig) -> Told:
    b = refuse_other(WHERE, cfg, MLP, {"norm_pre": True, "embed_bias": False})
    _refuse_pool(cfg, PoolConfig(projection=cfg.pool.projection))
    _refuse_head(cfg, "CLIP", "reads the mean of the patches")
    if not cfg.pool.projection:
        raise BadInput(f"{WHERE}'s image tower of CLIP ends in a projection, and this network has none")
    more = {"intermediate_size": b.hidden, "hidden_act": _activation(b)}
    return "CLIPVisionModelWithProjection", "clip", more | {"projection_dim": cfg.pool.projection}


def _siglip(cfg: ClassifierConfig) -> Told:
    b = refuse_other(WHERE, cfg, MLP, {"class_token": False})
    _refuse_pool(cfg, PoolConfig(kind="attention"))
    _refuse_head(cfg, "SigLIP", "reads the mean of the patches")
    more = {"intermediate_size": b.hidden, "hidden_act": _activation(b), "vision_use_head": True}
    return "SiglipVisionModel", "siglip", more


def _swin(cfg: ClassifierConfig) -> Told:
    b = cfg.backbone
    assert isinstance(b, SwinConfig), "its kind says so"
    _refuse_pool(cfg, PoolConfig(kind="mean"))
    if not isinstance(b.window, int):
        raise BadInput(f"{WHERE}'s Swin has one window for all stages, not {b.window}; keep our own folder")
    if b.size[0] != b.size[1]:
        raise BadInput(f"{WHERE}'s Swin is for square pictures, not {b.size[0]}x{b.size[1]}; keep our own folder")
    more: dict[str, Any] = {
        "image_size": b.size[0], "patch_size": b.patch_size, "num_channels": b.channels, "embed_dim": b.width,
        "depths": list(b.depths), "num_heads": list(b.heads), "window_size": b.window, "mlp_ratio": b.mlp_ratio,
        "layer_norm_eps": b.norm_eps, "drop_path_rate": b.drop_path, "hidden_act": "gelu", "qkv_bias": True,
    }  # fmt: skip
    if b.version == "v2":
        more["pretrained_window_sizes"] = list(b.trained_window or (0,) * len(b.depths))
    called, kind = ("Swinv2", "swinv2") if b.version == "v2" else ("Swin", "swin")
    return (f"{called}ForImageClassification", kind, more) if cfg.classes else (f"{called}Model", f"{kind} bare", more)


def _cvt(cfg: ClassifierConfig) -> Told:
    b = cfg.backbone
    assert isinstance(b, CvTConfig), "its kind says so"
    _refuse_pool(cfg, PoolConfig())
    if b.mlp != "gelu" or b.norm_eps != 1e-5 or not cfg.classes or len(b.widths) != 3:
        what = f"model.backbone.mlp is {b.mlp!r}, its norm_eps {b.norm_eps:g}, with {len(b.widths)} stages"
        raise BadInput(f"{WHERE}'s CvT computes the exact GELU, norms at 1e-5, three stages and a head; {what}")
    if any(depth <= stage for stage, depth in enumerate(b.depths)):
        raise BadInput(
            f"{WHERE} cannot build a CvT of depths {b.depths}: each stage needs a block more than came before"
        )
    more: dict[str, Any] = {
        "num_channels": b.channels, "embed_dim": list(b.widths), "depth": list(b.depths), "num_heads": list(b.heads),
        "mlp_ratio": [b.mlp_ratio] * 3, "drop_path_rate": [0.0, 0.0, b.drop_path],
    }  # fmt: skip
    return "CvtForImageClassification", "cvt", more


KINDS: dict[str, Callable[[ClassifierConfig], Told]] = {
    "vit": _vit, "deit": _deit, "beit": _beit, "dinov2": _dinov2, "dinov2_with_registers": _dinov2,
    "dinov3_vit": _dinov3, "clip_vision_model": _clip, "siglip_vision_model": _siglip,
    "swin": _swin, "swinv2": _swin, "cvt": _cvt,
}  # fmt: skip


# -- what they share ---------------------------------------------------------------------------------------------------


def _counters(b: Backbone) -> dict[str, tuple[int, ...]]:
    """Of the batch norms of a CvT: how many batches their statistics are of, which ours never count."""
    if not isinstance(b, CvTConfig):
        return {}
    at = "cvt.encoder.stages.{}.layers.{}.attention.attention.convolution_projection_{}.convolution_projection"
    return {
        f"{at.format(stage, i, part)}.normalization.num_batches_tracked": ()
        for stage, depth in enumerate(b.depths)
        for i in range(depth)
        for part in ("query", "key", "value")
    }


def _sizes(b: ViTConfig) -> dict[str, Any]:
    size: Any = b.size[0] if b.size[0] == b.size[1] else list(b.size)
    return {
        "hidden_size": b.width, "num_hidden_layers": b.depth, "num_attention_heads": b.heads, "image_size": size,
        "patch_size": b.patch_size, "num_channels": b.channels, "layer_norm_eps": b.norm_eps,
    }  # fmt: skip


def _activation(b: ViTConfig) -> str:
    if b.mlp not in ACTIVATIONS:
        raise BadInput(f"{WHERE} has no such network with model.backbone.mlp {b.mlp!r}; keep our own folder")
    return ACTIVATIONS[b.mlp]


def _refuse_pool(cfg: ClassifierConfig, wanted: PoolConfig) -> None:
    if cfg.pool != wanted:
        name = next(n for n in vars(wanted) if getattr(wanted, n) != getattr(cfg.pool, n))
        what = f"{WHERE} has no such network: model.pool.{name} is {getattr(cfg.pool, name)!r}"
        raise BadInput(f"{what}, there it is {getattr(wanted, name)!r}; keep our own folder")


def _refuse_head(cfg: ClassifierConfig, family: str, why: str) -> None:
    if cfg.classes:
        raise BadInput(f"the head of {WHERE}'s {family} {why}, ours does not; write --to timm, or keep our own folder")


def _labels(card: Card, classes: tuple[str, ...]) -> dict[str, Any]:
    if not classes:
        return {}
    kind = "multi_label_classification" if card.heads[0].task == "tags" else "single_label_classification"
    named = {"id2label": {str(i): name for i, name in enumerate(classes)}}
    return named | {"label2id": {name: i for i, name in enumerate(classes)}, "problem_type": kind}


def processor(image: Preprocess) -> tuple[dict[str, Any], tuple[str, ...]]:
    """preprocessor_config.json, and what it has no words for; {} where it could only be wrong."""
    height, width = image.size
    if image.resize == "shortest" and height == width:
        size: dict[str, int] = {"shortest_edge": side_of(image)}
    elif image.resize == "squash":
        size = {"height": int(height / image.crop), "width": int(width / image.crop)}
    else:
        what = f"preprocess.resize {image.resize!r} of {height}x{width}"
        return {}, (f"{what}: its image processors have none, so none was written; prepare pictures as our card says",)
    if image.channels != 3 or image.depth != "uint8" or image.limits is not None:
        what = f"pictures of {image.channels} channels, {image.depth}"
        return {}, (f"{what}: its image processors have no such, so none was written; prepare them as our card says",)
    out = {
        "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_resize": True, "size": size,
        "resample": RESAMPLE[image.interpolation], "do_center_crop": True,
        "crop_size": {"height": height, "width": width}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(image.mean), "image_std": list(image.std),
    }  # fmt: skip
    cut = image.resize == "shortest" or image.crop < 1
    return out, (ODD,) if cut and image.centre != "floor" else ()
