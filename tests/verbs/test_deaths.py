"""`tessella train`, killed or asked to stop anywhere, ends with the weights of the run that nobody disturbed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import files_of
from interrupted import (
    Trial,
    again_and_again,
    asked,
    asked_twice,
    at_instants,
    at_operation,
    at_operations,
    inside,
    one_save,
    operations,
    seeded_by_process,
    sound,
    turning_points,
)

from tessella import durable
from tessella.errors import BadInput

MEMORY = "/dev/shm"  # another file system than that of the run


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("trial")).prepare()


@pytest.fixture(scope="module")
def done(trial: Trial) -> list[str]:
    """All operations of the run on its folder."""
    return operations(trial)


def test_killed_at_instants(trial: Trial) -> None:
    assert [same for same, _ in at_instants(trial, 3, seed=1)] == [True] * 3


def test_killed_again_and_again(trial: Trial) -> None:
    assert again_and_again(trial, seed=2, times=3)


def test_the_watch_sees_a_whole_save(done: list[str]) -> None:
    """A kill at every operation proves little where the operations are not seen."""
    seen = {(line.split()[0], line.split("/")[-1]) for line in (done[i - 1] for i in one_save(done))}
    parts = ("objective.safetensors", "optimizer.safetensors", "average.safetensors", "facts.json", "complete.json")
    assert {(what, name) for what in ("open", "write", "close", "fsync") for name in parts} <= seen
    assert ("write", "model.safetensors") in seen and ("fsync", "model.json") in seen
    assert {"mkdir", "rename", "exchange", "unlink", "rmdir"} <= {what for what, _ in seen}


def test_killed_at_operations_of_a_save(trial: Trial, done: list[str]) -> None:
    some = sorted(set(one_save(done)) & set(turning_points(done)))
    assert len(some) > 60
    assert at_operations(trial, some[::14]) == len(some[::14])
    assert at_operations(trial, some[7::14], MEMORY) == len(some[7::14])


def test_one_worker_instead_of_two(trial: Trial, done: list[str]) -> None:
    assert at_operation(trial, one_save(done)[-1], ("--workers", "1"))


def told(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("tessella:")]


@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGTERM, "process"), (signal.SIGTERM, "group"), (signal.SIGINT, "group")]
)
def test_asked_to_stop_it_saves_and_says_how_to_go_on(trial: Trial, number: signal.Signals, whom: Any) -> None:
    """Ctrl-C on a terminal reaches the whole group."""
    said, steps, same = asked(trial, whom, number)
    assert said.code == 128 + number
    begin, run = f"tessella: stopped after step {steps[-1]}; the state is saved, go on with --resume ", "/run"
    assert [(line.startswith(begin), line.endswith(run)) for line in told(said.err)] == [(True, True)], said.err
    assert "Traceback" not in said.err and ("Ctrl-C again" in said.err) == (number == signal.SIGINT)
    assert same and 2 <= steps[-1] < 8


def test_a_second_ctrl_c_leaves_at_once(trial: Trial) -> None:
    said, seconds, same = asked_twice(trial)
    assert said.code == 130 and seconds < 30 and same
    assert "Traceback" not in said.err and told(said.err) == [], said.err


def test_a_disk_full_for_one_save_costs_only_that_save(trial: Trial) -> None:
    def strike(name: str, args: tuple[Any, ...], function: Callable[..., Any]) -> None:
        if name == "write" and "step-000004" in os.readlink(f"/proc/self/fd/{args[0]}"):
            function(args[0], bytes(args[1])[:7])
            raise OSError(errno.ENOSPC, "No space left on device")

    run = trial.folder()
    done = trial.begin(run, inside(run, strike)).wait()
    assert done.code == 0 and "No space left on device" in done.err, done.err
    assert files_of(run) == trial.expected
    assert not list(run.rglob(".*")), "leftovers"


def test_augmentation_by_process_is_seen(trial: Trial) -> None:
    """The mutation: drawn from the process, the views change with every restart, and so do the weights."""
    run = trial.folder()
    assert trial.begin(run, seeded_by_process).wait().code == 0
    assert files_of(run) != trial.expected


def test_a_writer_in_place_is_seen(trial: Trial) -> None:
    """The mutation: without the temporary sibling, a death in the middle of a save leaves half a state."""

    def strike(name: str, args: tuple[Any, ...], function: Callable[..., Any]) -> None:
        if "step-000004/optimizer" in str(args[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    def in_place(target: Path, write: Callable[[Path], None]) -> None:
        Path(target).mkdir(parents=True, exist_ok=True)
        write(Path(target))

    run = trial.folder()

    def before() -> None:
        durable.write_folder = in_place  # type: ignore[assignment]
        inside(run, strike)()

    assert trial.begin(run, before).wait().code == -signal.SIGKILL
    with pytest.raises(BadInput, match=r"step-000004 cannot be loaded"):
        sound(run)


def test_damage_is_seen(trial: Trial) -> None:
    """The mutation: one byte of one state, or of the model, is another."""
    run = trial.folder()
    assert trial.begin(run).wait().code == 0
    assert files_of(run) == trial.expected
    sound(run)
    for name in ("state/step-000008/optimizer.safetensors", "model/model.safetensors"):
        held = (run / name).read_bytes()
        (run / name).write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        assert files_of(run) != trial.expected
        with pytest.raises(Exception, match=r"what was written|sha256|differ|damaged"):
            sound(run)
        (run / name).write_bytes(held)
    shutil.rmtree(run.parent)


@pytest.mark.slow
def test_killed_at_twenty_instants(tmp_path: Path) -> None:
    trial = Trial(tmp_path, steps=40, fresh=True).prepare()
    assert [same for same, _ in at_instants(trial, 20, seed=0)] == [True] * 20


@pytest.mark.slow
@pytest.mark.parametrize("temporary", [None, MEMORY])
def test_killed_at_every_operation(trial: Trial, done: list[str], temporary: str | None) -> None:
    numbers = turning_points(done)
    assert at_operations(trial, numbers, temporary) == len(numbers)
