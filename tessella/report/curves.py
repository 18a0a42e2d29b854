"""What the log says over time: losses, figures on held-out pictures, learning rate, speed, each block's gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..card import Head, Task
from ..metrics.predictions import Array
from .chart import Scale, Series, lines, number, panel, shades, smooth
from .story import Plain, Story

MAIN: dict[Task, tuple[str, ...]] = {"classify": ("top1", "top5"), "tags": ("map", "macro_f1"), "number": ("mae",)}
NAMES = {
    "top1": "top-1", "top5": "top-5", "map": "mAP", "macro_f1": "macro F1", "mae": "mean absolute error",
    "rmse": "RMSE", "r2": "R²", "loss": "loss", "auroc": "AUROC", "ece": "ECE",
    "balanced_accuracy": "balanced accuracy",
}  # fmt: skip
COLUMNS = 48  # moments of the tables of blocks


def column(rows: Sequence[Plain], key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the rows that have it as a finite number."""
    held = [(float(r["step"]), float(r[key])) for r in rows if isinstance(r.get(key), (int, float)) and "step" in r]
    held = [(step, value) for step, value in held if math.isfinite(value)]
    return [step for step, _ in held], [value for _, value in held]


def key_of(head: Head, heads: Sequence[Head], figure: str) -> str:
    """The name of a figure in a row of the log."""
    return f"val/{figure}" if len(heads) == 1 else f"val/{head.name}/{figure}"


def trained_seconds(rows: Sequence[Plain], batch: int) -> float | None:
    """Time in steps, by the speed of each logged row; evaluations and saving are not in it."""
    steps, speeds = column(rows, "images/s")
    total, before = 0.0, -1.0
    for step, speed in zip(steps, speeds, strict=True):
        if speed > 0 and step > before:
            total += (step - before) * batch / speed
            before = step
    return total if steps else None


def section(story: Story, more: Sequence[str] = ()) -> str:
    """Small multiples, each with its own scale; `more` stand behind the losses."""
    rows, out = story.rows, [_losses(story), *more]
    for head in story.heads:
        for panel_ in _figures(story, head):
            out.append(panel_)
    steps, values = column(rows, "lr")
    out.append(lines("Learning rate", [Series("", steps, values, "line")], Scale(zero=True)))
    steps, values = column(rows, "images/s")
    out.append(lines("Pictures a second", [Series("", steps, values, "line")], Scale(zero=True)))
    steps, values = column(rows, "waiting")
    out.append(lines("Time spent waiting for data", [Series("", steps, values, "line")], Scale(share=True, zero=True)))
    steps, values = column(rows, "norm")
    out.append(lines("Norm of the gradient", [Series("", steps, values, "line")], Scale(log=True)))
    charts = "".join(out)
    return f'{_words(story)}<div class="small">{charts}</div>' if charts else ""


def _words(story: Story) -> str:
    """Why the two losses may seem to stand the wrong way round."""
    trained, held = column(story.rows, "loss")[1], column(story.rows, "val/loss")[1]
    if not trained or not held or held[-1] >= trained[-1]:
        return ""
    return (
        "<p class='note'>The training loss lies above the held-out one, as is usual where it is measured on augmented "
        "pictures, with whatever regularises the network switched on.</p>"
    )


