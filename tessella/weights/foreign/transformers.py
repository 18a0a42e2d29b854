"""transformers' `config.json` and `preprocessor_config.json`; what they leave out is what its classes then take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...card import Preprocess, Task
from ...models.architecture import Backbone, ClassifierConfig, PoolConfig, RotaryConfig, ViTConfig
from ...models.staged import CvTConfig, SwinConfig
from ..layouts import LAYOUTS, NEW
from .facts import Facts
from .told import Told, named, ratio, share

ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu", "relu": "relu",
}  # fmt: skip
TASKS: dict[str, Task] = {
    "single_label_classification": "classify", "multi_label_classification": "tags", "regression": "number",
}  # fmt: skip
IDLE = {
    # of training, and of other uses of these networks
    "hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout", "drop_path_rate",
    "initializer_range", "initializer_factor", "encoder_stride", "mask_ratio", "norm_pix_loss", "use_mask_token",
    "pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale", "vocab_size", "out_features", "out_indices",
    "stage_names", "apply_layernorm", "reshape_hidden_states", "pool_scales", "use_auxiliary_head",
    "auxiliary_loss_weight", "auxiliary_channels", "auxiliary_num_convs", "auxiliary_concat_input",
    "semantic_loss_ignore_index", "logit_scale_init_value", "text_config", "text_config_dict",
    "decoder_hidden_size", "decoder_intermediate_size", "decoder_num_attention_heads", "decoder_num_hidden_layers",
    "layerscale_value",
    # that every one of its files may hold, whatever the network
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "label2id", "num_labels",
    "return_dict", "use_cache", "tie_word_embeddings", "tie_encoder_decoder", "is_encoder_decoder", "max_length",
    "temperature", "top_k", "top_p", "typical_p", "num_beams", "num_return_sequences", "num_beam_groups",
    "length_penalty", "repetition_penalty", "attn_implementation", "gradient_checkpointing", "finetuning_task",
    "pad_token_id", "bos_token_id", "eos_token_id", "base_model_tp_plan",
}  # fmt: skip
Reader = Callable[[Facts], Told]


def told(plain: dict[str, Any], where: str, processor: tuple[dict[str, Any], str] | None) -> Told:
    """`processor`: what the file beside it says of pictures, and its name."""
    facts = Facts(plain, where, IDLE)
    kind = facts.take("model_type")
    if kind not in READERS:
        raise facts.unknown("model_type", READERS)
    out = READERS[kind](facts)
    out = replace(out, task=_task(facts), **_names(facts))
    facts.done()
    if processor is None:
        return out
    return replace(out, preprocess=pictures(*processor, out.config.backbone))


def _names(facts: Facts) -> dict[str, Any]:
    """Of a head that was trained; the names of networks without one are those of no output."""
    found = facts.take("id2label")
    return {} if found is None else {"classes": named(facts, "id2label", found), "outputs": len(found)}


def _task(facts: Facts) -> Task:
    said = facts.take("problem_type", "single_label_classification")
    if said not in TASKS:
        raise facts.refused("problem_type", f"known here is {', '.join(TASKS)}")
    return TASKS[said]


# -- networks ----------------------------------------------------------------------------------------------------------


def _backbone(facts: Facts, usual: dict[str, Any], **more: Any) -> ViTConfig:
    """What all of them have; `usual`: where its class departs from ViT's and the file does not say."""
    width = facts.whole("hidden_size", usual.get("width", 768))
    if "mlp" not in more:
        more["mlp"] = facts.word("hidden_act", ACTIVATIONS, usual.get("act", "gelu"))
    if "mlp_ratio" not in more:
        more["mlp_ratio"] = ratio(facts.whole("intermediate_size", usual.get("hidden", 3072)), width)
    return ViTConfig(
        image_size=facts.picture("image_size", 224),
        patch_size=facts.side("patch_size", usual.get("patch", 16)),
        channels=facts.whole("num_channels", 3),
        width=width,
        depth=facts.whole("num_hidden_layers", 12),
        heads=facts.whole("num_attention_heads", usual.get("heads", 12)),
        norm_eps=facts.number("layer_norm_eps", usual.get("eps", 1e-12)),
        **more,
    )


