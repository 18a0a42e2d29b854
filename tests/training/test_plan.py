"""Which cut of a step fits: found with few measurements, never above the limit, and no smaller than it must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from tessella.errors import BadInput
from tessella.training import memory
from tessella.training.plan import Change, Measured, following, largest, search

GB = 10**9


def tries(peak: Callable[[int], int], usable: int, most: int, dies: int | None = None) -> list[Measured]:
    measured: list[Measured] = []
    while (micro := following(measured, usable, most)) is not None:
        measured.append(Measured(micro, None if dies is not None and micro >= dies else peak(micro)))
    return measured


def line(each: float, start: float = 0.7e9) -> Callable[[int], int]:
    return lambda micro: int(start + each * micro)


@pytest.mark.parametrize("most", [1, 7, 64, 100, 4096])
@pytest.mark.parametrize("usable", [0.8 * GB, 1.5 * GB, 20 * GB])
@pytest.mark.parametrize("each", [1e4, 3e6, 40e6])
def test_the_largest_that_fits(most: int, usable: float, each: float) -> None:
    measured = tries(line(each), int(usable), most)
    found = largest(measured, int(usable))
    assert found is not None and len(measured) <= 9
    fits = min(most, int((usable - 0.7e9) / each))
    parts = -(-most // fits)
    assert -(-most // found.micro) <= parts * 1.3 + 1, "far smaller than it must be"
    assert found.micro <= fits


def test_pools_that_make_small_sizes_look_free() -> None:
    """An allocator that takes memory in large pieces: the first sizes say nothing of the later ones."""
    measured = tries(lambda n: 700_000_000 + (n * 10_000_000 // 256_000_000) * 256_000_000, 3 * GB, 1024)
    found = largest(measured, 3 * GB)
    assert found is not None and 100 <= found.micro <= 230


def test_one_that_dies_is_the_last() -> None:
    measured = tries(line(1e6), 100 * GB, 64, dies=16)
    assert measured[-1] == Measured(64, None) or measured[-1].peak is None
    assert largest(measured, 100 * GB) == max(m for m in measured if m.peak is not None)
    assert largest([], GB) is None


def ways(*each: float) -> tuple[list[Change], Callable[[Change], Sequence[Measured]], list[int]]:
    asked: list[int] = []

    def measure(change: Change) -> Sequence[Measured]:
        asked.append(change["way"])
        return tries(line(each[change["way"]]), int(0.9 * GB), 64)

    return [{"way": i} for i in range(len(each))], measure, asked


@pytest.mark.parametrize(
    ("each", "chosen", "tried"),
    [
        ((2e6, 1e6), 0, [0]),  # 64 at once: no other way is looked at
        ((20e6, 18e6), 0, [0, 1]),  # 10 at once are good enough ... (9 measured)
        ((60e6, 10e6), 1, [0, 1]),  # 3 against 20
        ((60e6, 40e6), 0, [0, 1]),  # not worth a third more time
        ((500e6, 30e6), 1, [0, 1]),
        ((500e6, 300e6, 5e6), 2, [0, 1, 2]),
    ],
)
def test_the_cheapest_way_that_is_good(each: tuple[float, ...], chosen: int, tried: list[int]) -> None:
    changes, measure, asked = ways(*each)
    plan = search(measure, changes, int(0.9 * GB), 64).plan
    assert plan is not None and plan.change["way"] == chosen
    assert asked == tried or asked == tried[:1]


def test_a_last_resort_is_only_for_what_fits_in_no_other_way() -> None:
    changes, measure, asked = ways(150e6, 160e6, 1e6)
    plan = search(measure, changes[:2], int(0.9 * GB), 64, changes[2:]).plan
    assert plan is not None and plan.change["way"] == 0 and asked == [0, 1], (
        "one picture at a time is slow, but it learns"
    )
    changes, measure, asked = ways(500e6, 400e6, 1e6)
    plan = search(measure, changes[:2], int(0.9 * GB), 64, changes[2:]).plan
    assert plan is not None and plan.change["way"] == 2 and asked == [0, 1, 2]


def test_nothing_fits_and_how_much_would() -> None:
    changes, measure, _ = ways(500e6, 300e6)
    tried = search(measure, changes, int(0.9 * GB), 64)
    assert tried.plan is None and tried.least == 1_000_000_000


# -- sizes and limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * GB),
        ("8 gb", 8 * GB),
        ("2GiB", 2 << 30),
        ("500M", 5 * 10**8),
        ("1.5e9", 1_500_000_000),
        ("64kb", 64000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert memory.read_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "8XB", "-1GB", "0", "1.2.3GB", "GB", "inf"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadInput, match="such as 8GB"):
        memory.read_size(text)


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_group_counts(version: int, tmp_path: Path) -> None:
    """Limits of all groups above this process hold; what cached files occupy can be taken."""
    top = tmp_path / ("memory" if version == 1 else "")
    size, used = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    )
    told = {"": (str(8 * GB), 3 * GB), "a": (str(4 * GB), 2 * GB), "a/b": ("max" if version == 2 else str(1 << 62), GB)}
    for place, (limit, taken) in told.items():
        (top / place).mkdir(parents=True, exist_ok=True)
        (top / place / size).write_text(limit)
        (top / place / used).write_text(str(taken))
        prefix = "total_" if version == 1 else ""
        (top / place / "memory.stat").write_text(f"anon 5\n{prefix}active_file 100\n{prefix}inactive_file 200\n")
    (tmp_path / "own").write_text(f"7:cpu:/else\n{'4:memory:' if version == 1 else '0::'}/a/b\n")
    assert memory._group(tmp_path, tmp_path / "own").bytes == 2 * GB + 300


def test_without_groups_the_machine_counts() -> None:
    found = memory.available(torch.device("cpu"))
    assert 10**8 < found.bytes < 1 << 50 and found.why
