"""Probe c, DINO with its teacher under FSDP2: killed, resumed, carried from two processes to one and back."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from ranks import _enter, _free_port, run_ranks
from torch import Tensor

from probes.dino import DINO, DROP, FOLLOW, SAMPLES, Twice, crops, fresh, learn, survivor, victim
from tessella.errors import BadInput, TessellaError
from tessella.objectives.objective import Batch
from tessella.training import state

Told = tuple[Path, list[dict[str, Any]]]


def saved(folder: Path, step: int = 10) -> dict[str, Tensor]:
    return state.load(folder / "state" / f"step-{step:06d}").tensors["objective"]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def only_step_4(source: Path, target: Path) -> None:
    """A run that stopped there."""
    shutil.copytree(source / "state" / "step-000004", target / "state" / "step-000004")


def kill_two(folder: Path) -> None:
    """Two processes train until a state is there, then both get SIGKILL, wherever they are."""
    processes = mp.start_processes(
        _enter, (2, _free_port(), victim, (str(folder),), str(folder.parent)), 2, join=False, start_method="spawn"
    )
    try:
        until = time.monotonic() + 120
        while not (folder / "state" / "step-000004" / state.MARK).exists():
            assert time.monotonic() < until and all(p.is_alive() for p in processes.processes)
            time.sleep(0.05)
        time.sleep(0.7)  # into a step that will be lost
    finally:
        for pid in processes.pids():
            os.kill(pid, signal.SIGKILL)
        for process in processes.processes:
            process.join()
    assert [p.exitcode for p in processes.processes] == [-signal.SIGKILL] * 2


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What two processes did, after two others were killed; and where."""
    place = tmp_path_factory.mktemp("dino")
    learn(fresh(), place / "of one", keep=9)
    only_step_4(place / "of one", place / "from one")
    kill_two(place / "killed")
    assert not (place / "killed" / "state" / "step-000010").exists(), "death came too late"
    return place, run_ranks(2, survivor, str(place), out=place)


def test_death_leaves_no_trace(told: Told) -> None:
    place, _ = told
    assert same(saved(place / "killed"), saved(place / "undisturbed"))
    assert not same(saved(place / "of two"), saved(place / "undisturbed")), "randomness that is lost must be seen"


def test_two_processes_give_the_losses_of_one(told: Told) -> None:
    losses, distances = learn(fresh())
    assert abs(losses[-1] - losses[0]) > 0.1 and len(distances) == 4
    assert max(distances) > 1.1 * min(distances), "an evaluation that sees no change shows nothing"
    for how in ("fsdp", "ddp", "ddp, cut"):
        assert told[1][0][how][0] == pytest.approx(losses, rel=1e-5)
        assert told[1][0][how][1] == pytest.approx(distances, rel=1e-4)
    without = learn(fresh(Uncentred)).losses
    assert without != pytest.approx(losses, rel=1e-5), "a centre that stands still must be seen"


def test_one_goes_on_with_the_state_of_two_and_back(told: Told, tmp_path: Path) -> None:
    place, (found, _) = told
    only_step_4(place / "of two", tmp_path)
    whole, rest = found["fsdp"][0], learn(fresh(), tmp_path).losses
    assert len(rest) == 6 and rest == pytest.approx(whole[4:], rel=1e-5)
    assert found["from one"][0] == pytest.approx(whole[4:], rel=1e-5)


def test_teacher_follows_the_student(told: Told) -> None:
    folder = told[0] / "undisturbed"
    before = saved(folder, 1)
    first = dict(before)
    for step in range(2, 11):
        now = saved(folder, step)
        for name in (n for n in now if n.startswith("teacher.")):
            student = now[name.replace("teacher.", "student.")]
            torch.testing.assert_close(now[name], before[name].lerp(student, FOLLOW), rtol=1e-5, atol=1e-6)
        before = now
    moved = [n for n in first if n.startswith("teacher.") and not torch.equal(first[n], before[n])]
    assert len(moved) > 30 and float((first["centre"] - before["centre"]).abs().max()) > 0.01


def test_no_tensor_is_saved_twice(told: Told, tmp_path: Path) -> None:
    place, (found, _) = told
    objective = fresh(drop_path=DROP)
    live = objective.state_dict(keep_vars=True)
    kept = saved(place / "undisturbed")
    assert kept.keys() == live.keys() and {n.partition(".")[0] for n in kept} == {"student", "teacher", "centre"}
    assert len({t.untyped_storage().data_ptr() for t in live.values()}) == len(kept)
    with pytest.raises(TessellaError, match=r"teacher\.backbone.*shipped.*twice"):
        learn(fresh(Twice), tmp_path)
    assert "shipped" in found["twice"] and not (place / "twice").exists()  # shards do not show that they are one


def test_ranks_agree_on_what_is_not_finite(told: Told) -> None:
    first, second = told[1]
    assert first["spoilt"] == second["spoilt"]
    apart, sharded = first["spoilt"]  # rank 0 has no bad file: it must name the one of rank 1
    assert (
        apart.startswith("Diverged: step 1")
        and "student.backbone.patch_embed" in apart
        and "files: scene/0/18;" in apart
    )
    assert sharded.startswith("Diverged: step 1") and "one of scene/0/12, " in sharded and "and 7 more" in sharded
    assert first["odd"] == first["ddp"][0], "a metric is only logged"


class Uncentred(DINO):
    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        self.centre.zero_()


class Tight(DINO):
    """Runs out of memory once, in the second of two micro-batches."""

    calls = 0

    def forward(self, batch: Batch, progress: float) -> Any:
        self.calls += 1
        if self.calls == 4:
            raise torch.OutOfMemoryError("simulated")
        return super().forward(batch, progress)


class Forgetful(Tight):
    """Forgets too late: after a step that succeeded, not before every attempt."""

    def before_step(self, progress: float) -> None:
        if progress == 0:
            super().before_step(progress)

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        super().before_step(progress)


def test_an_attempt_out_of_memory_leaves_nothing_behind() -> None:
    def centre(kind: type[DINO]) -> tuple[Tensor, list[float]]:
        objective = fresh(kind)
        losses = learn(objective, accumulate=2, steps=3).losses
        return objective.centre, losses

    whole, tight, forgetful = centre(DINO), centre(Tight), centre(Forgetful)
    torch.testing.assert_close(tight[0], whole[0])
    assert tight[1] == pytest.approx(whole[1], rel=1e-5)
    assert not torch.allclose(forgetful[0], whole[0], rtol=1e-3), "what a failed attempt gathered must be seen"


def test_forward_changes_no_state() -> None:
    objective, batch = fresh(drop_path=DROP), next(crops(0))
    before = {n: t.clone() for n, t in objective.state_dict().items()}
    objective.before_step(0.0)
    objective(batch, 0.0)
    assert len(batch["ids"]) == SAMPLES and same(before, dict(objective.state_dict()))


def test_average_of_an_average_is_refused() -> None:
    with pytest.raises(BadInput, match=r"ema is 0\.9, but DINO ships its own teacher"):
        learn(fresh(), ema=0.9)
