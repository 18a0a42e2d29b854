"""`torchrun -m tessella train`: two processes do what one does, in one run folder, and one of them speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from commands import TINY, World, words

from tessella.runtime.load import load

SETTINGS = TINY | {"train.log_every": 1, "train.ema": 0.9, "train.accumulate": 2, "train.evaluate_every": 4}
SETTINGS |= {"train.save_every": 4, "data.workers": 1, "model.backbone.drop_path": 0.0}


def torchrun(world: World, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tessella"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "train", *more], cwd=world.place, env=environment, capture_output=True, text=True, timeout=300
    )


def losses(run: Path) -> dict[str, list[float]]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {key: [row[key] for row in rows if key in row] for key in ("loss", "val/loss", "val/top1", "norm")}


def difference(a: dict[str, list[float]], b: dict[str, list[float]]) -> float:
    """The largest, relative to the figure; infinite where the one has rows that the other has not."""
    if any(len(a[key]) != len(b[key]) for key in a):
        return float("inf")
    return max(float(np.max(np.abs(np.array(a[key]) / np.array(b[key]) - 1))) for key in a)


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = commands.run("train", "photos", *words(SETTINGS), "--folder", folder, place=world.place)
    assert done.code == 0, done.err
    return folder / "photos-1"


@pytest.mark.parametrize("shard", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_do_what_one_does(shard: str, alone: Path, world: World, tmp_path: Path) -> None:
    done = torchrun(world, "photos", *words(SETTINGS | {"train.shard": shard, "folder": tmp_path}))
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["photos-1"]
    together = tmp_path / "photos-1"
    expected, found = losses(alone), losses(together)
    assert len(expected["loss"]) == 8 and len(expected["val/loss"]) == 2
    assert difference(expected, found) < 1e-5
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "top-1", "memory", "model", "log", "state", "report", "next",
    ]  # fmt: skip
    assert done.stderr.count("33 training and 9 held-out") == 1 and done.stderr.count("step 8/8 · loss") <= 1
    assert done.stderr.count("step 8/8 · val") == 1
    one, two = load(alone), load(together)
    pictures = sorted(world.photos.rglob("*.png"))
    assert np.allclose(one.logits(pictures), two.logits(pictures), atol=1e-5)


def test_another_batch_is_seen(alone: Path, world: World, tmp_path: Path) -> None:
    """The mutation: the same run with another seed is farther away than the bar allows."""
    other = SETTINGS | {"train.seed": 1, "folder": tmp_path}
    assert commands.run("train", "photos", *words(other), place=world.place).code == 0
    assert difference(losses(alone), losses(tmp_path / "photos-1")) > 1e-3


@pytest.mark.slow
def test_bad_input_ends_both(world: World) -> None:
    done = torchrun(world, "photos", *words(SETTINGS | {"train.batch": 7}))
    assert done.returncode != 0
    assert "train.batch 7 cannot be shared by 2 processes" in done.stderr
