"""The card of a model folder: what `model.json` says about the weights beside it, enough to use them without the run.

Reading is strict: a key that we do not know, a value of the wrong type or a hash that does not agree is an error that
names file and key.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from . import config, durable
from .errors import BadInput

NAME = "model.json"
LABEL, TARGET = "label", "target/"  # leaves of a batch: see `leaves`
FORMAT_VERSION = 1  # raise it when an older reader would misread the file, not when a key is added


Resize = Literal["shortest", "squash", "letterbox", "pad", "native"]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a decoded picture to what the network expects."""

    size: tuple[int, int]  # height, width in pixels
    resize: Resize = "shortest"
    # shortest: cover the size, crop the centre; squash: ignore the aspect; letterbox: fit inside, equal borders;
    # pad: fit inside, borders right and below; native: no resampling, crop or border the centre
    crop: float = 1.0  # share of the side that shortest and squash keep: resize to size / crop, then crop the centre
    centre: Literal["even", "floor"] = "even"  # where half a pixel of a crop goes: to the even side (torchvision,
    # timm), or up and left (transformers)
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    fill: tuple[float, ...] | None = None  # borders: one number or one per channel, 0 to 255; None: the mean
    mean: tuple[float, ...]  # per channel, of values in [0, 1]
    std: tuple[float, ...]
    channels: int = 3
    depth: Literal["uint8", "uint16", "float32"] = "uint8"  # of the pixels that reach the network's door
    limits: tuple[float, float] | None = None  # the numbers that become 0 and 1 in files of more than 8 bits
    decode: Literal["full", "scaled"] = "full"  # scaled: JPEG at 1/2, 1/4 or 1/8, still twice the size to come

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise BadInput(f"channels is {self.channels}; give 1 or more")
        if min(self.size) < 1:
            raise BadInput(f"size is {list(self.size)}; height and width must be 1 or more")
        if not 0 < self.crop <= 1:
            raise BadInput(f"crop is {self.crop}; give a share in (0, 1]")
        if self.crop < 1 and self.resize not in ("shortest", "squash"):
            raise BadInput(f"crop is {self.crop}, and resize {self.resize!r} has nothing to crop; set crop to 1")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise BadInput(f"{name} has {len(values)} numbers; channels says {self.channels}")
            if not all(math.isfinite(v) for v in values) or (name == "std" and min(values) <= 0):
                raise BadInput(f"{name} is {list(values)}; give finite numbers" + " above 0" * (name == "std"))
        if self.fill is not None and (len(self.fill) not in (1, self.channels) or not _between(self.fill, 0, 255)):
            raise BadInput(f"fill is {list(self.fill)}; give one number or {self.channels}, each from 0 to 255")
        if self.limits is not None and not -math.inf < self.limits[0] < self.limits[1] < math.inf:
            raise BadInput(f"limits is {list(self.limits)}; give the lower number first, both finite")


def _between(values: tuple[float, ...], low: float, high: float) -> bool:
    return all(low <= v <= high for v in values)


Task = Literal["classify", "tags", "number", "detect", "segment"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """One thing that the network says, and the names of what it can say, in the order of its outputs."""

    name: str
    task: Task
    classes: tuple[str, ...] = ()  # of tags: what may be said of a picture, any number of them at once; of a number: ()
    mean: float = 0.0  # a number is the network's output times `scale`, plus `mean`, in the unit of the training data
    scale: float = 1.0
    temperature: float = 1.0  # a class: logits are divided by it before they become probabilities; see calibration

    @property
    def outputs(self) -> int:
        """How many of the network's outputs are this head's."""
        return 1 if self.task == "number" else len(self.classes)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.scale < math.inf):
            raise BadInput(
                f"head {self.name!r} has mean {self.mean} and scale {self.scale}; give finite numbers, scale above 0"
            )
        if not 0 < self.temperature < math.inf or (self.temperature != 1 and self.task != "classify"):
            what = f"head {self.name!r} has temperature {self.temperature}"
            raise BadInput(f"{what}; give a number above 0, and 1 unless it is of classes")
        if self.task == "number" and self.classes:
            raise BadInput(f"head {self.name!r} says a number and has {len(self.classes)} classes; leave them out")
        twice = [name for name, times in Counter(self.classes).items() if times > 1]
        if twice:
            raise BadInput(f"classes of head {self.name!r} has {twice[0]!r} twice; names must differ")


def alone(classes: tuple[str, ...]) -> Head:
    """The one head of a network that says a class and nothing else."""
    return Head(name=LABEL, task="classify", classes=classes)


