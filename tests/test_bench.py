"""The commands of bench/ run, at sizes that prove nothing about speed; their files say what they must."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import commands
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file of bench/ as a module; it finds its neighbours as if it were run."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if (BENCH / f"{name}.py").is_file():
            del sys.modules[name]


def run(name: str, *words: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / f"{name}.py"), *words, "--out", str(out)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def result(name: str, *words: str, out: Path) -> dict[str, Any]:
    done = run(name, *words, out=out)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    assert {"command", "commit", "dirty", "when", "hardware", "versions", "figures"} <= found.keys()
    assert found["command"].startswith(f"python bench/{name}.py") and str(out) not in path.read_text()
    assert found["hardware"]["cores"] and found["versions"]["torch"]
    figures: dict[str, Any] = found["figures"]
    return figures


# -- each command ----------------------------------------------------------------------------------------------------


def test_report(tmp_path: Path) -> None:
    found = result("report", "--classes", "3", "--pictures", "40", "--runs", "1", out=tmp_path)
    (page,) = found["pages"]
    assert 0.1 < page["mb"] < 3 and page["said"] == 0 and (page["opened_s"] is None or page["opened_s"] > 0)


def test_index(tmp_path: Path) -> None:
    found = result("index", "--files", "600", "--runs", "1", "--workers", "1", "--warm-only", out=tmp_path)
    assert found["warm"][0]["files"] == 600 and found["second_pass"]["longest_gap_s"] > 0 and found["cold"] is None


def test_loader(tmp_path: Path, shared_data: Path) -> None:
    words = ("--count", "12", "--steps", "1", "--rounds", "1", "--sizes", "500x375")
    assert result("loader", *words, out=tmp_path)


def test_shards(tmp_path: Path, shared_data: Path) -> None:
    words = ("--rounds", "1", "--shards", "3", "--each", "12", "--batch", "4", "--steps", "2")
    assert result("shards", *words, out=tmp_path)


def test_loading(tmp_path: Path) -> None:
    found = result("loading", "--architecture", "vit_n4", "--side", "32", "--runs", "1", "--threads", "1", out=tmp_path)
    assert found["bytes"] > 1e6 and found["pass_s"] > 0 and found["read_s"] > 0
    assert all(run["bytes"] > 0 for run in found["runs"]["model folder"])


def test_hostile(tmp_path: Path) -> None:
    found = result("hostile", "--runs", "1", "--only", "pickle with code", out=tmp_path)["files"]
    assert len(found) == 3 and all(f["refused"] and not f["ran"] for f in found.values())


def test_hostile_sees_a_trap_that_is_sprung(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: a child that unpickles without care leaves its mark, and a file that is taken is no refusal."""
    hostile = bench("hostile")
    path = tmp_path / "old.bin"
    path.write_bytes(hostile.TRAP)
    careless = "import json, pickle, sys; pickle.load(open(sys.argv[1], 'rb'))\n"
    careless += "print(json.dumps({'s': 0, 'mb': 0, 'said': ''}))"
    monkeypatch.setattr(hostile, "CHILD", careless)
    assert hostile.measured(path, 1)["said"] == "" and (tmp_path / hostile.TOUCHED).exists()


def test_matmul(tmp_path: Path) -> None:
    best = result("matmul", "--side", "64", "--seconds", "0.01", "--threads", "1", out=tmp_path)["best_flops"]
    assert best.keys() == {"fp32", "bf16"} and all(1e7 < rate < 1e15 for rate in best.values())


def test_flowers_parts(bench: Any, tmp_path: Path, shared_data: Path) -> None:
    """The same parts each time, with no picture in two of them, and as many of each class."""
    flowers = bench("flowers")
    tar = shared_data / "flowers128" / "flowers128.tar"
    assert flowers.split(tar, tmp_path / "a") == {"train": 2589, "val": 864, "test": 864}
    flowers.split(tar, tmp_path / "b")
    flowers.split(tar, tmp_path / "c", seed=1)

    def test_part(place: str) -> set[str]:
        return {p.relative_to(tmp_path / place).as_posix() for p in (tmp_path / place).glob("test/*/*.jpg")}

    assert test_part("a") == test_part("b") != test_part("c")
    names = [p.parent.name + p.name for p in (tmp_path / "a").rglob("*.jpg")]
    assert len(names) == len(set(names)) == 4317


