"""The answers worth looking at: sure and wrong, hardly decided, sure and right; which they are, and the pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..card import Head
from ..metrics.predictions import Array, Predictions
from ..metrics.probability import log_softmax
from .chart import meter, number, percent, text
from .story import Story

WORST, OTHERS = 24, 6  # pictures shown of each kind


@dataclass(frozen=True)
class Answers:
    """Of one head that classifies: rows of `Predictions` whose target is known, as probabilities."""

    rows: Array  # (N,) of the predictions
    targets: Array  # (N,)
    said: Array  # (N,) the likeliest class
    sure: Array  # (N,) its probability
    truth: Array  # (N,) the probability of the target
    lead: Array  # (N,) how much likelier the first is than the second

    @property
    def right(self) -> Array:
        right: Array = self.said == self.targets
        return right


def answers(p: Predictions) -> Answers:
    """Outputs are at the temperature of the head already, as `fill` gives them."""
    rows = np.flatnonzero(p.targets >= 0)
    logs = log_softmax(p.outputs[rows]).astype(np.float64)
    targets, each = p.targets[rows].astype(np.int64), np.arange(len(rows))
    said = p.outputs[rows].argmax(1)
    sure = np.exp(logs[each, said])
    second = np.exp(np.partition(logs, -2, axis=1)[:, -2]) if logs.shape[1] > 1 else np.zeros(len(rows))
    return Answers(rows, targets, said, sure, np.exp(logs[each, targets]), sure - second)


@dataclass(frozen=True)
class Chosen:
    """Places within `Answers`, the most telling first."""

    worst: Array
    undecided: Array
    best: Array


def chosen(a: Answers) -> Chosen:
    wrong, right = np.flatnonzero(~a.right), np.flatnonzero(a.right)
    worst = wrong[np.argsort(-a.sure[wrong], kind="stable")][:WORST]
    undecided = np.setdiff1d(np.argsort(a.lead, kind="stable")[: 4 * OTHERS], worst, assume_unique=True)
    undecided = undecided[np.argsort(a.lead[undecided], kind="stable")][:OTHERS]
    best = right[np.argsort(-a.sure[right], kind="stable")]
    first = best[np.sort(np.unique(a.said[best], return_index=True)[1])]  # of each class one, so that they differ
    return Chosen(worst, undecided, first[:OTHERS])


def off_by(p: Predictions) -> tuple[Array, Array]:
    """(rows, errors) of a head that says a number, the largest error first."""
    rows = np.flatnonzero(~np.isnan(p.targets))
    errors = p.outputs[rows, 0].astype(np.float64) - p.targets[rows]
    order = np.argsort(-np.abs(errors), kind="stable")
    return rows[order], errors[order]


def wrong_tags(p: Predictions) -> tuple[Array, Array]:
    """(rows, labels): the answers of several labels that are surest and wrong, one a picture."""
    there = ~np.isnan(p.targets)
    x = p.outputs.astype(np.float64)
    margin = np.where(there, np.where(p.targets > 0, -x, x), -np.inf)  # above 0: wrong
    label = margin.argmax(1)
    worst = margin[np.arange(len(label)), label] if len(label) else np.zeros(0)
    order = np.argsort(-worst, kind="stable")
    order = order[worst[order] > 0]
    return order, label[order]


def shown(p: Predictions, head: Head) -> list[int]:
    """Rows whose pictures the section wants."""
    match head.task:
        case "classify":
            a = answers(p)
            picked = chosen(a)
            return [int(a.rows[i]) for part in (picked.worst, picked.undecided, picked.best) for i in part]
        case "number":
            return [int(i) for i in off_by(p)[0][:WORST]]
        case "tags":
            return [int(i) for i in wrong_tags(p)[0][:WORST]]
        case _:
            return []


def section(story: Story, head: Head) -> str:
    p = story.found[head.name]
    match head.task:
        case "classify":
            return _classify(story, p, head)
        case "number":
            return _number(story, p)
        case "tags":
            return _tags(story, p, head)
        case _:
            return ""


def _classify(story: Story, p: Predictions, head: Head) -> str:
    a = answers(p)
    if not len(a.rows):
        return ""
    picked, wrong = chosen(a), int((~a.right).sum())
    names = [text(name) for name in head.classes]

    def tiles(places: Array) -> str:
        out = []
        for i in places.tolist():
            first = _say(names[a.said[i]], a.sure[i], "fill", strong=True)
            right = a.said[i] == a.targets[i]
            second = "" if right else _say(f"is {names[a.targets[i]]}", a.truth[i], "calm")
            out.append(_tile(story, p.ids[int(a.rows[i])], first + second))
        return f'<div class="tiles">{"".join(out)}</div>'

    if not wrong:
        lead = f"<p>No answer is wrong: {len(a.rows):,} of {len(a.rows):,} are right.</p>"
    else:
        told = f"the {len(picked.worst)} of which it was surest" if wrong > len(picked.worst) else "all of them"
        said = "answers are" if wrong != 1 else "answer is"
        lead = (
            f"<p>{wrong:,} of {len(a.rows):,} {said} wrong; below {told}. Above, what the network said and how sure it "
            "was; below it, what the label says, and the probability that the network gave that. Sure and wrong is "
            "either a class that it does not know, or a label that is not right.</p>"
        )
    out = [lead, tiles(picked.worst) if wrong else ""]
    if len(picked.undecided):
        out.append(f"<h4>Hardly decided</h4>{tiles(picked.undecided)}")
    if len(picked.best):
        out.append(f"<h4>Sure and right</h4>{tiles(picked.best)}")
    return "".join(out)


def _number(story: Story, p: Predictions) -> str:
    rows, errors = off_by(p)
    largest = float(np.abs(errors[0])) if len(errors) else 0.0
    out = []
    for row, error in list(zip(rows.tolist(), errors.tolist(), strict=True))[:WORST]:
        said, true = float(p.outputs[row, 0]), float(p.targets[row])
        bar = meter(abs(error) / largest if largest else 0.0)
        off = f"{'+' if error >= 0 else ''}{number(error)}"
        words = f'<span class="say"><b>{number(said)}</b><span class="n">{off}</span></span>'
        words += f'<span class="bar">{bar}</span><span class="say"><span>is {number(true)}</span></span>'
        out.append(_tile(story, p.ids[row], words))
    return f'<p>The largest errors; the sign says in which direction.</p><div class="tiles">{"".join(out)}</div>'


def _tags(story: Story, p: Predictions, head: Head) -> str:
    out = []
    rows, labels = wrong_tags(p)
    for row, label in list(zip(rows.tolist(), labels.tolist(), strict=True))[:WORST]:
        sure = 1 / (1 + np.exp(-float(p.outputs[row, label])))
        missed = p.targets[row, label] > 0
        words = _say(("missed " if missed else "saw ") + text(head.classes[label]), sure, "fill", strong=True)
        true = [text(head.classes[k]) for k in np.flatnonzero(p.targets[row] > 0)]
        words += f'<span class="quiet">is {", ".join(true) or "none of them"}</span>'
        out.append(_tile(story, p.ids[row], words))
    told = f"<p>{len(rows):,} of {len(p.ids):,} pictures have a wrong label; below, the surest mistakes.</p>"
    return told + f'<div class="tiles">{"".join(out)}</div>'


def _say(name: str, share: float, look: str, strong: bool = False) -> str:
    """`name` is escaped already."""
    words = f"<b>{name}</b>" if strong else name
    line = f'<span class="say"><span>{words}</span><span class="n">{_sure(float(share))}</span></span>'
    return f'{line}<span class="bar">{meter(float(share), look)}</span>'


def _sure(share: float) -> str:
    """Never 100 % of what is not certain, nor 0 % of what is possible."""
    if 0.995 <= share:
        return "> 99 %" if share < 1 else percent(share)
    return "< 1 %" if share < 0.005 else percent(share)


def _tile(story: Story, name: str, words: str) -> str:
    uri = story.uri(name)
    image = tile(uri, name)
    file = f'<span class="file" title="{text(name)}">{text(name)}</span>'
    return f"<figure>{image}<figcaption>{words}{file}</figcaption></figure>"


def tile(uri: str, name: str) -> str:
    """A picture whose pixels can be counted comes as PNG, and is shown as pixels."""
    if not uri:
        return '<span class="none">no picture</span>'
    sharp = ' class="sharp"' if uri.startswith("data:image/png") else ""
    return f'<img src="{uri}" alt="{text(name)}"{sharp}>'
