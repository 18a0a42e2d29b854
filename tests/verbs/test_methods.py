"""Learning without labels from the command line: one run, its features, its paintings, what is made of it next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from learning import photos
from PIL import Image

import tessella as ts
from tessella.errors import BadInput
from tessella.runtime.paint import painters

SMALL = commands.TINY | {"size": 32, "train.steps": 12, "data.workers": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures without any class, the same with classes, and a run of MAE on the former."""
    root = tmp_path_factory.mktemp("methods")
    labelled, loose = photos(root), root / "loose"
    loose.mkdir()
    for path in labelled.rglob("*.png"):
        shutil.copy(path, loose / f"{path.parent.name}-{path.name}")
    done = commands.run("train", "loose", "--method", "mae", *commands.words(SMALL), place=root)
    assert done.code == 0, done.err
    assert "24 training and 6 held-out pictures without classes" in done.err
    assert "effective rank" in done.out and "train LABELLED/ --weights" in done.out
    return root


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_the_log_has_figures_of_features(place: Path) -> None:
    told = rows(place / "runs/loose-1")[-1]
    assert told["val/rank"] >= 1 and 0 <= told["val/spread"] <= 1.5 and "val/knn" not in told
    card = json.loads((place / "runs/loose-1/model/model.json").read_text())
    assert card["architecture"]["type"] == "MAEConfig" and card["heads"] == []


def test_classes_judge_where_there_are_some(place: Path) -> None:
    done = commands.run(
        "train", "photos", "--method", "rotate", "--name", "turned", *commands.words(SMALL), place=place
    )
    assert done.code == 0 and "by them it is judged what was learned" in done.err
    told = rows(place / "runs/turned")[-1]
    assert 0 <= told["val/knn"] <= 1 and 0 <= told["val/linear"] <= 1
    said = commands.run("predict", "runs/turned", "photos/circle/00.png", place=place)
    assert said.code == 0 and any(word in said.out for word in ("upright", "quarter", "upside down"))


def test_features_are_judged_and_fine_tuned(place: Path) -> None:
    judged = commands.run("evaluate", "runs/loose-1", "photos", "--probe", "linear", "--workers", "0", place=place)
    assert judged.code == 0 and "top-1" in judged.out
    words = commands.words({key: value for key, value in SMALL.items() if not key.startswith("model")})
    tuned = commands.run("train", "photos", "--weights", "runs/loose-1", "--name", "tuned", *words, place=place)
    assert tuned.code == 0 and "head new: 3 outputs" in tuned.err
    before, after = ts.load(place / "runs/loose-1"), ts.load(place / "runs/tuned")
    with pytest.raises(BadInput, match="no head"):
        before.predict([place / "photos/circle/00.png"])
    assert before.classifier.cfg.backbone.width == after.classifier.cfg.backbone.width == 32
    assert before.embed([place / "photos/circle/00.png"]).shape == (1, 32)


def test_it_goes_on_from_its_own_weights(place: Path) -> None:
    more = commands.words({k: v for k, v in SMALL.items() if not k.startswith("model")} | {"train.steps": 2})
    done = commands.run(
        "train", "loose", "--method", "simmim", "--weights", "runs/loose-1", "--name", "on", *more, place=place
    )
    assert done.code == 0, done.err
    assert "all of the network goes on learning" in done.err


def test_the_encoder_goes_to_others(place: Path) -> None:
    done = commands.run("train", "loose", "--method", "mae", "--name", "plain", "--model", "vit_t16", *commands.words(
        SMALL | {"train.steps": 1}), place=place)  # fmt: skip
    assert done.code == 0, done.err
    moved = commands.run("convert", "runs/plain", "for-timm", "--to", "timm", place=place)
    assert moved.code == 0 and "not said there: its decoder, which our own folder keeps" in moved.out, moved.err
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"local-dir:{place / 'for-timm'}", pretrained=True).eval()
    ours = ts.load(place / "runs/plain")
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(theirs(image), ours.classifier.eval()(image), atol=1e-5)
    own = commands.run("convert", "runs/plain", "ours", place=place)
    assert own.code == 0 and (place / "ours/model.json").is_file()


