"""State survives death: killed at each file operation of a save, with the disk full, with any byte flipped."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deaths
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessella import durable, tensorfile
from tessella.errors import BadInput, DiskFull, TessellaError
from tessella.training import state
from tessella.training.state import Snapshot, differences, refuse_changes

Save = Callable[[Path, Snapshot], Any]


def snapshot(step: int, version: int = 0) -> Snapshot:
    g = torch.Generator().manual_seed(100 * step + version)
    model = {"w": torch.randn(2, 3, generator=g), "half": torch.randn(5, generator=g).bfloat16()}
    return Snapshot(step, {"model": model, "optimizer": {"w|step": torch.tensor(float(step))}}, {"version": version})


def same(one: Snapshot, other: Snapshot) -> bool:
    if (one.step, one.facts, one.tensors.keys()) != (other.step, other.facts, other.tensors.keys()):
        return False
    return all(_equal(part, other.tensors[stem]) for stem, part in one.tensors.items())


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    fits = one.keys() == other.keys()
    return fits and all(
        t.dtype == other[n].dtype and t.shape == other[n].shape and _bits(t) == _bits(other[n]) for n, t in one.items()
    )


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def two_states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with steps 1 and 2 saved."""
    folder = tmp_path_factory.mktemp("two") / "state"
    for step in (1, 2):
        state.save(folder, snapshot(step))
    return folder


# -- what is saved comes back ----------------------------------------------------------------------------------------


def awkward() -> dict[str, Tensor]:
    return {
        "": torch.arange(3),
        "a/b\\c\0\n\"'{}%0041": torch.randn(4, 6).t()[::2],  # not contiguous
        "__metadata__": torch.tensor(2.5),  # no dimensions
        "%005f_metadata__": torch.tensor(1),
        "日本 \udcff": torch.tensor([True, False]),
        "bf16": torch.randn(3).bfloat16(),
        "f16": torch.randn(3).half(),
        "f8": torch.randn(4).to(torch.float8_e4m3fn),
        "complex": torch.randn(2, dtype=torch.complex64),
        "none of it": torch.zeros(0, 7),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "expanded": torch.tensor(7).expand(3),
        "gradient": torch.nn.Parameter(torch.randn(2)),
    }


def test_any_name_type_and_shape_comes_back(tmp_path: Path) -> None:
    saved = Snapshot(7, {"odd": awkward(), "empty": {}}, {"lr": 0.1 + 0.2, "names": ["\udcff", "é"], "big": 2**70})
    path = state.save(tmp_path / "state", saved)
    assert path.name == "step-000007" and same(state.load(path), saved)


def test_the_files_are_ordinary_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = {"a.b": torch.randn(3, 2).t(), "c": torch.tensor(1, dtype=torch.int8), "d": torch.randn(3).double()}
    written = tensorfile.write(tmp_path / "x.safetensors", tensors)
    assert _equal(load_file(tmp_path / "x.safetensors"), tensors)
    assert written == durable.Written(
        durable.sha256_file(tmp_path / "x.safetensors"), (tmp_path / "x.safetensors").stat().st_size
    )
    assert written.size <= tensorfile.size_of(tensors)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec=None)), st.integers(-5, 5), max_size=6))
