"""What learning without labels has to show: features judged by neighbours and a probe, pictures painted, patches told
apart."""

from __future__ import annotations

from typing import Literal

from .chart import Scale, Series, lines, number, text
from .curves import column
from .story import Shown, Story, picture

JUDGED: tuple[tuple[str, str, Literal["accent", "line"]], ...] = (
    ("val/knn", "nearest neighbours", "accent"),
    ("val/linear", "linear probe", "line"),
)


def known(story: Story) -> bool:
    """Whether the log has figures of features."""
    return bool(column(story.rows, "val/rank")[1])


def panels(story: Story) -> list[str]:
    """Beside the loss."""
    if not known(story):
        return []
    judged = [Series(words, *column(story.rows, key), look) for key, words, look in JUDGED]
    out = [lines("Right classes, by features alone", judged, Scale(share=True))]
    out.append(
        lines("Directions that features use", [Series("", *column(story.rows, "val/rank"), "line")], Scale(zero=True))
    )
    out.append(
        lines("How far features lie apart", [Series("", *column(story.rows, "val/spread"), "line")], Scale(zero=True))
    )
    return out


def figures(story: Story) -> str:
    """For the first screen: the newest of each."""
    out = []
    for key, *_ in JUDGED:
        _, values = column(story.rows, key)
        if values:
            told = "nearest neighbours of features are" if key == "val/knn" else "a linear probe on features is"
            out.append(f"<div><strong>{100 * values[-1]:.1f}<small> %</small></strong><span>{told} right</span></div>")
    return "".join(out)


def verdict(story: Story) -> str:
    """Whether it works, in two sentences."""
    _, ranks = column(story.rows, "val/rank")
    steps, judged = column(story.rows, "val/knn")
    if len(judged) < 2:
        lead = f"Its features use {number(ranks[-1])} directions"
        return f"{lead}; the pictures have no classes by which more could be said."
    gain, lead = judged[-1] - judged[0], f"Its features use {number(ranks[-1])} directions"
    since = f"since step {number(steps[0])}, nearest neighbours have gained {_points(gain)}"
    if gain < 0:
        return f"{lead}, but {since}: it does not learn what tells these classes apart."
    last = judged[-1] - judged[-1 - max(1, len(judged) // 5)]
    more = f" It was still improving, by {_points(last)} over the last fifth: train longer." if last > 0.01 else ""
    return f"{lead}; {since}.{more}"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def painted(story: Story) -> str:
    lead = (
        "<p>Held-out pictures: as they are, as the network was shown them, and with what it painted where nothing was "
        "to be seen. Patches that it saw are left as they are.</p>"
    )
    return _tiles(story.painted, lead)


def components(story: Story) -> str:
    lead = (
        "<p>Held-out pictures, and their patches coloured by the three directions in which features of patches differ "
        "most, the same for all pictures: parts of one colour are alike to the network.</p>"
    )
    return _tiles(story.components, lead)


def _tiles(shown: tuple[Shown, ...], lead: str) -> str:
    tiles = [
        f'<figure class="tile"><img src="{uri}" alt="{text(shot.id)}"><figcaption><span class="file">{text(shot.id)}'
        f"</span></figcaption></figure>"
        for shot in shown
        if (uri := picture(shot.uri))
    ]
    return f'{lead}<div class="tiles few wide">{"".join(tiles)}</div>' if tiles else ""
