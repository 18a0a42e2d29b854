"""`convert`: a model of anybody's as a folder of ours, or of the library that shall read it next."""

from __future__ import annotations

import json as _json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ..config import encode, nearest
from ..errors import BadInput, TessellaError, readable
from ..models.mae import MaskedAutoencoder
from ..models.painter import Painter
from ..runtime.load import load
from ..weights.io import read_model, write_model
from ..weights.lora_writer import LoraSettings, Written, write_adapter
from ..weights.opened import open_weights
from ..weights.upload import push as upload
from ..weights.upload import refuse_early
from ..weights.writing.folder import LIBRARIES, Library, describe, refuse_taken, write_abroad
from ..weights.writing.readme import readme

OWN: Literal["tessella"] = "tessella"
To = Library | Literal["tessella"]


@dataclass(frozen=True)
class Converted:
    """What was written, and where it went."""

    source: str
    folder: Path
    to: str
    tensors: int
    licence: str | None
    opens: tuple[str, ...]  # lines of Python
    lost: tuple[str, ...]  # what the other library has no place for
    pushed: str = ""  # its address on the hub

    def tell(self, json: bool = False) -> None:
        if json:
            told = {**vars(self), "folder": str(self.folder)}
            print(_json.dumps(told, indent=1, default=list))
            return
        print(readable(f"{self.folder}: {self.tensors} tensors for {self.to}, read back bit for bit"))
        for text in self.lost:
            print(readable(f"  not said there: {text}"))
        print(f"  licence of the weights: {self.licence or 'not known'}")
        for line in self.opens:
            print(readable(f"  {line}"))
        if self.pushed:
            print(readable(f"  pushed to {self.pushed}"))


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: str = OWN,
    like: str | None = None,
    adapter: str | Path | None = None,
    push: str | None = None,
) -> Converted:
    """Nothing is written unless all of it can be; `adapter`: a LoRA to merge into it first; `push`: OWNER/NAME of a hub
    that it goes to as well."""
    if to not in (OWN, *LIBRARIES):
        raise BadInput(f"--to {to}: there is no such library{nearest(to, (OWN, *LIBRARIES))}")
    folder = Path(out)
    refuse_taken(folder)
    if push is not None:
        refuse_early(push)
    model = load(source, like, headless=True, adapter=adapter)
    library = next((name for name in get_args(Library) if name == to), None)
    card, network, left = model.card, model.network, tuple[str, ...]()
    if library is not None and isinstance(network, (MaskedAutoencoder, Painter)):
        network, left = model.classifier, ("its decoder, which our own folder keeps",)
        card = replace(card, architecture=encode(network.cfg))
    tensors = dict(network.state_dict())
    opens: tuple[str, ...]
    lost: tuple[str, ...]
    if library is None:
        write_model(folder, tensors, card)
        _refuse_other(folder, tensors)
        opens, lost, page = ("import tessella", f'model = tessella.load("{folder}")'), (), readme(card, OWN)
    else:
        told = describe(card, library)
        write_abroad(folder, tensors, card, library)
        opens, lost, page = told.opens, (*told.lost, *left), readme(card, library, told)
    where = upload(folder, push, page) if push is not None else ""
    shown = tuple(line.replace("FOLDER", str(folder)) for line in opens)
    return Converted(str(source), folder, to, len(tensors), card.licence, shown, lost, where)


def _refuse_other(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """What lies there now is what was meant, bit for bit."""
    back = read_model(folder)[1]
    wrong = [
        n for n in tensors.keys() | back.keys() if not (n in back and n in tensors and torch.equal(back[n], tensors[n]))
    ]
    if wrong:
        raise TessellaError(f"{folder}: {wrong[0]} is not what was written; is the disk sound? write it again")


def extract(
    source: str | Path,
    out: str | Path,
    base: str | Path,
    *,
    like: str | None = None,
    rank: int = 16,
    names: str = "transformers/vit in memory",
) -> Written:
    """The difference of a model and the weights that it went on from, as a LoRA adapter that PEFT loads onto the base.
    What does not fit into this rank is refused."""
    refuse_taken(Path(out))
    settings = LoraSettings(base=str(base), layout=names, rank=rank)
    return write_adapter(out, open_weights(base, like), open_weights(source), settings)
