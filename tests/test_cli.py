"""The command line: what it prints, and one line with an exit code for everything that a user can get wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from commands import TINY, Done, World, words

from tessella import cli, durable
from tessella.config import parse_value
from tessella.data.origins.scenes import SHAPES
from tessella.errors import BadInput

FILLED = words(TINY)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return commands.world(tmp_path_factory.mktemp("world"))


def one_line(done: Done) -> str:
    """The only line on stderr; nothing on stdout."""
    assert done.out == ""
    told = done.err.splitlines()
    assert len(told) == 1 and told[0].startswith("tessella: "), done.err
    assert "Traceback" not in told[0]
    return told[0].removeprefix("tessella: ")


BAD: dict[str, tuple[str, str]] = {  # command -> what the line must say
    "train": ("train", "no data was named; write: tessella train photos/"),
    "unknown folder": ("train nowhere", "nowhere is not there; give a folder, a .zip"),
    "flat folder": ("train photos/circle", "holds pictures but no class folders; expected one folder per class"),
    "empty folder": ("train empty", "empty holds no folders; expected"),
    "one class": ("train lonely", "one class folder only \\('cat'\\)"),
    "two folders": ("train photos other", "two data folders were named, 'photos' and 'other'"),
    "model": ("train photos --model vit_t61", "no architecture 'vit_t61'; did you mean 'vit_t16'\\?"),
    "recipe": ("train photos --recipe compcat", "no recipe 'compcat'; did you mean 'compact'\\?"),
    "key": ("train photos --train.lrr 3", "run.train has no key 'lrr'; did you mean 'lr'\\?"),
    "top key": ("train photos --modle vit_t16", "no key 'modle'; did you mean 'model'\\?"),
    "key of a float": ("train photos --train.lr.x 3", r"run.train.lr is \{'x': '3'\}; expected float"),
    "type": ("train photos --train.lr fast", "run.train.lr is 'fast'; expected float"),
    "literal": ("train photos --train.precision fp8", "'fp8'; expected one of 'auto', 'fp32', 'bf16'"),
    "not finite": ("train photos --train.lr 1e999", "run.train.lr is inf; expected a finite number"),
    "integer": ("train photos --batch many", "run.train.batch is 'many'; expected int"),
    "memory": ("train photos --memory much", "memory is 'much'; give a size such as 8GB or 500MB, or auto"),
    "json": ("train photos --json", "add --dry-run"),
    "speed of nothing": ("list --max-ms 20", "list --for photos/ --max-ms 20"),
    "no value": ("train photos --train.lr", "--train.lr has no value; write --train.lr VALUE"),
    "no value before another": ("train photos --train.lr --train.clip 1", "--train.lr has no value"),
    "no value of an option": ("train photos --model", "'--model' requires an argument"),
    "no settings file": ("train photos my.toml", "my.toml cannot be read"),
    "odd settings file": ("train photos odd.toml", "odd.toml is not valid TOML"),
    "device": ("train photos --train.device cuda:77", "cuda:77' is not there"),
    "size": ("train photos --size 30", "picture of 30x30 pixels is not tiled by patches of 4"),
    "validation": ("train photos --data.validation strange", "unknown class 'zebra'"),
    "no verb": ("trian photos", "No such command 'trian'"),
    "no option of a verb": ("predict --nonsense x", "No such option: --nonsense"),
    "no pictures": ("predict runs/photos-1", "see tessella predict --help"),
    "absent picture": ("predict runs/photos-1 absent.png", "absent.png cannot be read"),
    "unreadable picture": ("predict runs/photos-1 odd.png", "odd.png cannot be read as a picture: it holds text"),
    "cut picture": ("predict runs/photos-1 cut.png", "cut.png"),
    "no such model": ("predict nowhere photos/circle/00.png", "nowhere is no model folder, run folder or weights file"),
    "name of a model": ("predict vit_t16 photos/circle/00.png", "names an architecture without weights"),
    "bare weights": ("predict weights.safetensors photos/circle/00.png", "add --like NAME, one of .*vit_b16"),
    "other weights": ("predict weights.safetensors photos/circle/00.png --like vit_t16", "not one of|missing|lack"),
    "no weights": ("predict odd.safetensors photos/circle/00.png --like vit_t16", "odd.safetensors"),
    "an empty run": ("predict empty photos/circle/00.png", "no model.json and no model/ folder"),
    "top": ("predict runs/photos-1 photos/circle/00.png --top 0", "'--top'"),
    "unknown class": ("evaluate runs/photos-1 strange", "pictures of an unknown class 'zebra'; .*circle"),
    "workers": ("evaluate runs/photos-1 photos --workers -1", "workers"),
    "batch": ("evaluate runs/photos-1 photos --batch 0", "batch"),
    "architecture": ("list vit_b61", "no architecture 'vit_b61'; did you mean 'vit_b16'\\?"),
    "no run": ("train --resume photos", "photos holds no run.json"),
    "taken": ("train photos --name photos-1", "runs/photos-1 is there already; choose another --name, or --resume"),
    "resume and data": ("train photos --resume runs/photos-1", "--resume takes the run as it was"),
    "resume and model": ("train --resume runs/photos-1 --model vit_t16", "--resume takes the run as it was"),
    "resume and epochs": ("train --resume runs/photos-1 --epochs 9", "settled when a run starts; .*--train.steps"),
}


@pytest.fixture(scope="module")
def spoiled(world: World) -> Path:
    """Everything that the commands of BAD find."""
    place = world.place
    (place / "empty").mkdir()
    shutil.copytree(world.photos / "circle", place / "lonely" / "cat")
    shutil.copytree(world.photos / "circle", place / "strange" / "zebra")
    (place / "strange" / "circle").mkdir()
    (place / "odd.png").write_text("no picture")
    whole = (world.photos / "circle" / "00.png").read_bytes()
    (place / "cut.png").write_bytes(whole[: len(whole) // 2])
    (place / "odd.toml").write_text("[train\n")
    (place / "odd.safetensors").write_bytes(b"\xff" * 100)
    shutil.copy(world.run / "model" / "model.safetensors", place / "weights.safetensors")
    return place


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_two(name: str, spoiled: Path) -> None:
    command, said = BAD[name]
    before = commands.hash_of(spoiled / "runs"), sorted(p.name for p in spoiled.iterdir() if p.name[0] != ".")
    done = commands.run(*command.split(), place=spoiled)
    assert done.code == 2
    assert re.search(said, one_line(done)), done.err
    after = commands.hash_of(spoiled / "runs"), sorted(p.name for p in spoiled.iterdir() if p.name[0] != ".")
    assert before == after, "something was left behind"


def test_a_traceback_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        one_line(Done(1, "", 'Traceback (most recent call last):\n  File "x"\nValueError: x\n'))


# -- what is refused on going on ---------------------------------------------------------------------------------------


@pytest.fixture
def own(world: World, tmp_path: Path) -> World:
    """A copy of the world, to be changed. The run's data is found anew, because data.path is free to change."""
    shutil.copytree(world.place, tmp_path / "own", ignore=shutil.ignore_patterns(".said*"))
    place = tmp_path / "own"
    return World(place, place / "photos", place / "runs" / "photos-1")


