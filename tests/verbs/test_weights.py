"""`train --weights`: another head, size or number of channels by one flag, said in one line; wrong weights: cured."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import tifffile
import torch
from commands import TINY, World, words
from PIL import Image
from safetensors.torch import save_file

import tessella as ts
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.tensorfile import read
from tessella.verbs.adopt import adopt
from tessella.weights.io import read_model, write_model
from tessella.weights.opened import assumed

QUICK = {"train.steps": 1, "data.workers": 0, "train.device": "cpu", "train.batch": 4, "train.precision": "fp32"}
STILL = QUICK | {"train.lr": 0.0, "train.min_lr": 0.0, "train.ema": None}  # the weights stay what they start as


def said(text: str) -> str:
    (line,) = [line for line in text.splitlines() if "tensors" in line]
    return line


def changed(world: World, place: Path, **card: Any) -> Path:
    """The world's model with another card."""
    old, tensors = read_model(world.run / "model")
    write_model(place, tensors, replace(old, **card))
    return place


def reversed_head(world: World, place: Path) -> Path:
    """The same network with its outputs, and their names, the other way round."""
    card, tensors = read_model(world.run / "model")
    for name in ("head.weight", "head.bias"):
        tensors[name] = tensors[name].flip(0).contiguous()
    head = replace(card.heads[0], classes=card.heads[0].classes[::-1])
    write_model(place, tensors, replace(card, heads=(head,)))
    return place


# -- what one flag does ------------------------------------------------------------------------------------------------


