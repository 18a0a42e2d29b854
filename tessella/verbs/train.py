"""`train`: from a picture folder to a run folder with a model in it; `resume` goes on where a run stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__, build, parallel
from ..build import Choices, Run
from ..config import decode, encode, nearest, override, read_plain
from ..data.source import Splits, open_data
from ..data.survey import median_side
from ..durable import write_file
from ..errors import BadInput
from ..models.presets import PRESETS, classifier
from ..recipes.compact import compact
from ..recipes.scratch import scratch
from ..runtime.load import load
from ..runtime.model import Model
from ..training import choose, distributed, state
from ..training.trainer import train as train_objective

RECIPES = {"compact": compact, "scratch": scratch}
SMALL = 112  # pixels: up to here the compact recipe is chosen


@dataclass(frozen=True)
class Trained:
    """A finished run: where it lies and how good it is."""

    folder: Path
    metrics: dict[str, float]

    def load(self) -> Model:
        return load(self.folder)

    def tell(self) -> None:
        if not parallel.is_main():
            return
        if self.metrics:
            print(
                f"top-1 {100 * self.metrics['top1']:.2f} % on the held-out pictures (loss {self.metrics['loss']:.4f})"
            )
        print(f"model   {self.folder / 'model'}\nlog     {self.folder / 'log.jsonl'}\nstate   {self.folder / 'state'}")
        print(f"next    tessella predict {self.folder} PICTURE")


def train(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | None = None,
    files: tuple[str | Path, ...] = (),
    settings: Mapping[str, Any] | None = None,
) -> Trained:
    """`settings` have dotted names, as on the command line: {"epochs": 5, "train.lr": 3e-4}; they override `files`,
    which are TOML."""
    for what, name, known in (("recipe", recipe, RECIPES), ("architecture", model, PRESETS)):
        if name is not None and name not in known:
            raise BadInput(f"there is no {what} {name!r}{nearest(name, known)}")
    sources = [*files, dict(settings or {})]
    draft, _ = override(compact(str(Path(data).absolute())), sources)
    with distributed.processes(torch.device(choose.device(draft.train.device)[0])):
        splits = open_data(draft.data)
        start, reasons = _start(draft, recipe, model, splits)
        run, given = override(start, sources)
        choices = build.derive(run, given, splits)
        choices.reasons.update({k: v for k, v in reasons.items() if k not in given})
        folder = _new_folder(choices.run)
        run = replace(choices.run, name=folder.name)
        if parallel.is_main():
            _tell(splits, choices)
            _write(folder, run, given, choices, splits)
        parallel.barrier()
        return _train(run, splits, folder, ())


def resume(folder: str | Path, *, settings: Mapping[str, Any] | None = None, allow: tuple[str, ...] = ()) -> Trained:
    """Goes on from the newest whole state. What changed since then is refused and listed, unless allowed key by key."""
    place = Path(folder)
    if not (place / "run.json").is_file():
        raise BadInput(f"{place} holds no run.json; give the folder of a run, such as runs/photos-1")
    written = read_plain(place / "run.json")
    run, _ = override(decode(Run, written.get("run"), "run.json: run"), [dict(settings or {})])
    with distributed.processes(torch.device(choose.device(run.train.device)[0])):
        splits = open_data(run.data)
        before = read_plain(place / "data.json")
        state.refuse_changes(before, _manifest(splits), tuple(k for k in allow if k in (*before, "data")))
        return _train(run, splits, place, allow)


def _train(run: Run, splits: Splits, folder: Path, allow: tuple[str, ...]) -> Trained:
    built = build.objects(run, splits, folder, allow)
    return Trained(folder, train_objective(run.train, built.objective, built.batches, built.job).metrics)


def _start(draft: Run, recipe: str | None, model: str | None, splits: Splits) -> tuple[Run, dict[str, tuple[Any, str]]]:
    """The recipe with the architecture, chosen by the size of the pictures where nobody chose."""
    side = median_side(splits.train)
    reasons: dict[str, tuple[Any, str]] = {}
    if recipe is None:
        recipe = "compact" if side <= SMALL and (model is None or model.startswith("vit_n")) else "scratch"
        reasons["recipe"] = (recipe, f"the pictures have about {side} px")
    if model is None:
        model = ("vit_n4" if side <= 40 else "vit_n8") if recipe == "compact" else "vit_t16"
        reasons["model"] = (model, f"the {recipe} recipe for pictures of about {side} px")
    run = replace(RECIPES[recipe](draft.data.path), model=classifier(model, 0))
    if recipe == "compact":
        patch = run.model.backbone.patch_size
        size = max(4 * patch, -(-min(side, SMALL) // patch) * patch)
        reasons["size"] = (size, f"the pictures' {side} px, in whole patches of {patch}")
        run = replace(run, size=size)
    return run, reasons


def _new_folder(run: Run) -> Path:
    """runs/photos-1, or the next free number; a name that was given is never written over. The same on all ranks."""

    def make() -> str:
        stem = run.name or Path(run.data.path).name or "run"
        for number in range(1, 100_000):
            folder = Path(run.folder) / (stem if run.name else f"{stem}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if run.name:
                    raise BadInput(f"{folder} is there already; choose another --name, or --resume it") from None
                continue
            except OSError as error:
                raise BadInput(f"{folder} cannot be made ({error.strerror}); set --folder to a writable one") from None
            return str(folder)
        raise BadInput(f"{run.folder} is full of runs named {stem}; choose a --name")

    return Path(parallel.gather_objects(distributed.on_every_rank(make))[0])


def _tell(splits: Splits, choices: Choices) -> None:
    held = len(splits.val) if splits.val is not None else 0
    print(
        f"{len(splits.train):,} training and {held:,} held-out pictures of {len(splits.classes)} classes",
        file=sys.stderr,
    )
    for note in splits.notes:
        print(f"  {note}", file=sys.stderr)
    for key, (value, why) in choices.reasons.items():
        shown = f"{value:.3g}" if isinstance(value, float) else value
        print(f"  {key} = {shown}  ({why})", file=sys.stderr)


def _manifest(splits: Splits) -> dict[str, Any]:
    """Every file by name and size, to say later what changed."""
    out: dict[str, Any] = {"classes": list(splits.classes)}
    for key, source in (("data.train", splits.train), ("data.val", splits.val)):
        out[key] = [f"{name} ({size} bytes)" for name, size in source.manifest()] if source is not None else []
    return out


def _write(folder: Path, run: Run, given: dict[str, str], choices: Choices, splits: Splits) -> None:
    chosen = {key: {"value": value, "why": why} for key, (value, why) in choices.reasons.items()}
    facts = {"tessella": __version__, "torch": torch.__version__, "command": sys.argv}
    written = {"run": encode(run), "given": given, "chosen": chosen, **facts}
    write_file(folder / "data.json", json.dumps(_manifest(splits)) + "\n")
    write_file(folder / "run.json", json.dumps(written, indent=1) + "\n")  # last: who finds it may resume
