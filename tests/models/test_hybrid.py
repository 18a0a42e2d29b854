"""Hybrids against timm's, small and redrawn: a ResNet before the patches or its stem alone, and what sets them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from redrawn import BAR, VISIBLE, error, redraw
from torch import nn

from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig, ResNetConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.models.hybrid import StdConv
from tessella.models.presets import PRESETS
from tessella.weights import native
from tessella.weights.guess import fitted, shapes_of
from tessella.weights.recognise import sized
from tessella.weights.table import rename
from tessella.weights.transfer import Network, transfer

timm = pytest.importorskip("timm")
from timm.layers import HybridEmbed, StdConv2dSame  # noqa: E402
from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

SIZES = ((32, 48), (48, 16), (16, 80))
NETS = {"stages": ResNetConfig(layers=(2, 1, 1), width=32), "stem": ResNetConfig(layers=(), width=32)}


def config(kind: str, **more: Any) -> ClassifierConfig:
    small: dict[str, Any] = dict(image_size=SIZES[0], patch_size=16, width=48, depth=2, heads=3, embed="resnet")
    return ClassifierConfig(backbone=ViTConfig(**small | {"resnet": NETS[kind]} | more), classes=7)


@cache
def theirs(kind: str) -> nn.Module:
    conv = partial(StdConv2dSame, eps=1e-8)
    told: dict[str, Any] = dict(stem_type="same", preact=False, conv_layer=conv)
    if kind == "stem":
        resnet: nn.Module = create_resnetv2_stem(3, 32, **told)
    else:
        widths = (128, 256, 512)
        resnet = ResNetV2(layers=NETS[kind].layers, channels=widths, num_classes=0, global_pool="", stem_chs=32, **told)
    net: nn.Module = VisionTransformer(
        img_size=SIZES[0], patch_size=16 // NETS[kind].stride, embed_dim=48, depth=2, num_heads=3, num_classes=7,
        dynamic_img_size=True, embed_layer=partial(HybridEmbed, backbone=resnet),
    ).eval()  # fmt: skip
    redraw(net)
    return net


@cache
def ours(kind: str) -> Classifier:
    net, state = Classifier(config(kind)).eval(), theirs(kind).state_dict()
    net.load_state_dict(rename(state, native.from_file({"type": "ClassifierConfig"}, state)))
    return net


@torch.no_grad()
def apart(kind: str, size: tuple[int, int]) -> float:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    net = theirs(kind)
    features = net.forward_features(images)  # type: ignore[operator]
    logits = net.forward_head(features)  # type: ignore[operator]
    return max(error(ours(kind).tokens(images).together(), features), error(ours(kind)(images), logits))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", NETS)
def test_tokens_and_logits_are_timm_s(kind: str, size: tuple[int, int]) -> None:
    assert apart(kind, size) <= BAR


@pytest.mark.parametrize("kind", NETS)
def test_every_tensor_matters(kind: str) -> None:
    """The mutation: zeroed or permuted, each of them shows."""
    unseen = []
    for called, p in theirs(kind).named_parameters():
        right = p.detach().clone()
        for wrong in (torch.zeros_like(p), right.flip(tuple(range(p.ndim)))):
            with torch.no_grad():
                p.copy_(wrong)
            if apart(kind, SIZES[0]) <= VISIBLE:
                unseen.append(called)
        with torch.no_grad():
            p.copy_(right)
    assert not unseen and apart(kind, SIZES[0]) <= BAR


def test_filters_are_standardised() -> None:
    conv = StdConv(3, 4, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(4, 3, 3, 3))
        picture = torch.randn(1, 3, 6, 6)
        plain = conv(picture)
        conv.weight.mul_(7).add_(3)
        assert error(conv(picture), plain) <= BAR, "neither their scale nor their mean matters"
        conv.weight[0, 0, 0, 0] += 7
        assert error(conv(picture), plain) > VISIBLE, "the mutation"


def test_maps_of_layers_and_the_tower() -> None:
    net = ours("stages")
    with torch.no_grad():
        tokens = net.backbone(torch.randn(2, 3, 32, 48), layers=[1, 0])
    assert [tuple(m.shape) for m in tokens.layers] == [(2, 48, 2, 3)] * 2
    names = [name for name, _ in net.named_parameters() if ".backbone." in name]
    assert len(names) == 3 + 4 * 9 + 3 * 3 and {net.depth_of(name) for name in names} == {0}
    assert {name for name in names if name in net.no_decay()} == {name for name in names if "norm" in name}


def test_pictures_that_the_patches_do_not_tile() -> None:
    images = torch.randn(1, 3, 30, 33)
    with pytest.raises(BadInput, match=r"30x33 pixels is not tiled by patches of 16 pixels; resize it to 32x48"):
        ours("stages")(images)
    cfg = config("stages", indivisible="pad")
    net = Classifier(cfg).eval()
    net.load_state_dict(ours("stages").state_dict())
    with torch.no_grad():
        whole = torch.zeros(1, 3, 32, 48)
        whole[:, :, :30, :33] = images
        assert torch.equal(net(images), net(whole))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"resnet": None}, r"embed = \"resnet\" and model.backbone.resnet go together"),
        ({"embed": "conv"}, r"embed = \"resnet\" and model.backbone.resnet go together"),
        ({"patch_size": 24}, "a ResNet of stride 16 does not go into model.backbone.patch_size 24"),
        ({"stride": 8}, "neither a stem nor a ResNet has one"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        config("stages", **change)
    for wrong in ({"layers": (1, 0)}, {"width": 48}):
        with pytest.raises(BadInput, match=r"model.backbone.resnet"):
            ResNetConfig(**wrong)


@pytest.mark.parametrize("kind", NETS)
def test_other_channels_go_to_the_first_convolution(kind: str) -> None:
    """Read off a file, and taken over from colour: the filters are summed, and standardised again."""
    cfg = config(kind)
    grey = replace(cfg, backbone=replace(cfg.backbone, channels=1))
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes_of(grey).items()}
    assert sized(cfg, tensors) == grey == fitted(cfg, tensors)
    state = ours(kind).state_dict()
    out, told = transfer(state, Network(cfg), Network(grey))
    assert told.resized == ("patches 3 to 1 channels",)
    first = f"backbone.{cfg.backbone.first_weight}"
    assert out[first].shape == (32, 1, 7, 7) and torch.equal(out[first], state[first].sum(1, keepdim=True))


def test_no_preset_is_one() -> None:
    assert not any(isinstance(preset, ViTConfig) and preset.resnet for preset in PRESETS.values())
    assert config("stem").pool == PoolConfig()
