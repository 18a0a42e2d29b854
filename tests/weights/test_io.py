"""Weights in and out: hostile files run nothing, loading is all or nothing, a model folder is whole whatever dies."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deaths
import pytest
import torch
from torch import Tensor, nn

from tessella import card as cards
from tessella import durable, tensorfile
from tessella.card import Card, Preprocess
from tessella.config import encode
from tessella.errors import BadInput, DiskFull, TessellaError
from tessella.models.build import network
from tessella.models.classifier import Classifier, ClassifierConfig, PoolConfig
from tessella.models.vit import ViTConfig
from tessella.weights import native
from tessella.weights.files import read_tensors
from tessella.weights.io import load_into, read_model, write_model
from tessella.weights.opened import open_weights

TINY = ViTConfig(image_size=32, patch_size=16, width=192, depth=1, heads=3)
CLASSIFIERS = {
    "cls": ClassifierConfig(backbone=TINY, classes=7),
    "mean": ClassifierConfig(
        backbone=dataclasses.replace(TINY, final_norm=False), pool=PoolConfig(kind="mean", norm=True), classes=7
    ),
    "attention": ClassifierConfig(backbone=TINY, pool=PoolConfig(kind="attention"), classes=7),
    "distilled": ClassifierConfig(backbone=dataclasses.replace(TINY, distill_token=True), classes=7),
}
TIMM = {
    "cls": ("vit_tiny_patch16_224", {}),
    "mean": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "attention": ("vit_tiny_patch16_224", {"global_pool": "map"}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
}


def card_of(architecture: dict[str, Any]) -> Card:
    image = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Card(architecture=architecture, preprocess={"image": image})


PLAIN = card_of({"type": "ToyConfig"})


def toy(seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(3, 4, generator=g), "half": torch.randn(5, generator=g).bfloat16()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        t.dtype == other[n].dtype and torch.equal(t, other[n]) for n, t in one.items()
    )


# -- our layout is timm's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_model_folder_loads_strictly_in_timm(kind: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import load_file

    cfg = CLASSIFIERS[kind]
    torch.manual_seed(1)
    net = Classifier(cfg).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    write_model(tmp_path / "model", net.state_dict(), card_of(encode(cfg)))
    name, options = TIMM[kind]
    theirs = timm.create_model(name, num_classes=7, depth=1, img_size=32, **options).eval()
    theirs.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"), strict=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x), rtol=1e-4, atol=1e-5)

    card, tensors = read_model(tmp_path / "model")
    again = network(card.architecture)
    report = load_into(again, tensors)
    assert report.matched == report.total == len(net.state_dict()) and equal(dict(again.state_dict()), net.state_dict())


def test_other_networks_keep_their_names(tmp_path: Path) -> None:
    write_model(tmp_path / "model", toy(0), PLAIN)
    assert equal(tensorfile.read(tmp_path / "model" / "model.safetensors"), toy(0))
    assert native.from_file({"type": "ToyConfig"}, ["x"]) == {"x": "x"}


def test_the_name_table_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The mutation: without the table, the file is not timm's."""
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(native, "_TABLES", {})
    cfg = CLASSIFIERS["cls"]
    write_model(tmp_path / "model", Classifier(cfg).state_dict(), card_of(encode(cfg)))
    theirs = timm.create_model(TIMM["cls"][0], num_classes=7, depth=1, img_size=32)
    with pytest.raises(RuntimeError, match="Missing key"):
        theirs.load_state_dict(tensorfile.read(tmp_path / "model" / "model.safetensors"), strict=True)


# -- any file ----------------------------------------------------------------------------------------------------------


