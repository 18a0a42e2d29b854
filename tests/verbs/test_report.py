"""The report of a real run: at its end, on resuming, by hand; what is missing is told, and no run is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import World

import tessella as ts
from tessella import build
from tessella.build import Run, built
from tessella.card import Head
from tessella.config import decode
from tessella.data.loading.quarantine import Quarantine
from tessella.data.origins.open import open_data
from tessella.data.pixels.preview import encoded
from tessella.errors import BadInput, DiskFull
from tessella.metrics.kept import kept
from tessella.metrics.summary import summary
from tessella.verbs import report as verb

SMALL: dict[str, Any] = {"train.steps": 4, "model.backbone.depth": 1, "model.backbone.width": 16, "size": 16}
SMALL |= {"model.backbone.heads": 2, "data.workers": 0, "train.device": "cpu", "train.batch": 4, "train.log_every": 1}
SMALL |= {"train.evaluate_every": 2, "train.precision": "fp32"}


def trained(world: World, **more: Any) -> Any:
    return ts.train(world.photos, model="vit_n4", recipe="compact", settings=SMALL | more)


def test_a_run_ends_with_it(world: World) -> None:
    run = trained(world)
    assert run.report == run.folder / "report.html"
    html = run.report.read_text(encoding="utf-8")
    for section in ("curves", "mistakes", "classes", "confusion", "reliability", "attention", "positions", "first",
                    "data", "values", "machine", "repeat"):  # fmt: skip
        assert f'<section id="{section}">' in html, section
    assert "could not be made" not in html
    found = kept(run.folder / "predictions.npz")["label"]
    assert summary(found, "classify")["top1"] == run.metrics["top1"], "what is kept is what was judged"
    assert f"{100 * run.metrics['top1']:.1f}<small> %</small>" in html
    told = json.loads((run.folder / "run.json").read_text())
    assert (told["recipe"], told["model"], told["processes"]) == ("compact", "vit_n4", 1) and told["machine"]["python"]


def test_the_first_pictures_are_those_that_were_trained_on(world: World) -> None:
    """The whole batch of the real loader begins with what the report draws again, mixed and augmented."""
    run = trained(world, **{"data.mix.mixup": 0.8, "train.batch": 6})
    written = json.loads((run.folder / "run.json").read_text())
    cfg = decode(Run, written["run"], "run")
    splits = open_data(cfg.data)
    batch = next(build.loader_of(cfg, splits, Quarantine(None, len(splits.train))).batches(0))
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    uris = [encoded(image.permute(1, 2, 0).numpy()) for image in batch["image"]]
    first = html[html.index('id="first"') : html.index('id="data"')]
    assert [first.count(uri) for uri in uris] == [1] * 6
    other = replace(cfg, train=replace(cfg.train, seed=1))
    moved = next(build.loader_of(other, splits, Quarantine(None, len(splits.train))).batches(0))
    assert encoded(moved["image"][0].permute(1, 2, 0).numpy()) not in first, "the mutation: another seed"


def test_again_by_hand_and_on_resuming(world: World) -> None:
    run = trained(world)
    at = run.folder / "report.html"
    before = at.read_text(encoding="utf-8")
    at.unlink()
    assert verb.write(run.folder) == at and at.read_text(encoding="utf-8") == before
    at.unlink()
    assert ts.resume(run.folder).report == at and at.is_file()
    with pytest.raises(BadInput, match=r"run\.json"):
        verb.write(world.photos)


def test_of_other_pictures(world: World, tmp_path: Path) -> None:
    """`evaluate --out page.html`: the same page, of the pictures that were given, by a run or by bare weights."""
    run = trained(world)
    found = ts.evaluate(run.folder, world.photos)
    found.write(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    n = len(found.predictions.ids)
    told = f"right of {n:,} pictures of {world.photos.name}, {len(found.learned or ()):,} of which it was trained on"
    assert told in html and 'id="curves"' in html and 'id="attention"' in html
    assert n != len(kept(run.folder / "predictions.npz")["label"].ids), "not those of the run"
    ts.evaluate(run.folder / "model", world.photos).write(tmp_path / "bare.html")
    html = (tmp_path / "bare.html").read_text(encoding="utf-8")
    assert (
        f"right of {n:,} pictures of {world.photos.name};" in html
        and 'id="curves"' not in html
        and "no picture<" not in html
    )


def test_what_was_changed_on_resuming_is_told(world: World) -> None:
    run = trained(world)
    first = json.loads((run.folder / "run.json").read_text())
    ts.resume(run.folder, settings={"train.steps": 6}, allow=("train.steps",))
    told = json.loads((run.folder / "run.json").read_text())
    assert told["command"] == first["command"] and len(told["resumed"]) == 1 and told["recipe"] == "compact"
    assert "Then it was resumed" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_what_is_gone_is_said(world: World, tmp_path: Path) -> None:
    """No data, no predictions, no model: each costs its own sections, with one line that says why."""
    run = trained(world)
    told = json.loads((run.folder / "run.json").read_text())
    told["run"]["data"]["path"] = str(tmp_path / "moved")
    (run.folder / "run.json").write_text(json.dumps(told))
    (run.folder / "log.jsonl").write_bytes((run.folder / "log.jsonl").read_bytes() + b'{"step": 5, "lo')
    html = verb.write(run.folder).read_text(encoding="utf-8")
    assert "moved is not there" in html and 'id="classes"' in html and "no picture<" in html
    (run.folder / "predictions.npz").write_bytes(b"damaged")
    html = verb.write(run.folder).read_text(encoding="utf-8")
    assert "holds no predictions" in html and 'id="classes"' not in html
    (run.folder / "predictions.npz").unlink()
    (run.folder / "model" / "model.json").unlink()
    assert "nothing is known of how good it is" in verb.write(run.folder).read_text(encoding="utf-8")


def test_a_report_that_fails_costs_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(story: Any) -> str:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(verb, "page", broken)
    run = trained(world)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "report.html" in line]
    assert "ZeroDivisionError: a b" in line and "try again" in line
    assert run.report is None and (run.folder / "model" / "model.json").is_file()


def test_predictions_without_room_cost_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, heads: Any) -> None:
        raise DiskFull("no room")

    monkeypatch.setattr(built, "keep", full)
    run = trained(world)
    assert "the predictions are not kept (no room)" in capsys.readouterr().err
    assert run.metrics and "Worst mistakes" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_what_is_kept_is_of_what_ships(world: World) -> None:
    """The best by name, the first of equals; the mutation, the newest, is another."""
    best = trained(world, **{"train.best": "top1", "train.lr": 0.3, "train.steps": 12, "train.warmup": 0})
    rows = [json.loads(line) for line in (best.folder / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "val/top1" in row]
    first = max(rows, key=lambda row: row["val/top1"])  # the first of equals
    held = summary(kept(best.folder / "predictions.npz")["label"], "classify")["loss"]
    assert held == first["val/loss"] == best.metrics["loss"] and held != rows[-1]["val/loss"]


def test_without_validation(world: World) -> None:
    run = trained(world, **{"data.val_share": 0.0})
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "nothing is known of how good it is" in html and "could not be made" not in html


def test_position_maps_are_cosines(world: World) -> None:
    """Each place is most like itself; the mutation, a table of equal rows, is flat."""
    import base64
    import io

    from PIL import Image

    model = trained(world).load()

    def alpha() -> np.ndarray:
        held = io.BytesIO(base64.b64decode(verb._positions(model).partition(",")[2]))
        return np.array(Image.open(held))[..., 3]

    rows, columns = model.network.backbone.cfg.grid  # type: ignore[attr-defined,union-attr]
    seen = alpha()
    assert seen.shape == (rows * (rows + 1) - 1, columns * (columns + 1) - 1)
    for i in range(rows):
        for j in range(columns):
            part = seen[i * (rows + 1) :, j * (columns + 1) :][:rows, :columns]
            assert part[i, j] == 255
    assert seen.min() < 128
    with torch.no_grad():
        model.network.backbone.pos_embed.fill_(1.0)  # type: ignore[union-attr,operator]
    assert set(np.unique(alpha())) <= {0, 10, 255}


def test_what_nobody_knew_was_not_told() -> None:
    heads = (Head(name="kind", task="classify", classes=("a", "b")), Head(name="price", task="number"),
             Head(name="tags", task="tags", classes=("old", "used")))  # fmt: skip
    nan = float("nan")
    targets = {"kind": [1, -1], "price": [2.5, nan], "tags": [[0.0, 0.0], [nan, nan]]}
    batch = {f"target/{name}": torch.tensor(values) for name, values in targets.items()}
    assert verb._labels(batch, 0, heads) == "kind: b · price: 2.5 · tags: none" and verb._labels(batch, 1, heads) == ""