def go_on(own: World, *more: str) -> Done:
    return commands.run("train", "--resume", "runs/photos-1", "--data.path", own.photos, *more, place=own.place)


def test_a_moved_folder_is_not_another(own: World) -> None:
    assert go_on(own).code == 0


def test_changed_data_is_refused_with_its_names(own: World) -> None:
    (own.photos / "circle" / "00.png").unlink()
    shutil.copy(own.photos / "circle" / "01.png", own.photos / "square" / "99.png")
    done = go_on(own)
    assert done.code == 2
    told = one_line(done)
    assert "circle/00.png" in told and "square/99.png" in told and "--allow-change data.train" in told
    assert go_on(own, "--allow-change", "data").code == 0


def test_changed_classes_are_refused(own: World) -> None:
    (own.photos / "circle").rename(own.photos / "zebra")
    done = go_on(own)
    assert done.code == 2
    assert "classes: 'circle' is gone; 'zebra' is new" in one_line(done)
    assert "--allow-change classes" in done.err


def test_another_number_of_classes_is_refused_even_if_allowed(own: World) -> None:
    shutil.copytree(own.photos / "circle", own.photos / "zebra")
    done = go_on(own, "--allow-change", "data", "--allow-change", "classes")
    assert done.code == 2 and "has 3 classes and the data 4" in one_line(done)


def test_changed_settings_are_refused_one_by_one(own: World) -> None:
    done = go_on(own, "--train.lr", "0.5", "--train.clip", "3")
    assert done.code == 2
    told = one_line(done)
    assert "train.lr: was" in told and "train.clip: was 1.0, is 3.0" in told
    assert "--allow-change train.lr" in told and "--allow-change train.clip" in told
    assert "train.clip" in one_line(go_on(own, "--train.lr", "0.5", "--train.clip", "3", "--allow-change", "train.lr"))
    done = go_on(own, "--train.steps", "9", "--allow-change", "train.steps")
    assert done.code == 0, done.err
    told = json.loads((own.run / "run.json").read_text())
    assert told["run"]["train"]["steps"] == 9 and told["origins"]["train.steps"] == "given"
    assert go_on(own).code == 0, "an allowed change is asked about twice"