SMALL = ("--model", "vit_t16", "--size", "32", "--batch", "2", "--rounds", "2", "--steps", "1", "--warmup", "1")


@pytest.mark.parametrize("peer", ["timm_script", pytest.param("transformers", marks=pytest.mark.slow)])
def test_step_beside_a_peer(peer: str, tmp_path: Path) -> None:
    pytest.importorskip(peer.removesuffix("_script"))
    names = ["ours", peer]
    words = [*SMALL, "--threads", "1", "--contenders", ",".join(names), "--matmul-seconds", "0.01"]
    figures = result("step", *words, out=tmp_path)
    assert list(figures["contenders"]) == names and not figures["absent"]
    for found in figures["contenders"].values():
        assert len(found["images_per_s"]) == 2 and found["parameters"] == 5_680_552
        assert 50e6 < found["peak"] <= found["life"] * 1.01
    assert set(figures["ratios"]["ours"]) == {peer}
    assert figures["verdicts"] == [], "the bars are about other sizes"
    assert all(0 < share < 1 for share in figures["share_of_bf16_matmul"].values())


def test_crops(tmp_path: Path) -> None:
    told = result("crops", "--rounds", "1", "--steps", "1", "--batch", "4", out=tmp_path)
    assert set(told["contenders"]) == {"together", "loop"} and told["verdicts"][0]["bar"] == 1.3


