"""What ships is the best evaluation's weights; a run that gets no better ends, and a kill changes neither."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor
from toys import Toy, toy_batches

from tessella.errors import BadInput, DiskFull
from tessella.training import Job, TrainConfig, state, train
from tessella.training.best import Best

CFG: dict[str, Any] = {"steps": 12, "batch": 12, "warmup": 2, "lr": 1e-2, "precision": "fp32", "device": "cpu"}
CFG |= {"log_every": 1, "evaluate_every": 2, "save_every": 3, "best": "top1"}
FIGURES = [0.1, 0.5, 0.3, 0.5, 0.2, 0.4]  # of the six evaluations of a whole run: the second is the best


class Evaluator:
    """Says what it was told to by the number of steps that the weights have seen, and keeps which weights it saw."""

    def __init__(self, figures: list[float], key: str = "top1") -> None:
        self.figures, self.key, self.asked = figures, key, 0
        self.seen: list[Tensor] = []

    def __call__(self, infer: Any) -> dict[str, float]:
        self.seen.append(infer(next(toy_batches(4)(0))).float().detach())
        self.asked += 1
        return {self.key: self.figures[min(self.asked, len(self.figures)) - 1], "loss": 1.0}


class Dies(Exception):
    pass


def run(
    folder: Path | None = None, figures: Evaluator | None = None, dies: int = 0, **more: Any
) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """(result, what shipped last, {"metrics", "step"} of it); `dies` at the save of this step"""
    torch.manual_seed(0)
    shipped: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}

    def ship(tensors: dict[str, Tensor], metrics: dict[str, float], step: int) -> None:
        if step == dies:
            raise Dies
        shipped.update({k: v.clone() for k, v in tensors.items()})
        facts.update(metrics=dict(metrics), step=step)

    job = Job(folder=folder, ship=ship, evaluate=figures or Evaluator(FIGURES), quiet=True)
    done = train(TrainConfig(**CFG | more), Toy(dropout=0.2), toy_batches(), job)
    return done, shipped, facts


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_best_ships(ema: float | None) -> None:
    settings: dict[str, Any] = {"ema": ema, "schedule": "constant"}
    done, shipped, facts = run(**settings)
    _, at_four, _ = run(**settings, best="", steps=4)  # the second evaluation is that of step 4
    _, last, _ = run(**settings, best="")
    assert same(shipped, at_four) and not same(shipped, last)
    assert done.metrics == facts["metrics"] == {"top1": 0.5, "loss": 1.0} and done.step == 12


def test_the_last_look_is_at_what_ships() -> None:
    evaluator = Evaluator(FIGURES)
    run(figures=evaluator)
    assert len(evaluator.seen) == 7 and torch.equal(evaluator.seen[-1], evaluator.seen[1])
    rising = Evaluator([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    run(figures=rising)
    assert len(rising.seen) == 6  # the newest was the best


@pytest.mark.parametrize("dies", [3, 6, 9])
@pytest.mark.parametrize("patience", [0, 3])
def test_killed_and_resumed_is_the_same(dies: int, patience: int, tmp_path: Path) -> None:
    undisturbed = run(patience=patience)
    first = Evaluator(FIGURES)
    with pytest.raises(Dies):
        run(tmp_path, first, dies, patience=patience)
    again = Evaluator(FIGURES)
    again.asked = dies // 2  # as many evaluations are not done again
    resumed = run(tmp_path, again, patience=patience)
    assert same(undisturbed[1], resumed[1]) and undisturbed[2] == resumed[2]
    assert undisturbed[0].step == resumed[0].step == (12 if patience == 0 else 10)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(resumed[0].step))
    assert [row["best/step"] for row in rows if "best/step" in row][-1] == 3


def test_a_state_that_forgets_the_best_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation."""
    undisturbed = run()
    with pytest.raises(Dies):
        run(tmp_path, dies=6)
    monkeypatch.setattr(Best, "restore", lambda self, facts, saved, model: None)
    again = Evaluator(FIGURES)
    again.asked = 3
    assert not same(undisturbed[1], run(tmp_path, again)[1])