def _as(facts: Facts, config: ClassifierConfig, kind: str, before: str = "", idle: tuple[str, ...] = ()) -> Told:
    """`kind`: of the layout in its files; version 5 has other names in memory, and some save those."""
    kinds = [f"transformers/{kind}", f"transformers/{kind}{NEW}"]
    layouts = tuple(name for name in kinds if name in LAYOUTS)
    return Told(library="transformers", where=facts.where, config=config, layouts=layouts, before=before, idle=idle)


def _known(facts: Facts, *networks: str) -> str:
    """Which of its classes wrote the file; "" where that is not said."""
    found = facts.plain.get("architectures") or [""]
    if not isinstance(found, list) or found[0] not in ("", *networks):
        raise facts.refused("architectures", f"known here is {', '.join(networks)}")
    return str(found[0])


def _pooler(facts: Facts) -> None:
    facts.must("pooler_act", "tanh")
    facts.must("pooler_output_size", facts.whole("hidden_size", 768))


def _vit(facts: Facts) -> Told:
    wrote = _known(facts, "ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling")
    _pooler(facts)
    backbone = _backbone(facts, {}, qkv_bias=facts.flag("qkv_bias", True))
    if wrote == "ViTForMaskedImageModeling":  # the encoder alone, as of MAE; weights/painter.py has the rest
        return _as(facts, ClassifierConfig(backbone=backbone, classes=0), "mae", before="vit.")
    return _as(facts, ClassifierConfig(backbone=backbone), "vit", before="vit.")


def _deit(facts: Facts) -> Told:
    """Without a second head the distillation token is one more token that has a place, as a register would."""
    wrote = _known(facts, "DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher")
    _pooler(facts)
    taught = wrote.endswith("WithTeacher")
    tokens: dict[str, Any] = {"distill_token": True} if taught else {"registers": 1}
    backbone = _backbone(facts, {}, qkv_bias=facts.flag("qkv_bias", True), **tokens)
    kind = "deit distilled" if taught else "deit one head"
    return _as(facts, ClassifierConfig(backbone=backbone), kind, before="deit.")


def _mae(facts: Facts) -> Told:
    _known(facts, "ViTMAEModel", "ViTMAEForPreTraining")
    backbone = _backbone(facts, {}, qkv_bias=facts.flag("qkv_bias", True))
    return _as(facts, ClassifierConfig(backbone=backbone, classes=0), "mae", before="vit.")


def _beit(facts: Facts) -> Told:
    _known(facts, "BeitModel", "BeitForImageClassification")
    facts.must("use_shared_relative_position_bias", False)
    mean = facts.flag("use_mean_pooling", True)
    scale = facts.number("layer_scale_init_value", 0.1)
    table = facts.flag("use_absolute_position_embeddings", False)
    backbone = _backbone(
        facts,
        {},
        final_norm=not mean,
        layer_scale=scale if scale > 0 else None,
        relative=facts.flag("use_relative_position_bias", False),
        position="learned" if table else "none",
    )
    pool = PoolConfig(kind="mean", norm=True) if mean else PoolConfig(kind="cls")
    return _as(facts, ClassifierConfig(backbone=backbone, pool=pool), "beit", before="beit.")


def _dinov2(facts: Facts) -> Told:
    registers = facts.plain["model_type"].endswith("registers")
    _known(facts, "Dinov2WithRegistersModel" if registers else "Dinov2Model")
    width, times = facts.whole("hidden_size", 768), facts.number("mlp_ratio", 4)
    gated, hidden = facts.flag("use_swiglu_ffn", False), int(width * times)
    more: dict[str, Any] = {"layer_scale": 1.0, "qkv_bias": facts.flag("qkv_bias", True)}
    if registers:
        more |= {"registers": facts.whole("num_register_tokens", 4), "prefix_position": False}
    else:
        more["position_resize"] = "plain"  # with registers it filters
    if gated:  # two thirds, rounded up to a multiple of 8; its gate is always silu
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        more["mlp"] = "swiglu"
        facts.take("hidden_act")
    usual = {"eps": 1e-6, "patch": 16 if registers else 14}
    backbone = _backbone(facts, usual, mlp_ratio=ratio(hidden, width), **more)
    kind = "dinov2" + " registers" * registers + " gated" * gated
    return _as(facts, ClassifierConfig(backbone=backbone, classes=0), kind)


