"""The scripts of examples/: short, on their own, and three steps of each are three steps of the library."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
import torch

from tessella.models.architecture import MAEConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.models.mae import MaskedAutoencoder
from tessella.models.presets import classifier
from tessella.objectives.dino import DINO, DINOConfig
from tessella.objectives.mae import MAE, MaskedConfig
from tessella.objectives.objective import Batch
from tessella.training import Job, TrainConfig, train

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_one_file_of_200_lines(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 200
    inside = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert "tessella" not in inside


def steps_of_the_library(objective: Any, batches: list[Batch], cfg: TrainConfig) -> list[float]:
    def fed(start: int) -> Iterator[Batch]:
        yield from batches[start:]

    return [row["loss"] for row in train(cfg, objective, fed, Job(quiet=True)).history if "loss" in row]


def settings(script: Any, steps: int) -> TrainConfig:
    return TrainConfig(
        steps=steps, batch=6, lr=script.LR, min_lr=0.0, warmup=script.WARMUP, weight_decay=script.DECAY,
        betas=script.BETAS, clip=script.CLIP, precision="fp32", compile="off", device="cpu", log_every=1,
    )  # fmt: skip


def test_mae() -> None:
    script = example("mae")
    encoder = ViTConfig(image_size=script.IMAGE, patch_size=script.PATCH, width=script.WIDTH, depth=script.DEPTH,
                        heads=script.HEADS)  # fmt: skip
    cfg = MAEConfig(encoder=encoder, decoder_width=script.DECODER_WIDTH, decoder_depth=script.DECODER_DEPTH,
                    decoder_heads=script.DECODER_HEADS)  # fmt: skip
    torch.manual_seed(0)
    theirs, ours = script.MAE(), MaskedAutoencoder(cfg)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    g, n = torch.Generator().manual_seed(1), script.GRID**2
    images = [torch.randn(6, 3, script.IMAGE, script.IMAGE, generator=g) for _ in range(3)]
    masks = [torch.rand(6, n, generator=g).argsort(1).argsort(1) < round(script.HIDDEN * n) for _ in range(3)]
    batches = [
        {"ids": [str(i) for i in range(6)], "image": x, "mask": m.view(6, script.GRID, script.GRID)}
        for x, m in zip(images, masks, strict=True)
    ]
    told = steps_of_the_library(MAE(MaskedConfig(), ours), batches, settings(script, 3))
    optimizer = script.optimizer_of(theirs)
    found = [
        script.step_of(theirs, optimizer, x, m, script.rate(i, 3))
        for i, (x, m) in enumerate(zip(images, masks, strict=True))
    ]
    assert found == pytest.approx(told, rel=1e-5) and found[2] != pytest.approx(found[0], rel=1e-4)
    here, there = theirs.state_dict(), ours.state_dict()
    assert all(torch.allclose(here[name], there[name], atol=2e-6) for name in here)
    other = script.step_of(theirs, optimizer, images[0], masks[1], script.LR)
    assert other != pytest.approx(script.step_of(theirs, optimizer, images[0], masks[0], script.LR), rel=1e-4)


def test_dino() -> None:
    script = example("dino")
    backbone = ViTConfig(image_size=script.IMAGE, patch_size=script.PATCH, width=script.WIDTH, depth=script.DEPTH,
                         heads=script.HEADS)  # fmt: skip
    cfg = DINOConfig(width=script.HIDDEN, bottleneck=script.BOTTLENECK, prototypes=script.PROTOTYPES,
                     momentum=script.MOMENTUM, frozen=script.FROZEN)  # fmt: skip
    torch.manual_seed(0)
    theirs, ours = script.DINO(), DINO(cfg, Classifier(classifier(backbone, 0)))
    for branch in ("student", "teacher"):
        ours.get_submodule(branch).load_state_dict(theirs.get_submodule(branch).state_dict(), strict=True)
    g = torch.Generator().manual_seed(1)
    large = [torch.randn(6, script.LARGE, 3, script.IMAGE, script.IMAGE, generator=g) for _ in range(3)]
    local = [torch.randn(6, script.LOCAL, 3, script.SMALL, script.SMALL, generator=g) for _ in range(3)]
    batches = [{"ids": [str(i) for i in range(6)], "image": a, "local": b} for a, b in zip(large, local, strict=True)]
    told = steps_of_the_library(ours, batches, settings(script, 3))
    optimizer = script.optimizer_of(theirs)
    found = [script.step_of(theirs, optimizer, a, b, i, 3) for i, (a, b) in enumerate(zip(large, local, strict=True))]
    assert found == pytest.approx(told, rel=1e-5) and found[2] != pytest.approx(found[0], rel=1e-4)
    here, there = theirs.teacher.state_dict(), ours.teacher.state_dict()
    assert all(torch.allclose(here[name], there[name], atol=2e-6) for name in here)
    assert torch.allclose(theirs.centre, ours.of_views.centre, atol=1e-6) and theirs.centre.abs().max() > 1e-3
    swapped = script.step_of(theirs, optimizer, large[0], local[1], 2, 3)
    assert swapped != pytest.approx(found[2], rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, tmp_path: Path) -> None:
    photos = commands.photos(tmp_path / "photos", each=3, size=40)
    words = [str(photos), "--steps", "2", "--batch", "4", "--out", "w.safetensors"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stdout and (tmp_path / "w.safetensors").is_file()
