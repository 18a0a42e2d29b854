"""`train`: who decides each setting, and where the run goes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import deaths
import pytest
from commands import TINY, World, words
from interrupted import inside

import tessella as ts
from tessella.config import TAG, flatten
from tessella.errors import BadInput
from tessella.verbs import train as verb

SMALL = {"train.steps": 1, "model.backbone.depth": 1, "model.backbone.width": 16, "model.backbone.heads": 2}
SMALL |= {"data.workers": 0, "train.device": "cpu", "train.batch": 2}


def run_json(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    told = json.loads((folder / "run.json").read_text())
    return flatten(told["run"]), told["origins"]


def test_precedence_and_origins(world: World, tmp_path: Path) -> None:
    """recipe < TOML < command line, and run.json says which it was."""
    (tmp_path / "my.toml").write_text(
        'epochs = 3\n[train]\nlr = 0.004\nclip = 0.5\nweight_decay = 0.2\n[data]\npath = "nowhere"\nval_share = 0.3\n'
    )
    (tmp_path / "more.toml").write_text("[train]\nclip = 0.7\n")
    line = ["train", world.photos, "my.toml", "more.toml", *words(TINY), "--train.lr", "3e-4", "train.betas=(0.8, 0.9)"]
    done = commands.run(*line, "--seed", "5", "--workers", "0")
    assert done.code == 0, done.err
    value, origin = run_json(tmp_path / "runs" / "photos-1")
    expected = {
        "train.lr": (0.0003, "given"),
        "train.betas": ([0.8, 0.9], "given"),
        "train.seed": (5, "given"),
        "data.workers": (0, "given"),
        "train.clip": (0.7, "more.toml"),
        "train.weight_decay": (0.2, "my.toml"),
        "data.val_share": (0.3, "my.toml"),
        "data.path": (str(world.photos), "given"),
        "train.min_lr": (1e-6, "recipe"),
        "objective.smoothing": (0.1, "recipe"),
        "model.backbone.width": (32, "given"),
        "model.classes": (3, "chosen: the data's classes"),
        "train.warmup": (1, "chosen: at most a tenth of the run"),
    }
    assert {key: (value[key], origin[key]) for key in expected} == expected
    assert origin["recipe"] == "chosen: the pictures have about 28 px"
    assert origin["model"].startswith("chosen: ") and origin["preprocess.crop"].startswith("chosen: ")
    settings = {key for key in value if not key.endswith(TAG)}
    assert set(origin) == settings | {"recipe", "model"}, "each setting has an origin, and nothing else"
    assert all(o in ("given", "recipe", "my.toml", "more.toml") or o.startswith("chosen: ") for o in origin.values())


def test_what_the_person_chose_is_not_called_chosen(world: World) -> None:
    run = ts.train(world.photos, model="vit_n8", recipe="compact", settings=SMALL | {"size": 32})
    _, origin = run_json(run.folder)
    assert origin["model"] == origin["recipe"] == origin["model.backbone.patch_size"] == "given"


@pytest.mark.parametrize(
    ("side", "model", "expected"),
    [
        (28, None, ("vit_n4", 28)),
        (60, None, ("vit_n8", 64)),
        (160, None, ("vit_t16", 224)),
        (28, "vit_t16", ("vit_t16", 224)),
    ],
)
def test_recipe_and_architecture_follow_the_pictures(
    side: int, model: str | None, expected: tuple[str, int], tmp_path: Path
) -> None:
    from tessella.data.origins.open import open_data
    from tessella.data.source import DataConfig
    from tessella.models.presets import PRESETS
    from tessella.recipes.compact import compact

    photos = commands.photos(tmp_path / "photos", each=3, size=side)
    splits = open_data(DataConfig(path=str(photos)))
    start, _ = verb._start(compact(str(photos)), verb.Asked(photos, model), splits, None)
    backbone = start.model.backbone
    assert (backbone.width, backbone.patch_size) == (PRESETS[expected[0]].width, PRESETS[expected[0]].patch_size)
    assert (start.size or backbone.size[0]) == expected[1]


def test_settings_that_suit_the_chosen_architecture_only(world: World) -> None:
    """A patch of 14 suits vit_b16, but no compact one with its convolutional stem."""
    run = ts.train(world.photos, model="vit_b16", settings=SMALL | {"model.backbone.patch_size": 14, "size": 28})
    assert run.load().card.architecture["backbone"]["patch_size"] == 14


def test_one_key_of_the_preprocessing(world: World) -> None:
    run = ts.train(world.photos, settings=SMALL | {"size": 28, "preprocess.crop": 0.9})
    value, origin = run_json(run.folder)
    assert value["preprocess.crop"] == 0.9 and origin["preprocess.crop"] == "given"
    assert value["preprocess.size"] == [28, 28] and run.load().preprocess.crop == 0.9


def test_names_and_numbers(world: World, tmp_path: Path) -> None:
    folders = [ts.train(world.photos, settings=SMALL | {"size": 28}).folder for _ in range(2)]
    assert [f.name for f in folders] == ["photos-1", "photos-2"]
    assert ts.train(world.photos, settings=SMALL | {"size": 28, "name": "mine"}).folder == Path("runs/mine")
    held = commands.hash_of(tmp_path / "runs")
    with pytest.raises(BadInput, match="runs/mine is there already"):
        ts.train(world.photos, settings=SMALL | {"size": 28, "name": "mine"})
    assert commands.hash_of(tmp_path / "runs") == held


def new_folder(path: str, out: Any) -> None:
    from tessella.build import Run
    from tessella.data.source import DataConfig

    out.put(str(verb._new_folder(Run(data=DataConfig(path=path)))))


def test_two_runs_at_once_do_not_share_a_folder(world: World) -> None:
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    several = [context.Process(target=new_folder, args=(str(world.photos), out)) for _ in range(6)]
    for process in several:
        process.start()
    found = {out.get(timeout=60) for _ in several}
    for process in several:
        process.join()
    assert found == {f"runs/photos-{i}" for i in range(1, 7)}


def test_a_run_that_died_at_its_start_is_no_run_or_can_be_gone_on_with(world: World, tmp_path: Path) -> None:
    """Killed at each of its first operations, up to its first step."""
    seen = set()
    for number in (1, 2, 6, 9, 13, 16, 22):
        run = tmp_path / f"r{number}" / "run"
        line = ["train", world.photos, *words(TINY), "--folder", run.parent, "--name", "run"]
        done = commands.run(*line, before=inside(run.parent, deaths.killed_at(number)))
        assert done.code == -signal.SIGKILL, done.err
        done = commands.run("train", "--resume", run)
        seen.add(done.code)
        assert done.code == (0 if (run / "run.json").is_file() else 2), done.err
        assert done.code == 0 or "holds no run.json" in done.err
    assert seen == {0, 2}


def test_a_crash_before_the_first_row_leaves_nothing(world: World, tmp_path: Path, monkeypatch: Any) -> None:
    """But one after it does: what was learned can be gone on with."""
    from tessella.training import trainer

    report = trainer.Trainer.report

    def fails(self: Any, step: int) -> Any:
        if step == fail_at:
            raise RuntimeError("our own mistake")
        return report(self, step)

    monkeypatch.setattr(trainer.Trainer, "report", fails)
    fail_at = 0
    for left in ([], ["photos-1"]):
        with pytest.raises(RuntimeError, match="our own mistake"):
            ts.train(world.photos, settings=TINY | {"train.log_every": 1, "folder": str(tmp_path / "runs")})
        assert [p.name for p in (tmp_path / "runs").iterdir()] == left
        fail_at = 2


def test_the_pictures_are_found_from_anywhere(world: World, tmp_path: Path, monkeypatch: Any) -> None:
    """A run remembers where its pictures are, though it was told so relative to another folder."""
    shutil.copytree(world.photos, tmp_path / "here" / "photos")
    shutil.copytree(world.photos, tmp_path / "here" / "held")
    (tmp_path / "there").mkdir()
    os.chdir(tmp_path / "here")
    run = ts.train("photos", settings=SMALL | {"size": 28, "data.validation": "held"})
    monkeypatch.chdir(tmp_path / "there")
    again = ts.resume(tmp_path / "here" / run.folder, settings={"train.steps": 2}, allow=("train.steps",))
    assert again.metrics


def test_the_card_says_where_the_model_comes_from(world: World) -> None:
    card = ts.load(world.run).card
    assert card.heads[0].classes == ("circle", "square", "triangle") and card.provenance["step"] == 8
    assert card.provenance["seed"] == 0 and card.metrics["top1"] >= 0 and "model.safetensors" in card.files


def test_the_run_does_not_go_into_the_data_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cd photos; tessella train .`: runs/ would be a class of the next run."""
    before = sorted(os.listdir(world.photos))
    monkeypatch.chdir(world.photos)
    with pytest.raises(BadInput, match="--folder"):
        ts.train(".", settings=SMALL)
    assert sorted(os.listdir(world.photos)) == before


