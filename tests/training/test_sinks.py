"""Sinks tell what log.jsonl tells, each row once, read back with each package's own format; none can stop a run."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import Toy, toy_batches

from tessella.errors import Diverged
from tessella.training import Job, TrainConfig, log, sinks, train
from tessella.training.sink_process import Mark, figures
from tessella.training.sinks import PROGRAM, Sinks

Told = dict[str, list[tuple[int, float]]]  # figure -> (step, value), in the order of telling
CFG: dict[str, Any] = {"steps": 8, "batch": 12, "warmup": 2, "precision": "fp32", "log_every": 1, "device": "cpu"}
CFG |= {"save_every": 4, "evaluate_every": 3}


class Dies(Exception):
    """A training that ends in the middle."""


class Mortal(Toy):
    """Dies in its n-th step, after the rows of those before."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def before_step(self, progress: float) -> None:
        self.left -= 1
        if self.left < 0:
            raise Dies


def run(folder: Path, *names: str, mortal: int = 99, **more: Any) -> list[float]:
    """Losses by step. The validation figure is another each time, so that a row told twice would show."""
    job = Job(folder=folder, evaluate=lambda infer: {"top1": 0.25})
    torch.manual_seed(0)
    done = train(TrainConfig(**CFG | more, sinks=names), Mortal(mortal), toy_batches(), job)  # type: ignore[arg-type]
    return [row["loss"] for row in done.history if "loss" in row]


def logged(folder: Path) -> Told:
    """What log.jsonl holds, by figure."""
    out: Told = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        for key, value in figures(row).items():
            out.setdefault(key, []).append((row["step"], value))
    return out


# -- reading back, with the packages' own formats ---------------------------------------------------------------------


