"""Folders as transformers, timm and open_clip leave them: network, pictures and classes follow from their own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from redrawn import BAR, VISIBLE, error, redraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tessella.card import Preprocess
from tessella.data.pixels.transforms import evaluation_pixels
from tessella.errors import BadInput
from tessella.models.build import network
from tessella.weights.io import load_into
from tessella.weights.opened import open_weights

hf = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
VIT = SMALL | {"intermediate_size": 80}
GELU = VIT | {"hidden_act": "gelu"}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 9}
NAMES = {0: "cat", 1: "dog", 2: "eel"}
THREE = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}


def logits(net: Any, x: Tensor) -> Tensor:
    return net(x).logits  # type: ignore[no-any-return]


def pooled(net: Any, x: Tensor) -> Tensor:
    return net(x).pooler_output  # type: ignore[no-any-return]


def first(net: Any, x: Tensor) -> Tensor:
    return net(x).last_hidden_state[:, 0]  # type: ignore[no-any-return]


def projected(net: Any, x: Tensor) -> Tensor:
    return net(x).image_embeds  # type: ignore[no-any-return]


def image_features(net: Any, x: Tensor) -> Tensor:
    found = net.get_image_features(x)
    return found if isinstance(found, Tensor) else found.pooler_output


Kind = tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Tensor]]
KINDS: dict[str, Kind] = {
    "ViTForImageClassification": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**VIT, **THREE)), logits),
    "ViT without biases, relu": (
        lambda: hf.ViTForImageClassification(
            hf.ViTConfig(**VIT | {"image_size": [32, 48]}, **THREE, qkv_bias=False, hidden_act="relu")
        ),
        logits,
    ),
    "ViT of tags": (
        lambda: hf.ViTForImageClassification(
            hf.ViTConfig(**VIT, **THREE, problem_type="multi_label_classification", layer_norm_eps=1e-3)
        ),
        logits,
    ),
    "ViTModel": (lambda: hf.ViTModel(hf.ViTConfig(**VIT)), pooled),
    "DeiTForImageClassification": (lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**VIT, **THREE)), logits),
    "DeiT with teacher": (lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**VIT, **THREE)), logits),
    "DeiTModel": (lambda: hf.DeiTModel(hf.DeiTConfig(**VIT)), pooled),
    "BeitForImageClassification": (
        lambda: hf.BeitForImageClassification(hf.BeitConfig(**VIT, **THREE, use_relative_position_bias=True)),
        logits,
    ),
    "BEiT of the class token": (
        lambda: hf.BeitForImageClassification(
            hf.BeitConfig(**VIT, **THREE, use_absolute_position_embeddings=True, use_mean_pooling=False)
        ),
        logits,
    ),
    "Dinov2Model": (lambda: hf.Dinov2Model(hf.Dinov2Config(**SMALL)), pooled),
    "Dinov2 gated": (lambda: hf.Dinov2Model(hf.Dinov2Config(**SMALL, use_swiglu_ffn=True)), pooled),
    "Dinov2WithRegistersModel": (
        lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3)),
        pooled,
    ),
    "DINOv3ViTModel": (lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VIT, num_register_tokens=2)), pooled),
    "DINOv3 gated": (
        lambda: hf.DINOv3ViTModel(
            hf.DINOv3ViTConfig(**VIT, use_gated_mlp=True, hidden_act="silu", query_bias=False, value_bias=False)
        ),
        pooled,
    ),
    "CLIPVisionModel": (lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VIT)), pooled),
    "CLIPVisionModelWithProjection": (
        lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**VIT, projection_dim=24)),
        projected,
    ),
    "CLIPModel": (
        lambda: hf.CLIPModel(hf.CLIPConfig(vision_config=GELU, text_config=TEXT, projection_dim=24)),
        image_features,
    ),
    "SiglipVisionModel": (lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VIT)), pooled),
    "SiglipModel": (lambda: hf.SiglipModel(hf.SiglipConfig(vision_config=VIT, text_config=TEXT)), image_features),
    "SiglipForImageClassification": (
        lambda: hf.SiglipForImageClassification(hf.SiglipConfig(vision_config=VIT, text_config=TEXT, **THREE)),
        logits,
    ),
    "ViTMAEForPreTraining": (
        lambda: hf.ViTMAEForPreTraining(
            hf.ViTMAEConfig(**VIT, mask_ratio=0.0, decoder_hidden_size=16, decoder_num_hidden_layers=1,
                            decoder_num_attention_heads=2, decoder_intermediate_size=32)
        ),
        lambda net, x: first(net.vit, x),
    ),
}  # fmt: skip


def pictures(net: nn.Module, seed: int = 1) -> Tensor:
    config = net.config.vision_config if "vision_config" in net.config.to_dict() else net.config  # type: ignore[union-attr]
    size = config.image_size  # type: ignore[union-attr]
    sides = (size, size) if isinstance(size, int) else size
    return torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(seed))


def saved(name: str, folder: Path) -> nn.Module:
    net = KINDS[name][0]().eval()
    redraw(net)
    net.save_pretrained(folder)  # type: ignore[operator]
    return net


@torch.no_grad()
def ours(folder: Path, x: Tensor) -> Tensor:
    found = open_weights(folder)
    net = network(found.card.architecture, empty=True).eval()
    load_into(net, found.tensors)
    return net(x) if found.card.architecture["classes"] else net.embed(x)  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize("name", KINDS)
def test_transformers_folders_answer_as_there(name: str, tmp_path: Path) -> None:
    net = saved(name, tmp_path)
    x = pictures(net)
    with torch.no_grad():
        theirs = KINDS[name][1](net, x)
    assert error(ours(tmp_path, x), theirs) <= BAR
    found = open_weights(tmp_path)
    named = found.card.heads[0]
    if theirs.shape[1] == 3:
        assert named.classes == ("cat", "dog", "eel") and named.task == ("tags" if "tags" in name else "classify")
        assert found.network.heads == found.card.heads
    else:
        assert named.classes == ()
    assert found.told is not None and found.told.lacks == ["preprocessing", "a licence"]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("ViTForImageClassification", "layer_norm_eps", 1e-2),
        ("ViTForImageClassification", "hidden_act", "relu"),
        ("ViTForImageClassification", "num_attention_heads", 4),
        ("DINOv3ViTModel", "rope_theta", 10.0),
        ("CLIPVisionModel", "hidden_act", "gelu"),
    ],
)
def test_what_the_config_says_decides(name: str, key: str, value: Any, tmp_path: Path) -> None:
    """The mutation: of what no tensor tells, another word gives another answer."""
    net = saved(name, tmp_path)
    x = pictures(net)
    before = ours(tmp_path, x)
    edit(tmp_path / "config.json", **{key: value})
    assert error(ours(tmp_path, x), before) > VISIBLE


@pytest.mark.parametrize("name", ["Dinov2Model", "Dinov2WithRegistersModel"])
@pytest.mark.parametrize("size", [(40, 40), (16, 24), (56, 40)])
def test_places_go_to_other_grids_as_there(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """With registers they are filtered, without they are not; the mutation is the other way."""
    net = saved(name, tmp_path)
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    found = open_weights(tmp_path)
    for way in ("right", "wrong"):
        told = found.card.architecture
        if way == "wrong":
            other = {"plain": "antialias", "antialias": "plain"}[told["backbone"]["position_resize"]]
            told = told | {"backbone": told["backbone"] | {"position_resize": other}}
        mine = network(told, empty=True).eval()
        load_into(mine, found.tensors)
        with torch.no_grad():
            tokens = mine.tokens(x).together()  # type: ignore[operator]
            apart = error(tokens, net(x).last_hidden_state)
        assert apart <= BAR if way == "right" else apart > VISIBLE


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "resnet"}, "model_type is 'resnet', which is not known here"),
        ({"architectures": ["ViTForDepthEstimation"]}, "architectures is"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; known here is gelu"),
        ({"pooler_act": "relu"}, "pooler_act is 'relu'; only 'tanh' is known here"),
        ({"num_memory_tokens": 3}, r"num_memory_tokens = 3 is not known here"),
        ({"patch_size": [8, 4]}, "a square is wanted"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"hidden_size": 64, "pooler_output_size": 64}, "of another shape"),
        ({"num_hidden_layers": "two"}, "a whole number is wanted"),
        ({"id2label": {"0": "cat", "1": "dog"}}, "says 2 classes, and the head of these weights has 3"),
        ({"id2label": {"0": "cat", "2": "dog", "3": "eel"}}, "a name for each number from 0 to 2"),
        ({"model_type": None}, "names no architecture"),
    ],
)
def test_what_is_not_known_is_refused_by_name(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    saved("ViTForImageClassification", tmp_path)
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(BadInput, match=says) as caught:
        open_weights(tmp_path)
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_settings_that_mean_harm(file: str, tmp_path: Path) -> None:
    saved("ViTForImageClassification", tmp_path)
    for text, says in (("[" * 100_000, "nested too deeply|not valid JSON"), ("{}" + " " * (9 << 20), "are enough"),
                       ("[1]", "holds no table"), ("{", "not valid JSON")):  # fmt: skip
        (tmp_path / file).write_text(text)
        with pytest.raises(BadInput, match=says):
            open_weights(tmp_path)


def test_old_files_of_clip_say_it_twice(tmp_path: Path) -> None:
    """As openai/clip-vit-large-patch14 does, with all that version 4 put into the table of its image side."""
    net = saved("CLIPModel", tmp_path)
    x = pictures(net)
    with torch.no_grad():
        theirs = image_features(net, x)
    plain = json.loads((tmp_path / "config.json").read_text())
    old = {"chunk_size_feed_forward": 0, "length_penalty": 1.0, "max_length": 20, "num_beams": 1, "return_dict": True}
    old |= {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "tie_word_embeddings": True, "top_k": 50, "prefix": None}
    plain["vision_config_dict"] = {"num_attention_heads": 2}
    plain["vision_config"] |= old | {"num_attention_heads": 4}
    edit(tmp_path / "config.json", **plain, text_config_dict={"hidden_size": 32})
    assert error(ours(tmp_path, x), theirs) <= BAR
    edit(tmp_path / "config.json", vision_config_dict=None)
    assert error(ours(tmp_path, x), theirs) > VISIBLE


def test_names_of_classes(tmp_path: Path) -> None:
    """Two of one name get their numbers; names that only count are none."""
    saved("ViTForImageClassification", tmp_path)
    edit(tmp_path / "config.json", id2label={"2": "crane", "10": "x", "0": "crane", "1": "dog"} | {"10": None})
    path = tmp_path / "config.json"
    edit(path, id2label={"2": "crane", "0": "crane", "1": "dog"})
    assert open_weights(tmp_path).card.heads[0].classes == ("crane (0)", "dog", "crane (2)")
    edit(path, id2label={str(i): f"LABEL_{i}" for i in range(3)})
    found = open_weights(tmp_path)
    assert found.card.heads[0].classes == ("class 0", "class 1", "class 2") and found.network.heads == ()


def test_a_name_that_contradicts_is_refused(tmp_path: Path) -> None:
    saved("ViTForImageClassification", tmp_path)
    with pytest.raises(BadInput, match=r"is no vit_t16 by .*config\.json: model\.backbone\.patch_size is 16"):
        open_weights(tmp_path, "vit_t16")


def test_the_licence_of_a_model_card(tmp_path: Path) -> None:
    saved("ViTForImageClassification", tmp_path)
    (tmp_path / "README.md").write_text("---\nlibrary_name: x\nlicense: cc-by-nc-4.0\n---\n# A model\nlicense: mit\n")
    assert open_weights(tmp_path).card.licence == "cc-by-nc-4.0"


def test_several_files_and_what_stands_before_all_names(tmp_path: Path) -> None:
    net = KINDS["ViTForImageClassification"][0]().eval()
    redraw(net)
    net.save_pretrained(tmp_path, max_shard_size="20KB")  # type: ignore[operator]
    assert (tmp_path / "model.safetensors.index.json").is_file()
    x = pictures(net)
    with torch.no_grad():
        assert error(ours(tmp_path, x), net(x).logits) <= BAR


# -- pictures ----------------------------------------------------------------------------------------------------------


def photo(height: int, width: int) -> Any:
    rng = np.random.default_rng(height * 1000 + width)
    rough = Image.fromarray(rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
    return np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC))


SIZES = ((97, 131), (131, 98), (60, 211), (40, 41))
PROCESSORS: dict[str, Any] = {
    "ViT, squashed": lambda: hf.ViTImageProcessor(size={"height": 40, "width": 40}),
    "ViT, of two sides": lambda: hf.ViTImageProcessor(size={"height": 40, "width": 24}, resample=3),
    "DeiT, squashed and cut": lambda: hf.DeiTImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 35, "width": 35}
    ),
    "CLIP": lambda: hf.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40}),
    "Bit, 32 of 37": lambda: hf.BitImageProcessor(size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32}),
    "Siglip": lambda: hf.SiglipImageProcessor(size={"height": 32, "width": 32}),
    "not normalised": lambda: hf.ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False),
    "cut only": lambda: hf.CLIPImageProcessor(do_resize=False, crop_size={"height": 32, "width": 32}),
    "DINOv3": lambda: hf.DINOv3ViTImageProcessor(size={"height": 32, "width": 32}),
}


def numbers(preprocess: Preprocess, picture: Any) -> Tensor:
    """As the network gets them, by the card."""
    pixels = evaluation_pixels(picture, preprocess).float() / 255
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocess.mean, preprocess.std))
    return (pixels - mean) / std


def apart(preprocess: Preprocess, theirs: Callable[[Any], Tensor]) -> float:
    """The largest difference, in steps of a picture of 8 bits."""
    std = torch.tensor(preprocess.std).view(-1, 1, 1)
    worst = [(numbers(preprocess, p) - theirs(p)).mul(std).abs().max() for p in (photo(*size) for size in SIZES)]
    return float(max(worst)) * 255


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_its_processor(name: str, tmp_path: Path) -> None:
    """Within a step of 255: torchvision rounds its weights otherwise than Pillow. The mutation is beside it."""
    processor = PROCESSORS[name]()
    saved("ViTForImageClassification", tmp_path)
    processor.save_pretrained(tmp_path)
    again = hf.AutoImageProcessor.from_pretrained(tmp_path)
    seen = open_weights(tmp_path).card.preprocess["image"]

    def theirs(picture: Any) -> Tensor:
        return again(Image.fromarray(picture), return_tensors="pt")["pixel_values"][0]  # type: ignore[no-any-return]

    assert apart(seen, theirs) <= 1.01
    mean = processor.image_mean or [0.5] * 3
    edit(tmp_path / "preprocessor_config.json", image_mean=[m + 0.05 for m in mean], do_normalize=True)
    assert apart(open_weights(tmp_path).card.preprocess["image"], theirs) > 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resample": 1}, "resample is 1; known here is 0"),
        ({"do_rescale": False}, "do_rescale is False"),
        ({"rescale_factor": 1 / 127.5}, "only 1/255"),
        ({"image_processor_type": "EfficientNetImageProcessor"}, "image_processor_type is 'EfficientNet"),
        ({"size": {"shortest_edge": 32}}, "pictures would come out in many sizes"),
        ({"size": {"longest_edge": 32}}, "size is"),
        ({"do_pad": True}, "do_pad = True is not known here"),
        ({"image_mean": [0.5, 0.5]}, "finite numbers are wanted"),
        ({"do_center_crop": True, "crop_size": 300}, "crop_size is 300"),
    ],
)
def test_pictures_that_are_not_known_are_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    saved("ViTForImageClassification", tmp_path)
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    edit(tmp_path / "preprocessor_config.json", **changes)
    with pytest.raises(BadInput, match=says) as caught:
        open_weights(tmp_path)
    assert "preprocessor_config.json" in str(caught.value) and "\n" not in str(caught.value)


def test_old_files_of_processors_say_less(tmp_path: Path) -> None:
    """As google/vit-base-patch16-224 has it: a size that is one number, and the class by its older word."""
    saved("ViTForImageClassification", tmp_path)
    old = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old | {"size": 48}))
    seen = open_weights(tmp_path).card.preprocess["image"]
    assert (seen.size, seen.resize, seen.interpolation, seen.crop) == ((48, 48), "squash", "bilinear", 1.0)
    clip = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old | clip | {"resample": 3}))
    seen = open_weights(tmp_path).card.preprocess["image"]
    assert (seen.size, seen.resize, seen.interpolation, seen.crop) == ((32, 32), "shortest", "bicubic", 0.8)


# -- timm --------------------------------------------------------------------------------------------------------------

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "head of its own": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", {"num_classes": 3, "img_size": 64}),
    "mean of the patches": ("vit_tiny_patch16_224", {"num_classes": 3, "global_pool": "avg", "img_size": (64, 48)}),
    "other sizes": (
        "vit_tiny_patch16_224",
        {"num_classes": 3, "embed_dim": 96, "num_heads": 2, "mlp_ratio": 2.5, "patch_size": 8, "img_size": 32,
         "init_values": 0.1, "qk_norm": True, "act_layer": "gelu_tanh", "in_chans": 1, "reg_tokens": 2},
    ),
    "distilled": ("deit_tiny_distilled_patch16_224.fb_in1k", {"img_size": 64}),
    "deit3": ("deit3_small_patch16_224.fb_in22k_ft_in1k", {"dynamic_img_size": True}),
    "of a size that has no name here": ("vit_small_patch16_384.augreg_in21k_ft_in1k", {"img_size": 64}),
    "clip, quick": ("vit_base_patch32_clip_quickgelu_224.openai", {"img_size": 64}),
    "clip with a head": ("vit_base_patch32_clip_224.laion2b", {"img_size": 64, "num_classes": 3}),
    "dinov3": ("vit_small_patch16_dinov3_qkvb.lvd1689m", {"img_size": 64}),
    "eva02": ("eva02_tiny_patch14_224.mim_in22k", {"img_size": 56, "num_classes": 3}),
}  # fmt: skip


def of_timm(name: str, folder: Path, **more: Any) -> Any:
    called, told = TIMM[name]
    net = timm.create_model(called, depth=2, **told).eval()
    redraw(net)
    if net.num_classes == 512:  # a projection: its bias is zero
        nn.init.zeros_(net.head.bias)
    labels = {"label_names": ["cat", "dog", "eel"]} if net.num_classes == 3 else {}
    timm.models.save_for_hf(net, folder, model_config=labels, safe_serialization=True, **more)
    return net


@pytest.mark.parametrize("name", TIMM)
def test_timm_folders_answer_as_there(name: str, tmp_path: Path) -> None:
    net = of_timm(name, tmp_path)
    channels, size = net.patch_embed.proj.in_channels, net.patch_embed.img_size
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = net(x)
    assert error(ours(tmp_path, x), theirs) <= BAR
    found = open_weights(tmp_path)
    if net.num_classes == 3:
        assert found.card.heads[0].classes == ("cat", "dog", "eel")
    elif net.num_classes == 1000:
        assert found.card.heads[0].classes[:2] == ("tench", "goldfish") or found.network.heads == ()


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop", [1.0, 0.9])
def test_pixels_are_those_of_timm(mode: str, crop: float, tmp_path: Path) -> None:
    if mode == "border" and crop < 1:
        return
    data = {"input_size": (3, 64, 64), "crop_pct": crop, "crop_mode": mode, "interpolation": "bilinear"}
    net = of_timm("head of its own", tmp_path, data_config=data | {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)})
    told = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert told["crop_mode"] == mode and net.num_classes == 3
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=told))
    seen = open_weights(tmp_path).card.preprocess["image"]
    assert apart(seen, lambda picture: transform(Image.fromarray(picture))) <= 0.01
    told["mean"] = [0.5, 0.5, 0.5]
    edit(tmp_path / "config.json", pretrained_cfg=told)
    assert apart(open_weights(tmp_path).card.preprocess["image"], lambda p: transform(Image.fromarray(p))) > 5


@pytest.mark.parametrize(
    ("where", "changes", "says"),
    [
        ("", {"architecture": "resnet50"}, "architecture is 'resnet50', which is not known here"),
        ("", {"architecture": "vit_tiny_patch16_225_x"}, "is not known here"),
        ("", {"memory": 3}, "memory = 3 is not known here"),
        ("", {"pretrained_cfg": [1]}, "a table is wanted"),
        ("model_args", {"depth": "two"}, "model_args"),
        ("model_args", {"depth": 3}, "missing"),
        ("model_args", {"block_fn": "parallel"}, "block_fn = 'parallel' is not known here"),
        ("model_args", {"global_pool": "max"}, "global_pool is 'max'; known here is token"),
        ("pretrained_cfg", {"interpolation": "lanczos"}, "interpolation is 'lanczos'"),
        ("pretrained_cfg", {"crop_mode": "tiles"}, "crop_mode is 'tiles'"),
        ("pretrained_cfg", {"label_offset": 1}, "label_offset = 1 is not known here"),
        ("pretrained_cfg", {"mean": [0.5, "x", 0.5]}, "3 finite numbers are wanted"),
    ],
)
def test_what_timm_says_and_we_do_not_know(where: str, changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    of_timm("head of its own", tmp_path)
    path = tmp_path / "config.json"
    plain = json.loads(path.read_text())
    (plain[where] if where else plain).update(changes)
    path.write_text(json.dumps(plain))
    with pytest.raises(BadInput, match=says) as caught:
        open_weights(tmp_path)
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)


# -- open_clip ---------------------------------------------------------------------------------------------------------


def of_open_clip(folder: Path, **vision: Any) -> Any:
    clip = pytest.importorskip("open_clip")
    told = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8, **vision},
        "text_cfg": {"context_length": 8, "vocab_size": 9, "width": 32, "heads": 2, "layers": 1},
    }
    net = clip.CLIP(**{k: v for k, v in told.items() if k != "quick_gelu"}, quick_gelu=True).eval()
    redraw(net)
    save_file({n: t.contiguous() for n, t in net.state_dict().items()}, folder / "open_clip_model.safetensors")
    pictures = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bilinear", "size": [32, 32]}
    pictures |= {"resize_mode": "longest", "mode": "RGB", "fill_color": 0}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": told, "preprocess_cfg": pictures}))
    return net


def test_open_clip_folders_answer_as_there(tmp_path: Path) -> None:
    net = of_open_clip(tmp_path)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = net.encode_image(x)
    assert error(ours(tmp_path, x), theirs) <= BAR
    plain = json.loads((tmp_path / "open_clip_config.json").read_text())
    plain["model_cfg"]["quick_gelu"] = False
    edit(tmp_path / "open_clip_config.json", **plain)
    assert error(ours(tmp_path, x), theirs) > VISIBLE


@pytest.mark.parametrize("proj", ["linear", "none"])
def test_towers_of_timm_in_open_clip(proj: str, tmp_path: Path) -> None:
    model = pytest.importorskip("open_clip").model
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": proj, "image_size": 224}
    net = model._build_vision_tower(24, vision | {"timm_model_pretrained": False}).eval()
    redraw(net)
    save_file({f"visual.{n}": t for n, t in net.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    told = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {}, "custom_text": True, "init_logit_bias": -10}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": told, "preprocess_cfg": {}}))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = net(x)
    assert theirs.shape[1] == (24 if proj == "linear" else 192) and error(ours(tmp_path, x), theirs) <= BAR


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_pixels_are_those_of_open_clip(mode: str, tmp_path: Path) -> None:
    of_open_clip(tmp_path)
    from open_clip.transform import PreprocessCfg, image_transform_v2

    plain = json.loads((tmp_path / "open_clip_config.json").read_text())
    plain["preprocess_cfg"]["resize_mode"] = mode
    edit(tmp_path / "open_clip_config.json", **plain)
    told = {k: tuple(v) if isinstance(v, list) else v for k, v in plain["preprocess_cfg"].items()}
    transform = image_transform_v2(PreprocessCfg(**told), is_train=False)
    seen = open_weights(tmp_path).card.preprocess["image"]
    assert apart(seen, lambda picture: transform(Image.fromarray(picture))) <= 0.01


def test_what_open_clip_says_and_we_do_not_know(tmp_path: Path) -> None:
    of_open_clip(tmp_path)
    plain = json.loads((tmp_path / "open_clip_config.json").read_text())
    for key, value in (("pool_type", "avg"), ("scale_heads", True), ("attentional_pool", True)):
        plain["model_cfg"]["vision_cfg"][key] = value
        edit(tmp_path / "open_clip_config.json", **plain)
        with pytest.raises(BadInput, match=rf"open_clip_config\.json: model_cfg.*{key}"):
            open_weights(tmp_path)
        del plain["model_cfg"]["vision_cfg"][key]


def test_weights_in_halves_are_read(tmp_path: Path) -> None:
    net = saved("ViTForImageClassification", tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({n: t.half() for n, t in load_file(file).items()}, file)
    x = pictures(net)
    with torch.no_grad():
        assert error(ours(tmp_path, x), net(x).logits) <= 1e-2