def test_an_early_end_is_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, shipped, _ = run(tmp_path, patience=2)
    assert done.step == 8 and len([row for row in done.history if "norm" in row]) == 8
    assert (tmp_path / "state" / "step-000008").is_dir()
    log = (tmp_path / "log.jsonl").read_text()
    again, shipped_again, _ = run(tmp_path, patience=2)  # resuming what is finished
    assert again.step == 8 and same(shipped, shipped_again) and (tmp_path / "log.jsonl").read_text() == log
    longer, _, _ = run(tmp_path, Evaluator([0.6]), patience=9)  # somebody is more patient now: it goes on
    assert longer.step == 12 and longer.metrics["top1"] == 0.6


def test_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    train(TrainConfig(**CFG | {"patience": 2}), Toy(), toy_batches(), Job(evaluate=Evaluator(FIGURES)))
    told = capsys.readouterr().err
    assert "stopped early after step 8: top1 has not improved over 2 evaluations; the best, 0.5 at step 4," in told


@pytest.mark.parametrize(
    ("name", "figures", "best"),
    [("top1", [1, 3, 2, 3], 1), ("loss", [3, 1, 2, 1], 1), ("a/mae", [3, 1, 2], 1), ("auroc", [math.nan, 1, 0.5], 1),
     ("rmse", [1, math.nan, 2], 0)],
)  # fmt: skip
def test_better_is_known_by_name(name: str, figures: list[float], best: int) -> None:
    found = Best(name, 0)
    for step, value in enumerate(figures):
        found.offer({name: float(value)}, step, torch.nn.Linear(1, 1))
    assert found.step == best and found.since == len(figures) - 1 - best


def test_names_that_are_no_figures_are_refused() -> None:
    with pytest.raises(BadInput, match=r"train\.best is topp1; give one of accuracy, auroc,"):
        TrainConfig(best="topp1")
    with pytest.raises(BadInput, match=r"train\.best is 'mae', but the evaluation gives loss, top1; name one"):
        run(best="mae")
    with pytest.raises(BadInput, match=r"train\.patience is 3; give also the figure"):
        TrainConfig(patience=3)
    with pytest.raises(BadInput, match=r"train\.best is 'top1', but nothing is held out"):
        train(TrainConfig(**CFG), Toy(), toy_batches(), Job(quiet=True))


def in_ranks(folder: str) -> list[float]:
    done, _, _ = run(Path(folder), Evaluator(FIGURES), shard="fsdp", patience=3, save_every=4)
    return [float(done.step), done.metrics["top1"]]


def test_sharded_weights_have_a_best_too(tmp_path: Path) -> None:
    assert run_ranks(2, in_ranks, str(tmp_path / "run"), out=tmp_path) == [[10.0, 0.5]] * 2
    _, shipped, facts = run(tmp_path / "run", patience=3, save_every=4)
    assert facts["metrics"]["top1"] == 0.5
    whole, once, _ = run(patience=3)
    assert whole.step == 10 and shipped.keys() == once.keys()


def test_a_figure_that_is_missing_once_is_no_better() -> None:
    """What is not finite has no key: a network that says NaN for a while, say."""
    found = Best("loss", 3)
    for step, metrics in enumerate([{"loss": 2.0}, {"top1": 0.1}, {"loss": 1.0}, {}, {}]):
        found.offer(metrics, step, torch.nn.Linear(1, 1))
    assert found.step == 2 and found.since == 2 and found.metrics == {"loss": 1.0}


def test_an_early_end_without_room_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no other save that could make up for it."""

    def full(folder: Path, snapshot: Any, keep: int) -> Path:
        raise DiskFull("no room")

    save = state.save
    monkeypatch.setattr(state, "save", full)
    with pytest.raises(DiskFull, match="no room; the last whole state is kept"):
        run(tmp_path, patience=2, save_every=100)
    monkeypatch.setattr(state, "save", save)
    assert run(tmp_path, patience=2, save_every=100)[0].step == 8
