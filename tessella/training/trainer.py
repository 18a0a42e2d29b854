"""The training loop. It knows `Objective` and none of its children.

One step: take this rank's share of the global batch, cut it into micro-batches, weight each loss so that the sum is the
mean over the global batch, step. Everything random on the device is seeded from (seed, step, rank, micro-batch), so
resuming needs no generator state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import parallel
from ..errors import BadInput, Collapsed, Diverged, TessellaError
from ..objectives.objective import Batch, Objective
from . import choose, distributed, memory, retry, state
from .batch import check, move, size, split
from .best import Best
from .clock import Clock, Feed
from .diagnose import diagnose
from .ema import Average
from .freeze import Freeze
from .gauge import Gauge
from .learned import Learned
from .log import Log, Row
from .optim import make_optimizer
from .refuse import refuse
from .room import Room
from .schedule import learning_rate
from .seeds import reseed
from .settings import TrainConfig
from .stop import StopSignal
from .weigh import count, shares, weighted, without_gradient

__all__ = ["Infer", "Job", "Result", "TrainConfig", "Trainer", "train"]

Infer = Callable[[Batch], Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What surrounds a training: where it lives, how it is evaluated, what is done with the model."""

    folder: Path | None = None  # log.jsonl and state/ go here; None: nothing is written and nothing resumed
    identity: Mapping[str, Any] = field(default_factory=dict)  # what must not change between stop and resume
    allow: tuple[str, ...] = ()  # keys of `identity` that may have changed all the same
    finish: nn.Module | None = None  # batch -> batch, on the device, before the objective (normalise, mix)
    evaluate: Callable[[Infer], dict[str, float]] | None = None  # called on all ranks together
    ship: Callable[[dict[str, Tensor], dict[str, float], int], None] | None = None  # (tensors, metrics, step)
    feed: Feed | None = None  # who brings the batches: it is asked for figures and remarks with every row
    quiet: bool = False


@dataclass(frozen=True)
class Result:
    step: int
    metrics: dict[str, float]
    history: tuple[Row, ...]


def train(
    cfg: TrainConfig, objective: Objective, batches: Callable[[int], Iterator[Batch]], job: Job | None = None
) -> Result:
    """`batches(start_step)` yields this rank's share of each step from there on. Goes on from the newest state in
    `job.folder`, if there is one."""
    job = job or Job()
    device = torch.device(choose.device(cfg.device)[0])
    with distributed.processes(device), StopSignal() as stop:
        trainer = Trainer(cfg, objective, job, device)
        start = trainer.restore()
        for part in trainer.optimizer.parts:
            retry.allocate(part)
        stream = batches(start)
        with Log(job.folder, cfg.steps, job.quiet, cfg.sinks).start(start) as log:
            end = start if trainer.best.exhausted else cfg.steps  # it may have ended early
            for step in range(start, end):
                waited = time.perf_counter()
                batch = next(stream, None)
                if batch is None:
                    raise BadInput(f"the batches end before step {step} of {cfg.steps}; batches(start) must go on")
                waited = time.perf_counter() - waited
                if trainer.step(step, batch, stop.asked, waited) == "stopped":
                    trainer.save(step, last=True)
                    raise stop.stopped(step, job.folder)
                last = step + 1 == cfg.steps
                if trainer.is_logged(step):
                    log.row(trainer.report(step))
                    if why := objective.alarm():
                        raise Collapsed(f"step {step}: {why}")
                log.advance(step)
                if last or (cfg.evaluate_every and (step + 1) % cfg.evaluate_every == 0):
                    trainer.evaluate(step, log)
                last = last or trainer.best.exhausted
                if last or (step + 1) % cfg.save_every == 0:
                    trainer.save(step + 1, last)
                for note in trainer.notes():
                    log.note(note)
                if last:
                    end = step + 1
                    break
        if start == end:
            trainer.ship(start)  # the state was saved, but the process may have died before the model was
        trainer.look_again()
    return Result(end, trainer.metrics, tuple(trainer.history))


