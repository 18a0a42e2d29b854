"""A finished model at work: a network with its card. Pictures in, names and probabilities (or arrays) out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import notebook
from ..card import Card, Preprocess
from ..data.loading.quarantine import Bad
from ..data.pixels.decode import decode
from ..data.pixels.finish import Finish
from ..data.pixels.preview import encoded
from ..data.pixels.transforms import prepare
from ..errors import BadInput, readable
from ..models.classifier import Classifier
from ..models.mae import MaskedAutoencoder
from ..models.painter import Painter
from .answers import Answer, answers

PREVIEW = 128  # pixels of the picture beside a prediction in a notebook
Array = np.ndarray[Any, np.dtype[Any]]
Paths = str | Path | Sequence[str | Path]
OnBad = Callable[[Bad], None]


@dataclass(frozen=True)
class Prediction:
    """One picture: class names with probabilities, most likely first; of several heads each one's answer."""

    id: str
    names: tuple[str, ...]  # as the first head says
    probabilities: tuple[float, ...]
    heads: Mapping[str, Answer]  # by name

    def __str__(self) -> str:
        alone = len(self.heads) == 1
        told = " · ".join(str(answer) if alone else f"{name} {answer}" for name, answer in self.heads.items())
        return readable(f"{self.id}: {told}")

    def _repr_html_(self) -> str:
        said = [
            ("" if len(self.heads) == 1 else f"<b>{notebook.text(name)}</b> ") + _answer(answer)
            for name, answer in self.heads.items()
        ]
        try:
            pixels = decode(Path(self.id).read_bytes(), 3, self.id, least=(PREVIEW, PREVIEW))
            picture = encoded(pixels, PREVIEW)
        except (BadInput, OSError, ValueError):  # it has gone since, or its name is no path
            picture = ""
        return notebook.card(Path(self.id).name, self.id, notebook.beside(picture, "".join(said)))


def _answer(answer: Answer) -> str:
    return notebook.bars(list(zip(answer.names, answer.probabilities, strict=True))) or notebook.text(answer)


def _classes(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{len(names):,} classes: {shown}" if names else "one number"


class Model:
    """What `tessella.load` returns. `network` is a plain module; everything else comes from the card."""

    def __init__(self, network: nn.Module, card: Card, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.card = card
        self.preprocess: Preprocess = card.preprocess["image"]
        self.finish = Finish(self.preprocess).to(self.device)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.heads[0].classes

    def _repr_html_(self) -> str:
        card, backbone = self.card, self.card.architecture.get("backbone", {})
        shape = {key: value for key, value in backbone.items() if isinstance(value, (int, float)) and value}
        told = {
            "parameters": f"{sum(p.numel() for p in self.network.parameters()):,}",
            "picture": f"{' x '.join(map(str, self.preprocess.size))}, {self.preprocess.channels} channels",
        }
        told |= {f"{head.name} ({head.task})": _classes(head.classes) for head in card.heads}
        told |= {"licence of the weights": card.licence or "not said"}
        told |= {key: f"{value:.4g}" for key, value in card.metrics.items()}
        return notebook.card(
            str(backbone.get("type", card.architecture.get("type", ""))).removesuffix("Config"),
            f"{type(self.network).__name__} on {self.device}",
            notebook.rows(told),
            notebook.folded("architecture", {key: str(value) for key, value in shape.items()}),
            notebook.folded("preprocessing", {k: str(v) for k, v in vars(self.preprocess).items()}),
            notebook.folded("made by", {key: str(value) for key, value in card.provenance.items()}),
        )

    def to(self, device: str | torch.device) -> Model:
        return Model(self.network, self.card, device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Any:
        """A normalised (B, C, H, W) tensor to the network's raw output."""
        return self.network(images.to(self.device))

    def logits(self, paths: Paths, batch: int = 16) -> Array:
        """(N, classes), fp32: what all heads say, side by side in the order of the card."""
        return self._run(self.classifier, paths, batch)[1]

    def embed(self, paths: Paths, batch: int = 16) -> Array:
        """(N, width): the pooled features before the head, fp32."""
        return self._run(self.classifier.embed, paths, batch)[1]

    def predict(self, paths: Paths, top: int = 5, batch: int = 16, on_bad: OnBad | None = None) -> list[Prediction]:
        """A picture that cannot be read is an error; with `on_bad` it is told there and has no answer. `top`: how many
        classes each head that says one names; of tags those that are likely."""
        network = self.classifier
        if not self.card.heads:
            raise BadInput(
                "this model has no head, so there is nothing to predict; start a training from it: train --weights"
            )
        read, outputs = self._run(network, paths, batch, on_bad)
        if not read:
            return []
        found = zip(read, answers(self.card.heads, outputs, top), strict=True)
        first = self.card.heads[0].name
        return [Prediction(name, said[first].names, said[first].probabilities, said) for name, said in found]

    @property
    def classifier(self) -> Classifier:
        """What has features, and a head if there is one; of a network with a decoder the encoder and its pool."""
        match self.network:
            case Classifier():
                return self.network
            case MaskedAutoencoder() | Painter():
                return self.network.classifier()
        kind = type(self.network).__name__
        raise BadInput(f"this model is a {kind}; only a Classifier has class logits and embeddings")

    @torch.no_grad()
    def _run(self, function: Any, paths: Paths, batch: int, on_bad: OnBad | None = None) -> tuple[list[str], Array]:
        """(names of what could be read, what the function says of each)."""
        names: list[str] = []
        parts: list[Array] = []
        for read, pixels in decoded_ahead(_listed(paths), self.preprocess, batch, on_bad):
            if read:
                names += read
                parts.append(function(self.finish({"image": pixels.to(self.device)})["image"]).float().cpu().numpy())
        if not parts and on_bad is None:
            raise BadInput("no picture was given; name at least one file")
        return names, np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def decoded_ahead(
    paths: Sequence[str | Path], preprocess: Preprocess, batch: int, on_bad: OnBad | None = None
) -> Iterator[tuple[list[str], Tensor]]:
    """(names, pixels (B, C, H, W) not yet normalised); the next batch is decoded while the model works on this one, no
    more. Pictures that cannot be read are left out of theirs and told to `on_bad`; without it they are an error."""

    def pixels(path: str | Path) -> Tensor | Bad:
        try:
            try:
                held = Path(path).read_bytes()
            except OSError as error:
                raise BadInput(f"{path} cannot be read ({error.strerror}); give the path of a picture") from None
            return prepare(held, preprocess, str(path))
        except BadInput as error:
            if on_bad is None:
                raise
            return Bad(str(path), str(error))

    with ThreadPoolExecutor(2, thread_name_prefix="decode") as pool:
        left = iter(paths)
        ahead = [(str(p), pool.submit(pixels, p)) for p in islice(left, batch)]
        while ahead:
            ready, ahead = ahead, [(str(p), pool.submit(pixels, p)) for p in islice(left, batch)]
            made = [(name, future.result()) for name, future in ready]
            for _, found in made:
                if isinstance(found, Bad) and on_bad is not None:
                    on_bad(found)
            kept = [(name, found) for name, found in made if isinstance(found, Tensor)]
            yield [name for name, _ in kept], torch.stack([p for _, p in kept]) if kept else torch.empty(0)


def _listed(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)
