"""The collectives against plain formulas: what n processes compute is what one process computes over n shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor

from tessella import parallel
from tessella.training import distributed

ROWS = 3
KINDS = (torch.float64, torch.float32, torch.bfloat16, torch.int64)


def share(rank: int, kind: torch.dtype = torch.float64) -> Tensor:
    """(ROWS, 2) what this rank brings: whole numbers, exact in every type."""
    return (torch.arange(2 * ROWS).view(ROWS, 2) + 10 * rank).to(kind)


def loss_of(gathered: Tensor, rank: int) -> Tensor:
    """Another function of all rows on each rank, so that a gradient that misses a rank is a wrong gradient."""
    weight = torch.arange(1.0, gathered.numel() + 1, dtype=gathered.dtype).view_as(gathered)
    return (gathered.square() * weight).sum() * (rank + 1)


def in_ranks() -> dict[str, Any]:
    with distributed.processes(torch.device("cpu"), 60.0):
        rank, mine = parallel.rank(), share(parallel.rank())
        tall, before = mine.mT, mine.clone()  # not contiguous: 2 rows
        leaf = mine.clone().requires_grad_()
        gathered = parallel.gather_with_gradient(leaf)
        loss_of(gathered, rank).backward()
        parallel.barrier()
        summed = parallel.sum_over_ranks(leaf)
        return {
            "who": [parallel.active(), rank, parallel.world(), parallel.is_main()],
            "sums": [parallel.sum_over_ranks(share(rank, kind)) for kind in KINDS],
            "sum of columns": parallel.sum_over_ranks(tall),
            "mean": parallel.mean_over_ranks(mine),
            "free": [summed.requires_grad, torch.equal(mine, before)],
            "gathered": gathered.detach(),
            "gathered columns": parallel.gather_with_gradient(tall),
            "gradient": leaf.grad,
            "objects": parallel.gather_objects({"rank": rank, "text": "é" * rank}),
        }


@pytest.mark.parametrize("n", [2, 3])
def test_collectives_are_the_plain_formulas(n: int, tmp_path: Path) -> None:
    told = run_ranks(n, in_ranks, out=tmp_path)
    shares = [share(r) for r in range(n)]
    leaves = [s.clone().requires_grad_() for s in shares]
    sum(loss_of(torch.cat(leaves), r) for r in range(n)).backward()  # the gradient of the sum over ranks
    for rank, mine in enumerate(told):
        assert mine["who"] == [True, rank, n, rank == 0]
        for kind, found in zip(KINDS, mine["sums"], strict=True):
            assert found.dtype == kind and torch.equal(found, sum(shares).to(kind))
        assert torch.equal(mine["sum of columns"], sum(shares).mT)
        assert torch.equal(mine["mean"], sum(shares) / n)
        assert mine["free"] == [False, True]
        assert torch.equal(mine["gathered"], torch.cat(shares))
        assert torch.equal(mine["gathered columns"], torch.cat([s.mT for s in shares]))
        assert torch.equal(mine["gradient"], leaves[rank].grad)
        alone = shares[rank].clone().requires_grad_()  # the mutation: a gather that forgets the other ranks' losses
        everyone = [alone if r == rank else s for r, s in enumerate(shares)]
        loss_of(torch.cat(everyone), rank).backward()
        assert not torch.equal(mine["gradient"], alone.grad)
        assert mine["objects"] == [{"rank": r, "text": "é" * r} for r in range(n)]


def test_one_process_is_the_identity() -> None:
    x = share(0).requires_grad_()
    assert (parallel.active(), parallel.rank(), parallel.world(), parallel.is_main()) == (False, 0, 1, True)
    parallel.barrier()
    assert parallel.gather_with_gradient(x) is x
    assert parallel.gather_objects("a") == ["a"]
    for found in (parallel.sum_over_ranks(x), parallel.mean_over_ranks(x)):
        assert torch.equal(found, x) and not found.requires_grad
        found.zero_()
    assert torch.equal(x, share(0)), "a collective gives a new tensor"


def test_each_process_of_a_machine_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(distributed, "rendezvous", lambda address: iter([(None, 1, 2)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **options: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    for device in ("cuda", "cuda:0", "cpu"):  # one that was named is taken as it is
        with distributed.processes(torch.device(device)):
            pass
    assert taken == [1]
