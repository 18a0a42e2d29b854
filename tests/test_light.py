"""What the command line loads before a verb runs: `tessella --help` must not wait for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parent.parent / "docs" / "verbs"  # one for each verb, says test_house.py
HEAVY = {"torch", "torchvision", "numpy", "PIL", "safetensors"}
WATCH = """
import sys
try:
    {code}
except SystemExit as end:
    assert not end.code, end.code
sys.stderr.write("HEAVY " + " ".join(sorted({heavy!r} & set(sys.modules))))
"""


def heavy_after(code: str) -> list[str]:
    program = WATCH.format(code=code, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr.rpartition("HEAVY")[2].split()


@pytest.mark.parametrize("code", ["import tessella", "import tessella.cli", "import tessella.card, tessella.durable"])
def test_import_is_light(code: str) -> None:
    assert heavy_after(code) == []


@pytest.mark.parametrize("verb", ["", *sorted(page.stem for page in PAGES.glob("*.md"))])
def test_help_is_light(verb: str) -> None:
    arguments = [*verb.split(), "--help"]
    assert heavy_after(f"import tessella.cli; sys.argv[1:] = {arguments}; tessella.cli.main()") == []


def test_the_watch_sees_a_heavy_import() -> None:
    assert heavy_after("import numpy") == ["numpy"]
