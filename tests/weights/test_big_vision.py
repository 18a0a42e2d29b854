"""Files of hybrids as AugReg keeps them; the oracle is timm's reader of such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from redrawn import BAR, error, redraw
from torch import Tensor, nn

from tessella.models.architecture import ClassifierConfig, ResNetConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.weights import native
from tessella.weights.files import read_tensors
from tessella.weights.layouts import LAYOUTS
from tessella.weights.table import rename

timm = pytest.importorskip("timm")

KINDS = {
    "hybrid": ("vit_small_r26_s32_224", dict(width=384, heads=6, resnet=ResNetConfig(layers=(2, 2, 2, 2)))),
    "hybrid stem": ("vit_tiny_r_s16_p8_224", dict(width=192, heads=3, resnet=ResNetConfig(layers=()))),
}


def built(called: str) -> nn.Module:
    net: nn.Module = timm.create_model(called, depth=2, num_classes=7, img_size=64).eval()
    return net


def ours(cfg: ClassifierConfig, tensors: dict[str, Tensor], layout: str) -> Classifier:
    net, read = Classifier(cfg).eval(), LAYOUTS[layout].read(tensors, cfg).tensors
    net.load_state_dict(rename(read, native.from_file({"type": "ClassifierConfig"}, read)))
    return net


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_timm_reads_our_npz_and_we_ours(kind: str, tmp_path: Path) -> None:
    called, settings = KINDS[kind]
    backbone: dict[str, Any] = dict(image_size=64, patch_size=32, depth=2, embed="resnet", **settings)
    cfg = ClassifierConfig(backbone=ViTConfig(**backbone), classes=7)
    theirs, other, layout = built(called), built(called), f"big_vision/{kind}"
    redraw(theirs)
    written = LAYOUTS[layout].write(theirs.state_dict(), cfg)
    assert written["conv_root.kernel"].shape == (7, 7, 3, 64) and written["gn_root.scale"].shape == (1, 1, 1, 64)
    path = tmp_path / "hybrid.npz"
    np.savez(path, **{name.replace(".", "/"): tensor.contiguous().numpy() for name, tensor in written.items()})
    other.load_pretrained(str(path))  # type: ignore[operator]
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert error(other(images), theirs(images)) == 0
    held = read_tensors(path)
    mine = ours(cfg, held, layout)
    assert error(mine(images), other(images)) <= BAR
    state = mine.state_dict()
    back = LAYOUTS[layout].write(rename(state, native.to_file({"type": "ClassifierConfig"}, state)), cfg)
    assert back.keys() == held.keys() and all(torch.equal(back[n], held[n]) for n in held)
    wrong = {**held, "conv_root.kernel": held["conv_root.kernel"].flip(0)}
    assert error(ours(cfg, wrong, layout)(images), other(images)) > BAR, "the mutation: a kernel upside down"
