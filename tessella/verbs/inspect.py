"""`inspect`: what a model or a weights file is, whose layout it has, what it wants of a picture, under which licence.

With `against` it is also opened in another library, beside ours. A file that several networks fit is told with all of
them, and ends in the error that every verb gives.
"""

from __future__ import annotations

import json as _json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from ..card import Preprocess
from ..config import nearest
from ..errors import BadInput, readable
from ..models.architecture import ClassifierConfig, ViTConfig
from ..models.size import macs, parameters
from ..runtime.load import load
from ..weights.catalog import CATALOG
from ..weights.files import read_tensors
from ..weights.opened import Weights, open_weights
from ..weights.recognise import recognise
from ..weights.writing.folder import architecture
from .against import PEERS, Comparison, Peer, compare

LABELS = {"imagenet-1k": "ImageNet-1k", "imagenet-12k": "ImageNet-12k", "imagenet-21k": "ImageNet-21k"}
SHOWN = 5  # classes, left-out tensors
WIDE = 12  # columns of a name


@dataclass(frozen=True)
class Inspected:
    source: str
    facts: Mapping[str, str]  # in the order in which they are read
    candidates: tuple[Mapping[str, str], ...] = ()  # of a file that fits several
    comparison: Comparison | None = None
    fault: str = field(default="")  # one line: why it cannot be used as it is

    def tell(self, json: bool = False) -> None:
        if json:
            print(_json.dumps(self.plain(), indent=1))
            return
        for name, value in self.facts.items():
            print(readable(f"{name:<{WIDE}} {value}"))
        for one in self.candidates:
            print(readable("  " + "; ".join(f"{name} {value}" for name, value in one.items())))
        if self.comparison is not None:
            _tell(self.comparison)

    def plain(self) -> dict[str, Any]:
        out: dict[str, Any] = {"source": self.source, "facts": dict(self.facts)}
        out |= {"candidates": [dict(one) for one in self.candidates]} if self.candidates else {}
        if self.comparison is not None:
            c = self.comparison
            rows = [row._asdict() for row in c.rows]
            out["against"] = {"library": c.library, "version": c.version, "rows": rows, "differs": list(c.differs)}
        return out | ({"fault": self.fault} if self.fault else {})

    def judge(self) -> None:
        """BadInput if it cannot be used as it is, or if the other library would answer otherwise."""
        if self.fault:
            raise BadInput(self.fault)
        if self.comparison is not None and self.comparison.differs:
            raise BadInput(f"{self.source} against {self.comparison.library}: {'; '.join(self.comparison.differs)}")


def inspect(
    source: str | Path, pictures: Sequence[str | Path] = (), *, like: str | None = None, against: str | None = None
) -> Inspected:
    """`pictures`: what is shown to both with `against`; without any, scenes that are made for it."""
    library = next((name for name in get_args(Peer) if name == against), None)
    if against is not None and library is None:
        raise BadInput(f"--against {against}: there is no such library{nearest(against, PEERS)}")
    if pictures and library is None:
        raise BadInput(f"pictures are for --against {', '.join(PEERS)}; leave {pictures[0]} out, or add it")
    path = Path(source)
    tensors = read_tensors(path, note=lambda _: None) if path.is_file() else {}
    facts = _file(path, tensors) if tensors else {}
    try:
        found = open_weights(source, like)
    except BadInput as error:
        if not tensors:
            raise
        return Inspected(str(source), facts, _candidates(tensors), fault=str(error))
    facts |= _card(found)
    if library is None:
        return Inspected(str(source), facts)
    model = load(source, like, headless=True)
    return Inspected(str(source), facts, comparison=compare(model, library, pictures))


# -- facts -------------------------------------------------------------------------------------------------------------


