"""`list --for`: which architecture suits these pictures on this machine. Speed is measured, the rest is arithmetic."""

from __future__ import annotations

import json as _json
import math
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..config import encode, nearest
from ..data.checks.survey import median_side
from ..data.origins.open import absolute, open_data
from ..data.source import DataConfig
from ..errors import BadInput
from ..models.architecture import Backbone, ViTConfig
from ..models.build import network
from ..models.presets import PRESETS, classifier
from ..models.size import inference_bytes, macs, parameters
from ..training import choose, memory

SMALL = 112  # pixels up to which the compact recipe and its stem suit
TINY = 40  # pixels up to which the smallest patches suit
ENOUGH = (("vit_s16", 100_000), ("vit_b16", 1_000_000))  # training pictures from which a larger network learns more
SECONDS = 0.5  # of forward passes, about, for each figure
SLOW = 3000.0  # milliseconds that nobody waits for: beyond, speed is told by arithmetic
LICENCE = "Apache-2.0, no weights"  # of what ships with us: architectures, to be trained from scratch


@dataclass(frozen=True)
class Candidate:
    """One architecture at one size of pictures."""

    name: str
    size: int  # side of the picture that it sees, pixels
    parameters: int
    gmacs: float
    ms: float  # for one picture, alone in its batch, decoding not included
    measured: bool  # else told from the multiply-adds of the others
    memory: int  # bytes of weights and of one picture's activations
    licence: str


@dataclass(frozen=True)
class Suiting:
    candidates: tuple[Candidate, ...]  # from the least work to the most; those that are too slow are not there
    best: Candidate | None
    why: str
    device: str
    pictures: dict[str, int]  # side in pixels, training pictures, classes

    def tell(self, json: bool = False) -> None:
        if json:
            best = asdict(self.best) if self.best else None
            told = {"best": best, "why": self.why, "device": self.device, "pictures": self.pictures}
            print(_json.dumps({"candidates": [asdict(c) for c in self.candidates], **told}, indent=1))
            return
        from rich.console import Console
        from rich.table import Table

        names = ("name", "picture", "parameters", "GMACs", f"ms on {self.device}", "memory", "licence")
        table = Table(*names, box=None, header_style="bold")
        for c in self.candidates:
            speed = f"{c.ms:.1f}" if c.measured else f"about {c.ms:,.0f}"
            row = (c.name, f"{c.size} x {c.size}", f"{c.parameters:,}", f"{c.gmacs:.2f}", speed, memory.show(c.memory))
            table.add_row(*row, c.licence)
        Console().print(table)
        print(self.why)


def suiting(data: str | Path, name: str | None = None, device: str = "auto", max_ms: float | None = None) -> Suiting:
    """`name`: only this architecture. `max_ms`: only what needs no more for a picture."""
    if max_ms is not None and not max_ms > 0:
        raise BadInput(f"--max-ms is {max_ms:g}; give milliseconds above 0, such as 20")
    if name is not None and name not in PRESETS:
        raise BadInput(f"there is no architecture {name!r}{nearest(name, PRESETS)}")
    place = torch.device(choose.device(device)[0])
    splits = open_data(DataConfig(path=absolute(data)))
    side, pictures, classes = median_side(splits.train), len(splits.train), max(1, len(splits.classes))
    names = [name] if name else list(PRESETS)
    shapes = [(n, replace(PRESETS[n], image_size=size)) for n in names for size in sizes(PRESETS[n], side)]
    found = _measured([(n, b, classes) for n, b in shapes], place, max_ms)
    quick = [c for c in found if max_ms is None or (c.measured and c.ms <= max_ms)]
    best, why = recommended(quick, side, pictures)
    if best is None:
        least = min(found, key=lambda c: c.ms)
        why = f"none needs {max_ms:g} ms or less; the quickest is {least.name} at {least.size} px: {least.ms:.1f} ms"
    else:
        why = f"{best.name} --size {best.size}: {why}; {best.ms:.1f} ms a picture"
    about = {"side": side, "training": pictures, "classes": classes}
    return Suiting(tuple(quick), best, why, place.type, about)


def sizes(cfg: Backbone, side: int) -> list[int]:
    """What fits pictures of this side: not beyond it, in whole patches, at least four of them; and the usual size."""
    if not isinstance(cfg, ViTConfig):  # below it windows would be padded, or shrink
        return [cfg.size[0]]
    usual = SMALL if cfg.embed == "stem" else cfg.size[0]
    patch = cfg.patch_size
    fitting = max(4 * patch, -(-min(side, usual) // patch) * patch)
    return sorted({fitting, usual} if cfg.embed != "stem" else {fitting})


def recommended(found: list[Candidate], side: int, pictures: int) -> tuple[Candidate | None, str]:
    """(the one to start with, why): small pictures want small patches; a larger network wants more pictures."""
    if side <= SMALL:
        wanted = ["vit_n4" if side <= TINY else "vit_n8", "vit_n8", "vit_n4"]
        why = f"pictures of about {side} px are cut into small patches behind convolutions"
    else:
        wanted = [*(n for n, enough in reversed(ENOUGH) if pictures >= enough), "vit_t16", "vit_m16"]
        why = f"{pictures:,} pictures of about {side} px"
        why += " are enough for it" if wanted[0] != "vit_t16" else " teach a small network best, from scratch"
    for name in wanted:
        there = [c for c in found if c.name == name and c.measured]
        if there:
            fits = [c for c in there if c.size <= max(side, SMALL)] or there
            return max(fits, key=lambda c: c.size), why
    there = [c for c in found if c.measured]
    if not there:
        return None, ""
    return max(there, key=lambda c: c.gmacs), "the most work that is quick enough"


def _measured(shapes: list[tuple[str, Backbone, int]], device: torch.device, max_ms: float | None) -> list[Candidate]:
    """From the least work to the most, so that what would take too long is known before it is tried."""
    room, found = memory.available(device).bytes // 2, list[Candidate]()
    pace = math.inf  # milliseconds for a billion multiply-adds, the best so far: small networks do not show it
    rows = [(name, classifier(backbone, classes)) for name, backbone, classes in shapes]
    for name, cfg in sorted(rows, key=lambda row: macs(row[1])):
        gmacs, needs = macs(cfg) / 1e9, inference_bytes(cfg)
        longest = SLOW if max_ms is None else min(SLOW, max(200.0, 3 * max_ms))
        measured = not found or (pace * gmacs <= longest and needs < room)
        ms = _speed(encode(cfg), device) if measured else pace * gmacs
        pace = min(pace, ms / gmacs) if measured else pace
        size = cfg.backbone.size[0]
        found.append(Candidate(name, size, parameters(cfg), gmacs, ms, measured, needs, LICENCE))
    return found


@torch.no_grad()
def _speed(architecture: dict[str, Any], device: torch.device) -> float:
    """Milliseconds of a forward pass as `predict` makes it: fp32, one picture. The weights' values do not matter."""
    built = network(architecture, empty=True).to(device).eval()
    for p in built.parameters():
        p.fill_(0.01)
    backbone = architecture["backbone"]
    side = backbone["image_size"]
    picture = torch.zeros(1, backbone["channels"], side, side, device=device)
    taken: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(taken) < 4 or (time.perf_counter() < until and len(taken) < 200):
        began = time.perf_counter()
        built(picture).sum().item()  # waits for the device
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken[2:])  # the first ones allocate
