"""Some real steps of a run in a process of its own, which leaves nothing behind: what they took of memory and time.

A process of its own, because the peak of a process never falls, and because one that is killed for memory takes nobody
along. It does what the run does: opens the data, builds the network, draws batches, updates, evaluates, saves (to a
folder that goes away). What it is asked comes as JSON on stdin; it answers in lines of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import build, parallel
from ..build import Run
from ..config import decode, encode
from ..errors import BadInput, TessellaError
from ..training import choose, memory, retry
from ..training.batch import cut, size
from ..training.log import Log
from ..training.plan import SHARE, Measured, following
from ..training.trainer import Infer, Trainer

PROGRESS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the run, at which steps are measured: some methods work more later on
WARM = 2  # steps before anything is measured: they compile, allocate, fill caches
SECONDS = 20.0  # of measured steps, about
EVALUATION = 5.0  # seconds of it that are measured
METRICS = 32  # bytes that an evaluation holds at its end for each output: fp32 twice, fp64 twice, an order


@dataclass(frozen=True)
class Figures:
    """What a trial has measured. Seconds and bytes."""

    opening: float  # of the data: whoever asks has opened it too
    start: float  # from nothing to the first batch, without that: imports, network, workers
    first: float  # what the first steps took longer than the later ones
    steps: tuple[float, ...]  # one step, at even distances over the run
    evaluation: float  # one whole evaluation; 0: there is none
    save: float  # a state and the model
    peak: int  # of the process
    workers: int  # what all loading processes hold beside it
    measured: int  # steps


# -- who asks ----------------------------------------------------------------------------------------------------------


def rehearse(run: Run) -> Figures:
    """Measures `run` as it stands; BadInput where it cannot start."""
    for line in _ask({"kind": "rehearse", "run": encode(_of_one(run))}):
        if "figures" in line:
            told = line["figures"]
            return Figures(**told | {"steps": tuple(told["steps"])})
    raise BadInput("memory ran out in the first steps; let --memory auto or --batch auto cut them")


def sweep(run: Run, usable: int, micros: Sequence[int] = ()) -> list[Measured]:
    """Peaks of steps with few to many samples at once, up to what is usable. `micros`: these sizes and no others."""
    asked = {"kind": "sweep", "run": encode(_of_one(run)), "usable": usable, "micros": list(micros)}
    return [Measured(line["micro"], line["peak"]) for line in _ask(asked) if "micro" in line]


def _of_one(run: Run) -> Run:
    """What one of several processes does."""
    share = -(-run.train.batch // parallel.world())
    return replace(run, train=replace(run.train, batch=share, accumulate=min(run.train.accumulate, share)))


def _ask(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Lines of the answer, until the process ends, however it ends: one that is killed has no more to say."""
    alone = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    package = str(Path(__file__).resolve().parents[2])
    alone["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [alone.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tessella.verbs.trial"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=alone
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(asked | {"clock": time.monotonic()}))
            process.stdin.close()
            for text in process.stdout:
                line = json.loads(text)
                if "bad" in line:
                    raise BadInput(line["bad"])
                yield line
            code = process.wait()
            said.seek(0)
            words = " ".join(said.read().split())
            if code not in (0, -signal.SIGKILL, -signal.SIGABRT) and not _lacked(words):
                raise TessellaError(f"the trial of a few steps failed: {words[-300:]}")
        finally:
            process.kill()
            process.wait()


def _lacked(text: str) -> bool:
    """Whether the last words of a process are about memory: not all who lack it can raise an error of ours."""
    return any(words in text for words in (*memory.SAID, "MemoryError", "Resource temporarily unavailable"))


# -- who measures --------------------------------------------------------------------------------------------------


def main() -> None:
    asked = json.load(sys.stdin)
    run = decode(Run, asked["run"])
    out, sys.stdout = sys.stdout, sys.stderr  # whatever else prints is no answer

    def tell(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=out, flush=True)

    try:
        with tempfile.TemporaryDirectory(prefix="tessella-trial-", ignore_cleanup_errors=True) as folder:
            if asked["kind"] == "sweep":
                _limit_self()
                for found in _swept(Stage(run, Path(folder)), asked["usable"], asked["micros"]):
                    tell(found._asdict())
            else:
                tell({"figures": asdict(_rehearsed(Stage(run, Path(folder)), asked["clock"]))})
    except TessellaError as error:
        tell({"bad": str(error)})


def _limit_self() -> None:
    """The limits of this process a little lower than those of the run: what passes here has room there."""
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        soft, hard = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(kind, (int(soft * SHARE), hard))


