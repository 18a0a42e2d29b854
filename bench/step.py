"""One training step of ours beside transformers' Trainer, timm's train script, and timm compiled in bf16.

One alternating run: every contender is a process that is kept alive, and they take turns, some steps each, in an
order that moves by one place every round. Speed is the median over rounds; a ratio is the median of the ratios within
a round, so a machine that slows down for a while slows both. Memory is the largest resident size (on a GPU: the largest
sum of allocations) after the warm-up, of the whole process, libraries and code included. bench/contenders.py says what
runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import record
from contenders import CONTENDERS, Options

OURS = ("ours", "ours_compiled")
ASKED = Options()  # the sizes that the bars are about
BARS = {"transformers": 2.4, "timm_script": 2.4, "timm_compiled": 1.0}


class Contender:
    """A process that works only while somebody waits for its answer."""

    def __init__(self, name: str, options: Options, script: str = "contenders.py") -> None:
        self.name = name
        self.said = tempfile.TemporaryFile("w+")
        here = Path(__file__).parent
        command = [sys.executable, str(here / script), name, json.dumps(asdict(options))]
        paths = os.pathsep.join([str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        threads = {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": paths}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            env=os.environ | threads,
        )

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.said.seek(0)
            raise SystemExit(f"{self.name} died ({self.process.returncode}):\n{self.said.read()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, order: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.answer()

    def leave(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.said.close()


def start(names: list[str], options: Options, script: str = "contenders.py") -> tuple[list[Contender], dict[str, str]]:
    """Those that are installed, warmed up one after the other; and why the others are not there."""
    ready, absent = [], {}
    for name in names:
        one = Contender(name, options, script)
        first = one.answer()
        if "absent" in first:
            absent[name] = first["absent"]
            one.leave()
            continue
        ready.append(one)
        print(f"{name:<14} warm; {first['parameters']:,} parameters", flush=True)
    return ready, absent


def race(ready: list[Contender], rounds: int, steps: int, batch: int) -> dict[str, dict[str, Any]]:
    """name -> images a second of each round, and peak memory."""
    found: dict[str, dict[str, Any]] = {one.name: {"images_per_s": []} for one in ready}
    for number in range(rounds):
        turn = number % len(ready)
        for one in ready[turn:] + ready[:turn]:
            answer = one.ask(f"{'fresh' if number == 0 else 'more'} {steps}")
            mine = found[one.name]
            mine["images_per_s"].append(batch / answer["seconds"])
            mine |= {key: answer[key] for key in ("parameters", "peak", "life")}
        print(f"round {number + 1}/{rounds}", file=sys.stderr, flush=True)
    for mine in found.values():
        mine["median"] = statistics.median(mine["images_per_s"])
    return found


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """ours -> peer -> how many times as fast, within the same round."""
    return {
        mine: {
            peer: statistics.median(
                a / b for a, b in zip(found[mine]["images_per_s"], found[peer]["images_per_s"], strict=True)
            )
            for peer in found
            if peer not in OURS
        }
        for mine in OURS
        if mine in found
    }


def verdicts(found: dict[str, dict[str, Any]], speed: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    out = []
    for mine, against in speed.items():
        for peer, ratio in against.items():
            out.append(record.verdict(f"{mine} against {peer}: times as fast", ratio, BARS[peer], True))
            memory = found[mine]["peak"] / found[peer]["peak"]
            out.append(record.verdict(f"{mine} against {peer}: peak memory", memory, 1.0, False))
    return out


def arithmetic(options: Options, seconds: float) -> tuple[float, dict[str, float]]:
    """Operations of one picture's step (forward once, backward twice), and what this device multiplies."""
    import matmul
    import torch
    from contenders import network

    from tessella.models.size import macs

    torch.set_num_threads(options.threads)
    best = {p: max(by_size.values()) for p, by_size in matmul.rates(options.device, seconds).items()}
    return 3.0 * 2.0 * macs(network(options)), best


def show(found: dict[str, dict[str, Any]], speed: dict[str, dict[str, float]], shares: dict[str, float]) -> None:
    head = ["contender", "images/s", "lowest", "highest", "peak MB", "share of bf16", *(f"{m} is" for m in speed)]
    rows = []
    for name, mine in found.items():
        rates = mine["images_per_s"]
        times = [f"{speed[m][name]:.2f}x" if name in speed[m] else "" for m in speed]
        share = f"{100 * shares[name]:.1f} %" if name in shares else None
        rows.append([name, mine["median"], min(rates), max(rates), round(mine["peak"] / 1e6), share, *times])
    print()
    record.table(head, rows)


def parse() -> argparse.Namespace:
    parser = record.parser(__doc__)
    parser.add_argument("--model", default=ASKED.model, help="a preset that timm has too (default %(default)s)")
    parser.add_argument("--size", type=int, default=ASKED.size, help="side of the pictures (default %(default)s)")
    parser.add_argument("--batch", type=int, default=ASKED.batch, help="(default %(default)s)")
    parser.add_argument("--device", default=ASKED.device, help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="in a row, of each, each round (default %(default)s)")
    parser.add_argument("--warmup", type=int, default=ASKED.warmup, help="steps before the first round")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="comma-separated (default: all)")
    parser.add_argument("--matmul-seconds", type=float, default=1.0, help="to measure the ceiling; 0: do not")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    options = Options(**{key: getattr(asked, key) for key in asdict(ASKED)})
    names = asked.contenders.split(",")
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise SystemExit(f"no contender {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    ready, absent = start(names, options)
    try:
        found = race(ready, asked.rounds, asked.steps, options.batch)
    finally:
        for one in ready:
            one.leave()
    if len({mine["parameters"] for mine in found.values()}) > 1:
        sizes = {name: mine["parameters"] for name, mine in found.items()}
        raise SystemExit(f"not the same model: {sizes}")
    speed = ratios(found)
    operations, best = arithmetic(options, asked.matmul_seconds) if asked.matmul_seconds else (0.0, {})
    shares = {name: mine["median"] * operations / best["bf16"] for name, mine in found.items()} if best else {}
    show(found, speed, shares)
    for name, why in absent.items():
        print(f"{name} is not here: {why}")
    judged = verdicts(found, speed) if (options.model, options.size, options.batch, options.device) == (
        ASKED.model, ASKED.size, ASKED.batch, ASKED.device) else []  # fmt: skip
    record.show(judged)
    told: dict[str, Any] = {
        "options": asdict(options) | {"rounds": asked.rounds, "steps": asked.steps},
        "contenders": found,
    }
    told |= {"absent": absent, "ratios": speed, "matmul_flops": best, "flops_per_picture": operations}
    asked_for = (options.model, options.device) == (ASKED.model, ASKED.device)
    record.keep(
        asked,
        "step" if asked_for else f"step-{options.model}-{options.device}",
        told | {"share_of_bf16_matmul": shares, "verdicts": judged},
    )


if __name__ == "__main__":
    main()
