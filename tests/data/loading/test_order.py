"""The order is a pure function of (seed, position), whatever the layout; every epoch holds what it should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.loading.order import Balanced, Key, Order, OrderConfig, Rows, make_order
from tessella.data.loading.seeded import generator
from tessella.errors import BadInput

MILLION = 1_000_000


@st.composite
def orders(draw: st.DrawFn) -> Callable[[], Order]:
    """The same order, made anew whenever it is called."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    labels = rng.integers(0, draw(st.integers(1, 5)), n)
    chunks = np.sort(rng.integers(0, draw(st.integers(1, 9)), n)) if draw(st.booleans()) else None
    cfg = OrderConfig(
        seed=draw(st.integers(0, 3)),
        balance=draw(st.sampled_from(["none", "none", "classes", "root"])),
        repeats=draw(st.integers(1, 3)),
        window=draw(st.integers(1, 4)),
    )
    return lambda: make_order(n, cfg, labels, chunks)


@settings(max_examples=150, deadline=None)
@given(orders(), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=6))
def test_any_stretch_is_the_walk_from_the_start(make: Callable[[], Order], stretches: list[tuple[int, int]]) -> None:
    walk = make().keys(0, 240)
    order = make()
    for start, length in stretches:  # in any succession, also backwards
        assert order.keys(start, start + length) == walk[start : start + length]
        assert make().at(start) == walk[start]


@settings(max_examples=100, deadline=None)
@given(orders())
def test_an_epoch_draws_nothing_twice_and_the_next_is_another(make: Callable[[], Order]) -> None:
    order = make()
    for epoch in range(3):
        keys = order.keys(epoch * order.length, (epoch + 1) * order.length)
        assert {k.epoch for k in keys} == {epoch} and len(set(keys)) == len(keys) == order.length


def stateful() -> Order:
    """The mutation: a generator that goes on where it stopped, as a sampler with a state does."""
    rng = np.random.default_rng(0)

    class Walking:
        length = 10

        def rows(self, epoch: int, start: int, stop: int) -> Rows:
            return Rows(rng.permutation(10)[start:stop], np.zeros(stop - start, dtype=np.int64))

    return Order(Walking())


def test_an_order_with_a_state_is_seen() -> None:
    walk, order = stateful().keys(0, 40), stateful()
    assert any(order.at(p) != walk[p] for p in (7, 3, 21))


def test_plain_order_is_what_it_was_in_older_runs() -> None:
    """Bit for bit: a run of the first version goes on with the same pictures."""
    for n in (1, 2, 13, 1000):
        order = make_order(n, OrderConfig(seed=5))
        for epoch in (0, 1, 7):
            was = generator(5, "order", epoch).permutation(n).tolist()
            assert order.keys(epoch * n, (epoch + 1) * n) == [Key(epoch, i, 0) for i in was]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=9),
    window=st.integers(1, 4),
    seed=st.integers(0, 3),
    mix=st.booleans(),
)
def test_chunks_are_read_window_by_window(sizes: list[int], window: int, seed: int, mix: bool) -> None:
    chunks = np.repeat(np.arange(len(sizes)) * 7, sizes)
    if mix:  # samples of a chunk need not stand together in the source
        chunks = np.random.default_rng(0).permutation(chunks)
    order = make_order(len(chunks), OrderConfig(seed=seed, window=window), chunks=chunks)
    for epoch in range(2):
        keys = order.keys(epoch * order.length, (epoch + 1) * order.length)
        assert sorted(k.sample for k in keys) == list(range(len(chunks)))
        seen: list[set[int]] = []
        at = 0
        while at < len(keys):  # the chunks of a window come to an end before the next begins
            here = {int(chunks[keys[at].sample])}
            stop = at
            while True:
                total = sum(int((chunks == c).sum()) for c in here)
                now = {int(chunks[k.sample]) for k in keys[at : at + total]}
                if now == here:
                    stop = at + total
                    break
                here |= now
            assert len(here) <= window and not any(here & other for other in seen)
            seen.append(here)
            at = stop


def test_chunks_and_samples_are_shuffled_anew() -> None:
    chunks = np.repeat(np.arange(20), 50)
    order = make_order(1000, OrderConfig(window=4), chunks=chunks)
    one, two = ([k.sample for k in order.keys(e * 1000, e * 1000 + 1000)] for e in (0, 1))
    assert one != two and list(dict.fromkeys(chunks[one])) != list(dict.fromkeys(chunks[two]))
    assert len(set(chunks[one[:100]])) == 4  # mixed within a window, not chunk after chunk


