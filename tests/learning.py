"""A run of any method on generated pictures, small enough for a test: by the union, with nothing to register."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import commands
import numpy as np
import torch
from PIL import Image

from tessella import build
from tessella.build import Run
from tessella.build.run import Method
from tessella.config import override
from tessella.data.source import Splits
from tessella.models.presets import classifier
from tessella.objectives.classify import ClassifyConfig
from tessella.recipes.compact import compact
from tessella.recipes.methods import METHODS
from tessella.training import distributed, train

STEPS = 8
SMALL: dict[str, Any] = {
    "size": 32, "model.backbone.width": 32, "model.backbone.depth": 1, "model.backbone.heads": 2, "train.batch": 8,
    "train.steps": STEPS, "train.warmup": 1, "train.precision": "fp32", "train.device": "cpu", "train.compile": "off",
    "train.log_every": 1, "train.save_every": STEPS // 2, "train.evaluate_every": STEPS, "data.workers": 0,
    "train.optimizer": "adamw", "train.lr": 2e-3,
}  # fmt: skip
NAMES = tuple(METHODS)


def photos(place: Path) -> Path:
    """With light from above, so that they have a way up."""
    folder = commands.photos(place / "photos", each=10, size=32)
    light = np.linspace(50, -50, 32)[:, None, None]
    for path in folder.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).astype(float) + light
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def settled(name: str, pictures: Path, **more: Any) -> tuple[Run, Splits]:
    """As `tessella train PICTURES --method NAME` would have it, but small; of no such name: from labels."""
    start = METHODS[name](compact(str(pictures))) if name in METHODS else compact(str(pictures))
    start = replace(start, model=classifier("vit_n8", 0))
    own = {"objective.teacher": str(teacher(pictures))} if name == "distill" else {}
    own |= (
        {
            "objective.prototypes": 64,
            "objective.width": 32,
            "objective.bottleneck": 16,
            "objective.momentum": 0.9,
            "objective.teacher_temperature": 0.07,
        }
        if name == "dino"
        else {}
    )
    run, given = override(start, [SMALL | own | {key.replace("__", "."): value for key, value in more.items()}])
    splits = build.open_splits(run)
    return build.derive(run, given, splits, start.train).run, splits


def teacher(pictures: Path) -> Path:
    """Somebody who knows these classes, and has learned nothing yet."""
    folder = pictures.parent / "teacher"
    if not folder.is_dir():
        run, splits = settled("labels", pictures)
        built = build.objects(run, splits, folder)
        assert built.job.ship is not None
        built.job.ship(dict(built.objective.model.state_dict()), {}, 0)
    return folder


def learn(name: str, pictures: Path, folder: Path, **more: Any) -> list[float]:
    """The loss of each step; goes on with what lies in `folder`."""
    run, splits = settled(name, pictures, **more)
    folder.mkdir(parents=True, exist_ok=True)
    built = build.objects(run, splits, folder)
    job = replace(built.job, quiet=True)

    def fed(step: int) -> Iterator[Any]:
        return built.batches(step)

    rows = train(run.train, built.objective, fed, job).history
    return [row["loss"] for row in rows if "loss" in row]


def stopped_halfway(whole: Path, place: Path) -> Path:
    """A run folder with the state of the half, as a death leaves it."""
    state = f"step-{STEPS // 2:06d}"
    shutil.copytree(whole / "state" / state, place / "state" / state)
    return place


def known() -> set[type]:
    """Every kind of objective that a run can have."""
    return set(get_args(Method)) - {ClassifyConfig}


def of_a_rank(names: list[str], pictures: str, folder: str) -> dict[str, list[float]]:
    """What each of two processes does: all methods, because starting one takes longer than learning."""
    with distributed.processes(torch.device("cpu"), 60.0):
        return {name: learn(name, Path(pictures), Path(folder) / name) for name in names}