def test_a_change_that_is_refused_changes_nothing(own: World) -> None:
    before = (own.run / "run.json").read_bytes()
    told = one_line(go_on(own, "--train.steps", "3", "--allow-change", "train.steps"))
    assert "is beyond train.steps, 3; give at least 8" in told
    told = one_line(go_on(own, "--train.best", "mae", "--allow-change", "train.best"))
    assert "but the evaluation gives top1" in told
    assert (own.run / "run.json").read_bytes() == before and go_on(own).code == 0
    assert "class_weights is settled" in one_line(go_on(own, "--class_weights", "balanced"))
    assert "auto is settled" in one_line(go_on(own, "--batch", "auto"))


def test_changed_model_is_refused(own: World) -> None:
    assert "model.backbone.width: was 32, is 64" in one_line(go_on(own, "--model.backbone.width", "64"))


def test_an_unknown_key_to_allow_is_an_error(own: World) -> None:
    done = go_on(own, "--allow-change", "train.lrr")
    assert done.code == 2 and "did you mean 'train.lr'?" in one_line(done)


def test_settings_are_refused_before_the_first_state_as_well(own: World) -> None:
    shutil.rmtree(own.run / "state")
    assert "train.lr" in one_line(go_on(own, "--train.lr", "0.5"))
    assert go_on(own).code == 0


# -- nothing half done --------------------------------------------------------------------------------------


def test_a_run_that_cannot_start_leaves_no_folder(world: World) -> None:
    def before() -> None:
        from tessella import build

        def objects(*args: object) -> object:
            raise BadInput("no")

        build.objects = objects  # type: ignore[assignment]

    runs = sorted((world.place / "runs").iterdir())
    assert commands.run("train", "photos", *FILLED, before=before, place=world.place).code == 2
    assert sorted((world.place / "runs").iterdir()) == runs


def test_a_bad_picture_in_the_first_step_leaves_no_folder(tmp_path: Path) -> None:
    photos = commands.photos(tmp_path / "photos")
    for file in photos.rglob("*.png"):
        if file.name != "00.png":
            file.write_bytes(b"no picture")
    done = commands.run("train", "photos", *FILLED, place=tmp_path)
    assert done.code == 2 and "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("tessella: ")
    assert not list((tmp_path / "runs").iterdir())


def test_a_full_disk_leaves_with_74(world: World, tmp_path: Path) -> None:
    def full() -> None:
        durable.free_space = lambda path: 1000  # type: ignore[assignment]

    runs = tmp_path / "runs"
    done = commands.run("train", "photos", *FILLED, "--folder", runs, before=full, place=world.place)
    assert done.code == 74 and "Traceback" not in done.err
    assert re.search(r"tessella: .*MB are free", done.err.splitlines()[-1])
    assert (runs / "photos-1" / "run.json").is_file() and not (runs / "photos-1" / "model").exists()
    done = commands.run("train", "--resume", runs / "photos-1", place=world.place)
    assert done.code == 0, done.err


# -- what is printed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["", "demo", "train", "evaluate", "predict", "list", "doctor"])
def test_help(verb: str, tmp_path: Path) -> None:
    done = commands.run(*verb.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: tessella {verb}".rstrip())
    if not verb:
        assert done.out == commands.run().out
        for each in ("demo", "train", "evaluate", "predict", "list", "doctor"):
            assert re.search(rf"^  {each} +[A-Z]", done.out, re.MULTILINE)


def test_version() -> None:
    from tessella import __version__

    assert commands.run("--version") == Done(0, f"tessella {__version__}\n", "")


def test_train_tells_on_stdout_where_things_lie(world: World, tmp_path: Path) -> None:
    done = commands.run("train", "photos", *FILLED, "--folder", tmp_path, "--name", "one", place=world.place)
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "top-1",
        "memory",
        "model",
        "log",
        "state",
        "report",
        "next",
    ]
    for line in done.out.splitlines()[2:6]:
        assert Path(line.split()[1]).exists()
    assert "33 training and 9 held-out pictures of 3 classes" in done.err


def test_predict_prints_names_and_probabilities(world: World) -> None:
    files = ["photos/circle/00.png", "photos/square/00.png"]
    done = commands.run("predict", "runs/photos-1", *files, "--json", place=world.place)
    rows = json.loads(done.out)
    assert [row["id"] for row in rows] == files
    for row in rows:
        assert sorted(row["classes"]) == sorted(SHAPES[:3]) and abs(sum(row["probabilities"]) - 1) < 1e-9
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
    top = commands.run("predict", "runs/photos-1", *files, "--top", "1", "--json", place=world.place)
    assert [row["classes"] for row in json.loads(top.out)] == [row["classes"][:1] for row in rows]
    plain = commands.run("predict", "runs/photos-1", "photos/circle", "--top", "2", place=world.place).out.splitlines()
    assert len(plain) == 14 and all(
        re.fullmatch(r"photos/circle/\d\d\.png: \w+ \d+\.\d %, \w+ \d+\.\d %", p) for p in plain
    )


