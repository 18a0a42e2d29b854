"""Reports of runs that never were: any number of classes and pictures, every name hostile if asked for."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from tessella.card import Head
from tessella.data.pixels.preview import encoded, uri
from tessella.metrics.predictions import Predictions
from tessella.report.mistakes import shown
from tessella.report.story import Looked, Plain, Shown, Story

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&\udce9\x1b[31m"


def predictions(head: Head, pictures: int, prefix: str = "", seed: int = 0) -> Predictions:
    """About right: what it says is the truth under noise."""
    rng = np.random.default_rng(seed)
    ids = tuple(f"{prefix}test/{i:06}.jpg" for i in range(pictures))
    k = len(head.classes)
    match head.task:
        case "number":
            targets = rng.normal(20, 5, pictures).astype(np.float32)
            return Predictions(ids, targets, (targets + rng.normal(0, 1, pictures))[:, None].astype(np.float32))
        case "tags":
            there = (rng.random((pictures, k)) < 0.3).astype(np.float32)
            noise = rng.normal(0, 2, (pictures, k))
            return Predictions(ids, there, (4 * there - 2 + noise).astype(np.float32))
        case _:
            labels = rng.integers(0, k, pictures)
            outputs = rng.normal(0, 1, (pictures, k)).astype(np.float32)
            outputs[np.arange(pictures), labels] += 3
            outputs[np.arange(pictures), (labels + 1) % k] += 1.5
            return Predictions(ids, labels, outputs)


def noise(side: int = 144, seed: int = 0) -> str:
    """The hardest picture to compress."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3))
    return encoded(pixels.astype(np.uint8))


def rows(steps: int, blocks: int, heads: tuple[Head, ...]) -> tuple[Plain, ...]:
    out: list[Plain] = []
    for step in range(0, steps, 10):
        share = step / steps
        row: Plain = {"step": step, "loss": 2.5 - 2 * share, "lr": 1e-3 * (1 - share), "images/s": 200.0}
        row |= {"waiting": 0.02, "norm": 1.5, "memory": 1e9, "eta": 1.0}
        row["grad_by_block"] = [0.1 * (b + 1) * (1 - share / 2) for b in range(blocks + 2)]
        row["update_by_block"] = [1e-3 / (b + 1) for b in range(blocks + 2)]
        out.append(row)
        if step % 100 == 90:
            several = len(heads) > 1
            figures = {"classify": {"top1": share, "top5": 1.0, "loss": 2 - share}, "number": {"mae": 2 - share},
                       "tags": {"map": share, "loss": 1 - share}}  # fmt: skip
            told = {f"{h.name}/{k}" if several else k: v for h in heads for k, v in figures[h.task].items()}
            out.append({"step": step} | {f"val/{k}": v for k, v in told.items()})
    return tuple(out)


def story(classes: int = 10, pictures: int = 500, hostile: bool = False, heads: tuple[Head, ...] = ()) -> Story:
    mark = HOSTILE if hostile else ""
    names = tuple(f"{mark}class {i}" for i in range(classes))
    heads = heads or (Head(name="label", task="classify", classes=names),)
    found = {head.name: predictions(head, pictures, mark, seed) for seed, head in enumerate(heads)}
    wanted = {found[head.name].ids[row] for head in heads for row in shown(found[head.name], head)}
    image = noise()
    machine: dict[str, Any] = {"python": "3.11", "packages": {"torch": "2"}, "device": f"{mark}cpu", "memory_gb": 8.0}
    run = {"data": {"path": f"{mark}photos"}, "train": {"batch": 64, "steps": 1000, "seed": 0}, "name": f"{mark}x"}
    origins = {"train.steps": f"chosen: {mark}", "train.batch": "given", "data.path": f"{mark}.toml", "name": "recipe"}
    written = {"run": run, "origins": origins, "machine": machine, "tessella": mark or "0", "folder": f"{mark}here"}
    written |= {"command": ["tessella", "train", f"{mark}photos"], "resumed": [["tessella", mark]], "processes": 2}
    held = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 4), np.uint8), "RGBA").save(held, "PNG")
    return Story(
        name=f"{mark}photos-1",
        written=written,
        rows=rows(1000, 12, heads),
        heads=heads,
        found=found,
        network={"name": f"{mark}vit_t16", "parameters": 5_500_000, "macs": 1e9, "pool": "cls", "size": [224, 224]},
        pictures=dict.fromkeys(wanted, image),
        first=tuple(Shown(f"{mark}{i}.jpg", noise(seed=i), f"{mark}class {i}") for i in range(24)),
        attention=tuple(Looked(i, noise(seed=i), noise(seed=i + 9)) for i in range(min(6, pictures))),
        positions=uri(held, "png"),
        parts={"train": {name: 7 + i % 5 for i, name in enumerate(names)}, "held out": dict.fromkeys(names, 2)},
        totals={"train": 8 * classes, "held out": pictures},
        quarantined=tuple(
            {"split": "train", "id": f"{mark}{i}.jpg", "reason": f"{mark} is damaged"} for i in range(99)
        ),
        notes=(f"{mark} was held out",),
        missing={"curves": mark},
    )
