"""The page of `check`, opened by a real browser: names are text, nothing runs, nothing is loaded, pictures show."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import pytest

from tessella.errors import readable
from tessella.report import check_page
from tessella.report.check import ODD, summary, text
from tessella.report.check_page import page, shown

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&"
DOT = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAAAAACwAAAAAAQABAAACAkQBADs="


def found() -> dict[str, Any]:
    """What check says of a data set whose every name is hostile."""
    first, second = ({"part": part, "id": f"{HOSTILE}/{part}.jpg", "class": HOSTILE} for part in ("train", "val"))
    size = {"min": 1, "median": 2, "max": 3}
    part = {
        "pictures": 3, "readable": 2, "classes": {HOSTILE: 2, "empty": 0}, "missing": ["empty"], "unlabelled": 0,
        "unreadable": [{"id": HOSTILE, "reason": f"{HOSTILE} is damaged", "holds": "an HTML page"}],
        "bytes": {"total": 6, **size}, "height": size, "width": size, "formats": {"JPEG": 2},
        "odd": {kind: [HOSTILE] for kind in ODD}, "wrong_suffix": [{"id": HOSTILE, "holds": "PNG"}],
    }  # fmt: skip
    same = {"kind": "photograph", "score": 0.97, "leak": True, "conflict": True, "parts": ["train", "val"]}
    plain: dict[str, Any] = {
        "format": 1, "tessella": "0", "data": HOSTILE, "model": HOSTILE, "classes": [HOSTILE, "empty"],
        "notes": [HOSTILE], "parts": {"train": part, "val": part}, "seconds": 1.0,
        "same": [{**same, "classes": [HOSTILE, "b"], "pictures": [first, second]}], "pairs": [],
        "shared": [{"part": "val", "with": "train", "pictures": 1, "of": 3}],
        "balance": {"part": "train", "remedy": "root", "option": "--x", "why": HOSTILE, "ratio": 9.0, "weights": {}},
        "labels": {"pictures": 4, "agreement": 0.9, "left_out": [],
                   "doubtful": [{**first, "perhaps": HOSTILE, "belief": 0.01}]},
        "near": [{"first": first, "second": second, "cosine": 0.98}],
    }  # fmt: skip
    return plain | {"summary": summary(plain)}


def made() -> str:
    plain = found()
    return page(plain, dict.fromkeys(shown(plain), DOT))


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_nothing_runs_and_nothing_is_loaded() -> None:
    tags = Tags(made()).tags
    names = {tag for tag, _ in tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not [a for _, attrs in tags for a in attrs if a.startswith("on")]
    sources = [attrs["src"] for _, attrs in tags if "src" in attrs]
    assert sources and all(str(s).startswith("data:image/") for s in sources)
    assert not [a for _, attrs in tags for a in attrs if a in {"href", "srcset", "style"}]
    policy = next(a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy) and "script" not in str(policy)
    assert "url(" not in made() and "@import" not in made()
    assert any(a.get("name") == "viewport" for _, a in tags) and "color-scheme: light dark" in made()


@browser.needed
def test_a_browser_shows_names_as_text(tmp_path: Path) -> None:
    at = tmp_path / "page.html"

    def dom(html: str) -> str:
        at.write_text(html, encoding="utf-8")
        return browser.run("--dump-dom", at.as_uri()).stdout

    seen = dom(made())
    assert "<title>owned" not in seen and "&lt;script&gt;" in seen and seen.count("<img") > 3
    assert not [t for t, attrs in Tags(seen).tags if t == "script" or any(a.startswith("on") for a in attrs)]
    # Mutation: names that are not escaped, on a page that allows scripts, own it: the browser really looks.
    bare = made().replace("&lt;", "<").replace("&gt;", ">").replace("&#x27;", "'").replace("&quot;", '"')
    assert "<title>owned" in dom(bare.replace("Content-Security-Policy", "x-none"))
    assert "<title>owned" not in dom(bare), "and the policy alone would have held"


def test_pictures_that_are_missing_are_named() -> None:
    plain = found()
    assert len(shown(plain)) == 2
    assert "<img" not in page(plain, {}) and "val.jpg" in page(plain, {})
    assert "javascript:" not in page(plain, dict.fromkeys(shown(plain), "javascript:alert(1)"))


def test_long_lists_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_page, "MOST", 3)
    plain = found()
    plain["same"] = plain["same"] * 10
    assert "The first 3 of 10" in page(plain, {}) and page(plain, {}).count("the same photograph") == 3


def test_control_characters() -> None:
    assert readable("a\x1b[31mb\u202ec\udce9\n") == "a\\x1b[31mb\\u202ec\\udce9\\n"
    assert readable("Grüße 花") == "Grüße 花"


def test_the_words() -> None:
    plain = found()
    told = text(plain)
    for what in ("unreadable", "leak", "conflict", "missing", "imbalance", "labels"):
        assert any(f["what"] == what for f in plain["summary"]), what
    levels = [f["level"] for f in plain["summary"]]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert "1 of 3 val pictures are in train as well" in told and "\x1b" not in told
    clean = found()
    clean |= {"same": [], "shared": [], "notes": [], "labels": None, "near": None}
    clean["balance"] |= {"remedy": "nothing"}
    for part in clean["parts"].values():
        part |= {"unreadable": [], "missing": [], "wrong_suffix": [], "odd": dict.fromkeys(ODD, ())}
    clean["summary"] = summary(clean)
    assert clean["summary"] == [] and "nothing to mend" in text(clean) and "Nothing to mend" in page(clean, {})
