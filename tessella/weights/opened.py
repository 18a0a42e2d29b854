"""Weights from wherever they lie, with a card that says what they are: a model folder, a run folder, or a bare file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from .. import card as cards
from .. import durable
from ..card import Card, Head, Preprocess, verify
from ..config import decode, encode
from ..config import nearest as nearest_name
from ..errors import BadInput
from ..models.architecture import Backbone, ClassifierConfig, MAEConfig, PainterConfig
from ..models.presets import PRESETS, classifier
from . import described, hub, labels, lora, native
from .catalog import CATALOG, COUNTS, Entry
from .files import ENDINGS, read_tensors, refuse_distributed
from .foreign.beside import told_beside
from .foreign.read import read as read_as_told
from .foreign.told import Told, heads, of_channels
from .guess import candidates, fitted, patched
from .io import WEIGHTS, read_model
from .layouts import LAYOUTS
from .recognise import Match, nearest, recognise, told
from .table import rename
from .transfer import Network, difference

BY_ID = {origin.id: entry.name for entry in CATALOG.values() for origin in entry.origins}
# the architecture of a bare file; its name, of the catalogue or of a preset; or a TOML file about it (described.py)
Like = ClassifierConfig | str | None


@dataclass(frozen=True)
class Weights:
    place: Path  # the file, or the folder with model.json
    card: Card
    tensors: dict[str, Tensor]  # by the network's names in memory
    bare: bool  # no card lay beside them: what it would say is known from
    entry: Entry | None = None  # this entry of the catalogue, or from
    told: Told | None = None  # the files beside it; neither: preprocessing is assumed, and classes have numbers
    adapters: tuple[Path, ...] = ()  # what was merged into them; the digests of the card are the base's
    described: Path | None = None  # the file that says what they are

    @property
    def network(self) -> Network:
        """As a classifier: a backbone that was trained without labels is one without a head; of what has a decoder as
        well the encoder."""
        known = ClassifierConfig | MAEConfig | PainterConfig | Backbone
        cfg = decode(known, self.card.architecture, f"{self.place}: architecture")
        if isinstance(cfg, (MAEConfig, PainterConfig)):
            cfg = cfg.classifier
        if not isinstance(cfg, ClassifierConfig):
            cfg = classifier(cfg, 0)
        named = self.card.provenance.get("labels", not self.bare)
        return Network(cfg, self.card.heads if named else ())

    @property
    def classifier_tensors(self) -> dict[str, Tensor]:
        """By the names that `network` has for them."""
        if self.card.architecture["type"] in (MAEConfig.__name__, PainterConfig.__name__):
            return {name: tensor for name, tensor in self.tensors.items() if name.startswith("backbone.")}
        inside = "" if self.card.architecture["type"] == ClassifierConfig.__name__ else "backbone."
        return {inside + name: tensor for name, tensor in self.tensors.items()}

    @cached_property
    def sha256(self) -> str:
        """Of the file as it is now; that of a model folder is the one that its card says, or it is refused. With
        adapters it is that of all their digests."""
        if self.bare:
            base = durable.sha256_file(self.place)
        else:
            verify(self.place, self.card)
            base = self.card.files[WEIGHTS]
        every = "".join([base, *(durable.sha256_file(lora.file_of(place)) for place in self.adapters)])
        return hashlib.sha256(every.encode()).hexdigest() if self.adapters else base


def open_weights(source: str | Path, like: Like = None) -> Weights:
    """Nothing is built yet: whoever loads these tensors checks that they are what the network needs."""
    says = described.read(like) if isinstance(like, str) and described.is_file(like) else None
    if says is None:
        return _opened(source, like)
    return _as_described(_opened(source, says.like), says)


def open_adapted(adapter: str | Path, base: str | Path | None = None, like: Like = None) -> Weights:
    """A base with a LoRA adapter merged into it; without a base the one that the adapter names. `like` is of the base,
    but classes that its file names are the new head's."""
    found = lora.read(adapter)
    says = described.read(like) if isinstance(like, str) and described.is_file(like) else None
    like = like if says is None else says.like
    weights = _opened(base, like) if base is not None else _named_base(found, like)
    merged = lora.merge(weights, found)
    return merged if says is None else _as_described(merged, says)


def _as_described(found: Weights, says: described.Described) -> Weights:
    return replace(found, card=says.on(found.card), described=says.place)


def _named_base(found: lora.Adapter, like: Like) -> Weights:
    cure = f"give the base as the model, and this with --adapter {found.place}"
    if not found.base:
        raise BadInput(f"the LoRA adapter {found.place} does not say which weights it was made on; {cure}")
    try:
        if lora.find(Path(found.base)) is not None:
            raise BadInput("another adapter")
        return _opened(found.base, like)
    except BadInput as error:
        why = "; ".join(str(error).split("; ")[: 2 if is_name(found.base) else 1])  # without its cure: ours is nearer
        raise BadInput(f"the LoRA adapter {found.place} was made on {found.base}: {why}; {cure}") from None


