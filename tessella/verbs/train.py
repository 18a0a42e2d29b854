"""`train`: from a picture folder to a run folder with a model in it; `resume` goes on where a run stopped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__, build, parallel
from ..build import Choices, Run
from ..config import TAG, decode, encode, flatten, nearest, override, read_plain
from ..data.checks.survey import median_side
from ..data.names import sided
from ..data.origins.open import absolute, is_local, stem
from ..data.source import Splits
from ..durable import hold, remove_folder, write_file
from ..errors import BadInput, readable
from ..metrics.heads import spoken
from ..models.presets import PRESETS, classifier
from ..objectives.distill import DistillConfig
from ..objectives.objective import Batch
from ..recipes.compact import compact
from ..recipes.finetune import finetune
from ..recipes.methods import METHODS
from ..recipes.probe import probe
from ..recipes.scratch import scratch
from ..runtime.load import load
from ..runtime.model import Model
from ..runtime.run import Run as RunFolder
from ..training import choose, distributed, state
from ..training.memory import peak_bytes, show
from ..training.sinks import refuse_missing
from ..training.trainer import train as train_objective
from ..weights import described
from ..weights.catalog import CATALOG
from ..weights.opened import is_name
from . import fit, report
from .adopt import Adopted, adopt, start_again
from .doctor import machine
from .suiting import SMALL, TINY

RECIPES = {"compact": compact, "scratch": scratch, "finetune": finetune, "probe": probe}
ADAPTING = {"finetune", "probe"}  # recipes that start from weights
ADOPTED = ("weights", "weights_sha256", "weights_like")
SIDE = "model.backbone.image_size"  # whoever gives it has chosen the size
SETTLED = {
    "name",
    "folder",
    "epochs",
    "warmup_epochs",
    "size",
    "weights",
    "weights_sha256",
    "weights_like",
    "memory",
    "class_weights",
}  # nothing reads these after the start
SETTLED_CURE = "a longer run: --train.steps N --allow-change train.steps"


@dataclass(frozen=True)
class Trained:
    """A finished run: where it lies and how good it is."""

    folder: Path
    metrics: dict[str, float]
    peak: int  # bytes of the device, or of this process, that the run held at most
    speaks: bool = True  # the first of several processes
    report: Path | None = None  # a page for people; None: it could not be written

    def load(self) -> Model:
        return load(self.folder)

    def _repr_html_(self) -> str:
        return RunFolder(self.folder)._repr_html_()

    def tell(self) -> None:
        if not self.speaks:
            return
        for line in spoken(self.metrics):
            print(f"{line} on the held-out pictures")
        print(f"memory  {show(self.peak)} at most")
        print(f"model   {self.folder / 'model'}\nlog     {self.folder / 'log.jsonl'}\nstate   {self.folder / 'state'}")
        if self.report is not None:
            print(f"report  {self.report}")
        if "rank" in self.metrics:  # of features: nothing can be predicted yet
            print(f"next    tessella train LABELLED/ --weights {self.folder}")
        else:
            print(f"next    tessella predict {self.folder} PICTURE")


def train(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    files: tuple[str | Path, ...] = (),
    settings: Mapping[str, Any] | None = None,
) -> Trained:
    """`settings` have dotted names, as on the command line: {"epochs": 5, "train.lr": 3e-4}; they override `files`,
    which are TOML."""
    asked = Asked(data, model, recipe, files, settings or {}, method)
    with distributed.processes(asked.device()):
        settled = settle(asked)
        run, splits, choices = settled.choices.run, settled.splits, settled.choices
        folder = _new_folder(run)
        try:
            run = replace(run, name=folder.name)
            if parallel.is_main():
                _tell(splits, choices, settled.notes)
                names = {"recipe": asked.recipe, "model": asked.model, "method": asked.method}
                names = {key: name or choices.reasons.get(key, ("",))[0] for key, name in names.items()}
                _write(folder, run, _origins(run, settled.given, choices), splits, names)
            parallel.barrier()
            return _train(run, splits, folder, (), settled.start)
        except Exception:
            _forget_unstarted(folder)
            raise


@dataclass(frozen=True)
class Asked:
    """What somebody wrote on the command line."""

    data: str | Path
    model: str | None = None
    recipe: str | None = None
    files: tuple[str | Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None  # None: labels are learned

    def __post_init__(self) -> None:
        for what, name, known in (
            ("recipe", self.recipe, RECIPES),
            ("method", self.method, METHODS),
            ("architecture", self.model, {**PRESETS, **CATALOG}),
        ):
            told = what == "architecture" and name is not None and described.is_file(name)
            if name is not None and name not in known and not told:
                raise BadInput(f"there is no {what} {name!r}{nearest(name, known)}")

    def sources(self) -> list[str | Path | Mapping[str, Any]]:
        """Later ones win. `train.batch = "auto"` is no number: it asks for the recipe's batch, cut to what memory
        there is."""
        sources: list[str | Path | Mapping[str, Any]] = [
            *self.files,
            {**self.settings, "data.path": absolute(self.data)},
        ]
        flat = [_part(source, (), drop=True) for source in sources]
        wanted = [one["train.batch"] for one in flat if "train.batch" in one]
        if fit.AUTO not in wanted:
            return sources
        auto = wanted[-1] == fit.AUTO
        for place, one in enumerate(flat):
            if one.get("train.batch") == fit.AUTO or (auto and "train.batch" in one):
                sources[place] = {key: value for key, value in one.items() if key != "train.batch"}
        return [{"memory": fit.AUTO}, *sources] if auto else sources

    def draft(self) -> Run:
        """What must be known before the pictures are looked at; the rest is of any recipe."""
        known = ("data", "train") if self.method is None else ("data", "train", "objective")  # are labels needed?
        sources = [_part(source, known) for source in self.sources()]
        return override(self.by_method(compact(absolute(self.data))), sources)[0]

    def by_method(self, recipe: Run) -> Run:
        """The recipe's sizes and schedule, with what the method learns and what it sees."""
        return recipe if self.method is None else METHODS[self.method](recipe)

    def device(self) -> torch.device:
        return torch.device(choose.device(self.draft().train.device)[0])


