"""Weights in several files, in .npz, in wrappers, and files that mean harm."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from redrawn import BAR, error, redraw
from torch import Tensor

from tessella import tensorfile
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.weights import files, native
from tessella.weights.files import read_tensors
from tessella.weights.layouts import LAYOUTS
from tessella.weights.opened import open_weights
from tessella.weights.table import rename


def toy(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"{name}.weight": torch.randn(3, 4, generator=generator) for name in ("a", "b", "c")}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def shards(folder: Path) -> Path:
    whole = toy()
    where = {"a.weight": "x-1.safetensors", "b.weight": "x-1.safetensors", "c.weight": "x-2.safetensors"}
    for file in set(where.values()):
        tensorfile.write(folder / file, {name: whole[name] for name in whole if where[name] == file})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 144}, "weight_map": where}))
    return index


def test_several_files_with_an_index_are_one(tmp_path: Path) -> None:
    assert equal(read_tensors(shards(tmp_path)), toy())


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"a.weight": "../x-1.safetensors"}, "must name weights files beside it"),
        ({"a.weight": "/etc/passwd"}, "must name weights files beside it"),
        ({"a.weight": "x-1.safetensors"}, "also holds b.weight"),
        ({"a.weight": "x-1.safetensors", "b.weight": "x-1.safetensors", "d.weight": "x-1.safetensors"}, "lacks d.wei"),
        ({"a.weight": "x-3.safetensors"}, "is not a file"),
        ({}, "has no weight_map"),
        (["a"], "has no weight_map"),
    ],
)
def test_an_index_that_does_not_agree(where: Any, says: str, tmp_path: Path) -> None:
    index = shards(tmp_path)
    index.write_text(json.dumps({"weight_map": where}))
    with pytest.raises(BadInput, match=says):
        read_tensors(index)


@pytest.mark.parametrize("key", files.WRAPPERS)
def test_wrappers_are_found_and_named(key: str, tmp_path: Path) -> None:
    torch.save({key: toy(), "epoch": 3}, tmp_path / "x.pth")
    notes: list[str] = []
    assert equal(read_tensors(tmp_path / "x.pth", notes.append), toy())
    assert notes == [f"{tmp_path / 'x.pth'}: took the tensors under {key!r} and left 'epoch'"]


def test_of_several_the_average_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    torch.save({"student": toy(1), "teacher": toy(2), "optimizer": {}}, tmp_path / "dino.pth")
    notes: list[str] = []
    assert equal(read_tensors(tmp_path / "dino.pth", notes.append), toy(2))
    assert "under 'teacher' and left 'optimizer', 'student'" in notes[0]


# -- .npz ------------------------------------------------------------------------------------------------------------


def test_timm_reads_our_npz_and_we_ours(tmp_path: Path) -> None:
    """The oracle is timm's reader of big_vision's files."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=7, img_size=64).eval()
    redraw(theirs)
    backbone = ViTConfig(image_size=64, width=192, depth=2, heads=3)
    cfg = ClassifierConfig(backbone=backbone, classes=7)
    table = LAYOUTS["big_vision/vit"]
    written = table.write(theirs.state_dict(), cfg)
    assert written["Transformer.encoderblock_1.MultiHeadDotProductAttention_1.query.kernel"].shape == (192, 3, 64)
    path = tmp_path / "vit.npz"
    np.savez(path, **{name.replace(".", "/"): tensor.contiguous().numpy() for name, tensor in written.items()})
    other = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=7, img_size=64).eval()
    other.load_pretrained(str(path))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    read = table.read(read_tensors(path), cfg).tensors
    ours = Classifier(cfg).eval()
    ours.load_state_dict(rename(read, native.from_file({"type": "ClassifierConfig"}, read)))
    with torch.no_grad():
        assert error(other(images), theirs(images)) == 0
        assert error(ours(images), other(images)) <= BAR
        swapped = {**written, "embedding.kernel": written["embedding.kernel"].flip(0)}
        ours.load_state_dict(
            rename(r := table.read(swapped, cfg).tensors, native.from_file({"type": "ClassifierConfig"}, r))
        )
        assert error(ours(images), other(images)) > BAR, "the mutation: a kernel upside down"


class Trap:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> Any:
        return Path.touch, (self.touched,)


def test_objects_in_npz_are_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    held = io.BytesIO()
    np.lib.format.write_array(held, np.array([Trap(touched)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", held.getvalue())
        archive.writestr("b", pickle.dumps(Trap(touched)))
    with pytest.raises(BadInput, match="nothing in it was run"):
        read_tensors(tmp_path / "x.npz")
    assert not touched.exists()


@pytest.mark.parametrize("kind", ["truncated", "no zip", "text", "empty", "huge header"])
def test_npz_that_is_none(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(9.0))
    match kind:
        case "truncated":
            path.write_bytes(path.read_bytes()[:200])
        case "no zip":
            path.write_bytes(b"PK\x03\x04" + b"x" * 100)
        case "text":
            np.savez(path, a=np.array(["text"]))
        case "empty":
            np.savez(path)
        case "huge header":
            head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
            data = b"\x93NUMPY\x01\x00" + len(head + b"\n").to_bytes(2, "little") + head + b"\n"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.npy", data)
    with pytest.raises(BadInput):
        read_tensors(path)


@pytest.mark.parametrize("suffix", ["npz", "pth", "bin"])
def test_a_bomb_is_refused_before_it_is_unpacked(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("a.npy", "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BadInput, match=r"would unpack from .* to 314,572,800 bytes"):
        read_tensors(path)


@pytest.mark.parametrize("which", ["", ".metadata", "__0_0.distcp"])
def test_a_distributed_checkpoint_is_named_and_not_opened(which: str, tmp_path: Path) -> None:
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one process saves alone
        dcp.save(toy(), checkpoint_id=str(tmp_path / "dcp"))
    path = tmp_path / "dcp" / which
    read = open_weights if path.is_dir() else read_tensors
    with pytest.raises(BadInput, match=r"is of a checkpoint of torch\.distributed .* dcp_to_torch .*dcp weights\.pth"):
        read(path)
    touched = tmp_path / "touched"
    (tmp_path / "dcp" / ".metadata").write_bytes(pickle.dumps(Trap(touched)))
    with pytest.raises(BadInput):
        read(path)
    assert not touched.exists()
