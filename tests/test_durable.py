"""Files and folders are whole or what they were: killed at each operation, failing writers, full disks."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import deaths
import pytest

from tessella import durable
from tessella.errors import BadInput, DiskFull, TessellaError

MODEL = {"a.txt": "one", "inner/b.txt": "two" * 1000}
OTHER = {"a.txt": "uno", "c.txt": "tres"}


def filled(content: dict[str, str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, text in content.items():
            (folder / name).parent.mkdir(exist_ok=True)
            durable.pour(folder / name, [text.encode()])

    return write


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for data in ("first", b"second", "ü\n", ""):
        durable.write_file(path, data)
        assert path.read_bytes() == (data if isinstance(data, bytes) else data.encode())
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").symlink_to("real.txt")
    durable.write_folder(tmp_path / "link", filled(MODEL))
    durable.write_file(tmp_path / "file", "x")
    assert (tmp_path / "link").is_symlink() and content(tmp_path / "real") == MODEL
    assert (tmp_path / "file").is_symlink() and (tmp_path / "real.txt").read_text() == "x"


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    target = tmp_path / "new" / "deep" / "model"
    for what in (MODEL, OTHER, MODEL):
        durable.write_folder(target, filled(what))
        assert content(target) == what and os.listdir(target.parent) == ["model"]
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_exchange_is_one_step_here(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not durable._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot swap two names")
    assert os.listdir(tmp_path / "a") == ["b"] and os.listdir(tmp_path / "b") == ["a"]
    with pytest.raises(FileNotFoundError):
        durable._exchange(tmp_path / "a", tmp_path / "none")


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    durable.write_folder(tmp_path / "model", filled(MODEL))

    def fail(folder: Path) -> None:
        filled(OTHER)(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        durable.write_folder(tmp_path / "model", fail)
    assert content(tmp_path / "model") == MODEL and os.listdir(tmp_path) == ["model"]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="file is a file; name a folder"):
        durable.write_folder(tmp_path / "file", filled(MODEL))
    with pytest.raises(TessellaError, match="cannot be written"):
        durable.write_folder(tmp_path / "file" / "model", filled(MODEL))
    with pytest.raises(TessellaError, match=r"none/x cannot be written \(No such file"):
        durable.write_file(tmp_path / "none" / "x", "x")
    assert (tmp_path / "file").read_text() == "mine" and os.listdir(tmp_path) == ["file"]


def whole_or_not(folder: Path, before: dict[str, str] | None) -> None:
    """After any death: old or new, nothing between; and the next one writes and sweeps."""
    target = folder / "model"
    durable.recover(target)
    found = content(target) if target.exists() else None
    assert found in (before, OTHER), f"neither old nor new: {found}"
    durable.write_folder(target, filled(MODEL))
    assert content(target) == MODEL and os.listdir(folder) == ["model"]


@pytest.mark.parametrize(("before", "exchange"), [(MODEL, True), (MODEL, False), (None, True)])
def test_killed_at_every_operation_of_a_folder(
    exchange: bool, before: dict[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)

    def prepare(number: int) -> Path:
        folder = tmp_path / str(number)
        folder.mkdir()
        if before is not None:
            filled_folder = folder / "model"
            filled_folder.mkdir()
            filled(before)(filled_folder)
        return folder

    def act(folder: Path) -> None:
        durable.write_folder(folder / "model", filled(OTHER))

    deaths.at_every_operation(prepare, act, lambda folder: whole_or_not(folder, before))


def test_killed_at_every_operation_of_a_file(tmp_path: Path) -> None:
    def prepare(number: int) -> Path:
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "run.json").write_text("old")
        return tmp_path / str(number)

    def act(folder: Path) -> None:
        for _ in range(3):
            durable.write_file(folder / "run.json", "new, and longer")

    def check(folder: Path) -> None:
        assert (folder / "run.json").read_text() in ("old", "new, and longer")
        durable.sweep(folder)
        assert os.listdir(folder) == ["run.json"]

    deaths.at_every_operation(prepare, act, check)


def test_the_check_sees_a_folder_filled_in_place(tmp_path: Path) -> None:
    def prepare(number: int) -> Path:
        (tmp_path / str(number)).mkdir()
        return tmp_path / str(number)

    def act(folder: Path) -> None:
        (folder / "model").mkdir()
        filled(OTHER | {f"{i}.txt": "x" for i in range(9)})(folder / "model")

    with pytest.raises(AssertionError, match="neither old nor new"):
        deaths.at_every_operation(prepare, act, lambda folder: whole_or_not(folder, None))


def test_a_sweep_touches_only_our_own_names(tmp_path: Path) -> None:
    pid = 2**22 + 1  # above what Linux gives out
    foreign = [".model.old", ".model.new", "model.tessella-old", ".git", ".x.tessella-new-1-zz", ".tessella-old"]
    for name in foreign:
        (tmp_path / name).mkdir()
    (tmp_path / f".model.tessella-new-{pid}-0123abcd").mkdir()
    (
        tmp_path / f".run.json.tessella-new-{os.getpid()}-0123abcd"
    ).touch()  # the same number, of a container that is gone
    assert durable.sweep(tmp_path, "run.json") == [f".run.json.tessella-new-{os.getpid()}-0123abcd"]
    assert durable.sweep(tmp_path) == [f".model.tessella-new-{pid}-0123abcd"]
    assert sorted(os.listdir(tmp_path)) == sorted(foreign)
    assert durable.sweep(tmp_path / "none") == []


@pytest.mark.parametrize("locks", [True, False])
def test_a_sweep_spares_a_living_writer(locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not locks:  # then the number of its process tells
        monkeypatch.setattr(durable, "_lock", lambda handle: None)
        (tmp_path / ".model.tessella-new-4194305-0123abcd").mkdir()
    swept: list[int] = []

    def write(folder: Path) -> None:
        swept.append(deaths.in_a_child(lambda: os._exit(len(durable.sweep(tmp_path)))))
        filled(MODEL)(folder)

    durable.write_folder(tmp_path / "model", write)
    assert swept == [0] and os.listdir(tmp_path) == ["model"] and content(tmp_path / "model") == MODEL


def test_a_removed_folder_is_first_out_of_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step").mkdir()
    seen = []
    monkeypatch.setattr(durable, "_erase", lambda path: seen.append(os.listdir(tmp_path)))
    durable.remove_folder(tmp_path / "step")
    assert len(seen) == 1 and len(seen[0]) == 1 and seen[0][0].startswith(".step.tessella-new-")


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert durable.free_space(tmp_path / "not" / "yet") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    durable.require_space(tmp_path, 1000)
    with pytest.raises(DiskFull, match="make room") as caught:
        durable.require_space(tmp_path, 1 << 60)
    assert caught.value.exit_code == 74 and "\n" not in str(caught.value)

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    durable.write_file(tmp_path / "x", "old")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFull, match="No space left"):
        durable.write_file(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[:3]))
    monkeypatch.setattr(durable, "CHUNK", 10)
    data = bytes(range(256))
    written = durable.pour(tmp_path / "x", [data[:100], memoryview(data)[100:]])
    assert (tmp_path / "x").read_bytes() == data
    assert written == durable.Written(durable.sha256_file(tmp_path / "x"), 256)


def test_everything_is_synced_before_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file and folder, then the rename, then the folder around it. What a power cut needs, no kill can test."""
    events: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.rename

    def synced(handle: int) -> None:
        events.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        sync(handle)

    def renamed(one: Path, other: Path) -> None:
        events.append(("rename", os.path.basename(other)))
        rename(one, other)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("open files have no names here")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    durable.write_folder(tmp_path / "model", filled(MODEL))
    at = events.index(("rename", "model"))
    before = [name for _, name in events[:at]]
    assert {"a.txt", "b.txt", "inner"} <= set(before) and before[-1].startswith(".model.tessella-new-")
    assert before.index("b.txt") < before.index("inner") and events[at + 1] == ("sync", tmp_path.name)
