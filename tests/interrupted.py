"""A real training run, cut off anywhere: what it left must be whole, and it must become what it would have been.

Two workers, augmentation, dropout, averaged weights, accumulation, a state every second step. The bar is the bytes of
the model and of the last state.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import commands
import deaths
from commands import DISTURBED, Done, Started, files_of, hash_of, photos, temporary_files_in, wait_for, words

from tessella.data.loading import pictures
from tessella.errors import BadInput
from tessella.runtime.load import load
from tessella.training import state
from tessella.training.log import Log
from tessella.training.stop import AGAIN

Before = Callable[[], object]


@dataclass
class Trial:
    """One data folder, the undisturbed run's files, and runs to disturb beside it."""

    place: Path
    steps: int = 8
    fresh: bool = False  # each command in a Python of its own, instead of a fork of this one
    data: str = ""
    expected: dict[str, str] | None = None
    life: float = 0.0  # seconds that the undisturbed run took from its folder's appearance to its end
    made: int = 0

    def prepare(self) -> Trial:
        self.place.mkdir(parents=True, exist_ok=True)
        self.data = hash_of(photos(self.place / "photos"))
        whole = self.folder()
        running = self.begin(whole)
        assert wait_for((whole / "run.json").is_file)
        began = time.monotonic()
        done = running.wait()
        assert done.code == 0, done.err
        self.life = time.monotonic() - began
        self.expected = files_of(whole)
        return self

    def folder(self) -> Path:
        """A new run's; always the same name, because the name is part of the model's card."""
        self.made += 1
        return self.place / f"runs-{self.made}" / "run"

    def begin(self, run: Path, before: Before | None = None) -> Started:
        where = ("--folder", run.parent, "--name", run.name)
        settings = words(DISTURBED | {"train.steps": self.steps})
        return commands.start(
            "train", "photos", *settings, *where, before=before, place=self.place, fresh=self.fresh and before is None
        )

    def go_on(self, run: Path, *more: str, before: Before | None = None) -> Started:
        if (run / "run.json").is_file():
            return commands.start(
                "train", "--resume", run, *more, before=before, place=self.place, fresh=self.fresh and before is None
            )
        assert not run.exists() or not list(run.glob("*.json")) or not (run / "state").exists()
        shutil.rmtree(run, ignore_errors=True)  # it died before it was a run
        return self.begin(run, before)

    def finish(self, run: Path, *more: str) -> bool:
        """Whether the run, gone on with, ends as the undisturbed one; its folder is removed."""
        done = self.go_on(run, *more).wait()
        assert done.code == 0 and "passed over" not in done.err, done.err
        assert hash_of(self.place / "photos") == self.data, "the data folder was touched"
        same = files_of(run) == self.expected
        assert [row["step"] for row in rows(run) if "loss" in row] == list(range(self.steps)), (
            "the log has gaps or repeats"
        )
        shutil.rmtree(run.parent)
        for file in self.place.glob(".said-*"):
            file.unlink()
        return same


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def sound(run: Path) -> list[int]:
    """Every state and model that can be seen is whole, before anything is mended; the steps of the states."""
    steps = []
    for path in sorted((run / "state").glob("step-*")):
        steps.append(state.load(path).step)
    if (run / "model").exists():
        load(run)
    else:
        with contextlib.suppress(BadInput):
            load(run)  # says that there is none, and nothing else
    return steps


# -- at an instant -----------------------------------------------------------------------------------------------------


def at_instants(trial: Trial, count: int, seed: int) -> Iterator[tuple[bool, int]]:
    """(ended as the undisturbed run, steps in its newest state when it died), for each of `count` deaths."""
    instants = random.Random(seed)
    while count:
        run = trial.folder()
        running = trial.begin(run)
        wait_for(lambda: (run / "run.json").is_file() or running.ended())  # noqa: B023
        wait_for(running.ended, instants.uniform(0, trial.life))
        running.kill()
        code = running.wait().code
        steps = sound(run)
        same = trial.finish(run)
        if code == -signal.SIGKILL:  # else it was quicker than the undisturbed run, and had ended: another one
            yield same, max(steps, default=0)
            count -= 1
        else:
            assert code == 0 and same
            trial.life *= 0.8


def again_and_again(trial: Trial, seed: int, times: int) -> bool:
    """One run, killed many times over, each time soon after its next row of figures; whether it ended well."""
    instants = random.Random(seed)
    run = trial.folder()
    log = run / "log.jsonl"
    for k in range(times):
        before = log.stat().st_mtime_ns if log.exists() else 0
        running = trial.go_on(run, before=slowly) if k else trial.begin(run, slowly)
        assert wait_for(lambda: log.exists() and log.stat().st_size > 0 and log.stat().st_mtime_ns > before)  # noqa: B023
        time.sleep(instants.uniform(0, 0.2))
        running.kill()
        assert running.wait().code == -signal.SIGKILL
        sound(run)
    return trial.finish(run)


# -- at an operation ---------------------------------------------------------------------------------------------------


