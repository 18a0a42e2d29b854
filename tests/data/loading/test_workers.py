"""Workers may be killed, hang, or meet a file that kills whoever reads it: nothing is lost, nothing comes twice."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbered import Numbers

from tessella.data.loading import shared, workers
from tessella.data.loading.order import Key
from tessella.data.loading.quarantine import Bad
from tessella.data.loading.samples import Made, Task
from tessella.data.loading.workers import Workers
from tessella.errors import BadInput

BATCH = 4


def tasks(n: int, batch: int = BATCH) -> Iterator[Task]:
    for i in range(n):
        yield Task(0, [Key(0, i * batch + j) for j in range(batch)])


def check(made: Sequence[Made], n: int, holes: dict[int, str] | None = None) -> None:
    """All tasks in order, each sample once, or missing for the reason given."""
    holes = holes or {}
    assert [m.task.keys for m in made] == [t.keys for t in tasks(n)]
    for m in made:
        kept = [key.sample for key in m.task.keys if key.sample not in holes]
        assert m.batch["ids"] == [f"{i:04}.jpg" for i in kept]
        assert m.batch["image"][:, 0, 0, 0].tolist() == [i % 256 for i in kept]
        assert bool((m.batch["image"] == m.batch["image"][:, :1, :1, :1]).all())
        gone = {key.sample for key in m.task.keys} & holes.keys()
        assert {m.task.keys[place].sample for place in m.bad} == gone
        assert all(holes[m.task.keys[place].sample] in bad.reason for place, bad in m.bad.items())


def unreadable() -> None:
    raise BadInput("is no picture")


def die(number: int) -> Callable[[], None]:
    def act() -> None:
        faulthandler.disable()  # pytest's: it would print where the worker was
        os.kill(os.getpid(), number)

    return act


def crash() -> None:
    """A read of nowhere, as a broken library does it."""
    faulthandler.disable()
    ctypes.string_at(0)


class Once:
    """Acts in the first process that comes by, and never again."""

    def __init__(self, place: Path, act: Callable[[], object]) -> None:
        self.place, self.act = place, act

    def __call__(self) -> None:
        try:
            os.close(os.open(self.place, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        self.act()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches_come_in_order_with_their_holes(count: int) -> None:
    data = Numbers({5: unreadable, 8: unreadable, 9: unreadable, 10: unreadable, 11: unreadable})
    made = list(Workers(data, count).made(tasks(7)))
    check(made, 7, dict.fromkeys((5, 8, 9, 10, 11), "is no picture"))
    assert made[2].batch["image"].shape == (0, 3, 32, 32)
    assert made[1].bad == {1: Bad("0005.jpg", "is no picture")}
    assert len({pid for m in made for pid in m.batch["pid"]} - {os.getpid()}) == count
    assert list(Workers(data, count).made([])) == []
    assert [len(m.batch["ids"]) for m in Workers(data, count).made([Task(0, [])])] == [0]


def test_a_killed_worker_is_named_and_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    data = Numbers({i: lambda: time.sleep(0.02) for i in range(1000)})
    made = []
    crew = Workers(data, 2)
    for m in crew.made(tasks(12)):
        made.append(m)
        if len(made) == 3:
            first = {h.process.pid for h in crew.hands}
            os.kill(crew.hands[0].process.pid, signal.SIGKILL)
    check(made, 12)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "was killed by SIGKILL" in err and "GB free" in err and "started again" in err
    assert len({pid for m in made for pid in m.batch["pid"]} | first) == 3 and os.getpid() not in made[-1].batch["pid"]


def test_the_second_death_without_a_culprit_ends_the_workers(capsys: pytest.CaptureFixture[str]) -> None:
    data = Numbers({i: lambda: time.sleep(0.02) for i in range(1000)})
    made, crew = [], Workers(data, 2)
    for m in crew.made(tasks(14)):
        made.append(m)
        if len(made) in (3, 7):
            os.kill(crew.hands[1].process.pid, signal.SIGKILL)
    check(made, 14)
    lines = capsys.readouterr().err.splitlines()
    assert "started again" in lines[0] and "going on without workers" in lines[1] and len(lines) == 2
    assert made[-1].batch["pid"] == [os.getpid()] * BATCH


@pytest.mark.parametrize("times", [1, 2])
def test_all_workers_killed_at_one_time(times: int, capsys: pytest.CaptureFixture[str]) -> None:
    data = Numbers({i: lambda: time.sleep(0.01) for i in range(1000)})
    made, crew = [], Workers(data, 3)
    for m in crew.made(tasks(16)):
        made.append(m)
        if len(made) in (3, 8)[:times]:
            for hand in crew.hands:
                os.kill(hand.process.pid, signal.SIGKILL)
            time.sleep(0.2)
    check(made, 16)
    assert "going on without workers" in capsys.readouterr().err and not crew.hands


@pytest.mark.parametrize(("act", "signal_name"), [(crash, "SIGSEGV"), (die(signal.SIGBUS), "SIGBUS")])
def test_a_file_that_kills_is_left_out(
    act: Callable[[], None], signal_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of them, and one that is unreadable: each costs a worker, not the run; twice in the tasks, one death."""
    data = Numbers({6: act, 17: act, 9: unreadable})
    crew = Workers(data, 2)
    made = list(crew.made(tasks(9)))
    reasons = {6: "0006.jpg kills the process that decodes it", 17: "0017.jpg kills", 9: "is no picture"}
    check(made, 9, reasons)
    assert made[1].bad[2].deadly and not made[2].bad[1].deadly
    err = capsys.readouterr().err
    assert err.count(f"killed by {signal_name} while it read 0006.jpg") == 1 and crew.deaths == 0
    check(list(crew.made(tasks(3))), 3, reasons)  # known by now: nobody dies
    assert capsys.readouterr().err == ""


