"""LoRA adapters that PEFT made, merged by us as PEFT merges them; what is no such sum, or has no place, is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import ALL, CASES, WIDTH, Case, made, outputs, peft, timm
from redrawn import BAR, VISIBLE, error, redraw
from safetensors.torch import load_file, save_file
from torch import Tensor

import tessella as ts
from tessella.config import encode
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig
from tessella.models.build import network
from tessella.weights import lora, native
from tessella.weights.catalog import CATALOG
from tessella.weights.io import load_into
from tessella.weights.layouts import LAYOUTS
from tessella.weights.opened import Weights, assumed, open_adapted, open_weights
from tessella.weights.table import rename


def merged(place: Path) -> Weights:
    return lora.merge(open_weights(place / "base"), place / "adapter")


@pytest.mark.parametrize("name", CASES)
def test_as_peft_merges_them(name: str, tmp_path: Path) -> None:
    place, theirs = made(CASES[name], tmp_path)
    base = outputs(open_weights(place / "base"))
    assert error(outputs(merged(place)), theirs) <= BAR
    assert error(base, theirs) > VISIBLE, "the mutation: without the adapter"


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].safe])
def test_every_tensor_of_it_matters(name: str, tmp_path: Path) -> None:
    """The mutation: whichever is the other way round shows, or is refused."""
    place, theirs = made(CASES[name], tmp_path)
    file, unseen = place / "adapter" / lora.FILES[0], []
    right = load_file(file)
    for called, tensor in right.items():
        if called.endswith(".bias") and "k_proj" in called:  # not seen by softmax
            continue
        save_file(right | {called: tensor.flip(0).contiguous()}, file)
        if error(outputs(merged(place)), theirs) <= VISIBLE:
            unseen.append(called)
    assert not unseen


def test_the_card_says_what_became_of_the_classes(tmp_path: Path) -> None:
    place, _ = made(CASES["all maps and a head"], tmp_path)
    found = merged(place)
    assert found.card.heads[0].classes == tuple(f"class {i}" for i in range(7))
    assert found.card.provenance["adapter"] == "adapter" and not found.network.heads, "numbers are no names"
    assert found.sha256 != open_weights(place / "base").sha256
    names = [f"kind {i}" for i in range(7)]
    (place / "adapter" / "config.json").write_text(json.dumps({"id2label": {str(i): n for i, n in enumerate(names)}}))
    assert merged(place).network.heads[0].classes == tuple(names)
    of_the_base = {"id2label": {str(i): f"LABEL_{i}" for i in range(1000)}}
    (place / "adapter" / "config.json").write_text(json.dumps(of_the_base))
    assert not merged(place).network.heads


def test_a_head_of_other_classes_replaces_the_old_one(tmp_path: Path) -> None:
    place, theirs = made(CASES["all maps and a head"], tmp_path)
    file = place / "adapter" / lora.FILES[0]
    tensors = load_file(file)
    for name in [n for n in tensors if "classifier" in n]:
        tensors[name] = tensors[name][:3].contiguous()
    save_file(tensors, file)
    found = merged(place)
    assert found.network.config.classes == 3 and error(outputs(found), theirs[:, :3]) <= BAR


def test_files_of_both_versions_of_transformers(tmp_path: Path) -> None:
    place, theirs = made(CASES["all maps and a head"], tmp_path)
    file = place / "adapter" / lora.FILES[0]
    old = {
        "layers.": "encoder.layer.", "attention.q_proj": "attention.attention.query", "mlp.fc1": "intermediate.dense",
        "attention.k_proj": "attention.attention.key", "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    texts = {path: path.read_text() for path in [place / "adapter" / lora.CONFIG]}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {n.replace(new, name): t for n, t in tensors.items()}
    config = json.loads(texts[place / "adapter" / lora.CONFIG])
    config |= {
        "target_modules": ["query", "key", "value", "dense"],
        "rank_pattern": {"query": 2, r".*\.1\.intermediate\.dense": 3}, "alpha_pattern": {"layer.0.output.dense": 5},
    }  # fmt: skip
    (place / "adapter" / lora.CONFIG).write_text(json.dumps(config))
    save_file(tensors, file)
    assert error(outputs(merged(place)), theirs) <= BAR


# -- the base that an adapter names ------------------------------------------------------------------------------------


def test_an_adapter_opens_its_base(tmp_path: Path) -> None:
    place, theirs = made(CASES["queries and values"], tmp_path)
    config = json.loads((place / "adapter" / lora.CONFIG).read_text())

    def based_on(base: str | None) -> None:
        text = json.dumps(config | {"base_model_name_or_path": base})
        (place / "adapter" / lora.CONFIG).write_text(text)

    based_on(str(place / "base"))
    assert error(outputs(open_weights(place / "adapter")), theirs) <= BAR
    for base, told in (
        (str(place / "no such"), "no such"),
        (None, "does not say"),
        (str(place / "adapter"), "another"),
    ):
        based_on(base)
        with pytest.raises(BadInput, match=f"{told}.*give the base as the model, and this with --adapter"):
            open_weights(place / "adapter")
    assert error(outputs(open_adapted(place / "adapter", place / "base")), theirs) <= BAR
    based_on(str(place / "base"))
    assert len(ts.load(place / "adapter").classes) == 7


def test_two_files_beside_each_other(tmp_path: Path) -> None:
    place, theirs = made(CASES["queries and values"], tmp_path)
    shutil.copy(place / "adapter" / lora.CONFIG, tmp_path / f"mine.{lora.CONFIG}")
    shutil.copy(place / "adapter" / lora.FILES[0], tmp_path / "mine.safetensors")
    assert error(outputs(lora.merge(open_weights(place / "base"), tmp_path / "mine.safetensors")), theirs) <= BAR


def test_the_real_adapter(shared_data: Path) -> None:
    """Of transformers' names of version 4, on a file of timm: the rows of queries and keys move, and nothing else."""
    files = shared_data / "weights"
    base = open_weights(files / "deit_tiny_patch16_224_lnq8.safetensors", "deit_t16")
    found = lora.merge(base, files / "lora_deit_tiny_cifar10_r16.safetensors")
    assert found.network.config.classes == 10
    raw = load_file(files / "lora_deit_tiny_cifar10_r16.safetensors")
    at = "base_model.model.vit.encoder.layer.7.attention.attention.key.lora_"
    moved = found.tensors["backbone.blocks.7.attn.qkv.weight"] - base.tensors["backbone.blocks.7.attn.qkv.weight"]
    assert error(moved[192:384], raw[f"{at}B.weight"] @ raw[f"{at}A.weight"]) < 1e-4  # rounding of weights in 32 bits
    assert moved[:192].any() and not moved[384:].any()
    same = {n for n, t in base.tensors.items() if torch.equal(t, found.tensors[n])}
    assert base.tensors.keys() - same == {"head.weight", "head.bias"} | {
        f"backbone.blocks.{i}.attn.qkv.weight" for i in range(12)
    }