def test_any_text_is_a_tensor_name(names: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tensors = {name: torch.tensor(value) for name, value in names.items()}
        tensorfile.write(Path(folder) / "x", tensors)
        assert _equal(tensorfile.read(Path(folder) / "x"), tensors)


def test_a_percent_sign_in_a_strangers_name_is_left_alone(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a%0041": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert list(tensorfile.read(tmp_path / "x.safetensors")) == ["a%0041"]


def test_memory_saved_twice_is_refused(tmp_path: Path) -> None:
    w = torch.randn(4, 4)
    for twin in (w, w[1], w.t(), w.view(-1)[3:9], torch.nn.Parameter(w)):
        with pytest.raises(TessellaError, match=r"'a/w' and 'b/twin'|'b/twin' and 'a/w'"):
            state.save(tmp_path / "state", Snapshot(1, {"a": {"w": w}, "b": {"twin": twin}}, {}))
    assert not (tmp_path / "state").exists()
    apart = {"top": w[:2], "bottom": w[2:], "empty": w[:0]}
    columns = {"left": torch.randn(3, 4)[:, :2], "same numbers": w[:2].clone()}
    state.save(tmp_path / "state", Snapshot(1, {"a": apart, "b": columns}, {}))


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    for tensors, facts, word in (
        ({"m": {"meta one": torch.zeros(1, device="meta")}}, {}, "meta one"),
        ({"m": {"sparse one": torch.zeros(2, 2).to_sparse()}}, {}, "sparse one"),
        ({"../m": {}}, {}, "../m"),
        ({}, {"x": {1, 2}}, "not plain JSON"),
    ):
        with pytest.raises(TessellaError, match=word):
            state.save(tmp_path / "state", Snapshot(1, tensors, facts))
    with pytest.raises(BadInput, match="keep is 0"):
        state.save(tmp_path / "state", snapshot(1), keep=0)


def test_only_the_newest_are_kept_by_number(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    for step in (9, 10, 999_999, 1_000_000):
        state.save(folder, snapshot(step), keep=3)
        os.utime(folder / f"step-{step:06d}", (2e9 - step, 2e9 - step))  # clocks jump
    assert {p.name for p in folder.iterdir()} == {"step-000010", "step-999999", "step-1000000"}
    assert state.latest(folder) == folder / "step-1000000"
    with pytest.raises(TessellaError, match=r"step-1000000 is newer than step 5"):
        state.save(folder, snapshot(5))
    assert len(list(folder.iterdir())) == 3


def test_no_state_yet(tmp_path: Path) -> None:
    assert state.latest(tmp_path / "none") is None and not (tmp_path / "none").exists()


# -- death -----------------------------------------------------------------------------------------------------------


def survive(folder: Path, allowed: list[Snapshot]) -> None:
    """What holds after any death: a whole state that is one of `allowed`, nothing half visible, and saving works."""
    for path in folder.glob("step-*"):
        assert (path / state.MARK).exists() and not state._faults(path), f"{path} is visible and not whole"
    found = state.latest(folder)
    assert found is not None
    loaded = state.load(found)
    assert any(same(loaded, one) for one in allowed), f"step {loaded.step} is not what was saved"
    state.save(folder, snapshot(50))
    assert same(state.load(folder / "step-000050"), snapshot(50))
    names = sorted(p.name for p in folder.iterdir())
    assert len(names) == 2 and all(n.startswith("step-") for n in names), f"left over: {names}"


def deaths_of(save: Save, start: Path, place: Path, saved: Snapshot) -> int:
    """Kills `save(saved)` at each of its file operations; how many there are."""
    torch.set_num_threads(1)
    before = state.load(start / "step-000002")

    def prepare(number: int) -> Path:
        folder = place / str(number)
        shutil.copytree(start, folder)
        return folder

    return deaths.at_every_operation(
        prepare, lambda folder: save(folder, saved), lambda folder: survive(folder, [before, saved])
    )


def test_killed_at_every_operation_of_a_save(two_states: Path, tmp_path: Path) -> None:
    assert deaths_of(state.save, two_states, tmp_path, snapshot(3)) > 40


@pytest.mark.parametrize("exchange", [True, False])
def test_killed_while_a_step_is_written_again(
    exchange: bool, two_states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # as on file systems that cannot swap two names
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    assert deaths_of(state.save, two_states, tmp_path, snapshot(2, version=1)) > 40


def _in_place(target: Path, write: Callable[[Path], None]) -> None:
    target.mkdir(exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    write(target)


@pytest.mark.parametrize("step", [2, 3])
def test_the_check_sees_a_save_in_place(
    step: int, two_states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(folder: Path, saved: Snapshot) -> None:
        durable.write_folder = _in_place
        state.save(folder, saved)

    with pytest.raises(AssertionError):
        deaths_of(save, two_states, tmp_path, snapshot(step, version=1))


def test_the_check_sees_forgetting_before_saving(two_states: Path, tmp_path: Path) -> None:
    def save(folder: Path, saved: Snapshot) -> None:
        for path in (folder / "step-000001", folder / "step-000002"):
            durable.remove_folder(path)
        state.save(folder, saved)

    with pytest.raises(AssertionError):
        deaths_of(save, two_states, tmp_path, snapshot(3))


def test_the_wrapper_sees_all_that_the_interpreter_sees(two_states: Path, tmp_path: Path) -> None:
    shutil.copytree(two_states, tmp_path / "state")
    seen, audited = deaths.counted(lambda: state.save(tmp_path / "state", snapshot(3)) and None, tmp_path / "count")
    assert seen == audited > 5


def test_leftovers_of_the_living_are_spared(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write(place: Path) -> None:
        assert durable.sweep(tmp_path) == []
        (place / "x").write_text("x")

    durable.write_folder(target, write)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("mutant", [False, True])
def test_nothing_is_written_to_the_temporary_folder(
    mutant: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Path("/dev/shm")
    elsewhere = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path))
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(elsewhere)

    def act() -> None:
        if mutant:
            (Path(tempfile.mkdtemp()) / "x").write_bytes(b"x")
        for step in (1, 2, 3, 3):
            state.save(tmp_path / "run" / "state", snapshot(step))

    written = deaths.folders_written(act, tmp_path / "record")
    shutil.rmtree(elsewhere)
    outside = {place for place in written if not Path(place).is_relative_to(tmp_path)}
    assert len(written) > 4 and any(Path(p).is_relative_to(elsewhere) for p in outside) == mutant
    assert mutant or not outside


# -- damage ----------------------------------------------------------------------------------------------------------


def _damaged(two_states: Path, place: Path, damage: Callable[[Path], None]) -> tuple[Path | None, list[str]]:
    shutil.copytree(two_states, place)
    damage(place / "step-000002")
    notes: list[str] = []
    found = state.latest(place, notes.append)
    shutil.rmtree(place)
    return found, notes


def test_any_flipped_byte_is_seen(two_states: Path, tmp_path: Path) -> None:
    place = tmp_path / "state"
    count = 0
    for file in sorted((two_states / "step-000002").iterdir()):
        for at in range(0, file.stat().st_size, 7):

            def flip(path: Path, name: str = file.name, at: int = at) -> None:
                data = bytearray((path / name).read_bytes())
                data[at] ^= 1 << at % 8
                (path / name).write_bytes(data)

            found, notes = _damaged(two_states, place, flip)
            assert found == place / "step-000001", f"bit {at % 8} of byte {at} of {file.name}"
            assert len(notes) == 1 and "step-000002" in notes[0]
            count += 1
    assert count > 50


def test_missing_cut_and_added_files_are_seen(two_states: Path, tmp_path: Path) -> None:
    place = tmp_path / "state"
    for name in [p.name for p in (two_states / "step-000002").iterdir()]:
        for damage in (
            lambda path, name=name: (path / name).unlink(),
            lambda path, name=name: os.truncate(path / name, 5),
            lambda path, name=name: (path / name).write_bytes((path / name).read_bytes() + b"x"),
        ):
            assert _damaged(two_states, place, damage)[0] == place / "step-000001"
    for damage in (
        lambda path: (path / "new.safetensors").write_bytes(b""),
        lambda path: shutil.rmtree(path),
        lambda path: [p.unlink() for p in path.iterdir()] and None,
        lambda path: (path / state.MARK).write_text("[" * 100_000),
    ):
        assert _damaged(two_states, place, damage)[0] == place / "step-000001"
    assert _damaged(two_states, place, lambda path: None)[0] == place / "step-000002"


def test_a_damaged_or_newer_state_says_so(two_states: Path, tmp_path: Path) -> None:
    shutil.copytree(two_states, tmp_path / "state")
    path = tmp_path / "state" / "step-000002"
    mark = json.loads((path / state.MARK).read_text())
    (path / state.MARK).write_text(json.dumps(mark | {"format_version": 2}))
    with pytest.raises(BadInput, match="made by a newer tessella"):
        state.load(path)
    (path / state.MARK).write_text(json.dumps(mark))
    (path / "model.safetensors").write_bytes(b"\0" * mark["files"]["model.safetensors"]["size"])
    with pytest.raises(BadInput, match=r"step-000002 cannot be loaded: model.safetensors is not what was written"):
        state.load(path)
    state.save(tmp_path / "state", snapshot(2))  # the run comes by again and heals it
    assert same(state.load(path), snapshot(2))


# -- the disk is full ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", ["write", "fsync", "mkdir"])
def test_a_full_disk_leaves_what_was_there(
    code: int, name: str, two_states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "state"
    shutil.copytree(two_states, folder)
    real, times = getattr(os, name), {"write": 4, "fsync": 5, "mkdir": 1}[name]
    for full_at in range(times):
        calls = itertools.count()

        def full(*args: Any, calls: Any = calls, full_at: int = full_at, **kwargs: Any) -> Any:
            if next(calls) == full_at:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, full)
        with pytest.raises(DiskFull) as caught:
            state.save(folder, snapshot(3))
        monkeypatch.setattr(os, name, real)
        assert "\n" not in str(caught.value) and "intact" in str(caught.value)
        assert sorted(p.name for p in folder.iterdir()) == ["step-000001", "step-000002"]
    assert same(state.load(folder / "step-000002"), snapshot(2))
    survive(folder, [snapshot(2)])


def test_space_is_asked_for_first(two_states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "state"
    shutil.copytree(two_states, folder)
    monkeypatch.setattr(durable, "free_space", lambda path: durable.SLACK + 5000)
    monkeypatch.setattr(durable, "write_folder", lambda target, write: pytest.fail("it began to write"))
    with pytest.raises(DiskFull, match="make room"):
        state.save(folder, snapshot(3))


SMALL_DISK = """
import sys, torch
from pathlib import Path
from tessella import durable
from tessella.errors import DiskFull
from tessella.training import state
folder = Path(sys.argv[1]) / "state"
small = state.Snapshot(1, {"m": {"w": torch.zeros(1000)}}, {})
large = state.Snapshot(2, {"m": {"w": torch.zeros(1000), "v": torch.zeros(2_000_000)}}, {})
state.save(folder, small)
for check in (True, False):
    if not check:
        durable.require_space = lambda folder, size: None
    try:
        state.save(folder, large)
    except DiskFull as error:
        print("full")
    assert [p.name for p in folder.iterdir()] == ["step-000001"], list(folder.iterdir())
    assert state.load(state.latest(folder)).tensors["m"]["w"].shape == (1000,)
"""


def test_a_truly_full_disk(tmp_path: Path, repository: Path) -> None:
    script = 'mount -t tmpfs -o size=4m none "$1" || exit 77; exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, SMALL_DISK]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here to mount a small disk with")
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode in (1, 77) and "full" not in done.stdout and "Traceback" not in done.stderr:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    assert done.returncode == 0 and done.stdout.split() == ["full", "full"], done.stderr


# -- what changed between stop and resume ----------------------------------------------------------------------------

OLD = {"classes": ["cat", "dog", "owl"], "data": {"train": ["a", "b", "c", "d", "e"], "size": 32}, "lr": 0.1}


def test_differences_name_what_went_came_and_moved() -> None:
    assert differences(OLD, OLD) == []
    new = {"classes": ["dog", "cat", "owl"], "data": {"train": ["a"], "size": 64}, "ema": 0.9}
    assert differences(OLD, new) == [
        "classes: in another order ('cat' was at place 0, 'dog' is there now)",
        "data.size: was 32, is 64",
        "data.train: 4 ('b', 'c', 'd', ...) are gone",
        "ema: is new (0.9)",
        "lr: was 0.1, is gone",
    ]
    assert differences({"c": ("cat", "dog")}, {"c": ["dog", "emu"]}) == ["c: 'cat' is gone; 'emu' is new"]
    assert differences({"c": ["a", "a"]}, {"c": ["a"]}) == ["c: 'a' is gone"]
    assert differences({"x": float("nan"), "t": (1,)}, {"x": float("nan"), "t": [1]}) == []


def test_changes_are_refused_key_by_key() -> None:
    new = json.loads(json.dumps(OLD)) | {"lr": 0.2, "data": {"train": ["a"], "size": 64}}
    with pytest.raises(BadInput) as caught:
        refuse_changes(OLD, new)
    text = str(caught.value)
    assert "\n" not in text and all(key in text for key in ("data.size: was 32, is 64", "data.train: 4 (", "lr: was"))
    assert "--allow-change data.size --allow-change data.train --allow-change lr" in text
    with pytest.raises(BadInput, match=r": lr: was 0.1, is 0.2; undo that, or allow it with --allow-change lr$"):
        refuse_changes(OLD, new, ("data",))
    refuse_changes(OLD, new, ("data", "lr"))
    refuse_changes(OLD, new, ("data.size", "data.train", "lr"))
    with pytest.raises(BadInput, match=r"data.train: 4"):
        refuse_changes(OLD, new, ("data.size", "lr"))


def test_an_unknown_key_cannot_be_allowed() -> None:
    for key in ("clases", "dat", "data.", ""):
        with pytest.raises(BadInput, match="no such key"):
            refuse_changes(OLD, OLD, (key,))
    with pytest.raises(BadInput, match="did you mean 'classes'"):
        refuse_changes(OLD, OLD, ("clases",))
