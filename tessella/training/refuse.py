"""What a configuration may not ask of an objective, or of the number of processes: said before the first step."""

from __future__ import annotations

from .. import parallel
from ..errors import BadInput
from ..objectives.objective import Objective
from .settings import TrainConfig


def refuse(objective: Objective, cfg: TrainConfig, evaluated: bool) -> None:
    """`evaluated`: something is held out to evaluate on."""
    name, world = type(objective).__name__, parallel.world()
    batch, accumulate = cfg.batch, cfg.accumulate
    if objective.whole_batch and accumulate > 1:
        raise BadInput(
            f"train.accumulate is {accumulate}, but {name} compares the samples of a batch with each other, "
            "and a cut batch is another loss; use accumulate = 1 and chunks inside the objective"
        )
    if objective.whole_batch and batch % world:  # collectives of uneven size abort or hang
        raise BadInput(
            f"train.batch is {batch} for {world} processes, but {name} compares the samples of all of them; "
            f"use a multiple of {world}"
        )
    if objective.own_average and cfg.ema is not None:
        raise BadInput(f"train.ema is {cfg.ema}, but {name} ships its own teacher, an average; leave ema out")
    if accumulate > batch // world:  # a rank with fewer micro-batches than another would be waited for
        raise BadInput(
            f"train.accumulate is {accumulate}, but a process has {batch // world} samples a step only; "
            f"use at most {max(1, batch // world)}"
        )
    if cfg.best and not evaluated:
        raise BadInput(f"train.best is {cfg.best!r}, but nothing is held out to evaluate on; leave it out")
    if cfg.thaw and cfg.shard == "fsdp" and world > 1:  # FSDP2 settles which shards learn when it cuts them
        raise BadInput(f"train.thaw is {cfg.thaw:g}, but shards cannot begin to learn later; use --train.shard ddp")
