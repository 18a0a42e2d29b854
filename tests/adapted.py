"""Small networks of transformers and timm, adapters that PEFT made for them, our folders of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from redrawn import redraw
from torch import Tensor, nn

from tessella.config import encode
from tessella.models.architecture import ClassifierConfig, ViTConfig
from tessella.models.build import network
from tessella.weights import native
from tessella.weights.io import load_into, write_model
from tessella.weights.layouts import LAYOUTS
from tessella.weights.opened import Weights, assumed
from tessella.weights.table import rename

hf, peft, timm = (pytest.importorskip(name) for name in ("transformers", "peft", "timm"))

WIDTH, HEADS, DEPTH, SIZE, PATCH = 48, 3, 2, 32, 8
PLAIN: dict[str, Any] = dict(
    hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
    image_size=SIZE, patch_size=PATCH, layer_norm_eps=1e-6,
)  # fmt: skip
BACKBONE = ViTConfig(image_size=SIZE, patch_size=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS)


def vit(classes: int = 7) -> nn.Module:
    labels = {i: f"class {i}" for i in range(classes)}
    return hf.ViTForImageClassification(hf.ViTConfig(**PLAIN, id2label=labels))


def timms() -> nn.Module:
    sizes = dict(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS)
    return timm.models.vision_transformer.VisionTransformer(**sizes, num_classes=7)


def dinov2() -> nn.Module:
    cfg = {k: v for k, v in PLAIN.items() if k != "intermediate_size"} | {"layerscale_value": 0.5}
    return hf.Dinov2ForImageClassification(hf.Dinov2Config(**cfg, num_labels=7))


@dataclass(frozen=True)
class Case:
    settings: dict[str, Any]  # of PEFT's LoraConfig
    build: Callable[[], nn.Module] = vit
    layout: str = "transformers/vit in memory"
    architecture: ClassifierConfig = field(default_factory=lambda: ClassifierConfig(backbone=BACKBONE, classes=7))
    safe: bool = True


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
FEATURES = ClassifierConfig(backbone=replace(BACKBONE, layer_scale=0.5), classes=0)
CASES = {
    "queries and values": Case({"target_modules": ["q_proj", "v_proj"], "lora_alpha": 12}),
    "all maps and a head": Case(
        {"target_modules": ALL, "modules_to_save": ["classifier"], "use_rslora": True,
         "rank_pattern": {"q_proj": 2, r".*\.1\.mlp\.fc1": 3}, "alpha_pattern": {"layers.0.mlp.fc2": 5}},
    ),
    "an expression": Case({"target_modules": r".*attention\.(q|v)_proj"}),
    "patches and biases": Case({"target_modules": ["projection", "o_proj"], "bias": "lora_only"}),
    "all biases": Case({"target_modules": ["fc1"], "bias": "all"}),
    "biases of their own": Case({"target_modules": ["v_proj", "fc1"], "lora_bias": True}),
    "norms as they are": Case({"target_modules": ["k_proj"], "modules_to_save": ["layernorm_before", "classifier"]}),
    "an old file": Case({"target_modules": ["q_proj"], "modules_to_save": ["classifier"]}, safe=False),
    "timm": Case(
        {"target_modules": ["qkv", "proj", "fc1", "fc2"], "modules_to_save": ["head"]}, timms, "timm/vit",
    ),
    "timm's head": Case({"target_modules": ["qkv", "head"]}, timms, "timm/vit"),
    "below another name": Case(
        {"target_modules": ["q_proj", "fc2"]}, dinov2, "transformers/dinov2 in memory", FEATURES,
    ),
}  # fmt: skip


def said(net: Any, images: Tensor) -> Tensor:
    if isinstance(net, hf.Dinov2ForImageClassification):  # its head sees more than the class token
        return net.dinov2(images).last_hidden_state[:, 0]
    out = net(images)
    return out if isinstance(out, Tensor) else out.logits


def pictures() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def folder_of(case: Case, net: nn.Module, place: Path) -> Path:
    """Our model folder with the weights of this network."""
    state = {n: t for n, t in net.state_dict().items() if case.architecture.classes or "classifier" not in n}
    inside = {n.removeprefix("dinov2."): t for n, t in state.items()}
    read = LAYOUTS[case.layout].read(inside, case.architecture).tensors
    named = rename(read, native.from_file(encode(case.architecture), read))
    write_model(place, {n: t.detach().clone() for n, t in named.items()}, assumed(case.architecture, place, 0))
    return place


def made(case: Case, place: Path) -> tuple[Path, Tensor]:
    """A base, an adapter with all its values drawn anew, and what PEFT says with the one merged into the other."""
    net = case.build().eval()
    redraw(net)
    folder_of(case, net, place / "base")
    tuned = peft.get_peft_model(net, peft.LoraConfig(r=4, **{"lora_alpha": 6} | case.settings)).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if p.requires_grad:
                spread = 0.3 if "lora_" in name else 0.1
                p.copy_(("norm" in name and p.ndim == 1) + spread * torch.randn(p.shape, generator=generator))
    tuned.save_pretrained(place / "adapter", safe_serialization=case.safe)
    with torch.no_grad():
        return place, said(tuned.merge_and_unload(), pictures())


@torch.no_grad()
def outputs(weights: Weights) -> Tensor:
    net = network(weights.card.architecture, empty=True).eval()
    load_into(net, weights.tensors)
    found: Tensor = net(pictures())
    return found
