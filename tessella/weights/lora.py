"""PEFT's LoRA adapters, read and merged: for some linear maps two thin matrices whose product is added to the weight,
and some tensors whole, such as a new head.

The base is written in the layout whose names the adapter has, changed there, and read back: so fused tensors and other
orders of features are the affair of the tables (layouts.py) alone. Nothing here needs peft. What is more than such a
sum (DoRA and the like), or finds no place in the base, is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .. import tensorfile
from ..card import alone
from ..config import encode, read_plain
from ..errors import BadInput
from ..models.architecture import ClassifierConfig, ViTConfig
from . import hub, native
from .files import read_tensors
from .guess import shapes_of
from .layouts import LAYOUTS
from .table import rename

if TYPE_CHECKING:
    from .opened import Weights

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
CLASSES = "classes"  # key of a safetensors file's metadata: names of the head's outputs, as a JSON list
PREFIX = "base_model.model."
MORE = {
    "use_dora": "DoRA", "use_qalora": "QALoRA", "use_bdlora": "block-diagonal LoRA", "kasa_config": "KaSA",
    "alora_invocation_tokens": "aLoRA", "arrow_config": "Arrow", "monteclora_config": "MonteCLoRA",
    "layer_replication": "repeated layers", "target_parameters": "LoRA of single parameters",
    "trainable_token_indices": "trained tokens",
}  # fmt: skip
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # others begin by changing the base (PiSSA, OLoRA, LoftQ)
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(?:\.(?P<adapter>[^.]+))?\.(?P<kind>weight|bias)")
_WHOLE = re.compile(r"\.(?:modules_to_save(?:\.[^.]+)?|base_layer)(?=\.[^.]+$)")
_SHOWN = 3  # names in an error


class Files(NamedTuple):
    config: Path
    tensors: Path


class Update(NamedTuple):
    """Of one linear map or convolution, by its name in the library that it was trained in."""

    down: Tensor  # (r, in) or (r, in, p, p): lora_A
    up: Tensor  # (out, r) or (out, r, 1, 1): lora_B
    bias: Tensor | None  # (out): of lora_B
    scale: float

    def delta(self) -> Tensor:
        """What is added to the weight, in 32 bits."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return product.view(self.up.shape[0], *self.down.shape[1:]) * self.scale


@dataclass(frozen=True)
class Adapter:
    place: Path  # the folder, or the weights file
    base: str  # what it was trained on: a path or an id of a hub; "": it does not say
    updates: dict[str, Update]  # by module
    whole: dict[str, Tensor]  # by tensor
    config: Mapping[str, Any] = field(repr=False)
    classes: tuple[str, ...] = ()  # names of the outputs of its head; () where nobody says

    @property
    def tensors(self) -> list[str]:
        """The names in the base that it changes."""
        biases = [f"{module}.bias" for module, update in self.updates.items() if update.bias is not None]
        return [*(f"{module}.weight" for module in self.updates), *biases, *self.whole]


class Fit(NamedTuple):
    layout: str  # a key of LAYOUTS
    prefix: str  # before the adapter's names, and not before those of the layout


# -- reading -----------------------------------------------------------------------------------------------------------


def find(path: Path) -> Files | None:
    """A folder as PEFT leaves it, or a weights file with NAME.adapter_config.json beside it; None: it is no adapter."""
    if path.is_dir():
        if not (path / CONFIG).is_file():
            return None
        tensors = next((path / name for name in FILES if (path / name).is_file()), None)
        if tensors is None:
            raise BadInput(f"{path} holds {CONFIG} and none of {', '.join(FILES)}; copy the whole folder")
        return Files(path / CONFIG, tensors)
    config = path.with_name(CONFIG if path.name in FILES else f"{path.stem}.{CONFIG}")
    return Files(config, path) if path.is_file() and config.is_file() else None


def file_of(place: Path) -> Path:
    """The tensors of an adapter that was read from here; of a hub's, those in its cache."""
    found = find(place)
    return hub.fetch(str(place), FILES) if found is None else found.tensors


