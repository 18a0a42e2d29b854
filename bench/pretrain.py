"""Learning without labels: what each method makes of the same minutes, judged by kNN and a linear probe.

Every method trains the same network on the same pictures for the same minutes of wall clock, evaluations and report
included (how many epochs fit is measured first, by a run of two). Then its frozen features are judged on the test
part, all training pictures known, beside those of the same network as it was drawn.

With --labels the best of them is fine-tuned where only a tenth of the pictures has a label, beside the same network
from nothing, which gets three times as long.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record

METHODS = ("dino", "rotate", "mae", "simmim", "colorize", "inpaint")
BARS = {"dino": ("knn", 5), "rotate": ("knn", 5), "mae": ("linear", 3), "simmim": ("linear", 3)}
BARS |= {"colorize": ("linear", 3), "inpaint": ("linear", 3)}  # points above the untrained network
UNTRAINED = "untrained"
BEST, GAIN = 8, 3  # points: of the best method, and of pretraining where labels are few


def tessella(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "tessella", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"tessella {' '.join(words)}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def trained(data: str, folder: Path, name: str, epochs: float, *more: str) -> float:
    """Seconds."""
    began = time.perf_counter()
    tessella(
        "train", data, "--recipe", "compact", "--epochs", f"{epochs:g}", "--folder", str(folder), "--name", name, *more
    )
    return time.perf_counter() - began


def epochs_that_fit(data: str, folder: Path, minutes: float, *more: str) -> int:
    each = trained(data, folder, f"pilot-{len(list(folder.iterdir()))}", 2, *more) / 2
    return max(1, int(60 * minutes / each))


def judged(run: Path, data: str) -> dict[str, float]:
    """Top-1 of both probes, in per cent."""
    return {
        kind: 100 * float(json.loads(tessella("evaluate", str(run), data, "--probe", kind, "--json"))["top1"])
        for kind in ("knn", "linear")
    }


def few_labels(data: Path, folder: Path, share: float) -> str:
    """The same test part, and of each class the first pictures by name: links, nothing is copied."""
    for part in ("train", "test"):
        for source in sorted((data / part).iterdir()):
            files = sorted(source.iterdir())
            target = folder / part / source.name
            target.mkdir(parents=True)
            for file in files[: round(share * len(files))] if part == "train" else files:
                (target / file.name).symlink_to(file)
    return str(folder)


def last_top1(run: Path) -> float:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return 100 * float([row["val/top1"] for row in rows if "val/top1" in row][-1])


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("data", help="a folder with train/ and test/, class folders in each")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--labels", type=float, default=0.0, help="share of the pictures with a label; 0: leave it out")
    parser.add_argument("--keep", type=Path, help="where runs stay; default: they go")
    parser.add_argument("--go-on", action="store_true", help="add to the result that is there")
    asked = parser.parse_args()
    data = Path(asked.data).resolve()
    if not (data / "train").is_dir() or not (data / "test").is_dir():
        parser.error("give a folder with train/ and test/, class folders in each")
    path = asked.out / f"{asked.name or 'pretrain'}.json"
    figures: dict[str, Any] = json.loads(path.read_text())["figures"] if asked.go_on else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        _probes(asked, str(data), folder, figures)
        if asked.labels:
            _fine_tuned(asked, data, folder, figures)
    _keep(asked, figures, aloud=True)


def _probes(asked: argparse.Namespace, data: str, folder: Path, figures: dict[str, Any]) -> None:
    rows: dict[str, Any] = figures.setdefault("methods", {})
    figures["minutes"] = asked.minutes
    if UNTRAINED not in rows:
        still = ("--method", "mae", "--train.steps", "1", "--train.lr", "0", "--train.min_lr", "0")
        trained(data, folder, UNTRAINED, 1, *still)
        rows[UNTRAINED] = judged(folder / UNTRAINED, data)
        print(UNTRAINED, rows[UNTRAINED], flush=True)
    for method in asked.methods:
        if method in rows:
            continue
        epochs = epochs_that_fit(data, folder, asked.minutes, "--method", method)
        seconds = trained(data, folder, method, epochs, "--method", method)
        rows[method] = judged(folder / method, data) | {"epochs": epochs, "seconds": seconds, "commit": record.commit()}
        print(method, rows[method], flush=True)
        _keep(asked, figures)


def _fine_tuned(asked: argparse.Namespace, data: Path, folder: Path, figures: dict[str, Any]) -> None:
    """Half of the minutes of pretraining for fine-tuning, three times as much from nothing."""
    rows = {name: row for name, row in figures["methods"].items() if name != UNTRAINED}
    best = max(rows, key=lambda name: rows[name]["linear"])
    if not (folder / best).is_dir():
        raise SystemExit(f"{folder / best} is not there; give the --keep of the run that made it")
    few = few_labels(data, folder / "few", asked.labels)
    told: dict[str, Any] = figures.setdefault("few labels", {"share": asked.labels, "method": best})
    for name, minutes, more in (
        ("fine-tuned", asked.minutes / 2, ("--weights", str(folder / best))),
        ("from nothing", 1.5 * asked.minutes, ()),
    ):
        epochs = epochs_that_fit(few, folder, minutes, *more)
        seconds = trained(few, folder, name.replace(" ", "-"), epochs, *more)
        told[name] = {"top1": last_top1(folder / name.replace(" ", "-")), "epochs": epochs, "seconds": seconds}
        print(name, told[name], flush=True)
        _keep(asked, figures)


def _keep(asked: argparse.Namespace, figures: dict[str, Any], aloud: bool = False) -> None:
    rows = figures["methods"]
    gains = {
        name: {kind: row[kind] - rows[UNTRAINED][kind] for kind in ("knn", "linear")}
        for name, row in rows.items()
        if name != UNTRAINED
    }
    verdicts = [
        record.verdict(f"{name}: points of {kind}", gains[name][kind], bar, True)
        for name, (kind, bar) in BARS.items()
        if name in gains
    ]
    if gains:
        most = max(max(gain.values()) for gain in gains.values())
        verdicts.append(record.verdict("points of the best method", most, BEST, True))
    few = figures.get("few labels", {})
    if "from nothing" in few:
        gain = few["fine-tuned"]["top1"] - few["from nothing"]["top1"]
        verdicts.append(record.verdict("points with few labels", gain, GAIN, True))
    figures["verdicts"] = verdicts
    if aloud:
        shown = [
            [name, *(row.get(key, 0) for key in ("knn", "linear", "epochs", "seconds"))] for name, row in rows.items()
        ]
        record.table(["method", "kNN %", "linear %", "epochs", "seconds"], shown)
        record.show(verdicts)
    record.keep(asked, "pretrain", figures)


if __name__ == "__main__":
    main()
