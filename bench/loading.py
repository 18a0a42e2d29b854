"""What loading costs beside what it cannot avoid: reading the bytes once, and one pass of the network.

ViT-L/16 with every tensor drawn, as a model folder and as a bare file in timm's layout. Each figure comes from a fresh
process with the file warm; the median counts. Time starts when torch and tessella are imported and ends with the logits
of one picture that is already in memory. Memory is the peak above an interpreter that has imported torch.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import record

TIME_BAR, MEMORY_BAR = 1.2, 1.2  # times reading and a pass; times the file

START = """
import json, sys, time
import torch
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1000 for line in file if line.startswith(key))
bare = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is counted from here
from tessella.runtime.load import load
torch.set_num_threads({threads})
x = torch.randn(1, 3, {side}, {side}, generator=torch.Generator().manual_seed(0))
"""
LOAD = """
began = time.perf_counter()
model = load(sys.argv[1], *sys.argv[2:])
loaded = time.perf_counter()
model(x)
done = time.perf_counter()
told = {"s": done - began, "load": loaded - began, "bytes": status("VmHWM") - bare, "passes": []}
for _ in range(5):
    began = time.perf_counter()
    model(x)
    told["passes"].append(time.perf_counter() - began)
print(json.dumps(told))
"""
READ = """
began = time.perf_counter()
with open(sys.argv[1], "rb") as file:
    held = file.read()
print(json.dumps({"s": time.perf_counter() - began, "bytes": status("VmHWM") - bare}))
"""


def child(asked: Any, code: str, *words: str) -> dict[str, Any]:
    start = START.replace("{threads}", str(asked.threads)).replace("{side}", str(asked.side))
    folder = {"PYTHONPATH": os.pathsep.join([str(record.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run(
        [sys.executable, "-c", start + code, *words], env=os.environ | folder, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write(folder: Path, name: str) -> Path:
    """The model folder; its file is the bare one as well, because our names are timm's."""
    from start import write_model

    write_model(folder, name)
    return folder / "model.safetensors"


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--architecture", default="vit_l16", help="that is loaded (default %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="of each figure (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch (default %(default)s)")
    parser.add_argument("--side", type=int, default=224, help="pixels of the picture (default %(default)s)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        file = write(Path(place) / "model", asked.architecture)
        bare = Path(place) / "bare.safetensors"
        os.link(file, bare)
        size = file.stat().st_size
        kinds = {
            "reading the bytes": (READ, str(file)),
            "model folder": (LOAD, str(file.parent)),
            "bare file, --like": (LOAD, str(bare), asked.architecture),
        }
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
        for code, *words in kinds.values():
            child(asked, code, *words)  # the files of packages are warm from here on
        for _ in range(asked.runs):  # by turns, so that a slow minute falls on all
            for name, (code, *words) in kinds.items():
                runs[name].append(child(asked, code, *words))
    once = statistics.median(
        p for name in kinds if name != "reading the bytes" for r in runs[name] for p in r["passes"]
    )
    read = statistics.median(r["s"] for r in runs["reading the bytes"])
    floor, rows, judged = read + once, [], []
    for name, found in runs.items():
        took, peak = statistics.median(r["s"] for r in found), statistics.median(r["bytes"] for r in found)
        loading = [r["load"] for r in found if "load" in r]
        times = took / floor if loading else None
        spread = max(r["s"] for r in found) - min(r["s"] for r in found)
        rows.append([name, took, spread, statistics.median(loading) if loading else None, times, peak / size])
        if loading:
            judged += [
                record.verdict(f"{name}: time / (reading + a pass)", took / floor, TIME_BAR, False),
                record.verdict(f"{name}: peak memory / file", peak / size, MEMORY_BAR, False),
            ]
    print(f"{asked.architecture}, {size / 1e6:,.0f} MB; one pass {once:.3f} s with {asked.threads} threads")
    record.table(["", "s to logits", "spread s", "of it loading", "of reading + pass", "peak / file"], rows)
    record.show(judged)
    record.keep(
        asked,
        "loading",
        {"bytes": size, "pass_s": once, "read_s": read, "threads": asked.threads, "runs": runs, "verdicts": judged},
    )


if __name__ == "__main__":
    main()
