"""How `train` starts from weights: architecture, preprocessing and head follow from what the weights are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..build import Run, heads_of
from ..card import Head, Preprocess
from ..config import override
from ..data.source import Splits
from ..errors import BadInput
from ..models.architecture import Backbone, ClassifierConfig, ViTConfig
from ..models.presets import PRESETS, classifier
from ..training import state
from ..weights import described
from ..weights.catalog import CATALOG
from ..weights.opened import Weights, open_weights
from ..weights.transfer import Network, Transfer, difference, transfer

DROPPED = ("drop_path", "position_dropout", "projection_dropout", "mlp_dropout", "attention_dropout")


@dataclass(frozen=True)
class Adopted:
    """Weights that were found, and what they decide."""

    weights: Weights
    network: Network
    called: str  # a path, or a name of the catalogue or of a hub

    def start(self, recipe: Run) -> Run:
        """The recipe with the weights' architecture; what is dropped in training stays the recipe's."""
        b, cfg = recipe.model.backbone, self.network.config
        here = {f.name for f in fields(b)} & {f.name for f in fields(cfg.backbone)}
        backbone = replace(cfg.backbone, **{name: getattr(b, name) for name in DROPPED if name in here}, remat=b.remat)
        model = replace(cfg, backbone=backbone, classes=0, dropout=recipe.model.dropout)
        licence = recipe.licence or self.weights.card.licence
        like = "" if self.weights.entry is None else self.weights.entry.name
        like = like if self.weights.described is None else os.path.abspath(self.weights.described)
        found = replace(recipe, weights=self.called, weights_sha256=self.weights.sha256, weights_like=like)
        return replace(found, model=model, licence=licence)

    def preprocess(self, backbone: Backbone, resize: Any = None) -> Preprocess:
        """As the weights saw their pictures, at the size and with the channels of now."""
        known = self.weights.card.preprocess["image"]
        resize = resize or known.resize
        crop = known.crop if resize in ("shortest", "squash") else 1.0
        out = replace(known, size=backbone.size, crop=crop, resize=resize)
        if self.weights.bare:
            out = replace(out, decode="scaled")
        if known.channels == backbone.channels:
            return out
        mean, std = ((sum(v) / len(v),) * backbone.channels for v in (known.mean, known.std))
        return replace(out, channels=backbone.channels, mean=mean, std=std, fill=None)

    def size_for(self, side: int) -> int:
        """Small pictures are not enlarged beyond their own patches, down to half of what the weights saw; 0: as they
        did. At equal work the shorter sequences were better (docs/log.md). Of what has windows it is not known."""
        b = self.network.config.backbone
        if not isinstance(b, ViTConfig) or b.size[0] != b.size[1] or side >= b.size[0] or b.stride is not None:
            return 0
        size = -(-max(side, b.size[0] // 2) // b.patch_size) * b.patch_size
        return size if size < b.size[0] else 0

    def origins(self, backbone: Backbone) -> dict[str, str]:
        """Who decided what follows from the weights. Mean and deviation are not measured where the card says them."""
        entry = self.weights.entry
        told = "chosen: " + ("the card of the weights" if not self.weights.bare else "what such files usually take")
        told = f"chosen: that of {entry.name}" if entry is not None else told
        if self.weights.told is not None:
            told = f"chosen: {Path(self.weights.told.where).name} beside the weights"
        says = self.weights.described
        told = f"chosen: what {says.name} says" if says is not None else told
        own = "chosen: that of the weights"
        settled = {"preprocess": told, "licence": told, "weights_sha256": own, "weights_like": own}
        known = not self.weights.bare or not (entry is None and self.weights.told is None and says is None)
        if known and self.weights.card.preprocess["image"].channels == backbone.channels:
            settled |= {"preprocess.mean": told, "preprocess.std": told}
        here = {f.name for f in fields(backbone)}
        return settled | {f"model.backbone.{name}": "recipe" for name in DROPPED if name in here}

    @property
    def name(self) -> str:
        """Of the weights, of the preset that this is, or its sizes."""
        if self.weights.entry is not None:
            return self.weights.entry.name
        found = [n for n in PRESETS if difference(self.network.config, classifier(n, 0)) is None]
        return found[0] if found else self.network.config.backbone.looks

    def into(self, run: Run, heads: tuple[Head, ...]) -> tuple[dict[str, Tensor], Transfer]:
        """The tensors that the settled run starts with."""
        target = Network(run.model, heads)
        try:
            return transfer(self.weights.classifier_tensors, self.network, target)
        except BadInput as error:
            raise BadInput(f"{self.weights.place}: {error}") from None


def adopt(sources: Sequence[Mapping[str, Any]], model: str | None) -> Adopted | None:
    """`sources` are the settings in order, flat; None where none of them names weights."""
    flat = {key: value for source in sources for key, value in source.items()}
    path, pinned = flat.get("weights") or (model if model in CATALOG else None), flat.get("weights_sha256")
    if not path:
        return None
    if not isinstance(path, (str, Path)):
        raise BadInput(f"weights is {path!r}; give the path of a run, a model folder or a weights file")
    model = model or flat.get("weights_like") or None
    like: str | ClassifierConfig | None = model
    shape = {key.removeprefix("model."): value for key, value in flat.items() if key.startswith("model.")}
    named = model is not None and not described.is_file(model)
    if model is not None and named and shape and model not in CATALOG:
        like, _ = override(classifier(model, 0), [shape])
    found = _opened(path, like)
    if pinned and pinned != found.sha256:
        raise BadInput(f"{path} has the sha256 {found.sha256}, not {pinned}; get it again, or leave weights_sha256 out")
    adopted = Adopted(found, found.network, str(path))
    differs = None
    if model is not None and named and not found.bare:
        wanted = CATALOG[model].architecture if model in CATALOG else classifier(model, 0)
        differs = difference(adopted.network.config, wanted)
    if differs is not None:
        raise BadInput(f"{path} is no {model}: {differs}; leave --model out, the weights say what they are")
    return adopted


def start_again(run: Run, splits: Splits, folder: Path) -> Mapping[str, Tensor]:
    """A run that died before its first state needs its weights once more, and the same; later the state has all."""
    if not run.weights or state.latest(folder / "state", note=lambda _: None) is not None:
        return {}
    found = _opened(run.weights, run.weights_like or run.model)
    if found.sha256 != run.weights_sha256:
        what = f"{run.weights} has changed since the run started, and no state was saved"
        raise BadInput(f"{what}; start a new run, or put the file with sha256 {run.weights_sha256} there")
    return Adopted(found, found.network, run.weights).into(run, heads_of(run, splits))[0]


def _opened(path: str | Path, like: str | ClassifierConfig | None) -> Weights:
    try:
        return open_weights(path, like)
    except BadInput as error:
        raise BadInput(str(error).replace("--like NAME", "--model NAME")) from None