def test_the_same_classes_keep_their_head(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    done = ts.train(world.photos, settings=STILL | {"weights": str(world.run)})
    assert "head kept: 3 outputs" in said(capfd.readouterr().err)
    pictures = sorted(world.photos.rglob("*.png"))
    assert np.array_equal(done.load().logits(pictures), ts.load(world.run).logits(pictures))
    again = ts.train(world.photos, settings=TINY | STILL, model="vit_n4")  # the mutation: from nothing
    assert not np.allclose(again.load().embed(pictures), ts.load(world.run).embed(pictures), atol=1e-2)


def test_classes_in_another_order_go_by_name(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    turned = reversed_head(world, tmp_path / "turned")
    done = ts.train(world.photos, settings=STILL | {"weights": str(turned)})
    assert "head kept by name: 3 of 3 outputs" in said(capfd.readouterr().err)
    pictures = sorted(world.photos.rglob("*.png"))
    straight, start = done.load(), ts.load(turned)
    assert straight.classes == start.classes[::-1] == ts.load(world.run).classes
    assert np.allclose(straight.logits(pictures), start.logits(pictures)[:, ::-1], atol=1e-6)
    assert not np.allclose(straight.logits(pictures), start.logits(pictures), atol=1e-3)  # the mutation: by number


def test_other_classes_get_a_new_head(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i, old in enumerate(sorted(world.photos.iterdir())):
        shutil.copytree(old, tmp_path / "other" / f"kind {i}")
    done = ts.train(tmp_path / "other", settings=STILL | {"weights": str(world.run)})
    count = len(read_model(world.run / "model")[1]) - 2
    assert f"loaded {count} tensors; head new: 3 outputs instead of 3" in said(capfd.readouterr().err)
    files = [read(folder / "model" / "model.safetensors") for folder in (done.folder, world.run)]
    same = {name for name in files[0] if torch.equal(files[0][name], files[1][name])}
    assert files[0].keys() - same == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": 56}, "resized positions 7x7 to 14x14"),
        ({"model.backbone.channels": 1}, "resized patches 3 to 1 channels"),
        ({"model.backbone.channels": 4, "size": 32}, "resized patches 3 to 4 channels; resized positions 7x7 to 8x8"),
        ({"model.backbone.channels": 12}, "resized patches 3 to 12 channels"),
    ],
)
def test_another_size_and_other_channels(
    settings: dict[str, Any], told: str, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    count = settings.get("model.backbone.channels", 3)
    pictures = world.photos if count < 4 else tmp_path / "bands"
    for path in world.photos.rglob("*.png") if count > 3 else ():
        bands = np.resize(np.asarray(Image.open(path)).transpose(2, 0, 1), (count, 28, 28)).transpose(1, 2, 0)
        (pictures / path.parent.name).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(
            pictures / path.parent.name / f"{path.stem}.tif", bands, photometric="minisblack", planarconfig="contig"
        )
    done = ts.train(pictures, settings=STILL | settings | {"weights": str(world.run)})
    assert told in said(capfd.readouterr().err)
    model, backbone = done.load(), done.load().card.architecture["backbone"]
    assert model.preprocess.size == (settings.get("size", 28),) * 2
    assert model.preprocess.channels == backbone["channels"] == count
    assert model.predict(next(p for p in pictures.rglob("*.*") if p.is_file()))[0].names


def test_patches_of_another_size(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Out of a folder, out of a bare file, and once more out of the file where a run has no state yet."""
    cfg = ClassifierConfig(backbone=ViTConfig(image_size=28, patch_size=7, width=16, depth=1, heads=2), classes=3)
    tensors = Classifier(cfg).state_dict()
    write_model(tmp_path / "w", tensors, assumed(cfg, tmp_path, len(tensors)))
    shutil.copy(tmp_path / "w" / "model.safetensors", tmp_path / "w.safetensors")
    known = {f"model.backbone.{key}": getattr(cfg.backbone, key) for key in ("width", "depth", "heads")}
    for source, model, more in (("w", None, {}), ("w.safetensors", "vit_t16", known)):
        asked = STILL | {"weights": str(tmp_path / source), "model.backbone.patch_size": 14} | more
        done = ts.train(world.photos, settings=asked, model=model)
        assert "resized patches 7 to 14 px; resized positions 4x4 to 2x2" in said(capfd.readouterr().err)
        assert done.load().card.architecture["backbone"]["patch_size"] == 14
    before = (done.folder / "model" / "model.safetensors").read_bytes()
    for name in ("state", "model"):
        shutil.rmtree(done.folder / name)
    ts.resume(done.folder)
    assert (done.folder / "model" / "model.safetensors").read_bytes() == before


def test_a_file_that_says_what_the_weights_are(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its classes keep their rows of the head, also where a run without a state starts again."""
    cfg = ClassifierConfig(backbone=ViTConfig(image_size=28, patch_size=7, width=16, depth=1, heads=2), classes=3)
    save_file(rename_for_timm(Classifier(cfg).state_dict()), tmp_path / "w.safetensors")
    names = sorted(path.name for path in world.photos.iterdir())
    about = f"classes = {json.dumps(names[::-1])}\n[model.backbone]\n"
    about += "image_size = 28\npatch_size = 7\nwidth = 16\ndepth = 1\nheads = 2\n"
    (tmp_path / "about.toml").write_text(about + "[preprocess]\nstd = [0.5, 0.5, 0.5]\n")
    done = ts.train(world.photos, settings=STILL | {"weights": "w.safetensors"}, model="about.toml")
    assert "head kept by name: 3 of 3 outputs" in said(capfd.readouterr().err)
    assert done.load().preprocess.std == (0.5, 0.5, 0.5)
    before = read(done.folder / "model" / "model.safetensors")
    assert torch.equal(before["head.weight"], read(tmp_path / "w.safetensors")["head.weight"].flip(0))
    for name in ("state", "model"):
        shutil.rmtree(done.folder / name)
    ts.resume(done.folder)
    assert torch.equal(read(done.folder / "model" / "model.safetensors")["head.weight"], before["head.weight"])


def rename_for_timm(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("backbone."): tensor.contiguous() for name, tensor in tensors.items()}


def test_grey_pictures_say_what_they_said_as_colour(world: World, tmp_path: Path) -> None:
    """Summed patch weights: a grey picture gives the same features through one channel as through three alike."""
    grey = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    card = read_model(world.run / "model")[0]
    place = changed(world, tmp_path / "m", preprocess={"image": replace(card.preprocess["image"], **grey)})
    done = ts.train(world.photos, settings=STILL | {"weights": str(place), "model.backbone.channels": 1})
    shades = tmp_path / "grey.png"
    Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28)).save(shades)
    assert np.allclose(done.load().embed(shades), ts.load(place).embed(shades), atol=1e-4)


def test_preprocessing_comes_from_the_card(world: World, tmp_path: Path) -> None:
    card = read_model(world.run / "model")[0]
    odd = replace(card.preprocess["image"], mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear")
    place = changed(world, tmp_path / "m", preprocess={"image": odd}, licence="CC-BY-NC-4.0")
    done = ts.train(world.photos, settings=STILL | {"weights": str(place), "preprocess.std": (1.0, 1.0, 1.0)})
    found, settled = done.load(), json.loads((done.folder / "run.json").read_text())
    assert found.preprocess == replace(odd, std=(1.0, 1.0, 1.0))
    assert found.card.licence == "CC-BY-NC-4.0"  # what is made of such weights is under it too
    assert settled["origins"]["preprocess.mean"] == "chosen: the card of the weights"
    assert settled["origins"]["preprocess.std"] == settled["origins"]["weights"] == "given"
    assert settled["run"]["weights_sha256"] == found.card.provenance["weights_sha256"]


@pytest.mark.parametrize(
    ("side", "size"), [(20, 112), (100, 112), (120, 128), (128, 128), (200, 208), (209, 0), (300, 0)]
)
def test_small_pictures_are_not_enlarged(side: int, size: int, shared_data: Path) -> None:
    """But never below half of what the weights saw; 0: as they saw them."""
    found = adopt([{"weights": shared_data / "weights" / "deit_tiny_patch16_224_lnq8.safetensors"}], "deit_t16")
    assert found is not None and found.size_for(side) == size


def test_real_deit_tiny(world: World, shared_data: Path) -> None:
    """A bare file: it might be of AugReg by its shapes, and is not guessed."""
    file = shared_data / "weights" / "deit_tiny_patch16_224_lnq8.safetensors"
    asked = ("train", world.photos, "--weights", file, "--size", "64", *words(STILL))
    vague = commands.run(*asked)
    assert vague.code == 2 and "fits vit_t16.augreg, deit_t16" in vague.err and "--model NAME" in vague.err, vague.err
    done = commands.run(*asked, "--model", "deit_t16")
    assert done.code == 0, done.err
    assert "loaded 149 tensors; resized positions 14x14 to 4x4; head new: 3 outputs instead of 1000" in said(done.err)
    assert "recipe = finetune" in done.err
    card = ts.load("runs/photos-1").card
    assert card.preprocess["image"].mean == (0.485, 0.456, 0.406) and card.preprocess["image"].crop == 0.9
    assert card.licence == "apache-2.0"
    known = read(file)
    shipped = read(Path("runs/photos-1/model/model.safetensors"))
    moved = {name for name in known if not torch.equal(shipped[name], known[name])} if shipped else set()
    assert moved == {"head.weight", "head.bias", "pos_embed"}


def test_a_backbone_alone_is_enough(world: World, tmp_path: Path) -> None:
    """As training without labels leaves it."""
    card, tensors = read_model(world.run / "model")
    alone = {n.removeprefix("backbone."): t for n, t in tensors.items() if n.startswith("backbone.")}
    write_model(tmp_path / "m", alone, replace(card, architecture=card.architecture["backbone"], heads=()))
    done = ts.train(world.photos, settings=STILL | {"weights": str(tmp_path / "m")})
    pictures = sorted(world.photos.rglob("*.png"))
    assert np.array_equal(done.load().embed(pictures), ts.load(world.run).embed(pictures))


def test_without_a_head_nothing_is_said(world: World, tmp_path: Path) -> None:
    """Neither a guess nor a traceback; the features are there all the same."""
    card, tensors = read_model(world.run / "model")
    kept = {n: t for n, t in tensors.items() if not n.startswith("head")}
    write_model(tmp_path / "m", kept, replace(card, architecture=card.architecture | {"classes": 0}, heads=()))
    for words_, cure in (
        (("predict", "m", world.photos), "train --weights"),
        (("evaluate", "m", world.photos), "--probe"),
    ):
        done = commands.run(*words_, place=tmp_path)
        assert done.code == 2 and "no head" in done.err and cure in done.err, done.err
    assert commands.run("evaluate", "m", world.photos, "--probe", "knn", "--workers", "0", place=tmp_path).code == 0


# -- going on ----------------------------------------------------------------------------------------------------------


def test_resume_needs_no_weights(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.run / "model", tmp_path / "w")
    line = ["train", world.photos, "--weights", tmp_path / "w", *words(QUICK | {"train.steps": 4})]
    whole = commands.run(*line, "--name", "whole")
    assert whole.code == 0, whole.err
    assert commands.run(*line, "--name", "part", "--train.save_every", "2").code == 0
    shutil.rmtree(tmp_path / "runs" / "part" / "state" / "step-00000004", ignore_errors=True)
    for state in sorted((tmp_path / "runs" / "part" / "state").iterdir())[1:]:
        shutil.rmtree(state)
    shutil.rmtree(tmp_path / "w")
    done = commands.run("train", "--resume", "runs/part")
    assert done.code == 0, done.err
    weights = [(tmp_path / "runs" / n / "model" / "model.safetensors").read_bytes() for n in ("whole", "part")]
    assert weights[0] == weights[1]


def test_a_run_without_a_state_needs_the_same_weights_again(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.run / "model", tmp_path / "w")
    first = ts.train(world.photos, settings=QUICK | {"weights": "w", "name": "a"})
    before = (first.folder / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(first.folder / "state")
    shutil.rmtree(first.folder / "model")
    ts.resume(first.folder)
    assert (first.folder / "model" / "model.safetensors").read_bytes() == before
    shutil.rmtree(first.folder / "state")
    reversed_head(world, tmp_path / "w")
    with pytest.raises(BadInput, match="has changed since the run started, and no state was saved"):
        ts.resume(first.folder)
    shutil.rmtree(tmp_path / "w")
    with pytest.raises(BadInput, match="no model folder, run folder or weights file"):
        ts.resume(first.folder)


# -- the probe ---------------------------------------------------------------------------------------------------------


def test_a_probe_moves_the_head_alone(world: World, tmp_path: Path) -> None:
    for i, old in enumerate(sorted(world.photos.iterdir())):
        shutil.copytree(old, tmp_path / "other" / f"kind {i}")
    settings = QUICK | {"train.steps": 60, "train.batch": 16, "weights": str(world.run), "train.evaluate_every": 0}
    done = ts.train(tmp_path / "other", recipe="probe", settings=settings)
    files = [read(folder / "model" / "model.safetensors") for folder in (done.folder, world.run)]
    same = {name for name in files[0] if torch.equal(files[0][name], files[1][name])}
    assert files[0].keys() - same == {"head.weight", "head.bias"}
    tuned = ts.train(tmp_path / "other", settings=QUICK | {"weights": str(world.run)})  # the mutation: all of it learns
    moved = read(tuned.folder / "model" / "model.safetensors")
    assert not torch.equal(moved["blocks.0.attn.qkv.weight"], files[1]["blocks.0.attn.qkv.weight"])
    found = ts.evaluate(done.folder, tmp_path / "other")  # through the pictures, not what was kept of them
    assert found.metrics["loss"] < np.log(3)
    log = [json.loads(line) for line in (done.folder / "log.jsonl").read_text().splitlines()]
    assert log[0]["loss"] > [row["loss"] for row in log if "loss" in row][-1]


def test_a_probe_says_of_pictures_what_it_said_of_their_features(world: World, tmp_path: Path) -> None:
    held = tmp_path / "parts"
    shutil.copytree(world.photos, held / "train")
    shutil.copytree(world.photos, held / "val")
    done = ts.train(held, recipe="probe", settings=QUICK | {"weights": str(world.run), "train.steps": 3})
    found = ts.evaluate(done.folder, held / "val").metrics
    assert found["loss"] == pytest.approx(done.metrics["loss"], abs=1e-5) and found["top1"] == done.metrics["top1"]


def test_a_probe_goes_on(world: World, tmp_path: Path) -> None:
    """What is kept of the pictures is made by the weights of the state."""
    shutil.copytree(world.run / "model", tmp_path / "w")
    line = ["train", world.photos, "--weights", "w", "--recipe", "probe", *words(QUICK | {"train.steps": 6})]
    assert commands.run(*line, "--name", "whole").code == 0
    assert commands.run(*line, "--name", "part", "--train.save_every", "3").code == 0
    shutil.rmtree(sorted((tmp_path / "runs" / "part" / "state").iterdir())[-1])
    shutil.rmtree(tmp_path / "w")
    done = commands.run("train", "--resume", "runs/part")
    assert done.code == 0, done.err
    weights = [(tmp_path / "runs" / n / "model" / "model.safetensors").read_bytes() for n in ("whole", "part")]
    assert weights[0] == weights[1]


def test_a_probe_leaves_out_what_cannot_be_read(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.photos, tmp_path / "holes")
    victim = next((tmp_path / "holes").rglob("*.png"))
    victim.write_bytes(victim.read_bytes()[:60])
    settings = QUICK | {"weights": str(world.run), "train.steps": 8, "data.max_bad": 0.5, "data.val_share": 0}
    done = ts.train(tmp_path / "holes", recipe="probe", settings=settings)
    listed = (done.folder / "quarantine.jsonl").read_text().splitlines()
    assert len(listed) == 1 and victim.name in listed[0]


# -- what cannot be used -----------------------------------------------------------------------------------------------

BAD = {
    "no such file": ("--weights nowhere", "nowhere is no model folder, run folder or weights file"),
    "a text": ("--weights text.safetensors", "text.safetensors is not a whole safetensors file"),
    "a program": ("--weights evil.pt", "evil.pt is damaged or holds more than tensors .*nothing in it was run"),
    "another suffix": ("--weights text.gguf", "text.gguf is not a weights file by its name"),
    "a number": ("odd.toml", "weights is 5; give the path"),
    "no model yet": ("--weights photos", "photos holds no model.json and no model/ folder"),
    "a detector": ("--weights detector.safetensors", "does not say which architecture it is; add --model NAME"),
    "a detector as": ("--weights detector.safetensors --model vit_t16", "no weights of such a network .*missing"),
    "a block less": ("--weights less.safetensors --model vit_n4", "1 missing .blocks.3.mlp.fc2.bias."),
    "not finite": ("--weights nan.safetensors", "no finite numbers .blocks.0.mlp.fc1.weight."),
    "another model": ("--weights model --model vit_s16", "is no vit_s16: .*leave --model out"),
    "another model than the file": (
        "--weights whole.safetensors --model vit_t16",
        "is no vit_t16: by its shapes it is vit_n4",
    ),
    "a pool for a probe": ("--weights model --recipe probe --model.pool.kind attention", "the weights lack attn_pool"),
    "another depth": ("--weights model --model.backbone.depth 3", "model.backbone.depth is 3, but the weights are of"),
    "another patch": ("--weights model --model.backbone.patch_size 2", "model.backbone.patch_size is 2, but"),
    "a size between patches": ("--weights model --size 30", "not tiled by patches of 4 pixels; resize it to 32x32"),
    "another file": ("--weights model --weights_sha256 " + 64 * "0", "has the sha256 .*, not 0000"),
    "a recipe without": ("--recipe finetune", "the recipe finetune starts from weights; add --weights"),
    "a probe without": ("--recipe probe", "the recipe probe starts from weights; add --weights"),
    "crops for a probe": ("--weights model --recipe probe --data.augment.crop pad", "data.augment must be None"),
    "a name of a model": ("--weights vit_t16", "vit_t16 names an architecture without weights"),
}


@pytest.fixture(scope="module")
def bench(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tessella.models.presets import classifier
    from tessella.weights.guess import shapes_of

    place = tmp_path_factory.mktemp("bench")
    (place / "photos").symlink_to(world.photos)
    shutil.copytree(world.run / "model", place / "model")
    (place / "text.safetensors").write_text("these are no weights")
    (place / "odd.toml").write_text("weights = 5")
    (place / "text.gguf").write_text("these are no weights")
    torch.save({"w": Path("code")}, place / "evil.pt")
    save_file(
        {"backbone.body.conv1.weight": torch.ones(3), "class_embed.bias": torch.ones(2)}, place / "detector.safetensors"
    )
    whole = {name: torch.zeros(shape) for name, shape in shapes_of(classifier("vit_n4", 5)).items()}
    save_file(whole, place / "whole.safetensors")
    save_file({n: t for n, t in whole.items() if n != "blocks.3.mlp.fc2.bias"}, place / "less.safetensors")
    whole["blocks.0.mlp.fc1.weight"] = whole["blocks.0.mlp.fc1.weight"] + float("nan")
    save_file(whole, place / "nan.safetensors")
    return place


@pytest.mark.parametrize("name", BAD)
def test_wrong_weights_are_named_and_nothing_is_written(name: str, bench: Path) -> None:
    command, expected = BAD[name]
    done = commands.run("train", "photos", *command.split(), *words(QUICK), place=bench)
    told = done.err.splitlines()
    assert done.code == 2 and len(told) == 1 and done.out == "", done.err
    assert re.search(expected, told[0]), told[0]
    assert not (bench / "runs").exists()


def test_resume_takes_no_other_weights(world: World) -> None:
    done = commands.run("train", "--resume", world.run, "--weights", world.run)
    assert done.code == 2 and "weights is settled when a run starts" in done.err


def test_a_folder_of_transformers_says_what_it_is(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Network, pictures and names of classes are its own; the head is kept by name, and the card says who said so."""
    hf = pytest.importorskip("transformers")
    names = dict(enumerate(reversed(ts.load(world.run).classes)))
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    told = small | {"image_size": 32, "patch_size": 8, "id2label": names, "label2id": {n: i for i, n in names.items()}}
    net = hf.ViTForImageClassification(hf.ViTConfig(**told)).eval()
    net.save_pretrained(tmp_path / "hf")
    processor = hf.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    done = ts.train(world.photos, settings=STILL | {"weights": str(tmp_path / "hf"), "size": 32})
    assert "head kept by name: 3 of 3 outputs" in said(capfd.readouterr().err)
    card, run = done.load().card, json.loads((done.folder / "run.json").read_text())
    assert card.licence == "cc-by-4.0" and card.preprocess["image"].mean == (0.1, 0.2, 0.3)
    assert (card.preprocess["image"].centre, card.preprocess["image"].resize) == ("floor", "squash")
    assert run["origins"]["preprocess.mean"] == "chosen: config.json beside the weights"
    pictures = sorted(world.photos.rglob("*.png"))
    seen = processor([Image.open(p).convert("RGB") for p in pictures], return_tensors="pt")
    with torch.no_grad():
        theirs = net(**seen).logits.numpy()[:, ::-1]
    assert np.allclose(done.load().logits(pictures), theirs, atol=0.02)  # a step of 255 in pixels
    assert not np.allclose(done.load().logits(pictures), theirs[:, ::-1], atol=0.02)  # the mutation: by number
