"""Whose file it is: every name of the catalogue by its names and shapes alone, and what stands in the way of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tessella.errors import BadInput
from tessella.weights import native
from tessella.weights.catalog import CATALOG
from tessella.weights.guess import shapes_of
from tessella.weights.layouts import LAYOUTS
from tessella.weights.opened import open_weights
from tessella.weights.recognise import nearest, recognise, told

SMALL = "vit_t16.augreg"


def named(name: str, layout: str | None = None) -> dict[str, Tensor]:
    """The tensors of this network as that layout writes them, without values."""
    entry = CATALOG[name]
    ours = {n: torch.empty(s, device="meta") for n, s in shapes_of(entry.architecture).items()}
    return LAYOUTS[layout or entry.origins[0].layout].write(ours, entry.architecture)


@pytest.mark.parametrize("name", CATALOG)
def test_every_name_is_known_in_each_of_its_layouts(name: str) -> None:
    for layout in CATALOG[name].layouts:
        found = recognise(named(name, layout))
        assert (name, layout) in {(match.name, match.layout) for match in found}, layout


@pytest.mark.parametrize("prefix", ["module.", "model.module.", "teacher.backbone."])
def test_what_stands_before_all_names_is_taken_off(prefix: str) -> None:
    found = recognise({prefix + name: tensor for name, tensor in named(SMALL).items()})
    assert found and {match.prefix for match in found} == {prefix}


def test_another_size_and_another_head_are_the_same_network() -> None:
    tensors = named(SMALL) | {
        "pos_embed": torch.empty(1, 1 + 24 * 24, 192, device="meta"),
        "head.weight": torch.empty(5, 192, device="meta"),
        "head.bias": torch.empty(5, device="meta"),
    }
    (first, *_) = recognise(tensors, SMALL)
    assert first.architecture.classes == 5 and first.architecture.backbone.size == (384, 384)


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {n: tensor for n, tensor in tensors.items() if n != name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: without(t, "norm.weight"), "1 missing (norm.weight)"),
        (lambda t: t | {"blocks.0.extra": torch.empty(3, device="meta")}, "1 not of it (blocks.0.extra)"),
        (
            lambda t: t | {"blocks.3.mlp.fc1.weight": torch.empty(700, 192, device="meta")},
            "1 of another shape (blocks.3.mlp.fc1.weight (700, 192) instead of (768, 192))",
        ),
    ],
)  # fmt: skip
def test_one_tensor_that_is_wrong_is_named(change: object, says: str) -> None:
    tensors = change(named(SMALL))  # type: ignore[operator]
    assert recognise(tensors) == []
    near = nearest(tensors, SMALL)
    assert near is not None and says in told(near)


def test_a_file_of_which_two_tensors_fit_is_refused(tmp_path: Path) -> None:
    few = {n: torch.zeros(t.shape) for n, t in list(named(SMALL).items())[:2]}
    other = {f"decoder.{i}.weight": torch.zeros(3, 3) for i in range(209)}
    save_file(few | other, tmp_path / "w.safetensors")
    for like in (None, SMALL):
        with pytest.raises(BadInput):
            open_weights(tmp_path / "w.safetensors", like)


def test_what_fits_several_is_listed_and_not_guessed(tmp_path: Path) -> None:
    save_file({n: torch.zeros(t.shape) for n, t in named("deit_t16").items()}, tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match=r"fits vit_t16.augreg, deit_t16, .*; add --like NAME"):
        open_weights(tmp_path / "w.safetensors")
    found = open_weights(tmp_path / "w.safetensors", "deit_t16")
    assert found.entry is CATALOG["deit_t16"] and found.card.licence == "apache-2.0"
    assert found.card.preprocess["image"].mean == (0.485, 0.456, 0.406)
    other = open_weights(tmp_path / "w.safetensors", "vit_t16.augreg")
    assert other.card.preprocess["image"].mean == (0.5, 0.5, 0.5), "the mutation: what --like settles"


def test_a_folder_of_another_library_is_its_file(tmp_path: Path) -> None:
    """Here in transformers' names, with its settings beside them."""
    tensors = {n: torch.zeros(t.shape) for n, t in named("deit_t16", "transformers/vit").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    told = {"model_type": "vit", "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    (tmp_path / "config.json").write_text(json.dumps(told))
    found = open_weights(tmp_path, "deit_t16")
    assert found.card.licence == CATALOG["deit_t16"].licence and found.card.heads[0].classes[0] == "tench"
    assert found.card.preprocess["image"] == CATALOG["deit_t16"].preprocess, "what the config leaves out"
    assert found.card.provenance["layout"] == "transformers/vit" and len(found.tensors) == 152
    assert "backbone.blocks.11.attn.qkv.weight" in found.tensors


def test_every_layout_reads_what_it_writes() -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("deit_t16_distilled", "vit_s14_reg4.dinov2", "vit_s16plus.dinov3", "vit_b32.openai", "eva02_t14"):
        entry = CATALOG[name]
        ours = {n: torch.randn(s, generator=generator) for n, s in shapes_of(entry.architecture).items()}
        ours = {n: keyless(t) if n.endswith("qkv.bias") else t for n, t in ours.items()}
        for layout in entry.layouts:
            back = LAYOUTS[layout].read(LAYOUTS[layout].write(ours, entry.architecture), entry.architecture)
            assert back.tensors.keys() == ours.keys() and all(torch.equal(back.tensors[n], ours[n]) for n in ours), (
                layout
            )


def keyless(bias: Tensor) -> Tensor:
    """No bias of keys: some layouts have none."""
    q, k, v = bias.chunk(3)
    return torch.cat([q, torch.zeros_like(k), v])


def test_a_bias_of_keys_is_not_dropped_in_silence() -> None:
    entry = CATALOG["beit_b16"]
    ours = {n: torch.ones(s) for n, s in shapes_of(entry.architecture).items()}
    with pytest.raises(BadInput, match=r"blocks.0.attn.qkv.bias: its keys have a bias"):
        LAYOUTS["timm/beit"].write(ours, entry.architecture)


def test_names_in_memory_lead_back(tmp_path: Path) -> None:
    entry = CATALOG["vit_b16.pe"]
    ours = shapes_of(entry.architecture)
    table = native.from_file({"type": "ClassifierConfig"}, ours)
    assert native.to_file({"type": "ClassifierConfig"}, table.values()) == {new: old for old, new in table.items()}