def read(source: str | Path) -> Adapter:
    """A folder, a weights file with its config beside it, or OWNER/NAME of a hub; every tensor of it has its role."""
    path = Path(source)
    found = find(path)
    if found is None and not path.exists() and hub.is_id(str(source)):
        found = Files(hub.fetch(str(source), (CONFIG,)), hub.fetch(str(source), FILES))
    if found is None:
        what = f"{source} is no LoRA adapter: a folder with {CONFIG} and {FILES[0]}"
        raise BadInput(f"{what}, or X.safetensors beside X.{CONFIG}; check the path")
    config = _settings(found.config)
    tensors = read_tensors(found.tensors)
    try:
        updates, whole = _sorted(tensors, config)
    except BadInput as error:
        raise BadInput(f"{found.tensors}: {error}") from None
    named = config.get("base_model_name_or_path")
    return Adapter(path, named if isinstance(named, str) else "", updates, whole, config, _classes(found, config))


def _settings(path: Path) -> dict[str, Any]:
    """The config, of plain LoRA and with the numbers that it needs."""
    config = read_plain(path)
    kind = config.get("peft_type")
    more = next((f"{what} ({key})" for key, what in MORE.items() if config.get(key)), None)
    if kind != "LORA" or more is not None:
        what = more or f"peft_type {kind!r}"
        raise BadInput(f"{path} is of {what}, which is not plain LoRA; merge it with peft, and give the merged weights")
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        names = config.get(key)
        if not (names is None or isinstance(names, str)) and not _are_names(names):
            raise BadInput(f"{path}: {key} is {names!r}; it must be a list of names")
    start = config.get("init_lora_weights", True)
    if start not in STARTS:
        what = f"{path}: init_lora_weights {start!r} changed the base before training"
        raise BadInput(f"{what}; save it as plain LoRA with peft (path_initial_model_for_weight_conversion)")
    for key, fallback in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        config.setdefault(fallback, 8)  # PEFT's own
        config[key] = config.get(key) or {}
        numbers = {fallback: config[fallback], **(config[key] if isinstance(config[key], dict) else {key: None})}
        for name, number in numbers.items():
            if type(number) not in (int, float) or not 0 < number < math.inf:
                raise BadInput(f"{path}: {name} is {number!r}; it must be a number above 0")
    return config


def _classes(files: Files, config: Mapping[str, Any]) -> tuple[str, ...]:
    """As its file, its config, or the model's config beside it names them."""
    if files.tensors.suffix == ".safetensors":
        named = tensorfile.metadata(files.tensors).get(CLASSES)
        if named is not None:
            return _listed(named, files.tensors)
    beside = files.config.with_name(files.config.name.replace(CONFIG, "config.json"))
    for plain in (config, read_plain(beside) if beside.is_file() else {}):
        names = plain.get("id2label")
        if isinstance(names, dict) and names.keys() == {str(i) for i in range(len(names))}:
            found = [str(names[str(i)]) for i in range(len(names))]
            if not all(name == f"LABEL_{i}" for i, name in enumerate(found)):  # transformers' word for no name
                return tuple(found)
    return ()


def _listed(text: str, path: Path) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not _are_names(names):
        raise BadInput(f"{path}: its metadata has {CLASSES} that are no list of names; leave them out")
    return tuple(names)


def _are_names(plain: Any) -> bool:
    return isinstance(plain, list) and all(isinstance(name, str) for name in plain)


def _sorted(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[dict[str, Update], dict[str, Tensor]]:
    """Pairs of thin matrices by module, and the tensors that stand for themselves."""
    parts: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    adapters: set[str] = set()
    for full, tensor in tensors.items():
        name = full.removeprefix(PREFIX)
        if ".original_module." in name:
            continue  # the base's own, beside the one that was trained
        found = _PART.fullmatch(name)
        if found is None and "lora_" in name:
            raise BadInput(f"{full} is not of plain LoRA; merge it with peft, and give the merged weights")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"{full} holds no finite numbers; get it again")
        if found is None:
            whole[_WHOLE.sub("", name)] = tensor
            continue
        adapters |= {found["adapter"] or ""}
        parts.setdefault(found["module"], {})[f"{found['part']}.{found['kind']}"] = tensor
    if len(adapters) > 1:
        raise BadInput(f"it holds {len(adapters)} adapters ({', '.join(sorted(adapters))}); save one alone")
    if not parts:
        raise BadInput("it holds no lora_A and lora_B; is it the file of an adapter?")
    return {module: _update(module, found, config) for module, found in parts.items()}, whole