class Trainer:
    """The state of a training and what can be done with it."""

    def __init__(self, cfg: TrainConfig, objective: Objective, job: Job, device: torch.device):
        refuse(objective, cfg, job.evaluate is not None)
        self.cfg, self.job, self.device = cfg, job, device
        self.parts = cfg.accumulate  # grows when memory runs out
        self.shortage = retry.Shortage(objective.whole_batch)
        self.bf16 = choose.precision(cfg.precision, device.type)[0] == "bf16"
        self.objective = objective.to(device).train()
        self.finish = job.finish.to(device) if job.finish is not None else nn.Identity()
        if choose.compiling(cfg.compile, device.type, 0.0)[0] == "on":
            distributed.compile_units(objective)
        self.gauge, self.freeze = Gauge(objective), Freeze(objective, cfg)
        self.freeze.at(0)
        self.call = distributed.spread(objective, device, cfg.shard)
        self.optimizer = make_optimizer(objective, cfg, self.bf16)
        self.average = Average(objective.model, cfg.ema) if cfg.ema is not None else None
        self.best = Best(cfg.best, cfg.patience)
        self.learned = Learned(objective, self.optimizer, self.average, self.best)
        self.metrics: dict[str, float] = {}  # of what ships
        self.evaluated = 0  # the newest step that was
        self.history: list[Row] = []
        self.figures: dict[str, Tensor] = {}
        self.by_block: dict[str, Tensor] = {}
        self.lr = 0.0
        self.room = Room()
        self.clock = Clock()
        self._notes: list[str] = []

    # -- one step ---------------------------------------------------------------------------------------------------

    def step(self, step: int, batch: Batch, stop: bool, waited: float) -> Literal["done", "stopped"]:
        began = time.perf_counter()
        progress = step / self.cfg.steps
        check(batch)
        self._thaw(step)
        while True:
            micros = split(batch, self.parts, exactly=parallel.active())
            counts, totals, asked = count(self.objective, micros, stop, self.device)
            if asked:
                return "stopped"
            if not totals[""]:  # on all ranks
                self._notes.append(f"step {step}: none of its pictures could be read; nothing was updated")
                return "done"
            try:
                losses = self._gradients(step, micros, counts, totals)
                self.objective.after_backward(progress)
                before = self.gauge.before() if self.is_logged(step) else None
                norm = self._clip()
                break
            except retry.SHORT as error:
                self._halve(size(batch), error)
        if not bool(torch.isfinite(parallel.sum_over_ranks(losses["loss"] + norm))):  # one verdict for all ranks
            self._diverged(step, micros)
        self.lr = learning_rate(step, self.cfg)
        self.optimizer.set_rate(self.lr)
        self._update(step, progress)
        self.by_block = self.gauge.after(before) if before is not None else {}
        self.shortage.over()
        self.figures = losses | {"norm": norm}
        self.clock.add(time.perf_counter() - began, waited, totals[""])
        return "done"

    def is_logged(self, step: int) -> bool:
        return step % self.cfg.log_every == 0 or step + 1 == self.cfg.steps

    def _thaw(self, step: int) -> None:
        if self.freeze.at(step):
            self._notes.append(f"step {step}: {self.freeze.now} of {self.freeze.most} depths still frozen")
            self.call = self.objective  # lets go of the old hooks: DDP knows only what learned when it was made
            self.call = distributed.spread(self.objective, self.device, self.cfg.shard)

    def _gradients(
        self, step: int, micros: list[Batch], counts: list[dict[str, float]], totals: dict[str, float]
    ) -> dict[str, Tensor]:
        """Forward and backward over all micro-batches; returns this rank's part of every loss and metric."""
        self.optimizer.zero_grad()
        self.objective.before_step(step / self.cfg.steps)
        told: dict[str, Tensor] = {}
        for i, micro in enumerate(micros):
            reseed(self.cfg.seed, step, parallel.rank(), i)
            share = shares(counts[i], totals)
            with (
                distributed.synchronised(self.call, i + 1 == len(micros)),
                without_gradient(self.objective, not share[""]),
                self._autocast(),
            ):
                losses, metrics = self.call(self.finish(move(micro, self.device)), step / self.cfg.steps)
                odd = share.keys() - losses.keys() - metrics.keys() - {""}
                if odd:
                    raise TessellaError(f"counts() names {', '.join(sorted(odd))}, but there is no such loss or metric")
                parts = weighted(losses, share)
                total = torch.stack([v.float() for v in parts.values()]).sum()
                torch.autograd.backward(total)
            with torch.no_grad():
                seen = parts | weighted(metrics, share) | {"loss": total}
                told = {name: told.get(name, 0.0) + value.detach().float() for name, value in seen.items()}
        return told

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _update(self, step: int, progress: float) -> None:
        for part in self.optimizer.parts:
            retry.update(part, self.device)
        self.optimizer.zero_grad()
        held = [*self.objective.parameters(), *self.objective.buffers()]
        retry.in_place(lambda: self.objective.after_step(progress), lambda: retry.changes(held), self.device)
        average = self.average
        if average is not None:
            kept, model = list(average.tensors.values()), self.objective.model
            retry.in_place(lambda: average.update(model, step), lambda: retry.changes(kept), self.device)

    def _halve(self, samples: int, error: Exception) -> None:
        """The same step again in smaller pieces; `forward` changed no state, and the seeds are the same."""
        if not memory.is_out_of_memory(error):
            raise error
        self.optimizer.zero_grad()
        memory.release(self.device, error)
        self.parts, note = self.shortage.more_parts(self.parts, samples, error)
        self._notes.append(note)

    def _clip(self) -> Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = distributed.norm_of([p.grad for p in parameters if p.grad is not None])
        if self.cfg.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.cfg.clip, norm)
        return norm

    def _diverged(self, step: int, micros: list[Batch]) -> None:
        ready = [self.finish(move(m, self.device)) for m in micros if size(m)]
        with self._autocast():
            why = diagnose(self.objective, ready, step / self.cfg.steps, localise=not distributed.is_sharded(self.call))
        what = f"step {step}: the loss or its gradient is not finite; nothing was updated"
        raise Diverged(f"{what}. {why}. A lower --train.lr often helps")

    # -- what is told -----------------------------------------------------------------------------------------------

    def report(self, step: int) -> Row:
        """The figures of the newest step: means over all ranks."""
        names = sorted(self.figures)  # none before the first update
        told = [self.figures[n].float() for n in names]
        values = parallel.mean_over_ranks(torch.stack(told)).tolist() if told else []
        row: Row = {"step": step, **dict(zip(names, values, strict=True)), "lr": self.lr}
        row |= {name: values_by_block.tolist() for name, values_by_block in self.by_block.items()}
        row |= self.clock.read(self.cfg.steps - step - 1) | {"memory": memory.peak_bytes(self.device)}
        if self.job.feed is not None:
            row |= self.job.feed.figures()
            self._notes += self.job.feed.remarks(row["waiting"] if self.history else 0.0)  # workers take time to start
        self.history.append(row)
        return row

    def notes(self) -> list[str]:
        told, self._notes = self._notes, []
        return told

    def evaluate(self, step: int, log: Log) -> None:
        if self.job.evaluate is None:
            return
        with self.learned.averaged():
            metrics = self._look()
            self.best.offer(metrics, step, self.objective.model)
        self.metrics, self.evaluated = self.best.metrics or metrics, step
        if self.best.exhausted:
            self._notes.append(f"stopped early after step {step + 1}: {self.best.story()}")
        row: Row = {"step": step, **{f"val/{k}": v for k, v in metrics.items()}, **self.best.row()}
        self.history.append(row)
        log.row(row)
        self.clock = Clock()

    def look_again(self) -> None:
        """At the end, where another evaluation was the best: so that the newest answers are those of what ships."""
        if self.best.step not in (None, self.evaluated):
            with self.learned.chosen():
                self._look()

    def _look(self) -> dict[str, float]:
        assert self.job.evaluate is not None, "`evaluate` asks"
        self.objective.eval()
        with torch.no_grad():
            metrics = parallel.gather_objects(self.job.evaluate(self._infer))[0]  # one verdict for all ranks
        self.objective.train()
        return dict(metrics)

    def _infer(self, batch: Batch) -> Any:
        def infer(piece: Batch) -> Any:
            with self._autocast():
                return self.objective.infer(self.finish(move(piece, self.device)))

        while True:
            try:
                told = retry.in_pieces(infer, batch, self.parts)
                self.shortage.over()
                return told
            except retry.SHORT as error:
                self._halve(size(batch), error)

    # -- state ------------------------------------------------------------------------------------------------------

    def save(self, step: int, last: bool = False) -> None:
        """The state, then the model that ships; each appears whole or not at all."""
        if self.job.folder is not None:
            facts = {"identity": dict(self.job.identity), "parts": self.parts, "accumulate": self.cfg.accumulate}
            snapshot = self.learned.snapshot(step, facts | {"metrics": self.metrics, "evaluated": self.evaluated})
            folder = self.job.folder / "state"
            problem = self.room.save(lambda: state.save(folder, snapshot, self.cfg.keep), step, last)
            if problem:
                self._notes.append(problem)
                return
        self.ship(step)

    def ship(self, step: int) -> None:
        if self.job.ship is not None:
            with self.learned.chosen():
                shipped, ship = self.learned.shipped(), self.job.ship
                distributed.on_every_rank(lambda: ship(shipped, self.metrics, step))  # while `shipped` is what it is

    def restore(self) -> int:
        """The step to go on from: that of the newest whole state, or 0."""
        found = state.latest(self.job.folder / "state") if self.job.folder is not None else None
        if found is None:
            return 0
        snapshot = state.load(found)
        state.refuse_changes(snapshot.facts["identity"], dict(self.job.identity), self.job.allow)
        if snapshot.step > self.cfg.steps:
            raise BadInput(f"{found} is beyond train.steps, {self.cfg.steps}; give at least {snapshot.step}")
        self.metrics = snapshot.facts["metrics"]
        if snapshot.facts.get("accumulate", self.cfg.accumulate) == self.cfg.accumulate:  # else somebody asked anew
            self.parts = min(snapshot.facts["parts"], self.cfg.batch // parallel.world())  # the same on each rank
        self.learned.fill(snapshot)
        self.evaluated = snapshot.facts["evaluated"]
        return snapshot.step