def _opened(source: str | Path, like: Like) -> Weights:
    path, name = Path(source), str(source)
    if path.exists() and not (path / "model.json").is_file() and lora.find(path) is not None:
        return open_adapted(path, like=like)
    if path.is_dir():
        return _from_folder(path, like)
    if path.is_file():
        return _from_file(path, like)
    if name in CATALOG:
        return _from_file(hub.fetch(CATALOG[name].origins[0].id), name)
    if name in PRESETS:
        raise BadInput(
            f"{source} names an architecture without weights; train one: tessella train photos/ --model {source}"
        )
    if is_name(name):
        try:
            return _from_hub(name, like)
        except BadInput as error:
            raise BadInput(f"{name} is no folder or file here; as an id of a hub: {error}") from None
    what = f"{source} is no model folder, run folder or weights file"
    raise BadInput(f"{what}{nearest_name(name, CATALOG)}; check the path, or see tessella list --family all")


def is_name(source: str) -> bool:
    """Of the catalogue, or OWNER/NAME of a hub, and not a path of this machine that was perhaps mistyped."""
    path = Path(source)
    if path.exists():
        return False
    return source in CATALOG or (hub.is_id(source) and not path.parent.is_dir() and path.suffix not in ENDINGS)


def _from_folder(path: Path, like: Like) -> Weights:
    durable.recover(path / "model")  # a writer may have died between two renames
    folder = path if (path / "model.json").is_file() else path / "model"
    if not (folder / "model.json").is_file():
        file = next((path / name for name in hub.FILES if (path / name).is_file()), None)
        if file is not None:  # as timm and transformers leave it
            told = told_beside(file.name, lambda name: path / name if (path / name).is_file() else None)
            return _from_file(file, like) if told is None else _as_told(file, told, like)
        refuse_distributed(path)
        raise BadInput(f"{path} holds no model.json and no model/ folder; has the run saved a model yet?")
    card, tensors = read_model(folder, quick=True)
    if "image" not in card.preprocess:
        raise BadInput(f"{folder}: model.json has no preprocess.image; without it no picture can be prepared")
    return Weights(folder, card, tensors, bare=False)


def _from_hub(id: str, like: Like) -> Weights:
    """timm's weights that have a name in the catalogue are those; whatever else a hub has says what it is."""
    entry = CATALOG.get(BY_ID.get(id, ""))
    path = hub.fetch(id)
    if entry is None and hub.beside(id, cards.NAME) is not None:  # as `convert --push` leaves it
        return _from_folder(path.parent, like)
    if entry is None or id != entry.origins[0].id:
        told = told_beside(path.name, lambda file: hub.beside(id, file))
        if told is not None:
            return _as_told(path, told, like, BY_ID.get(id, ""))
    return _from_file(path, like or BY_ID.get(id))


def _as_told(path: Path, told: Told, like: Like, known: str = "") -> Weights:
    """What the files beside the weights say beats what would be assumed; a name that contradicts them is refused, and
    one that agrees says what they leave out. `known`: the name that the catalogue has for an id."""
    tensors = read_tensors(path)
    found = read_as_told(told, tensors, str(path))
    cfg = found.config
    if isinstance(like, str):
        differs = _apart(cfg, CATALOG[like].architecture if like in CATALOG else classifier(like, 0))
        if differs is not None:
            raise BadInput(f"{path} is no {like} by {told.where}: {differs}; leave {like} out, or give the file itself")
    entry = CATALOG.get(like if isinstance(like, str) else known)
    if entry is not None and _apart(cfg, entry.architecture) is None:
        names = labels.names(entry.labels) if entry.labels and cfg.classes == COUNTS[entry.labels] else ()
        told = replace(told, preprocess=told.preprocess or _of_size(entry.preprocess, cfg))
        told = replace(told, classes=told.classes or names, licence=told.licence or entry.licence)
    image = of_channels(told.preprocess or assumed(cfg, path, 0).preprocess["image"], cfg.backbone.channels)
    card = Card(
        architecture=encode(cfg),
        heads=heads(told, cfg),
        preprocess={"image": image},
        licence=told.licence,
        provenance={
            "file": path.name, "tensors": len(tensors), "left": list(found.left), "told_by": Path(told.where).name,
            "layout": found.layout, "labels": Path(told.where).name if told.classes and cfg.classes else "",
        },
    )  # fmt: skip
    named = rename(found.tensors, native.from_file(encode(cfg), found.tensors))
    return Weights(path, card, named, bare=True, told=told)


