"""README.md does what it says: its commands and its Python are run, in order, in one folder with a few pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>.*?) -->\n)?```(?P<language>sh|python)\n(?P<text>.*?)```\n", re.DOTALL)


class Block(NamedTuple):
    language: str
    text: str
    why_not: str | None  # the reason in `<!-- not run: ... -->` on the line before


def blocks(page: str) -> list[Block]:
    return [Block(m["language"], m["text"], m["why"]) for m in BLOCK.finditer(page)]


README = blocks((ROOT / "README.md").read_text(encoding="utf-8"))


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """As a reader would, but any failing line fails the block."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
    return subprocess.run(
        [*command, block.text],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "2"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def pictures(folder: Path, seed: int, each: int = 8) -> None:
    """Two classes that anything can tell apart, in one folder per class."""
    random = np.random.default_rng(seed)
    for name, level in (("dark", 40), ("light", 215)):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            picture = np.clip(random.normal(level, 20, (48, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / f"{number}.jpg")


@pytest.mark.slow
@pytest.mark.readme
def test_what_the_readme_says_works(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", seed=0)
    pictures(tmp_path / "other", seed=1, each=3)
    Image.open(tmp_path / "other" / "dark" / "0.jpg").save(tmp_path / "a.jpg")
    Image.open(tmp_path / "other" / "light" / "0.jpg").save(tmp_path / "b.png")
    for block in README:
        if block.why_not is None:
            done = run(block, tmp_path)
            assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


def test_a_failing_line_fails_its_block(tmp_path: Path) -> None:
    assert run(Block("sh", "false\ntrue\n", None), tmp_path).returncode != 0
    assert run(Block("sh", "false | true\n", None), tmp_path).returncode != 0
    assert run(Block("python", "assert False\n", None), tmp_path).returncode != 0
    assert run(Block("sh", "true\n", None), tmp_path).returncode == 0


def test_every_block_is_run_unless_it_says_why_not() -> None:
    page = "<!-- not run: long -->\n```sh\na\n```\n\n```sh\nb\n```\n\n```python\nc\n```\n\n```text\nd\n```\n"
    assert blocks(page) == [Block("sh", "a\n", "long"), Block("sh", "b\n", None), Block("python", "c\n", None)]
    assert sum(block.why_not is None for block in README) >= 3
    assert all(block.why_not != "" for block in README)


def test_every_verb_is_shown_and_run() -> None:
    ran = "".join(block.text for block in README if block.why_not is None)
    shown = set(re.findall(r"^(?:torchrun .*-m )?tessella (\w+)", ran, re.MULTILINE))
    pages = {path.stem for path in (ROOT / "docs" / "verbs").glob("*.md")}  # one for each verb, says test_house.py
    assert pages - {"demo"} <= shown


def test_the_make_commands_exist_and_ci_runs_them() -> None:
    named = {name for block in README for name in re.findall(r"^make (\w+)", block.text, re.MULTILINE)}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    in_ci = set(re.findall(r"make (?:-C \S+ )?(\w+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8")))
    assert named <= targets
    assert {"demo", "test"} <= named & in_ci