def _dinov3(facts: Facts) -> Told:
    _known(facts, "DINOv3ViTModel")
    gated, biased = facts.flag("use_gated_mlp", False), facts.flag("query_bias", True)
    for key, wanted, usual in (("key_bias", False, False), ("value_bias", biased, True)):
        facts.must(key, wanted, usual)
    facts.must("proj_bias", True)
    facts.must("mlp_bias", True)
    more: dict[str, Any] = {"qkv_bias": biased, "layer_scale": 1.0, "position": "none"}
    if gated:
        facts.must("hidden_act", "silu", "gelu")
        more["mlp"] = "swiglu"
    backbone = _backbone(
        facts,
        {"eps": 1e-5, "width": 384, "heads": 6, "hidden": 1536},
        registers=facts.whole("num_register_tokens", 0),
        rotary=RotaryConfig(base=facts.number("rope_theta", 100.0)),
        **more,
    )
    kind = "dinov3" + " gated" * gated + " biases" * biased
    return _as(facts, ClassifierConfig(backbone=backbone, classes=0), kind)


def _vision(facts: Facts) -> Facts:
    """The table of the image side, which may stand alone; what a second one says, as old files have it, goes first."""
    if not facts.has("vision_config") and not facts.has("vision_config_dict"):
        return facts
    inner, over = (facts.inner(key, IDLE | {"id2label"}) for key in ("vision_config", "vision_config_dict"))
    return Facts({**inner.plain, **over.plain}, inner.where, IDLE | {"id2label"})


def _clip(facts: Facts) -> Told:
    wrote = _known(facts, "CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection")
    vision = _vision(facts)
    usual = {"eps": 1e-5, "patch": 32, "act": "quick_gelu"}
    backbone = _backbone(vision, usual, norm_pre=True, embed_bias=False)
    inner, outer = vision.whole("projection_dim", 512), facts.whole("projection_dim", 512)
    space = {"CLIPVisionModel": 0, "CLIPVisionModelWithProjection": inner}.get(wrote, outer)
    if vision is not facts:
        vision.done()
    config = ClassifierConfig(backbone=backbone, pool=PoolConfig(projection=space), classes=0)
    return _as(facts, config, "clip", before="vision_model.")


def _siglip(facts: Facts) -> Told:
    wrote = _known(facts, "SiglipModel", "SiglipVisionModel", "SiglipForImageClassification")
    vision = _vision(facts)
    vision.must("vision_use_head", True)
    tall, wide = vision.sides("image_size", 224)
    patch = vision.side("patch_size", 16)
    cut = "cut" if tall % patch or wide % patch else "refuse"  # its own is 384 pixels in patches of 14
    usual = {"eps": 1e-6, "act": "gelu_pytorch_tanh"}
    backbone = _backbone(vision, usual, class_token=False, indivisible=cut)
    if vision is not facts:
        vision.done()
    if wrote.endswith("Classification"):  # the mean of the patches; the pool that meets the text lies idle
        config = ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="mean"))
        return _as(facts, config, "siglip", before="vision_model.", idle=("attn_pool.",))
    config = ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="attention"), classes=0)
    return _as(facts, config, "siglip", before="vision_model.")