def test_pretrain(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured, and how it is judged; the training itself is that of `tessella train`."""
    module = bench("pretrain")
    for part, each in (("train", 10), ("test", 3)):
        commands.photos(tmp_path / "photos" / part, each=each, size=28)
    few = Path(module.few_labels(tmp_path / "photos", tmp_path / "few", 0.3))
    assert len(list((few / "train").rglob("*.png"))) == 9 and len(list((few / "test").rglob("*.png"))) == 9
    monkeypatch.setattr(module, "trained", lambda *a: 10.0)
    monkeypatch.setattr(module, "epochs_that_fit", lambda *a: 3)
    said = iter(({"knn": 30.0, "linear": 40.0}, {"knn": 36.0, "linear": 44.0}, {"knn": 31.0, "linear": 42.0}))
    monkeypatch.setattr(module, "judged", lambda *a: next(said))
    words = ["pretrain.py", str(tmp_path / "photos"), "--methods", "rotate", "mae", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    module.main()
    found = json.loads((tmp_path / "pretrain.json").read_text())["figures"]
    reached = {v["what"]: v["reached"] for v in found["verdicts"]}
    assert reached == {
        "rotate: points of knn": True, "mae: points of linear": False, "points of the best method": False,
    }  # fmt: skip


def test_start(tmp_path: Path) -> None:
    figures = result("start", "--runs", "1", "--warm", "--architecture", "vit_n4", out=tmp_path)
    assert {"tessella --help", "tessella train --help", "tessella predict --help"} <= figures["help"].keys()
    assert all(found["heavy"] == [] and found["modules"] > 50 for found in figures["help"].values())
    assert figures["first_prediction"]["warm"] > 0.2


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    figures = result("dry_run", "--models", "vit_n4", "--steps", "3", "--each", "8", out=tmp_path)
    found = figures["models"]["vit_n4"]
    assert found["peak"] > 10**8 and found["predicted_seconds"] == pytest.approx(sum(found["parts"].values()))
    assert len(figures["verdicts"]) == 2


def test_demo_without_training(tmp_path: Path) -> None:
    done = run("demo", "--skip-install", "--only-unpack", out=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12000 pictures" in done.stdout and not list(tmp_path.iterdir()), "no figures: nothing to keep"


@pytest.mark.slow
def test_ranks(tmp_path: Path) -> None:
    figures = result(
        "two_ranks", "--jobs", "classify", "--steps", "3", "--batch", "8", "--pictures", "80", out=tmp_path
    )
    found = figures["jobs"]["classify"]
    assert len(found["one"]) == len(found["two"]) == 3
    assert found["apart"] < 1e-5 < 1e-4 < found["control"]


def test_the_list(bench: Any) -> None:
    listed = subprocess.run([sys.executable, str(BENCH / "run.py")], capture_output=True, text=True, timeout=60).stdout
    runner = bench("run")
    for path in BENCH.glob("*.py"):
        if path.stem in {"run", "record", "contenders"}:
            continue
        assert path.stem in runner.COMMANDS, f"bench/{path.name} is in no list"
        assert f"python bench/{path.name}\n    {runner.claim(path.stem)}\n" in listed


# -- what they would not forgive -------------------------------------------------------------------------------------


def test_a_dead_contender_is_told_with_its_last_words(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    done = run("step", *SMALL, "--model", "vit_n4", "--contenders", "timm_script", out=tmp_path)
    assert done.returncode == 1 and "vit_n4 has no peer in timm" in done.stderr


def test_bars_can_be_missed(bench: Any) -> None:
    record, step = bench("record"), bench("step")
    assert (
        record.verdict("speed", 2.4, 2.4, True)["reached"] and not record.verdict("speed", 2.39, 2.4, True)["reached"]
    )
    assert not record.verdict("seconds", 4.1, 4.0, False)["reached"]
    found = {
        "ours": {"images_per_s": [10.0, 20.0, 30.0], "peak": 100},
        "timm_compiled": {"images_per_s": [20.0, 10.0, 20.0], "peak": 99},
    }
    speed = step.ratios(found)
    assert speed == {"ours": {"timm_compiled": 1.5}}, "the median of 0.5, 2 and 1.5"
    assert [v["reached"] for v in step.verdicts(found, speed)] == [True, False]


def test_demo_reads_what_the_verb_prints(bench: Any) -> None:
    demo = bench("demo")
    said = (
        "...\n\ntrained in 171 s; on the 2,000 test pictures:\n  bag   97.0 %\n2000 pictures · top-1 87.35 % · top-5 99"
    )
    assert demo.read(said) == {"training_s": 171.0, "top1_percent": 87.35}
    with pytest.raises(SystemExit, match="did not say"):
        demo.read("Traceback")


def test_ranks_compare_each_step(bench: Any) -> None:
    ranks = bench("two_ranks")
    assert ranks.apart([2.0, 1.0], [2.0, 1.1]) == pytest.approx(0.1)
    with pytest.raises(SystemExit, match="nothing to compare"):
        ranks.apart([1.0, 2.0], [1.0])


def test_no_path_of_the_machine_is_kept(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = bench("record")
    monkeypatch.setattr(sys, "argv", [str(BENCH / "step.py"), "--out", str(tmp_path), "--model", "x"])
    record.keep(argparse.Namespace(out=tmp_path, name=None), "step", {})
    assert json.loads((tmp_path / "step.json").read_text())["command"] == "python bench/step.py --model x"


def test_cifar(tmp_path: Path, bench: Any) -> None:
    """A few pictures instead of 60,000: the way is the same, and the network is the one that is judged."""
    import io
    import tarfile

    from PIL import Image

    from tessella.models.presets import classifier
    from tessella.models.size import blocks_of, parameters

    data = tmp_path / "data"
    data.mkdir()
    for part, count in (("train", 12), ("test", 4)):
        with tarfile.open(data / f"few-{part}-00.tar.xz", "w:xz") as out:
            for i in range(2 * count):
                told = io.BytesIO()
                Image.new("RGB", (32, 32), (10 * i, 200 * (i % 2), 50)).save(told, "JPEG")
                member = tarfile.TarInfo(f"{part}/{('dark', 'light')[i % 2]}/{i:04d}.jpg")
                member.size = told.tell()
                out.addfile(member, io.BytesIO(told.getvalue()))
    found = result("cifar", "--data", str(data), "--epochs", "2", out=tmp_path / "out")
    assert 0 <= found["top1_percent"] <= 100 and found["curve"][-1]["top1_percent"] == found["top1_percent"]
    assert 0 < found["curve"][-1]["minutes"] * 60 <= found["seconds"]
    cfg = classifier("vit_n4", 2)
    assert found["network"]["parameters"] == parameters(cfg)
    share = blocks_of(cfg)
    assert found["network"]["blocks_of_multiply_adds"] == pytest.approx(share.macs)
    assert found["network"]["blocks_of_parameters"] == pytest.approx(share.parameters)
    measured = {"pass_s": 30.0, "start_and_end_s": 10.0, "evaluation_s": 4.0}
    cifar = bench("cifar")
    assert cifar.passes(8, 4, measured) == pytest.approx((480 * (1 - cifar.MARGIN) - 26) / 30, abs=0.01)