def _update(module: str, found: Mapping[str, Tensor], config: Mapping[str, Any]) -> Update:
    down, up = found.get("A.weight"), found.get("B.weight")
    if down is None or up is None or "A.bias" in found:
        raise BadInput(
            f"{module} has {', '.join(f'lora_{part}' for part in sorted(found))}; it needs lora_A and lora_B"
        )
    rank = _by_pattern(config["rank_pattern"], module, config["r"])
    alpha = _by_pattern(config["alpha_pattern"], module, config["lora_alpha"])
    fit = down.ndim == up.ndim and down.ndim in (2, 4) and down.shape[0] == up.shape[1] == rank
    if not fit or up.shape[2:].numel() != 1:
        shapes = f"lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)}"
        raise BadInput(f"{module} has {shapes}, and {CONFIG} says rank {rank}; get both files again")
    bias = found.get("B.bias")
    if bias is not None and bias.shape != up.shape[:1]:
        raise BadInput(f"{module} has a bias of lora_B {tuple(bias.shape)} for {up.shape[0]} outputs; get it again")
    return Update(down, up, bias, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """As PEFT reads them: a pattern is the end of a name, or a regular expression of one."""
    return next((number for pattern, number in patterns.items() if _ends(pattern, module)), otherwise)


def _ends(pattern: str, module: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as error:
        raise BadInput(f"{CONFIG} has the pattern {pattern!r}, which cannot be read ({error})") from None


# -- merging -----------------------------------------------------------------------------------------------------------


def merge(base: Weights, adapter: Adapter | str | Path) -> Weights:
    """The base with the adapter in it, as if it had been trained like this; sums are made in 32 bits."""
    found = adapter if isinstance(adapter, Adapter) else read(adapter)
    try:
        return _merged(base, found)
    except BadInput as error:
        raise BadInput(f"{found.place} does not fit {base.place}: {error}") from None


def _merged(base: Weights, found: Adapter) -> Weights:
    cfg, ours = base.network.config, base.classifier_tensors
    flat = rename(ours, native.to_file(encode(cfg), ours))
    layout, prefix = fit(found, base, flat)
    theirs = LAYOUTS[layout].write(flat, cfg)
    for module, update in found.updates.items():
        _add(theirs, module.removeprefix(prefix), update)
    for name, tensor in found.whole.items():
        before = theirs.get(name.removeprefix(prefix), tensor)
        theirs[name.removeprefix(prefix)] = tensor.to(before.dtype)
    tensors = LAYOUTS[layout].read(theirs, cfg).tensors
    outputs = tensors["head.weight"].shape[0] if "head.weight" in tensors else 0
    cfg = replace(cfg, classes=outputs)
    _refuse_misfits(tensors, cfg)
    provenance = base.card.provenance | {"adapter": found.place.name, "adapter_layout": layout}
    heads = base.card.heads
    if outputs_of(layout) & {name.removeprefix(prefix) for name in found.whole}:
        named = len(found.classes) == outputs  # else they are another network's: of the base, as a config.json has them
        heads = (alone(found.classes if named else tuple(f"class {i}" for i in range(outputs))),)
        provenance |= {"labels": "those of the adapter" if named else ""}
    # the figures were of the base alone
    card = replace(base.card, architecture=encode(cfg), heads=heads, metrics={}, provenance=provenance)
    ours = rename(tensors, native.from_file(encode(cfg), tensors))
    return replace(base, card=card, tensors=ours, adapters=(*base.adapters, found.place))


def _add(theirs: dict[str, Tensor], module: str, update: Update) -> None:
    weight, delta = theirs[f"{module}.weight"], update.delta()
    if weight.shape != delta.shape:
        shapes = f"what it adds is {tuple(delta.shape)}, and the weight of the base {tuple(weight.shape)}"
        raise BadInput(f"{module}: {shapes}; it is of another network")
    theirs[f"{module}.weight"] = (weight.float() + delta).to(weight.dtype)
    if update.bias is not None:
        bias = theirs[f"{module}.bias"]
        theirs[f"{module}.bias"] = (bias.float() + update.bias.float() * update.scale).to(bias.dtype)


def _refuse_misfits(tensors: Mapping[str, Tensor], cfg: ClassifierConfig) -> None:
    """What stands for itself has the shape of what it replaces; a head may have other outputs, with all that goes with
    them."""
    wanted = shapes_of(cfg)
    missing = [name for name in wanted if name not in tensors]
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if missing or shapes:
        raise BadInput(f"{some(shapes or [f'{name} is missing' for name in missing])}; it is of another network")


# -- whose names these are ---------------------------------------------------------------------------------------------


def fit(found: Adapter, base: Weights, flat: Mapping[str, Tensor]) -> Fit:
    """The layout in which the base (`flat`: by our names in a file) has all that the adapter changes."""
    cfg = base.network.config
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in flat.items()}
    nearest: list[str] | None = None
    for layout in _layouts(base):
        for prefix in _prefixes(found):
            there = _written(layout, shapes, cfg, {name.removeprefix(prefix) for name in found.tensors})
            if there is None:
                continue
            whole = {name for name in found.whole if name.removeprefix(prefix) in outputs_of(layout)}
            lost = [n for n in found.tensors if n.removeprefix(prefix) not in there and n not in whole]
            if not lost:
                _refuse_unfilled(found, prefix, there)
                return Fit(layout, prefix)
            if nearest is None or len(lost) < len(nearest):
                nearest = lost
    lost = nearest or found.tensors
    what = f"{len(lost)} of its {len(found.tensors)} tensors ({some(lost)})"
    raise BadInput(f"the base has no place for {what}; is it of another network, or another library?")


def _layouts(base: Weights) -> Iterator[str]:
    """Those of the base first. Where features turn by their place, libraries keep them in other orders under the same
    names, and only the catalogue knows in which."""
    backbone = base.network.config.backbone
    rotary = backbone.rotary if isinstance(backbone, ViTConfig) else None
    turned = rotary is not None and rotary.reference is not None
    if base.entry is None and turned:
        raise BadInput("libraries keep its features in other orders; open the base by its name of the catalogue")
    own = () if base.entry is None else base.entry.layouts
    yield from own
    if not turned:
        yield from (layout for layout in LAYOUTS if layout not in own)


def _prefixes(found: Adapter) -> list[str]:
    """What may stand before the names of a layout: nothing, or the name under which a classifier holds its backbone."""
    return ["", *sorted({f"{module.split('.')[0]}." for module in found.updates})]


def _written(
    layout: str, shapes: Mapping[str, Tensor], cfg: ClassifierConfig, names: Iterable[str]
) -> dict[str, Tensor] | None:
    """The base in this layout, as shapes; None where it cannot be, or where no rule knows any of these names."""
    if not any(LAYOUTS[layout].knows(name) for name in names):
        return None
    try:
        return LAYOUTS[layout].write(shapes, cfg)
    except (BadInput, RuntimeError, ValueError, IndexError):  # shapes that its moves cannot take
        return None


def outputs_of(layout: str) -> set[str]:
    """Their names of the tensors of heads: the base may have none yet, or of other classes."""
    out: set[str] = set()
    for name in ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias"):
        try:
            out |= set(LAYOUTS[layout].there([name]).values())
        except BadInput:  # no such head in this library
            continue
    return out


def _refuse_unfilled(found: Adapter, prefix: str, there: Mapping[str, Tensor]) -> None:
    """Half an adapter is none: each map of the base that it aims at has its two matrices."""
    config, wholly = found.config, found.config.get("modules_to_save") or []
    aimed = config.get("target_modules")
    if aimed == "all-linear" or not isinstance(aimed, (str, list)) or config.get("layers_to_transform") is not None:
        return
    maps = [name.removesuffix(".weight") for name, tensor in there.items() if tensor.ndim in (2, 4)]
    empty = [
        module
        for module in maps
        if not {module, prefix + module} & found.updates.keys()
        and aims(aimed, module, prefix)
        and not aims(config.get("exclude_modules") or [], module, prefix)
        and not aims(wholly, module, prefix)
        and f"{module}.weight" in there
    ]
    if empty:
        raise BadInput(f"it aims at {some(empty)}, and has no lora_A and lora_B there; get it again")


def aims(at: str | Iterable[str], module: str, prefix: str = "") -> bool:
    """As PEFT does: a list has ends of names, a text is one regular expression."""
    if isinstance(at, str):
        try:
            return any(re.fullmatch(at, name) for name in (module, prefix + module))
        except re.error as error:
            raise BadInput(f"{CONFIG} has {at!r}, which cannot be read ({error})") from None
    return any(name == end or name.endswith(f".{end}") for end in at for name in (module, prefix + module))


def some(names: list[str], shown: int = _SHOWN) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