def test_a_death_that_does_not_come_again_is_not_the_files_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Numbers({6: Once(tmp_path / "died", die(signal.SIGKILL))})
    check(list(Workers(data, 2).made(tasks(6))), 6)
    err = capsys.readouterr().err
    assert "while it read 0006.jpg" in err and "memory:" in err and "started again" in err


def test_a_hung_worker_is_named_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Numbers({6: Once(tmp_path / "hung", lambda: time.sleep(60)), 13: lambda: time.sleep(60)})
    began = time.monotonic()
    check(list(Workers(data, 2, patience=0.7).made(tasks(5))), 5, {13: "longer than 0.7 s"})
    err = capsys.readouterr().err
    assert "hung for more than 0.7 s and was killed while it read 0006.jpg" in err and time.monotonic() - began < 15


def test_a_stopped_worker_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    made, crew = [], Workers(Numbers(), 2, patience=1.0)
    for m in crew.made(tasks(12)):
        made.append(m)
        if len(made) == 2:
            time.sleep(0.2)
            os.kill(crew.hands[0].process.pid, signal.SIGSTOP)
    check(made, 12)
    assert "hung" in capsys.readouterr().err


def test_faults_of_the_program_keep_their_traceback() -> None:
    def broken() -> None:
        raise ZeroDivisionError("of the program")

    with pytest.raises(RuntimeError, match=r"(?s)worker \d failed.*in broken.*ZeroDivisionError: of the program"):
        list(Workers(Numbers({6: broken}), 2).made(tasks(6)))
    with pytest.raises(ZeroDivisionError):
        list(Workers(Numbers({6: broken}), 0).made(tasks(6)))


def test_leaving_early_ends_the_workers_and_does_not_wait_for_their_batches() -> None:
    data = Numbers({i: lambda: time.sleep(0.05) for i in range(1000)})
    crew = Workers(data, 2)
    stream = crew.made(tasks(20, batch=50))
    next(stream)
    pids = [h.process.pid for h in crew.hands]
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 1.5  # a batch takes 2.5 s
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


ORPHANS = """
import os, sys, signal, time
sys.path[:0] = {folders!r}
from test_workers import Numbers, Workers, tasks
one, two = Workers(Numbers(), 2), Workers(Numbers(), 2)  # training and evaluation
streams = [one.made(tasks(100)), two.made(tasks(100))]
for stream in streams:
    next(stream)
os.kill(one.hands[0].process.pid, signal.SIGKILL)  # its successor is younger than the second two
for _ in range(8):
    next(streams[0])
print(*[h.process.pid for c in (one, two) for h in c.hands], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_do_not_outlive_a_killed_main_process() -> None:
    code = ORPHANS.format(folders=[str(p) for p in Path(__file__).parents[:3]])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 4
    until = time.monotonic() + 15
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.kill(pid, 0)
                time.sleep(0.05)
            pytest.fail(f"worker {pid} lives on")


# ---------------------------------------------------------------- shared memory


def trip(room: shared.Room, mapped: shared.Mapped, batch: Any) -> Any:
    packed = room.pack(batch)
    if packed.made:
        mapped.add(packed.slot, room.handle(packed.slot), packed.made)
    return mapped.unpack(packed)


def test_batches_travel_whole_and_slots_are_used_again() -> None:
    room, mapped = shared.Room(), shared.Mapped()
    kept = None
    for step in range(8):
        room.begin()
        room.give_back(mapped.take_returned())
        images = room.empty((8, 3, 64, 64), torch.uint8).random_(0, 255)
        batch = {
            "image": images,
            "label": torch.arange(8),
            "other": torch.randn(50_000),
            "list": [np.arange(5000.0), torch.ones(3, dtype=torch.bool), "text", None, 3],
            "half": torch.ones(40, 100, dtype=torch.bfloat16).T,  # not contiguous
            "scalar": torch.tensor(3.0),
            "empty": torch.empty(0, 3),
        }
        wanted = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        got = trip(room, mapped, batch)
        for key, value in wanted.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(got[key], value) and got[key].dtype == value.dtype, key
        assert np.array_equal(got["list"][0], np.arange(5000.0)) and got["list"][2:] == ["text", None, 3]
        if step == 2:
            kept, still = got["image"][3:5], wanted["image"][3:5]  # a part of a batch keeps its slot
        del got, batch, images
        gc.collect()
    assert torch.equal(kept, still) and len(room.slots) <= 3


def test_a_slot_that_went_back_too_early_is_seen() -> None:
    """The mutation: a slot that is written while somebody looks at it changes under their eyes."""
    room, mapped = shared.Room(), shared.Mapped()
    first = trip(room, mapped, {"image": torch.zeros(9000, dtype=torch.uint8)})
    room.give_back([1])
    trip(room, mapped, {"image": torch.ones(9000, dtype=torch.uint8)})
    assert bool((first["image"] == 1).all())


def test_whoever_keeps_every_batch_still_gets_them() -> None:
    """More than there may be slots: the rest comes through the pipe."""
    made = list(Workers(Numbers(), 1).made(tasks(shared.MOST + 8)))
    check(made, shared.MOST + 8)


def test_without_shared_memory_and_by_spawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that have neither."""
    monkeypatch.setattr(workers.sys, "platform", "darwin")
    crew = Workers(Numbers(n=64), 1)
    assert crew._context.get_start_method() == "spawn"
    check(list(crew.made(tasks(3))), 3)


def test_one_thread_and_no_random_state_touched() -> None:
    before = torch.get_rng_state()
    list(itertools.islice(Workers(Numbers(), 1).made(tasks(2)), 2))
    assert torch.equal(before, torch.get_rng_state())