def _swin(facts: Facts) -> Told:
    second = facts.plain["model_type"] == "swinv2"
    called = "Swinv2" if second else "Swin"
    _known(facts, f"{called}Model", f"{called}ForImageClassification")
    for key, wanted in (("hidden_act", "gelu"), ("qkv_bias", True), ("use_absolute_embeddings", False)):
        facts.must(key, wanted)
    depths = _counts(facts, "depths", (2, 2, 6, 2))
    facts.must("num_layers", len(depths))
    facts.must("hidden_size", facts.whole("embed_dim", 96) * 2 ** (len(depths) - 1))
    before = _counts(facts, "pretrained_window_sizes", (0,) * len(depths)) if second else ()
    backbone = SwinConfig(
        image_size=facts.picture("image_size", 224),
        patch_size=facts.side("patch_size", 4),
        channels=facts.whole("num_channels", 3),
        width=facts.whole("embed_dim", 96),
        depths=depths,
        heads=_counts(facts, "num_heads", (3, 6, 12, 24)),
        window=facts.whole("window_size", 7),
        version="v2" if second else "v1",
        trained_window=before if any(before) else None,
        mlp_ratio=facts.number("mlp_ratio", 4.0),
        norm_eps=facts.number("layer_norm_eps", 1e-5),
    )
    config = ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="mean"))
    kind = called.lower()
    return _as(facts, config, kind, before=f"{kind}.")


def _cvt(facts: Facts) -> Told:
    """Its MLPs compute the exact GELU, whatever they were trained with."""
    _known(facts, "CvtModel", "CvtForImageClassification")
    facts.must("qkv_projection_method", ["dw_bn"] * 3)
    usual = {
        "patch_sizes": [7, 3, 3],
        "patch_stride": [4, 2, 2],
        "patch_padding": [2, 1, 1],
        "cls_token": [False, False, True],
    }
    usual |= {"qkv_bias": [True] * 3, "kernel_qkv": [3] * 3, "padding_kv": [1] * 3, "stride_kv": [2] * 3}
    for key, wanted in (usual | {"padding_q": [1] * 3, "stride_q": [1] * 3}).items():
        facts.must(key, wanted)
    ratios = facts.numbers("mlp_ratio", 3, (4.0, 4.0, 4.0))
    for key in ("attention_drop_rate", "drop_rate", "drop_path_rate"):
        facts.take(key)
    if len(set(ratios)) > 1:
        raise facts.refused("mlp_ratio", "the same in all stages is known here")
    facts.take("layer_norm_eps")  # its norms do not look at it: theirs is torch's 1e-5
    backbone = CvTConfig(
        channels=facts.whole("num_channels", 3),
        widths=_counts(facts, "embed_dim", (64, 192, 384)),
        depths=_counts(facts, "depth", (1, 2, 10)),
        heads=_counts(facts, "num_heads", (1, 3, 6)),
        mlp_ratio=ratios[0],
        mlp="gelu",
    )
    return _as(facts, ClassifierConfig(backbone=backbone), "cvt", before="cvt.")


