"""`load(anything)`: a model folder, a run folder, or a weights file, to a `Model`."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import BadInput
from ..models.build import network
from ..weights.io import load_into
from ..weights.opened import Weights, open_adapted, open_weights
from .model import Model


def load(
    source: str | Path,
    like: str | None = None,
    device: str = "cpu",
    headless: bool = False,
    adapter: str | Path | None = None,
) -> Model:
    """Fails unless every tensor that the model needs is there, by name and shape. `like` names the architecture of a
    bare file whose shapes alone do not say it. `headless`: one without a head will do, its features are wanted.
    `adapter`: a LoRA of PEFT, to be merged into it."""
    found = open_weights(source, like) if adapter is None else open_adapted(adapter, source, like)
    _refuse_contradictions(found, headless)
    try:
        built = network(found.card.architecture, empty=True)
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split()[:12])
        what = f"{found.place}: the architecture in model.json cannot be built ({reason})"
        raise BadInput(f"{what}; was it edited?") from None
    load_into(built, found.tensors, take=True)
    if found.bare:
        print(f"{found.place.name} holds weights only: {_assumptions(found)}", file=sys.stderr)
    return Model(built, found.card, device)


def _assumptions(found: Weights) -> str:
    image = found.card.preprocess["image"]
    side = " x ".join(str(n) for n in image.size)
    named = ", and classes by number" if found.card.heads[0].classes and not found.network.heads else ""
    told = found.card.provenance.get("described")
    if told:
        return f"read as {told} says: {side} px, {image.resize}, crop {image.crop:g}, {image.interpolation}{named}"
    if found.told is not None:
        said = f"read as {Path(found.told.where).name} of {found.told.library} says: {side} px, {image.resize}, crop "
        said += f"{image.crop:g}, {image.interpolation}{named}"
        return f"{said}; nothing says {' and '.join(found.told.lacks)}" if found.told.lacks else said
    if found.entry is None:
        return f"assumed {side} px, crop 0.9, bicubic, ImageNet's mean and deviation{named}"
    return f"read as {found.entry.name}: {side} px, {image.resize}, crop {image.crop:g}, {image.interpolation}{named}"


def _refuse_contradictions(found: Weights, headless: bool) -> None:
    """What was edited by hand must not give a class another's name."""
    card = found.card
    outputs, names = card.architecture.get("classes"), sum(head.outputs for head in card.heads)
    if found.bare and not names and not headless:
        raise BadInput(f"{found.place} has no head.weight, so there are no classes to predict; give a classifier's")
    if outputs is not None and outputs != names:
        what = f"{found.place}: model.json names {names} classes for {outputs} outputs"
        raise BadInput(f"{what}; give one name an output")
