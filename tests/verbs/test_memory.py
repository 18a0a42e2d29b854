"""What a run would take is said before it starts, and what it may take is planned: by real steps in own processes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import pytest
import torch
from commands import TINY, World, words

import tessella as ts
from tessella.build import Run
from tessella.data.source import DataConfig
from tessella.errors import BadInput
from tessella.training import TrainConfig, memory
from tessella.training.plan import Measured, following
from tessella.verbs import dry_run as verb
from tessella.verbs import fit, trial
from tessella.verbs.dry_run import dry_run, duration

QUICK: dict[str, Any] = TINY | {"data.workers": 1}


def fresh(*line: str, place: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a Python of its own, whose memory is limited by the system."""

    def before() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, "-m", "tessella", *line]
    root = str(Path(ts.__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, preexec_fn=before)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]


# -- predicted -----------------------------------------------------------------------------------------------------


def test_a_dry_run_predicts_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    """The same command with and without --dry-run: what was said of memory is what is seen."""
    line = ["train", str(world.photos), *words(QUICK), "--train.log_every", "1"]
    done = fresh(*line, "--dry-run", "--json", place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir()), "something was left behind"
    told = json.loads(done.stdout)
    assert told["data"]["training"] == {
        "pictures": 33, "classes": 3, "fewest": {"class": "circle", "pictures": 11},
        "most": {"class": "circle", "pictures": 11},
    }  # fmt: skip
    assert told["data"]["validation"]["pictures"] == 9
    assert told["chosen"]["recipe"] == {"value": "compact", "why": "the pictures have about 28 px"}
    assert told["settings"]["train.steps"] == 8
    predicted = told["prediction"]
    assert predicted["seconds"] == pytest.approx(sum(predicted["parts"].values()))
    assert predicted["parts"].keys() == {"start", "steps", "evaluations", "saves"}
    assert min(predicted["parts"].values()) > 0
    real = fresh(*line, place=tmp_path)
    assert real.returncode == 0, real.stderr
    seen = rows(tmp_path / "runs" / "photos-1")
    peak = max(row["memory"] for row in seen if "memory" in row)
    assert 0.85 < predicted["peak_bytes"] / peak < 1.15
    assert "memory  " in real.stdout and " MB at most" in real.stdout