# -- paintings ---------------------------------------------------------------------------------------------------------


def test_a_picture_is_painted(place: Path) -> None:
    picture = next(iter(sorted((place / "loose").iterdir())))
    done = commands.run("predict", "runs/loose-1", picture, "--reconstruct", "--out", "one.png", place=place)
    assert done.code == 0 and "48 of 64 patches painted, one.png" in done.out
    side = np.asarray(Image.open(place / "one.png"))
    original, shown, painted = side[:, :32], side[:, 36:68], side[:, 72:]
    assert side.shape == (32, 104, 3) and np.array_equal(original, np.asarray(Image.open(picture).convert("RGB")))
    blank = (np.abs(shown.astype(int) - original).max(-1) > 1).reshape(8, 4, 8, 4).any((1, 3))
    same = (np.abs(painted.astype(int) - original).max(-1) <= 1).reshape(8, 4, 8, 4).all((1, 3))
    assert blank.sum() <= 48 and same[~blank].all(), "what is seen is left as it is"
    again = commands.run("predict", "runs/loose-1", picture, "--reconstruct", "--out", "two.png", place=place)
    assert again.code == 0 and (place / "one.png").read_bytes() == (place / "two.png").read_bytes()


def test_a_mask_says_what_is_painted(place: Path) -> None:
    picture = next(iter(sorted((place / "loose").iterdir())))
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16, 4:24] = 255
    Image.fromarray(mask).save(place / "mask.png")
    words = ("predict", "runs/loose-1", picture, "--reconstruct", "--mask", "mask.png", "--out", "m.png", "--json")
    done = commands.run(*words, place=place)
    assert done.code == 0 and json.loads(done.out)[0]["painted"] == 10
    side = np.asarray(Image.open(place / "m.png")).astype(int)
    changed = np.abs(side[:, 72:] - side[:, :32]).max(-1) > 1
    assert changed.any() and not changed[mask == 0].any()


@pytest.mark.parametrize("method", ["simmim", "inpaint", "colorize"])
def test_others_paint_too(method: str, place: Path) -> None:
    steps = SMALL | {"train.steps": 2}
    done = commands.run("train", "loose", "--method", method, "--name", method, *commands.words(steps), place=place)
    assert done.code == 0, done.err
    painted = commands.run("predict", f"runs/{method}", "loose", "--reconstruct", "--out", f"{method}-out", place=place)
    assert painted.code == 0 and len(list((place / f"{method}-out").iterdir())) == 30
    page = (place / "runs" / method / "report.html").read_text()
    assert "What it paints" in page and "What it tells apart" in page and "This could not be made" not in page
    painters(ts.load(place / "runs" / method))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("train", "loose", "--method", "may"), "there is no method 'may'; did you mean 'mae'?"),
        (("train", "loose", "--method", "mae", "--model", "swin_t"), "take a ViT"),
        (("train", "loose", "--method", "mae", "--class_weights", "balanced"), "leave it out"),
        (("train", "loose", "--method", "mae", "--data.views.share", "1.5"), "data.views.share is 1.5"),
        (("train", "loose", "--method", "mae", "--data.mix.mixup", "0.2"), "leave one of them out"),
        (
            ("train", "loose", "--method", "mae", "--train.best", "top1"),
            "the evaluation gives knn, linear, rank, spread",
        ),
        (("train", "loose", "--method", "rotate", "--preprocess.size", "[32,16]"), "square"),
        (("train", "loose"), "no class folders"),
        (("train", "loose", "--method", "fixmatch"), "has no classes"),
        (("evaluate", "runs/loose-1", "photos"), "--probe knn"),
        (("predict", "runs/loose-1", "loose", "--reconstruct", "--out", "x.png"), "name a folder"),
        (("predict", "runs/loose-1", "loose/circle-00.png", "--reconstruct"), "--out painted.png"),
        (("predict", "runs/loose-1", "loose/circle-00.png", "--out", "x.png"), "go with --reconstruct"),
        (("predict", "runs/loose-1", "loose/circle-00.png", "--reconstruct", "--out", "x.jpg"), "no .png"),
    ],
)
def test_one_line_says_why(words: tuple[str, ...], why: str, place: Path) -> None:
    before = commands.hash_of(place / "loose")
    done = commands.run(*words, place=place)
    assert done.code == 2 and why in done.err and len(done.err.strip().splitlines()[-1]) < 400
    assert "Traceback" not in done.err and commands.hash_of(place / "loose") == before