@dataclass(frozen=True)
class Settled:
    """All that is decided before a run has a folder."""

    splits: Splits
    choices: Choices
    given: dict[str, str]  # dotted key -> what set it
    start: Mapping[str, Tensor] = field(default_factory=dict)  # tensors that are not drawn at random
    notes: tuple[str, ...] = ()  # what became of the weights, and what to think of


def settle(asked: Asked) -> Settled:
    """Opens the data, and gives every setting its value: recipe < files < settings, the rest by data and machine."""
    sources, draft = asked.sources(), asked.draft()
    refuse_missing(draft.train.sinks)
    splits = build.open_splits(draft)
    adopted = adopt([_part(source, (*ADOPTED, "model")) for source in sources], asked.model)
    start, reasons = _start(draft, asked, splits, adopted)
    if any(SIDE in _part(source, ("model",)) for source in sources):
        start = replace(start, size=0)
        reasons.pop("size", None)
    half, _ = override(start, [_part(source, ("preprocess",), drop=True) for source in sources])
    preprocess = {key: value for source in sources for key, value in _part(source, ("preprocess",)).items()}
    resize = preprocess.get("preprocess.resize", None)
    if adopted is not None:
        start = replace(start, preprocess=adopted.preprocess(build.backbone_of(half), resize))
    elif preprocess:
        start = replace(start, preprocess=build.default_preprocess(half, resize or "shortest"))
    run, given = override(start, sources)
    given |= {k: "given" for k, v in (("model", asked.model), ("recipe", asked.recipe)) if v is not None} | given
    given |= adopted.origins(run.model.backbone) | given if adopted is not None else {}
    choices = build.derive(_from_anywhere(run), given, splits, start.train)
    choices.reasons.update({k: v for k, v in reasons.items() if k not in given})
    choices = fit.fitted(choices, given)
    warnings = _mirrored(choices.run, given, splits)
    if adopted is None:
        return Settled(splits, choices, given, notes=warnings)
    tensors, moved = adopted.into(choices.run, build.heads_of(choices.run, splits))
    if choices.run.features == "once" and moved.new:
        what = f'the weights lack {", ".join(moved.new)}, and with features = "once" nothing but the head learns'
        raise BadInput(f"{what}; take --recipe finetune, or the architecture as the weights have it")
    return Settled(splits, choices, given, tensors, (f"{choices.run.weights}: {moved}", *warnings))


