"""Which architecture a bare file is of: known from names and shapes alone, or not claimed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tessella.errors import BadInput
from tessella.models.presets import PRESETS, classifier
from tessella.weights import guess
from tessella.weights.guess import candidates, fitted, shapes_of
from tessella.weights.opened import open_weights


def bare(name: str, classes: int = 7) -> dict[str, Tensor]:
    return {n: torch.empty(s, device="meta") for n, s in shapes_of(classifier(name, classes)).items()}


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_known_by_its_shapes(name: str) -> None:
    tensors = bare(name)
    assert candidates(tensors) == [name]
    found = fitted(classifier(name, 0), tensors)
    assert found == classifier(name, 7)


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("vit_tiny_patch16_384", {}, ["vit_t16"]),
        ("vit_base_patch16_224", {"in_chans": 12, "img_size": 320, "num_classes": 0}, ["vit_b16"]),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, ["vit_t16"]),
        ("vit_tiny_patch16_224", {"global_pool": "map"}, ["vit_t16"]),
        ("deit_tiny_distilled_patch16_224", {}, ["vit_t16"]),
        ("deit3_small_patch16_224", {}, ["vit_s16"]),
        ("vit_base_patch16_clip_224", {}, []),  # nothing says which activation
        ("vit_small_patch14_dinov2", {}, []),
        ("swin_tiny_patch4_window7_224", {"in_chans": 5}, ["swin_t"]),
        ("swinv2_tiny_window8_256", {}, []),
    ],
)
def test_timms_models(model: str, options: dict[str, object], expected: list[str]) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        tensors = timm.create_model(model, **options).state_dict()
    assert candidates(tensors) == expected
    for name in expected:
        wanted = {n: s for n, s in shapes_of(fitted(classifier(name, 0), tensors)).items()}
        assert wanted == {n: t.shape for n, t in tensors.items()}


def test_a_tensor_less_is_no_preset() -> None:
    """The mutation: what lacks a norm, or has a foreign tensor, is not taken for a network without it."""
    for change in ("norm.weight", "cls_token", "blocks.3.attn.proj.bias"):
        tensors = bare("vit_t16")
        del tensors[change]
        assert candidates(tensors) == []
    assert candidates(bare("vit_t16") | {"det_token": torch.empty(1, 100, 192)}) == []


@pytest.mark.parametrize("name", ["reg_token", "head.weight", "pos_embed", "patch_embed.proj.weight"])
def test_a_tensor_of_no_such_rank_is_no_preset(name: str, tmp_path: Path) -> None:
    tensors = {n: torch.zeros(t.shape) for n, t in bare("vit_n4").items()} | {name: torch.zeros(())}
    save_file(tensors, tmp_path / "w.safetensors")
    if name != "head.weight":  # whatever the head is: it is not looked at
        with pytest.raises(BadInput, match="does not say which architecture it is"):
            open_weights(tmp_path / "w.safetensors")
    assert open_weights(tmp_path / "w.safetensors", "vit_n4").network.config.backbone.depth == 4


def test_two_of_the_same_shapes_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads do not show in shapes."""
    from dataclasses import replace

    twins = {**PRESETS, "vit_m16_heads4": replace(PRESETS["vit_m16"], heads=4)}
    monkeypatch.setattr(guess, "PRESETS", twins)
    save_file({n: torch.zeros(t.shape) for n, t in bare("vit_m16").items()}, tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match="fits vit_m16 and vit_m16_heads4; add --like NAME, one of"):
        open_weights(tmp_path / "w.safetensors")
    assert open_weights(tmp_path / "w.safetensors", "vit_m16").network.config.backbone.heads == 8
