"""Memory runs out anywhere in any step: the run ends with the loss curve of an undisturbed one, or says why not."""

from __future__ import annotations

import errno
import math
import random
import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import Toy, toy_batches

from tessella.errors import BadInput
from tessella.training import Job, TrainConfig, ema, memory, optim, retry, train, trainer

STEPS = 60
CFG: dict[str, Any] = {"steps": STEPS, "batch": 12, "warmup": 2, "lr": 1e-2, "precision": "fp32", "log_every": 1}
CFG |= {"device": "cpu", "ema": 0.9, "evaluate_every": 1}

Place = str
PLACES = ("forward", "backward", "clip", "optimizer", "after_step", "average", "evaluation")


class Strikes:
    """An allocation that fails once at each of some steps, at a place of its own."""

    def __init__(self, where: dict[int, Place], error: Callable[[], Exception]):
        self.where, self.error, self.step, self.struck = dict(where), error, -1, 0

    def at(self, place: Place) -> None:
        if self.where.get(self.step) == place:
            del self.where[self.step]
            self.struck += 1
            raise self.error()


class Striking(Toy):
    def __init__(self, strikes: Strikes):
        super().__init__(ragged=False)
        self.strikes, self.progress = strikes, -1.0

    def before_step(self, progress: float) -> None:
        self.strikes.step += 1 * (progress != self.progress)
        self.progress = progress

    def forward(self, batch: Any, progress: float) -> Any:
        losses, metrics = super().forward(batch, progress)
        self.strikes.at("forward")  # with activations alive
        losses["label"].register_hook(lambda grad: self.strikes.at("backward"))
        return losses, metrics

    def infer(self, batch: Any) -> Any:
        self.strikes.at("evaluation")
        return super().infer(batch)

    def after_step(self, progress: float) -> None:
        self.strikes.at("after_step")


def curve(strikes: Strikes, monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[float]:
    """Losses of training and sums of the evaluated outputs, step by step."""
    inner = {"clip": nn.utils.clip_grads_with_norm_, "average": ema.Average.update, "optimizer": torch.optim.AdamW.step}

    def striking(name: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            strikes.at(name)
            return inner[name](*args, **named)

        return call

    monkeypatch.setattr(trainer.nn.utils, "clip_grads_with_norm_", striking("clip"))
    monkeypatch.setattr(trainer.Average, "update", striking("average"))
    monkeypatch.setattr(torch.optim.AdamW, "step", striking("optimizer"))
    monkeypatch.setattr(memory.gc, "collect", lambda: 0)  # a fifth of a second each time
    torch.manual_seed(0)

    def evaluate(infer: Any) -> dict[str, float]:
        return {"sum": float(infer(next(toy_batches()(0))).sum())}

    done = train(TrainConfig(**CFG | more), Striking(strikes), toy_batches(), Job(quiet=True, evaluate=evaluate))
    monkeypatch.undo()
    return [row[key] for row in done.history for key in ("loss", "val/sum") if key in row]


def close(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-5) for x, y in zip(a, b, strict=True))


ERRORS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
                                "memory: you tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "onednn": lambda: RuntimeError("could not create a primitive"),
    "c++": lambda: RuntimeError("std::bad_alloc"),
    "python": MemoryError,
    "mmap": lambda: OSError(errno.ENOMEM, "Cannot allocate memory"),
}  # fmt: skip


def test_at_50_random_steps_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    kinds = list(ERRORS.values())
    where = {step: draw.choice(PLACES) for step in draw.sample(range(STEPS), 50)}
    undisturbed = curve(Strikes({}, kinds[0]), monkeypatch)
    strikes = Strikes(where, lambda: draw.choice(kinds)())
    assert close(undisturbed, curve(strikes, monkeypatch))
    assert strikes.struck == 50, "a place that is never reached proves nothing"


@pytest.mark.parametrize("kind", ERRORS)
def test_each_way_to_say_it_is_known(kind: str) -> None:
    assert memory.is_out_of_memory(ERRORS[kind]())


@pytest.mark.parametrize("place", PLACES)
def test_at_each_place_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = curve(Strikes({}, ERRORS["cuda"]), monkeypatch, steps=9)
    strikes = Strikes({0: place, 7: place}, ERRORS["cuda"])
    assert close(undisturbed, curve(strikes, monkeypatch, steps=9)) and strikes.struck == 2


