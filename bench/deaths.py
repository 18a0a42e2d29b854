"""A training run killed at random instants, and at the file operations of its saves, ends with the undisturbed weights.

The run: `tessella train` on 42 small pictures with two workers, augmentation, dropout, averaged weights, accumulation;
8 steps (40 where the instant is random), a state every second. After each death every state and model that can be seen
is checked, the run is gone on with, and the bytes of its model and its last state are compared with those of the run
that nobody disturbed.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record

sys.path.insert(0, str(record.ROOT / "tests"))

import interrupted as trials  # the same cuts as in the tests, only more of them

MEMORY = "/dev/shm"  # temporary files on another file system than the run
Row = tuple[str, int, int, float]  # what was done, how often, how often without a trace, seconds


def instants(place: Path, count: int) -> tuple[Row, list[int]]:
    """Real processes, the whole group killed; also the newest state that each death left."""
    began = time.perf_counter()
    trial = trials.Trial(place, steps=40, fresh=True).prepare()  # longer: most instants then fall between two saves
    found = list(trials.at_instants(trial, count, seed=0))
    row = ("SIGKILL at a random instant", len(found), sum(same for same, _ in found), time.perf_counter() - began)
    return row, [step for _, step in found]


def measured(what: str, tried: int, act: Callable[[], int]) -> Row:
    began = time.perf_counter()
    return what, tried, act(), time.perf_counter() - began


def operations(trial: trials.Trial, every: bool) -> list[Row]:
    done = trials.operations(trial)
    numbers = list(range(1, len(done) + 1)) if every else trials.turning_points(done)
    save = trials.one_save(done)
    of_save = sorted(set(save) & set(numbers))
    rows = [
        measured("SIGKILL at an operation of the run", len(numbers), lambda: trials.at_operations(trial, numbers)),
        measured("of one save, TMPDIR elsewhere", len(of_save), lambda: trials.at_operations(trial, of_save, MEMORY)),
    ]
    some = random.Random(0).sample(save, 10)
    fewer = lambda: sum(trials.at_operation(trial, n, ("--workers", "1")) for n in some)  # noqa: E731
    return [*rows, measured("gone on with 1 worker instead of 2", len(some), fewer)]


def stops(trial: trials.Trial) -> Row:
    def act() -> int:
        found = [trials.terminated(trial, whom) for whom in ("process", "group") * 3]
        return sum(done.code == 143 and same for done, _, same in found)

    return measured("SIGTERM: state saved, exit code 143", 6, act)


def mutation(trial: trials.Trial) -> bool:
    """Whether views that depend on the process are seen as another result."""
    run = trial.folder()
    trial.begin(run, trials.seeded_by_process).wait()
    return trials.files_of(run) != trial.expected


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--instants", type=int, default=20)
    parser.add_argument("--every", action="store_true", help="also each of the writes that follow each other in a file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".deaths-") as folder:
        row, newest = instants(Path(folder) / "instants", asked.instants)
        trial = trials.Trial(Path(folder) / "operations").prepare()
        rows = [row, *operations(trial, asked.every), stops(trial)]
        seen = mutation(trial)
    record.table(("what", "tried", "no trace", "seconds"), rows)
    shares = [record.verdict(what, good / tried, 1.0, at_least=True) for what, tried, good, _ in rows]
    verdicts = [*shares, record.verdict("the mutation is seen", float(seen), 1.0, at_least=True)]
    record.show(verdicts)
    names = ("what", "tried", "no_trace", "seconds")
    figures: dict[str, Any] = {"rows": [dict(zip(names, r, strict=True)) for r in rows], "verdicts": verdicts}
    record.keep(asked, "deaths", figures | {"newest_state_at_death": newest, "every_write": asked.every})
    if not all(v["reached"] for v in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()