def slices(heads: Sequence[Head]) -> dict[str, slice]:
    """Which of the network's outputs are whose: one linear layer says everything, head after head."""
    ends = list(itertools.accumulate(head.outputs for head in heads))
    return {head.name: slice(end - head.outputs, end) for head, end in zip(heads, ends, strict=True)}


def leaves(heads: Sequence[Head]) -> dict[str, str]:
    """Where a batch has the targets of each head: those of a single one are its `label`."""
    return {head.name: LABEL if len(heads) == 1 else f"{TARGET}{head.name}" for head in heads}


def is_target(leaf: str) -> bool:
    """Whether a leaf of a batch is what a head learns."""
    return leaf == LABEL or leaf.startswith(TARGET)


@dataclass(frozen=True, kw_only=True)
class Card:
    """All of `model.json`."""

    format_version: int = FORMAT_VERSION
    kind: Literal["network", "engine"] = "network"
    architecture: dict[str, Any]  # config.encode of the model's config, with its "type"
    heads: tuple[Head, ...] = ()
    preprocess: dict[str, Preprocess] = field(default_factory=dict)  # by modality: "image"
    tokeniser: dict[str, Any] | None = None
    licence: str | None = None  # of the weights
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)  # data, command, commit, versions: plain JSON
    files: dict[str, str] = field(default_factory=dict)  # name in this folder -> sha256
    crc32: dict[str, str] = field(default_factory=dict)  # of the same: enough to see damage, where time counts

    def __post_init__(self) -> None:
        if not isinstance(self.architecture.get("type"), str):
            raise BadInput("architecture has no 'type'; it must name the network's config")
        names = [head.name for head in self.heads]
        if len(set(names)) < len(names):
            raise BadInput(f"heads has a name twice ({', '.join(names)}); names must differ")
        for name, digest in self.files.items():
            if name in ("", ".", "..", NAME) or "/" in name or "\\" in name or "\0" in name:
                raise BadInput(f"files has the key {name!r}; it must name another file of the same folder")
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise BadInput(f"files.{name} is {digest!r}; it must be a sha256 in lower-case hexadecimal")
        for name, digest in self.crc32.items():
            if name not in self.files or len(digest) != 8 or set(digest) - set("0123456789abcdef"):
                raise BadInput(f"crc32.{name} is {digest!r}; it must be eight digits 0 to f, of a file in files")


def read(folder: Path | str) -> Card:
    """The card of a model folder. Says nothing about the files it lists: `verify` does."""
    path = Path(folder) / NAME
    if not path.is_file():
        raise BadInput(f"{folder} has no {NAME}; give the model folder of a run or of a conversion")
    try:
        plain = config.read_plain(path)
        return _decode(plain)
    except RecursionError:
        raise BadInput(f"{path} is nested too deeply; it is damaged or was not written by tessella") from None
    except BadInput as error:
        text = str(error)
        raise BadInput(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _decode(plain: dict[str, Any]) -> Card:
    # Key by key, because a card carries no tag of its own.
    version = plain.get("format_version")
    if type(version) is not int or version < 1:
        raise BadInput(f"format_version is {version!r}; it must be a whole number from 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise BadInput(
            f"format_version is {version}: made by a newer tessella (this one reads up to {FORMAT_VERSION}); upgrade it"
        )
    hints = get_type_hints(Card)
    values = {}
    for key, value in plain.items():
        if key not in hints:
            raise BadInput(f"no key {key!r} is known here{config.nearest(key, hints)}")
        values[key] = config.decode(hints[key], value, key)
    if "architecture" not in values:
        raise BadInput("architecture is missing; without it the network cannot be built")
    return Card(**values)


def write(folder: Path | str, card: Card) -> None:
    """Whole or not at all; the folder must exist."""
    plain = dataclasses.asdict(card)
    try:
        text = json.dumps(plain, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the card cannot be written as JSON ({error}); keep numbers finite and values plain") from None
    durable.write_file(Path(folder) / NAME, text + "\n")


def verify(folder: Path | str, card: Card, read: Mapping[str, str] | None = None) -> None:
    """Every listed file is there and is, byte for byte, the one that was written. `read`: hashes of what was read
    already, by the names of the files."""
    read = read or {}
    for name, digest in card.files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise BadInput(f"{path} is missing, and {NAME} lists it; copy the whole model folder again")
        if (read[name] if name in read else durable.sha256_file(path)) != digest:
            raise BadInput(f"{path} is damaged (its sha256 is not the one in {NAME}); copy or write it again")
