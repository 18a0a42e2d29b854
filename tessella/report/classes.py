"""Class by class: how many there were, how many were found, what they were taken for; the whole table as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..card import Head
from ..metrics.confusion import ClassFigures, by_class, confusion, worst_pairs
from ..metrics.predictions import Array, Predictions
from ..metrics.ranking import average_precision
from .chart import meter, percent, svg, text

MOST = 1000  # rows of a table: of more, the first
TABLE = 16  # classes of the table that are seen at once; the others unfold
DRAWN = 50  # classes up to which the confusion is drawn as a whole
NAMED = 20  # ... and its columns have names
PAIRS = 12  # mistakes named


def table(p: Predictions, head: Head) -> str:
    return _labels(p, head) if head.task == "tags" else _classes(p, head)


def _classes(p: Predictions, head: Head) -> str:
    counts = confusion(p)
    if not counts.sum():  # nobody knows what is right
        return ""
    figures = by_class(counts)
    there = [k for k, f in enumerate(figures) if f.support or f.precision is not None]
    order = sorted(there, key=lambda k: (figures[k].f1 if figures[k].f1 is not None else -1.0, k))
    rows = [_row(head.classes[k], figures[k], _taken_for(counts, k, head.classes)) for k in order]
    top = ["Class", "F1", "", "Found", "Precision", "Pictures", "Most often taken for"]
    absent = len(figures) - len(there)
    told = f" Of {absent:,} more there is no picture here, and none was answered so." if absent else ""
    lead = (
        "<p>The hardest first. <b>Found</b> is the share of a class's pictures that were recognised (recall), "
        "<b>precision</b> the share of its answers that are right, F1 what lies between the two."
        f"{text(told)}</p>"
    )
    if len(rows) <= TABLE + 4:
        return lead + _table(top, rows)
    folded = _folded(top, rows, "classes")
    return f"{lead}<h4>The {TABLE} hardest</h4>{_table(top, rows[:TABLE])}{folded}"


def _row(name: str, f: ClassFigures, taken: str) -> str:
    cells = [f'<td class="name">{text(name)}</td>', f'<td class="n">{_share(f.f1)}</td>']
    cells += [f'<td class="meter">{meter(f.f1 or 0.0)}</td>', f'<td class="n">{_share(f.recall)}</td>']
    cells += [f'<td class="n">{_share(f.precision)}</td>', f'<td class="n">{f.support:,}</td>']
    cells.append(f'<td class="taken">{taken}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _taken_for(counts: Array, k: int, names: Sequence[str]) -> str:
    row = counts[k].copy()
    row[k] = 0
    most = np.argsort(-row, kind="stable")[:2]
    return ", ".join(f"{text(names[i])}&nbsp;<span class='note'>{int(row[i]):,}</span>" for i in most if row[i])


def _labels(p: Predictions, head: Head) -> str:
    """Several labels a picture: each is a question of its own."""
    found = []
    for k, name in enumerate(head.classes):
        held = ~np.isnan(p.targets[:, k])
        there, said = p.targets[held, k] > 0.5, p.outputs[held, k] > 0
        hits = int((there & said).sum())
        both = int(there.sum() + said.sum())
        ap = average_precision(p.outputs[held, k], there)
        found.append((ap, name, int(there.sum()), _ratio(hits, int(there.sum())), _ratio(hits, int(said.sum())),
                      _ratio(2 * hits, both)))  # fmt: skip
    found.sort(key=lambda row: row[0] if row[0] is not None else 2.0)
    rows = [
        f'<tr><td class="name">{text(name)}</td><td class="n">{_share(ap)}</td>'
        + f'<td class="meter">{meter(ap or 0.0)}</td>'
        + "".join(f'<td class="n">{_share(v)}</td>' for v in (f1, recall, precision))
        + f'<td class="n">{n:,}</td></tr>'
        for ap, name, n, recall, precision, f1 in found
    ]
    top = ["Label", "AP", "", "F1", "Found", "Precision", "Pictures"]
    lead = "<p>The hardest first, by average precision. F1, found and precision at a probability of one half.</p>"
    if len(rows) <= TABLE + 4:
        return lead + _table(top, rows)
    folded = _folded(top, rows, "labels")
    return f"{lead}{_table(top, rows[:TABLE])}{folded}"


def _folded(top: Sequence[str], rows: Sequence[str], what: str) -> str:
    told = f"All {len(rows):,} {what}" if len(rows) <= MOST else f"The {MOST:,} hardest of {len(rows):,} {what}"
    return f"<details><summary>{told}</summary>{_table(top, rows[:MOST])}</details>"


def _table(top: Sequence[str], rows: Sequence[str]) -> str:
    figures = {"F1", "Found", "Precision", "Pictures", "AP"}
    head = "".join(
        f'<th class="n">{t}</th>' if t in figures else f"<th>{t}</th>" if t else '<th class="meter"></th>' for t in top
    )
    body = f"<table class='classes'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide">{body}</div>'


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value, 1) if value < 1 else "100 %"


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# -- confusion ------------------------------------------------------------------------------------


def matrix(p: Predictions, head: Head) -> str:
    """Drawn whole where it can be read, else its heaviest mistakes."""
    counts = confusion(p)
    if not counts.sum():
        return ""
    wrong = int(counts.sum() - np.trace(counts))
    if not wrong:
        return "<p>No class was taken for another.</p>"
    pairs = _pairs(counts, head.classes, wrong)
    if len(head.classes) > DRAWN:
        told = f"<p>{len(head.classes):,} classes are too many for a table; these are the mistakes made most often.</p>"
        return told + pairs
    told = (
        "<p>Each row is a class, each column an answer, as a share of the row. Right answers are grey; colour is where "
        "the network errs.</p>"
    )
    if len(head.classes) > NAMED:
        return (
            f'{told}<figure class="wide matrix many">{_drawn(counts, head.classes)}</figure><h4>Most often</h4>{pairs}'
        )
    drawn = f'<figure class="matrix">{_drawn(counts, head.classes)}</figure>'
    return f'{told}<div class="pair">{drawn}<div><h4>Most often</h4>{pairs}</div></div>'


def _pairs(counts: Array, names: Sequence[str], wrong: int) -> str:
    rows = []
    found = worst_pairs(counts, PAIRS)
    for pair in found:
        share = pair.times / max(1, int(counts[pair.truth].sum()))
        words = f"{text(names[pair.truth])} <span class='note'>→</span> {text(names[pair.answer])}"
        cells = f'<td class="name">{words}</td><td class="n">{pair.times:,}</td><td class="meter">{meter(share)}</td>'
        rows.append(f'<tr>{cells}<td class="n">{percent(share)}</td></tr>')
    top = "<th>Class → answer</th><th class='n'>Times</th><th></th><th class='n'>of the class</th>"
    told = sum(pair.times for pair in found)
    together = f"Together {told:,} of {wrong:,} mistakes, {percent(told / wrong)}."
    note = f"<p class='note'>{together}</p>" if told < wrong else ""
    body = f"<table class='pairs'><thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide">{body}</div>{note}'


def _drawn(counts: Array, names: Sequence[str]) -> str:
    k = len(names)
    cell = 34 if k <= 12 else 24 if k <= NAMED else 13
    left = 6 + 6.0 * max(len(_short(name)) for name in names)
    top = 4 + 4.6 * max(len(_short(name)) for name in names) if k <= NAMED else 4
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    out = []
    for i, name in enumerate(names):
        y = top + i * cell
        size = ' font-size="9"' if cell < 20 else ""
        out.append(
            f'<text x="{left - 6:.0f}" y="{y + cell / 2 + 3.5:.1f}" text-anchor="end"{size}>{text(_short(name))}'
        )
        out.append("</text>")
        if k <= NAMED:
            at = f"{left + (i + 0.5) * cell:.0f} {top - 5:.0f}"
            out.append(f'<text transform="translate({at}) rotate(-48)">{text(_short(name))}</text>')
        for j in range(k):
            out.append(_cell(counts, shares, (i, j), (left + j * cell, y), cell, names))
    width, height = left + k * cell + top * 0.6 * (k <= NAMED), top + k * cell + 2
    return svg(width, height, "".join(out), "Confusion", "own")


def _cell(
    counts: Array, shares: Array, at: tuple[int, int], place: tuple[float, float], cell: int, names: Sequence[str]
) -> str:
    (i, j), (x, y), n = at, place, int(counts[at])
    box = f'x="{x + 1:.0f}" y="{y + 1:.0f}" width="{cell - 2}" height="{cell - 2}" rx="{2 if cell > 20 else 1}"'
    if not n:
        return f'<rect class="calm" {box} opacity=".035"/>' if cell > 20 else ""
    share = float(shares[at])
    look = f'class="calm" opacity="{0.1 + 0.35 * share:.2f}"'
    if i != j:  # by the root: a mistake of one in fifty is to be seen
        look = f'class="fill" opacity="{min(1.0, 0.12 + 0.95 * math.sqrt(share)):.2f}"'
    told = f"<title>{text(names[i])} taken for {text(names[j])}: {n:,} ({percent(share, 1)})</title>"
    shown = ""
    if cell > 30:
        middle = f'x="{x + cell / 2:.1f}" y="{y + cell / 2 + 3.5:.1f}"'
        shown = f'<text class="ink" {middle} text-anchor="middle">{n}</text>'
    return f"<g>{told}<rect {look} {box}/>{shown}</g>"


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"
