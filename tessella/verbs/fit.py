"""A settled run cut so that it stays below a limit of memory: `--memory 8GB`, or what is there with `--batch auto`.

The global batch stays what it was, so the result stays the same: first come smaller micro-batches, then blocks that are
computed twice. Only where even a single picture is too much, and a limit was named, do blocks stop learning.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .. import parallel
from ..build import Choices, Run
from ..config import override
from ..errors import BadInput
from ..models.size import parameters
from ..training import choose, distributed, memory
from ..training.memory import Limit, show
from ..training.plan import SHARE, Change, Measured, Plan, Tried, search
from . import trial

AUTO = "auto"
REMAT, FREEZE = "model.backbone.remat", "train.freeze"


def fitted(choices: Choices, given: dict[str, str]) -> Choices:
    """The run with `train.accumulate` and what else must change; as it was where nobody asked."""
    run = choices.run
    if not run.memory:
        return choices
    limit = _limit(run)
    tried = parallel.gather_objects(distributed.on_every_rank(lambda: _tried(run, given, limit)))[0]
    if tried.plan is None:
        raise BadInput(_refusal(run, tried, limit))
    most = -(-run.train.batch // parallel.world())
    plan = tried.plan
    change = (
        dict(plan.change) if "train.accumulate" in given else plan.change | {"train.accumulate": -(-most // plan.micro)}
    )
    reasons: dict[str, tuple[Any, str]] = {
        key: (value, _reason(key, value, plan, limit)) for key, value in change.items()
    }
    settled, _ = override(run, [change])
    return replace(choices, run=settled, reasons=choices.reasons | reasons)


def _limit(run: Run) -> Limit:
    device = torch.device(choose.device(run.train.device)[0])
    limit = memory.available(device)
    if run.memory != AUTO:
        limit = min(limit, Limit(memory.read_size(run.memory), "asked for"))
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    return limit if sharing == 1 else Limit(limit.bytes // sharing, f"{limit.why}, for each of {sharing} processes")


def _tried(run: Run, given: dict[str, str], limit: Limit) -> Tried:
    """Takes some seconds for each way that must be measured."""
    most, usable = -(-run.train.batch // parallel.world()), int(limit.bytes * SHARE)
    fixed = [-(-most // run.train.accumulate)] if "train.accumulate" in given else []

    def measure(change: Change) -> Sequence[Measured]:
        told = " with ".join(["real steps", *(f"{key} = {value}" for key, value in change.items())])
        print(f"measuring the memory of {told} ...", file=sys.stderr, flush=True)
        one = override(replace(run, train=replace(run.train, accumulate=1)), [change])[0]
        return trial.sweep(one, usable, fixed)

    return search(measure, _ways(run, given), usable, most, _resorts(run, given))


def _ways(run: Run, given: dict[str, str]) -> list[Change]:
    """From nothing to the costliest. What somebody gave is never touched."""
    ways: list[Change] = [{}]
    if not run.model.backbone.remat and REMAT not in given:
        ways.append({REMAT: True})
    return ways


def _resorts(run: Run, given: dict[str, str]) -> list[Change]:
    """What does not learn keeps no gradients, no state and no activations. Only for a limit that somebody named."""
    learning = not run.train.freeze and not {FREEZE, "train.thaw"} & given.keys()
    if run.memory == AUTO or not learning:
        return []
    cheapest = _ways(run, given)[-1]
    return [{**cheapest, FREEZE: 1 + run.model.backbone.depth // 2}, {**cheapest, FREEZE: "backbone"}]


def _reason(key: str, value: Any, plan: Plan, limit: Limit) -> str:
    room = f"{show(plan.peak)} of {show(limit.bytes)} {limit.why}"
    if key == REMAT:
        return f"blocks are computed twice, a third more time, to stay below {show(limit.bytes)} {limit.why}"
    if key == FREEZE:
        what = "all below the head" if value == "backbone" else f"the first {value} depths"
        return (
            f"the last resort to stay below {show(limit.bytes)} {limit.why}: {what} stay as they are and learn nothing"
        )
    return f"{plan.micro} pictures at once take {room}, measured"


def _refusal(run: Run, tried: Tried, limit: Limit) -> str:
    """One line: what does not fit, and what would."""
    what = f"a model of {parameters(run.model) / 1e6:.1f} million parameters does not fit into {show(limit.bytes)}"
    what += f" ({limit.why}), one picture at a time"
    if tried.least is None:
        return f"{what}; use a smaller --model or --size (see tessella list), or give more memory"
    needs = 1.02 * tried.least / SHARE
    return f"{what}: it needs --memory {-(-needs // 1e7) / 100:g}GB; else use a smaller --model or --size"
