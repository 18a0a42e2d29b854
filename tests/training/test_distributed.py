"""What ends one rank ends all of them in the same line; and a group that is left is gone, threads and all."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks
from toys import Toy, toy_batches

from tessella import parallel
from tessella.errors import BadInput, TessellaError
from tessella.training import Job, TrainConfig, distributed, train


def threads() -> list[str]:
    """Of gloo, in this process."""
    names = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def in_ranks(who: int | None, shard: Any, honest: bool) -> tuple[str, int, list[str]]:
    """(what ended this rank, its exit code, the threads of gloo that it still has)"""

    def batches(start: int) -> Iterator[Any]:
        for step, batch in enumerate(toy_batches()(start), start):
            if step == 2 and parallel.rank() == who:
                raise BadInput("x.png is no picture")
            yield batch

    if not honest:
        distributed._one_verdict = lambda *_: nullcontext()  # type: ignore[assignment]
        distributed._MESHES = type("Forgets", (list,), {"append": lambda *_: None})()
    cfg = TrainConfig(steps=4, batch=12, precision="fp32", device="cpu", shard=shard)
    told = ("", 0)
    try:
        train(cfg, Toy(), batches, Job(quiet=True))
    except TessellaError as error:
        told = (str(error), error.exit_code)
    except RuntimeError as error:
        told = (str(error), -1)
    gc.collect()  # as at the exit
    return (*told, threads())


@pytest.mark.parametrize(("who", "shard"), [(0, "ddp"), (1, "fsdp")])
def test_one_line_on_every_rank(who: int, shard: str, tmp_path: Path) -> None:
    told = run_ranks(2, in_ranks, who, shard, True, out=tmp_path)
    assert [(text, code) for text, code, _ in told] == [("x.png is no picture", 2)] * 2


def test_a_lost_connection_is_seen(tmp_path: Path) -> None:
    """The mutation: a rank that leaves without a word is a failure of the network to the other."""
    told = run_ranks(2, in_ranks, 1, "ddp", False, out=tmp_path)
    assert told[1][:2] == ("x.png is no picture", 2) and told[0][1] == -1


@pytest.mark.parametrize("honest", [True, False])
def test_a_group_that_is_left_is_gone(honest: bool, tmp_path: Path) -> None:
    """A thread of it that outlives Python aborts the process now and then; here, without the mending, they stay."""
    for _, _, left in run_ranks(2, in_ranks, None, "fsdp", honest, out=tmp_path):
        assert bool(left) != honest