def _apart(cfg: ClassifierConfig, known: ClassifierConfig) -> str | None:
    """Libraries take other epsilons for the same weights: there the file is right."""
    return difference(cfg, replace(known, backbone=replace(known.backbone, norm_eps=cfg.backbone.norm_eps)))


def _from_file(path: Path, like: Like) -> Weights:
    tensors = read_tensors(path)
    if like is None or (isinstance(like, str) and like in CATALOG):
        match = _match(path, tensors, like)
        if match is not None:
            return _as_known(path, tensors, match)
        like = _certain(path, tensors)
    elif isinstance(like, str) and (found := candidates(tensors)) and like not in found:
        raise BadInput(f"{path} is no {like}: by its shapes it is {' or '.join(found)}; name that instead")
    cfg = fitted(classifier(like, 0) if isinstance(like, str) else patched(like, tensors), tensors)
    named = rename(tensors, native.from_file(encode(cfg), tensors))
    return Weights(path, assumed(cfg, path, len(tensors)), named, bare=True)


def _match(path: Path, tensors: dict[str, Tensor], like: str | None) -> Match | None:
    """The one reading of the file by the catalogue; several that would answer otherwise are refused."""
    found = recognise(tensors, like)
    if not found and like is not None:
        near = nearest(tensors, like)
        raise BadInput(f"{path} is no {like}: {told(near) if near else 'none of its names is known there'}")
    names = list(dict.fromkeys(match.name for match in found))
    if len({(CATALOG[n].preprocess, CATALOG[n].architecture, CATALOG[n].labels) for n in names}) > 1:
        what = f"{path} fits {', '.join(names)}, which want other pictures or mean other classes"
        raise BadInput(f"{what}; add --like NAME, one of these")
    return found[0] if found else None


def _as_known(path: Path, tensors: dict[str, Tensor], match: Match) -> Weights:
    entry, cfg = CATALOG[match.name], match.architecture
    bare = {name.removeprefix(match.prefix): tensor for name, tensor in tensors.items()}
    read = LAYOUTS[match.layout].read(bare, cfg)
    named = rename(read.tensors, native.from_file(encode(cfg), read.tensors))
    known = entry.labels if cfg.classes == COUNTS[entry.labels] else ""
    classes = labels.names(known) if known else tuple(f"class {i}" for i in range(cfg.classes))
    card = Card(
        architecture=encode(cfg),
        heads=(Head(name="label", task="classify", classes=classes),),
        preprocess={"image": _of_size(entry.preprocess, cfg)},
        licence=entry.licence,
        provenance={
            "file": path.name, "tensors": len(tensors), "left": list(read.left), "like": entry.name,
            "layout": match.layout, "labels": known,
        },
    )  # fmt: skip
    return Weights(path, card, named, bare=True, entry=entry)


def _of_size(known: Preprocess, cfg: ClassifierConfig) -> Preprocess:
    """What the entry says, for the size and the channels that the tensors are for."""
    channels = cfg.backbone.channels
    out = replace(known, size=cfg.backbone.size)
    if channels == known.channels:
        return out
    mean, std = ((sum(v) / len(v),) * channels for v in (known.mean, known.std))
    return replace(out, channels=channels, mean=mean, std=std)


def _certain(path: Path, tensors: dict[str, Tensor]) -> str:
    found = candidates(tensors)
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{path} fits {' and '.join(found)}; add --like NAME, one of {', '.join(found)}")
    near = nearest(tensors)
    if near is not None and 2 * near.fit > near.wanted:
        raise BadInput(f"{path} does not say which architecture it is; the nearest: {told(near)}")
    what = f"{path} does not say which architecture it is"
    raise BadInput(f"{what}; add --like NAME, one of {', '.join(PRESETS)}, of `tessella list`, or a TOML file about it")


def assumed(cfg: ClassifierConfig, path: Path, count: int) -> Card:
    """A bare file says nothing of classes and preprocessing: numbered classes, ImageNet's mean and deviation."""
    head = Head(name="label", task="classify", classes=tuple(f"class {i}" for i in range(cfg.classes)))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    channels = cfg.backbone.channels
    image = Preprocess(
        size=cfg.backbone.size,
        crop=0.9,  # as DeiT and AugReg
        mean=mean if channels == 3 else (sum(mean) / 3,) * channels,
        std=std if channels == 3 else (sum(std) / 3,) * channels,
        channels=channels,
    )
    return Card(
        architecture=encode(cfg),
        heads=(head,),
        preprocess={"image": image},
        provenance={"file": path.name, "tensors": count},
    )
