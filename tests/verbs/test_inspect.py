"""`inspect`: what a file is, in words; several readings, none, and another library beside it."""

from __future__ import annotations

import json
from pathlib import Path

import commands
import pytest
import torch

from tessella import card as cards
from tessella import tensorfile
from tessella.errors import BadInput
from tessella.verbs.inspect import inspect
from tessella.weights.catalog import CATALOG
from tessella.weights.guess import shapes_of
from tessella.weights.layouts import LAYOUTS

REAL = "weights/deit_tiny_patch16_224_lnq8.safetensors"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeiT-tiny by its shapes, which an AugReg ViT shares."""
    generator = torch.Generator().manual_seed(0)
    shapes = shapes_of(CATALOG["deit_t16"].architecture)
    path = tmp_path_factory.mktemp("bare") / "weights.safetensors"
    tensorfile.write(path, {n: 0.05 * torch.randn(s, generator=generator) for n, s in shapes.items()})
    return path


def test_a_known_file_is_told_from_its_source_to_its_licence(bare: Path) -> None:
    done = commands.run("inspect", bare, "--like", "deit_t16")
    assert done.code == 0, done.err
    for text in (
        "152 (5,717,416 numbers, float32)", "deit_t16, of the family deit, in the layout of timm",
        "width 192, depth 12, 3 heads",
        "224x224 px, shortest, crop 0.9, bicubic, mean [0.485, 0.456, 0.406]", "1,000 classes of ImageNet-1k (tench",
        "top-1 72.2 % on ImageNet-1k", "apache-2.0", "timm/deit_tiny_patch16_224.fb_in1k",
    ):  # fmt: skip
        assert text in done.out, text


def test_a_file_that_fits_several_shows_them_all_and_is_no_answer(bare: Path) -> None:
    done = commands.run("inspect", bare)
    assert done.code == 2 and done.err.count("\n") == 1 and "add --like NAME" in done.err
    assert "--like deit_t16;" in done.out and "--like vit_t16.augreg;" in done.out
    assert "mean [0.5, 0.5, 0.5]" in done.out and "mean [0.485" in done.out
    told = json.loads(commands.run("inspect", bare, "--json").out)
    assert {one["--like"] for one in told["candidates"]} >= {"deit_t16", "vit_t16.augreg"} and told["fault"]


def test_a_file_of_nothing_known_names_the_nearest_and_what_is_missing(bare: Path, tmp_path: Path) -> None:
    held = tensorfile.read(bare)
    del held["blocks.3.mlp.fc1.weight"], held["norm.bias"]
    tensorfile.write(tmp_path / "broken.safetensors", held)
    done = commands.run("inspect", tmp_path / "broken.safetensors")
    assert done.code == 2 and "blocks.3.mlp.fc1.weight" in done.err and "norm.bias" in done.err
    assert "150 (" in done.out, "what is known of it is told all the same"


def test_a_layout_of_another_library_is_named(bare: Path, tmp_path: Path) -> None:
    entry = CATALOG["deit_t16"]
    theirs = LAYOUTS["transformers/vit"].write(tensorfile.read(bare), entry.architecture)
    tensorfile.write(tmp_path / "hf.safetensors", theirs)
    facts = inspect(tmp_path / "hf.safetensors", like="deit_t16").facts
    assert "in the layout of transformers (vit)" in facts["what"] and facts["tensors"].startswith("200 ")


def test_a_run_is_told_by_its_card(tmp_path: Path) -> None:
    photos = commands.photos(tmp_path / "photos", each=6)
    words = commands.words(commands.TINY | {"train.steps": 2})
    assert commands.run("train", photos, "--recipe", "compact", *words, place=tmp_path).code == 0
    done = commands.run("inspect", "runs/photos-1", place=tmp_path)
    assert done.code == 0 and "a model folder of tessella" in done.out and "3 classes (circle" in done.out, done.out
    assert "width 32, depth 1, 2 heads" in done.out and "top1" in done.out


def test_wrong_words_are_one_line(bare: Path) -> None:
    for words, says in (
        (("--against", "tim"), "did you mean 'timm'?"),
        (("a.jpg",), "pictures are for --against"),
        (("nope.jpg", "--against", "timm", "--like", "deit_t16"), "nope.jpg cannot be read"),
    ):
        done = commands.run("inspect", bare, *words)
        assert done.code == 2 and says in done.err.splitlines()[-1], done.err


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_real_deit_beside_another_library(library: str, shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip(library)
    found = inspect(shared_data / REAL, like="deit_t16", against=library)
    found.judge()
    c = found.comparison
    assert c is not None and c.pixels is not None and c.tokens is not None and not c.differs
    assert c.pixels <= (1e-3 if library == "timm" else 1.001) and c.tokens <= 1e-5 and c.outputs <= 1e-5


def test_a_wrong_mean_is_told(shared_data: Path, tmp_path: Path) -> None:
    """The mutation of the card, as somebody's edit would do it."""
    pytest.importorskip("timm")
    done = commands.run("convert", shared_data / REAL, tmp_path / "deit", "--like", "deit_t16")
    assert done.code == 0, done.err
    right = commands.run("inspect", tmp_path / "deit", "--against", "timm")
    assert right.code == 0 and "the same" in right.out, right.err
    path = tmp_path / "deit" / cards.NAME
    told = json.loads(path.read_text())
    told["preprocess"]["image"] |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    path.write_text(json.dumps(told))
    wrong = commands.run("inspect", tmp_path / "deit", "--against", "timm")
    assert wrong.code == 2 and wrong.err.count("\n") == 1
    assert "preprocess.mean is [0.5, 0.5, 0.5]; timm publishes [0.485, 0.456, 0.406] for these weights" in wrong.err
    with pytest.raises(BadInput, match=r"preprocess\.std"):
        inspect(tmp_path / "deit", against="timm").judge()
