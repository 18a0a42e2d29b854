"""The report of a run as one HTML file: no script, nothing loaded from anywhere, for a phone, a desk and paper.

Every name comes from somebody's disk: it is escaped, and the page forbids itself to run or load anything.
"""

from __future__ import annotations

from collections.abc import Callable

from ..card import Head
from . import account, classes, curves, headline, mistakes, trust, unlabelled
from .chart import text
from .check_page import POLICY
from .story import Looked, Shown, Story, picture
from .style import STYLE


def page(story: Story) -> str:
    """Sections in the order in which a reader asks; one without input says why, in a line."""
    made = [(name, title, body) for name, title, body in _sections(story) if body]
    title = f"{text(story.name)}: report of a run"
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    top = headline.head(story, [(name, title) for name, title, _ in made])
    body = "\n".join(f'<section id="{name}"><h2>{text(title)}</h2>{body}</section>' for name, title, body in made)
    made_by = text(f"tessella {story.written.get('tessella', '')}".strip())
    foot = f"<footer>Made by {made_by}. One file; nothing is loaded from anywhere.</footer>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{top}\n{body}\n{foot}\n</body></html>\n'


def _sections(story: Story) -> list[tuple[str, str, str]]:
    told = [head for head in story.heads if head.name in story.found and len(story.found[head.name].ids)]
    sorts = [head for head in told if head.task == "classify"]
    named = [head for head in told if head.task in ("classify", "tags")]
    numbers = [head for head in told if head.task == "number"]
    found = story.found
    return [
        ("curves", "Over time", curves.section(story, unlabelled.panels(story)) or _why(story, "curves")),
        ("mistakes", "Worst mistakes", _each(told, lambda h: mistakes.section(story, h)) or _why(story, "found")),
        ("classes", "Class by class", _each(named, lambda h: classes.table(found[h.name], h))),
        ("confusion", "What is taken for what", _each(sorts, lambda h: classes.matrix(found[h.name], h))),
        ("reliability", "How far to trust it", _each(sorts, lambda h: trust.classes(found[h.name], h))),
        ("numbers", "Said and true", _each(numbers, lambda h: trust.numbers(found[h.name]))),
        ("painted", "What it paints", unlabelled.painted(story)),
        ("components", "What it tells apart", unlabelled.components(story)),
        ("attention", "Where it looks", _attention(story)),
        ("positions", "What it knows of places", _positions(story)),
        ("flow", "Gradient flow", _flow(story)),
        ("first", "What it was shown", _first(story)),
        ("data", "Data", account.data(story) or _why(story, "data")),
        ("values", "Settings, and why", account.values(story)),
        ("machine", "Machine", account.environment(story) if story.written else ""),
        ("repeat", "To repeat it", account.repeat(story)),
    ]


def _each(heads: list[Head], body: Callable[[Head], str]) -> str:
    """One head needs no title."""
    made = [(head.name, body(head)) for head in heads]
    if len(made) == 1:
        return made[0][1]
    return "".join(f"<h3>{text(name)}</h3>{words}" for name, words in made if words)


def _why(story: Story, section: str) -> str:
    return f"<p class='note'>{text(story.missing[section])}</p>" if section in story.missing else ""


def _attention(story: Story) -> str:
    if not story.attention:
        return _why(story, "attention")
    reads = {"cls": "the class token", "mean": "the mean of the patches", "attention": "the pooling query"}
    reader = reads.get(str(story.network.get("pool")), "the head")
    lead = (
        f"<p>Held-out pictures, and what {reader} takes from them: the softmax map of the last block, the "
        "mean over its heads. Colour is where it takes more than evenly. That is where features were gathered, "
        "not why the answer was given.</p>"
    )
    return lead + f'<div class="tiles few">{"".join(_looked(story, look) for look in story.attention)}</div>'


def _looked(story: Story, look: Looked) -> str:
    plain, lit = picture(look.uri), picture(look.lit)
    if not plain or not lit:
        return ""
    words, name = "", ""
    head = next((h for h in story.heads if h.name in story.found), None)
    if head is not None:
        p = story.found[head.name]
        name = p.ids[look.row]
        if head.task == "classify":
            said, target = int(p.outputs[look.row].argmax()), int(p.targets[look.row])
            right = "right" if said == target else f"is {text(head.classes[target])}" if target >= 0 else "no label"
            words = f'<span class="say"><b>{text(head.classes[said])}</b><span>{right}</span></span>'
    both = f'<div class="two"><img src="{plain}" alt="{text(name)}"><img src="{lit}" alt="attention"></div>'
    return f'<figure class="tile">{both}<figcaption>{words}<span class="file">{text(name)}</span></figcaption></figure>'


def _positions(story: Story) -> str:
    uri = picture(story.positions)
    if not uri:
        return _why(story, "positions")
    lead = (
        "<p>One small map for each place in the picture: how much its position embedding resembles those of all other "
        "places (cosine; strong is alike). Rows and columns that light up around each place mean that the network has "
        "learned where patches lie; noise means that it has not needed to.</p>"
    )
    image = f'<img class="map" src="{uri}" alt="similarity of positions">'
    return f'<div class="pair"><div>{lead}</div><figure>{image}</figure></div>'


def _flow(story: Story) -> str:
    drawn = curves.flow(story)
    return f"<p>{curves.flow_words(story)}</p>{drawn}" if drawn else ""


def _first(story: Story) -> str:
    if not story.first:
        return _why(story, "first")
    lead = (
        "<p>The first pictures of the first step as they reached the network, cut, coloured and mixed as the settings "
        "say; drawn again from the seed. If a class cannot be told here, the network could not tell it either.</p>"
    )
    return lead + f'<div class="tiles">{"".join(_seen(shot) for shot in story.first)}</div>'


def _seen(shot: Shown) -> str:
    uri = picture(shot.uri)
    return f"<figure>{mistakes.tile(uri, shot.id)}<figcaption>{text(shot.words)}</figcaption></figure>"
