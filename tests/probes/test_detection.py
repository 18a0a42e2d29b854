"""Ragged detection: targets that differ in number go through the trainer as it is, however the batch is cut.

What is minimised is the mean over all boxes of the global batch; the trainer learns from `counts` how many there are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor

from probes import detection
from probes.detection import GIOU, L1, NOTHING, Detect, Detector, found
from tessella import parallel
from tessella.card import Preprocess
from tessella.data.origins.scenes import ScenesConfig, scene_batch, scene_batches
from tessella.data.pixels.finish import Finish
from tessella.errors import BadInput, Diverged
from tessella.objectives.objective import Batch, Losses, Metrics
from tessella.training import Job, TrainConfig, train
from tessella.training.batch import cut
from tessella.training.distributed import processes

SCENES = ScenesConfig(size=48, objects=(1, 3), background="plain", label="colour")
FINISH = Finish(Preprocess(size=(48, 48), mean=(0.5,) * 3, std=(0.25,) * 3))
CFG: dict[str, Any] = {
    "steps": 4,
    "batch": 8,
    "warmup": 2,
    "lr": 1e-3,
    "precision": "fp32",
    "log_every": 1,
    "device": "cpu",
}
KEYS = {f"detector.{name}" for name in ("backbone.blocks.0.attn.qkv.bias", "backbone.blocks.1.attn.qkv.bias")}
KEYS |= {"detector.cross.self_attn.in_proj_bias", "detector.cross.multihead_attn.in_proj_bias"}
# A bias of keys changes no softmax: its gradient is rounding alone, and AdamW makes full steps of it.
Curve = dict[str, list[float]]  # what is logged: its value, step by step
Batches = Callable[[int], Iterator[Batch]]


Done = tuple[Curve, dict[str, Tensor]]


def run(objective: Detect | None = None, batches: Batches | None = None, **more: Any) -> Done:
    """The logged figures of a short training from the same start as all others, and the final weights."""
    objective = objective or make()
    batches = batches or scene_batches(SCENES, 8, rank=parallel.rank(), ranks=parallel.world())
    done = train(TrainConfig(**CFG | more), objective, batches, Job(finish=FINISH, quiet=True))
    told = ("loss", "class", "l1", "giou", "iou")
    return {name: [row[name] for row in done.history] for name in told}, dict(objective.state_dict())


def make(kind: type[Detect] = Detect, **more: Any) -> Any:
    torch.manual_seed(0)
    return kind(Detector(len(SCENES.classes)), **more)


@pytest.fixture(scope="module")
def honest() -> Done:
    """The reference: one process, the batch in one piece."""
    return run()


def close(a: Curve, b: Curve, tolerance: float = 1e-5) -> bool:
    pairs = [pair for name in a for pair in zip(a[name], b[name], strict=True)]
    return all(math.isclose(x, y, rel_tol=tolerance, abs_tol=tolerance / 10) for x, y in pairs)


# ------------------------------------------------------------------------------------------------------- it is learned


def test_learns_to_find() -> None:
    objective = make()
    held = scene_batch(SCENES, 99, range(48))

    def look(infer: Any) -> dict[str, float]:
        return found(infer(held), held)

    before = look(lambda batch: objective.model(FINISH(batch)["image"]))
    job = Job(finish=FINISH, evaluate=look, quiet=True)
    cfg = TrainConfig(**CFG | {"steps": 120, "batch": 16, "warmup": 10, "lr": 2e-3, "weight_decay": 0.0})
    done = train(cfg, objective, scene_batches(SCENES, 16), job)
    losses = [row["loss"] for row in done.history if "loss" in row]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert done.metrics["iou"] > before["iou"] + 0.06
    assert done.metrics["right"] > max(before["right"], 2 / len(SCENES.classes))


def test_half_precision_is_no_trouble_to_the_matching() -> None:
    curve, _ = run(precision="bf16", steps=3)
    assert all(math.isfinite(x) for x in curve["loss"])


# ------------------------------------------------------------------------------------ the loss is what the paper says


def corners(box: list[float]) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def slow_giou(a: list[float], b: list[float]) -> float:
    (l1, t1, r1, b1), (l2, t2, r2, b2) = corners(a), corners(b)
    inside = max(0.0, min(r1, r2) - max(l1, l2)) * max(0.0, min(b1, b2) - max(t1, t2))
    union = (r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - inside
    around = (max(r1, r2) - min(l1, l2)) * (max(b1, b2) - min(t1, t2))
    return inside / union - (around - union) / around


def slow_losses(logits: Tensor, boxes: Tensor, batch: Batch) -> dict[str, float]:
    """One query and one object at a time; every pairing is tried."""
    class_sum = class_weight = l1_sum = giou_sum = 0.0
    count = 0
    for b in range(len(batch["ids"])):
        share, guess = logits[b].double().softmax(-1).tolist(), boxes[b].double().tolist()
        labels, truth = batch["labels"][b].tolist(), batch["boxes"][b].double().tolist()

        best, least = (), math.inf
        for queries in itertools.permutations(range(len(guess)), len(truth)):
            cost = 0.0
            for i, q in enumerate(queries):
                far = sum(abs(u - v) for u, v in zip(guess[q], truth[i], strict=True))
                cost += L1 * far - GIOU * slow_giou(guess[q], truth[i]) - share[q][labels[i]]
            if cost < least:
                best, least = queries, cost
        for q in range(len(guess)):
            wanted = labels[best.index(q)] if q in best else len(share[q]) - 1
            weight = 1.0 if q in best else NOTHING
            class_sum -= weight * math.log(share[q][wanted])
            class_weight += weight
        for i, q in enumerate(best):
            l1_sum += sum(abs(u - v) for u, v in zip(guess[q], truth[i], strict=True))
            giou_sum += 1 - slow_giou(guess[q], truth[i])
            count += 1
    boxes_or_one = max(count, 1)
    return {"class": class_sum / class_weight, "l1": L1 * l1_sum / boxes_or_one, "giou": GIOU * giou_sum / boxes_or_one}


def equals_the_oracle(seed: int, empty: tuple[int, ...] = ()) -> bool:
    torch.manual_seed(seed)
    objective = Detect(Detector(len(SCENES.classes)))
    with torch.no_grad():
        for p in objective.detector.parameters():  # boxes all over the picture, some far from any object
            p.normal_(0, 0.3)
    batch = FINISH(emptied(scene_batch(SCENES, seed, range(5)), empty))
    losses, _ = objective(batch, 0.0)
    slow = slow_losses(*objective.detector(batch["image"]), batch)
    return losses.keys() == slow.keys() and all(math.isclose(losses[k].item(), slow[k], rel_tol=1e-5) for k in slow)


def emptied(batch: Batch, which: tuple[int, ...]) -> Batch:
    """These pictures show nothing that is to be found."""
    keep = [slice(0 if i in which else None) for i in range(len(batch["ids"]))]
    return batch | {key: [t[s] for t, s in zip(batch[key], keep, strict=True)] for key in ("labels", "boxes", "masks")}


@pytest.mark.parametrize("empty", [(), (1, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_loss_is_the_oracles(seed: int, empty: tuple[int, ...]) -> None:
    assert equals_the_oracle(seed, empty)


def test_a_greedy_matching_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_order(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return torch.arange(len(truth)), torch.arange(len(truth))

    monkeypatch.setattr(detection, "match", in_order)
    assert not equals_the_oracle(1)


# -------------------------------------------------------------------------------------- however the batch is cut


class Watched(Detect):
    """Keeps the names of the samples of every forward pass that had memory enough."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.seen: list[list[str]] = []

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        out = super().forward(batch, progress)
        self.seen.append(batch["ids"])
        return out


