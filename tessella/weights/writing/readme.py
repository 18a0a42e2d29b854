"""The page beside a model that goes to others: what it is, how pictures reach it, how to open it, its licence.

The head of the page is what hubs read; only what the card knows is said, and what is not known is said to be so.
"""

from __future__ import annotations

from typing import Any

from ...card import Card, Preprocess
from .abroad import Abroad

LICENCES = {"apache-2.0", "mit", "cc-by-nc-4.0", "cc-by-4.0", "cc0-1.0", "openrail", "bsd-3-clause"}  # ids of hubs
SHOWN = 30  # classes


def readme(card: Card, library: str, told: Abroad | None = None) -> str:
    """`told`: None for a folder of our own."""
    classes = [name for head in card.heads for name in head.classes]
    licence = (card.licence or "").lower()
    head = {
        "library_name": library, "license": licence if licence in LICENCES else "other",
        "pipeline_tag": "image-classification" if classes else "image-feature-extraction",
    }  # fmt: skip
    head |= {"license_name": licence} if licence and licence not in LICENCES else {}
    lines = ["---", *(f"{key}: {value}" for key, value in head.items()), "tags:", "- vision", "- vit"]
    lines += ["---", "", f"# {_title(card, classes)}", "", *_open(library, told), ""]
    lines += _pictures(card.preprocess.get("image"))
    if told is not None and told.lost:
        lines += ["## What this folder cannot say", "", *(f"- {text}" for text in told.lost), ""]
    if classes:
        more = f", and {len(classes) - SHOWN:,} more" if len(classes) > SHOWN else ""
        lines += ["## Classes", "", ", ".join(classes[:SHOWN]) + more, ""]
    if card.metrics:
        lines += ["## Measured", "", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in card.metrics.items()] + [""]
    known = {key: value for key, value in card.provenance.items() if isinstance(value, (str, int, float)) and value}
    if known:
        lines += ["## Made by", "", *(f"- {key}: {value}" for key, value in known.items()), ""]
    lines += ["## Licence", "", card.licence or "Not known: ask whoever trained the weights.", ""]
    return "\n".join(lines)


def _title(card: Card, classes: list[str]) -> str:
    what = str(card.provenance.get("like") or card.provenance.get("name") or "A Vision Transformer")
    return f"{what}: {len(classes):,} classes" if classes else f"{what}: image features"


def _open(library: str, told: Abroad | None) -> list[str]:
    if told is None:
        return [
            "```python",
            "import tessella",
            "",
            'model = tessella.load("FOLDER")  # or this page\'s OWNER/NAME',
            "```",
        ]
    return [
        f"For {library}; written by tessella, every tensor read back bit for bit.",
        "",
        "```python",
        *told.opens,
        "```",
    ]


def _pictures(image: Preprocess | None) -> list[str]:
    if image is None:
        return []
    told: dict[str, Any] = {
        "size": "x".join(map(str, image.size)), "resize": image.resize, "crop": f"{image.crop:g}",
        "interpolation": image.interpolation, "mean": list(image.mean), "std": list(image.std),
    }  # fmt: skip
    return ["## Pictures", "", "| setting | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in told.items()), ""]
