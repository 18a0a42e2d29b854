"""A pyramid: a backbone of two stages, of which trainer and package know nothing but that it is a `Tower`.

It trains through the trainer as it is, into a dense head; layer decay and compiling by block work on it.
"""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn

from probes.pyramid import Pyramid, Segment, Segmenter, accuracy
from tessella import parallel
from tessella.card import Preprocess
from tessella.data.origins.scenes import ScenesConfig, scene_batch, scene_batches
from tessella.data.pixels.finish import Finish
from tessella.errors import BadInput
from tessella.models.classifier import Classifier, ClassifierConfig
from tessella.models.vit import ViTConfig
from tessella.objectives.classify import Classify, ClassifyConfig
from tessella.objectives.objective import Objective, Tower
from tessella.training import Job, TrainConfig, train
from tessella.training.distributed import processes
from tessella.training.optim import make_optimizer, placement

SCENES = ScenesConfig(size=48, objects=(1, 3), background="plain", label="colour")
FINISH = Finish(Preprocess(size=(48, 48), mean=(0.5,) * 3, std=(0.25,) * 3))
CFG: dict[str, Any] = {
    "steps": 4,
    "batch": 4,
    "warmup": 2,
    "lr": 1e-3,
    "precision": "fp32",
    "compile": "off",
    "log_every": 1,
    "device": "cpu",
}


def pyramid(depths: tuple[int, int] = (2, 2)) -> Segment:
    torch.manual_seed(0)
    return Segment(Segmenter(Pyramid(depths=depths), 1 + len(SCENES.classes)))


def vit(drop_path: float = 0.0) -> Classify:
    torch.manual_seed(0)
    backbone = ViTConfig(image_size=48, patch_size=12, width=16, depth=12, heads=2, mlp_ratio=2, drop_path=drop_path)
    return Classify(ClassifyConfig(), Classifier(ClassifierConfig(backbone=backbone, classes=len(SCENES.classes))))


def run(objective: Objective, evaluate: bool = False, **more: Any) -> list[float]:
    """The loss, step by step."""

    def look(infer: Any) -> dict[str, float]:
        return {"mean": infer(scene_batch(SCENES, 9, range(4))).mean().item()}

    batches = scene_batches(SCENES, 4, rank=parallel.rank(), ranks=parallel.world())
    job = Job(finish=FINISH, evaluate=look if evaluate else None, quiet=True)
    done = train(TrainConfig(**CFG | {"evaluate_every": 2} | more), objective, batches, job)
    return [row["loss"] for row in done.history if "loss" in row]


def close(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-5) for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------------------------ the contracts


def test_returns_maps_of_two_sizes() -> None:
    tower = Pyramid()
    assert isinstance(tower, Tower)
    tokens = tower(torch.zeros(2, 3, 48, 48), layers=(3, 1))
    assert [tuple(m.shape) for m in tokens.layers] == [(2, 64, 6, 6), (2, 32, 12, 12)]
    assert tokens.map().shape == (2, 64, 6, 6) and tokens.cls is None and tokens.registers.shape == (2, 0, 64)


@pytest.mark.parametrize("asked", [{"keep": torch.zeros(1, 4, dtype=torch.int64)}, {"hide": (None, None)}])
def test_what_it_cannot_do_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(asked))):
        Pyramid()(torch.zeros(1, 3, 48, 48), **asked)


def test_learns_the_pixels() -> None:
    objective = pyramid()
    held = scene_batch(SCENES, 99, range(32))
    look = functools.partial(accuracy, batch=FINISH(held))
    before = look(lambda batch: objective.model(batch["image"]))
    cfg = TrainConfig(**CFG | {"steps": 80, "batch": 16, "warmup": 10, "lr": 3e-3, "weight_decay": 0.0})
    job = Job(finish=FINISH, evaluate=lambda infer: look(lambda batch: infer(held)), quiet=True)
    after = train(cfg, objective, scene_batches(SCENES, 16), job).metrics
    assert after["all"] > after["background alone"] + 0.05 > before["all"] + 0.05
    assert after["objects"] > before["objects"] + 0.3


def in_ranks() -> dict[str, Any]:
    with processes(torch.device("cpu")):
        return {how: run(pyramid(), shard=how) for how in ("ddp", "fsdp")}


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    alone = run(pyramid())
    for told in run_ranks(2, in_ranks, out=tmp_path):
        assert close(alone, told["ddp"]) and close(alone, told["fsdp"])


# -------------------------------------------------------------------------------------------------------- layer decay

DEPTHS = {
    "patches.": 0,
    "places": 0,
    "fine.0.": 1,
    "fine.1.": 2,
    "merge.": 3,
    "coarse.0.": 3,
    "coarse.1.": 4,
    "norm.": 5,
}  # written down by hand; the head, outside the tower, moves as the last depth does
TOWER = "segmenter.backbone."


