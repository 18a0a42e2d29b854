"""Networks of open_clip, small and redrawn, read by our tables: the image side of CLIP, and towers that are timm's."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from redrawn import BAR, VISIBLE, error, redraw
from torch import nn

from tessella.models.architecture import ClassifierConfig, PoolConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.weights import native
from tessella.weights.layouts import LAYOUTS
from tessella.weights.table import rename

open_clip = pytest.importorskip("open_clip")
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # noqa: E402

SIZE, PATCH, SPACE = 32, 8, 20
TEXT = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)


@cache
def theirs(quick: bool) -> nn.Module:
    vision = CLIPVisionCfg(layers=2, width=128, head_width=64, patch_size=PATCH, image_size=SIZE)
    net = CLIP(SPACE, vision, TEXT, quick_gelu=quick).eval()
    redraw(net)
    return net


def read(net: nn.Module, quick: bool) -> Classifier:
    small = dict(image_size=SIZE, patch_size=PATCH, width=128, depth=2, heads=2, norm_pre=True, embed_bias=False)
    backbone = ViTConfig(**small, norm_eps=1e-5, mlp="quick_gelu" if quick else "gelu")  # type: ignore[arg-type]
    cfg = ClassifierConfig(backbone=backbone, pool=PoolConfig(projection=SPACE), classes=0)
    ours = Classifier(cfg).eval()
    found = LAYOUTS["open_clip/clip"].read(net.state_dict(), cfg)
    assert "logit_scale" in found.left and any(name.startswith("transformer.") for name in found.left)
    ours.load_state_dict(rename(found.tensors, native.from_file({"type": "ClassifierConfig"}, found.tensors)))
    held = ours.state_dict()
    back = LAYOUTS["open_clip/clip"].write(rename(held, native.to_file({"type": "ClassifierConfig"}, held)), cfg)
    state = net.state_dict()
    assert back.keys() == {name for name in state if name.startswith("visual.")}
    assert all(torch.equal(back[name], state[name]) for name in back)
    return ours


@torch.no_grad()
def apart(ours: Classifier, net: Any) -> float:
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return error(ours(images), net.encode_image(images))


@pytest.mark.parametrize("quick", [True, False])
def test_image_features(quick: bool) -> None:
    net = theirs(quick)
    assert apart(read(net, quick), net) <= BAR
    assert apart(read(net, not quick), net) > VISIBLE, "the mutation: the other activation"


def test_every_tensor_matters() -> None:
    net, unseen = theirs(True), []
    ours = read(net, True)
    for called, p in net.named_parameters():
        if not called.startswith("visual."):
            continue
        right = p.detach().clone()
        for wrong in (torch.zeros_like(p), right.flip(tuple(range(p.ndim)))):
            with torch.no_grad():
                p.copy_(wrong)
            if apart(ours, net) <= VISIBLE:
                unseen.append(called)
        with torch.no_grad():
            p.copy_(right)
    assert not unseen