def test_features_that_turn_in_other_pairs(tmp_path: Path) -> None:
    """EVA-02, whose queries and keys timm keeps in another order than we do: known by the name in the catalogue."""
    entry = CATALOG["eva02_t14"]
    small = replace(entry.architecture.backbone, depth=2, image_size=56)
    cfg = replace(entry.architecture, backbone=small)
    net = timm.create_model("eva02_tiny_patch14_224", depth=2, img_size=56, num_classes=0).eval()
    redraw(net)
    read = LAYOUTS["timm/eva"].read(net.state_dict(), cfg).tensors
    named = {n: t.clone() for n, t in rename(read, native.from_file(encode(cfg), read)).items()}
    base = Weights(tmp_path, assumed(cfg, tmp_path, 0), named, bare=True, entry=entry)
    tuned = peft.get_peft_model(net, peft.LoraConfig(target_modules=["qkv", "fc2"])).eval()
    with torch.no_grad():
        for n, p in tuned.named_parameters():
            if "lora_" in n:
                p.copy_(0.1 * torch.randn(p.shape))
    tuned.save_pretrained(tmp_path / "adapter")
    images = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))

    def told(weights: Weights) -> Tensor:
        built = network(weights.card.architecture, empty=True).eval()
        load_into(built, weights.tensors)
        with torch.no_grad():
            found: Tensor = built(images)
        return found

    with torch.no_grad():
        theirs = tuned.merge_and_unload()(images)
    found = lora.merge(base, tmp_path / "adapter")
    assert found.card.provenance["adapter_layout"] == "timm/eva" and error(told(found), theirs) <= BAR
    as_ours = replace(base, entry=replace(entry, origins=(), also=("timm/vit",)))
    assert error(told(lora.merge(as_ours, tmp_path / "adapter")), theirs) > VISIBLE, "the mutation: in our order"


# -- what is refused ---------------------------------------------------------------------------------------------------

Q = "base_model.model.vit.layers.0.attention.q_proj.lora_"


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {n.replace(old, new): t for n, t in tensors.items()}


def without(*ends: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(ends)}