class Stage:
    """A run with all that it has when it starts, but for its folder."""

    def __init__(self, run: Run, folder: Path):
        began = time.perf_counter()
        self.run, self.splits = run, build.open_splits(run)
        self.opening = time.perf_counter() - began
        built = build.objects(run, self.splits, folder)
        job = replace(built.job, quiet=True)
        self.trainer = Trainer(run.train, built.objective, job, torch.device(choose.device(run.train.device)[0]))
        for part in self.trainer.optimizer.parts:
            retry.allocate(part)
        self.stream: Any = built.batches(0)

    def step(self, progress: float, batch: Any = None, after: int = 0) -> float:
        """Seconds of one step, with the wait for its batch: so many `after` that of `progress`."""
        began = time.perf_counter()
        batch = next(self.stream) if batch is None else batch
        last = self.run.train.steps - 1
        self.trainer.step(min(last, round(progress * last) + after), batch, False, 0.0)
        return time.perf_counter() - began

    def peak(self) -> int:
        return memory.peak_bytes(self.trainer.device)

    def workers(self) -> int:
        """Bytes of the loading processes, as far as they are not the parent's."""
        return sum(memory.private(hand.process.pid) for hand in self.stream.workers.hands)

    def loading(self) -> float:
        """Seconds between two batches if nobody had to compute."""
        measures, hands = self.stream.workers.measures, len(self.stream.workers.hands)
        each = measures.wall / measures.samples if measures.samples and hands else 0.0
        return each * self.run.train.batch / max(1, hands)


def _swept(stage: Stage, usable: int, micros: Sequence[int]) -> Iterator[Measured]:
    """Two micro-batches at a time where a step has several: in the second, gradients are there already."""
    batch, trainer = next(stage.stream), stage.trainer
    most = stage.run.train.batch
    if trainer.objective.whole_batch:
        micros = [most]
    measured: list[Measured] = []
    left = iter(micros)
    while (micro := next(left, None) if micros else following(measured, usable, most)) is not None:
        parts = 1 if micro >= most else 2
        piece = cut(batch, 0, min(size(batch), parts * micro))
        lacking = False
        for progress in (0.0, 1.0):
            trainer.parts = parts
            lacking = lacking or not _fits(stage, progress, piece)
        measured.append(Measured(micro, None if lacking else stage.peak() + stage.workers()))
        yield measured[-1]
        if lacking:
            return


def _fits(stage: Stage, progress: float, piece: Any) -> bool:
    """Whether a step has room as it is cut."""
    parts = stage.trainer.parts
    try:
        stage.step(progress, piece)
    except BadInput as error:  # with single samples there is nothing left to cut
        if error.__cause__ is None or not memory.is_out_of_memory(error.__cause__):
            raise
        return False
    return stage.trainer.parts == parts


def _rehearsed(stage: Stage, clock: float) -> Figures:
    batch = next(stage.stream)
    start = time.monotonic() - clock
    first = sum(stage.step(0.0, batch if number == 0 else None) for number in range(WARM))
    once = stage.step(0.0)
    evaluation = _evaluated(stage)  # before most steps, as in the run: steps after it find memory in other pieces
    began = time.perf_counter()
    stage.trainer.save(1)
    save = time.perf_counter() - began
    visits = PROGRESS if once < SECONDS / 5 else PROGRESS[::2] if once < SECONDS else PROGRESS[4:]
    each = max(1 if once > SECONDS / 15 else 3, min(10, int(SECONDS / len(visits) / once)))
    taken = [[stage.step(progress, after=number) for number in range(each)] for progress in visits]
    typical = [max(_usual(seconds), stage.loading()) for seconds in taken]
    outputs = METRICS * stage.run.model.classes * (len(stage.splits.val) if stage.splits.val is not None else 0)
    on_host = stage.trainer.device.type == "cpu"
    return Figures(
        opening=stage.opening,
        start=start - stage.opening,
        first=max(0.0, first - WARM * typical[0]),
        steps=tuple(typical),
        evaluation=evaluation,
        save=save,
        peak=max(stage.peak(), memory.now() + outputs if on_host else 0),
        workers=stage.workers(),
        measured=WARM + 1 + each * len(visits),
    )


def _usual(seconds: list[float]) -> float:
    """The mean without what was disturbed; steps that are logged take a little longer, and that is no disturbance."""
    middle = statistics.median(seconds)
    return statistics.fmean(s for s in seconds if s <= 1.5 * middle)


class _EnoughSeen(Exception):
    """The rest of the evaluation would be more of the same."""


def _evaluated(stage: Stage) -> float:
    """Seconds that a whole evaluation takes, from the first seconds of one."""
    trainer, inner = stage.trainer, stage.trainer.job.evaluate
    if inner is None or stage.splits.val is None:
        return 0.0
    began, total = time.perf_counter(), build.looked_at(stage.run, stage.splits)
    seen: list[tuple[float, int]] = []  # (seconds, pictures so far) after each batch
    cut: list[bool] = []

    def evaluate(infer: Infer) -> dict[str, float]:
        def watched(batch: Any) -> Any:
            told = infer(batch)
            seen.append((time.perf_counter() - began, size(batch) + (seen[-1][1] if seen else 0)))
            if seen[-1][0] > EVALUATION and len(seen) > 2:
                raise _EnoughSeen
            return told

        try:
            return inner(watched)
        except _EnoughSeen:
            cut.append(True)
            return {trainer.best.name: 0.0}  # so that it keeps the best weights, if it is to

    trainer.job = replace(trainer.job, evaluate=evaluate)
    trainer.evaluate(0, Log(None, stage.run.train.steps, quiet=True))
    took = time.perf_counter() - began
    if not cut or seen[-1][1] >= total:
        return took
    (first, few), (last, many) = seen[0], seen[-1]
    return last + (total - many) * (last - first) / max(1, many - few)


if __name__ == "__main__":
    main()
