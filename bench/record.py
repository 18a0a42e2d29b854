"""What every measurement leaves behind: a table on the screen, and a JSON file that says where and when it was made.

A result names its command, the commit (and whether the tree differed from it), the machine and the versions, so that a
row of docs/status.md can be checked or made again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
sys.path.insert(0, str(ROOT))  # what is measured is the tree that this file lies in
STARTED = os.getloadavg()[0]  # of the minute before: 2 cores at 2.0 mean that others were at work
PACKAGES = ("torch", "torchvision", "timm", "transformers", "accelerate", "numpy")


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that all commands share."""
    out = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where NAME.json goes")
    out.add_argument("--name", default=None, help="stem of the JSON file; default: the name of the command")
    return out


def keep(asked: argparse.Namespace, name: str, figures: Mapping[str, Any]) -> Path:
    """Writes the file and says where it lies."""
    told = {
        "command": " ".join(["python", *_shown(sys.argv)]),
        "commit": commit(),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "figures": dict(figures),
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    path: Path = asked.out / f"{asked.name or name}.json"
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Left-aligned names, right-aligned figures."""
    text = [[_cell(value) for value in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in text) for i in range(len(head))]
    for number, row in enumerate(text):
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("-" * w for w in widths))


def verdict(what: str, figure: float, bar: float, at_least: bool) -> dict[str, Any]:
    """One bar: what was asked, what was reached."""
    return {
        "what": what,
        "figure": figure,
        "bar": bar,
        "at_least": at_least,
        "reached": figure >= bar if at_least else figure <= bar,
    }


def show(verdicts: Sequence[Mapping[str, Any]]) -> None:
    print()
    for v in verdicts:
        sign, word = (">=" if v["at_least"] else "<="), ("reached" if v["reached"] else "MISSED")
        print(f"{word:<8} {v['what']}: {v['figure']:.4g} (asked {sign} {v['bar']:g})")


def commit() -> str | None:
    return _git("rev-parse", "HEAD")


def hardware() -> dict[str, Any]:
    """Reads files only; the device is told by whoever uses one."""
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return {
        "cpu": facts.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "bf16": bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
        "vnni": bool(flags & {"avx512_vnni", "avx_vnni"}),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(STARTED, 2),
        "system": f"{platform.system()} {platform.machine()}",
    }


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shown(words: Sequence[str]) -> list[str]:
    """No path of this machine in a file that is kept: below the repository relative, elsewhere the last part."""
    out: list[str] = []
    for word in words:
        if out and out[-1] == "--out":
            out.pop()  # where the file went says nothing about the figure
            continue
        path = Path(word)
        if path.is_absolute():
            word = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        out.append(word)
    return out


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
