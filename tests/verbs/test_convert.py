"""`convert` as a command: into our own folder, with an adapter, back out of it, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest
import torch

from tessella import card as cards
from tessella import tensorfile
from tessella.weights.opened import open_weights

REAL = "weights/deit_tiny_patch16_224_lnq8.safetensors"
ADAPTER = "weights/lora_deit_tiny_cifar10_r16.safetensors"


def test_a_bare_file_becomes_a_folder_that_says_everything(shared_data: Path, tmp_path: Path) -> None:
    done = commands.run("convert", shared_data / REAL, tmp_path / "deit", "--like", "deit_t16")
    assert done.code == 0 and "152 tensors for tessella, read back bit for bit" in done.out, done.err
    card = cards.read(tmp_path / "deit")
    assert card.heads[0].classes[0] == "tench" and card.licence == "apache-2.0"
    assert card.preprocess["image"].mean == (0.485, 0.456, 0.406)
    held, real = tensorfile.read(tmp_path / "deit" / "model.safetensors"), tensorfile.read(shared_data / REAL)
    assert held.keys() == real.keys() and all(torch.equal(held[name], real[name]) for name in real)
    again = commands.run("convert", shared_data / REAL, tmp_path / "deit", "--like", "deit_t16")
    assert again.code == 2 and "is there already, and a conversion replaces nothing" in again.err


def test_an_adapter_goes_in_and_comes_out(shared_data: Path, tmp_path: Path) -> None:
    """The real LoRA into the real DeiT, and the difference of the two as an adapter of the same rank."""
    pytest.importorskip("peft")
    base = ("--like", "deit_t16")
    words = ("convert", shared_data / REAL, tmp_path / "cifar", *base, "--adapter", shared_data / ADAPTER)
    done = commands.run(*words)
    assert done.code == 0, done.err
    out = ("convert", tmp_path / "cifar", tmp_path / "lora", "--to", "lora", "--base", shared_data / REAL, *base)
    done = commands.run(*out)
    assert done.code == 0 and "24 maps as thin matrices" in done.out, done.err
    words = ("convert", shared_data / REAL, tmp_path / "again", *base, "--adapter", tmp_path / "lora")
    done = commands.run(*words)
    assert done.code == 0, done.err
    one, other = (open_weights(tmp_path / name).tensors for name in ("cifar", "again"))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    thin = commands.run(*out[:2], tmp_path / "thin", *out[3:], "--rank", "4")
    assert thin.code == 2 and "rank 4 leaves out" in thin.err and not (tmp_path / "thin").exists(), "the mutation"


def test_wrong_words_are_one_line(tmp_path: Path) -> None:
    for words, says in (
        (("--to", "tim"), "did you mean 'timm'?"),
        (("--to", "lora"), "--to lora takes the difference to --base WEIGHTS"),
        (("--rank", "3"), "--base and --rank are of --to lora"),
        ((), "is no model folder, run folder or weights file"),
    ):
        done = commands.run("convert", tmp_path / "nothing", tmp_path / "out", *words)
        assert done.code == 2 and says in done.err and done.err.count("\n") == 1, done.err
        assert not (tmp_path / "out").exists()


def test_a_disk_that_keeps_something_else_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: one number of what lies there."""
    from tessella.errors import TessellaError
    from tessella.verbs import convert

    tensors = {"a": torch.ones(2), "b": torch.zeros(2)}
    monkeypatch.setattr(convert, "read_model", lambda _: (None, dict(tensors)))
    convert._refuse_other(tmp_path, tensors)
    for other in ({"a": torch.ones(2)}, tensors | {"b": torch.ones(2)}, tensors | {"c": torch.ones(1)}):
        monkeypatch.setattr(convert, "read_model", lambda _, other=other: (None, other))
        with pytest.raises(TessellaError, match="is not what was written"):
            convert._refuse_other(tmp_path, tensors)
