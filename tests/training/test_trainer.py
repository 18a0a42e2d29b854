"""The loop: it minimises the mean over the global batch, however it is cut; a stop leaves no trace in the result."""

from __future__ import annotations

import json
import math
import signal
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor
from toys import Toy, toy_batches

from tessella.errors import BadInput, Collapsed, DiskFull, Diverged, Stopped, TessellaError
from tessella.training import Job, TrainConfig, memory, state, train

CFG: dict[str, Any] = {
    "steps": 8,
    "batch": 12,
    "warmup": 2,
    "lr": 1e-2,
    "precision": "fp32",
    "log_every": 1,
    "device": "cpu",
}


def run(
    folder: Path | None = None, toy: dict[str, Any] | None = None, job: dict[str, Any] | None = None, **more: Any
) -> Any:
    """(losses by step, final weights)"""
    torch.manual_seed(0)
    objective = Toy(**(toy or {}))
    done = train(TrainConfig(**CFG | more), objective, toy_batches(), Job(folder=folder, quiet=True, **(job or {})))
    return [row["loss"] for row in done.history if "loss" in row], dict(objective.net.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def close(a: list[float], b: list[float], tolerance: float = 1e-5) -> bool:
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=tolerance) for x, y in zip(a, b, strict=True))


def test_learns() -> None:
    losses, _ = run(steps=60)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("parts", [2, 3, 5, 12])
def test_accumulation_is_the_same_mean(parts: int) -> None:
    assert close(run()[0], run(accumulate=parts)[0])


def test_accumulation_without_counts_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: an objective that does not say over what its loss is a mean gives another loss when cut."""
    whole = run()[0]
    monkeypatch.setattr(Toy, "counts", lambda self, batch: {})
    assert not close(whole, run(accumulate=3)[0])


def test_a_misspelt_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "counts", lambda self, batch: {"thing": 3.0})
    with pytest.raises(TessellaError, match="thing"):
        run()


def test_out_of_memory_lets_go_of_the_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed attempt held must be free before the device's cache is emptied, or halving cannot help."""
    held: list[Any] = []
    alive: list[int] = []
    release = memory.release

    def watched(*args: Any) -> None:
        release(*args)
        alive.append(sum(ref() is not None for ref in held))

    class Holds(Toy):
        def forward(self, batch: Any, progress: float) -> Any:
            activation = torch.zeros(1000)
            held.append(weakref.ref(activation))
            return super().forward(batch, progress)

    monkeypatch.setattr(memory, "release", watched)
    train(TrainConfig(**CFG | {"steps": 1}), Holds(too_many=4), toy_batches(), Job(quiet=True))
    assert alive == [0, 0]


def test_out_of_memory_halves_and_keeps_batch_and_loss() -> None:
    assert close(run()[0], run(toy={"too_many": 4})[0])


def test_out_of_memory_with_one_sample_is_one_line() -> None:
    with pytest.raises(BadInput, match="single sample"):
        run(toy={"too_many": 1})


def in_ranks(folder: str, shard: str) -> list[float]:
    def evaluate(infer: Any) -> dict[str, float]:
        return {"sum": float(infer(next(toy_batches(4)(0))).float().sum())}  # through the sharded model

    return run(Path(folder), shard=shard, save_every=2, ema=0.5, job={"evaluate": evaluate}, evaluate_every=3)[0]


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_two_ranks_equal_one(shard: str, tmp_path: Path) -> None:
    alone, _ = run(ema=0.5)
    together = run_ranks(2, in_ranks, str(tmp_path / "run"), shard, out=tmp_path)
    assert close(alone, together[0])
    longer, _ = run(tmp_path / "run", steps=10, ema=0.5)  # what two processes saved, one goes on with
    assert len(longer) == 2
    reference, _ = run(tmp_path / "alone", ema=0.5)
    assert close(run(tmp_path / "alone", steps=10, ema=0.5)[0], longer), reference


