"""`train table.csv --targets ...` to its end: every head learns, and says the same to evaluate, predict and resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from commands import Done
from PIL import Image

import tessella as ts
from tessella.data.origins.demo import CLASSES, pixels
from tessella.data.source import DataConfig
from tessella.errors import BadInput
from tessella.verbs.train import resume

KINDS = ("trouser", "sandal", "bag")
EACH = 130
SMALL = {
    "size": 28,
    "train.batch": 32,
    "train.steps": 70,
    "train.lr": 3e-3,
    "train.precision": "fp32",
    "train.device": "cpu",
    "train.evaluate_every": 1000,
    "model.backbone.depth": 2,
    "model.backbone.width": 64,
    "model.backbone.heads": 2,
    "model.backbone.drop_path": 0.0,
    "data.workers": 0,
    "data.augment": None,
}


def facts(picture: np.ndarray[Any, Any]) -> tuple[float, list[str]]:
    """Mean brightness, and a few things that are so or not."""
    top, bottom = picture[:14].mean(), picture[14:].mean()
    so = {"bright": picture.mean() > 70, "heavy": bottom > top, "wide": picture[:, :4].mean() > 10}
    return float(picture.mean()), [name for name, is_so in so.items() if is_so]


def make(root: Path) -> Path:
    """Some cells of each column are empty, in other rows of each."""
    bundled = pixels()
    (root / "p").mkdir(parents=True)
    rows = []
    for split, n in (("train", EACH), ("test", 40)):
        for i in range(n * len(KINDS)):
            kind, number = KINDS[i % len(KINDS)], i // len(KINDS)
            picture = bundled[split][CLASSES.index(kind), number]
            Image.fromarray(picture).save(root / "p" / f"{split}{i:04}.png")
            light, tags = facts(picture)
            row = [f"p/{split}{i:04}.png", kind, f"{light:.2f}", ";".join(tags) or ";", split]
            if split == "train":
                row = [cell if (i + k) % 7 or k == 0 or k == 4 else "" for k, cell in enumerate(row)]
            rows.append(row)
    with open(root / "things.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "kind", "light", "tags", "split"], *rows])
    return root / "things.csv"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("targets")
    make(root)
    return root


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    settings = SMALL | {"data.targets": ["kind", "light", "tags"], "folder": str(place / "runs")}
    return ts.train(place / "things.csv", settings=settings).folder


def test_every_head_learns(run: Path, place: Path) -> None:
    """Far above chance, which knows the shares of the classes, the mean and the shares of the tags."""
    found = ts.load(run).card.metrics
    assert found["kind/top1"] > 0.85, "a third by chance"
    assert found["light/r2"] > 0.6, "0 by chance"
    assert found["tags/map"] > 0.8
    rows = [row for row in csv.DictReader(open(place / "things.csv")) if row["split"] == "test"]
    shares = [np.mean([name in row["tags"] for row in rows]) for name in ("bright", "heavy", "wide")]
    assert found["tags/map"] > np.mean(shares) + 0.2, "what a constant reaches"
    values = np.array([float(row["light"]) for row in rows])
    assert found["light/mae"] < 0.6 * np.abs(values - values.mean()).mean(), "in the unit of the table"


def test_the_card_says_what_the_outputs_are(run: Path) -> None:
    model = ts.load(run)
    assert [(h.name, h.task) for h in model.card.heads] == [("kind", "classify"), ("light", "number"), ("tags", "tags")]
    assert model.card.heads[0].classes == tuple(sorted(KINDS)) and model.card.heads[2].classes == (
        "bright",
        "heavy",
        "wide",
    )
    assert model.network.head.out_features == 3 + 1 + 3 == model.card.architecture["classes"]


def test_predict_says_every_head(run: Path, place: Path) -> None:
    files = sorted((place / "p").glob("test*.png"))[:60]
    model = ts.load(run)
    said = model.predict(files, top=1)
    truth = [facts(np.asarray(Image.open(f))) for f in files]
    right = np.mean([p.names == (KINDS[i % 3],) == p.heads["kind"].names for i, p in enumerate(said)])
    error = np.mean([abs(p.heads["light"].number - light) for p, (light, _) in zip(said, truth, strict=True)])
    hit = np.mean([(n in p.heads["tags"].names) == (n in tags) for p, (_, tags) in zip(said, truth, strict=True)
                   for n in ("bright", "heavy", "wide")])  # fmt: skip
    assert right > 0.85 and error < 20 and hit > 0.8
    done = commands.run("predict", run, files[0], "--json")
    (row,) = json.loads(done.out)
    assert set(row["heads"]) == {"kind", "light", "tags"} and row["heads"]["light"]["number"] == pytest.approx(
        said[0].heads["light"].number, rel=1e-4
    )
    assert " · light " in commands.run("predict", run, files[0]).out


def test_evaluate_gives_the_figures_of_the_run(run: Path, place: Path) -> None:
    from tessella.verbs.evaluate import Reading

    quick = Reading(workers=0, device="cpu")
    found = ts.evaluate(run, place / "things.csv", reading=quick)
    trained = {k: v for k, v in ts.load(run).card.metrics.items() if not k.startswith("ema")}
    assert found.metrics == pytest.approx(trained, rel=1e-4, abs=1e-4)
    told = commands.run("evaluate", run, place / "things.csv", "--workers", "0", "--device", "cpu").out
    assert "kind:\n" in told and "120 pictures · off by" in told
    text = (place / "things.csv").read_text().replace("trouser", "x").replace("bag", "trouser").replace("x", "bag")
    (place / "turned.csv").write_text(text)
    turned = ts.evaluate(run, place / "turned.csv", reading=quick)
    assert turned.metrics["kind/top1"] < 0.6, "the mutation: classes go by name"
    assert turned.metrics["light/mae"] == pytest.approx(found.metrics["light/mae"])


def test_resume_knows_its_targets(place: Path, tmp_path: Path) -> None:
    few = SMALL | {"train.steps": 2, "data.targets": ["kind", "light"], "folder": str(tmp_path / "runs")}
    run = ts.train(place / "things.csv", settings=few).folder
    more = {"train.steps": 3, "train.warmup": 0}
    done = resume(run, settings=more, allow=("train.steps", "train.warmup"))
    assert "kind/top1" in done.metrics and "light/mae" in done.metrics
    for other in (["light", "kind"], ["kind"], ["kind", "light", "tags"]):
        with pytest.raises(BadInput, match=r"data\.targets"):
            resume(run, settings={"data.targets": other})


def test_cutting_a_step_changes_nothing(place: Path, tmp_path: Path) -> None:
    """Gaps and mixed pictures fall unevenly into four micro-batches; the losses of the third step are the same."""
    few = SMALL | {"train.steps": 3, "train.log_every": 1, "data.targets": ["kind", "light", "tags"]}
    few |= {"data.mix.mixup": 0.8, "folder": str(tmp_path / "runs")}
    rows = []
    for parts in (1, 4):
        run = ts.train(place / "things.csv", settings=few | {"train.accumulate": parts}).folder
        told = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        rows.append({k: v for k, v in told[2].items() if k.endswith(("loss", "mae", "accuracy"))})
    assert set(rows[0]) >= {"loss", "kind/loss", "light/loss", "tags/loss", "light/mae"}
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def test_class_weights_of_each_head_that_says_a_class(place: Path) -> None:
    """Mean 1 over the rows that are known; of a rarer class more."""
    from tessella import build
    from tessella.data.origins.open import open_data

    cfg = DataConfig(path=str(place / "things.csv"), targets=("light", "kind"))
    splits = open_data(cfg)
    kind = splits.train.targets["target/kind"]
    thinned = np.array([i for i in range(len(kind)) if kind[i] != 2 or i % 2])
    splits = splits._replace(train=splits.train.take(thinned))
    counts = np.bincount([kind[i] for i in thinned if kind[i] >= 0])
    chosen = build.derive(build.Run(data=cfg, class_weights="balanced"), {}, splits)
    weights = np.array(chosen.run.objective.heads["kind"].weights)
    assert weights * counts == pytest.approx(np.full(3, counts.sum() / 3), rel=1e-4)
    assert "objective.heads.kind.weights" in chosen.reasons and chosen.run.objective.weights == ()


def test_a_single_class_is_found_in_another_column(place: Path, tmp_path: Path) -> None:
    settings = SMALL | {"train.steps": 1, "data.targets": ["kind"], "folder": str(tmp_path / "runs")}
    done = ts.train(place / "things.csv", settings=settings)
    text = (place / "things.csv").read_text()
    (place / "renamed.csv").write_text(text.replace("file,kind,", "file,sort,", 1))
    with pytest.raises(BadInput, match="has no column 'kind'"):
        ts.evaluate(done.folder, place / "renamed.csv")
    found = ts.evaluate(done.folder, place / "renamed.csv", settings={"data.label": "sort"})
    assert found.metrics == pytest.approx(done.metrics, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("targets", "more", "figures"),
    [
        (["light"], {}, {"mae", "rmse", "r2"}),
        (["tags"], {"objective.loss": "asymmetric"}, {"map", "macro_f1", "loss"}),
        (["kind"], {"objective.loss": "bce", "data.mix.mixup": 0.8}, {"top1", "loss"}),
        (["tags", "kind", "light"], {"data.mix.mixup": 0.8, "class_weights": "balanced",
                                     "objective.heads.light.loss": "l1"}, {"kind/top1", "light/mae", "tags/map"}),
    ],
)  # fmt: skip
def test_any_set_of_targets(
    targets: list[str], more: dict[str, Any], figures: set[str], place: Path, tmp_path: Path
) -> None:
    settings = SMALL | {"train.steps": 2, "data.targets": targets, "folder": str(tmp_path / "runs")} | more
    done = ts.train(place / "things.csv", settings=settings)
    assert figures <= set(done.metrics)
    model = done.load()
    assert [h.name for h in model.card.heads] == targets
    files = sorted((place / "p").glob("*.png"))[:2]
    assert [set(p.heads) for p in model.predict(files)] == [set(targets)] * 2
    assert ts.evaluate(done.folder, place / "things.csv").metrics == pytest.approx(done.metrics, rel=1e-3, abs=1e-3)


def test_from_the_command_line(place: Path, tmp_path: Path) -> None:
    few = {k: v for k, v in SMALL.items() if k != "data.augment"} | {"train.steps": 2}
    line = [
        "train",
        place / "things.csv",
        "--targets",
        "kind, light",
        *commands.words(few),
        "--data.kinds.light",
        "number",
    ]
    done = commands.run(*line)
    assert done.code == 0, done.err
    assert "kind: a class, one of 3: bag, sandal, trouser" in done.err and "light: a number, " in done.err
    assert "with 2 targets" in done.err and "(as you say)" in done.err
    assert done.out.startswith("kind: top-1 ") and "\nlight: mean error " in done.out


BAD = {
    "things.csv --targets colour": "things.csv has no column 'colour': its columns are",
    "things.csv --targets knd": "has no column 'knd': did you mean 'kind'?",
    "things.csv --targets kind,kind": "data.targets names 'kind' twice",
    "p --targets kind": "p is no table, so it has no column 'kind'; give a .csv",
    "things.csv --targets kind --data.kinds.kind number": "holds 'trouser' in row 1, which is no number",
    "things.csv --targets kind --data.kinds.kind numbr": "expected one of 'classify', 'tags', 'number'",
    "things.csv --targets light --objective.loss focal": "objective.loss is 'focal', and no target can have it",
    "things.csv --targets light --objective.heads.light.loss bce": "light is a number; choose one of huber, mse, l1",
    "things.csv --targets light,tags --class-weights balanced": "class_weights is 'balanced', and no target is a class",
    "things.csv --targets light,tags --data.balance classes": "no class labels; leave balance out",
    "one.csv --targets kind,light": "column 'kind' has one value only ('bag'): there is nothing to learn",
    "none.csv --targets kind,light": "column 'light' is empty in all rows of training",
    "odd.csv --targets kind,light": "column 'light' holds 'much' in row 30, which is no number",
    "odd2.csv --targets kind,light": "test has 1 rows of an unknown kind 'hat'; rename or remove it",
}


@pytest.fixture(scope="module")
def odd(place: Path) -> Path:
    rows = list(csv.reader(open(place / "things.csv")))

    def write(name: str, change: Any) -> None:
        with open(place / name, "w", newline="") as file:
            csv.writer(file).writerows([rows[0], *(change(i, list(row)) for i, row in enumerate(rows[1:], 1))])

    write("one.csv", lambda i, row: [row[0], row[1] and "bag", *row[2:]])
    write("none.csv", lambda i, row: [*row[:2], "", *row[3:]])
    write("odd.csv", lambda i, row: [*row[:2], "much" if i == 30 else row[2], *row[3:]])
    write("odd2.csv", lambda i, row: [row[0], "hat" if i == len(rows) - 1 else row[1], *row[2:]])
    return place


@pytest.mark.parametrize("line", BAD)
def test_one_line_for_each_mistake(line: str, odd: Path) -> None:
    few = {"train.steps": 1, "train.device": "cpu", "data.workers": 0, "train.batch": 8}
    done: Done = commands.run("train", *line.split(), *commands.words(few), place=odd)
    told = [text for text in done.err.splitlines() if text.startswith("tessella: ")]
    assert done.code == 2 and len(told) == 1 and BAD[line] in told[0], done.err
    assert "Traceback" not in done.err and done.err.splitlines()[-1] == told[0]
