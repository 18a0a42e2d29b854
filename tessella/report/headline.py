"""The first screen: what was trained on what, how good it is and how surely, how long it took, what limits it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import numpy as np

from ..card import Head
from ..metrics.accuracy import top, wilson
from ..metrics.calibration import reliability
from ..metrics.confusion import balanced_accuracy, confusion, worst_pairs
from ..metrics.predictions import Predictions, known
from ..metrics.summary import summary
from . import unlabelled
from .chart import number, percent, text
from .curves import column, key_of, trained_seconds
from .mistakes import off_by
from .story import Story

MARK = (
    '<svg viewBox="0 0 26 26" aria-hidden="true"><rect class="fill" width="12" height="12" rx="2"/>'
    '<rect class="calm" x="14" width="12" height="12" rx="2" opacity=".25"/>'
    '<rect class="calm" y="14" width="12" height="12" rx="2" opacity=".45"/>'
    '<rect class="fill" x="14" y="14" width="12" height="12" rx="2" opacity=".55"/></svg>'
)
Z95 = 1.96


def head(story: Story, sections: Sequence[tuple[str, str]]) -> str:
    links = "".join(f'<a href="#{name}">{text(title)}</a>' for name, title in sections)
    told = {one.name: summary(story.found[one.name], one.task) for one in story.heads if one.name in story.found}
    figures = "".join(_figure(story, one, told[one.name]) for one in story.heads if one.name in told)
    figures = figures or unlabelled.figures(story)
    big = f'<div class="big">{figures}</div>' if figures else ""
    run = "the run " if story.written else ""
    return (
        f'<header><div class="brand">{MARK}<span>Report of {run}<b>{text(story.name)}</b></span></div>'
        f"<h1>{text(title(story))}</h1>"
        f'<div class="lead">{big}<p class="verdict">{verdict(story)}</p></div>'
        f"{_facts(story, told)}<nav aria-label='Sections'>{links}</nav></header>"
    )


def title(story: Story) -> str:
    pictures, model = story.totals.get("train"), str(story.network.get("name", "A network"))
    heads = [_what(one) for one in story.heads[:3]]
    heads += [f"{len(story.heads) - 3} more"] if len(story.heads) > 3 else []
    learned = " and ".join([", ".join(heads[:-1]), heads[-1]] if len(heads) > 1 else heads) or "to see"
    return f"{model} learned {learned}" + (f" from {pictures:,} pictures" if pictures else "")


def _what(one: Head) -> str:
    name = "" if one.name == "label" else f" of {one.name}"
    match one.task:
        case "classify":
            return f"{len(one.classes):,} classes{name}"
        case "tags":
            return f"{len(one.classes):,} labels{name}"
        case _:
            return f"the number {one.name}"


# -- figures --------------------------------------------------------------------------------------


Figures = dict[str, float]


def _figure(story: Story, one: Head, told: Figures) -> str:
    p = story.found[one.name]
    several = f"{text(one.name)}: " if len(story.heads) > 1 else ""
    match one.task:
        case "classify" if "top1" in told:
            n = len(known(p).ids)
            low, high = wilson(told["top1"], n)
            big = f"{100 * told['top1']:.1f}<small> %</small>"
            more = f"right of {n:,} {text(story.tested)}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        case "tags" if "map" in told:
            big = f"{100 * told['map']:.1f}<small> %</small>"
            more = f"mean average precision on {len(known(p).ids):,} {text(story.tested)}"
        case "number" if "mae" in told:
            off = np.abs(off_by(p)[1])
            spread = Z95 * float(off.std()) / math.sqrt(len(off))
            big = number(told["mae"])
            more = f"off on average, on {len(off):,} {text(story.tested)}; 95 % interval ±{number(spread)}"
            more += f"; {percent(told['r2'])} of the variance explained" if "r2" in told else ""
        case _:
            return ""
    return f"<div><strong>{big}</strong><span>{several}{more}</span></div>"


def _facts(story: Story, told: Mapping[str, Figures]) -> str:
    machine = story.written.get("machine", {})
    batch, steps = story.setting("train.batch"), story.setting("train.steps")
    out: list[tuple[str, str]] = []
    seconds = trained_seconds(story.rows, int(batch)) if isinstance(batch, int) else None
    out += [("Time in steps", duration(seconds))] if seconds else []
    if isinstance(steps, int) and isinstance(batch, int):
        done = min(steps, 1 + int(max((row["step"] for row in story.rows if "step" in row), default=steps)))
        out.append(("Steps", f"{steps:,}" if done == steps else f"{done:,} of {steps:,}"))  # stopped, or going on
        out.append(("Pictures a step", f"{batch:,}"))
        pictures = story.totals.get("train")
        out += [("Passes", number(done * batch / pictures))] if pictures else []
    if story.setting("weights"):  # what it knows is not of these pictures alone
        out.append(("Started from", PurePath(story.setting("weights")).name))
    if story.network.get("parameters"):
        out.append(("Parameters", number(story.network["parameters"])))
    if story.network.get("macs"):
        out.append(("Multiply-adds", number(story.network["macs"])))
    if story.network.get("size"):
        out.append(("Picture", " x ".join(str(side) for side in story.network["size"]) + " px"))
    out += [("Device", str(machine["device"]))] if machine.get("device") else []
    best = _others(story, told)
    return (
        f'<dl class="facts">{"".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in out + best)}</dl>'
    )


def _others(story: Story, every: Mapping[str, Figures]) -> list[tuple[str, str]]:
    """Of a single head, what is asked next."""
    if len(story.heads) != 1 or story.heads[0].name not in every:
        return []
    told = every[story.heads[0].name]
    if story.heads[0].task != "classify":
        return [("RMSE", number(told["rmse"]))] if "rmse" in told else []
    out = []
    if len(story.heads[0].classes) > 5 and "top5" in told:
        out.append(("Among the first five", percent(told["top5"], 1)))
    for key, words in (("balanced_accuracy", "Balanced accuracy"), ("macro_f1", "Macro F1"), ("auroc", "AUROC")):
        if key in told:
            out.append((words, percent(told[key], 1)))
    return out


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.{0 if seconds >= 10 else 1}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# -- the verdict ----------------------------------------------------------------------------------


def verdict(story: Story) -> str:
    """One sentence on how good it is, and one on what stands in the way; the first reason that holds. Of several heads
    it is about the first."""
    if not story.found and unlabelled.known(story):
        return unlabelled.verdict(story)
    if not story.found:
        return text(
            story.missing.get("found", "No held-out pictures were evaluated, so nothing is known of how good it is.")
        )
    one = story.heads[0]
    p = story.found.get(one.name)
    if p is None:
        return ""
    lead = f"Of {text(one.name)}: " if len(story.heads) > 1 else ""
    return lead + _verdict(story, one, p)


def _verdict(story: Story, one: Head, p: Predictions) -> str:
    if one.task != "classify":
        return _trend(story, one) or "What limits it cannot be told from the figures alone; look at the largest errors."
    p = known(p)
    if not len(p.ids):
        return "None of the held-out pictures has a known label, so nothing is known of how good it is."
    share, n = top(p, 1), len(p.ids)
    low, high = wilson(share, n)
    times = f"It is right in {_of_ten(share)}"
    if n and (high - low) / 2 > 0.05:
        return f"{times}, but {n:,} pictures are too few to say more than {percent(low)} to {percent(high)}."
    return f"{times}. {_limit(story, one, p, share)}"


def _of_ten(share: float) -> str:
    if share > 0.985:
        return f"{percent(share, 1)} of all cases" if share < 1 else "every case"
    ten = round(share * 10)
    near = "about " if abs(share * 10 - ten) > 0.1 else ""
    if ten in (0, 10):
        return f"about {round(share * 100)} of 100 cases"
    words = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return f"{near}{words[ten]} of ten cases"


def _limit(story: Story, one: Head, p: Predictions, share: float) -> str:
    trend = _trend(story, one)
    if trend:
        return trend
    counts = confusion(p)
    wrong = int(counts.sum() - np.trace(counts))
    if not wrong:
        return "Nothing in these pictures limits it: harder ones would have to tell."
    pairs = [(pair.truth, pair.answer, pair.times) for pair in worst_pairs(counts, 40)]
    both: dict[tuple[int, int], int] = {}
    for truth, answer, times in pairs:
        key = (min(truth, answer), max(truth, answer))
        both[key] = both.get(key, 0) + times
    (a, b), times = max(both.items(), key=lambda item: item[1])
    if times / wrong >= 0.15 and len(one.classes) > 2:
        names = f"<b>{text(one.classes[a])}</b> and <b>{text(one.classes[b])}</b>"
        return f"What limits it most: {names} are taken for each other, {percent(times / wrong)} of all mistakes."
    balanced = balanced_accuracy(counts)
    if share - balanced > 0.05:
        return f"What limits it: the rarer classes; counting every class alike it is {percent(balanced, 1)}."
    recall = np.diag(counts) / np.maximum(counts.sum(1), 1)
    there = np.flatnonzero(counts.sum(1))
    hard = there[np.argsort(recall[there], kind="stable")[: max(1, len(there) // 10)]]
    lost = int((counts.sum(1) - np.diag(counts))[hard].sum())
    if len(there) >= 10 and lost / wrong > 0.25:
        some = ", ".join(f"<b>{text(one.classes[k])}</b>" for k in hard[:3].tolist()) + ", ..." * (len(hard) > 3)
        told = f"{len(hard)} of {len(there)} classes ({some})"
        return f"What limits it most: {told} hold {percent(lost / wrong)} of the mistakes."
    found = reliability(p)
    if found.ece > 0.1:
        off = percent(found.ece)
        return f"Its mistakes are spread over all classes, and its probabilities are off by {off} on average."
    return "Its mistakes are spread over many classes: more pictures or a larger network would help all of them."


def _trend(story: Story, one: Head) -> str:
    """Whether it learned too long, or not long enough."""
    figure, better = {"classify": ("top1", 1), "tags": ("map", 1), "number": ("mae", -1)}.get(one.task, ("", 1))
    steps, losses = column(story.rows, key_of(one, story.heads, "loss"))
    main_steps, values = column(story.rows, key_of(one, story.heads, figure))
    if len(values) >= 3:
        last, before = values[-1], values[-1 - max(1, len(values) // 5)]
        gain = better * (last - before)
        scale = 0.015 if better > 0 else 0.03 * abs(last)
        if gain > scale:
            told = percent(gain, 1) + " points" if better > 0 else number(gain)
            told = told.replace(" % points", " points")
            return f"It was still improving, by {told} over the last fifth: train longer (<code>--epochs</code>)."
        best = int(np.argmax(better * np.array(values)))
        if better * (values[best] - last) > 2 * scale and best < len(values) - 1:
            when = f"step {number(main_steps[best])} of {number(main_steps[-1])}"
            return f"What limits it: it overfits; it was best at {when}."
    if len(losses) >= 5 and losses[-1] > 1.1 * min(losses):
        best = int(np.argmin(losses))
        return (
            f"What limits it: it overfits; the held-out loss was lowest at step {number(steps[best])}"
            f" ({losses[best]:.3g}) and has risen to {losses[-1]:.3g}. More augmentation or more pictures would help."
        )
    return ""
