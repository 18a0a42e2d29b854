"""Order and pixels are a pure function of (seed, step): equal over workers, ranks and restarts at any step."""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.card import Preprocess
from tessella.data.loading import pictures as pictures_file
from tessella.data.loading.ledger import Account, Ledger
from tessella.data.loading.loader import Loader, LoaderConfig, _close_streams, default_workers, once, share
from tessella.data.loading.order import Key
from tessella.data.loading.pictures import Pictures
from tessella.data.loading.quarantine import Bad, Quarantine
from tessella.data.loading.samples import Batch, Made, Spot
from tessella.data.origins.folder import open_folder, open_pictures
from tessella.data.pixels.augment import AugmentConfig
from tessella.data.pixels.finish import Finish
from tessella.data.source import Source
from tessella.errors import BadInput

PRE = Preprocess(size=(8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
COUNT = 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        place = root / ("cat" if i % 3 else "dog")
        place.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(place / f"{i:02}.png")
    return root


def pictures(folder: Path, seed: int = 0, augment: AugmentConfig | None = AugmentConfig()) -> Pictures:  # noqa: B008
    return Pictures(open_folder(folder, val_share=0).train, PRE, augment, seed)


def steps(dataset: Pictures, n: int, start: int = 0, **cfg: Any) -> list[Batch]:
    return list(itertools.islice(Loader(dataset, LoaderConfig(**cfg)).batches(start), n))


def equal(a: Batch, b: Batch) -> bool:
    return a["ids"] == b["ids"] and all(torch.equal(a[k], b[k]) for k in ("image", "label")) and a.keys() == b.keys()


def joined(parts: Sequence[Batch]) -> Batch:
    ids = [name for part in parts for name in part["ids"]]
    return {"ids": ids, **{k: torch.cat([part[k] for part in parts]) for k in ("image", "label")}}


@pytest.fixture(scope="module")
def sources(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """A folder, the same with a file that cannot be read, and the same as shards."""
    broken = tmp_path_factory.mktemp("broken") / "photos"
    shutil.copytree(folder, broken)
    (broken / "cat/05.png").write_bytes(b"<html>404</html>")
    (broken / "dog/09.png").write_bytes((folder / "dog/09.png").read_bytes()[:60])
    plain, holed = (open_folder(place, val_share=0).train for place in (folder, broken))
    chunks = np.repeat(np.arange(5), [3, 1, 4, 1, 4])
    return {"folder": plain, "holes": holed, "shards": replace(holed, chunks=chunks)}


def stream(source: Source, cfg: LoaderConfig, start: int, n: int) -> list[Batch]:
    quarantine = Quarantine(None, len(source), 1.0)
    batches = Loader(Pictures(source, PRE, AugmentConfig(), cfg.seed), cfg, quarantine).batches(start)
    return list(itertools.islice(batches, n))


KINDS = ("folder", "holes", "shards")
HOLES = {"cat/05.png", "dog/09.png"}


def same_for_all(source: Source, cfg: LoaderConfig, start: int, ranks: int) -> list[Batch]:
    """Asserts that steps `start` and the next hold the same, read from the start by one or from there by many."""
    want = stream(source, replace(cfg, workers=0), 0, start + 2)[start:]
    got = [stream(source, replace(cfg, rank=r, ranks=ranks), start, 2) for r in range(ranks)]
    for step in range(2):
        assert equal(want[step], joined([got[r][step] for r in range(ranks)]))
    return want


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 5),
    batch=st.integers(3, 30),  # also more than there are pictures
    start=st.integers(0, 40),
    ranks=st.integers(1, 3),
    balance=st.sampled_from(["none", "none", "classes", "root"]),
    repeats=st.integers(1, 2),
)
def test_a_step_is_a_pure_function_of_seed_and_number(
    sources: dict[str, Source], kind: str, seed: int, batch: int, start: int, ranks: int, balance: Any, repeats: int
) -> None:
    cfg = LoaderConfig(batch=batch, seed=seed, workers=0, balance=balance, repeats=repeats, window=2)
    seen = same_for_all(sources[kind], cfg, start, ranks)
    assert not HOLES & {name for b in seen for name in b["ids"]} or kind == "folder"


@pytest.mark.parametrize(
    ("kind", "workers", "ranks", "start"),
    [("folder", 1, 1, 7), ("holes", 3, 1, 0), ("shards", 2, 2, 5), ("shards", 3, 1, 11), ("holes", 2, 3, 4)],
)
def test_workers_see_the_same(sources: dict[str, Source], kind: str, workers: int, ranks: int, start: int) -> None:
    same_for_all(sources[kind], LoaderConfig(batch=5, seed=3, workers=workers, window=2), start, ranks)


def test_an_order_that_remembers_is_seen(sources: dict[str, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: a sampler that goes on from where it was, instead of from the step that is asked for."""
    honest = Loader._tasks
    monkeypatch.setattr(Loader, "_tasks", lambda self, start: honest(self, 0))
    with pytest.raises(AssertionError):
        same_for_all(sources["folder"], LoaderConfig(batch=5, workers=0), 3, 1)


def test_draws_of_a_worker_of_its_own_are_seen(sources: dict[str, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: augmentation from a generator that each process seeds for itself."""
    rng = np.random.default_rng()
    monkeypatch.setattr(pictures_file, "generator", lambda *key: rng)
    with pytest.raises(AssertionError):
        same_for_all(sources["folder"], LoaderConfig(batch=5, workers=1), 0, 1)


def test_a_hole_moves_nobody(sources: dict[str, Source]) -> None:
    cfg = LoaderConfig(batch=5, workers=0)
    for whole, holed in zip(stream(sources["folder"], cfg, 0, 9), stream(sources["holes"], cfg, 0, 9), strict=True):
        keep = [i for i, name in enumerate(whole["ids"]) if name not in HOLES]
        assert holed["ids"] == [whole["ids"][i] for i in keep]
        assert torch.equal(holed["image"], whole["image"][keep]) and torch.equal(holed["label"], whole["label"][keep])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_file_is_accounted_for(sources: dict[str, Source], tmp_path: Path, workers: int) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, COUNT, 0.2)
    loader = Loader(Pictures(sources["holes"], PRE), LoaderConfig(batch=4, workers=workers), quarantine)
    batches = loader.batches(0)
    used: list[str] = []
    while loader.stream is not None and loader.stream.ledger.last is None:
        used += next(batches)["ids"]
    assert str(loader.stream.ledger.last) == "epoch 1: 11 used + 2 quarantined = 13 files"
    assert set(used) | HOLES == set(sources["holes"].ids) and loader.figures() == {"quarantined": 2}
    assert loader.remarks(0.0) == ["epoch 1: 11 used + 2 quarantined = 13 files"] and loader.remarks(0.0) == []
    for _ in range(10):
        next(batches)
    assert {json.loads(line)["id"] for line in path.read_text().splitlines()} == HOLES
    assert len(path.read_text().splitlines()) == 2  # once, though every epoch met them
    batches.close()
    whole = once(Pictures(sources["holes"], PRE), 4, workers, quarantine=Quarantine(path, COUNT, 0.2, "val"))
    assert [len(b["ids"]) for b in whole] and (whole.ledger.used, whole.ledger.quarantined) == (11, 2)
    assert str(whole.ledger.last) == "epoch 1: 11 used + 2 quarantined = 13 files"


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 23),
    batch=st.integers(3, 40),
    ranks=st.integers(1, 3),
    start=st.integers(0, 20),
    repeats=st.integers(1, 2),
    holes=st.sets(st.integers(0, 22)),
)
def test_the_account_adds_up_on_every_rank_from_any_start(
    n: int, batch: int, ranks: int, start: int, repeats: int, holes: set[int]
) -> None:
    """Ledger.add compares; here, what the ranks count is all there is."""
    seen: list[dict[int, Account]] = []
    for rank in range(ranks):
        cfg = LoaderConfig(batch=batch, workers=0, rank=rank, ranks=ranks, repeats=repeats)
        loader, told = Loader(Patient(n), cfg), {}
        book = Ledger(loader.order.length)
        for task in itertools.islice(loader._tasks(start), 12):
            bad = {p: Bad(str(k.sample), "x") for p, k in enumerate(task.keys) if k.sample in holes}
            ids = [str(k.sample) for p, k in enumerate(task.keys) if p not in bad]
            told |= {account.epoch: account for account in book.add(Made(task, {"ids": ids}, bad), str)}
        seen.append(told)
    assert all(told.keys() == seen[0].keys() for told in seen)
    first, length = -(-start * batch // (n * repeats)), n * repeats
    for epoch in seen[0].keys() & set(range(first, 10**6)):
        accounts = [told[epoch] for told in seen]
        assert sum(a.used + a.quarantined for a in accounts) == length
        assert sum(a.quarantined for a in accounts) == repeats * len(holes & set(range(n)))
        assert all(a.whole for a in accounts) or ranks > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_pictures_end_the_stream(sources: dict[str, Source], workers: int) -> None:
    loader = Loader(Pictures(sources["holes"], PRE), LoaderConfig(batch=4, workers=workers), Quarantine(None, 13, 0.1))
    with pytest.raises(BadInput, match=r"2 of 13 train pictures cannot be read, above --max-bad 0\.1"):
        for _ in loader.batches(0):
            pass


def test_what_another_rank_found_counts_at_the_end_of_an_epoch(sources: dict[str, Source], tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    mine = Quarantine(path, 13, 0.1)
    batches = Loader(Pictures(sources["folder"], PRE), LoaderConfig(batch=13, workers=0), mine).batches(0)
    for i in range(2):
        Quarantine(path, 13, 1.0).add(Bad(f"{i}.png", "x"))
    with pytest.raises(BadInput, match="2 of 13"):
        next(batches)


def test_a_file_that_kills_is_in_the_list(tmp_path: Path) -> None:
    class Deadly(Patient):
        def sample(self, key: Key) -> dict[str, Any]:
            if key.sample == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().sample(key)

    quarantine = Quarantine(tmp_path / "q.jsonl", 8, 0.2)
    first = list(itertools.islice(Loader(Deadly(8), LoaderConfig(batch=4, workers=2), quarantine).batches(0), 4))
    assert sorted(name for b in first for name in b["ids"]) == sorted([*"0124567"] * 2)
    assert "3 kills the process that decodes it" in (tmp_path / "q.jsonl").read_text()
    resumed = Quarantine(tmp_path / "q.jsonl", 8, 0.2)  # in the main process, which would die of it
    again = list(itertools.islice(Loader(Deadly(8), LoaderConfig(batch=4, workers=0), resumed).batches(0), 4))
    assert [b["ids"] for b in again] == [b["ids"] for b in first]
    with pytest.raises(BadInput, match="3 kills"):
        list(itertools.islice(Loader(Deadly(8), LoaderConfig(batch=4, workers=2)).batches(0), 4))


def test_the_comparison_can_fail(folder: Path) -> None:
    data = pictures(folder)
    one = steps(data, 1, batch=5, workers=0)[0]
    assert not equal(one, steps(data, 1, batch=5, seed=1, workers=0)[0])  # another order
    other = steps(pictures(folder, seed=1), 1, batch=5, workers=0)[0]  # other views
    assert other["ids"] == one["ids"] and not torch.equal(other["image"], one["image"])


def test_every_epoch_holds_every_sample_once_in_a_new_order(folder: Path) -> None:
    data = pictures(folder)
    stream = joined(steps(data, 3 * COUNT, batch=3, workers=0))["ids"]
    epochs = [stream[i * COUNT : (i + 1) * COUNT] for i in range(9)]
    assert all(sorted(epoch) == sorted(data.source.ids) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 9


def test_views_change_with_the_epoch_unless_there_is_no_augmentation(folder: Path) -> None:
    first, second = steps(pictures(folder), 2, batch=COUNT, workers=0)
    back = [second["ids"].index(name) for name in first["ids"]]
    assert not torch.equal(first["image"], second["image"][back])
    first, second = steps(pictures(folder, augment=None), 2, batch=COUNT, workers=0)
    assert torch.equal(first["image"], second["image"][[second["ids"].index(name) for name in first["ids"]]])


def test_labels_belong_to_their_pictures(folder: Path) -> None:
    batch = steps(pictures(folder), 1, batch=COUNT, workers=1)[0]
    assert batch["label"].tolist() == [["cat", "dog"].index(name.split("/")[0]) for name in batch["ids"]]
    assert batch["image"].shape == (COUNT, 3, 8, 8) and batch["image"].dtype == torch.uint8


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [1, 4, 13, 50])
def test_once_reads_each_sample_once_in_order_and_in_step(folder: Path, ranks: int, batch: int) -> None:
    data = pictures(folder, augment=None)
    passes = [list(once(data, batch, workers=0, rank=r, ranks=ranks)) for r in range(ranks)]
    assert len({len(p) for p in passes}) == 1  # ranks that exchange weights in a forward must call it equally often
    assert joined([b for p in passes for b in p])["ids"] == data.source.ids
    assert all(len(b["ids"]) == len(b["image"]) <= batch for p in passes for b in p)


def test_once_with_workers_and_without_labels(folder: Path) -> None:
    data = Pictures(open_pictures([folder]).source, PRE)
    here, there = list(once(data, 4, workers=0)), list(once(data, 4, workers=2))
    assert [b["ids"] for b in here] == [b["ids"] for b in there] and "label" not in here[0]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_picture_stops_the_run_in_one_line(folder: Path, tmp_path: Path, workers: int) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name / "good.png")
    (tmp_path / "b/bad.jpg").write_bytes(b"<html>404</html>")
    with pytest.raises(BadInput, match=r"b/bad\.jpg") as caught:
        steps(pictures(tmp_path), 4, batch=2, workers=workers)
    assert "\n" not in str(caught.value) and "HTML" in str(caught.value)


class Patient:
    """A dataset that takes its time; a batch tells who made it."""

    labels = chunks = None
    paired = False

    def __init__(self, n: int = 1000) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def name(self, sample: int) -> str:
        return str(sample)

    def megapixels(self) -> float | None:
        return None

    def ready(self) -> None:
        pass

    def sample(self, key: Key) -> dict[str, Any]:
        time.sleep(0.02)
        return {"ids": str(key.sample)}

    def collate(self, samples: Sequence[dict[str, Any]], spots: Sequence[Spot]) -> Batch:
        return {"ids": [s["ids"] for s in samples], "pid": os.getpid(), "threads": torch.get_num_threads()}


def test_workers_outlive_a_signal_to_the_group_and_end_with_the_iterator() -> None:
    batches = Loader(Patient(), LoaderConfig(batch=1, workers=2)).batches(0)
    seen = [next(batches) for _ in range(4)]
    workers = {b["pid"] for b in seen}
    assert len(workers) == 2 and os.getpid() not in workers and {b["threads"] for b in seen} == {1}
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert {next(batches)["pid"] for _ in range(20)} == workers
    batches.close()
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_open_streams_are_closed_when_python_leaves() -> None:
    kept = Loader(Patient(), LoaderConfig(batch=1, workers=1)).batches(0)
    worker = next(kept)["pid"]
    _close_streams()  # registered to run at exit
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert next(kept, None) is None


LEAVING = """
import os, signal
from tests_of_loader import Patient
from tessella.data.loading import pictures as pictures_file
from tessella.data.loading.ledger import Account, Ledger
from tessella.data.loading.loader import Loader, LoaderConfig
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
kept = Loader(Patient(), LoaderConfig(batch=1, workers=2)).batches(0)
print(*{next(kept)["pid"] for _ in range(4)}, flush=True)
while not asked:
    next(kept)
print(next(kept)["pid"], flush=True)
raise SystemExit(143)
"""


def test_leaving_with_an_open_stream_is_quick_and_quiet(tmp_path: Path) -> None:
    """A signal to the whole group: the main process still gets a batch, and leaves neither noise nor processes."""
    lines = Path(__file__).read_text().split("class Patient:")[1].split("\n\n\n")[0]
    head = "import os, time, torch\nfrom typing import Any\nfrom collections.abc import Sequence\nBatch = dict\n"
    head += "Key = Spot = object\n"
    (tmp_path / "tests_of_loader.py").write_text(f"{head}\nclass Patient:{lines}\n")
    run = subprocess.Popen(
        [sys.executable, "-c", LEAVING],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    workers = [int(pid) for pid in run.stdout.readline().split()]
    began = time.monotonic()
    os.killpg(run.pid, signal.SIGTERM)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 143 and int(out) in workers and err == ""
    assert time.monotonic() - began < 15
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_global_generators_are_left_alone(folder: Path) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    steps(pictures(folder), 2, batch=4, workers=0)
    steps(pictures(folder), 2, batch=4, workers=1)
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


def test_shares_cut_everything_once() -> None:
    for total, ranks in itertools.product((0, 1, 5, 12), (1, 2, 5)):
        parts = [share(total, r, ranks) for r in range(ranks)]
        assert [i for part in parts for i in part] == list(range(total))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "bad", [{"batch": 1, "ranks": 2}, {"batch": 4, "rank": 2, "ranks": 2}, {"batch": 1, "prefetch": 0}]
)
def test_impossible_loaders_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        LoaderConfig(**bad)


def test_default_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for cores, ranks, want in ((1, 1, 1), (2, 1, 1), (8, 1, 4), (8, 2, 2), (64, 1, 8), (2, 2, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert default_workers(ranks) == want


def test_finish_normalises_as_everybody_does_and_passes_the_rest(folder: Path) -> None:
    from torchvision import transforms

    batch = steps(pictures(folder), 1, batch=4, workers=0)[0]
    kept = batch["image"].clone()
    finish = Finish(PRE)
    out = finish(batch)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(PRE.mean, PRE.std)])
    want = torch.stack([theirs(image.permute(1, 2, 0).numpy()) for image in kept])
    assert torch.equal(out["image"], want) and torch.equal(batch["image"], kept)
    assert out["ids"] is batch["ids"] and out["label"] is batch["label"]
    assert finish.pixels(kept[:, None]).shape == (4, 1, 3, 8, 8) and not finish.state_dict()
    with pytest.raises(TypeError, match="uint8"):
        finish(out)


@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_are_the_same(monkeypatch: pytest.MonkeyPatch, sources: dict[str, Source], workers: int) -> None:
    """Here without a GPU: what it is asked for is put in its place."""
    pinned: list[int] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: pinned.append(device))
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    cfg = LoaderConfig(batch=5, workers=workers)
    want, got = (stream(sources["holes"], replace(cfg, pin=pin), 2, 6) for pin in (False, True))
    assert all(equal(a, b) for a, b in zip(want, got, strict=True)) and set(pinned) == {3}
    with pytest.raises(BadInput, match="remove it or replace it"):
        for _ in Loader(Pictures(sources["holes"], PRE), replace(cfg, pin=True)).batches(0):
            pass


def test_workers_end_with_their_reader(folder: Path) -> None:
    """Not when the garbage collector comes by: a loader knows its newest stream, but does not keep it."""
    gc.disable()
    try:
        loader = Loader(Patient(), LoaderConfig(batch=1, workers=1))
        batches = loader.batches(0)
        pid = next(batches)["pid"]
        assert loader.stream is batches
        del batches
        assert loader.stream is None and loader.remarks(0.5) == []
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        gc.enable()
