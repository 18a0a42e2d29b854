"""CIFAR-10 from nothing on this machine: the accuracy of `tessella train --recipe compact` after so many minutes.

The clock runs from the start of the command to its end: imports, index, evaluations, states, the report, everything.
Before it runs, the pictures (JPEG, quality 75) are put into one tar, whose folder `test` is what the run is judged on;
nothing is chosen by it. How many passes fit into the minutes is measured first, by short runs of the same command,
unless `--epochs` says it. The model's blocks must hold 70 % of its multiply-adds and of its parameters.
"""

from __future__ import annotations

import glob
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import record

BARS = {8: 76.2, 30: 84.0}  # minutes -> per cent
BLOCKS = 0.7  # share of the multiply-adds, and of the parameters
MARGIN = 0.1  # share of the time that stays free: a run of 8.7 minutes had been measured as one of 7.7
EVALUATIONS = {8: 4, 15: 6, 30: 10}  # points of the curve; each takes a few seconds of the same clock
LONG, ERASE = 25, {"data.augment.erase": 0.25}  # from so many minutes on each picture comes often, and less of it helps
SHORT = 60  # steps of the shortest measuring run
PICTURES = 50_000  # in a pass


def one_tar(data: Path, target: Path) -> Path:
    """All members of the .tar.xz files in a single tar, which can be read in any order."""
    with tarfile.open(target, "w") as out:
        for name in sorted(glob.glob(str(data / "*.tar.xz"))):
            with tarfile.open(name) as part:
                for member in part:
                    if member.isfile():
                        out.addfile(member, part.extractfile(member))
    return target


def command(data: Path, folder: Path, name: str, settings: dict[str, Any]) -> list[str]:
    words = [sys.executable, "-m", "tessella", "train", str(data), "--recipe", "compact"]
    told = {"folder": folder, "name": name, **settings}
    return words + [word for key, value in told.items() for word in (f"--{key}", str(value))]


def timed(words: list[str], log: Path) -> tuple[float, list[dict[str, float]]]:
    """Seconds of the whole command, and each evaluation with the seconds at which it stood in the log."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(record.ROOT), os.environ.get("PYTHONPATH", "")])}
    curve: list[dict[str, float]] = []
    began = time.perf_counter()
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.1)
            curve += new_points(log, curve, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed ({process.returncode})")
    return seconds, curve + new_points(log, curve, seconds)


def new_points(log: Path, seen: list[dict[str, float]], seconds: float) -> list[dict[str, float]]:
    if not log.is_file():
        return []
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if '"val/top1"' in line and line[-1] == "}"]
    return [
        {"minutes": seconds / 60, "step": row["step"], "top1_percent": 100 * row["val/top1"]}
        for row in map(json.loads, lines[len(seen) :])
    ]


def batch_of(settings: dict[str, Any]) -> int:
    from tessella.recipes.compact import compact

    return int(settings.get("train.batch", compact("").train.batch))


def measure(data: Path, folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Three short runs of the same command, of which each has one thing more than the first: steps, evaluations. A run
    is light and heavy in the same shares, however long it is."""
    seconds = {}
    for name, steps, every in (("first", SHORT, SHORT), ("steps", 6 * SHORT, 6 * SHORT), ("asked", SHORT, SHORT // 4)):
        told = {**settings, "train.steps": steps, "train.evaluate_every": every}
        seconds[name], _ = timed(command(data, folder, name, told), folder / name / "log.jsonl")
    step = (seconds["steps"] - seconds["first"]) / (5 * SHORT)
    evaluation = max(0.0, seconds["asked"] - seconds["first"]) / 3
    return {
        "step_s": step,
        "pass_s": step * PICTURES / batch_of(settings),
        "evaluation_s": evaluation,
        "start_and_end_s": seconds["first"] - SHORT * step - evaluation,
    }


def passes(minutes: float, evaluations: int, measured: dict[str, float]) -> float:
    """How many fit beside the start, the end and the evaluations."""
    left = minutes * 60 * (1 - MARGIN) - measured["start_and_end_s"] - evaluations * measured["evaluation_s"]
    return max(0.01, round(left / measured["pass_s"], 2))


def shares(folder: Path) -> dict[str, float]:
    """Of the blocks, in what the network that was trained really multiplies and learns; and the threads that it had."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tessella.runtime.load import load

    network = load(folder).network.eval()
    total = sum(p.numel() for p in network.parameters())
    blocks = sum(p.numel() for unit in network.units() for p in unit.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, *network.cfg.backbone.size))
    flops = counter.get_flop_counts()
    of_blocks = sum(sum(found.values()) for name, found in flops.items() if name.split(".")[-2:-1] == ["blocks"])
    return {
        "threads": torch.get_num_threads(),
        "parameters": total,
        "multiply_adds": counter.get_total_flops() // 2,
        "blocks_of_parameters": blocks / total,
        "blocks_of_multiply_adds": of_blocks / counter.get_total_flops(),
    }


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--data", type=Path, default=record.ROOT.parent / "shared" / "data" / "cifar10")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--epochs", type=float, default=None, help="passes (default: as many as fit, measured first)")
    parser.add_argument("--evaluations", type=int, default=None, help="points of the curve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="more settings")
    asked = parser.parse_args()
    more: dict[str, Any] = (ERASE if asked.minutes >= LONG else {}) | dict(asked.set) | {"train.seed": asked.seed}
    points = asked.evaluations or EVALUATIONS.get(asked.minutes, max(1, round(asked.minutes / 3)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = one_tar(asked.data, folder / "cifar10.tar")
        measured = None if asked.epochs else measure(data, folder, more)
        epochs = asked.epochs or passes(asked.minutes, points, measured or {})
        steps = math.ceil(epochs * PICTURES / batch_of(more))
        told = {**more, "epochs": epochs, "train.evaluate_every": math.ceil(steps / points)}
        seconds, curve = timed(command(data, folder, "run", told), folder / "run" / "log.jsonl")
        run = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))["run"]
        settings = {key: run[key] for key in ("model", "objective", "train")} | {"augment": run["data"]["augment"]}
        held = shares(folder / "run")
    right = curve[-1]["top1_percent"]
    record.table(["minutes", "step", "top-1 %"], [[p["minutes"], int(p["step"]), p["top1_percent"]] for p in curve])
    judged = [
        record.verdict("minutes of the whole command", seconds / 60, asked.minutes, False),
        record.verdict("share of the blocks in the multiply-adds", held["blocks_of_multiply_adds"], BLOCKS, True),
        record.verdict("share of the blocks in the parameters", held["blocks_of_parameters"], BLOCKS, True),
    ]
    if asked.minutes in BARS:
        judged.insert(
            0, record.verdict("top-1 on the 10,000 test pictures, per cent", right, BARS[asked.minutes], True)
        )
    record.show(judged)
    figures = {"top1_percent": right, "seconds": seconds, "curve": curve, "epochs": epochs, "measured": measured}
    name = f"cifar-{asked.minutes:g}" + f"-seed{asked.seed}" * (asked.seed > 0)
    record.keep(asked, name, figures | {"network": held, "settings": settings, "verdicts": judged})


if __name__ == "__main__":
    main()
