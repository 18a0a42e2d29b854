"""One file in the layout of the repository that a network was published in: of Meta, Microsoft, big_vision.

Most of these are pickles; ours is safetensors, for nothing that we write can run. They hold no config: how the network
is built is in the code of those repositories.
"""

from __future__ import annotations

from ...card import Card
from ...errors import BadInput
from ...models.architecture import ClassifierConfig
from .abroad import Abroad, image_of, temperature
from .timm import known, layout_of

FILES = {"meta": "model.safetensors", "microsoft": "model.safetensors", "big_vision": "model.npz"}
_TENSORS = ("import safetensors.torch", 'tensors = safetensors.torch.load_file("FOLDER/model.safetensors")')
OPENS = {
    "meta": _TENSORS,
    "microsoft": _TENSORS,
    "big_vision": ("import numpy", 'tensors = numpy.load("FOLDER/model.npz")'),
}


def describe(library: str, cfg: ClassifierConfig, card: Card) -> Abroad:
    entry = known(cfg, card, library)
    layout = layout_of(entry, library) if entry is not None else None
    if layout is None:
        what = f"{library} published no network of this architecture"
        raise BadInput(f"{what} that is known here; write --to timm or --to transformers, or keep our own folder")
    image, classes = image_of(card), sum(head.outputs for head in card.heads)
    lost = [f"how a picture is prepared ({image.resize}, crop {image.crop:g}, mean {list(image.mean)})"]
    lost += [f"the names of its {classes} classes"] if classes else []
    return Abroad(layout=layout, weights=FILES[library], opens=OPENS[library], lost=(*lost, *temperature(card)))
