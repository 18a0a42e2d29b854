"""`predict --reconstruct`: pictures with holes, and what a network that learned to fill them in makes of them."""

from __future__ import annotations

import io
import json as _json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..config import encode
from ..data.origins.folder import open_pictures
from ..data.pixels.transforms import prepare
from ..durable import write_file
from ..errors import BadInput, readable
from ..models.build import network as network_of
from ..models.classifier import Classifier
from ..runtime.load import load
from ..runtime.model import Model
from ..runtime.paint import Painting, drawn_mask, mask_of, paint, painters
from ..training import choose
from ..weights.autoencoder import Autoencoder, open_autoencoder
from ..weights.io import load_into
from ..weights.painter import Found, open_painter


@dataclass(frozen=True)
class Reconstructed:
    """What was painted, and where it was written."""

    paintings: tuple[Painting, ...]
    files: tuple[Path, ...]

    def tell(self, json: bool = False) -> None:
        if json:
            rows = zip(self.paintings, self.files, strict=True)
            told = [{"id": p.id, "file": str(f), "painted": p.hidden, "patches": p.patches} for p, f in rows]
            print(_json.dumps(told, indent=1))
            return
        for painting, file in zip(self.paintings, self.files, strict=True):
            print(readable(f"{painting.id}: {painting.hidden} of {painting.patches} patches painted, {file}"))


def reconstruct(
    source: str | Path,
    pictures: Sequence[str | Path],
    out: str | Path,
    *,
    mask: str | Path | None = None,
    device: str = "auto",
) -> Reconstructed:
    """Side by side the picture, what the network was shown, what it painted: one file for one picture, a folder for
    several. `mask`: white where it is to be painted; without one patches are drawn, always the same."""
    opened = open_pictures(pictures)
    ids, target = list(opened.source.ids), Path(out)
    if len(ids) == 1:
        files = [target / f"{Path(ids[0]).stem}.png" if target.is_dir() else target]
    else:
        if target.suffix:
            raise BadInput(f"--out {out} is one file for {len(ids)} pictures; name a folder")
        files = [target / f"{number:04d}-{Path(name).stem}.png" for number, name in enumerate(ids)]
    if files[0].suffix.lower() != ".png":
        raise BadInput(f"--out {out} is no .png; what is painted is written without loss")
    if mask is not None and len(ids) > 1:
        raise BadInput(f"--mask is of one picture, and {len(ids)} were given; give that picture alone")
    model = _opened(source, choose.device(device)[0])
    network = painters(model)
    if mask is not None and drawn_mask(model, "") is None:
        raise BadInput(f"a {type(network).__name__} of colour paints all of a picture; leave --mask out")
    done = []
    for row, (name, file) in enumerate(zip(ids, files, strict=True)):
        pixels = prepare(opened.source.read(row), model.preprocess, name)
        hidden = drawn_mask(model, name) if mask is None else mask_of(mask, name, model)
        done.append(paint(model, pixels, hidden, name))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, _png(done[-1].beside()))
    return Reconstructed(tuple(done), tuple(files))


def _opened(source: str | Path, device: str) -> Model:
    """Of files that hold an encoder with its decoder, both: everybody else takes the encoder alone."""
    model = load(source, None, device, headless=True)
    if not isinstance(model.network, Classifier):
        return model
    found: Autoencoder | Found
    try:
        found = open_painter(source)
    except BadInput:
        try:
            found = open_autoencoder(source)
        except BadInput:
            return model  # which cannot paint, and that is said next
    net = network_of(encode(found.config), empty=True)
    load_into(net, found.tensors, take=True)
    return Model(net, replace(model.card, architecture=encode(found.config), heads=()), device)


def _png(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    held = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(held, "PNG")
    return held.getvalue()