def _file(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    numbers = sum(tensor.numel() for tensor in tensors.values())
    told = ", ".join(kinds) if len(kinds) == 1 else ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return {
        "file": f"{path.name}, {path.stat().st_size / 1e6:,.1f} MB",
        "tensors": f"{len(tensors)} ({numbers:,} numbers, {told})",
    }


def _card(found: Weights) -> dict[str, str]:
    card, cfg = found.card, architecture(found.card)
    made = card.provenance
    known = CATALOG.get(str(made.get("like")))
    out = {}
    if known is not None:
        layout = str(made.get("layout", ""))
        whose = f", in the layout of {layout.partition('/')[0]} ({layout.partition('/')[2]})" if layout else ""
        out["what"] = f"{known.name}, of the family {known.family}{whose}"
    elif found.bare:
        out["what"] = "a network of our names, which are timm's; whose weights it holds is not known"
    else:
        out["what"] = f"a model folder of tessella ({made.get('tessella', 'version not said')})"
    out["network"] = _network(cfg)
    out["size"] = f"{parameters(cfg):,} parameters, {macs(cfg) / 1e9:.2f} billion multiply-adds a picture"
    if made.get("left"):
        left = [str(name) for name in made["left"]]
        more = f", and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        out["left out"] = ", ".join(left[:SHOWN]) + more
    guessed = " (assumed: the file says nothing)" if found.bare and found.entry is None else ""
    out["pictures"] = _pictures(card.preprocess["image"]) + guessed
    out["outputs"] = _outputs(found, cfg)
    if known is not None and known.accuracy is not None and cfg.classes == known.architecture.classes:
        out["published"] = f"top-1 {known.accuracy:.1f} % on ImageNet-1k"
    out |= {"measured": ", ".join(f"{k} {v:.4g}" for k, v in card.metrics.items())} if card.metrics else {}
    out["licence"] = card.licence or "not said"
    return out | ({"found at": ", ".join(origin.id for origin in known.origins)} if known is not None else {})


def _network(cfg: ClassifierConfig) -> str:
    b = cfg.backbone
    side = "x".join(map(str, b.size))
    if not isinstance(b, ViTConfig):
        return f"{b.looks}, {side} px; pool {cfg.pool.kind}"
    told = [f"ViT of width {b.width}, depth {b.depth}, {b.heads} heads", f"patches of {b.patch_size} in {side} px"]
    usual = ViTConfig()
    for name in ("mlp", "norm_eps", "qk_norm", "position", "relative", "registers", "norm_order", "norm_pre"):
        if getattr(b, name) != getattr(usual, name):
            told.append(f"{name} {getattr(b, name)}")
    told += ["rotary"] if b.rotary else []
    told += ["scaled branches"] if b.layer_scale is not None else []
    told += ["a distillation token"] if b.distill_token else []
    told += [f"{b.channels} channels"] if b.channels != usual.channels else []
    return ", ".join(told) + f"; pool {cfg.pool.kind}"


def _pictures(image: Preprocess) -> str:
    side = "x".join(map(str, image.size))
    numbers = (f"{word} {[round(v, 4) for v in values]}" for word, values in (("mean", image.mean), ("std", image.std)))
    return f"{side} px, {image.resize}, crop {image.crop:g}, {image.interpolation}, {', '.join(numbers)}"


def _outputs(found: Weights, cfg: ClassifierConfig) -> str:
    if not cfg.classes:
        return f"features of {cfg.pool.projection or cfg.backbone.features} numbers, no classes"
    told = []
    for head in found.card.heads:
        labels = LABELS.get(str(found.card.provenance.get("labels", "")), "")
        names = ", ".join(head.classes[:SHOWN]) + (", ..." if len(head.classes) > SHOWN else "")
        told.append(
            f"{head.task} {head.name}: {len(head.classes):,} classes{' of ' + labels if labels else ''} ({names})"
        )
    return "; ".join(told)


def _candidates(tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, str], ...]:
    """All networks of the catalogue that a file fits, with what they differ in."""
    out: dict[str, Mapping[str, str]] = {}
    for match in recognise(tensors):
        entry = CATALOG[match.name]
        out[match.name] = {
            "--like": match.name, "layout": match.layout, "pictures": _pictures(entry.preprocess),
            "classes": entry.labels or "none", "licence": entry.licence,
        }  # fmt: skip
    return tuple(out.values()) if len(out) > 1 else ()


# -- beside another library --------------------------------------------------------------------------------------------


def _tell(found: Comparison) -> None:
    print(f"\nagainst {found.library} {found.version}, opened there from our conversion")
    print(f"  {'picture':<24} {'pixels of 255':>14} {'tokens':>9} {'outputs':>9}  first")
    for row in found.rows:
        name = row.picture if len(row.picture) <= 24 else f"...{row.picture[-21:]}"
        pixels = "-" if row.pixels is None else f"{row.pixels:.3g}"
        tokens = "-" if row.tokens is None else f"{row.tokens:.1e}"
        first = "the same" if row.top else "another"
        print(readable(f"  {name:<24} {pixels:>14} {tokens:>9} {row.outputs:>9.1e}  {first}"))