def inside(folder: Path, strike: deaths.Strike) -> Before:
    """`strike` at the operations of the training process (not its workers) on this folder (not on pipes, sockets)."""

    def touches(args: tuple[Any, ...]) -> bool:
        first = args[0] if args else ""
        if isinstance(first, int):
            try:
                return os.readlink(f"/proc/self/fd/{first}").startswith(str(folder))
            except OSError:
                return False
        path = os.fsdecode(first)
        return path.startswith(str(folder)) or not os.path.isabs(path)  # relative: removing a tree goes by handles

    def before() -> None:
        pid = os.getpid()

        def filtered(name: str, args: tuple[Any, ...], function: Callable[..., Any]) -> None:
            if os.getpid() == pid and touches(args):
                strike(name, args, function)

        os.fsync = lambda handle: None  # a kill does not need the disk, only a power cut does
        deaths.intercept(filtered)

    return before


def operations(trial: Trial) -> list[str]:
    """What the training process does to its folder, in order."""
    run, record = trial.folder(), trial.place / "operations"

    def strike(name: str, args: tuple[Any, ...], function: Callable[..., Any]) -> None:
        target = args[0] if not isinstance(args[0], int) else os.readlink(f"/proc/self/fd/{args[0]}")
        with open(record, "a", encoding="utf-8") as file:
            file.write(f"{name} {target}\n")

    done = trial.begin(run, inside(run, strike)).wait()
    assert done.code == 0, done.err
    assert files_of(run) == trial.expected, "the watching alone changed the result"
    shutil.rmtree(run.parent)
    return record.read_text().splitlines()


def one_save(done: list[str]) -> list[int]:
    """The numbers of the operations of the save at step 4, state and model, in the middle of the run."""
    first = next(i for i, line in enumerate(done) if "step-000004" in line)
    last = next(i for i, line in enumerate(done) if "step-000006" in line)
    return list(range(first + 1, last + 1))


def turning_points(done: list[str]) -> list[int]:
    """All operations, but of the writes that follow each other into one file only the first and the last."""
    ends = ["", *done, ""]
    return [
        i for i, line in enumerate(done, 1) if not (line.startswith("write") and ends[i - 1] == line == ends[i + 1])
    ]


def at_operation(trial: Trial, number: int, more: tuple[str, ...] = ()) -> bool:
    """Killed in place of operation `number`, gone on with; whether it ended as the undisturbed run."""
    run = trial.folder()
    done = trial.begin(run, inside(run, deaths.killed_at(number))).wait()
    assert done.code == -signal.SIGKILL, f"operation {number}: {done.code} {done.err}"
    sound(run)
    return trial.finish(run, *more)


def at_operations(trial: Trial, numbers: list[int], temporary: str | None = None) -> int:
    """How many of these deaths were survived without a trace."""
    with temporary_files_in(temporary) if temporary else contextlib.nullcontext():
        return sum(at_operation(trial, number) for number in numbers)


# -- asked to stop -----------------------------------------------------------------------------------------------------


def slowly() -> None:
    """Each step takes its time, so that a signal meets a run at work."""
    advance = Log.advance

    def slow(self: Log, step: int) -> None:
        time.sleep(0.1)
        advance(self, step)

    Log.advance = slow  # type: ignore[method-assign]


def asked(
    trial: Trial, whom: Literal["process", "group"], number: int = signal.SIGTERM
) -> tuple[Done, list[int], bool]:
    """(what it said, the states it left, whether it then ended as the undisturbed run)"""
    run = trial.folder()
    running = trial.begin(run, slowly)
    log = run / "log.jsonl"
    assert wait_for(lambda: log.is_file() and len(log.read_text().splitlines()) >= 2)
    running.kill(number, group=whom == "group")
    done = running.wait()
    return done, sound(run), trial.finish(run)


def stuck() -> None:
    """The fourth step does not come to its end."""
    advance = Log.advance

    def forever(self: Log, step: int) -> None:
        time.sleep(1000 if step == 3 else 0)
        advance(self, step)

    Log.advance = forever  # type: ignore[method-assign]


def asked_twice(trial: Trial) -> tuple[Done, float, bool]:
    """(what it said, seconds from the second Ctrl-C to its end, whether it then ended as the undisturbed run)"""
    run = trial.folder()
    running = trial.begin(run, stuck)
    assert wait_for(lambda: '"step": 3' in ((run / "log.jsonl").read_text() if (run / "log.jsonl").is_file() else ""))
    running.kill(signal.SIGINT)
    assert wait_for(lambda: b"again leaves at once" in running.files[1].read_bytes())
    running.kill(signal.SIGINT)  # as torchrun passes it on
    time.sleep(AGAIN + 0.2)
    assert not running.ended()
    running.kill(signal.SIGINT)
    began = time.monotonic()
    done = running.wait()
    return done, time.monotonic() - began, trial.finish(run)


# -- what must be seen -------------------------------------------------------------------------------------------------


def seeded_by_process() -> None:
    """The mutation: augmentation that depends on which process draws it."""
    honest = pictures.generator

    def generator(*key: int | str) -> Any:
        return honest(*key, os.getpid())

    pictures.generator = generator  # type: ignore[assignment]
