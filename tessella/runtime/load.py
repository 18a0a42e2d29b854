"""`load(anything)`: a model folder, a run folder, or a weights file with `like=NAME`, to a `Model`."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor

from .. import durable
from ..card import Card, Head, Preprocess
from ..config import encode
from ..errors import BadInput
from ..models.architecture import ClassifierConfig
from ..models.build import network
from ..models.presets import PRESETS, classifier
from ..weights import native
from ..weights.io import load_into, read_model, read_tensors
from ..weights.table import rename
from .model import Model


def load(source: str | Path, like: str | None = None, device: str = "cpu") -> Model:
    """Fails unless every tensor that the model needs is there, by name and shape."""
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, device)
    if path.is_file():
        return _from_file(path, like, device)
    if str(source) in PRESETS:
        raise BadInput(
            f"{source} names an architecture without weights; train one: tessella train photos/ --model {source}"
        )
    raise BadInput(f"{source} is no model folder, run folder or weights file; check the path")


def _from_folder(path: Path, device: str) -> Model:
    durable.recover(path / "model")  # a writer may have died between two renames
    folder = path if (path / "model.json").is_file() else path / "model"
    if not (folder / "model.json").is_file():
        raise BadInput(f"{path} holds no model.json and no model/ folder; has the run saved a model yet?")
    card, tensors = read_model(folder)
    _refuse_contradictions(card, folder)
    try:
        built = network(card.architecture, empty=True)
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split()[:12])
        raise BadInput(f"{folder}: the architecture in model.json cannot be built ({reason}); was it edited?") from None
    load_into(built, tensors)
    return Model(built, card, device)


def _refuse_contradictions(card: Card, folder: Path) -> None:
    """What was edited by hand must not give a class another's name."""
    if "image" not in card.preprocess:
        raise BadInput(f"{folder}: model.json has no preprocess.image; without it no picture can be prepared")
    outputs, names = card.architecture.get("classes"), sum(head.outputs for head in card.heads)
    if outputs is not None and outputs != names:
        raise BadInput(f"{folder}: model.json names {names} classes for {outputs} outputs; give one name an output")


def _from_file(path: Path, like: str | None, device: str) -> Model:
    tensors = read_tensors(path)
    if like is None:
        raise BadInput(f"{path} does not say which architecture it is; add --like NAME, one of {', '.join(PRESETS)}")
    classes = tensors["head.weight"].shape[0] if "head.weight" in tensors else 0
    if not classes:
        raise BadInput(f"{path} has no head.weight, so there are no classes to predict; give a classifier's weights")
    cfg = classifier(like, classes)
    built = network(encode(cfg), empty=True)
    load_into(built, rename(tensors, native.from_file(encode(cfg), tensors)))
    card = _card(cfg, path, tensors)
    side = " x ".join(str(n) for n in card.preprocess["image"].size)
    told = f"assumed {side} px, crop 0.9, bicubic, ImageNet's mean and deviation, and classes by number"
    print(f"{path.name} holds weights only: {told}", file=sys.stderr)
    return Model(built, card, device)


def _card(cfg: ClassifierConfig, path: Path, tensors: dict[str, Tensor]) -> Card:
    """A bare file says nothing of classes and preprocessing: numbered classes, ImageNet's mean and deviation."""
    head = Head(name="label", task="classify", classes=tuple(f"class {i}" for i in range(cfg.classes)))
    image = Preprocess(
        size=cfg.backbone.size,
        crop=0.9,  # as DeiT and AugReg
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        channels=cfg.backbone.channels,
    )
    return Card(
        architecture=encode(cfg),
        heads=(head,),
        preprocess={"image": image},
        provenance={"file": path.name, "tensors": len(tensors)},
    )