def test_a_dry_run_is_told_to_people(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    found = trial.Figures(0.5, 2.0, 0.5, (0.1, 0.2, 0.3), 4.0, 1.5, 900_000_000, 30_000_000, 21)
    monkeypatch.setattr(verb, "rehearse", lambda run: found)
    settings = QUICK | {"train.steps": 1000, "train.evaluate_every": 300, "train.save_every": 400, "train.batch": 8}
    told = dry_run(world.photos, settings=settings)
    assert told.evaluations == 4
    with_best = dry_run(world.photos, settings=settings | {"train.best": "top1"})
    assert with_best.evaluations == 5, "at the end what ships is looked at once more"
    assert told.parts["steps"] == pytest.approx(200) and told.parts["evaluations"] == pytest.approx(16)
    assert told.parts["saves"] == pytest.approx(4.5)
    told.tell()
    said = capsys.readouterr().out
    for words_ in ("training", "validation", "11 circle", "not scanned", "recipe = compact", "900 MB at most"):
        assert words_ in said
    assert "3 min" in said and "nothing was written" in said
    assert [duration(s) for s in (5, 200, 7500)] == ["5 s", "3 min 20 s", "2 h 5 min"]


def test_a_dry_run_says_what_becomes_of_weights(world: World, monkeypatch: Any) -> None:
    found = trial.Figures(0.5, 2.0, 0.5, (0.1,), 4.0, 1.5, 900_000_000, 0, 21)
    monkeypatch.setattr(verb, "rehearse", lambda run: found)
    told = dry_run(world.photos, settings={"weights": str(world.run), "train.device": "cpu"})
    assert any("head kept: 3 outputs" in note for note in told.notes)
    assert not any("tensors" in note for note in dry_run(world.photos, settings=QUICK).notes)


def test_a_dry_run_says_why_a_run_cannot_start(world: World, tmp_path: Path) -> None:
    """A fault that only a real step shows."""
    for file in (pictures := commands.photos(tmp_path / "bad")).rglob("*.png"):
        if file.name != "00.png":
            file.write_bytes(b"no picture")
    done = commands.run("train", pictures, *words(QUICK), "--dry-run")
    assert done.code == 2 and done.err.splitlines()[-1].startswith("tessella: ") and "Traceback" not in done.err


# -- planned -------------------------------------------------------------------------------------------------------


def sweep(each: float, twice: float) -> Any:
    """A machine in which a sample takes so many bytes, and less with blocks computed twice."""

    def measured(run: Run, usable: int, micros: Sequence[int] = ()) -> list[Measured]:
        bytes_each = twice if run.model.backbone.remat else each
        bytes_each *= 0.1 if run.train.freeze == "backbone" else 1.0
        found: list[Measured] = []
        left = iter(micros)
        while (n := next(left, None) if micros else following(found, usable, run.train.batch)) is not None:
            found.append(Measured(n, int(700e6 + n * bytes_each)))
        return found

    return measured


def settled(world: World, monkeypatch: Any, each: float, twice: float, **settings: Any) -> Any:
    from tessella.verbs.train import Asked, settle

    monkeypatch.setattr(trial, "sweep", sweep(each, twice))
    asked = QUICK | {"train.batch": 64} | settings
    return settle(Asked(world.photos, None, None, (), asked)).choices


def test_the_global_batch_stays(world: World, monkeypatch: Any) -> None:
    found = settled(world, monkeypatch, 20e6, 10e6, memory="1.5GB")
    assert found.run.train.batch == 64 and found.run.train.accumulate == 2 and not found.run.model.backbone.remat
    value, why = found.reasons["train.accumulate"]
    assert value == 2 and "32 pictures at once take 1.34 GB of 1.50 GB asked for, measured" in why


def test_blocks_are_computed_twice_where_that_helps(world: World, monkeypatch: Any) -> None:
    found = settled(world, monkeypatch, 150e6, 20e6, memory="1.2GB")
    assert found.run.model.backbone.remat and found.run.train.accumulate == 4
    assert "computed twice" in found.reasons["model.backbone.remat"][1]
    given = {"memory": "1.2GB", "model.backbone.remat": False}
    found = settled(world, monkeypatch, 150e6, 20e6, **given)
    assert not found.run.model.backbone.remat and found.run.train.accumulate == 32, "what was given is never touched"


def test_at_last_blocks_stop_learning_and_that_is_said(world: World, monkeypatch: Any) -> None:
    found = settled(world, monkeypatch, 300e6, 250e6, memory="900MB")
    assert found.run.train.freeze == "backbone" and found.run.model.backbone.remat
    assert "last resort" in found.reasons["train.freeze"][1]
    with pytest.raises(BadInput, match="does not fit"):
        settled(world, monkeypatch, 300e6, 250e6, memory="900MB", **{"train.freeze": 0})


def test_an_accumulation_that_was_given_is_only_checked(world: World, monkeypatch: Any) -> None:
    found = settled(world, monkeypatch, 10e6, 5e6, memory="2GB", **{"train.accumulate": 4})
    assert found.run.train.accumulate == 4 and "train.accumulate" not in found.reasons


def test_what_does_not_fit_is_one_line_that_says_what_would(world: World, monkeypatch: Any) -> None:
    with pytest.raises(BadInput, match=r"does not fit into 700 MB \(asked for\).*it needs --memory 0\.8GB") as caught:
        settled(world, monkeypatch, 150e6, 40e6, memory="700MB")
    assert "\n" not in str(caught.value)
    assert settled(world, monkeypatch, 150e6, 40e6, memory="850MB").run.train.accumulate == 64
    assert settled(world, monkeypatch, 150e6, 40e6, memory="800MB").run.train.freeze == "backbone"


@pytest.mark.parametrize("how", ["option", "file", "file then number"])
def test_batch_auto(how: str, world: World, monkeypatch: Any, tmp_path: Path) -> None:
    """The recipe's batch, cut to the memory there; a number that comes later wins."""
    from tessella.verbs.train import Asked, settle

    monkeypatch.setattr(trial, "sweep", sweep(20e6, 10e6))
    monkeypatch.setattr(memory, "available", lambda device: memory.Limit(800_000_000, "free on this machine"))
    (tmp_path / "my.toml").write_text('[train]\nbatch = "auto"\nclip = 0.5\n')
    more: dict[str, Any] = {"option": {"train.batch": "auto"}, "file": {}, "file then number": {"train.batch": 16}}[how]
    settings = {k: v for k, v in QUICK.items() if k != "train.batch"} | more
    files = () if how == "option" else (tmp_path / "my.toml",)
    found = settle(Asked(world.photos, None, None, files, settings))
    t = found.choices.run.train
    if how == "file then number":
        assert (t.batch, t.accumulate, found.choices.run.memory) == (16, 1, "")
    else:
        assert (t.batch, t.accumulate, found.choices.run.memory) == (8, 8, "auto"), "20 MB are free: one at a time"
        assert "free on this machine" in found.choices.reasons["train.accumulate"][1]
    assert how == "option" or t.clip == 0.5


# -- and held to -----------------------------------------------------------------------------------------------------

LARGE: dict[str, Any] = {"train.batch": 512, "train.steps": 2, "train.log_every": 1, "train.device": "cpu", "size": 28}
LARGE |= {"train.precision": "fp32", "data.workers": 1}


def planned(world: World, place: Path, size: int, *more: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """(the run in a process that the system limits to `size`, the most that it held)"""
    limits = ["--memory", f"{size}MB", "--name", "run"]
    line = ["train", str(world.photos), "--model", "vit_n4", *words(LARGE), *limits, *more]
    done = fresh(*line, place=place, limit=size * 10**6)
    assert done.returncode == 0, done.stderr
    return done, max(row["memory"] for row in rows(place / "runs" / "run") if "memory" in row)


def test_a_plan_starts_the_first_time(world: World, tmp_path: Path) -> None:
    size = 1150
    line = ["train", str(world.photos), "--model", "vit_n4", *words(LARGE)]
    without = fresh(*line, place=tmp_path, limit=size * 10**6)
    assert "out of memory" in without.stderr, "the limit does not bite: the test would prove nothing"
    done, peak = planned(world, tmp_path, size)
    assert "out of memory" not in done.stderr and peak < size * 10**6
    told = json.loads((tmp_path / "runs" / "run" / "run.json").read_text())
    assert told["run"]["train"]["accumulate"] > 1 and told["run"]["train"]["batch"] == 512
    assert "pictures at once take" in told["origins"]["train.accumulate"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "side", "size"),
    [("vit_n4", 28, s) for s in (1000, 1100, 1300, 1600)]
    + [("vit_n8", 64, s) for s in (1000, 1200, 1500)]
    + [("vit_t16", 96, s) for s in (1100, 1300, 1600)],
)
def test_ten_of_ten_plans_start_the_first_time(model: str, side: int, size: int, world: World, tmp_path: Path) -> None:
    done, peak = planned(world, tmp_path, size, "--model", model, "--size", str(side))
    assert "out of memory" not in done.stderr and peak < size * 10**6


def test_the_least_of_two_limits_counts(world: World, monkeypatch: Any) -> None:
    for free, said in ((5 * 10**9, "free on this machine"), (9 * 10**9, "asked for")):
        monkeypatch.setattr(memory, "available", lambda device, free=free: memory.Limit(free, "free on this machine"))
        limit = fit._limit(Run(memory="8GB", data=DataConfig(path=str(world.photos)), train=TrainConfig(device="cpu")))
        assert limit == memory.Limit(min(free, 8 * 10**9), said)


def test_processes_of_one_machine_share_what_was_asked_for(world: World, monkeypatch: Any) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(memory, "available", lambda device: memory.Limit(10**12, "free on this machine"))
    cpu = Run(memory="8GB", data=DataConfig(path=str(world.photos)), train=TrainConfig(device="cpu"))
    assert fit._limit(cpu) == memory.Limit(2 * 10**9, "asked for, for each of 4 processes")


@pytest.mark.parametrize("lacking", [True, False])
def test_a_single_picture_without_room_is_measured_as_such(lacking: bool) -> None:
    """Not an end: the next way may have room. Anything else that stops a step is one."""
    error: Exception = torch.OutOfMemoryError("no room") if lacking else ValueError("no picture")

    class Short:
        trainer = SimpleNamespace(parts=2)

        def step(self, progress: float, piece: Any) -> float:
            raise BadInput("said in one line") from error

    if lacking:
        assert trial._fits(Short(), 0.0, {}) is False  # type: ignore[arg-type]
        return
    with pytest.raises(BadInput, match="one line"):
        trial._fits(Short(), 0.0, {})  # type: ignore[arg-type]