def test_an_update_done_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: what was half done is done again, as if nothing had changed."""
    undisturbed = curve(Strikes({}, ERRORS["cuda"]), monkeypatch)

    def twice(action: Callable[[], object], moved: object, device: object) -> None:
        action()
        action()

    monkeypatch.setattr(retry, "in_place", twice)
    assert not close(undisturbed, curve(Strikes({}, ERRORS["cuda"]), monkeypatch))


@pytest.mark.parametrize("made", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("fused", [True, False])
def test_a_half_done_update_stops_the_run(made: Any, fused: bool) -> None:
    """The second of two groups fails: the weights of the first have changed already."""
    one, two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    more = {"momentum": 0.9} if made is torch.optim.SGD else {}
    optimizer = made([{"params": [one]}, {"params": [two]}], lr=0.1, fused=fused, **more)
    retry.allocate(optimizer)
    one.grad, two.grad = torch.ones(3), torch.ones(3)
    group = optimizer.param_groups[1]
    optimizer.param_groups[1] = Failing(group)
    with pytest.raises(BadInput, match=r"middle of an update.*--resume"):
        retry.update(optimizer, torch.device("cpu"))


class Failing(dict[str, Any]):
    """A group whose parameters cannot be gone through by the optimiser, only listed."""

    def __getitem__(self, key: str) -> Any:
        if key in ("betas", "momentum"):
            raise MemoryError
        return super().__getitem__(key)


@pytest.mark.parametrize("rule", ["adamw", "sgd", "lion", "muon"])
def test_state_made_before_the_first_step_changes_nothing(rule: Any) -> None:
    def weights(first: bool) -> list[Tensor]:
        torch.manual_seed(0)
        toy = Toy()
        optimizer = optim.make_optimizer(toy, TrainConfig(**CFG | {"optimizer": rule, "weight_decay": 0.3}))
        if first:
            start = [p.detach().clone() for p in toy.parameters()]
            for part in optimizer.parts:
                retry.allocate(part)
            assert all(torch.equal(a, b) for a, b in zip(start, toy.parameters(), strict=True))
            assert len(optimizer.tensors()) >= len(start) and optimizer.param_groups[0]["lr"] == CFG["lr"]
        for batch, _ in zip(toy_batches()(0), range(3), strict=False):
            optimizer.zero_grad()
            toy(batch, 0.0)[0]["label"].backward()
            optimizer.set_rate(0.1)
            optimizer.step()
        return [p.detach() for p in toy.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(True), weights(False), strict=True))


def test_a_fault_that_is_no_lack_of_memory_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in PLACES:
        strikes = Strikes({3: place}, lambda: RuntimeError("our own mistake"))
        with pytest.raises(RuntimeError, match="our own mistake"):
            curve(strikes, monkeypatch)
        monkeypatch.undo()


def test_what_a_real_lack_of_memory_says() -> None:
    """Of torch, of numpy and of the system, under a limit of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)

    def mapped() -> None:
        import mmap

        mmap.mmap(-1, 1 << 34, flags=mmap.MAP_PRIVATE)

    def array() -> None:
        import numpy as np

        np.ones(1 << 31)

    resource.setrlimit(resource.RLIMIT_DATA, (1 << 32, hard))
    try:
        for take in (lambda: torch.ones(1 << 32), array, mapped):
            with pytest.raises(retry.SHORT) as caught:
                take()
            assert memory.is_out_of_memory(caught.value), caught.value
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    assert not memory.is_out_of_memory(RuntimeError("shapes do not match"))
    assert not memory.is_out_of_memory(OSError(errno.ENOENT, "No such file"))


def test_answers_are_joined_as_they_were_cut() -> None:
    x = torch.arange(7.0)
    told = retry.in_pieces(lambda b: {"a": b["x"], "b": (b["x"] + 1, b["ids"])}, {"x": x, "ids": list("abcdefg")}, 3)
    assert torch.equal(told["a"], x) and torch.equal(told["b"][0], x + 1) and told["b"][1] == list("abcdefg")