def test_numbers_that_the_data_contradicts_are_refused(world: World) -> None:
    for settings in ({"model.classes": 5}, {"epochs": -1}, {"size": -8}, {"objective.smoothing": 3}):
        with pytest.raises(BadInput, match=next(iter(settings)).split(".")[-1]):
            ts.train(world.photos, settings={**SMALL, **settings})


def test_one_picture_a_class_trains_without_validation(world: World, tmp_path: Path) -> None:
    for name in sorted(os.listdir(world.photos))[:2]:
        (tmp_path / "few" / name).mkdir(parents=True)
        first = sorted((world.photos / name).iterdir())[0]
        shutil.copy(first, tmp_path / "few" / name / first.name)
    run = ts.train(tmp_path / "few", model="vit_n4", settings=SMALL)
    assert run.metrics == {} and (run.folder / "model" / "model.json").is_file()


def test_a_warm_up_longer_than_the_run_is_refused(world: World) -> None:
    with pytest.raises(BadInput, match=r"train\.warmup"):
        ts.train(world.photos, settings={**SMALL, "train.steps": 4, "train.warmup": 4})


def test_a_run_folder_has_one_trainer_at_a_time(world: World) -> None:
    """The second one is refused while the first one lives, and may come once it is dead."""
    run = ts.train(world.photos, settings=SMALL)
    program = (
        "import sys, time; from tessella.durable import hold; hold(sys.argv[1]); print(1, flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", program, run.folder / "data.json"], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None and first.stdout.readline()
        with pytest.raises(BadInput, match="in use by another process"):
            ts.resume(run.folder)
    finally:
        first.kill()
        first.wait()
    assert ts.resume(run.folder).metrics == run.metrics


def test_what_was_allowed_does_not_open_the_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is held is written anew when a run goes on with something changed."""
    from tessella.training import trainer

    run = ts.train(world.photos, settings=SMALL)
    program = "import sys; from tessella.durable import hold; hold(sys.argv[1])"
    tried: list[str] = []

    def report(self: Any, step: int) -> Any:
        command = [sys.executable, "-c", program, run.folder / "data.json"]
        tried.append(subprocess.run(command, capture_output=True, text=True).stderr)
        return {"step": step}

    monkeypatch.setattr(trainer.Trainer, "report", report)
    ts.resume(run.folder, settings={"train.steps": 2}, allow=("train.steps",))
    assert len(tried) == 1 and "in use by another process" in tried[0]