class Trap:
    """Pickled, this runs a command wherever it is unpickled carelessly."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.touched}",)


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
def test_checkpoints_are_unwrapped_and_say_so(suffix: str, key: str | None, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    torch.save(toy(3) if key is None else {key: toy(3), "epoch": 3, "optimizer": {"lr": [0.1]}}, path)
    notes: list[str] = []
    assert equal(read_tensors(path, notes.append), toy(3))
    assert notes == ([] if key is None else [f"{path}: took the tensors under {key!r} and left 'epoch', 'optimizer'"])


def test_safetensors_and_old_formats_are_read(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "x.safetensors", toy(1))
    assert equal(read_tensors(str(tmp_path / "x.safetensors")), toy(1))
    wrapped = {n: nn.Parameter(t) for n, t in toy(2).items()}
    torch.save(wrapped, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = read_tensors(tmp_path / "old.pth")
    assert equal(found, toy(2)) and not any(t.requires_grad for t in found.values())


def hostile(folder: Path) -> dict[str, bytes | object]:
    def header(text: bytes, size: int | None = None) -> bytes:
        return struct.pack("<Q", len(text) if size is None else size) + text

    entry = b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[%s]}}'
    trap = Trap(folder / "touched")
    return {
        "empty.safetensors": b"",
        "short.safetensors": b"\1\2",
        "huge header.safetensors": header(b"{}", 2**62),
        "no json.safetensors": header(b"{{{"),
        "deep.safetensors": header(b"[" * 100_000),
        "beyond.safetensors": header(entry % (b"4", b"0,16")),
        "overflow.safetensors": header(entry % (b"4611686018427387904,4611686018427387904", b"0,16")) + bytes(16),
        "negative.safetensors": header(entry % (b"-1", b"0,4")) + bytes(4),
        "hole.safetensors": header(entry % (b"1", b"4,8")) + bytes(8),
        "dtype.safetensors": header(entry.replace(b"F32", b"F99") % (b"1", b"0,4")) + bytes(4),
        "pickle.safetensors": {"w": trap},
        "trap.pth": {"w": trap},
        "trap.pt": {"model": toy(1), "args": trap},
        "trap.bin": trap,
        "old trap.pth": trap,
        "empty.pth": b"",
        "text.pth": b"not a checkpoint",
        "zip.pth": b"PK\3\4 nothing",
        "number.pth": 3,
        "list.pth": [torch.zeros(1)],
        "nothing.pth": {},
        "not tensors.pth": {"model": {"a": 1}},
        "two.pth": {"model": toy(1), "state_dict": toy(2)},
        "numbers.pth": {1: torch.zeros(1)},
        "weights.h5": b"\x89HDF",
        "weights": b"",
        "page.ckpt": b"<html>",
    }


def test_hostile_files_are_refused_in_one_line_and_run_nothing(tmp_path: Path) -> None:
    for name, data in hostile(tmp_path).items():
        path = tmp_path / name
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            torch.save(data, path, _use_new_zipfile_serialization=not name.startswith("old"))
        with pytest.raises(BadInput) as caught, warnings.catch_warnings():
            warnings.simplefilter("error")
            read_tensors(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), name
        assert caught.value.__cause__ is None
    assert not (tmp_path / "touched").exists()
    torch.load(tmp_path / "trap.pth", weights_only=False)  # the trap is a real one
    assert (tmp_path / "touched").exists()
    with pytest.raises(BadInput, match="is not a file"):
        read_tensors(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    torch.save(toy(1), tmp_path / "x.pth")
    tensorfile.write(tmp_path / "x.safetensors", toy(1))
    for name, stride in (("x.pth", 61), ("x.safetensors", 1)):
        data = (tmp_path / name).read_bytes()
        for size in range(0, len(data), stride):
            (tmp_path / f"cut{name[1:]}").write_bytes(data[:size])
            with pytest.raises(BadInput, match=r"damaged|not a whole"):
                read_tensors(tmp_path / f"cut{name[1:]}")


# -- into a network ----------------------------------------------------------------------------------------------------


def test_loading_is_all_or_nothing() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    good = {n: torch.full_like(t, 7) for n, t in net.state_dict().items()}
    before = {n: t.clone() for n, t in net.state_dict().items()}
    bad = good | {"0.weight": torch.zeros(4, 5), "extra": torch.zeros(1)}
    del bad["2.bias"], bad["1.running_mean"]
    with pytest.raises(BadInput) as caught:
        load_into(net, bad)
    assert str(caught.value) == (
        "these weights are of another network: 6 of the network's 9 tensors fit; 2 missing (1.running_mean, 2.bias); "
        "1 extra (extra); 1 of another shape (0.weight (4, 5) instead of (4, 3)); nothing was loaded"
    )
    assert equal(dict(net.state_dict()), before)
    report = load_into(net, good)
    assert (report.matched, report.total) == (9, 9) and equal(dict(net.state_dict()), good)


def test_what_is_taken_is_not_copied_and_otherwise_the_same() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    good = {n: torch.full_like(t, 7) for n, t in net.state_dict().items()}
    good["0.bias"] = good["0.bias"].half()  # another type: this one has to be copied
    assert load_into(net, good, take=True).matched == 7
    assert net[0].weight.data_ptr() == good["0.weight"].data_ptr() and net[0].weight.requires_grad
    assert net[0].bias.dtype == torch.float32 and bool((net[0].bias == 7).all())
    with pytest.raises(BadInput, match="1 missing"):
        load_into(net, {n: t for n, t in good.items() if n != "0.bias"}, take=True)


def test_a_header_is_as_long_as_headers_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorfile.write(tmp_path / "x.safetensors", toy(1))
    monkeypatch.setattr(tensorfile, "HEADER", 64)
    with pytest.raises(BadInput, match=r"its header claims \d+ bytes, and of weights 64 are enough"):
        read_tensors(tmp_path / "x.safetensors")


def test_what_was_read_does_not_change_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensorfile.write(path, toy(1))
    digest, crc = hashlib.sha256(), tensorfile.Crc()
    found = tensorfile.read(path, digest)
    assert digest.hexdigest() == durable.sha256_file(path) and equal(tensorfile.read(path, crc), found)
    assert crc.hexdigest() == f"{zlib.crc32(path.read_bytes()):08x}"
    with open(path, "r+b") as file:  # in place, as a copying program would
        file.write(bytes(path.stat().st_size))
    path.write_bytes(b"")
    assert equal(found, toy(1))


def test_no_more_than_five_are_named() -> None:
    net = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    with pytest.raises(BadInput, match=r"8 missing \(0.bias, 0.weight, 1.bias, 1.weight, 2.bias, \.\.\.\)"):
        load_into(net, {})


# -- a model folder ----------------------------------------------------------------------------------------------------


def test_a_model_folder_comes_back_and_is_checked(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "model"
    for seed in (1, 2):
        write_model(folder, toy(seed), PLAIN)
        card, tensors = read_model(folder)
        assert equal(tensors, toy(seed)) and dataclasses.replace(card, files={}, crc32={}) == PLAIN
    assert sorted(os.listdir(folder)) == ["model.json", "model.safetensors"] and os.listdir(folder.parent) == ["model"]
    assert card.files == {"model.safetensors": durable.sha256_file(folder / "model.safetensors")}
    header = (folder / "model.safetensors").read_bytes()[8:]
    assert json.loads(header[: header.index(b"]}}") + 3])["__metadata__"] == {"format": "pt"}


@pytest.mark.parametrize("quick", [False, True])
def test_damage_is_seen(quick: bool, tmp_path: Path) -> None:
    write_model(tmp_path / "model", toy(1), PLAIN)
    file = tmp_path / "model" / "model.safetensors"
    data = file.read_bytes()
    for at in range(0, len(data), 5):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(BadInput, match=r"model\.safetensors is damaged"):
            read_model(tmp_path / "model", quick=quick)
    file.unlink()
    with pytest.raises(BadInput, match=r"model\.safetensors is missing"):
        read_model(tmp_path / "model", quick=quick)


def test_what_a_short_sum_lets_pass_has_not_the_name_of_these_weights(tmp_path: Path) -> None:
    """Weights that are loaded are looked at for damage; who pins them by their sha256 gets it from the file itself."""
    cfg = CLASSIFIERS["cls"]
    write_model(tmp_path / "model", Classifier(cfg).state_dict(), card_of(encode(cfg)))
    assert open_weights(tmp_path / "model").sha256 == durable.sha256_file(tmp_path / "model" / "model.safetensors")
    file, text = tmp_path / "model" / "model.safetensors", (tmp_path / "model" / "model.json").read_text()
    before = f"{zlib.crc32(file.read_bytes()):08x}"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    forged = text.replace(before, f"{zlib.crc32(file.read_bytes()):08x}")
    assert forged != text
    (tmp_path / "model" / "model.json").write_text(forged)
    found = open_weights(tmp_path / "model")
    with pytest.raises(BadInput, match="is damaged"):
        _ = found.sha256
    with pytest.raises(BadInput, match="is damaged"):
        read_model(tmp_path / "model")
    old = json.loads(forged)
    del old["crc32"]  # as cards had it before: the sha256 is asked
    (tmp_path / "model" / "model.json").write_text(json.dumps(old))
    with pytest.raises(BadInput, match="is damaged"):
        open_weights(tmp_path / "model")


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"a")
    with pytest.raises(BadInput, match=r"photos holds a\.jpg, which writing a model would remove"):
        write_model(tmp_path / "photos", toy(1), PLAIN)
    write_model(tmp_path / "model", toy(1), PLAIN)
    (tmp_path / "model" / ".DS_Store").write_bytes(b"0")
    write_model(tmp_path / "model", toy(1), PLAIN)  # what a file browser left stops no run
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"holds notes\.txt"):
        write_model(tmp_path / "model", toy(2), PLAIN)
    assert os.listdir(tmp_path / "photos") == ["a.jpg"] and (tmp_path / "model" / "notes.txt").exists()
    (tmp_path / "empty").mkdir()
    write_model(tmp_path / "empty", toy(1), PLAIN)
    with pytest.raises(TessellaError, match="same memory"):
        write_model(tmp_path / "tied", {"a": (w := torch.ones(2)), "b": w}, PLAIN)


def deaths_of(write: Callable[[Path, dict[str, Tensor], Card], None], place: Path, before: bool) -> int:
    torch.set_num_threads(1)

    def prepare(number: int) -> Path:
        (place / str(number)).mkdir()
        if before:
            write_model(place / str(number) / "model", toy(1), PLAIN)
        return place / str(number)

    def check(folder: Path) -> None:
        model = folder / "model"
        if before or model.exists():
            _, found = read_model(model)
            assert equal(found, toy(2)) or (before and equal(found, toy(1))), "neither the old nor the new weights"
        write_model(model, toy(3), PLAIN)
        assert equal(read_model(model)[1], toy(3)) and os.listdir(folder) == ["model"]

    return deaths.at_every_operation(prepare, lambda folder: write(folder / "model", toy(2), PLAIN), check)


@pytest.mark.parametrize(("before", "exchange"), [(True, True), (True, False), (False, True)])
def test_killed_at_every_operation(
    before: bool, exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # as on file systems that cannot swap two names
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    assert deaths_of(write_model, tmp_path, before) > 25


@pytest.mark.parametrize("before", [True, False])
def test_the_check_sees_a_model_written_in_place(before: bool, tmp_path: Path) -> None:
    def write(folder: Path, tensors: dict[str, Tensor], card: Card) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").unlink(missing_ok=True)
        written = tensorfile.write(folder / "model.safetensors", tensors)
        cards.write(folder, dataclasses.replace(card, files={"model.safetensors": written.sha256}))

    with pytest.raises((AssertionError, BadInput)):
        deaths_of(write, tmp_path, before)


def test_a_full_disk_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model", toy(1), PLAIN)

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(DiskFull):
            write_model(tmp_path / "model", toy(2), PLAIN)
    with monkeypatch.context() as patched:
        patched.setattr(durable, "free_space", lambda path: durable.SLACK)
        with pytest.raises(DiskFull, match="make room"):
            write_model(tmp_path / "model", toy(2), PLAIN)
    assert equal(read_model(tmp_path / "model")[1], toy(1)) and os.listdir(tmp_path) == ["model"]


def test_a_model_replaced_between_card_and_weights_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model", toy(1), PLAIN)
    read, times = tensorfile.read, []

    def late(path: Path, digest: Any) -> Any:
        times.append(1)
        if len(times) == 1:
            write_model(tmp_path / "model", toy(2), PLAIN)
        return read(path, digest)

    monkeypatch.setattr(tensorfile, "read", late)
    assert equal(read_model(tmp_path / "model")[1], toy(2)) and len(times) == 2