def scale_of(name: str, decay: float) -> float:
    if not name.startswith(TOWER):
        return 1.0
    (depth,) = (depth for start, depth in DEPTHS.items() if name.removeprefix(TOWER).startswith(start))
    return decay ** (5 - depth)


def decays_by_depth(objective: Segment) -> bool:
    """In the table of the optimiser, and in what its first step does: AdamW moves each weight by its rate."""
    placed = placement(objective, 0.5)
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    run(objective, steps=1, warmup=0, layer_decay=0.5, weight_decay=0.0, clip=None, lr=1e-2)
    moved = {name: (p.detach() - before[name]).abs().max().item() for name, p in objective.named_parameters()}
    return placed.keys() == moved.keys() and all(
        placed[name].scale == scale_of(name, 0.5) and math.isclose(moved[name], 1e-2 * placed[name].scale, rel_tol=0.02)
        for name in moved
    )


def test_layer_decay_follows_depth() -> None:
    assert decays_by_depth(pyramid())


@pytest.mark.parametrize("depth", [0, 3])
def test_a_depth_that_is_constant_is_seen(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pyramid, "depth_of", lambda self, name: depth)
    assert not decays_by_depth(pyramid())


def test_no_name_is_parsed() -> None:
    """The same tower in a place whose name lies about its depth."""

    class Misnamed(Segment):
        def __init__(self, segmenter: Segmenter) -> None:
            super().__init__(segmenter)
            del self.segmenter
            self.blocks = nn.ModuleDict({"7": segmenter})

    honest = pyramid()
    named = placement(honest, 0.5)
    misnamed = placement(Misnamed(honest.segmenter), 0.5)
    assert list(misnamed.values()) == list(named.values()) and all(".7." in name for name in misnamed)


def test_tables_do_not_decay() -> None:
    objective = pyramid()
    spared = {name for name, place in placement(objective, 1.0).items() if not place.decays}
    assert spared == {n for n, p in objective.named_parameters() if p.ndim == 1} | {f"{TOWER}places"}
    assert objective.segmenter.backbone.places.ndim > 1, "the probe has no teeth"
    groups = make_optimizer(objective, TrainConfig(layer_decay=0.5)).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(objective.parameters()))


# -------------------------------------------------------------------------------------------------- compiling by block


class Counting:
    """A compiler that counts the graphs it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    counting = Counting()
    compile_with(counting, monkeypatch)
    yield counting
    torch._dynamo.reset()


def compile_with(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend=backend))


def test_twelve_blocks_are_two_graphs(compiler: Counting) -> None:
    """One to train and one to evaluate, with another rate of stochastic depth in every block."""
    objective = vit(drop_path=0.3)
    units = objective.model.backbone.units()
    assert len(units) == 12 and len({float(unit.drop_path1.rate) for unit in units}) == 12
    run(objective, compile="on", steps=2)
    assert compiler.graphs == 1
    run(objective, compile="on", steps=2, evaluate=True)
    assert compiler.graphs == 2


class FloatDropPath(nn.Module):
    """The mutation: the rate as a Python number."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BTD: Tensor) -> Tensor:
        stays = 1 - self.rate
        return x_BTD * (torch.rand(x_BTD.shape[0], 1, 1) < stays) / stays if self.training else x_BTD


def test_rates_that_are_compiled_in_are_seen(compiler: Counting) -> None:
    objective = vit(drop_path=0.3)
    for unit in objective.model.backbone.units():
        rate = float(unit.drop_path1.rate)
        unit.drop_path1, unit.drop_path2 = FloatDropPath(rate), FloatDropPath(rate)
    run(objective, compile="on", steps=2)
    assert compiler.graphs > 1
    run(objective, compile="on", steps=2, evaluate=True)
    assert compiler.graphs > 2


def test_a_pyramid_is_two_graphs_a_stage(compiler: Counting) -> None:
    """Windows as they are, and shifted ones; ten blocks, so that a graph for each would be seen."""
    run(pyramid(depths=(6, 4)), compile="on", steps=2)
    assert 1 <= compiler.graphs <= 4


def test_many_networks_in_one_process_are_all_compiled(compiler: Counting) -> None:
    """All blocks of a class share one store of graphs; what does not fit into it would run uncompiled."""
    with torch._dynamo.config.patch(recompile_limit=2):
        for width in (16, 32):
            before = compiler.graphs
            run(Segment(Segmenter(Pyramid(width), 1 + len(SCENES.classes))), compile="on", steps=1)
            assert compiler.graphs > before + 2, width


@pytest.mark.parametrize("make", [vit, pyramid])
def test_compiled_losses_are_the_eager_ones(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = run(make())
    compile_with("aot_eager", monkeypatch)
    compiled = run(make(), compile="on")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert close(eager, compiled)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("make", [vit, pyramid])
def test_compiled_to_machine_code_losses_are_the_eager_ones(make: Any) -> None:
    eager = run(make())
    torch._dynamo.reset()
    assert close(eager, run(make(), compile="on"))
