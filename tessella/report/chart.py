"""Charts as SVG, made here and not in the browser: lines, meters, tables of shades. Colours are the page's classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from ..errors import readable
from ..metrics.predictions import Array

POINTS = 240  # of a line: more cannot be told apart on 320 units
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 178, 38, 12, 12, 22  # units of a chart of lines
Look = Literal["raw", "line", "accent"]


@dataclass(frozen=True)
class Series:
    """One line; `name` is told in the legend, unless it is empty."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    look: Look = "line"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The y axis: in per cent, by powers of ten, from zero."""

    share: bool = False
    log: bool = False
    zero: bool = False


def number(value: float) -> str:
    """Three digits that count; thousands as 12k."""
    if not math.isfinite(value):
        return "-"
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            scaled = value / (1e3 if letter == "k" else unit)
            return f"{scaled:.3g}{letter}"
    if size and size < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else "-"


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers that cover the range, at most `most` + 2 of them."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    return [round(k * step, 12) for k in range(first, math.ceil(high / step - 1e-9) + 1)]


def thinned(x: Sequence[float], y: Sequence[float], most: int = POINTS) -> tuple[Array, Array]:
    """Means of neighbours where there are too many points; what is not finite is left out."""
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    good = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[good], ys[good]
    if len(xs) <= most:
        return xs, ys
    cuts = np.linspace(0, len(xs), most + 1).astype(int)[:-1]
    counts = np.diff(np.append(cuts, len(xs)))
    return np.add.reduceat(xs, cuts) / counts, np.add.reduceat(ys, cuts) / counts


def smooth(y: Sequence[float], window: int) -> list[float]:
    """Means over the last `window` values, fewer at the start: it sees no future."""
    total = np.cumsum(np.insert(np.asarray(y, np.float64), 0, 0.0))
    at = np.arange(1, len(total))
    back = np.minimum(at, window)
    means: list[float] = ((total[at] - total[at - back]) / back).tolist()
    return means


def lines(title: str, series: Sequence[Series], scale: Scale | None = None, x_name: str = "step") -> str:
    """A figure with its legend; '' where there is no finite point."""
    scale = scale or Scale()
    drawn = [(one, *thinned(one.x, one.y)) for one in series]
    if scale.log:
        drawn = [(one, x[y > 0], np.log10(y[y > 0])) for one, x, y in drawn]
    drawn = [(one, x, y) for one, x, y in drawn if len(x)]
    if not drawn:
        return ""
    every_y = np.concatenate([y for _, _, y in drawn])
    low, high = float(every_y.min()), float(every_y.max())
    marks = ticks(0.0 if scale.zero else low, high)
    if scale.log:
        marks = [float(k) for k in range(math.floor(low), math.ceil(high) + 1)]
        marks = marks[:: max(1, len(marks) // 5)] if len(marks) > 1 else [marks[0] - 1, marks[0]]
    if scale.share:
        marks = [m for m in marks if m <= 1] if marks[-1] > 1 >= high else marks
    bottom, top = min(marks[0], low), max(marks[-1], high)
    first, last = min(float(x[0]) for _, x, _ in drawn), max(float(x[-1]) for _, x, _ in drawn)

    def place(x: Array, y: Array) -> tuple[Array, Array]:
        across = (x - first) / max(last - first, 1e-12) * (WIDTH - LEFT - RIGHT) + LEFT
        return across, HEIGHT - BOTTOM - (y - bottom) / max(top - bottom, 1e-12) * (HEIGHT - TOP - BOTTOM)

    digits = int(any(abs(100 * mark - round(100 * mark)) > 1e-6 for mark in marks))
    out = []
    for mark, y in zip(marks, place(np.full(len(marks), first), np.array(marks))[1].tolist(), strict=True):
        told = number(10**mark) if scale.log else percent(mark, digits) if scale.share else number(mark)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{told}</text>')
    for one, x, y in sorted(drawn, key=lambda item: ("raw", "line", "accent").index(item[0].look)):
        out.append(_path(*place(x, y), one.look))
    out.append(f'<text x="{LEFT}" y="{HEIGHT - 5}">{number(first)}</text>')
    out.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{escape(x_name)} {number(last)}</text>')
    return panel(title, svg(WIDTH, HEIGHT, "".join(out), title), [(one.name, one.look) for one, _, _ in drawn])


def _path(x: Array, y: Array, look: Look) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    head, _, rest = points.partition(" ")
    dots = look == "accent" and len(x) <= 40
    marked = "".join(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="2.2"/>' for a, b in zip(x, y, strict=True))
    return f'<path class="{look}" d="M{head}{f" L{rest}" if rest else ""}"/>' + (marked if dots or not rest else "")


def panel(title: str, chart: str, legend: Sequence[tuple[str, str]] = ()) -> str:
    told = "".join(f'<span><i class="{look}"></i>{text(name)}</span>' for name, look in legend if name)
    return f'<figure class="panel"><figcaption>{text(title)}{told}</figcaption>{chart}</figure>'


def svg(width: float, height: float, body: str, label: str, how: Literal["fill", "stretch", "own"] = "fill") -> str:
    """fill: as wide as its place; stretch: without keeping its shape; own: as large as it is, or smaller."""
    size = {"fill": "", "stretch": ' preserveAspectRatio="none"', "own": f' width="{width:.0f}" height="{height:.0f}"'}
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{text(label)}"{size[how]}>{body}</svg>'


def meter(share: float, look: str = "fill") -> str:
    """A bar from 0 to 1."""
    at = 100 * min(max(share if math.isfinite(share) else 0.0, 0.0), 1.0)
    back = '<rect class="calm" width="100" height="4" opacity=".08"/>'
    return svg(100, 4, f'{back}<rect class="{look}" width="{at:.1f}" height="4"/>', percent(share), "stretch")


def shades(values: Array, rows: Sequence[str], label: str, ends: tuple[str, str]) -> str:
    """A table (rows, columns) of shares 0 to 1 as shades, rows named at the left, the first and last column below."""
    height, width = values.shape
    cell, name = 12.0, 44.0
    across = (WIDTH - name) / max(width, 1)
    out = []
    for i in range(height):
        if height <= 16 or i % math.ceil(height / 16) == 0:
            out.append(f'<text x="{name - 6}" y="{i * cell + 9.5:.1f}" text-anchor="end">{text(rows[i])}</text>')
        for j in range(width):
            if math.isfinite(values[i, j]):
                at = f'x="{name + j * across:.1f}" y="{i * cell:.1f}" width="{across + 0.2:.1f}" height="{cell - 1}"'
                out.append(f'<rect class="fill" {at} opacity="{values[i, j]:.2f}"/>')
    y = height * cell + 12
    out.append(f'<text x="{name}" y="{y}">{text(ends[0])}</text>')
    out.append(f'<text x="{WIDTH}" y="{y}" text-anchor="end">{text(ends[1])}</text>')
    return svg(WIDTH, y + 4, "".join(out), label)


def text(words: str) -> str:
    """A stranger's words, as they may stand on a page, within quotes too."""
    return escape(readable(words))