def test_resume_is_bit_equal(tmp_path: Path) -> None:
    undisturbed = run(toy={"dropout": 0.2}, accumulate=2, ema=0.9)[1]

    class Dies(Exception):
        pass

    def die(tensors: dict[str, Tensor], metrics: dict[str, float], step: int) -> None:
        if step == 4:
            raise Dies

    with pytest.raises(Dies):
        run(tmp_path, {"dropout": 0.2}, {"ship": die}, accumulate=2, ema=0.9, save_every=2)
    resumed = run(tmp_path, {"dropout": 0.2}, accumulate=2, ema=0.9, save_every=2)[1]
    assert same(undisturbed, resumed)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(8))


def test_resume_with_another_seed_is_seen(tmp_path: Path) -> None:
    """The mutation: randomness that is not a function of (seed, step) changes the weights."""
    undisturbed = run(toy={"dropout": 0.2})[1]
    assert not same(undisturbed, run(toy={"dropout": 0.2}, seed=1)[1])


def test_sigterm_saves_and_says_143(tmp_path: Path) -> None:
    undisturbed = run()[1]
    steps = iter(range(100))

    class Terminated(Toy):
        def after_step(self, progress: float) -> None:
            if next(steps) == 3:
                signal.raise_signal(signal.SIGTERM)

    torch.manual_seed(0)
    with pytest.raises(Stopped) as stopped:
        train(TrainConfig(**CFG), Terminated(), toy_batches(), Job(folder=tmp_path, quiet=True))
    assert stopped.value.exit_code == 143
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["step-000004"]
    assert same(undisturbed, run(tmp_path)[1])


@pytest.mark.parametrize("what", ["picture", "weight"])
def test_not_finite_stops_before_the_update_and_names(what: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    objective = Toy()
    before: dict[str, Tensor] = {}

    def batches(start: int) -> Any:
        for step, batch in enumerate(toy_batches()(start)):
            if step == 2:
                before.update({k: v.clone() for k, v in objective.state_dict().items()})
                if what == "picture":
                    batch["image"][7] = math.nan
                else:
                    objective.net.blocks[1].fc.weight.data[0, 0] = math.inf
                    before["net.blocks.1.fc.weight"][0, 0] = math.inf
            yield batch

    with pytest.raises(Diverged) as error:
        train(TrainConfig(**CFG | {"accumulate": 2}), objective, batches, Job(quiet=True))
    assert "step 2" in str(error.value)
    assert ("2-7" if what == "picture" else "net.blocks.1.fc") in str(error.value)
    if what == "picture":
        assert "net.embed" in str(error.value) and "2-6" not in str(error.value)
    assert same(before, dict(objective.state_dict()))


@pytest.mark.parametrize(("fails", "reached"), [({4}, 8), ({2, 4, 6}, 6), ({8}, 8)])
def test_full_disk_keeps_the_last_state(fails: set[int], reached: int, tmp_path: Path, monkeypatch: Any) -> None:
    """One save without room is made up for by the next; three in a row, or the last one, end the run with code 74."""
    save = state.save

    def full(folder: Path, snapshot: state.Snapshot, keep: int) -> Path:
        if snapshot.step in fails:
            raise DiskFull("no room")
        return save(folder, snapshot, keep)

    monkeypatch.setattr(state, "save", full)
    shipped: list[int] = []
    job = {"ship": lambda tensors, metrics, step: shipped.append(step)}
    if fails == {4}:
        run(tmp_path, job=job, save_every=2)
        assert shipped == [2, 6, 8]
        return
    with pytest.raises(DiskFull, match="--resume") as error:
        run(tmp_path, job=job, save_every=2)
    assert error.value.exit_code == 74
    monkeypatch.setattr(state, "save", save)
    assert same(run()[1], run(tmp_path)[1])  # from the last whole state, or from the start where there is none
    assert reached >= max(shipped, default=0)


def test_refuses_what_the_objective_cannot_do() -> None:
    class Whole(Toy):
        whole_batch = True

    class Own(Toy):
        own_average = True

    with pytest.raises(BadInput, match="accumulate"):
        train(TrainConfig(**CFG | {"accumulate": 2}), Whole(), toy_batches())
    with pytest.raises(BadInput, match="ema"):
        train(TrainConfig(**CFG | {"ema": 0.9}), Own(), toy_batches())
    with pytest.raises(BadInput, match="at most 12"):
        train(TrainConfig(**CFG | {"accumulate": 13}), Toy(), toy_batches())


def test_changed_identity_is_refused_key_by_key(tmp_path: Path) -> None:
    run(tmp_path, job={"identity": {"classes": ["cat", "dog"], "data.train": "a"}}, steps=2)
    changed = {"classes": ["cat", "cow"], "data.train": "b"}
    with pytest.raises(BadInput, match=r"(?s)cow.*--allow-change"):
        run(tmp_path, job={"identity": changed})
    with pytest.raises(BadInput, match=r"data\.train"):
        run(tmp_path, job={"identity": changed, "allow": ("classes",)})
    run(tmp_path, job={"identity": changed, "allow": ("classes", "data.train")})


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, 0) for key in ("steps", "batch", "accumulate", "log_every", "save_every", "keep", "clip", "layer_decay")]
    + [("warmup", -1), ("evaluate_every", -1), ("lr", math.nan), ("lr", -1.0), ("lr", math.inf), ("min_lr", -1.0)]
    + [("weight_decay", -0.1), ("betas", (0.9, 1.0)), ("betas", (-0.1, 0.9)), ("ema", 1.0), ("ema", 1.5)],
)
def test_numbers_that_mean_nothing_are_refused(key: str, value: Any) -> None:
    with pytest.raises(BadInput, match=rf"train\.{key} is .*; give "):
        TrainConfig(**{key: value})


