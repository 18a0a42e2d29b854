"""A folder of a million pictures: how long until it is indexed, in how much memory, and until the second pass starts.

The files are real pictures of one pixel in a thousand class folders. Indexing is measured in a process of its own, from
the call to the list of training and held-out samples; with the folders in memory ("warm") and, where the system permits
to drop its caches, from the disk ("cold"). The second pass is that of the loader with worker processes: the time from
the last batch of the first pass to the first of the second, beside that between two ordinary batches.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record

TIME_BAR, MEMORY_BAR, EPOCH_BAR = 20.0, 600.0, 1.0  # seconds, MB, seconds
FOLDERS = 1000
BATCH = 256
ENVIRONMENT = os.environ | {"PYTHONPATH": str(record.ROOT)}


def fill(root: Path, files: int) -> None:
    """Pictures of one pixel, each a file of its own."""
    from PIL import Image

    held = io.BytesIO()
    Image.new("RGB", (1, 1), "red").save(held, "PNG")
    folders = min(FOLDERS, max(2, files // 2))
    for c in range(folders):
        folder = root / f"class_{c:04}"
        folder.mkdir()
        for i in range(c * files // folders, (c + 1) * files // folders):
            (folder / f"picture_{i:07}.png").write_bytes(held.getvalue())


def index(root: str) -> dict[str, Any]:
    """In a process of its own: peak memory is that of indexing, with Python and numpy, before torch."""
    import resource

    from tessella.data.origins.open import open_data
    from tessella.data.source import DataConfig

    began = time.perf_counter()
    splits = open_data(DataConfig(path=root))
    opened = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    splits.train.fingerprint()
    hashed = time.perf_counter() - began
    held = len(splits.val) if splits.val is not None else 0
    return {"seconds": opened, "peak_mb": peak, "files": len(splits.train) + held, "fingerprint_s": hashed}


def second(root: str, workers: int) -> dict[str, Any]:
    """The gap between the passes, over real batches of the loader."""
    from tessella.card import Preprocess
    from tessella.data.loading.loader import Loader, LoaderConfig
    from tessella.data.loading.pictures import Pictures
    from tessella.data.origins.open import open_data
    from tessella.data.source import DataConfig

    train = open_data(DataConfig(path=root)).train
    seen = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    batch = min(BATCH, len(train) // 8)
    last = len(train) // batch - 1  # the last step that lies in the first pass alone, or nearly
    stream = Loader(Pictures(train, seen), LoaderConfig(batch=batch, workers=workers)).batches(last - 4)
    gaps = []
    next(stream)
    for _ in range(10):
        began = time.perf_counter()
        next(stream)
        gaps.append(time.perf_counter() - began)
    stream.close()
    return {"longest_gap_s": max(gaps), "ordinary_gap_s": statistics.median(gaps)}


def child(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *words], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def forget() -> bool:
    """Throws the names of files out of memory; only root may."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def measure(root: Path, asked: argparse.Namespace) -> dict[str, Any]:
    print(f"making {asked.files:,} pictures ...", flush=True)
    fill(root, asked.files)
    figures: dict[str, Any] = {"files": asked.files, "warm": [child("--index", str(root)) for _ in range(asked.runs)]}
    figures["cold"] = child("--index", str(root)) if not asked.warm_only and forget() else None
    figures["second_pass"] = child("--second", str(root), "--workers", str(asked.workers))
    assert figures["warm"][0]["files"] == asked.files, "files were lost"
    return figures


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3, help="of the warm index")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--warm-only", action="store_true", help="leave the system's caches alone")
    parser.add_argument("--index", help=argparse.SUPPRESS)
    parser.add_argument("--second", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.index or asked.second:
        print(json.dumps(index(asked.index) if asked.index else second(asked.second, asked.workers)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(Path(temporary), asked)
    warm = statistics.median(run["seconds"] for run in figures["warm"])
    peak = max(run["peak_mb"] for run in figures["warm"])
    gap = figures["second_pass"]["longest_gap_s"]
    cold = figures["cold"]["seconds"] if figures["cold"] else None
    rows = [
        ["index, warm, s", warm],
        ["index, cold, s", cold],
        ["peak memory, MB", peak],
        ["second pass after, s", gap],
    ]
    record.table(["figure", "value"], rows)
    judged = [
        record.verdict("index of all files, seconds", cold if cold is not None else warm, TIME_BAR, False),
        record.verdict("peak memory of indexing, MB", peak, MEMORY_BAR, False),
        record.verdict("start of the second pass, seconds", gap, EPOCH_BAR, False),
    ]
    record.show(judged)
    record.keep(asked, "index", figures | {"verdicts": judged})


if __name__ == "__main__":
    main()
