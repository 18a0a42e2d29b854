"""How long the command line lets its user wait: every --help without torch, and a first prediction from nothing.

Help is run ten times each, as a user runs it; the median counts. Python's own list of imports (-X importtime) proves
that torch was not among them. The first prediction is a fresh process, with the files of Python and of the packages
thrown out of memory before it where the system permits that ("cold"), and with them in memory ("warm").
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record

HELP_BAR, PREDICT_BAR = 0.25, 4.0  # seconds
HEAVY = ("torch", "torchvision", "numpy", "PIL")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(record.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
}


def verbs() -> list[str]:
    from tessella.cli import app

    return [str(c.name or (c.callback.__name__ if c.callback else "")) for c in app.registered_commands]


def command() -> list[str]:
    """The installed program, or the module where it is not installed."""
    program = Path(sys.executable).parent / "tessella"
    return [str(program)] if program.is_file() else [sys.executable, "-m", "tessella"]


def timed(words: list[str], folder: Path | None = None) -> float:
    began = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return took


def imported(words: list[str]) -> set[str]:
    """All modules that `tessella WORDS` imports, by the interpreter's own account."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tessella", *words], env=ENVIRONMENT, capture_output=True, text=True
    )
    if told.returncode:
        raise SystemExit(f"tessella {' '.join(words)} failed:\n{told.stderr[-2000:]}")
    return {m[1] for line in told.stderr.splitlines() if (m := re.match(r"import time:.*\|\s+([\w.]+)$", line))}


def helps(runs: int) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for verb in ["", *verbs()]:
        words = [*verb.split(), "--help"]
        names = imported(words)  # also fills the caches
        if "tessella.cli" not in names:
            raise SystemExit("the list of imports cannot be read: the proof would prove nothing")
        took = [timed([*command(), *words]) for _ in range(runs)]
        out[" ".join(["tessella", *words])] = {
            "median": statistics.median(took),
            "longest": max(took),
            "heavy": sorted(set(HEAVY) & names),
            "modules": len(names),
        }
    return out


# -- the first prediction --------------------------------------------------------------------------------------------


def write_model(folder: Path, name: str) -> None:
    """An untrained model: what counts here is its size."""
    from tessella.card import Card, Head, Preprocess
    from tessella.config import encode
    from tessella.models.classifier import Classifier
    from tessella.models.presets import classifier
    from tessella.weights.io import write_model as write

    cfg = classifier(name, 1000)
    seen = Preprocess(size=cfg.backbone.size, crop=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    head = Head(name="label", task="classify", classes=tuple(f"class {i}" for i in range(1000)))
    card = Card(architecture=encode(cfg), heads=(head,), preprocess={"image": seen}, metrics={}, provenance={})
    write(folder, dict(Classifier(cfg).state_dict()), card)


def write_picture(path: Path) -> None:
    import numpy as np
    from PIL import Image

    x = np.add.outer(np.arange(375), np.arange(500))[..., None] * np.array([1, 2, 3])
    Image.fromarray((x % 256).astype(np.uint8)).save(path, quality=90)


def forget_files(model: Path) -> str:
    """Throws file contents out of memory; says how far that went."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
        return "cold: the system dropped its page cache"
    except OSError:
        pass
    if sys.platform != "linux":
        return "warm: the page cache cannot be dropped here"
    for top in {Path(sys.prefix), Path(sys.base_prefix) / "lib", record.ROOT / "tessella", model}:
        for path in top.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return "cold: the files of Python, packages and model were dropped, as far as nobody else uses them"


def predictions(asked: Any, folder: Path) -> dict[str, Any]:
    model, picture = Path(asked.model or folder / "model"), Path(asked.picture or folder / "picture.jpg")
    if asked.model is None:
        write_model(model, asked.architecture)
    if asked.picture is None:
        write_picture(picture)
    words = [*command(), "predict", str(model.absolute()), str(picture.absolute())]
    told: dict[str, Any] = {"how": "warm only: asked for"}
    if not asked.warm:
        cold = []
        for _ in range(asked.cold_runs):
            told["how"] = forget_files(model)
            cold.append(timed(words, folder))
        told |= {"cold": statistics.median(cold), "cold_longest": max(cold)}
    timed(words, folder)
    warm = [timed(words, folder) for _ in range(asked.runs)]
    return told | {"warm": statistics.median(warm), "warm_longest": max(warm)}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each command (default %(default)s)")
    parser.add_argument("--cold-runs", type=int, default=3, help="of the first prediction (default %(default)s)")
    parser.add_argument("--warm", action="store_true", help="leave the page cache as it is")
    parser.add_argument("--architecture", default="vit_t16", help="of the model that predicts (default %(default)s)")
    parser.add_argument("--model", default=None, help="a model or run folder instead")
    parser.add_argument("--picture", default=None, help="a picture; default: a made one of 500 x 375")
    asked = parser.parse_args()
    found = helps(asked.runs)
    with tempfile.TemporaryDirectory() as folder:
        first = predictions(asked, Path(folder))
    rows = [[name, f["median"], f["longest"], " ".join(f["heavy"]) or "none"] for name, f in found.items()]
    record.table(["command", "median s", "longest s", "of torch, numpy, ... imported"], rows)
    print()
    kinds = [kind for kind in ("cold", "warm") if kind in first]
    record.table(["first prediction", "median s", "longest s"], [[k, first[k], first[f"{k}_longest"]] for k in kinds])
    print(first["how"])
    slowest = max(f["median"] for f in found.values())
    heavy = float(sum(len(f["heavy"]) for f in found.values()))
    judged = [
        record.verdict("slowest --help, seconds", slowest, HELP_BAR, False),
        record.verdict("heavy modules imported for help", heavy, 0.0, False),
        record.verdict(f"first prediction, {kinds[0]}, seconds", first[kinds[0]], PREDICT_BAR, False),
    ]
    record.show(judged)
    record.keep(asked, "start", {"help": found, "first_prediction": first, "runs": asked.runs, "verdicts": judged})


if __name__ == "__main__":
    main()
