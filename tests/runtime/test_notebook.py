"""What a notebook shows: names as text, nothing that runs or is loaded, the figures that the files hold."""

from __future__ import annotations

import json
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path

import browser
import commands
import pytest
from PIL import Image

import tessella as ts
from tessella import notebook
from tessella.errors import BadInput
from tessella.runtime.answers import Answer
from tessella.runtime.model import Prediction

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&\x1b[31m"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> commands.World:
    return commands.world(tmp_path_factory.mktemp("world"))


class Read(HTMLParser):
    """Tags with their attributes, and all text; tags must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", list[str]()
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(html: str, most: int = 60_000) -> Read:
    """Nothing runs, nothing is loaded, no colour is forced; small."""
    read = Read(html)
    assert len(html) < most
    known = "div b span table tr td details summary figure figcaption svg polyline img".split()
    assert {tag for tag, _ in read.tags} <= set(known)
    assert not [
        a for _, attrs in read.tags for a in attrs if a.startswith("on") or a in ("href", "srcset", "id", "class")
    ]
    assert all(str(attrs["src"]).startswith("data:image/") for tag, attrs in read.tags if tag == "img")
    styles = " ".join(str(attrs.get("style", "")) for _, attrs in read.tags)
    assert "url(" not in styles and "#" not in styles and "\x1b" not in html
    return read


def test_a_run_shows_status_figures_and_reasons(world: commands.World) -> None:
    run = ts.Run(world.run)
    read = harmless(run._repr_html_())
    rows = [json.loads(line) for line in (world.run / "log.jsonl").read_text().splitlines()]
    assert "finished after 8 steps" in read.text and "finished after 8 steps" in repr(run)
    assert run.metrics["top1"] == rows[-1]["val/top1"] and f"{rows[-1]['val/top1']:.4g}" in read.text
    assert "train.batch" in read.text and "chosen" in read.text and run.settings["train.steps"] == 8
    assert run.load().classes and read.text.count("loss")
    with pytest.raises(BadInput, match=r"holds no run\.json"):
        ts.Run(world.photos)


def test_a_run_that_goes_on(world: commands.World, tmp_path: Path) -> None:
    place = Path(shutil.copytree(world.run, tmp_path / HOSTILE.replace("/", "-")))
    lines = (place / "log.jsonl").read_text().splitlines()
    (place / "log.jsonl").write_text(lines[0] + "\n" + '{"step": 5, "loss": 0.5}\n' + lines[-1][:20])
    run = ts.Run(place)
    assert run.status.startswith("at step 6 of 8, last heard of ") and len(run.rows()) == 2 and run.metrics == {}
    read = harmless(run._repr_html_())
    assert [tag for tag, _ in read.tags].count("polyline") == 1 and "<script>" in read.text
    (place / "log.jsonl").unlink()
    assert "no row of figures yet" in harmless(ts.Run(place)._repr_html_()).text


def test_a_run_that_ended_early(world: commands.World, tmp_path: Path) -> None:
    place = Path(shutil.copytree(world.run, tmp_path / "run"))
    told = json.loads((place / "run.json").read_text())
    told["run"]["train"]["patience"] = 2
    told |= {
        "model": "vit_n4",
        "origins": {"model": "chosen: x", "model.backbone.depth": "chosen: x", "size": "chosen: y"},
    }
    (place / "run.json").write_text(json.dumps(told))
    rows = [{"step": step, "val/top1": 0.5, "best/top1": 0.5, "best/step": 1} for step in (1, 3, 5)]
    (place / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ts.Run(place).status == "finished early after 6 of 8 steps"
    text = harmless(ts.Run(place)._repr_html_()).text
    assert "vit_n4 (x)" in text and "(y)" in text and "model.backbone.depth" not in text, "its name says the rest"
    (place / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert ts.Run(place).status.startswith("at step 4 of 8"), "the mutation: one evaluation that was no better"


def test_a_finished_run_is_shown_as_its_folder(world: commands.World) -> None:
    from tessella.verbs.train import Trained

    assert "finished after 8 steps" in harmless(Trained(world.run, {}, 0)._repr_html_()).text


def test_a_model_shows_its_card(world: commands.World) -> None:
    from dataclasses import replace

    model = ts.load(world.run)
    read = harmless(model._repr_html_())
    parameters = sum(p.numel() for p in model.network.parameters())
    for words in (f"{parameters:,}", "28 x 28", "3 classes: ", model.classes[0], "not said", "mean"):
        assert words in read.text, words
    model.card = replace(model.card, licence=HOSTILE, provenance={HOSTILE: HOSTILE})
    assert "<script>" in harmless(model._repr_html_()).text


def test_predictions_show_picture_and_bars(world: commands.World, tmp_path: Path) -> None:
    picture = tmp_path / f"{HOSTILE.replace('/', '-')}.png"
    Image.effect_noise((900, 700), 80).save(picture)
    found = ts.predict(world.run, [picture, *sorted(world.photos.rglob("*.png"))])
    read = harmless(next(iter(found))._repr_html_())
    assert [tag for tag, _ in read.tags].count("img") == 1 and read.text.count(" %") == 3 and "<script>" in read.text
    read = harmless(found._repr_html_(), 200_000)
    assert [tag for tag, _ in read.tags].count("img") == 20 and f"{len(found) - 20} predictions" in read.text
    picture.unlink()
    assert not [tag for tag, _ in harmless(next(iter(found))._repr_html_()).tags if tag == "img"]


def test_answers_of_several_heads() -> None:
    said = {HOSTILE: Answer("classify", ("a", HOSTILE), (0.9, 0.1)), "price": Answer("number", number=3.25)}
    read = harmless(Prediction("nowhere\0.png", ("a",), (0.9,), {**said, "none": Answer("tags")})._repr_html_())
    assert "3.25" in read.text and "90.0 %" in read.text and read.text.count("<script>") == 2


def test_curves() -> None:
    line = Read(notebook.curve("loss", [(0, 2.0), (1, math.nan), (5, 1.0), (10, 1.5)])).tags[2][1]["points"]
    assert line == "6.0,6.0 150.0,84.0 294.0,45.0"
    assert len(str(Read(notebook.curve("x", [(i, i) for i in range(100_000)])).tags[2][1]["points"]).split()) <= 202
    assert notebook.curve("x", [(1, 1.0)]) == "" and notebook.curve("x", []) == ""
    assert harmless(notebook.curve(HOSTILE, [(0, 1.0), (1, 1.0)]))


def test_a_name_that_is_not_escaped_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: with names as they are, the same checks fail."""
    monkeypatch.setattr(notebook, "text", str)
    with pytest.raises(AssertionError):
        harmless(notebook.card(HOSTILE, ""))


@browser.needed
def test_a_browser_draws_it(world: commands.World, tmp_path: Path) -> None:
    found = ts.predict(world.run, sorted(world.photos.rglob("*.png"))[:2])
    parts = [ts.Run(world.run), ts.load(world.run), found]
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    page.write_text("<!doctype html><meta charset=utf-8>" + "".join(part._repr_html_() for part in parts))
    browser.picture(page, shot, 800, 1400)
    with Image.open(shot) as image:
        colours = image.convert("L").getcolors()
    assert colours is not None and len(colours) > 20  # text, curves and pictures, not a blank page
