"""Distillation through the real trainer: however a batch is shared out; and whether a teacher teaches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from taught import GIVEN, KINDS, batch, mixed, objective
from torch import Tensor

from tessella import parallel
from tessella.card import Preprocess, alone
from tessella.data.origins.scenes import ScenesConfig, scene_batch
from tessella.data.pixels.finish import Finish
from tessella.models.architecture import ClassifierConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.objectives.classify import Classify, ClassifyConfig
from tessella.objectives.distill import Distill, DistillConfig, Teacher, matched
from tessella.training import Job, TrainConfig, distributed, train

CFG: dict[str, Any] = {"steps": 6, "batch": 6, "warmup": 1, "lr": 3e-3, "precision": "fp32", "log_every": 1}
CFG |= {"device": "cpu", "evaluate_every": 3}


def stream(start: int) -> Iterator[dict[str, Any]]:
    """Always the same six pictures, of which each rank has its part."""
    each, first = 6 // parallel.world(), 6 // parallel.world() * parallel.rank()
    while True:
        yield {k: v[first : first + each] for k, v in mixed().items()}


def learn(kind: str, share: float = 0.3, **more: Any) -> list[float]:
    o = objective(kind, distill=True, pool="attention", share=share)
    before = {n: t.clone() for n, t in o.teacher.network.state_dict().items()}

    def evaluate(infer: Callable[[dict[str, Any]], Tensor]) -> dict[str, float]:
        return {"sum": float(infer(batch()).float().sum())}

    done = train(TrainConfig(**CFG | more), o, stream, Job(quiet=True, evaluate=evaluate))
    after = o.teacher.network.state_dict()
    assert all(torch.equal(t, after[n]) for n, t in before.items()), "a teacher never changes"
    names = ("label", "teacher", "accuracy", "agreement", "loss", "val/sum")
    return [float(row[name]) for row in done.history for name in names if name in row]


def close(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-4, abs_tol=1e-5) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_accumulation_is_the_same_mean(kind: str, share: float) -> None:
    whole = learn(kind, share)
    assert not close(whole, learn(kind, share, lr=1e-3)), "the comparison can fail"
    assert close(whole, learn(kind, share, accumulate=3)) and close(whole, learn(kind, share, accumulate=4))


def test_accumulation_without_counts_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learn("soft")
    monkeypatch.setattr(Distill, "counts", lambda self, batch: {})
    assert not close(whole, learn("soft", accumulate=4))


SPREAD = [("soft", 0.3, "ddp"), ("soft", 0.3, "fsdp"), ("hard", 1.0, "fsdp"), ("both", 1.0, "ddp")]
SPREAD += [("both", 0.3, "fsdp"), ("both", 1.0, "fsdp"), ("patches", 1.0, "fsdp")]


def in_ranks() -> list[list[float]]:
    with distributed.processes(torch.device("cpu"), 60.0):
        return [learn(kind, share, shard=shard) for kind, share, shard in SPREAD]


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Sharded too: patches and pooled vectors come out of one pass, and their gradients find the weights in place."""
    for here in run_ranks(2, in_ranks, out=tmp_path):
        for (kind, share, _), found in zip(SPREAD, here, strict=True):
            assert close(found, learn(kind, share)), kind


# -- does it teach? ---------------------------------------------------------------------------------------------------

SCENES = ScenesConfig(size=32, objects=(1, 1), radius=(0.25, 0.4), background="plain", label="colour")
LARGE = Preprocess(size=(40, 40), mean=(0.4, 0.4, 0.4), std=(0.25, 0.25, 0.25))
SMALL = replace(GIVEN, size=(32, 32))
COLOURS = SCENES.classes


@cache
def scenes(seed: int, preprocess: Preprocess) -> dict[str, Any]:
    b = scene_batch(replace(SCENES, size=preprocess.size[0]), seed, range(256))
    return {"ids": b["ids"], "image": Finish(preprocess).pixels(b["image"]), "label": b["label"]}


def taught_by(o: Classify | Distill, preprocess: Preprocess, steps: int) -> float:
    """Accuracy of the model on pictures that nobody has trained on."""

    def batches(start: int) -> Iterator[dict[str, Any]]:
        labels = isinstance(o, Classify)
        while True:
            at = torch.randint(256, (32,), generator=torch.Generator().manual_seed(start)).tolist()
            seen = {k: v for k, v in scenes(0, preprocess).items() if labels or k != "label"}
            yield {k: v[at] if isinstance(v, Tensor) else [v[i] for i in at] for k, v in seen.items()}
            start += 1

    cfg = TrainConfig(steps=steps, batch=32, warmup=5, lr=3e-3, precision="fp32", device="cpu")
    train(cfg, o, batches, Job(quiet=True))
    unseen = scenes(1, preprocess)
    with torch.no_grad():
        return float((o.model.eval()(unseen["image"]).argmax(1) == unseen["label"]).float().mean())


@cache
def master() -> tuple[Classifier, float]:
    torch.manual_seed(0)
    backbone = ViTConfig(image_size=40, patch_size=8, width=32, depth=2, heads=2)
    big = Classifier(ClassifierConfig(backbone=backbone, classes=len(COLOURS)))
    return big, taught_by(Classify(ClassifyConfig(), big), LARGE, 120)


@pytest.mark.parametrize("order", [COLOURS, COLOURS[1:] + COLOURS[:1]], ids=["by name", "another order"])
def test_a_student_learns_what_it_is_never_told(order: tuple[str, ...]) -> None:
    """Of a teacher's probabilities alone, on pictures of another size and normalisation. The mutation: a teacher whose
    classes are taken in another order teaches nonsense."""
    big, known = master()
    assert known > 0.9
    torch.manual_seed(1)
    backbone = ViTConfig(image_size=32, patch_size=8, width=16, depth=1, heads=2)
    student = Classifier(ClassifierConfig(backbone=backbone, classes=len(COLOURS)))
    t = Teacher(network=big, wants=LARGE, given=SMALL, rows=matched(COLOURS, order))
    o = Distill(DistillConfig(kind="soft", share=1.0), student, t, (alone(COLOURS),))
    right = taught_by(o, SMALL, 150)
    assert right > 0.8 if order == COLOURS else right < 1 / 7, right