def _losses(story: Story) -> str:
    steps, values = column(story.rows, "loss")
    window = max(1, len(values) // 30)
    series = [Series("", steps, values, "raw"), Series("training", steps, smooth(values, window), "line")]
    if len(story.heads) == 1:
        series.append(Series("held out", *column(story.rows, "val/loss"), "accent"))
    return lines("Loss", series)


def _figures(story: Story, head: Head) -> list[str]:
    """The figures that matter for what the head says."""
    out, several = [], len(story.heads) > 1
    lead = f"{head.name}: " if several else ""
    names = MAIN.get(head.task, ())
    shares = head.task != "number"
    series = []
    for place, name in enumerate(names):
        if name == "top5" and len(head.classes) <= 5:  # all answers are among the first five
            continue
        steps, values = column(story.rows, key_of(head, story.heads, name))
        series.append(Series(NAMES[name], steps, values, "accent" if not place else "line"))
    for name, words in (("val/top1_before", "classes from before"), ("val/top1_added", "new classes")):
        steps, values = column(story.rows, name)
        series += [Series(words, steps, values, "raw")] if values else []
    title = {"classify": "Right answers", "tags": "Labels found", "number": "Error"}.get(head.task, "Figures")
    out.append(lines(f"{lead}{title}", series, Scale(share=shares)))
    if several:
        steps, values = column(story.rows, key_of(head, story.heads, "loss"))
        out.append(lines(f"{lead}held-out loss", [Series("", steps, values, "accent")]))
    return out


# -- blocks ---------------------------------------------------------------------------------------


def flow(story: Story) -> str:
    """The gradient's norm and the size of an update against its weights, by block and step."""
    out = []
    for key, title, words in (
        ("grad_by_block", "Gradient", "norm of the gradient"),
        ("update_by_block", "Update", "|update| / |weight|"),
    ):
        table, steps = _by_block(story.rows, key)
        if not table.size:
            continue
        logs = np.log10(np.where(table > 0, table, np.nan))
        if not np.isfinite(logs).any():
            continue
        low, high = float(np.nanmin(logs)), float(np.nanmax(logs))
        shown = 0.06 + 0.94 * (logs - low) / max(high - low, 1e-9)
        names = ["embed", *(f"block {i}" for i in range(table.shape[0] - 2)), "head"]
        chart = shades(shown, names, words, (f"step {steps[0]:g}", f"step {steps[-1]:g}"))
        scale = f"pale {number(10**low)}, full {number(10**high)}"
        out.append(panel(f"{title} by block", chart, [(f"{words}; {scale}", "accent")]))
    return f'<div class="pair">{"".join(out)}</div>' if out else ""


def _by_block(rows: Sequence[Plain], key: str) -> tuple[Array, list[float]]:
    """(parts, moments), the geometric mean of the rows of each moment, and the first and last step."""
    held = [(float(r["step"]), r[key]) for r in rows if isinstance(r.get(key), list) and r[key] and "step" in r]
    held = [(step, row) for step, row in held if len(row) == len(held[-1][1])]
    if not held:
        return np.zeros((0, 0)), []
    values = np.array([[float(v) if v is not None else np.nan for v in row] for _, row in held])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(values > 0, values, np.nan))
    cuts = np.array_split(np.arange(len(logs)), min(COLUMNS, len(logs)))
    means = [np.array([_mean(part) for part in logs[cut].T]) for cut in cuts]
    return np.exp(np.stack(means, axis=1)), [held[0][0], held[-1][0]]


def _mean(values: Array) -> float:
    good = values[np.isfinite(values)]
    return float(good.mean()) if len(good) else math.nan


def flow_words(story: Story) -> str:
    """What to see in it."""
    table, _ = _by_block(story.rows, "update_by_block")
    if not table.size or not np.isfinite(table).any():
        return "How strongly each part of the network is pulled, over the run; scales are logarithmic."
    ends = table[:, -max(1, table.shape[1] // 4) :]
    typical = np.array([_mean(np.log(row[row > 0])) for row in ends])
    names = ["the embedding", *(f"block {i}" for i in range(len(typical) - 2)), "the head"]
    if not np.isfinite(typical).any():
        return "How strongly each part of the network is pulled, over the run; scales are logarithmic."
    most, least = int(np.nanargmax(typical)), int(np.nanargmin(typical))
    if most == least:
        return f"Only {names[most]} learned; everything else stayed as it was."
    told = f"Towards the end, {names[most]} moved most with each step and {names[least]} least"
    return f"{told}, {math.exp(typical[most] - typical[least]):.1f} times as much against its weights."
