"""A verb's page names every option that its --help names, and no other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parent.parent / "docs" / "verbs"


def of_help(text: str) -> set[str]:
    return set(re.findall(r"^ +(--[a-z-]+)", text, re.MULTILINE)) - {"--help"}


def of_page(text: str) -> set[str]:
    """The options in the first column of the page's tables."""
    return {name for row in re.findall(r"^\| (`.*?) \| ", text, re.MULTILINE) for name in re.findall(r"--[a-z-]+", row)}


@pytest.mark.parametrize("verb", sorted(page.stem for page in PAGES.glob("*.md")))
def test_the_page_names_the_options(verb: str) -> None:
    command = [sys.executable, "-m", "tessella", verb, "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert of_page((PAGES / f"{verb}.md").read_text(encoding="utf-8")) == of_help(told)


def test_a_missing_and_an_invented_option_are_seen() -> None:
    told, page = (
        "Options:\n  --top <int>  How many.\n  --help  This.\n",
        "| Option | Meaning |\n|---|---|\n| `--top N` | x |\n",
    )
    assert of_help(told) == of_page(page) == {"--top"}
    assert of_page(page.replace("--top", "--most")) != of_help(told) != of_page("")
