"""MAE's encoder together with its decoder, for whoever asks: everybody else who opens such a file gets the encoder.

Meta's own files and transformers' have both; timm's have the encoder alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..config import encode
from ..errors import BadInput
from ..models.architecture import MAEConfig, ViTConfig
from . import hub, native
from .catalog import CATALOG
from .files import read_tensors, settings
from .foreign import transformers
from .foreign.beside import CONFIG
from .foreign.facts import Facts
from .foreign.told import ratio
from .layouts import LAYOUTS, NEW
from .recognise import recognise
from .table import rename

LAYOUTS_OF_BOTH = ("meta/mae decoder", *(f"transformers/mae decoder{tail}" for tail in ("", " of version 5", NEW)))
HEADS = 16  # of every decoder that its authors have published


@dataclass(frozen=True)
class Autoencoder:
    config: MAEConfig
    tensors: dict[str, Tensor]  # by the names of `MaskedAutoencoder` in memory
    layout: str


def open_autoencoder(source: str | Path) -> Autoencoder:
    """A file, a folder as transformers leaves it, a name of the catalogue's MAE (vit_b16.mae), or the id of a hub."""
    path, config = _found(source)
    tensors = read_tensors(path)
    for layout in LAYOUTS_OF_BOTH:
        table = LAYOUTS[layout]
        if not all(table.knows(name) for name in tensors) or not _has_decoder(layout, tensors):
            continue
        read = table.read(tensors, None).tensors
        cfg = _config(read, tensors, config, path)
        return Autoencoder(cfg, rename(read, native.from_file(encode(cfg), read)), layout)
    raise BadInput(f"{path} holds no decoder of MAE in a layout known here; its encoder alone opens as ever")


def _has_decoder(layout: str, tensors: dict[str, Tensor]) -> bool:
    """Meta's layout knows every name, so a name of the decoder has to be there."""
    return ("decoder_pred.weight" if layout.startswith("meta/") else "decoder.decoder_pred.weight") in tensors


def _found(source: str | Path) -> tuple[Path, Path | None]:
    """The weights, and transformers' config where one lies beside them."""
    path, name = Path(source), str(source)
    if path.is_file():
        return path, None
    if path.is_dir():
        file = next((path / known for known in hub.FILES if (path / known).is_file()), None)
        if file is None:
            raise BadInput(f"{path} holds none of {', '.join(hub.FILES)}; give the file")
        return file, path / CONFIG if (path / CONFIG).is_file() else None
    if name in CATALOG:
        ids = [origin.id for origin in CATALOG[name].origins if origin.layout == "transformers/mae"]
        if not ids:
            raise BadInput(f"{name} is no masked autoencoder, so there is no decoder")
        name = ids[0]
    if not hub.is_id(name):
        raise BadInput(f"{source} is no file, folder or name of weights; check the path")
    return hub.fetch(name), hub.beside(name, CONFIG)


def _config(read: dict[str, Tensor], tensors: dict[str, Tensor], config: Path | None, path: Path) -> MAEConfig:
    embed, first = read.get("decoder_embed.weight"), read.get("decoder_blocks.0.mlp.fc1.weight")
    if embed is None or embed.ndim != 2 or first is None or first.ndim != 2:
        raise BadInput(f"{path} lacks decoder_embed.weight or decoder_blocks.0.mlp.fc1.weight; get it again")
    depth = len({name.split(".")[1] for name in read if name.startswith("decoder_blocks.")})
    heads, told, normalised = HEADS, None, True  # as what Meta and transformers have published
    if config is not None:
        plain = settings(config)
        heads = Facts(plain, str(config)).whole("decoder_num_attention_heads", HEADS)
        normalised = Facts(plain, str(config)).flag("norm_pix_loss", False)
        told = transformers.told(plain, str(config), None)
    if told is None:
        match = next(iter(recognise(tensors)), None)
        if match is None:
            raise BadInput(f"{path} has the encoder of no MAE known here; give a folder with transformers' {CONFIG}")
        encoder = match.architecture.backbone
    else:
        encoder = told.config.backbone
    if not isinstance(encoder, ViTConfig):
        raise BadInput(f"{path} has the encoder of no MAE known here, but {encoder.looks}; check the file")
    width = embed.shape[0]
    return MAEConfig(
        encoder=encoder,
        decoder_width=width,
        decoder_depth=depth,
        decoder_heads=heads,
        decoder_mlp_ratio=ratio(first.shape[0], width),
        normalised=normalised,
    )
