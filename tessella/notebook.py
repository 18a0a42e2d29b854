"""What a notebook shows of a run, a model and a prediction: small pieces of HTML, no scripts, the page's colours.

Every name comes from somebody's disk or data, so it is escaped; pictures are data URIs; nothing is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from .errors import readable

Rows = Mapping[str, str]  # what a line is about -> what it says
Points = Sequence[tuple[float, float]]  # (step, value)

LINE = "border-top:1px solid color-mix(in srgb, currentColor 20%, transparent)"
LEFT = f"text-align:left;{LINE}"
SOFT = "opacity:.7;font-size:.85em"
MOST = 200  # points of a curve
WIDE, HIGH, RIM = 300, 90, 6  # pixels of a curve, and around it


def card(title: str, about: str, *parts: str) -> str:
    """A box with a title, a line below it, and what `rows`, `bars` and `curve` make."""
    head = f"<div><b>{text(title)}</b> <span style='{SOFT}'>{text(about)}</span></div>"
    style = "max-width:44rem;padding:.6rem .8rem;border-radius:.4rem;overflow-wrap:anywhere;" + LINE.replace("-top", "")
    return f"<div style='{style}'>{head}{''.join(parts)}</div>"


def rows(found: Rows) -> str:
    lines = "".join(
        f"<tr style='background:none'><td style='width:12rem;vertical-align:top;{LEFT};{SOFT}'>{text(name)}</td>"
        f"<td style='{LEFT}'>{text(value)}</td></tr>"
        for name, value in found.items()
    )
    return f"<table style='width:100%;margin:.4rem 0;border-collapse:collapse'>{lines}</table>" if lines else ""


def folded(name: str, found: Rows) -> str:
    """Rows that are seen when asked for."""
    return f"<details><summary style='{SOFT}'>{text(name)}</summary>{rows(found)}</details>" if found else ""


def bars(named: Sequence[tuple[str, float]]) -> str:
    """Names with shares of 1."""
    lines = "".join(
        f"<tr style='background:none'><td style='text-align:left'>{text(name)}</td><td style='width:9rem'>"
        f"<div style='height:.7em;width:{100 * min(max(share, 0.0), 1.0):.1f}%;background:currentColor;opacity:.45'>"
        f"</div></td><td style='text-align:right'>{100 * share:.1f} %</td></tr>"
        for name, share in named
    )
    return f"<table style='margin:.3rem 0'>{lines}</table>" if lines else ""


def beside(picture: str, words: str) -> str:
    """A picture, if there is one, and text to its right."""
    image = (
        f"<img src='{escape(picture)}' alt='' style='max-width:8rem;max-height:8rem'>" if _is_picture(picture) else ""
    )
    return f"<div style='display:flex;gap:.8rem;align-items:center;flex-wrap:wrap'>{image}<div>{words}</div></div>"


def curve(name: str, points: Points) -> str:
    """A line over the steps, with its first, last and extreme values in words."""
    seen = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(seen) < 2:
        return ""
    kept = [*seen[: -1 : math.ceil(len(seen) / MOST)], seen[-1]]
    (left, right), (low, high) = ((min(side), max(side)) for side in zip(*seen, strict=True))
    across, up = (WIDE - 2 * RIM) / max(right - left, 1e-12), (HIGH - 2 * RIM) / max(high - low, 1e-12)
    line = " ".join(f"{RIM + (x - left) * across:.1f},{HIGH - RIM - (y - low) * up:.1f}" for x, y in kept)
    told = f"{text(name)} {seen[-1][1]:.4g}; {low:.4g} to {high:.4g} in steps {left:g} to {right:g}"
    return (
        f"<figure style='display:inline-block;margin:.4rem .8rem .4rem 0'>"
        f"<svg viewBox='0 0 {WIDE} {HIGH}' width='{WIDE}' height='{HIGH}' style='max-width:100%' role='img' "
        f"aria-label='{told}'><polyline points='{line}' fill='none' stroke='currentColor' stroke-width='1.5'/></svg>"
        f"<figcaption style='{SOFT}'>{told}</figcaption></figure>"
    )


def text(words: object) -> str:
    return escape(readable(str(words)))


def _is_picture(uri: str) -> bool:
    return uri.startswith("data:image/")