def _counts(facts: Facts, key: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    found = facts.take(key, list(usual))
    if not isinstance(found, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in found):
        raise facts.refused(key, "a list of whole numbers is wanted")
    return tuple(found)


READERS: dict[str, Reader] = {
    "vit": _vit, "deit": _deit, "beit": _beit, "dinov2": _dinov2, "dinov2_with_registers": _dinov2,
    "dinov3_vit": _dinov3, "clip": _clip, "clip_vision_model": _clip, "siglip": _siglip,
    "siglip_vision_model": _siglip, "vit_mae": _mae, "swin": _swin, "swinv2": _swin, "cvt": _cvt,
}  # fmt: skip

# -- pictures ----------------------------------------------------------------------------------------------------------

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
CLASSES: dict[str, dict[str, Any]] = {  # what its processors take where a file says nothing
    "ViT": {"resample": 2, "colours": HALF, "size": {"height": 224, "width": 224}},
    "DeiT": {"resample": 3, "colours": HALF, "size": {"height": 256, "width": 256}, "do_center_crop": True},
    "Beit": {"resample": 3, "colours": HALF, "size": {"height": 224, "width": 224}},
    "CLIP": {"resample": 3, "colours": OPENAI, "size": {"shortest_edge": 224}, "do_center_crop": True},
    "Bit": {"resample": 3, "colours": OPENAI, "size": {"shortest_edge": 224}, "do_center_crop": True},
    "Siglip": {"resample": 3, "colours": HALF, "size": {"height": 224, "width": 224}},
    "DINOv3ViT": {"resample": 2, "colours": IMAGENET, "size": {"height": 224, "width": 224}},
}
IDLE_PICTURES = {
    "processor_class", "do_convert_rgb", "data_format", "input_data_format", "default_to_square", "return_tensors",
    "device", "disable_grouping", "do_reduce_labels", "image_seq_length", "tokenizer_class",
}  # fmt: skip


def pictures(plain: dict[str, Any], where: str, backbone: Backbone) -> Preprocess:
    """A size of height and width squashes, one of the shortest edge does not; the crop comes after it."""
    facts = Facts(plain, where, IDLE_PICTURES)
    said = str(facts.take("image_processor_type") or facts.take("feature_extractor_type") or "ViTImageProcessor")
    facts.take("feature_extractor_type")
    kind = said.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in CLASSES:
        raise facts.refused("image_processor_type", f"known here are those of {', '.join(CLASSES)}")
    usual = CLASSES[kind]
    facts.must("do_rescale", True)
    if abs(facts.number("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise facts.refused("rescale_factor", "only 1/255 is known here")
    mean, std = facts.take("image_mean", list(usual["colours"][0])), facts.take("image_std", list(usual["colours"][1]))
    if not facts.flag("do_normalize", True):
        mean, std = 0.0, 1.0
    table = Facts({"image_mean": mean, "image_std": std}, where)
    count = 3 if isinstance(mean, list) and len(mean) == 3 else backbone.channels
    size, resize, crop = _sizes(facts, usual)
    resample = facts.take("resample", usual["resample"])
    if resample not in RESAMPLE:
        raise facts.refused("resample", "known here is 0 (nearest), 2 (bilinear) and 3 (bicubic)")
    facts.done()
    return Preprocess(
        size=size,
        resize=resize,  # type: ignore[arg-type]
        crop=crop,
        centre="floor",
        fill=(0.0,) if resize == "native" else None,
        interpolation=RESAMPLE[resample],  # type: ignore[arg-type]
        mean=table.numbers("image_mean", count),
        std=table.numbers("image_std", count),
        channels=count,
    )


def _sizes(facts: Facts, usual: dict[str, Any]) -> tuple[tuple[int, int], str, float]:
    """What remains of a picture, how it got there, and the share that was kept."""
    size = facts.take("size", usual["size"])
    if isinstance(size, int):  # as version 4 wrote it: square for those that squash
        size = {"shortest_edge": size} if "shortest_edge" in usual["size"] else {"height": size, "width": size}
    cut = facts.take("crop_size", {"height": 224, "width": 224})
    cut = {"height": cut, "width": cut} if isinstance(cut, int) else cut
    said = {key for key, value in size.items() if value is not None} if isinstance(size, dict) else set()
    if said not in ({"height", "width"}, {"shortest_edge"}):
        raise facts.refused("size", "height and width, or a shortest edge, is known here")
    cropped, resized = facts.flag("do_center_crop", usual.get("do_center_crop", False)), facts.flag("do_resize", True)
    if not cropped:
        if not resized or size.get("shortest_edge") is not None:
            raise facts.refused("do_center_crop", "pictures would come out in many sizes; here all have one")
        return (size["height"], size["width"]), "squash", 1.0
    if not isinstance(cut, dict) or not all(isinstance(cut.get(k), int) for k in ("height", "width")):
        raise facts.refused("crop_size", "height and width are known here")
    kept: tuple[int, int] = (cut["height"], cut["width"])
    if not resized:
        return kept, "native", 1.0
    edge = size.get("shortest_edge")
    if edge is not None:
        if kept[0] != kept[1] or kept[0] > edge:
            raise facts.refused("crop_size", f"a square of at most the shortest edge ({edge}) is known here")
        return kept, "shortest", share(kept[0], edge)
    crop = share(kept[0], size["height"])
    if kept[0] > size["height"] or int(kept[1] / crop) != size["width"]:
        raise facts.refused("crop_size", "the same share of height and of width is known here")
    return kept, "squash", crop
