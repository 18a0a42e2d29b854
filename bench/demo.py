"""`make demo` as a stranger meets it: a fresh clone of HEAD in an empty folder, everything installed, trained, told.

What is timed: the whole of `make demo` (virtual environment, installation, training, evaluation, predictions), and of
it the training as the demo itself tells it, with its evaluations and the reading of pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record

WHOLE_BAR, TRAINING_BAR, ACCURACY_BAR = 480.0, 180.0, 86.0  # seconds, seconds, percent
TRAINED = re.compile(r"^trained in ([\d.]+) s", re.MULTILINE)
RIGHT = re.compile(r"^[\d,]+ pictures · top-1 ([\d.]+) %", re.MULTILINE)


def clone(target: Path) -> str:
    """HEAD of this repository, without what lies uncommitted in it."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(record.ROOT), str(target)], check=True)
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=target, check=True, capture_output=True, text=True)
    return said.stdout.strip()


def command(asked: argparse.Namespace) -> list[str]:
    if asked.skip_install:
        return [sys.executable, "-m", "tessella", "demo", *(["--only-unpack"] if asked.only_unpack else [])]
    return ["make", "demo", f"PYTHON={asked.python}"]


def lines(words: list[str], folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """What the command says on its standard output, line by line, also shown here."""
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"  {line}", end="", flush=True)
            yield line
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed ({process.returncode})")


def read(said: str) -> dict[str, float]:
    """Training seconds and accuracy in per cent, from what the demo prints."""
    trained, right = TRAINED.search(said), RIGHT.search(said)
    if trained is None or right is None:
        raise SystemExit("the demo did not say how long it trained and how good it is:\n" + said[-2000:])
    return {"training_s": float(trained[1]), "top1_percent": float(right[1])}


def speed(folder: Path) -> float | None:
    """Images a second, the median of the rows that the run logged."""
    logs = sorted(folder.glob("demo/runs/*/log.jsonl"))
    rates = [row["images/s"] for log in logs for row in map(json.loads, log.open()) if "images/s" in row]
    return sorted(rates)[len(rates) // 2] if rates else None


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of a bare machine (default: this)")
    parser.add_argument("--skip-install", action="store_true", help="with the packages that are installed here")
    parser.add_argument("--only-unpack", action="store_true", help="with --skip-install: no training, no figures")
    asked = parser.parse_args()
    if asked.only_unpack and not asked.skip_install:
        raise SystemExit("--only-unpack tries the way without installing; add --skip-install")
    plain = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tessella"
        commit = clone(folder)
        began = time.perf_counter()
        said = "".join(lines(command(asked), folder, plain))
        whole = time.perf_counter() - began
        if asked.only_unpack:
            print(f"{sum(1 for _ in folder.glob('demo/fashion/*/*/*.png'))} pictures in {whole:.1f} s; nothing kept")
            return
        figures: dict[str, Any] = {"whole_s": whole, **read(said), "images_per_s": speed(folder)}
    print()
    record.table(["figure", "value"], [[key, value] for key, value in figures.items()])
    judged = [
        record.verdict("training, seconds", figures["training_s"], TRAINING_BAR, False),
        record.verdict("top-1 on the 2,000 test pictures, per cent", figures["top1_percent"], ACCURACY_BAR, True),
    ]
    if not asked.skip_install:
        judged.insert(0, record.verdict("make demo on a bare machine, seconds", whole, WHOLE_BAR, False))
    record.show(judged)
    told = {"cloned": commit, "installed": not asked.skip_install, "verdicts": judged}
    record.keep(asked, "demo-installed" if asked.skip_install else "demo", figures | told)


if __name__ == "__main__":
    main()
