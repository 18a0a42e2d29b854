"""Whether the network is as sure as it is right; for a number, how far what it says lies from what is true."""

from __future__ import annotations

import numpy as np

from ..card import Head
from ..metrics.calibration import Reliability, reliability
from ..metrics.predictions import Array, Predictions, known
from .chart import number, panel, percent, svg, ticks
from .mistakes import off_by

SIDE, LEFT, BELOW = 250, 38, 58  # units of the square, its left rim, and what stands below it
MOST = 1500  # points of a cloud: more hide each other


def classes(p: Predictions, head: Head) -> str:
    if not len(known(p).ids):
        return ""
    found = reliability(p)
    held = found.count > 0
    total = found.count.sum()
    sure = float((found.confidence[held] * found.count[held]).sum() / total)
    right = float((found.accuracy[held] * found.count[held]).sum() / total)
    told = f"On average the network says {percent(sure, 1)} and is right in {percent(right, 1)} of all cases: "
    if abs(sure - right) < 0.02:
        told += "taken together, it is as sure as it is right."
    else:
        told += "it is surer than it is right." if sure > right else "it is righter than it is sure."
    more = (
        f" The expected calibration error is <b>{percent(found.ece, 1)}</b>: so far, on average, is the bar from the "
        "dashed line on which probabilities would be frequencies."
    )
    if head.temperature != 1:
        more += f" Logits are divided by {head.temperature:.3g}, the temperature in the model's card."
    chart = panel("Right answers by stated probability", _diagram(found))
    return f"<div class='pair'><div><p>{told}{more}</p></div><div class='square'>{chart}</div></div>"


def _diagram(r: Reliability) -> str:
    """Bars of accuracy, the gap to the stated probability in colour, and below how many answers each stands for."""
    out, step = [], SIDE / len(r.count)
    for mark in (0, 0.25, 0.5, 0.75, 1):
        y = SIDE * (1 - mark) + 6
        out.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + SIDE}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{percent(mark)}</text>')
        out.append(
            f'<text x="{LEFT + SIDE * mark:.1f}" y="{SIDE + BELOW + 14}" text-anchor="middle">{percent(mark)}</text>'
        )
    most = max(1, int(r.count.max()))
    for k, (sure, right, n) in enumerate(
        zip(r.confidence.tolist(), r.accuracy.tolist(), r.count.tolist(), strict=True)
    ):
        if not n:
            continue
        x, wide = LEFT + k * step + 1, step - 2
        low, high = sorted((sure, right))
        weight = 0.3 + 0.7 * min(1.0, n / (0.01 * r.count.sum()))  # a few answers say little
        told = f"<title>said {percent(sure, 1)}, right {percent(right, 1)}, {int(n):,} answers</title>"
        bar = f'<rect class="calm" x="{x:.1f}" y="{SIDE * (1 - low) + 6:.1f}" width="{wide:.1f}"'
        bar += f' height="{SIDE * low:.1f}" opacity="{0.25 * weight:.2f}"/>'
        gap = f'<rect class="fill" x="{x:.1f}" y="{SIDE * (1 - high) + 6:.1f}" width="{wide:.1f}"'
        gap += f' height="{max(1.0, SIDE * (high - low)):.1f}" opacity="{0.9 * weight:.2f}"/>'
        tall = 36 * n / most
        many = f'<rect class="calm" x="{x:.1f}" y="{SIDE + BELOW - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
        out.append(f'<g>{told}{bar}{gap}{many} opacity=".45"/></g>')
    out.append(f'<path class="even" d="M{LEFT},{SIDE + 6} L{LEFT + SIDE},6"/>')
    out.append(f'<text x="{LEFT - 6}" y="{SIDE + BELOW - 2}" text-anchor="end">{most:,}</text>')
    return svg(LEFT + SIDE + 14, SIDE + BELOW + 20, "".join(out), "Reliability")


def numbers(p: Predictions) -> str:
    """A cloud of what was said over what is true."""
    rows, errors = off_by(p)
    if not len(rows):
        return ""
    said, true = p.outputs[rows, 0].astype(np.float64), p.targets[rows].astype(np.float64)
    within = float(np.quantile(np.abs(errors), 0.5)), float(np.quantile(np.abs(errors), 0.9))
    drift = float(errors.mean())
    told = f"Half of all answers are off by less than <b>{number(within[0])}</b>, nine of ten by less than "
    told += f"{number(within[1])}. On average they are {number(abs(drift))} too {'high' if drift > 0 else 'low'}."
    chart = panel("Said over true", _cloud(true, said))
    return f"<div class='pair'><div><p>{told}</p></div><div class='square'>{chart}</div></div>"


def _cloud(true: Array, said: Array) -> str:
    keep = np.linspace(0, len(true) - 1, min(MOST, len(true))).astype(int)  # sorted by error: the worst stays
    true, said = true[keep], said[keep]
    marks = ticks(float(min(true.min(), said.min())), float(max(true.max(), said.max())))
    low, high = marks[0], marks[-1]

    def at(values: Array) -> Array:
        return (values - low) / (high - low) * SIDE

    out = []
    for mark in marks:
        place = float(at(np.array([mark]))[0])
        y = SIDE - place + 6
        out.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + SIDE}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(mark)}</text>')
        out.append(f'<text x="{LEFT + place:.1f}" y="{SIDE + 22}" text-anchor="middle">{number(mark)}</text>')
    out.append(f'<path class="even" d="M{LEFT},{SIDE + 6} L{LEFT + SIDE},6"/>')
    for x, y in zip((at(true) + LEFT).tolist(), (SIDE - at(said) + 6).tolist(), strict=True):
        out.append(f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="2" opacity=".45"/>')
    return svg(LEFT + SIDE + 14, SIDE + 28, "".join(out), "Said over true")
