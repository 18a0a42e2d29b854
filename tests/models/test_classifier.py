"""Pools and heads, the build from a card's architecture, and the presets with their counted sizes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tessella.config import TAG, encode
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig, ResNetConfig, RotaryConfig, ViTConfig
from tessella.models.build import network
from tessella.models.classifier import Classifier
from tessella.models.presets import PRESETS, classifier, describe, preset
from tessella.models.size import Share, blocks_of, macs, parameters
from tessella.models.vit import ViT
from tessella.objectives.objective import Tower

SMALL = ViTConfig(image_size=16, patch_size=8, width=32, depth=2, heads=4)
OPTIONS: list[tuple[dict[str, Any], PoolConfig]] = [
    ({}, PoolConfig()),
    ({"class_token": False, "final_norm": False}, PoolConfig(kind="mean", norm=True)),
    ({"registers": 2}, PoolConfig(kind="attention", heads=2, mlp_ratio=1.5)),
    ({"distill_token": True}, PoolConfig()),
    ({"distill_token": True, "mlp": "swiglu"}, PoolConfig(kind="attention", norm=True)),
    ({"embed": "stem", "stem_convs": 3, "norm": "rms", "qk_norm": True, "layer_scale": 0.1}, PoolConfig(kind="mean")),
    ({"embed": "stem", "stem_convs": (2, 1, 3)}, PoolConfig()),
    ({"embed": "resnet", "resnet": ResNetConfig(layers=(2, 1), width=32)}, PoolConfig()),
    ({"embed": "resnet", "resnet": ResNetConfig(layers=(), width=32), "channels": 5}, PoolConfig()),
    (
        {"stride": 4, "head_size": 12, "position": "none", "rotary": RotaryConfig(), "qkv_bias": False},
        PoolConfig(norm=True),
    ),
    ({"norm_order": "post", "layer_scale": 0.1, "prefix_position": False, "norm_pre": True}, PoolConfig()),
    ({"position": "sincos", "embed_bias": False, "channels": 7}, PoolConfig()),
    ({"position": "none", "relative": True, "registers": 1}, PoolConfig(kind="mean", norm=True, tanh=True)),
    (
        {"mlp": "swiglu", "mlp_norm": True, "attention_norm": True, "rotary": RotaryConfig(reference=3)},
        PoolConfig(kind="attention", prefix=True, projection=24),
    ),
]
each_option = pytest.mark.parametrize(("options", "pool"), OPTIONS)


@pytest.fixture(autouse=True)
def _one_thread_one_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def config(options: dict[str, Any], pool: PoolConfig, classes: int = 5) -> ClassifierConfig:
    return ClassifierConfig(backbone=replace(SMALL, **options), pool=pool, classes=classes)


@each_option
def test_init_weights_leaves_no_tensor_out(options: dict[str, Any], pool: PoolConfig) -> None:
    net = Classifier(config({**options, "drop_path": 0.1}, pool))
    everything = dict(net.named_parameters()) | dict(net.named_buffers())
    assert [name for name, t in everything.items() if not t.isfinite().all()] == []  # the constructor does it too
    with torch.no_grad():
        for t in everything.values():
            t.fill_(torch.nan)
    net.init_weights()
    assert [name for name, t in everything.items() if t.isnan().any()] == []


@each_option
def test_forward_embed_tokens_and_gradients(options: dict[str, Any], pool: PoolConfig) -> None:
    net = Classifier(config(options, pool))
    images = torch.randn(3, net.cfg.backbone.channels, 24, 16)
    logits = net(images)
    assert logits.shape == (3, 5) and net.embed(images).shape == (3, pool.projection or 32)
    both = net.both(images)
    assert (both.distill is not None) == net.cfg.backbone.distill_token
    if both.distill is None:
        assert torch.equal(logits, net.head(net.embed(images)))
    else:
        assert torch.allclose(logits, (both.classes + both.distill) / 2) and not torch.equal(both.classes, both.distill)
    F.cross_entropy(logits, torch.arange(3)).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []  # data-parallel training needs them all


@each_option
def test_sizes_by_arithmetic_equal_the_network(options: dict[str, Any], pool: PoolConfig) -> None:
    cfg = config(options, pool)
    net = Classifier(cfg).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters(cfg)
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(1, cfg.backbone.channels, 16, 16))
    assert counter.get_total_flops() == 2 * macs(cfg)


def test_mean_pool_is_the_mean_of_the_patches() -> None:
    net = Classifier(config({}, PoolConfig(kind="mean")))
    images = torch.randn(2, 3, 16, 16)
    assert torch.allclose(net.embed(images), net.tokens(images).map().mean(dim=(2, 3)), atol=1e-6)


def test_no_classes_returns_the_features() -> None:
    net = Classifier(config({}, PoolConfig(), classes=0))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(net(images), net.embed(images)) and not any("head" in name for name in net.state_dict())


def test_the_first_loss_is_that_of_guessing() -> None:
    net = Classifier(config({}, PoolConfig(), classes=100))
    loss = F.cross_entropy(net(torch.randn(8, 3, 16, 16)), torch.arange(8))
    assert abs(loss - torch.tensor(100.0).log()) < 0.2


def test_what_cannot_be_is_refused_with_a_cure() -> None:
    with pytest.raises(BadInput, match=r'set model\.pool\.kind = "mean"'):
        config({"class_token": False}, PoolConfig())
    with pytest.raises(BadInput, match=r"set model.pool.heads"):
        config({}, PoolConfig(kind="attention", heads=5))
    with pytest.raises(BadInput, match=r"model.classes is -1"):
        config({}, PoolConfig(), classes=-1)
    with pytest.raises(BadInput, match=r"'vit_b61'; did you mean 'vit_b16'\?"):
        preset("vit_b61")


def test_tower() -> None:
    net = Classifier(config({}, PoolConfig(kind="attention", norm=True)))
    assert isinstance(net, Tower) and net.units() == net.backbone.units()
    assert net.depth_of("backbone.pos_embed") == 0 and net.depth_of("backbone.blocks.1.norm1.bias") == 2
    assert net.depth_of("backbone.norm.weight") == net.depth_of("head.weight") == net.depth_of("pool.fc_norm.bias") == 3
    names = {name for name, _ in net.named_parameters()}
    assert net.no_decay() < names
    assert {"backbone.cls_token", "backbone.pos_embed", "pool.attn_pool.latent", "head.bias"} <= net.no_decay()
    assert all(net.get_parameter(name).ndim >= 2 for name in names - net.no_decay())


def test_network_from_a_card() -> None:
    cfg = config({"drop_path": 0.2, "position": "sincos"}, PoolConfig(kind="mean"))
    net = network(encode(cfg))
    assert isinstance(net, Classifier) and net.cfg == cfg
    assert isinstance(network(encode(SMALL)), ViT)
    empty = network(encode(cfg), empty=True)
    assert all(torch.equal(b, net.get_buffer(name)) for name, b in empty.named_buffers())
    empty.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(net.eval()(images), empty.eval()(images))
    with pytest.raises(
        BadInput, match=r"choose one of ClassifierConfig, CvTConfig, MAEConfig, PainterConfig, SwinConfig, ViTConfig"
    ):
        network({TAG: "Swin"})
    plain = encode(cfg)
    plain["backbone"]["widht"] = 3
    with pytest.raises(BadInput, match=r"architecture.backbone has no key 'widht'; did you mean 'width'"):
        network(plain)


COUNTS = {
    "vit_t16": 5_717_416,
    "vit_s16": 22_050_664,
    "vit_b16": 86_567_656,
    "vit_b32": 88_224_232,
    "vit_l16": 304_326_632,
    "vit_h14": 632_045_800,
}


def test_presets_have_the_promised_sizes() -> None:
    rows = {row.name: row for row in describe()}
    assert rows.keys() == PRESETS.keys()
    assert {name: rows[name].parameters for name in COUNTS} == COUNTS
    with torch.device("meta"):
        for name, row in rows.items():
            net: nn.Module = Classifier(classifier(name, 1000))
            assert sum(p.numel() for p in net.parameters()) == row.parameters, name
    assert rows["vit_b16"].gmacs == pytest.approx(17.56, abs=0.01)
    mobile = preset("vit_m16")
    assert (mobile.width, mobile.depth, mobile.heads) == (256, 6, 8)
    for name in ("vit_n4", "vit_n8"):
        assert preset(name).embed == "stem" and rows[name].parameters < 1_150_000


def counted(cfg: ClassifierConfig) -> Share:
    """What the blocks of a real network hold and multiply."""
    net = Classifier(cfg).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, cfg.backbone.channels, *cfg.backbone.size))
    by_module = counter.get_flop_counts()
    blocks = sum(sum(found.values()) for name, found in by_module.items() if name.split(".")[-2:-1] == ["blocks"])
    held = sum(p.numel() for unit in net.units() for p in unit.parameters())
    return Share(blocks / counter.get_total_flops(), held / sum(p.numel() for p in net.parameters()))


@pytest.mark.parametrize("name", ["vit_n4", "vit_n8"])
def test_compact_networks_are_transformers(name: str) -> None:
    cfg = classifier(name, 10)
    found = counted(cfg)
    assert found == pytest.approx(blocks_of(cfg), abs=1e-9)
    assert min(found) >= 0.7
    heavier = replace(cfg, backbone=replace(cfg.backbone, stem_convs=4))  # the mutation: a stem that does the work
    assert min(counted(heavier)) < 0.7 and counted(heavier) == pytest.approx(blocks_of(heavier), abs=1e-9)


def test_presets_need_no_torch() -> None:
    code = "import sys; from tessella.models.presets import describe; describe(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