def resume(folder: str | Path, *, settings: Mapping[str, Any] | None = None, allow: tuple[str, ...] = ()) -> Trained:
    """Goes on from the newest whole state. What changed since then is refused and listed, unless allowed key by key."""
    place = Path(folder)
    if not (place / "run.json").is_file():
        raise BadInput(f"{place} holds no run.json; give the folder of a run, such as runs/photos-1")
    for key in SETTLED & set(settings or {}):
        raise BadInput(f"{key} is settled when a run starts; go on without it ({SETTLED_CURE})")
    if (settings or {}).get("train.batch") == fit.AUTO:
        raise BadInput("a batch of auto is settled when a run starts; go on without it")
    written = read_plain(place / "run.json")
    before = decode(Run, written.get("run"), f"{place / 'run.json'}: run")
    run, given = override(before, [dict(settings or {})])
    run = _from_anywhere(run)
    refuse_missing(run.train.sinks)
    with distributed.processes(torch.device(choose.device(run.train.device)[0])):
        splits = build.open_splits(run)
        old = read_plain(place / "data.json") | build.settings(before)
        state.refuse_changes(old, _manifest(splits) | build.settings(run), allow)
        if (here := sum(head.outputs for head in build.heads_of(run, splits))) != run.model.classes:
            there = run.model.classes
            raise BadInput(f"the model has {there} classes and the data {here}; a new number needs a new run")

        def began() -> None:
            """What was allowed is the run from now on; what is refused before its first step leaves it as it was."""
            if parallel.is_main() and (given or allow):
                _write(place, run, written.get("origins", {}) | given, splits, written)

        return _train(run, splits, place, allow, start_again(run, splits, place), began)


def _train(
    run: Run,
    splits: Splits,
    folder: Path,
    allow: tuple[str, ...],
    start: Mapping[str, Tensor],
    began: Callable[[], None] | None = None,
) -> Trained:
    with _alone(folder) as hold_again:
        built = build.objects(run, splits, folder, allow, start)

        def batches(step: int) -> Iterator[Batch]:
            """Asked for when nothing is left that could be refused: the state is there, the first step comes next."""
            if began is not None:
                began()
                hold_again()
            return built.batches(step)

        done = train_objective(run.train, built.objective, batches, built.job)
        peak = peak_bytes(torch.device(choose.device(run.train.device)[0]))
        page = report.attempt(folder, splits) if parallel.is_main() else None
        return Trained(folder, done.metrics, peak, parallel.is_main(), page)


@contextmanager
def _alone(folder: Path) -> Iterator[Callable[[], None]]:
    """Two trainers in one run folder would each save over the other's states. Inside, what it gives is called where the
    file that is held was written anew."""
    held: list[int | None] = []

    def hold_again() -> None:
        held.append(distributed.on_every_rank(lambda: hold(folder / "data.json")))

    try:
        hold_again()
        yield hold_again
    finally:
        for handle in held:
            if handle is not None:
                os.close(handle)


def _from_anywhere(run: Run) -> Run:
    """Pictures and weights are found again from another working folder."""
    held_out = run.data.validation and absolute(run.data.validation)
    weights = run.weights and (run.weights if is_name(run.weights) else os.path.abspath(run.weights))
    added = tuple(absolute(address) for address in run.data.add)
    data = replace(run.data, path=absolute(run.data.path), validation=held_out, add=added)
    learns = run.objective
    if isinstance(learns, DistillConfig) and learns.teacher and not is_name(learns.teacher):
        learns = replace(learns, teacher=os.path.abspath(learns.teacher))
    return replace(run, weights=weights, data=data, objective=learns)