@pytest.mark.parametrize(("how", "shares"), [("classes", [1 / 3] * 3), ("root", [30 / 41, 10 / 41, 1 / 41])])
def test_rare_classes_come_more_often(how: str, shares: list[float]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([4, 7, 9], [900, 100, 1]))
    order = make_order(1001, OrderConfig(balance=how), labels)  # type: ignore[arg-type]
    assert order.length == 1001
    first, second = order.keys(0, 1001), order.keys(1001, 2002)
    for keys in (first, second):
        counts = Counter(int(labels[k.sample]) for k in keys)
        assert [counts[c] for c in (4, 7, 9)] == pytest.approx([1001 * s for s in shares], abs=1)
        per_sample = Counter(k.sample for k in keys)
        for c in (4, 7, 9):  # evenly: no sample of a class twice more than another
            times = [per_sample[i] for i in np.flatnonzero(labels == c)]
            assert max(times) - min(times) <= 1
        turns = sorted(k.turn for k in keys if labels[k.sample] == 9)
        assert turns == list(range(len(turns)))
    assert {k.sample for k in first} != {k.sample for k in second}  # of the common class, others


def test_balanced_classes_are_spread_over_the_epoch() -> None:
    labels = np.repeat([0, 1], [990, 10])
    keys = make_order(1000, OrderConfig(balance="classes"), labels).keys(0, 1000)
    halves = [sum(int(labels[k.sample]) for k in part) for part in (keys[:500], keys[500:])]
    assert sum(halves) == 500 and min(halves) > 200


def test_quotas_add_up_whatever_the_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = np.concatenate([np.arange(40), rng.zipf(1.5, rng.integers(1, 500)) % 40])
        for how in ("classes", "root"):
            quota = Balanced(labels, how, 0).quota  # type: ignore[arg-type]
            assert quota.sum() == len(labels) and quota.min() >= 1


@pytest.mark.parametrize("repeats", [2, 3])
@pytest.mark.parametrize("n", [6, 7])
def test_repeats_stand_near_each_other_and_never_in_a_pair(repeats: int, n: int) -> None:
    order = make_order(n, OrderConfig(repeats=repeats))
    assert order.length == n * repeats
    keys = order.keys(0, order.length)
    assert Counter(k.sample for k in keys) == dict.fromkeys(range(n), repeats)
    assert all(sorted(k.turn for k in keys if k.sample == i) == list(range(repeats)) for i in range(n))
    for i in range(n):
        places = [p for p, k in enumerate(keys) if k.sample == i]
        assert places[-1] - places[0] <= 2 * repeats - 2
    pairs = [(keys[p], keys[p ^ 1]) for p in range(0, order.length - repeats * (n % 2), 2)]
    assert all(a.sample != b.sample for a, b in pairs)
    assert [k.sample for k in make_order(n, OrderConfig()).keys(0, n)][-1] == keys[-1].sample


def test_balanced_and_repeated_draws_differ() -> None:
    order = make_order(9, OrderConfig(balance="classes", repeats=3), np.array([0] * 8 + [1]))
    keys = order.keys(0, 27)
    assert len(set(keys)) == 27


def test_a_million_samples_and_a_position_far_away() -> None:
    """Found without walking there, by every layout; how fast is measured by bench/index.py."""
    labels = np.random.default_rng(0).integers(0, 1000, MILLION)
    chunks = np.repeat(np.arange(100), MILLION // 100)
    for order in (
        make_order(MILLION, OrderConfig()),
        make_order(MILLION, OrderConfig(repeats=2)),
        make_order(MILLION, OrderConfig(balance="root"), labels),
        make_order(MILLION, OrderConfig(), chunks=chunks),
    ):
        keys = order.keys(order.length - 100, order.length + 156)  # the last of an epoch and the first of the next
        assert [key.epoch for key in keys] == [0] * 100 + [1] * 156
        assert order.at(10**15).epoch == 10**15 // order.length


def test_few_layouts_are_kept() -> None:
    order = make_order(3, OrderConfig())
    order.keys(0, 300)
    assert len(order.epochs._known.kept) <= 2  # type: ignore[attr-defined]
    wide = make_order(MILLION, OrderConfig())
    assert wide.epochs.rows(0, 0, 1).samples.dtype == np.int32


def test_impossible_orders_are_refused() -> None:
    with pytest.raises(BadInput, match="no samples"):
        make_order(0, OrderConfig())
    with pytest.raises(BadInput, match="no class labels"):
        make_order(3, OrderConfig(balance="root"))
    for bad in ({"repeats": 0}, {"window": 0}):
        with pytest.raises(BadInput):
            OrderConfig(**bad)