def changed(name: str, how: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {name: how(tensors[name]).contiguous()}


BAD: dict[str, tuple[dict[str, Any] | Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "DoRA": ({"use_dora": True}, "DoRA .use_dora., which is not plain LoRA"),
    "another method": ({"peft_type": "LOHA"}, "peft_type 'LOHA', which is not plain LoRA"),
    "a changed base": ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changed the base"),
    "single parameters": ({"target_parameters": ["x"]}, "target_parameters"),
    "no rank": ({"r": "many"}, "r is 'many'; it must be a number above 0"),
    "a broken expression": ({"rank_pattern": {"(": 3}}, "pattern '.', which cannot be read"),
    "another rank": ({"r": 8}, "_proj has lora_A .4, 48. and lora_B .48, 4., and .* says rank 8"),
    "odd names": ({"target_modules": 5}, "target_modules is 5; it must be a list of names"),
    "a magnitude": (renamed("q_proj.lora_A.weight", "q_proj.lora_magnitude_vector"), "is not of plain LoRA"),
    "no B": (without(f"{Q}B.weight"), "layers.0.attention.q_proj has lora_A.weight; it needs"),
    "half of it": (without(f"{Q}B.weight", f"{Q}A.weight"), "aims at vit.layers.0.attention.q_proj, and has no lora_A"),
    "another network": (renamed("vit.layers", "bert.stages"), "no place for 12 of its 14 tensors .bert.stages.0"),
    "a layer too many": (renamed("layers.1.", "layers.2."), "no place for 6 of its 14 tensors .vit.layers.2"),
    "an unknown tensor": (
        lambda t: t | {"base_model.model.vit.extra": t[f"{Q}A.weight"].clone()},
        r"1 of its .*vit.extra",
    ),
    "another width": (changed(f"{Q}A.weight", lambda t: t[:, :40]), r"q_proj: what it adds is \(48, 40\)"),
    "half a head": (without("classifier.bias"), "head.bias is"),
    "a head of another width": (changed("base_model.model.classifier.weight", lambda t: t[:, :9]), "head.weight is"),
    "whole numbers": (changed(f"{Q}A.weight", lambda t: t.to(torch.int8)), "q_proj.lora_A.weight holds no finite"),
    "not finite": (changed(f"{Q}A.weight", lambda t: t / 0), "q_proj.lora_A.weight holds no finite"),
    "two adapters": (lambda t: t | {f"{Q}A.other.weight": t[f"{Q}A.weight"].clone()}, "it holds 2 adapters"),
    "no adapter": (lambda t: {"head.weight": torch.ones(3)}, "holds no lora_A and lora_B"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"target_modules": ALL, "modules_to_save": ["classifier"]}
    return made(Case(settings), tmp_path_factory.mktemp("whole"))[0]


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str, whole: Path, tmp_path: Path) -> None:
    change, told = BAD[name]
    shutil.copytree(whole / "adapter", tmp_path / "adapter")
    if isinstance(change, dict):
        path = tmp_path / "adapter" / lora.CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        save_file(change(load_file(whole / "adapter" / lora.FILES[0])), tmp_path / "adapter" / lora.FILES[0])
    base = open_weights(whole / "base")
    if name == "half a head":  # where the base has none that could lend the rest
        config = replace(base.network.config, classes=3)
        base = replace(base, card=replace(base.card, architecture=encode(config)))
        base.tensors["head.weight"], base.tensors["head.bias"] = torch.ones(3, WIDTH), torch.ones(3)
    with pytest.raises(BadInput, match=told) as refused:
        lora.merge(base, tmp_path / "adapter")
    assert "\n" not in str(refused.value) and str(tmp_path / "adapter") in str(refused.value)


def test_no_adapter_there(tmp_path: Path) -> None:
    base = Weights(tmp_path, assumed(ClassifierConfig(), tmp_path, 0), {}, bare=True)
    with pytest.raises(BadInput, match=r"is no LoRA adapter: a folder with adapter_config.json"):
        lora.merge(base, tmp_path)
    (tmp_path / lora.CONFIG).write_text("{}")
    with pytest.raises(BadInput, match=r"and none of adapter_model.safetensors, adapter_model.bin"):
        lora.merge(base, tmp_path)


def test_features_in_another_order_are_not_guessed(whole: Path) -> None:
    """Libraries keep the features that rotary places turn in other orders, under the same names."""
    from tessella.models.architecture import RotaryConfig

    base = open_weights(whole / "base")
    turned = replace(base.network.config.backbone, rotary=RotaryConfig(reference=4), heads=3)
    config = ClassifierConfig(backbone=turned, pool=PoolConfig(), classes=7)
    with pytest.raises(BadInput, match="open the base by its name of the catalogue"):
        lora.merge(replace(base, card=replace(base.card, architecture=encode(config))), whole / "adapter")
