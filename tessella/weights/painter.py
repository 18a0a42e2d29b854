"""transformers' ViTForMaskedImageModeling as a `Painter`, and back: the encoder, the mask token, the layer of pixels.

Everybody else who opens such a file gets the encoder alone.

Shape suffixes:  C channels  p side of a patch  D width  O = p * p * C numbers of one patch
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import encode
from ..errors import BadInput
from ..models.architecture import PainterConfig, ViTConfig
from . import native, transformers
from .files import read_tensors, settings
from .foreign import transformers as beside
from .recognise import recognise
from .table import Joint, Left, Rule, Table, Way, rename

TOKEN, PIXELS = "vit.embeddings.mask_token", "decoder.0.weight"


def _by_row(shuffled: Tensor, cfg: PainterConfig) -> Tensor:
    """(O, ...) of PixelShuffle, which are channel, row, column, to row, column, channel."""
    side, rest = cfg.encoder.patch_size, shuffled.shape[1:]
    return shuffled.view(cfg.encoder.channels, side, side, *rest).movedim(0, 2).reshape(-1, *rest)


def _by_channel(ours: Tensor, cfg: PainterConfig) -> Tensor:
    side, rest = cfg.encoder.patch_size, ours.shape[1:]
    return ours.view(side, side, cfg.encoder.channels, *rest).movedim(2, 0).reshape(-1, *rest)


def _token(parts: Any, _: Any) -> list[Tensor]:
    return [parts[0].flatten()]


def _token_back(parts: Any, _: Any) -> list[Tensor]:
    return [parts[0].view(1, 1, -1)]


WEIGHT = Way(
    lambda parts, cfg: [_by_row(parts[0].flatten(1), cfg)],  # a convolution over single patches: (O, D, 1, 1)
    lambda whole, cfg: [_by_channel(whole[0], cfg)[..., None, None]],
)
BIAS = Way(lambda parts, cfg: [_by_row(parts[0], cfg)], lambda whole, cfg: [_by_channel(whole[0], cfg)])


def rules(new: bool) -> list[Rule]:
    """`new`: the names of version 5 in memory; files keep those of version 4."""
    encoder = [rule for rule in transformers.vit("vit.", new) if rule != Left(TOKEN)]
    own: list[Rule] = [
        Joint(("mask_token",), (TOKEN,), Way(_token, _token_back)),
        Joint(("decoder.weight",), (PIXELS,), WEIGHT),
        Joint(("decoder.bias",), ("decoder.0.bias",), BIAS),
    ]
    return [*own, *encoder]


TABLES = (Table(rules(False)), Table(rules(True)))


@dataclass(frozen=True)
class Found:
    config: PainterConfig
    tensors: dict[str, Tensor]  # by the names of `Painter` in memory


def open_painter(source: str | Path) -> Found:
    """A folder as transformers leaves it, or its file where the catalogue knows such an encoder."""
    path = Path(source)
    file = path if path.is_file() else path / "model.safetensors"
    if not file.is_file():
        raise BadInput(f"{source} holds no model.safetensors; give the folder of a ViTForMaskedImageModeling")
    tensors = read_tensors(file)
    if not {TOKEN, PIXELS} <= tensors.keys():
        raise BadInput(f"{file} has no {TOKEN} and {PIXELS}; it is no ViTForMaskedImageModeling")
    cfg = PainterConfig(encoder=_encoder(file, tensors))
    return Found(cfg, painter_tensors(tensors, cfg, str(file)))


def painter_tensors(tensors: dict[str, Tensor], cfg: PainterConfig, where: str) -> dict[str, Tensor]:
    """transformers' names, of a file or in memory, to ours in memory."""
    for table in TABLES:
        if all(table.knows(name) for name in tensors):
            read = table.read(tensors, cfg).tensors
            return rename(read, native.from_file(encode(cfg), read))
    raise BadInput(f"{where} has names that no ViTForMaskedImageModeling has; check the file")


def _encoder(file: Path, tensors: dict[str, Tensor]) -> ViTConfig:
    config = file.parent / "config.json"
    if config.is_file():
        found = beside.told(settings(config), str(config), None).config.backbone
    else:
        match = next(iter(recognise({k: v for k, v in tensors.items() if not k.startswith("decoder.")})), None)
        if match is None:
            raise BadInput(f"{file} has the encoder of no ViT known here; lay transformers' config.json beside it")
        found = match.architecture.backbone
    if not isinstance(found, ViTConfig):
        raise BadInput(f"{file} has the encoder of no ViT, but {found.looks}; check the file")
    return found
