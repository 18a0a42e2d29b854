"""What a model becomes in another library's folder: which layout its tensors take, and what must lie beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ...card import Card, Preprocess
from ...errors import BadInput
from ...models.architecture import ClassifierConfig, ViTConfig

ANY = frozenset(
    {"image_size", "patch_size", "channels", "width", "depth", "heads", "mlp_ratio", "norm_eps", "indivisible"}
    | {"remat", "drop_path"}
    | {f"{part}_dropout" for part in ("position", "projection", "mlp", "attention")}
)  # what every library has a number for, or what only training knows

NONE: frozenset[str] = frozenset()
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Abroad:
    """One folder of another library."""

    layout: str  # a key of LAYOUTS
    weights: str  # name of the file of tensors
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # JSON beside it, by name
    zeros: dict[str, tuple[int, ...]] = field(default_factory=dict)  # what its network has and nobody uses: shapes; a
    # shape of no axes is a counter
    opens: tuple[str, ...] = ()  # the lines of Python that open it
    lost: tuple[str, ...] = ()  # what the card says and the other library has no place for


def refuse_other(
    library: str, cfg: ClassifierConfig, free: frozenset[str] = NONE, family: Settings | None = None
) -> ViTConfig:
    """The backbone; a BadInput unless it is a ViT of this family: its settings as `family` says, those in `free` and
    ANY whatever they are, all others at their defaults."""
    b = vit_of(library, cfg)
    found = differing(b, free, family)
    if found is not None:
        value = getattr(b, found)
        raise BadInput(f"{library} has no such network: model.backbone.{found} is {value!r}; keep our own folder")
    return b


def vit_of(library: str, cfg: ClassifierConfig) -> ViTConfig:
    """Its backbone, which must be a ViT."""
    b = cfg.backbone
    if not isinstance(b, ViTConfig):
        raise BadInput(f"{library} has no such network ({b.looks}); keep our own folder")
    return b


def differing(cfg: ViTConfig, free: frozenset[str] = NONE, family: Settings | None = None) -> str | None:
    """The first setting that takes a backbone out of a family."""
    usual = {f.name: f.default for f in fields(ViTConfig)} | dict(family or {})
    for name, wanted in usual.items():
        value = getattr(cfg, name)
        if name in ANY | free or value == wanted or (name == "embed" and {value, wanted} == {"conv", "linear"}):
            continue
        if name in ("stride", "head_size") and value == (cfg.patch_size if name == "stride" else cfg.size_of_head):
            continue
        if name == "stem_convs":
            continue  # without a stem it means nothing
        return name
    return None


def image_of(card: Card) -> Preprocess:
    if "image" not in card.preprocess:
        raise BadInput("its card has no preprocess.image, so nobody could prepare a picture for it; add it first")
    return card.preprocess["image"]


def classes_of(card: Card, cfg: ClassifierConfig) -> tuple[str, ...]:
    """The names of the outputs; other libraries have one head, which says a class."""
    if not cfg.classes:
        return ()
    if len(card.heads) != 1 or card.heads[0].task not in ("classify", "tags"):
        told = ", ".join(f"{head.name} ({head.task})" for head in card.heads)
        raise BadInput(f"it says more than a class ({told}), and other libraries have one head; keep our own folder")
    return card.heads[0].classes


def temperature(card: Card) -> tuple[str, ...]:
    """Of what is lost: a calibration changes probabilities, and nobody else applies it."""
    hot = next((head.temperature for head in card.heads if head.temperature != 1), None)
    return () if hot is None else (f"the temperature {hot:.4g} of its calibration: divide its logits by that",)
