"""A model beside itself in another library: written as that library's folder, opened there, given the same pictures.

Compared are the pixels that reach the network, the tokens and the outputs; and, for weights that the library publishes
itself, what it says about preparing pictures. Whatever differs is named.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from PIL import Image
from torch import Tensor

from ..card import Preprocess
from ..data.origins.scenes import ScenesConfig, scene
from ..data.pixels.transforms import prepare
from ..errors import BadInput
from ..models.classifier import Classifier
from ..runtime.model import Model
from ..weights.catalog import CATALOG
from ..weights.files import read_tensors
from ..weights.writing import timm as timm_names
from ..weights.writing.folder import architecture, write_abroad

Peer = Literal["timm", "transformers", "open_clip"]
PEERS: tuple[str, ...] = get_args(Peer)
PACKAGES = {"timm": "timm", "transformers": "transformers", "open_clip": "open_clip_torch"}
SCENES = 4  # pictures that are made where none is given
LEVEL = 1.0  # of 255: as far apart as two roundings of one pixel
BAR = 1e-4  # of the largest value: fp32 in another order of sums


class Row(NamedTuple):
    """One picture. Differences are the largest; of pixels in levels of 255, of the others as a share of the largest."""

    picture: str
    pixels: float | None  # None: the other library was given no way to prepare pictures
    tokens: float | None  # None: it does not return them
    outputs: float
    top: bool  # whether both name the same class first, or the same feature is the largest


@dataclass(frozen=True)
class Comparison:
    library: str
    version: str
    rows: tuple[Row, ...]
    differs: tuple[str, ...]  # what a person should know: empty if both see and say the same

    @property
    def pixels(self) -> float | None:
        known = [row.pixels for row in self.rows if row.pixels is not None]
        return max(known) if known else None

    @property
    def tokens(self) -> float | None:
        known = [row.tokens for row in self.rows if row.tokens is not None]
        return max(known) if known else None

    @property
    def outputs(self) -> float:
        return max(row.outputs for row in self.rows)


class Opened(NamedTuple):
    """A network in its other library."""

    pixels: Callable[[Path], Tensor] | None  # a file to (1, C, H, W), normalised
    run: Callable[[Tensor], tuple[Tensor | None, Tensor]]  # to tokens (1, T, D) and outputs (1, N)
    says: dict[str, Any]  # of preparing pictures, by its own publication: mean, std, crop, interpolation, resize


def compare(model: Model, library: Peer, pictures: Sequence[str | Path] = ()) -> Comparison:
    """`pictures`: files; without any, scenes that are made for it."""
    version = str(_library(library).__version__)
    network = model.network
    if not isinstance(network, Classifier):
        raise BadInput(f"only a classifier or its backbone can be compared, not a {type(network).__name__}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "abroad"
        lost = write_abroad(folder, network.state_dict(), model.card, library).lost
        paths = [Path(p) for p in pictures] or _scenes(Path(temporary))
        other = OPEN[library](folder, model)
        rows = tuple(_row(model, network, other, path, named=bool(pictures)) for path in paths)
    found = Comparison(library, version, rows, ())
    return Comparison(
        library, version, rows, (*_preparing(model.preprocess, other.says, library), *_apart(found, lost))
    )


def _library(name: str, part: str = "") -> Any:
    try:
        return importlib.import_module(f"{name}.{part}" if part else name)
    except ImportError:
        raise BadInput(f"--against {name} needs that library: pip install {PACKAGES[name]}") from None


def _scenes(folder: Path) -> list[Path]:
    """Upright, wide, square and small pictures of shapes."""
    out = []
    for index, (width, height) in enumerate(((500, 375), (375, 500), (256, 256), (120, 90))[:SCENES]):
        drawn = scene(0, index, ScenesConfig(size=max(width, height))).image[:height, :width]
        out.append(folder / f"scene-{index}.png")
        Image.fromarray(drawn).save(out[-1])
    return out


@torch.no_grad()
def _row(model: Model, network: Classifier, other: Opened, path: Path, named: bool) -> Row:
    try:
        held = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give the path of a picture") from None
    mine = model.finish.pixels(prepare(held, model.preprocess, str(path))[None])
    pixels, seen = None, mine
    if other.pixels is not None:
        seen = other.pixels(path).float()
        std = torch.tensor(model.preprocess.std)[:, None, None]
        pixels = float("inf") if seen.shape != mine.shape else float(((seen - mine) * std * 255).abs().max())
        seen = mine if seen.shape != mine.shape else seen
    tokens, outputs = other.run(mine)  # the same pixels: what differs now is the network
    apart = None if tokens is None else _error(network.tokens(mine).together(), tokens)
    said = network(mine)
    same_top = bool((network(mine).argmax(1) == other.run(seen)[1].argmax(1)).all())
    return Row(str(path) if named else path.stem, pixels, apart, _error(said, outputs), same_top)


def _error(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


def _apart(found: Comparison, lost: Sequence[str]) -> list[str]:
    """`lost`: what the conversion could not say there, which may be why pictures differ."""
    out = []
    if found.pixels is not None and found.pixels > LEVEL + 1e-3:
        out.append(f"pixels differ by up to {found.pixels:.3g} of 255: {found.library} prepares pictures otherwise")
        out[-1] += f" (not said there: {'; '.join(lost)})" if lost else ""
    for what, value in (("tokens", found.tokens), ("outputs", found.outputs)):
        if value is not None and value > BAR:
            out.append(f"{what} differ by up to {value:.1e} of the largest value")
    return out


def _preparing(mine: Preprocess, says: dict[str, Any], library: str) -> list[str]:
    """What the library publishes about these weights and the card says otherwise."""
    own = {"mean": mine.mean, "std": mine.std, "crop": mine.crop, "interpolation": mine.interpolation}
    own |= {"resize": mine.resize}
    out = []
    for name, theirs in says.items():
        have = own[name]
        alike = have == theirs
        if not isinstance(theirs, str):
            one, other = (torch.tensor(value, dtype=torch.float64).reshape(-1) for value in (have, theirs))
            alike = one.shape == other.shape and bool(((one - other).abs() < 1e-4).all())
        if not alike:
            out.append(f"preprocess.{name} is {_shown(have)}; {library} publishes {_shown(theirs)} for these weights")
    return out


def _shown(value: Any) -> str:
    return str([round(float(v), 4) for v in value]) if isinstance(value, (tuple, list)) else str(value)


# -- the libraries -----------------------------------------------------------------------------------------------------


def _timm(folder: Path, model: Model) -> Opened:
    timm, data = _library("timm"), _library("timm", "data")
    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = data.create_transform(**data.resolve_data_config({}, model=net), is_training=False)

    def pixels(path: Path) -> Tensor:
        with Image.open(path) as image:
            found: Tensor = transform(image.convert("RGB"))
        return found[None]

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = net.forward_features(images)
        return tokens.flatten(1, 2) if tokens.ndim == 4 else tokens, net.forward_head(tokens)  # of a Swin: a map

    channels = model.preprocess.channels
    return Opened(pixels if channels == 3 else None, run, _published(model))


def _published(model: Model) -> dict[str, Any]:
    """What timm's own list says of weights that it publishes; {} for all others."""
    entry = CATALOG.get(str(model.card.provenance.get("like")))
    if entry is None or timm_names.known(architecture(model.card), model.card) is not entry:
        return {}
    called = entry.origins[0].id.removeprefix("timm/")
    timm = _library("timm")
    told = timm.get_pretrained_cfg(called) or timm.get_pretrained_cfg(called.replace("_clip_", "_clip_quickgelu_"))
    if told is None:
        return {}
    modes = {"center": "shortest", "squash": "squash", "border": "letterbox"}
    out = {"mean": told.mean, "std": told.std, "interpolation": told.interpolation}
    out |= {"resize": modes.get(told.crop_mode, told.crop_mode)}
    return out | ({"crop": told.crop_pct} if told.input_size[1:] == model.preprocess.size else {})


