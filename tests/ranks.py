"""Runs a function of a test in n processes that form a group over gloo, as torchrun would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _enter(rank: int, n: int, port: int, function: Callable[..., Any], args: tuple[Any, ...], out: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.save(function(*args), f"{out}/rank{rank}.pt")


def run_ranks(n: int, function: Callable[..., Any], *args: Any, out: Any) -> list[Any]:
    """What `function(*args)` returns on each rank. It must be importable: a plain function of a test module."""
    mp.start_processes(_enter, (n, _free_port(), function, args, str(out)), nprocs=n, start_method="spawn")
    return [torch.load(f"{out}/rank{r}.pt", weights_only=True) for r in range(n)]