def test_few_labels_and_many_pictures(place: Path) -> None:
    part = place / "partly"
    shutil.copytree(place / "photos", part)
    (part / "unlabelled").mkdir()
    for folder in ("circle", "square", "triangle"):
        for path in sorted((part / folder).iterdir())[4:]:
            shutil.move(path, part / "unlabelled" / f"{folder}-{path.name}")
    done = commands.run("train", "partly", "--method", "fixmatch", "--name", "few", *commands.words(SMALL), place=place)
    assert done.code == 0, done.err
    assert "3 of 12 labelled pictures held out" in done.err and "9 of 27 training pictures have a label" in done.err
    told = rows(place / "runs/few")
    assert "val/top1" in told[-1] and any("taken" in row for row in told)


# -- from a teacher, and with new classes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(place: Path) -> Path:
    """The folder, with a finished classifier of three classes and pictures of two more."""
    done = commands.run("train", "photos", "--name", "large", *commands.words(SMALL), place=place)
    assert done.code == 0, done.err
    commands.photos(place / "more", each=10, size=32, seed=9, classes=commands.SHAPES[3:5])
    return place


def test_a_student_learns_from_a_teacher(taught: Path) -> None:
    words = ("train", "photos", "--method", "distill", "--teacher", "runs/large", "--name", "student")
    done = commands.run(*words, *commands.words(SMALL), place=taught)
    assert done.code == 0, done.err
    told = rows(taught / "runs/student")
    assert "val/top1" in told[-1] and any("agreement" in row and "teacher" in row for row in told)
    written = json.loads((taught / "runs/student/run.json").read_text())["run"]["objective"]
    assert Path(written["teacher"]).is_absolute() and len(written["teacher_sha256"]) == 64
    without = commands.run("train", "photos", "--method", "distill", place=taught)
    assert without.code == 2 and "add --teacher MODEL" in without.err
    others = commands.run("train", "more", "--method", "distill", "--teacher", "runs/large", place=taught)
    assert others.code == 2 and "does not know" in others.err


def test_features_need_no_labels(taught: Path) -> None:
    words = ("train", "loose", "--method", "distill", "--teacher", "runs/large", "--objective.kind", "features")
    done = commands.run(*words, "--objective.share", "1", "--name", "felt", *commands.words(SMALL), place=taught)
    assert done.code == 0, done.err
    assert "val/rank" in rows(taught / "runs/felt")[-1]


def test_classes_are_added(taught: Path) -> None:
    small = commands.words({k: v for k, v in SMALL.items() if not k.startswith("model")})
    words = ("train", "--from", "runs/large", "--add", "more", "--data.replay", "0.5", "--name", "wider")
    done = commands.run(*words, *small, place=taught)
    assert done.code == 0, done.err
    assert "12 of 24 pictures that were learned before, and 16 new ones" in done.err
    assert "head kept by name: 3 of 3 outputs, 2 new" in done.err and "of the classes from before" in done.out
    card = json.loads((taught / "runs/wider/model/model.json").read_text())
    assert sorted(card["heads"][0]["classes"]) == sorted(commands.SHAPES[:5])
    assert {"top1_before", "top1_added"} <= card["metrics"].keys()
    again = commands.run("train", "--resume", "runs/wider", place=taught)
    assert again.code == 0, again.err
    for bad, why in (
        (("train", "--from", "runs/large"), "go together"),
        (("train", "photos", "--from", "runs/large", "--add", "more"), "brings its own data"),
        (("train", "--from", "runs/loose-1", "--add", "more"), "learned no classes"),
    ):
        refused = commands.run(*bad, place=taught)
        assert refused.code == 2 and why in refused.err