def test_a_stop_that_cannot_be_saved_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    """A stop does not claim that the state is saved when the disk was full."""

    def full(folder: Path, snapshot: state.Snapshot, keep: int) -> Path:
        raise DiskFull("no room")

    monkeypatch.setattr(state, "save", full)

    def batches(start: int) -> Any:
        for step, batch in enumerate(toy_batches()(start), start):
            if step == 3:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with pytest.raises(DiskFull, match="no room"):
        train(TrainConfig(**CFG), Toy(), batches, Job(folder=tmp_path, quiet=True))


def test_accumulation_asked_anew_on_resuming_counts(tmp_path: Path) -> None:
    """The state keeps the parts that a lack of memory led to, not those that somebody has changed since."""
    for steps, accumulate, parts in ((2, 1, 1), (4, 3, 3), (6, 3, 3), (8, 1, 1)):
        run(tmp_path, steps=steps, accumulate=accumulate)
        assert state.load(tmp_path / "state" / f"step-{steps:06d}").facts["parts"] == parts


def test_fewer_steps_than_done_and_batches_that_end_are_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    with pytest.raises(BadInput, match="at least 4"):
        run(tmp_path, steps=3)
    with pytest.raises(BadInput, match="end before step 2"):
        train(TrainConfig(**CFG), Toy(), lambda start: islice(toy_batches()(start), 2), Job(quiet=True))


class Asleep(Toy):
    """Says so once it has made four steps; asked where a step is logged."""

    def __init__(self, wakes: bool = False) -> None:
        super().__init__()
        self.wakes = wakes
        self.register_buffer("made", torch.zeros((), dtype=torch.int64))

    def after_step(self, progress: float) -> None:
        self.made += 1

    def alarm(self) -> str:
        return "all pictures look alike; lower train.lr" if int(self.made) >= 4 and not self.wakes else ""


def test_a_collapse_ends_the_run_and_leaves_its_last_state(tmp_path: Path) -> None:
    cfg = TrainConfig(**CFG | {"steps": 12, "log_every": 3, "save_every": 2})
    with pytest.raises(Collapsed, match=r"step 3: all pictures look alike; lower train\.lr") as told:
        train(cfg, Asleep(), toy_batches(), Job(folder=tmp_path, quiet=True))
    assert told.value.exit_code == 4
    found = state.latest(tmp_path / "state")
    assert found is not None and state.load(found).step == 2, "the state before it was seen"
    assert train(cfg, Asleep(wakes=True), toy_batches(), Job(quiet=True)).step == 12
