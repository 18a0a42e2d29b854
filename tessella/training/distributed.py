"""Several processes, one objective: the group, DDP or FSDP2 around it, shards to whole tensors and back."""

from __future__ import annotations

import atexit
import gc
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from .. import parallel
from ..errors import BadInput, Stopped, TessellaError
from ..objectives.objective import Objective, Tower


@contextmanager
def processes(device: torch.device, seconds: float = 600.0) -> Iterator[None]:
    """Joins the group that `torchrun` describes, for the time of the block; without one, or inside one: nothing."""
    if parallel.active() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda" and device.index is None:  # else all processes of a machine would share its first GPU
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if device.type == "cuda" else "gloo"
    store, rank, world = next(iter(rendezvous("env://")))
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds), store=store, rank=rank, world_size=world)
    try:
        with _one_verdict(store, rank, world):
            parallel.barrier()  # who leaves while others still connect leaves them a traceback instead of its line
            try:
                yield
            except Stopped:
                parallel.barrier()  # all ranks stop at the same step
                raise
            parallel.barrier()  # a rank that left before the others made them abort: 3 of 12 runs, with this 0 of 12
    finally:
        _leave()


def _leave() -> None:
    """Out of the group, which must be gone when Python ends: a thread of it that then still drops a tensor aborts the
    process ("terminate called without an active exception"), after all work is done. What keeps it otherwise: the
    mesh, which DTensor's caches keep for ever, and objectives that nobody needs but that were not collected yet."""
    if parallel.active():
        dist.destroy_process_group()
    while _MESHES:
        vars(_MESHES.pop()).get("_pg_registry", {}).clear()
    atexit.unregister(gc.collect)
    atexit.register(gc.collect)


_MESHES: list[Any] = []  # of the group that this process is in
WORD = "tessella/word"  # key of the store: why a rank left
LISTEN = 20.0  # seconds in which the others can read it


@contextmanager
def _one_verdict(store: Any, rank: int, world: int) -> Iterator[None]:
    """What ends one rank in a line, as a picture that only it reads, would be a lost connection to the others."""
    try:
        yield
    except Stopped:
        raise
    except TessellaError as error:
        store.set(WORD, json.dumps({"exit_code": error.exit_code, "text": str(error)}))
        dist.destroy_process_group()  # whoever waits for this rank sees now that it has gone
        until = time.monotonic() + LISTEN
        here = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else the store outlives us
        while here and store.add(f"{WORD}/read", 0) < world - 1 and time.monotonic() < until:
            time.sleep(0.05)
        raise
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)) or not store.check([WORD]):
            raise
        word = json.loads(store.get(WORD))
        store.add(f"{WORD}/read", 1)
        same = TessellaError(word["text"])
        same.exit_code = word["exit_code"]
        raise same from None


GRAPHS = 128  # most of one class of blocks: networks x stages x shifts x (training, evaluating) x sizes of pictures


def compile_units(objective: nn.Module) -> int:
    """Compiles the repeated blocks in place, one by one: equal blocks share one graph. Returns how many."""
    # All blocks of a class share one store of 8 graphs; a ninth would run uncompiled, and only a warning would say so.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    units = {id(unit): unit for m in objective.modules() if isinstance(m, Tower) for unit in m.units()}
    for unit in units.values():
        unit.compile()
    return len(units)


def spread(objective: Objective, device: torch.device, how: Literal["ddp", "fsdp"]) -> nn.Module:
    """What the trainer calls instead of `objective`; the same module where there is one process."""
    refuse_two_names(objective)
    if not parallel.active():
        return objective
    if how == "ddp":
        ids = [device.index] if device.type == "cuda" else None
        ddp = nn.parallel.DistributedDataParallel
        silent: dict[str, Any] = {_buffer_option(ddp): False}  # buffers are equal by contract
        return ddp(objective, device_ids=ids, gradient_as_bucket_view=True, **silent)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for tensor in objective.state_dict().values():
        dist.broadcast(tensor, 0)  # fully_shard trusts that all ranks start equal
    mesh = init_device_mesh(device.type, (parallel.world(),))
    _MESHES.append(mesh)
    towers = [m for m in objective.modules() if isinstance(m, Tower)][::-1]  # inner ones first
    modules = [unit for tower in towers for unit in tower.units()] + [t for t in towers if isinstance(t, nn.Module)]
    seen: set[int] = set()
    for module in [*modules, objective.model, objective]:
        if id(module) not in seen:
            fully_shard(module, mesh=mesh)
            seen.add(id(module))
    register_fsdp_forward_method(objective, "infer")
    for name in objective.calls:
        register_fsdp_forward_method(objective.model, name)
    return objective


def _buffer_option(ddp: type) -> str:
    """torch 2.15 renamed it."""
    known = inspect.signature(ddp).parameters
    return "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"


def refuse_two_names(objective: nn.Module) -> None:
    """Of every tensor that will be saved. Seen here and not at the save: shards and copies from a device do not show
    that they were one tensor, and half an hour of training is lost by then."""
    names: dict[int, str] = {}
    for name, tensor in objective.state_dict(keep_vars=True).items():
        other = names.setdefault(id(tensor), name)
        if other != name:
            what = f"{other!r} and {name!r} are one tensor of {type(objective).__name__} and would be saved twice"
            raise TessellaError(f"{what}; register its module once, and make the other name a property")


@contextmanager
def synchronised(call: nn.Module, now: bool) -> Iterator[None]:
    """Gradients are exchanged in the backward pass of the last micro-batch only."""
    if isinstance(call, nn.parallel.DistributedDataParallel) and not now:
        with call.no_sync():
            yield
        return
    if is_sharded(call):
        call.set_requires_gradient_sync(now)  # type: ignore[operator]
    yield


def is_sharded(module: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Full tensors in this machine's memory, on the main rank; a collective, one tensor after the other."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()
        if parallel.is_main():
            out[name] = full.cpu()
    return out


def like(full: Tensor, example: Tensor) -> Tensor:
    """`full`, which every rank has, laid out as `example` is: its device, and its shards if it has some."""
    full = full.to(device=example.device, dtype=full.dtype)
    if isinstance(example, DTensor):
        return distribute_tensor(full, example.device_mesh, example.placements, src_data_rank=None)
    return full


def unsharded(tensor: Tensor) -> Tensor:
    """All of it, on every rank; of shards a collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """What lies on this rank; written to, the shard itself changes."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def fill(here: dict[str, Tensor], saved: dict[str, Tensor], what: str) -> None:
    """Saved whole tensors into the ones here, which may be shards."""
    if here.keys() != saved.keys():
        odd = sorted(here.keys() ^ saved.keys())
        raise BadInput(f"the saved {what} has other tensors than this one: {', '.join(odd[:5])}; was it changed?")
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(like(saved[name], tensor))


def norm_of(gradients: list[Tensor]) -> Tensor:
    total: Tensor = nn.utils.get_total_norm(gradients)
    return unsharded(total)


def on_every_rank(work: Callable[[], Any]) -> Any:
    """Runs `work` on the main rank; an error there is an error everywhere, so nobody waits for a rank that has gone."""
    error: BaseException | None = None
    result = None
    if parallel.is_main():
        try:
            result = work()
        except Exception as caught:
            error = caught
    told = parallel.gather_objects("" if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    if told[0]:
        raise RuntimeError(f"rank 0 failed: {told[0]}")
    return result
