"""What ends one rank ends all of them in the same line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks
from toys import Toy, toy_batches

from tessella import parallel
from tessella.errors import BadInput, TessellaError
from tessella.training import Job, TrainConfig, train


def in_ranks(who: int, shard: Any) -> tuple[str, int]:
    """(what ended this rank, its exit code)"""

    def batches(start: int) -> Iterator[Any]:
        for step, batch in enumerate(toy_batches()(start), start):
            if step == 2 and parallel.rank() == who:
                raise BadInput("x.png is no picture")
            yield batch

    cfg = TrainConfig(steps=4, batch=12, precision="fp32", device="cpu", shard=shard)
    try:
        train(cfg, Toy(), batches, Job(quiet=True))
    except TessellaError as error:
        return str(error), error.exit_code
    except RuntimeError as error:
        return str(error), -1
    return "", 0


@pytest.mark.parametrize(("who", "shard"), [(1, "fsdp")])
def test_one_line_on_every_rank(who: int, shard: str, tmp_path: Path) -> None:
    told = run_ranks(2, in_ranks, who, shard, out=tmp_path)
    assert told == [("x.png is no picture", 2)] * 2
