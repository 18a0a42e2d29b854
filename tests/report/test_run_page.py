"""The report of a run: what is told is what was found, names are text, nothing runs or loads, and it stays small."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pytest
import stories

from tessella.card import Head
from tessella.metrics.accuracy import top, wilson
from tessella.metrics.confusion import confusion
from tessella.metrics.predictions import Predictions
from tessella.report import chart, curves, headline, mistakes
from tessella.report.run import page
from tessella.report.story import Looked, Shown, Story, picture

VOID = {"meta", "img", "br", "hr", "link", "input"}
HEADS = (
    Head(name="colour", task="classify", classes=("red", "green", "blue")),
    Head(name="price", task="number"),
    Head(name="tags", task="tags", classes=tuple(f"tag {i}" for i in range(30))),
)


class Tree(HTMLParser):
    """Every tag with its attributes; what is opened must be closed, in that order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if len(attrs) != len(dict(attrs)):
            self.wrong.append(f"{tag} has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.tags if "id" in attrs]


def words(html: str) -> str:
    return " ".join(" ".join(Tree(re.sub(r"<style>.*?</style>", "", html, flags=re.S)).texts).split())


EVERY = {
    "one head": stories.story(),
    "two classes": stories.story(2, 40),
    "many classes": stories.story(120, 400),
    "three heads": stories.story(3, 200, heads=HEADS),
    "hostile": stories.story(60, 300, hostile=True),
    "nothing": Story(name="empty"),
    "no predictions": replace(stories.story(), found={}, missing={"found": "no held-out pictures were evaluated"}),
    "one picture": stories.story(3, 1),
    "no pictures": replace(stories.story(), pictures={}, first=(), attention=(), positions=""),
}


@pytest.mark.parametrize("kind", list(EVERY))
def test_the_html_is_whole(kind: str) -> None:
    html = page(EVERY[kind])
    tree = Tree(html)
    assert not tree.wrong and not tree.open, (tree.wrong, tree.open)
    assert len(set(tree.ids())) == len(tree.ids())
    links = [str(attrs["href"]) for tag, attrs in tree.tags if tag == "a"]
    assert sorted(links) == sorted(f"#{name}" for name in tree.ids()), "the links at the top are the sections"
    assert all("alt" in attrs for tag, attrs in tree.tags if tag == "img")
    assert "nan" not in words(html).lower().split() and "None" not in words(html).split()
    html.encode("utf-8")
    # Mutation: one tag that is not closed is seen.
    assert Tree(html.replace("</section>", "", 1)).wrong or kind == "nothing"


@pytest.mark.parametrize("kind", list(EVERY))
def test_nothing_runs_and_nothing_is_loaded(kind: str) -> None:
    tags = Tree(page(EVERY[kind])).tags
    assert not {tag for tag, _ in tags} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "foreignobject",
    }
    assert not [a for _, attrs in tags for a in attrs if a.startswith("on") or a in {"srcset", "style", "xlink:href"}]
    assert all(str(attrs["src"]).startswith("data:image/") for _, attrs in tags if "src" in attrs)
    policy = next(str(a["content"]) for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script" not in policy
    assert "url(" not in page(EVERY[kind]) and "@import" not in page(EVERY[kind])


def test_only_pictures_go_into_a_source() -> None:
    for bad in (
        "javascript:alert(1)",
        "data:text/html;base64,AA",
        "https://example.org/x.png",
        "data:image/svg+xml,<svg>",
    ):
        assert picture(bad) == ""
        story = stories.story()
        story = replace(
            story,
            pictures=dict.fromkeys(story.pictures, bad),
            first=(Shown("a", bad, "b"),),
            attention=(Looked(0, bad, bad),),
            positions=bad,
        )
        assert "<img" not in page(story) and bad not in page(story)


@browser.needed
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(tmp_path: Path, width: int) -> None:
    """No request, no word on the console, and nothing has to be pushed sideways, whatever the names are."""
    at = tmp_path / "page.html"
    at.write_text(page(EVERY["hostile"]), encoding="utf-8")
    seen = browser.look(at, width)
    assert seen.asked == () and seen.console == () and seen.width == width
    if width == 390:
        return
    # Mutations: a page that loads and runs something is seen to, and the policy alone would have refused it.
    more = '<img src="http://127.0.0.1:9/x.png"><script>console.error("x")</script></body>'
    at.write_text(page(EVERY["one head"]).replace("</body>", more), encoding="utf-8")
    assert any("Content Security Policy" in line for line in browser.look(at).console)
    bare = page(EVERY["one head"]).replace("</body>", more).replace("Content-Security-Policy", "x-none")
    at.write_text(bare, encoding="utf-8")
    assert browser.look(at).asked == ("http://127.0.0.1:9/x.png",) and browser.look(at).console


@browser.needed
def test_on_paper(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page(EVERY["one head"]), encoding="utf-8")
    browser.printed(tmp_path / "page.html", tmp_path / "page.pdf")
    held = (tmp_path / "page.pdf").read_bytes()
    assert held.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", held)) <= 30


@pytest.mark.parametrize("classes", [10, 102, 1000])
def test_it_stays_small(classes: int) -> None:
    """10,000 test pictures, and those shown are noise, which no codec compresses."""
    assert len(page(stories.story(classes, 10_000)).encode()) < 3_000_000


def test_it_does_not_grow_with_the_classes() -> None:
    few, many = (len(page(stories.story(k, 2 * k))) for k in (1_000, 4_000))
    assert many < 1.1 * few


# -- what is told --------------------------------------------------------------------------------------------------


def test_the_headline() -> None:
    story = stories.story(10, 500)
    p = story.found["label"]
    low, high = wilson(top(p, 1), 500)
    told = words(page(story))
    assert f"{100 * top(p, 1):.1f} % right of 500 held-out pictures" in told
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" in told
    other = replace(story, found={"label": replace(p, targets=np.roll(p.targets, 1))})
    assert f"{100 * top(p, 1):.1f} % right" not in words(page(other)), "the mutation: other labels, other figure"


def test_what_limits_it() -> None:
    story = replace(stories.story(4, 2000), rows=())

    def verdict(outputs: np.ndarray, rows: tuple[dict[str, object], ...] = ()) -> str:
        p = story.found["label"]
        return headline.verdict(replace(story, rows=rows, found={"label": replace(p, outputs=outputs)}))

    targets = story.found["label"].targets
    right = np.eye(4, dtype=np.float32)[targets] * 9
    swapped = right.copy()
    half = np.flatnonzero(targets == 1)[::2]
    swapped[half] = np.eye(4)[2] * 9
    assert "<b>class 1</b> and <b>class 2</b> are taken for each other, 100 % of all mistakes" in verdict(swapped)
    assert "every case" in verdict(right)
    rising = tuple({"step": 10 * i, "val/top1": 0.5 + 0.05 * i, "val/loss": 1.0} for i in range(8))
    assert "still improving" in verdict(swapped, rising)
    falling = tuple({"step": 10 * i, "val/top1": 0.8, "val/loss": 0.5 + 0.1 * i} for i in range(8))
    assert "overfits" in verdict(swapped, falling)
    few = Predictions(("a", "b", "c"), np.array([0, 1, 2]), right[:3])
    assert "too few" in headline.verdict(replace(story, found={"label": few}))
    assert "nothing is known" in headline.verdict(Story(name="x"))


def test_the_worst_mistakes() -> None:
    """By a slow loop: wrong, and the surest first."""
    head = Head(name="label", task="classify", classes=("a", "b", "c"))
    p = stories.predictions(head, 300)
    a = mistakes.answers(p)
    sure = [np.exp(row - row.max()).max() / np.exp(row - row.max()).sum() for row in p.outputs.astype(float)]
    wrong = [i for i in range(300) if p.outputs[i].argmax() != p.targets[i]]
    slow = sorted(wrong, key=lambda i: (-sure[i], i))[: mistakes.WORST]
    assert a.rows[mistakes.chosen(a).worst].tolist() == slow
    assert set(slow) <= set(mistakes.shown(p, head))
    unknown = replace(p, targets=np.where(np.arange(300) < 150, -1, p.targets))
    assert (mistakes.answers(unknown).rows >= 150).all()


def test_numbers_and_tags() -> None:
    p = stories.predictions(HEADS[1], 50)
    rows, errors = mistakes.off_by(replace(p, targets=np.where(np.arange(50) == 7, np.nan, p.targets)))
    assert 7 not in rows and (np.diff(np.abs(errors)) <= 0).all()
    rows, labels = mistakes.wrong_tags(stories.predictions(HEADS[2], 50))
    tags = stories.predictions(HEADS[2], 50)
    assert all((tags.outputs[r, k] > 0) != (tags.targets[r, k] > 0) for r, k in zip(rows, labels, strict=True))


def test_the_tables_count_right() -> None:
    story = stories.story(5, 300)
    counts, told = confusion(story.found["label"]), page(story)
    for i in range(5):
        for j in range(5):
            if i != j and counts[i, j]:
                assert f"<title>class {i} taken for class {j}: {counts[i, j]} (" in told
    cells = re.findall(r'<text class="ink"[^>]*>(\d+)</text>', told)
    assert sorted(map(int, cells)) == sorted(int(n) for n in counts.flatten() if n)


def test_a_run_that_has_not_come_to_its_end() -> None:
    """What was done is told, not what was meant to be."""
    whole = stories.story()
    stopped = replace(whole, rows=tuple(row for row in whole.rows if row["step"] <= 240))
    assert "Steps 241 of 1,000" in words(page(stopped)) and f"Passes {241 * 64 / 80:.3g}" in words(page(stopped))
    ended = replace(whole, rows=(*whole.rows, {"step": 999, "loss": 0.5}))
    assert "Steps 1,000 Pictures" in words(page(ended)), "the mutation: all of it"


def test_what_it_started_from_is_told() -> None:
    story = stories.story()
    run = story.written["run"] | {"weights": "/somewhere/deit_tiny.safetensors"}
    assert "Started from deit_tiny.safetensors" in words(page(replace(story, written=story.written | {"run": run})))
    assert "Started from" not in words(page(story))


def test_of_several_heads_the_verdict_names_its_own() -> None:
    assert headline.verdict(stories.story(heads=HEADS)).startswith(f"Of {HEADS[0].name}: ")
    assert not headline.verdict(stories.story()).startswith("Of ")
    four = (*HEADS, replace(HEADS[1], name="age"))
    assert "3 classes of colour, the number price, 30 labels of tags and 1 more" in headline.title(
        stories.story(heads=four)
    )
    assert "3 classes of colour and the number price from" in headline.title(stories.story(heads=HEADS[:2]))


def test_where_no_label_is_known_nothing_is_told_of_classes() -> None:
    story = stories.story()
    p = story.found["label"]
    unknown = replace(story, found={"label": replace(p, targets=np.full_like(p.targets, -1))})
    told = Tree(page(unknown)).ids()
    assert not {"mistakes", "classes", "confusion", "reliability"} & set(told) and "curves" in told
    assert "None of the held-out pictures has a known label" in words(page(unknown))


def test_where_only_the_head_learned_it_is_not_compared() -> None:
    rows = tuple({"step": i, "update_by_block": [0.0, 0.0, 0.0, 1e-3], "grad_by_block": [0.0, 0.0, 0.0, 1.0]}
                 for i in range(9))  # fmt: skip
    assert curves.flow_words(replace(stories.story(), rows=rows)).startswith("Only the head learned")
    both = tuple(row | {"update_by_block": [0.0, 0.0, 1e-4, 1e-3]} for row in rows)
    told = curves.flow_words(replace(stories.story(), rows=both))
    assert "the head moved most with each step and block 1 least" in told, "the mutation: one more"


def test_gradient_flow_is_left_out_where_the_log_has_none() -> None:
    story = stories.story()
    assert 'id="flow"' in page(story)
    old = tuple({k: v for k, v in row.items() if "by_block" not in k} for row in story.rows)
    assert 'id="flow"' not in page(replace(story, rows=old))
    odd = (*story.rows, {"step": 999, "grad_by_block": [None, float("inf"), 0.0, -1.0]}, {"grad_by_block": [1.0]})
    assert "nan" not in words(page(replace(story, rows=odd)))


def test_what_a_section_lacks_is_said() -> None:
    story = replace(stories.story(), attention=(), missing={"attention": "Nothing to show: the data has moved."})
    assert "Nothing to show: the data has moved." in words(page(story))


def test_the_command() -> None:
    told = words(page(stories.story()))
    assert "cd here torchrun --nproc-per-node 2 -m tessella train photos" in told
    story = stories.story()
    alone = replace(story, written=story.written | {"processes": 1, "command": ["/usr/bin/tessella", "train", "a b"]})
    assert "tessella train 'a b'" in words(page(alone))
    script = replace(story, written=story.written | {"processes": 1, "command": ["mine.py", "--x"]})
    assert "python mine.py --x" in words(page(script))


# -- charts ----------------------------------------------------------------------------------------------------------


def test_ticks_cover_and_are_round() -> None:
    for low, high in ((0, 1), (0.412, 0.498), (-3, 1200), (5, 5), (0, 0), (1e-6, 1e-3)):
        marks = chart.ticks(low, high)
        assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 7


def test_numbers_are_short() -> None:
    told = {0.00075: "7.5e-4", 1e-6: "1e-6", 0.5: "0.5", 1234: "1,234", 12_345: "12.3k", 5.5e6: "5.5M", 0.0: "0"}
    assert {value: chart.number(value) for value in told} == told
    assert chart.number(float("nan")) == "-"


def test_long_logs_are_thinned_and_gaps_left_out() -> None:
    x, y = chart.thinned(list(range(10_000)), [float("nan") if i % 7 == 0 else 1.0 for i in range(10_000)])
    assert len(x) == chart.POINTS and (y == 1).all()
    assert chart.smooth([1.0, 2.0, 3.0, 4.0], 2) == [1.0, 1.5, 2.5, 3.5]
    assert chart.lines("x", [chart.Series("a", [], [])]) == ""


def test_time_in_steps() -> None:
    rows = [{"step": 0, "images/s": 10.0}, {"step": 10, "images/s": 100.0}, {"step": 10, "val/top1": 0.1}]
    assert curves.trained_seconds(rows, 50) == 1 * 50 / 10 + 10 * 50 / 100
    assert curves.trained_seconds([], 50) is None