def _part(source: str | Path | Mapping[str, Any], tops: tuple[str, ...], drop: bool = False) -> dict[str, Any]:
    """The settings below these keys, or all others: some must be known before the others can be read."""
    flat = flatten(source if isinstance(source, Mapping) else read_plain(Path(source)))
    return {key: value for key, value in flat.items() if (key.split(".")[0] in tops) != drop}


def _start(draft: Run, asked: Asked, splits: Splits, adopted: Adopted | None) -> tuple[Run, dict[str, tuple[Any, str]]]:
    """The recipe with the architecture: that of the weights, or chosen by the size of the pictures."""
    recipe, model = asked.recipe, asked.model
    reasons: dict[str, tuple[Any, str]] = {}
    if adopted is not None:
        if recipe is None and not draft.labelled:
            recipe = "scratch"
            reasons["recipe"] = (recipe, "all of the network goes on learning")
        if recipe is None:
            recipe = "finetune"
            reasons["recipe"] = (recipe, "it starts from weights")
        reasons["model"] = (model or adopted.name, "the weights are of it")
        run = adopted.start(asked.by_method(RECIPES[recipe](draft.data.path)))
        side = median_side(splits.train)
        size = adopted.size_for(side) if recipe == "finetune" else 0
        if size:
            reasons["size"] = (size, f"the pictures have about {side} px only: less work, more passes in the same time")
        return replace(run, size=size), reasons
    if recipe in ADAPTING:
        raise BadInput(f"the recipe {recipe} starts from weights; add --weights RUN, MODEL or FILE")
    side = median_side(splits.train)
    if recipe is None:
        recipe = "compact" if side <= SMALL and (model is None or model.startswith("vit_n")) else "scratch"
        reasons["recipe"] = (recipe, f"the pictures have about {side} px")
    if model is None:
        model = ("vit_n4" if side <= TINY else "vit_n8") if recipe == "compact" else "vit_t16"
        reasons["model"] = (model, f"the {recipe} recipe for pictures of about {side} px")
    run = replace(asked.by_method(RECIPES[recipe](draft.data.path)), model=classifier(model, 0))
    if recipe == "compact":
        patch = run.model.backbone.least
        size = max(4 * patch, -(-min(side, SMALL) // patch) * patch)
        reasons["size"] = (size, f"the pictures' {side} px, in whole patches of {patch}")
        run = replace(run, size=size)
    return run, reasons


def _mirrored(run: Run, given: Mapping[str, str], splits: Splits) -> tuple[str, ...]:
    """A picture of a left turn is one of a right turn in the mirror."""
    flip = run.data.augment.flip if run.labelled and run.data.augment is not None else 0.0
    name = sided(name for head in splits.heads for name in head.classes)
    if name is None or not flip or "data.augment.flip" in given:
        return ()
    told = f"{name!r} says a side, and {100 * flip:g} % of the pictures are mirrored"
    return (f"{told}; if that matters: --data.augment.flip 0",)


def _new_folder(run: Run) -> Path:
    """runs/photos-1, or the next free number; a name that was given is never written over. The same on all ranks."""

    data = Path(run.data.path).resolve()
    if is_local(run.data.path) and data in (Path(run.folder).resolve(), *Path(run.folder).resolve().parents):
        raise BadInput(f"{run.folder} lies in the data folder {data}, which is only read; set --folder elsewhere")

    def make() -> str:
        if run.name and (Path(run.name).name != run.name or run.name in (".", "..")):
            raise BadInput(f"--name {run.name} is no name of a folder inside {run.folder}; leave out slashes")
        name = run.name or stem(run.data.path)
        for number in range(1, 100_000):
            folder = Path(run.folder) / (name if run.name else f"{name}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if run.name:
                    raise BadInput(f"{folder} is there already; choose another --name, or --resume it") from None
                continue
            except OSError as error:
                raise BadInput(f"{folder} cannot be made ({error.strerror}); set --folder to a writable one") from None
            return str(folder)
        raise BadInput(f"{run.folder} is full of runs named {name}; choose a --name")

    return Path(parallel.gather_objects(distributed.on_every_rank(make))[0])


def _forget_unstarted(folder: Path) -> None:
    """A run that failed before its first row of figures and its first state leaves no folder."""
    log, states = folder / "log.jsonl", folder / "state"
    started = (log.is_file() and log.stat().st_size > 0) or (states.is_dir() and any(states.iterdir()))
    if parallel.is_main() and not started:
        remove_folder(folder)


def _tell(splits: Splits, choices: Choices, notes: tuple[str, ...]) -> None:
    held = len(splits.val) if splits.val is not None else 0
    of = f"of {len(splits.classes)} classes" if splits.classes else f"with {len(splits.targets)} targets"
    of = of if splits.classes or splits.targets else "without classes"
    print(f"{len(splits.train):,} training and {held:,} held-out pictures {of}", file=sys.stderr)
    if not choices.run.labelled and splits.classes:
        print("  classes are not learned; by them it is judged what was learned", file=sys.stderr)
    for note in [*splits.notes, *notes]:
        print(f"  {readable(note)}", file=sys.stderr)
    for key, (value, why) in choices.reasons.items():
        shown = f"{value:.3g}" if isinstance(value, float) else value
        print(f"  {key} = {shown}  ({why})", file=sys.stderr)


def _manifest(splits: Splits) -> dict[str, Any]:
    """Every file by name and size, to say later what changed."""
    out: dict[str, Any] = build.outputs_of(splits)
    for key, source in (("data.train", splits.train), ("data.val", splits.val)):
        out[key] = [f"{name} ({size} bytes)" for name, size in source.manifest()] if source is not None else []
    return out


def _origins(run: Run, given: dict[str, str], choices: Choices) -> dict[str, str]:
    """Every setting -> who decided: a file's name, "given", "chosen: why", or "recipe"."""
    told = {
        "name": "chosen: the data's name and the next free number",
        "model.classes": "chosen: the data's classes" if run.labelled else "chosen: what the method asks for",
        "preprocess": "chosen: what the architecture takes",
    }
    told |= {"model.backbone.image_size": "chosen: size"} if run.size else {}
    told |= {} if run.labelled else dict.fromkeys(("objective", "data.views", "data.augment", "data.mix"), "method")
    told |= {key: f"chosen: {why}" for key, (_, why) in choices.reasons.items()} | given
    out = {key: origin for key, origin in told.items() if key in ("recipe", "model")}
    for key in flatten(encode(run)):
        parts = key.split(".")
        above = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        if parts[-1] != TAG:
            out[key] = next((told[k] for k in above if k in told), "recipe")
    return out


def _write(folder: Path, run: Run, origins: dict[str, str], splits: Splits, known: Mapping[str, Any]) -> None:
    """`known`: the names of recipe and model, or all that stood there, when a run goes on with something changed: then
    its own command stays the first."""
    facts: dict[str, Any] = {"tessella": __version__, "torch": torch.__version__, "command": sys.argv}
    facts |= {"folder": os.getcwd(), "processes": parallel.world()}
    facts |= {key: known[key] for key in ("recipe", "model", "method") if known.get(key)}
    facts |= {"machine": machine(choose.device(run.train.device)[0])}
    if "command" in known:
        again = [*known.get("resumed", []), sys.argv]
        facts |= {key: known[key] for key in ("command", "folder", "processes") if key in known} | {"resumed": again}
    written = {"run": encode(run), "origins": origins, **facts}
    write_file(folder / "data.json", json.dumps(_manifest(splits)) + "\n")
    write_file(folder / "run.json", json.dumps(written, indent=1) + "\n")  # last: who finds it may resume
