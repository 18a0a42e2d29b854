"""Adapters that we write: PEFT puts them on transformers' and timm's networks, and the outputs are the tuned ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from adapted import CASES, SIZE, Case, folder_of, outputs, pictures, said
from redrawn import BAR, VISIBLE, error, redraw
from torch import nn

from tessella.card import alone
from tessella.errors import BadInput
from tessella.weights import lora
from tessella.weights.io import read_model, write_model
from tessella.weights.lora_writer import LoraSettings, Written, write_adapter
from tessella.weights.opened import open_weights

peft = pytest.importorskip("peft")

HF, TIMM = CASES["queries and values"], CASES["timm"]
MAPS = {"transformers": ("q_proj", "v_proj", "o_proj", "fc1"), "timm": ("qkv", "attn.proj", "fc2")}
CASE: dict[str, Case] = {"transformers": HF, "timm": TIMM}
LAYOUT = {"transformers": "transformers/vit in memory", "timm": "timm/vit"}
HEAD = {"transformers": "classifier", "timm": "head"}


def two(library: str, place: Path, rank: int = 2) -> tuple[nn.Module, nn.Module]:
    """A network, and one whose maps differ from it by this rank, with another head; their folders lie below `place`."""
    base = CASE[library].build().eval()
    redraw(base)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for name, module in tuned.named_modules():
            if name.endswith(MAPS[library]):
                module.weight += 0.2 * torch.randn(len(module.weight), rank) @ torch.randn(rank, module.in_features)
            elif name == HEAD[library]:
                module.weight.normal_()
                module.bias.normal_()
    for name, net in (("base", base), ("tuned", tuned)):
        folder_of(CASE[library], net, place / name)
    return base, tuned


def written(library: str, place: Path, **settings: object) -> Written:
    known = {"base": "", "layout": LAYOUT[library], "rank": 2} | settings
    return write_adapter(
        place / "adapter", open_weights(place / "base"), open_weights(place / "tuned"), LoraSettings(**known)
    )


@pytest.mark.parametrize("library", CASE)
@pytest.mark.parametrize(("rank", "alpha"), [(2, None), (3, 12.0)])
def test_peft_reads_them(library: str, rank: int, alpha: float | None, tmp_path: Path) -> None:
    base, tuned = two(library, tmp_path)
    done = written(library, tmp_path, rank=rank, alpha=alpha)
    assert done.maps == 2 * len(MAPS[library]) and done.residual <= 1e-5 and done.whole == (HEAD[library],)
    with torch.no_grad():
        wanted, before = said(tuned, pictures()), said(base, pictures())
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert error(said(adapted, pictures()), wanted) <= BAR
    assert error(before, wanted) > VISIBLE, "the mutation: without the adapter"
    ours = lora.merge(open_weights(tmp_path / "base"), tmp_path / "adapter")
    assert error(outputs(ours), wanted) <= BAR


def test_names_of_the_older_version(tmp_path: Path) -> None:
    """PEFT on version 5 does not find them; we do, and so does PEFT on version 4."""
    _, tuned = two("transformers", tmp_path)
    written("transformers", tmp_path, layout="transformers/vit")
    config = json.loads((tmp_path / "adapter" / lora.CONFIG).read_text())
    assert "vit.encoder.layer.1.attention.attention.query" in config["target_modules"]
    with torch.no_grad():
        ours = outputs(lora.merge(open_weights(tmp_path / "base"), tmp_path / "adapter"))
        assert error(ours, said(tuned, pictures())) <= BAR


def test_too_low_a_rank_is_refused_or_told(tmp_path: Path) -> None:
    _, tuned = two("transformers", tmp_path, rank=4)
    with pytest.raises(BadInput, match=r"rank 2 leaves out 0\.\d+ of the difference of vit.*, more than 1e-05; give a"):
        written("transformers", tmp_path)
    assert not (tmp_path / "adapter").exists()
    done = written("transformers", tmp_path, lossy=True)
    assert 0.1 < done.residual < 1 and f"{done.residual:.2g} of the difference" in str(done)
    ours = lora.merge(open_weights(tmp_path / "base"), tmp_path / "adapter")
    with torch.no_grad():
        assert error(outputs(ours), said(tuned, pictures())) > VISIBLE


def test_chosen_maps_norms_and_biases(tmp_path: Path) -> None:
    base, tuned = two("timm", tmp_path)
    with torch.no_grad():
        tuned.blocks[1].norm2.weight += 0.5
        tuned.blocks[0].attn.qkv.bias += 0.3
    folder_of(TIMM, tuned, tmp_path / "tuned")
    targets = ("qkv", "attn.proj", "fc2")
    with pytest.raises(BadInput, match=r"1 more tensors differ .*blocks\.1\.norm2\.weight\); name them in"):
        written("timm", tmp_path, targets=targets)
    with pytest.raises(BadInput, match=r"3 more tensors differ .*blocks\.0\.mlp\.fc2\.weight"):
        written("timm", tmp_path, targets=("qkv", "attn.proj"))
    with pytest.raises(
        BadInput, match=r"no linear map of timm/vit is called query; there are fc1, fc2, head, proj, qkv"
    ):
        written("timm", tmp_path, targets=("query",))
    done = written("timm", tmp_path, targets=targets, save=("norm2",))
    assert done.whole == ("blocks.0.norm2", "blocks.1.norm2", "head")
    with torch.no_grad():
        wanted = said(tuned, pictures())
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert error(said(adapted, pictures()), wanted) <= BAR
    assert error(outputs(lora.merge(open_weights(tmp_path / "base"), tmp_path / "adapter")), wanted) <= BAR


def test_classes_go_with_the_head(tmp_path: Path) -> None:
    two("transformers", tmp_path)
    card, tensors = read_model(tmp_path / "tuned")
    names = ("ant", "bee", "cow", "dog", "emu", "fox", "gnu")
    write_model(tmp_path / "tuned", tensors, type(card)(**{**vars(card), "heads": (alone(names),)}))
    written("transformers", tmp_path, base=str(tmp_path / "base"))
    assert open_weights(tmp_path / "adapter").network.heads[0].classes == names
    config = json.loads((tmp_path / "adapter" / lora.CONFIG).read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base") and config["r"] == config["lora_alpha"] == 2


def test_what_cannot_be_written(tmp_path: Path) -> None:
    two("transformers", tmp_path)
    for wrong, told in (({"layout": "timm/vti"}, "there is no layout"), ({"rank": 0}, "rank is 0")):
        with pytest.raises(BadInput, match=told):
            written("transformers", tmp_path, **wrong)
    with pytest.raises(BadInput, match=r"cannot be written as transformers/dinov2: .*has no place"):
        written("transformers", tmp_path, layout="transformers/dinov2")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"holds notes\.txt, which writing an adapter would remove"):
        written("transformers", tmp_path)
    same = open_weights(tmp_path / "base")
    with pytest.raises(BadInput, match="no linear map differs"):
        write_adapter(tmp_path / "same", same, same, LoraSettings(base=""))


def test_two_that_are_not_one_network(tmp_path: Path) -> None:
    two("transformers", tmp_path)
    card, tensors = read_model(tmp_path / "tuned")
    tensors["backbone.pos_embed"] = tensors["backbone.pos_embed"][:, :5].contiguous()
    write_model(tmp_path / "tuned", tensors, card)
    with pytest.raises(
        BadInput, match=rf"not of one network: .*position_embeddings is \(1, {(SIZE // 8) ** 2 + 1}, 48\)"
    ):
        written("transformers", tmp_path)