def _transformers(folder: Path, model: Model) -> Opened:
    transformers = _library("transformers")
    kind = transformers.AutoConfig.from_pretrained(folder)
    called = kind.architectures[0]
    more = {"add_pooling_layer": architecture(model.card).pool.tanh} if called == "ViTModel" else {}
    net = getattr(transformers, called).from_pretrained(folder, **more).eval()

    def run(images: Tensor) -> tuple[Tensor | None, Tensor]:
        out = net(pixel_values=images)
        if "logits" in out:
            tokens = net.base_model(pixel_values=images).last_hidden_state
            return tokens, out.logits
        if "image_embeds" in out:
            return net.vision_model.post_layernorm(out.last_hidden_state), out.image_embeds
        pooled = out.last_hidden_state[:, 0] if out.get("pooler_output") is None else out.pooler_output
        return out.last_hidden_state, pooled

    if not (folder / "preprocessor_config.json").is_file():
        return Opened(None, run, {})
    processor = transformers.AutoImageProcessor.from_pretrained(folder)

    def pixels(path: Path) -> Tensor:
        with Image.open(path) as image:
            found: Tensor = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        return found

    return Opened(pixels, run, {})


def _open_clip(folder: Path, model: Model) -> Opened:
    towers, transforms = _library("open_clip", "model"), _library("open_clip", "transform")
    told = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    cfg = told["model_cfg"]
    net = towers._build_vision_tower(cfg["embed_dim"], cfg["vision_cfg"], cfg["quick_gelu"]).eval()
    held = read_tensors(folder / "open_clip_model.safetensors")
    net.load_state_dict({name.removeprefix("visual."): tensor for name, tensor in held.items()})
    transform = transforms.image_transform_v2(transforms.PreprocessCfg(**told["preprocess_cfg"]), is_train=False)

    def pixels(path: Path) -> Tensor:
        with Image.open(path) as image:
            found: Tensor = transform(image)
        return found[None]

    def run(images: Tensor) -> tuple[None, Tensor]:
        return None, net(images)

    return Opened(pixels, run, {})


OPEN: dict[str, Callable[[Path, Model], Opened]] = {
    "timm": _timm, "transformers": _transformers, "open_clip": _open_clip,
}  # fmt: skip