def of_tensorboard(folder: Path) -> Told:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    read = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "tensors": 0})
    read.Reload()
    tags = read.Tags()
    out: Told = {key: [(e.step, e.value) for e in read.Scalars(key)] for key in tags["scalars"]}
    for key in tags["tensors"]:
        if not key.startswith(("config", "notes", "_hparams_")):
            out[key] = [(e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in read.Tensors(key)]
    return out


def records(path: Path) -> Iterator[bytes]:
    """Of a .wandb file: the log format of LevelDB, in blocks of 32 KiB after 7 bytes of its own."""
    held, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(held):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(held[at + 4 : at + 6], "little"), held[at + 6]
        whole += held[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def of_wandb(folder: Path) -> Told:
    from wandb.proto import wandb_internal_pb2

    out: Told = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for held in records(file):
            record = wandb_internal_pb2.Record.FromString(held)
            if record.WhichOneof("record_type") == "history":
                row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                for key, value in row.items():
                    if not key.startswith("_"):
                        out.setdefault(key, []).append((record.history.step.num, value))
    return out


def of_trackio(folder: Path) -> Told:
    out: Told = {}
    with sqlite3.connect(folder.parent / "trackio" / "tessella.db") as data:
        for step, metrics in data.execute("select step, metrics from metrics order by id"):
            for key, value in json.loads(metrics).items():
                out.setdefault(key, []).append((step, value))
    return out


READ: dict[str, Callable[[Path], Told]] = {"tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio}


def same(a: Told, b: Told) -> bool:
    """Event files hold 32-bit floats."""
    if a.keys() != b.keys():
        return False
    pairs = [(x, y) for key in a for x, y in zip(a[key], b[key], strict=False)]
    return all(len(a[k]) == len(b[k]) for k in a) and all(
        x[0] == y[0] and x[1] == pytest.approx(y[1], rel=1e-6) for x, y in pairs
    )


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody is logged in, and what the packages keep for themselves stays in the test's folder."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setattr(sinks, "CLOSING", 60.0)  # of a busy machine
    monkeypatch.setattr(Sinks.close, "__defaults__", (60.0,))
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_each_row_once_also_of_a_resumed_run(name: str, at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Dies):
        run(at_home, name, mortal=6)
    first = READ[name](at_home)
    assert [step for step, _ in first["loss"]] == list(range(6)) and first["val/top1"] == [(2, 0.25), (5, 0.25)]
    run(at_home, name)  # from step 4: steps 4 and 5 are run again
    told, expected = READ[name](at_home), logged(at_home)
    for clocks in ("images/s", "waiting", "eta", "memory"):  # other values when steps are run again
        assert [s for s, _ in told.pop(clocks)] == [s for s, _ in expected.pop(clocks)]
    assert same(told, expected) and len(expected["loss"]) == 8 and len(expected["val/top1"]) == 3
    assert "goes on without" not in capsys.readouterr().err


def test_a_second_telling_is_seen(at_home: Path) -> None:
    """The mutation: without the mark of how far a sink was told, a step stands there twice."""
    with pytest.raises(Dies):
        run(at_home, "trackio", mortal=6)
    mark = at_home / "sinks" / "trackio.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"step": -1, "rows": 0}))
    run(at_home, "trackio")
    counts = Counter(step for step, _ in of_trackio(at_home)["loss"])
    assert counts[0] == 2 and counts[7] == 1


def test_a_sink_that_joins_later_is_told_the_whole_log(at_home: Path) -> None:
    run(at_home, steps=4)
    run(at_home, "tensorboard", steps=8)
    assert same(of_tensorboard(at_home), logged(at_home))


def test_config_and_last_metrics(at_home: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata
    from wandb.proto import wandb_internal_pb2

    at_home.mkdir()
    settings = {"type": "Run", "name": "", "train": {"lr": 0.5, "sinks": ["wandb"], "ema": None}}
    (at_home / "run.json").write_text(json.dumps({"run": settings}))
    run(at_home, "tensorboard", "wandb", "trackio")
    expected = {"name": "", "train.lr": 0.5, "train.sinks": '["wandb"]'}
    read = EventAccumulator(str(at_home / "tensorboard")).Reload()
    held = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(held).hparams
    assert {key: v.string_value or v.number_value or "" for key, v in hparams.items()} == expected
    held = read.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert [m.name.tag for m in metadata.parse_experiment_plugin_data(held).metric_infos] == ["val/top1"]
    (file,) = at_home.glob("wandb/offline-run-*/*.wandb")
    found = [wandb_internal_pb2.Record.FromString(held) for held in records(file)]
    begun = next(r.run for r in found if r.WhichOneof("record_type") == "run")
    config = {u.key: json.loads(u.value_json) for u in begun.config.update}
    assert expected.items() <= config.items() and (begun.display_name, begun.project) == ("run", "tessella")
    with sqlite3.connect(at_home.parent / "trackio" / "tessella.db") as data:
        (text,) = next(data.execute("select config from configs"))
    assert expected.items() <= json.loads(text).items()


def test_wandb_sends_nothing_that_nobody_asked_for(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Offline where nobody is logged in, said once; no list of packages, code, git, console, machine or its figures."""
    run(at_home, "wandb")
    assert capsys.readouterr().err.count("wandb: nobody is logged in; it stays in") == 1
    names = {p.name for p in at_home.glob("wandb/*/**/*") if p.is_file()}
    assert not {n for n in names if not n.endswith((".log", ".wandb"))}, names
    (file,) = at_home.glob("wandb/offline-run-*/*.wandb")
    from wandb.proto import wandb_internal_pb2

    kinds = {wandb_internal_pb2.Record.FromString(held).WhichOneof("record_type") for held in records(file)}
    assert "history" in kinds and not kinds & {"stats", "output", "output_raw", "files", "artifact"}, kinds


def test_without_a_network_wandb_keeps_the_run(at_home: Path, monkeypatch: Any, capsys: Any) -> None:
    """Logged in, but the server is not there."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    run(at_home, "wandb")
    told = capsys.readouterr().err
    assert [step for step, _ in of_wandb(at_home)["loss"]] == list(range(8)), told
    assert told.count("`wandb sync` sends it") == 1


# -- what sinks must not be able to do --------------------------------------------------------------------------------

START = "raise OSError('no room')"
HOSTILE = {  # what a sink does, in its first call and in every row
    "raises at the start": (START, ""),
    "raises at row 3": ("", "if step == 3: raise ValueError('odd\\nrow')"),
    "leaves at row 3": ("", "if step == 3: os._exit(7)"),
    "dies at row 3": ("", "if step == 3: os.kill(os.getpid(), signal.SIGKILL)"),
    "hangs at the start": ("time.sleep(1000)", ""),
    "hangs at row 3": ("", "if step == 3: time.sleep(1000)"),
    "hangs, deaf to signals": ("[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; time.sleep(1000)", ""),
    "hangs at the exit": ("atexit.register(time.sleep, 1000)", ""),
    "leaves a thread": ("threading.Thread(target=time.sleep, args=(1000,)).start()", ""),
    "leaves a child": ("subprocess.Popen(['sleep', '1000'])", "if step == 3: raise ValueError"),
    "strikes its group": ("", "if step == 3: os.killpg(0, signal.SIGINT)"),
    "floods what nobody reads": (
        "print('x' * 10**6, file=sys.stderr)",
        "print('y' * 10**6); os.write(1, b'z' * 10**6)",
    ),
    "asks the terminal": ("input('API key: ')", ""),
}
WELL = {"floods what nobody reads"}
SINK = """
import atexit, os, signal, subprocess, sys, threading, time
sys.path.insert(0, {program!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # behind `&` of a script it would be ignored from the start
import sink_process
class Hostile:
    retracts = False
    def start(self, facts):
        {start}
        return ""
    def row(self, step, figures):
        {row}
    def note(self, text): ...
    def close(self, done): ...
open({pid!r}, "w").write(str(os.getpid()))
sink_process.main("hostile", Hostile())
"""


def hostile(what: str, place: Path) -> list[str]:
    """The command of such a sink."""
    start, row = (code or "pass" for code in HOSTILE[what])
    file = place / "hostile.py"
    file.write_text(SINK.format(program=str(PROGRAM.parent), start=start, row=row, pid=str(place / "pid")))
    return [sys.executable, "-P", str(file)]


def left_of(group: int) -> bool:
    """Whether a process of that group is still there; one that was killed may take a moment."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if not subprocess.run(["pgrep", "-g", str(group), "-r", "R,S,D"], capture_output=True).stdout.strip():
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("what", HOSTILE)
def test_no_sink_stops_a_run(what: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    undisturbed = run(tmp_path / "alone")
    capsys.readouterr()
    command = hostile(what, tmp_path)
    monkeypatch.setattr(log, "open_sinks", lambda names, folder, step: Sinks({"bad": command}, folder, step))
    monkeypatch.setattr(Sinks.close, "__defaults__", (5.0 if what in WELL else 2.0,))
    assert run(tmp_path / "run", "wandb") == undisturbed
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("step ")]
    assert [line for line in said if not line.startswith("bad: ")] == []
    assert len(said) == (0 if what in WELL else 1) and all("the run goes on without it" in line for line in said), said
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 11
    if (tmp_path / "pid").exists():
        assert not left_of(int((tmp_path / "pid").read_text()))


def test_the_reason_is_told(tmp_path: Path) -> None:
    told = Sinks({"bad": hostile("raises at row 3", tmp_path)}, tmp_path, 0)
    for step in range(5):
        told.row({"step": step, "loss": 1.0})
    assert told.close(done=True, patience=30.0) == [f"bad: ValueError: odd row; {sinks.WITHOUT}"]


def test_a_sink_that_takes_nothing_is_dropped_while_training(tmp_path: Path) -> None:
    """Long before the end: what may wait for it is bounded. A row never waits."""
    told: list[str] = []
    hangs = Sinks({"bad": [sys.executable, "-c", "import time; time.sleep(1000)"]}, tmp_path, 0)
    began, row = time.monotonic(), {"step": 0, "loss": 1.0, "grad_by_block": [0.5] * 50}
    for _ in range(2000):
        told += hangs.row(row)
    assert told == [f"bad: it takes no rows any more; {sinks.WITHOUT}"] and time.monotonic() - began < 20
    assert hangs.close(done=True) == []


def test_a_training_that_dies_leaves_no_sink_behind(tmp_path: Path) -> None:
    """The end of the pipe is all that it sees then: a sink that works closes, one that hangs ends itself."""
    command = hostile("hangs at row 3", tmp_path)
    (tmp_path / "hostile.py").write_text((tmp_path / "hostile.py").read_text().replace(
        "open(", "sink_process.LAST_WORD = 0.5\nopen("
    ))  # fmt: skip
    program = (
        "import pathlib, sys, time; from tessella.training.sinks import Sinks\n"
        "s = Sinks({'bad': sys.argv[2:]}, pathlib.Path(sys.argv[1]), 0)\n"
        "[s.row({'step': i}) for i in range(5)]\n"
        "while not pathlib.Path(sys.argv[1], 'pid').exists(): time.sleep(0.05)\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), *command], timeout=60)
    assert not left_of(int((tmp_path / "pid").read_text()))


def test_a_training_that_fails_closes_its_sinks(at_home: Path) -> None:
    class Fails(Toy):
        def before_step(self, progress: float) -> None:
            if progress > 0.4:
                raise Diverged("not finite")

    with pytest.raises(Diverged):
        train(TrainConfig(**CFG, sinks=("tensorboard",)), Fails(), toy_batches(), Job(folder=at_home, quiet=True))
    assert [step for step, _ in of_tensorboard(at_home)["loss"]] == [0, 1, 2, 3]


# -- small parts ------------------------------------------------------------------------------------------------------


def test_lists_become_figures_of_blocks() -> None:
    row = {"step": 3, "loss": 1.5, "grad_by_block": [1.0, 2.0, 3.0, 4.0], "why": "text", "flag": True}
    assert figures(row) == {
        "loss": 1.5,
        "grad_by_block/embed": 1.0,
        "grad_by_block/block00": 2.0,
        "grad_by_block/block01": 3.0,
        "grad_by_block/head": 4.0,
    }


def test_the_mark_counts_rows_of_a_step(tmp_path: Path) -> None:
    steps = [0, 1, 1, 2]
    first = Mark(tmp_path / "a.json")
    assert [first.is_new(step) for step in steps[:2]] == [True, True]
    again = Mark(tmp_path / "a.json")
    assert (again.id, again.again) == (first.id, True)
    assert [again.is_new(step) for step in steps] == [False, False, True, True]
    back = Mark(tmp_path / "a.json")
    back.forget_from(1)
    assert [back.is_new(step) for step in steps] == [False, True, True, True]