class Shrinking:
    """Room for ever smaller micro-batches: each of these sizes passes twice and fails at the third time."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = list(sizes)
        self.passed = 0

    def __call__(self, samples: int) -> bool:
        self.passed += 1
        if self.passed < 3 or not self.sizes or samples < self.sizes[0]:
            return False
        self.passed = 0
        self.sizes.pop(0)
        return True


@pytest.mark.parametrize(
    ("fails", "sizes"),
    [
        (lambda samples: samples >= 4, {2}),  # from the first step on; 8 -> 4 -> 2
        (lambda samples: samples >= 2, {1}),
        (Shrinking(8), {8, 4}),  # once, at the third step
        (Shrinking(8, 4, 2), {8, 4, 2, 1}),  # again and again, in the middle of a step too
    ],
    ids=["always", "singles", "once", "shrinking"],
)
def test_out_of_memory_keeps_the_batch_the_loss_and_the_weights(fails: Any, sizes: set[int], honest: Done) -> None:
    curve, weights = honest
    objective = make(Watched, fails=fails)
    cut_curve, cut_weights = run(objective)
    assert close(curve, cut_curve)
    for name in weights.keys() - KEYS:
        torch.testing.assert_close(cut_weights[name], weights[name], rtol=0, atol=2e-5, msg=name)
    assert {len(ids) for ids in objective.seen} == sizes
    last = [name for ids in objective.seen for name in ids][-8:]
    assert last == [f"scene/0/{i}" for i in range(24, 32)]  # each sample of the last step once


class NoCounts(Detect):
    def counts(self, batch: Batch) -> dict[str, float]:
        return {}


class OverSamples(Detect):
    """A fixed divisor: the mean over samples of their sum over boxes, under the name of a mean over boxes."""

    def mean(self, each: Tensor, batch: Batch) -> Tensor:
        return each.sum() / len(batch["ids"])


class OverSamplesAndSaysSo(OverSamples, NoCounts):
    """Consistent, but not the loss that was asked for."""


@pytest.mark.parametrize("mutant", [NoCounts, OverSamples, OverSamplesAndSaysSo])
def test_another_divisor_is_seen(mutant: type[Detect], honest: Done) -> None:
    assert not close(honest[0], run(make(mutant, fails=lambda samples: samples >= 4))[0])


def test_a_single_sample_without_room_is_one_line() -> None:
    with pytest.raises(BadInput, match="single sample"):
        run(make(fails=lambda samples: True))


# ------------------------------------------------------------------------------------------------- several processes


def with_blanks(start: int) -> Iterator[Batch]:
    """Even steps: the second half of the batch, which is rank 1's, shows nothing. Odd steps: the first half neither."""
    for step in itertools.count(start):
        batch = emptied(scene_batch(SCENES, 0, range(8 * step, 8 * step + 8)), tuple(range(0 if step % 2 else 4, 8)))
        each = 8 // parallel.world()
        yield cut(batch, parallel.rank() * each, parallel.rank() * each + each)


