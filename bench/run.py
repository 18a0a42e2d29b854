"""The measured claims of this project: what each command proves, when it was last run, and what it found.

`python bench/run.py` lists them, `python bench/run.py step start` runs these, `python bench/run.py all` runs all.
Nothing else should be at work on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMANDS = (
    "matmul",
    "attention",
    "step",
    "start",
    "demo",
    "two_ranks",
    "deaths",
    "loader",
    "index",
    "shards",
    "planted",
    "report",
    "loading",
    "hostile",
    "cifar",
    "dry_run",
    "flowers",
    "rivals",
    "pretrain",
    "masked",
    "crops",
)  # in the order of `all`


def claim(name: str) -> str:
    """The first line of the file."""
    return (ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))) or "").split("\n")[0]


def last(name: str) -> str:
    path = HERE / "results" / f"{name}.json"
    if not path.is_file():
        return "not measured yet"
    found = json.loads(path.read_text(encoding="utf-8"))
    judged = found.get("figures", {}).get("verdicts", [])
    missed = [v["what"] for v in judged if not v["reached"]]
    verdict = f"; missed: {', '.join(missed)}" if missed else "; all bars reached" if judged else ""
    changed = " with changes" if found.get("dirty") else ""
    return f"{str(found.get('when'))[:10]}, commit {str(found.get('commit'))[:7]}{changed}{verdict}"


def main() -> None:
    there = [name for name in COMMANDS if (HERE / f"{name}.py").is_file()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or of: {', '.join(there)}")
    names = parser.parse_args().names
    unknown = [name for name in names if name not in (*there, "all")]
    if unknown:
        parser.error(f"no command {', '.join(unknown)}; there are {', '.join(there)}")
    if not names:
        for name in there:
            print(f"python bench/{name}.py\n    {claim(name)}\n    {last(name)}")
        print("\nEach takes --help. `python bench/run.py all` runs them one after the other, on a quiet machine.")
        return
    failed = []
    for name in there if "all" in names else names:
        print(f"\n== {name}: {claim(name)}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{name}.py")]).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
