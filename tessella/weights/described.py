"""What a TOML file says of weights that lie about without a card: architecture, classes, pictures, by dotted names.

```toml
like = "vit_t16"                  # where the architecture starts: of the catalogue, or a preset; left out: vit_b16
classes = ["cat", "dog"]          # names of the outputs, in their order
licence = "mit"
[model.backbone]                  # what differs from it; not with a name of the catalogue, which settles it
patch_size = 4
[preprocess]
crop = 1.0
```
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..card import Card, Preprocess, alone
from ..config import decode, encode, merge, nearest, read_plain
from ..errors import BadInput
from ..models.architecture import ClassifierConfig
from ..models.presets import classifier
from .catalog import CATALOG

KEYS = ("like", "classes", "licence", "model", "preprocess")
ENDINGS = (".toml", ".json")


@dataclass(frozen=True)
class Described:
    place: Path
    like: ClassifierConfig | str | None  # None: it says nothing of the architecture
    classes: tuple[str, ...] = ()
    licence: str | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)

    def on(self, card: Card) -> Card:
        """The card with what is said here in place of what was assumed."""
        out = replace(card, provenance=card.provenance | {"described": self.place.name})
        if self.licence is not None:
            out = replace(out, licence=self.licence)
        if self.preprocess:
            known = encode(card.preprocess["image"])
            image = decode(Preprocess, merge(known, self.preprocess), f"{self.place}: preprocess")
            out = replace(out, preprocess={**card.preprocess, "image": image})
        if self.classes:
            outputs = sum(head.outputs for head in card.heads)
            if len(self.classes) != outputs:
                raise BadInput(
                    f"{self.place}: classes has {len(self.classes)} names for {outputs} outputs; name as many"
                )
            labels = out.provenance | {"labels": f"of {self.place.name}"}
            out = replace(out, heads=(alone(self.classes),), provenance=labels)
        return out


def is_file(like: str) -> bool:
    """Whether this names a file, not an architecture."""
    return Path(like).suffix in ENDINGS


def read(path: str | Path) -> Described:
    place = Path(path)
    plain = read_plain(place)
    for key in plain:
        if key not in KEYS:
            raise BadInput(f"{place}: no key {key!r} is known here{nearest(key, KEYS)}")
    hints: dict[str, Any] = {"like": str | None, "classes": tuple[str, ...], "licence": str | None}
    told = {key: decode(hint, plain[key], f"{place}: {key}") for key, hint in hints.items() if key in plain}
    for key in ("model", "preprocess"):
        if not isinstance(plain.get(key, {}), dict):
            raise BadInput(f"{place}: {key} is {plain[key]!r}; it must be a table, such as [{key}]")
    like, model = told.get("like"), plain.get("model", {})
    if model and like in CATALOG:
        raise BadInput(f"{place}: {like} settles the architecture; leave [model] out, or like")
    if model:
        start = encode(classifier(like or "vit_b16", 0))
        like = decode(ClassifierConfig, merge(start, model), f"{place}: model")
    return Described(place, like, told.get("classes", ()), told.get("licence"), plain.get("preprocess", {}))