def in_ranks() -> dict[str, Any]:
    with processes(torch.device("cpu")):
        batches = scene_batches(SCENES, 8, rank=parallel.rank(), ranks=parallel.world())
        return {
            "boxes": [sum(map(len, batch["boxes"])) for batch in itertools.islice(batches(0), 4)],
            "ddp": run()[0],
            "fsdp": run(shard="fsdp")[0],
            "accumulated": run(accumulate=3)[0],
            "blanks": run(batches=with_blanks)[0],
            "mutant": run(make(NoCounts))[0],
        }


def test_two_ranks_equal_one(tmp_path: Path, honest: Done) -> None:
    alone, blank = honest[0], run(batches=with_blanks)[0]
    first, second = run_ranks(2, in_ranks, out=tmp_path)
    assert all(a != b for a, b in zip(first["boxes"][:2], second["boxes"][:2], strict=True)), "the probe has no teeth"
    for how in ("ddp", "fsdp", "accumulated"):
        assert close(alone, first[how]), how
        assert first[how] == second[how], how
    assert close(blank, first["blanks"])
    assert not close(alone, first["mutant"])


# ------------------------------------------------------------------------------------------------------ nothing to find


@pytest.mark.parametrize("accumulate", [2, 8])
def test_pictures_without_objects(accumulate: int) -> None:
    whole, _ = run(batches=with_blanks)
    assert whole["l1"][1] == whole["giou"][1] == 0.0 < whole["class"][1]
    assert close(whole, run(batches=with_blanks, accumulate=accumulate)[0])


# ------------------------------------------------------------------------------------------------------- not a number


def test_a_bad_picture_is_named_before_the_matching_stumbles() -> None:
    """The assignment refuses NaN: an objective that lets it would hide from the trainer which file it was."""

    def batches(start: int) -> Iterator[Batch]:
        for batch in scene_batches(SCENES, 8)(start):
            images = FINISH(batch)["image"]
            images[5] = math.nan
            yield batch | {"image": images}

    with pytest.raises(Diverged, match="scene/0/5"):
        train(TrainConfig(**CFG), make(), batches, Job(quiet=True))
