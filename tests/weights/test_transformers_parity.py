"""Networks of transformers, small and redrawn, read by our tables: from its files, and out of its memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from redrawn import BAR, VISIBLE, error, redraw
from torch import Tensor, nn

from tessella import tensorfile
from tessella.models.architecture import ClassifierConfig, PoolConfig, RotaryConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.weights import native
from tessella.weights.layouts import LAYOUTS
from tessella.weights.table import rename

hf = pytest.importorskip("transformers")

WIDTH, HEADS, DEPTH, SIZE, PATCH = 48, 3, 2, 32, 8
CLASSES = {i: f"class {i}" for i in range(7)}
PLAIN: dict[str, Any] = dict(
    hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
    image_size=SIZE, patch_size=PATCH, layer_norm_eps=1e-6,
)  # fmt: skip
Told = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


def tokens_and_logits(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    out = net(images, output_hidden_states=True)
    return net.base_model(images).last_hidden_state, out.logits


def tokens_and_pooled(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    out = net(images)
    return out.last_hidden_state, out.pooler_output


def tokens_and_first(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    out = net(images).last_hidden_state
    return out, out[:, 0]


def encoder_of_mae(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.arange((SIZE // PATCH) ** 2).float().expand(len(images), -1)  # nothing is hidden, and the order stays
    out = net(images, noise=noise).last_hidden_state
    return out, out[:, 0]


def projected(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    out = net(images)
    return net.vision_model.post_layernorm(out.last_hidden_state), out.image_embeds


@dataclass(frozen=True)
class Case:
    backbone: dict[str, Any]
    build: Callable[[], nn.Module]
    run: Told
    layout: str  # of the files
    memory: str  # of what version 5 has in memory
    pool: PoolConfig = field(default_factory=PoolConfig)
    classes: int = 0

    @property
    def ours(self) -> ClassifierConfig:
        small = dict(image_size=SIZE, patch_size=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS)
        return ClassifierConfig(backbone=ViTConfig(**small | self.backbone), pool=self.pool, classes=self.classes)


def dinov2(**more: Any) -> Any:
    kind = "Dinov2WithRegisters" if "num_register_tokens" in more else "Dinov2"
    cfg = {k: v for k, v in PLAIN.items() if k != "intermediate_size"} | {"layerscale_value": 0.5} | more
    return getattr(hf, f"{kind}Model")(getattr(hf, f"{kind}Config")(**cfg))


def dinov3(gated: bool) -> Any:
    cfg = PLAIN | dict(
        num_register_tokens=4, layer_norm_eps=1e-5, use_gated_mlp=gated, hidden_act="silu" if gated else "gelu"
    )
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**cfg))


def clip() -> Any:
    cfg = PLAIN | dict(layer_norm_eps=1e-5, hidden_act="quick_gelu", projection_dim=20)
    return hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**cfg))


def beit() -> Any:
    cfg = hf.BeitConfig(
        **PLAIN, id2label=CLASSES, use_mask_token=True, use_relative_position_bias=True, layer_scale_init_value=0.1
    )
    return hf.BeitForImageClassification(cfg)


DINOV3 = {"position": "none", "rotary": RotaryConfig(), "registers": 4, "layer_scale": 1e-5, "norm_eps": 1e-5}
CASES = {
    "vit": Case(
        {}, lambda: hf.ViTForImageClassification(hf.ViTConfig(**PLAIN, id2label=CLASSES)), tokens_and_logits,
        "vit", "vit in memory", classes=7,
    ),
    "vit with its pooler": Case(
        {}, lambda: hf.ViTModel(hf.ViTConfig(**PLAIN)), tokens_and_pooled, "vit bare", "vit bare in memory",
        PoolConfig(tanh=True),
    ),
    "deit distilled": Case(
        {"distill_token": True},
        lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**PLAIN, id2label=CLASSES)), tokens_and_logits,
        "deit distilled", "deit distilled in memory", classes=7,
    ),
    "mae": Case(
        {}, lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**PLAIN, mask_ratio=0.0)), encoder_of_mae,
        "vit bare", "vit bare in memory",
    ),
    "dinov2": Case({"layer_scale": 0.5}, dinov2, tokens_and_pooled, "dinov2", "dinov2 in memory"),
    "dinov2 gated": Case(
        {"layer_scale": 0.5, "mlp": "swiglu", "mlp_ratio": 128 / 48}, lambda: dinov2(use_swiglu_ffn=True),
        tokens_and_pooled, "dinov2 gated", "dinov2 gated in memory",
    ),
    "dinov2 with registers": Case(
        {"layer_scale": 0.5, "registers": 4, "prefix_position": False}, lambda: dinov2(num_register_tokens=4),
        tokens_and_pooled, "dinov2 registers", "dinov2 registers in memory",
    ),
    "dinov3": Case(DINOV3, lambda: dinov3(False), tokens_and_pooled, "dinov3 biases", "dinov3 biases in memory"),
    "dinov3 gated": Case(
        DINOV3 | {"mlp": "swiglu"}, lambda: dinov3(True), tokens_and_pooled,
        "dinov3 gated biases", "dinov3 gated biases in memory",
    ),
    "clip": Case(
        {"norm_pre": True, "embed_bias": False, "norm_eps": 1e-5, "mlp": "quick_gelu"}, clip, projected,
        "clip", "clip", PoolConfig(projection=20),
    ),
    "siglip": Case(
        {"class_token": False, "mlp": "gelu_tanh"}, lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**PLAIN)),
        tokens_and_pooled, "siglip bare", "siglip bare", PoolConfig(kind="attention"),
    ),
    "beit": Case(
        {"position": "none", "relative": True, "layer_scale": 0.1, "final_norm": False}, beit, tokens_and_logits,
        "beit", "beit in memory", PoolConfig(kind="mean", norm=True), classes=7,
    ),
}  # fmt: skip


@cache
def theirs(name: str) -> nn.Module:
    net = CASES[name].build().eval()
    redraw(net)
    return net


def read(case: Case, state: dict[str, Tensor], layout: str) -> Classifier:
    net = Classifier(case.ours).eval()
    found = LAYOUTS[f"transformers/{layout}"].read(state, case.ours).tensors
    net.load_state_dict(rename(found, native.from_file({"type": "ClassifierConfig"}, found)))
    return net


@torch.no_grad()
def apart(case: Case, ours: Classifier, net: nn.Module, size: tuple[int, int] = (SIZE, SIZE)) -> float:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    tokens, told = case.run(net, images)
    return max(error(ours.tokens(images).together(), tokens), error(ours(images), told))


@pytest.mark.parametrize("name", CASES)
def test_out_of_its_memory(name: str) -> None:
    case, net = CASES[name], theirs(name)
    assert apart(case, read(case, dict(net.state_dict()), case.memory), net) <= BAR


@pytest.mark.parametrize("name", CASES)
def test_out_of_its_files(name: str, tmp_path: Path) -> None:
    case, net = CASES[name], theirs(name)
    net.save_pretrained(tmp_path)  # type: ignore[operator]
    state = tensorfile.read(tmp_path / "model.safetensors")
    ours = read(case, state, case.layout)
    assert apart(case, ours, net) <= BAR
    held = ours.state_dict()
    flat = rename(held, native.to_file({"type": "ClassifierConfig"}, held))
    back = LAYOUTS[f"transformers/{case.layout}"].write(flat, case.ours)
    folded = {"embeddings.cls_token", "embeddings.position_embeddings"} if case.backbone.get("registers") else set()
    for called, tensor in back.items():
        assert called in folded or torch.equal(tensor, state[called]), called
    lost = state.keys() - back.keys()
    assert all("mask_token" in n or "pooler" in n or n.endswith("relative_position_index") for n in lost), lost


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_matters(name: str) -> None:
    """The mutation: whichever of theirs is wrong, the comparison sees it."""
    case, net = CASES[name], theirs(name)
    ours, unseen = read(case, dict(net.state_dict()), case.memory), []
    for called, p in net.named_parameters():
        if "mask_token" in called or "k_proj.bias" in called:  # not used, and not seen by softmax
            continue
        right = p.detach().clone()
        for wrong in (torch.zeros_like(p), right.flip(tuple(range(p.ndim)))):
            with torch.no_grad():
                p.copy_(wrong)
            if apart(case, ours, net) <= VISIBLE:
                unseen.append(called)
        with torch.no_grad():
            p.copy_(right)
    assert not unseen


def test_beit_takes_pictures_of_other_sizes_as_transformers_does() -> None:
    case, net = CASES["beit"], theirs("beit")
    ours = read(case, dict(net.state_dict()), case.memory)

    def other(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        return net.base_model(images, interpolate_pos_encoding=True).last_hidden_state, net(
            images, interpolate_pos_encoding=True
        ).logits

    assert apart(replace(case, run=other), ours, net, (40, 24)) <= BAR