def test_evaluate_prints(world: World) -> None:
    told = json.loads(commands.run("evaluate", "runs/photos-1", "photos", "--json", place=world.place).out)
    assert told["pictures"] == 42 and set(told["per_class"]) == set(SHAPES[:3])
    plain = commands.run("evaluate", "runs/photos-1/model", "photos", "--workers", "0", place=world.place).out
    assert f"42 pictures · top-1 {100 * told['top1']:.2f} % · loss {told['loss']:.4f}" in plain


def test_list_prints(world: World) -> None:
    assert "86,567,656" in commands.run("list").out
    one = json.loads(commands.run("list", "vit_b16", "--json").out)
    assert len(one) == 1 and one[0]["parameters"] == 86_567_656 and one[0]["settings"]["depth"] == 12
    assert "depth = 12" in commands.run("list", "vit_b16").out


def test_list_shows_weights_by_name() -> None:
    rows = json.loads(commands.run("list", "--family", "dinov2", "--json").out)
    assert len(rows) == 8 and {row["licence"] for row in rows} == {"apache-2.0"}
    told = commands.run("list", "--family", "all").out
    assert "deit_t16" in told and "timm/vit_giant_patch14_reg4_dinov2.lvd142m" in told, "no name is cut"
    assert "backbone.heads = 3" in commands.run("list", "deit_t16").out
    wrong = commands.run("list", "--family", "dinov22")
    assert wrong.code == 2 and "did you mean 'dinov2'" in wrong.err


def test_doctor_prints() -> None:
    told = json.loads(commands.run("doctor", "--json").out)
    assert told["packages"]["torch"] and told["decode_per_s"] > 0 and told["disk_free_gb"] > 0
    assert re.search(r"^device +cpu|^device +cuda", commands.run("doctor").out, re.MULTILINE)


def test_names_that_are_no_text(world: World, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 come through, also as JSON."""
    odd = os.fsdecode(b"caf\xe9 <b>.png")
    shutil.copy(world.photos / "circle" / "00.png", tmp_path / odd)
    done = commands.run("predict", world.run, tmp_path / odd, "--json")
    assert done.code == 0 and json.loads(done.out)[0]["id"] == str(tmp_path / odd)
    assert commands.run("predict", world.run, tmp_path / odd).code == 0


# -- as a real process --------------------------------------------------------------------------------------


def test_as_a_real_process(world: World) -> None:
    """The fork that the tests above use says what a fresh Python says."""
    for line in ("train photos --train.lrr 3", "predict runs/photos-1 photos/circle/00.png --json"):
        forked = commands.run(*line.split(), place=world.place)
        fresh = subprocess.run(
            [sys.executable, "-m", "tessella", *line.split()], cwd=world.place, capture_output=True, text=True
        )
        assert (forked.code, forked.out, forked.err) == (fresh.returncode, fresh.stdout, fresh.stderr)


def test_interrupt_leaves_with_130(world: World, tmp_path: Path) -> None:
    def before() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored

        def now() -> object:
            signal.raise_signal(signal.SIGINT)
            return None

        from tessella.verbs import doctor

        doctor.doctor = now  # type: ignore[assignment]

    done = commands.run("doctor", before=before)
    assert done.code == 130 and "Traceback" not in done.err


# -- words --------------------------------------------------------------------------------------


def test_a_folder_of_digits_is_a_name(world: World, tmp_path: Path) -> None:
    """What was typed is read by its field: a year may be a folder, and a number of steps is none."""
    done = commands.run("train", world.photos, *words(TINY | {"train.steps": 1}), "--folder", "2024")
    assert done.code == 0, done.err
    assert (tmp_path / "2024" / "photos-1" / "model" / "model.json").is_file()


def test_words_are_sorted() -> None:
    line = ["photos/", "my.toml", "--train.lr", "3e-4", "train.ema=none", "--train.betas=(0.9, 0.95)", "b.json"]
    data, files, settings = cli.sort_words(line)
    assert (data, files) == ("photos/", ["my.toml", "b.json"])
    assert settings == {"train.lr": "3e-4", "train.ema": "none", "train.betas": "(0.9, 0.95)"}  # read by their fields


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("3e-4", 3e-4), ("true", True), ("False", False), ("null", None), ("[1, 2]", [1, 2]), ("cpu", "cpu"),
     ("-1", -1), ("1/2", "1/2"), ("'3'", "3"), ("", "")],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value and type(found) is type(value)
