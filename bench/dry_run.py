"""What --dry-run says of a run, against the run: peak memory within 15 % and time within 20 %, on three model sizes.

Each row is two fresh processes one after the other: `tessella train ... --dry-run --json`, then the same command. The
time of the run is that of its whole process, imports included; its peak is what the system says of that process when it
has ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record

MEMORY, TIME = 0.15, 0.20
MODELS = {  # name -> settings; steps so that the run takes a minute or two on two cores
    "vit_n4": {"size": 28, "train.batch": 64, "train.steps": 400},
    "vit_n8": {"size": 64, "train.batch": 64, "train.steps": 200},
    "vit_t16": {"size": 96, "train.batch": 32, "train.steps": 150},
}


def pictures(folder: Path, each: int) -> Path:
    """Some of the bundled pictures, one folder a class."""
    from PIL import Image

    from tessella.data.origins.demo import CLASSES, pixels

    for name, found in zip(CLASSES, pixels()["train"], strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(min(each, len(found))):
            Image.fromarray(found[number]).save(folder / name / f"{number:04d}.png")
    return folder


def run(words: list[str], folder: Path) -> tuple[str, float, int]:
    """(what it printed, seconds, bytes at its peak)"""
    paths = [str(record.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as failed:
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "tessella", "train", *words], cwd=folder, env=environment, stdout=said, stderr=failed
        )
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        said.seek(0)
        failed.seek(0)
        if status:
            raise SystemExit(f"tessella train {' '.join(words)} failed:\n{failed.read()[-2000:]}")
        return said.read(), seconds, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(model: str, settings: dict[str, Any], data: Path, folder: Path) -> dict[str, Any]:
    words = [str(data), "--model", model, "--name", model]
    words += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    told, asking, _ = run([*words, "--dry-run", "--json"], folder)
    said = json.loads(told)["prediction"]
    _, seconds, peak = run(words, folder)
    return {
        "predicted_peak": said["peak_bytes"],
        "peak": peak,
        "memory_ratio": said["peak_bytes"] / peak,
        "predicted_seconds": said["seconds"],
        "seconds": seconds,
        "time_ratio": said["seconds"] / seconds,
        "parts": said["parts"],
        "dry_run_seconds": asking,
    }


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated (default: all)")
    parser.add_argument("--steps", type=int, default=None, help="of each run; default: a minute or two")
    parser.add_argument("--each", type=int, default=400, help="pictures of each class (default %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    asked = parser.parse_args()
    unknown = [name for name in asked.models.split(",") if name not in MODELS]
    if unknown:
        raise SystemExit(f"no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    more = {key: value for key, _, value in (word.partition("=") for word in asked.set)}
    if asked.steps:
        more["train.steps"] = asked.steps
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        data = pictures(Path(folder) / "pictures", asked.each)
        for model in asked.models.split(","):
            found[model] = compare(model, MODELS[model] | more, data, Path(folder))
            print(f"{model} is done", file=sys.stderr, flush=True)
    head = ["model", "peak MB", "predicted", "ratio", "seconds", "predicted", "ratio", "dry run s"]
    rows = [
        [name, round(f["peak"] / 1e6), round(f["predicted_peak"] / 1e6), f["memory_ratio"], f["seconds"],
         f["predicted_seconds"], f["time_ratio"], f["dry_run_seconds"]]
        for name, f in found.items()
    ]  # fmt: skip
    record.table(head, rows)
    judged = []
    for name, f in found.items():
        judged.append(record.verdict(f"{name}: memory, off by", abs(f["memory_ratio"] - 1), MEMORY, False))
        judged.append(record.verdict(f"{name}: time, off by", abs(f["time_ratio"] - 1), TIME, False))
    record.show(judged)
    record.keep(asked, "dry_run", {"models": found, "verdicts": judged})


if __name__ == "__main__":
    main()
