"""Two processes are one: the losses of a training shared by two ranks are those of one rank at the same global batch.

Classification goes the user's whole way (`torchrun -m tessella train`, then log.jsonl); contrast under DDP and DINO
under FSDP2 go through the probes of the tests. All in fp32, without stochastic depth and without mixing within the
batch. A third run, with a tenth more learning rate, shows what the difference would be if something were not the same.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import record

BAR = 1e-5  # of the loss
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
PROBES = {"contrast": "ddp", "dino": "fsdp"}  # files of tests/probes/ -> how the ranks share the work


def environment() -> dict[str, str]:
    """Few threads: the order of additions within a rank is not what is asked about."""
    paths = [str(record.ROOT), str(record.ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def launch(ranks: int, words: list[str], folder: Path) -> None:
    start = [*TORCHRUN, str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *start, *words], cwd=folder, env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{ranks} rank(s) of {' '.join(words)} failed:\n{done.stderr[-3000:]}")


# -- classify --------------------------------------------------------------------------------------------------------


def write_pictures(folder: Path, each: int) -> None:
    """Some of the bundled pictures, one folder a class."""
    from PIL import Image

    from tessella.data.origins.demo import CLASSES, pixels

    for split, by_class in pixels().items():
        for name, pictures in zip(CLASSES, by_class, strict=True):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(min(each, len(pictures))):
                Image.fromarray(pictures[number]).save(place / f"{number:04d}.png")


def classify(ranks: int, lr: float, asked: argparse.Namespace, folder: Path) -> list[float]:
    data = folder / "pictures"
    if not data.exists():
        write_pictures(data, asked.pictures // 10)
    name = f"ranks-{ranks}-{lr:g}"
    settings: dict[str, Any] = {
        "train.precision": "fp32",
        "train.batch": asked.batch,
        "train.steps": asked.steps,
        "train.log_every": 1,
    }
    settings |= {"train.lr": lr, "train.compile": "off", "train.device": "cpu", "model.backbone.drop_path": 0.0}
    settings |= {"train.evaluate_every": asked.steps, "data.workers": 1, "name": name}
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    launch(ranks, ["-m", "tessella", "train", str(data), *words], folder)
    rows = [json.loads(line) for line in (folder / "runs" / name / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


# -- the probes ------------------------------------------------------------------------------------------------------


def probe(name: str, ranks: int, lr: float, asked: argparse.Namespace, folder: Path) -> list[float]:
    out = folder / f"{name}-{ranks}-{lr:g}.json"
    words = [str(Path(__file__)), "--inside", name, "--lr", str(lr), "--steps", str(asked.steps)]
    launch(ranks, [*words, "--write", str(out)], folder)
    losses: list[float] = json.loads(out.read_text())
    return losses


def inside(asked: argparse.Namespace) -> None:
    """What one rank of a probe does."""
    import torch

    from tessella import parallel
    from tessella.training import distributed

    module: Any = importlib.import_module(f"probes.{asked.inside}")
    with distributed.processes(torch.device("cpu"), 120.0):
        settings = {"steps": asked.steps, "lr": asked.lr, "shard": PROBES[asked.inside], "log_every": 1}
        found = module.learn(module.fresh(), **settings).losses
        if parallel.is_main():
            asked.write.write_text(json.dumps(found))


# -- together --------------------------------------------------------------------------------------------------------


def apart(a: list[float], b: list[float]) -> float:
    """The largest difference of any step, as a share of the loss."""
    if len(a) != len(b) or not a:
        raise SystemExit(f"{len(a)} and {len(b)} losses: nothing to compare")
    return max(abs(x - y) / abs(x) for x, y in zip(a, b, strict=True))


def measure(name: str, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    def losses(ranks: int, lr: float) -> list[float]:
        if name == "classify":
            return classify(ranks, lr, asked, folder)
        return probe(name, ranks, lr, asked, folder)

    one, two, other = losses(1, asked.lr), losses(2, asked.lr), losses(1, 1.1 * asked.lr)
    return {"steps": len(one), "apart": apart(one, two), "control": apart(one, other), "one": one, "two": two}


def main() -> None:
    parser = record.parser(__doc__)
    there = ["classify", *(n for n in PROBES if (record.ROOT / "tests" / "probes" / f"{n}.py").is_file())]
    parser.add_argument("--jobs", default=",".join(there), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=30, help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="global, of classify (default %(default)s)")
    parser.add_argument("--pictures", type=int, default=640, help="of classify (default %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="(default %(default)s)")
    parser.add_argument("--inside", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        inside(asked)
        return
    unknown = [name for name in asked.jobs.split(",") if name not in there]
    if unknown:
        raise SystemExit(f"no job {', '.join(unknown)}; there are {', '.join(there)}")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.jobs.split(","):
            found[name] = measure(name, asked, Path(folder))
            print(f"{name} done", file=sys.stderr, flush=True)
    rows = [
        [n, f["steps"], f"{f['apart']:.1e}", f"{f['control']:.1e}", f"{f['one'][0]:.4f} -> {f['one'][-1]:.4f}"]
        for n, f in found.items()
    ]
    record.table(["job", "steps", "1 against 2 ranks", "10 % more lr", "loss"], rows)
    judged = [record.verdict(f"{n}: largest relative difference", f["apart"], BAR, False) for n, f in found.items()]
    for name, f in found.items():
        if f["control"] < 10 * BAR:
            raise SystemExit(f"{name}: another learning rate makes no difference, so equal losses prove nothing")
    record.show(judged)
    record.keep(asked, "two_ranks", {"jobs": found, "batch": asked.batch, "verdicts": judged})


if __name__ == "__main__":
    main()
