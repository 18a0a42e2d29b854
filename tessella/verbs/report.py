"""`ts.report(run)`: what a run folder, its data and its model hold, gathered and written as report.html.

Training does it at its end. Whatever cannot be had (the data has moved, no model is there yet) leaves its section with
one line that says so: a report never costs a run.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..build import PREDICTIONS, QUARANTINE, Run, loader_of, open_splits
from ..card import Head, leaves
from ..config import decode, read_plain
from ..data.loading.quarantine import Quarantine
from ..data.pixels.preview import SIDE, encoded, preview, uri
from ..data.pixels.transforms import prepare
from ..data.source import Source, Splits
from ..durable import write_file
from ..errors import BadInput, readable
from ..explainers.attention import looked_at
from ..metrics.kept import kept
from ..metrics.predictions import Predictions, at_temperature
from ..models.architecture import Backbone, ClassifierConfig, ViTConfig
from ..models.classifier import Classifier
from ..models.presets import PRESETS
from ..models.size import macs, parameters
from ..models.vit import ViT
from ..report.mistakes import answers, chosen, shown
from ..report.run import page
from ..report.story import Looked, Plain, Shown, Story
from ..runtime.load import load
from ..runtime.model import Model
from . import shown as shown_of

NAME = "report.html"  # in the run folder
FIRST = 24  # pictures of the first step
LOOKS = 6  # pictures that are shown with the network's attention
TINT = (226, 84, 32)  # the colour of attention
PLACES = 8  # maps of the position embedding in each direction
T = TypeVar("T")


def attempt(folder: Path, splits: Splits | None = None) -> Path | None:
    """At the end of a run: what fails is one line, and the run is what it was."""
    try:
        return write(folder, splits)
    except Exception as error:
        why = readable(" ".join(f"{type(error).__name__}: {error}".split()))
        told = f"{NAME} was not written ({why}); the run is whole; try again: tessella train --resume {folder}"
        print(told, file=sys.stderr)
        return None


def write(folder: Path, splits: Splits | None = None) -> Path:
    """RUN/report.html, from what the run has kept; `splits`: the data, where it is open already."""
    if not (folder / "run.json").is_file():
        raise BadInput(f"{folder} holds no run.json; give the folder of a run, such as runs/photos-1")
    write_file(folder / NAME, page(gather(folder, splits)))
    return folder / NAME


def write_evaluation(
    path: Path, source: Path, model: Model, held: Source, tested: str, found: Mapping[str, Predictions]
) -> None:
    """The same page of other pictures: those by which a model, of a run or of anywhere, was just judged."""
    network = _network(model.classifier.cfg)
    story = gather(source) if (source / "run.json").is_file() else Story(name=source.name, network=network)
    g = Gathering()
    gone = ("pictures", "attention", "found")  # they were of the run's own pictures
    story = replace(
        story, found=found, heads=model.card.heads, tested=tested, attention=(),
        missing={name: why for name, why in story.missing.items() if name not in gone},
    )  # fmt: skip
    write_file(path, page(_seen(story, g, model, held)))


class Gathering:
    """Runs what may fail, and keeps why it did, for the section that goes without."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}

    def try_(self, section: str, what: Callable[[], T], otherwise: T) -> T:
        """What it gives, or `otherwise`."""
        try:
            return what()
        except BadInput as error:
            self.missing[section] = f"Nothing to show: {error}."
        except Exception as error:  # a section is not worth a report
            self.missing[section] = f"This could not be made ({type(error).__name__}: {error})."
        return otherwise


def gather(folder: Path, splits: Splits | None = None) -> Story:
    """Everything that the page is made from."""
    written, g = read_plain(folder / "run.json"), Gathering()
    run = decode(Run, written.get("run"), f"{folder / 'run.json'}: run")
    splits = splits or g.try_("data", lambda: open_splits(run), None)
    model = g.try_("model", lambda: load(folder), None)
    heads = model.card.heads if model is not None else splits.heads if splits is not None else ()
    found: dict[str, Predictions] = g.try_("found", lambda: _found(folder, heads), {}) if run.labelled else {}
    story = Story(
        name=folder.resolve().name,
        written=written,
        rows=_lines(folder / "log.jsonl"),
        heads=heads,
        found=found,
        network=_network(run.model),
        quarantined=_lines(folder / QUARANTINE),
    )
    if splits is None:
        absent = {name: f"Nothing to show: {g.missing['data']}" for name in ("first", "attention")}
        return replace(story, missing=absent | g.missing)
    held = splits.val
    if held is not None:
        story = _seen(story, g, model, held) if run.labelled else _unlabelled(story, g, model, held)
    nothing: tuple[Shown, ...] = ()
    first = g.try_("first", lambda: _first(run, splits, heads), nothing)
    known = (("train", splits.train), ("held out", held))
    sources = {name: source for name, source in known if source is not None}
    totals = {name: len(source) for name, source in sources.items()}
    parts = {name: _counts(source, splits.classes) for name, source in sources.items()}
    story = replace(story, first=first, totals=totals, parts={n: c for n, c in parts.items() if c})
    return replace(story, notes=tuple(splits.notes), missing=g.missing)


def _unlabelled(story: Story, g: Gathering, model: Model | None, held: Source) -> Story:
    """What a network shows that was taught no classes."""
    if model is None:
        return story
    nothing: tuple[Shown, ...] = ()
    told = g.try_("components", lambda: shown_of.components(model, held), nothing)
    done = g.try_("painted", lambda: shown_of.painted(model, held), nothing)
    return replace(story, components=told, painted=done, positions=g.try_("positions", lambda: _positions(model), ""))


def _seen(story: Story, g: Gathering, model: Model | None, held: Source) -> Story:
    """With what pictures and model show of it."""
    rows, none = _rows_wanted(story.found, story.heads), dict[str, str]()
    story = replace(story, pictures=g.try_("pictures", lambda: _pictures(held, story.found, rows), none))
    if model is not None:
        story = replace(story, positions=g.try_("positions", lambda: _positions(model), ""))
        if story.found:
            nothing: tuple[Looked, ...] = ()
            story = replace(story, attention=g.try_("attention", lambda: _attention(model, held, story), nothing))
    return replace(story, missing={**story.missing, **g.missing})


def _found(folder: Path, heads: tuple[Head, ...]) -> dict[str, Predictions]:
    """Of heads that the model has: another model's answers say nothing of this one. Training keeps logits as they are;
    a temperature that was found since then holds for them too."""
    path = folder / PREDICTIONS
    if not path.is_file():
        raise BadInput("no held-out pictures were evaluated yet, so nothing is known of how good it is")
    held = kept(path)
    fits = {head.name: head for head in heads if head.name in held}
    shapes = {name: held[name].outputs.shape[1:] for name in fits}
    return {n: at_temperature(held[n], head.temperature) for n, head in fits.items() if shapes[n] == (head.outputs,)}


def _lines(path: Path) -> tuple[Plain, ...]:
    """Objects of a file of JSON lines; one that a crash cut in half is left out."""
    if not path.is_file():
        return ()
    out = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            out.append(row)
    return tuple(out)


def _network(cfg: ClassifierConfig) -> Plain:
    told: Plain = {"name": _preset(cfg.backbone), "parameters": parameters(cfg), "macs": macs(cfg)}
    return told | {"pool": cfg.pool.kind, "size": list(cfg.backbone.size)}


def _preset(backbone: Backbone) -> str:
    """Its name in `tessella list`, whatever the size of the pictures."""
    for name, cfg in PRESETS.items():
        if replace(backbone, image_size=cfg.image_size, channels=cfg.channels, drop_path=cfg.drop_path) == cfg:
            return name
    kind = type(backbone).__name__.removesuffix("Config")
    return f"A {kind} of {backbone.looks}"


def _counts(source: Source, classes: tuple[str, ...]) -> dict[str, int]:
    if source.labels is None:
        return {}
    counts = np.bincount(source.labels[source.labels >= 0], minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=False))


# -- pictures -----------------------------------------------------------------------------------------------------


def _rows_wanted(found: Mapping[str, Predictions], heads: tuple[Head, ...]) -> dict[str, list[int]]:
    return {head.name: shown(found[head.name], head) for head in heads if head.name in found}


def _pictures(source: Source, found: Mapping[str, Predictions], rows: Mapping[str, list[int]]) -> dict[str, str]:
    wanted = {found[head].ids[row] for head, picked in rows.items() for row in picked}
    return {name: preview(source, i) for i, name in enumerate(source.ids) if name in wanted}


def _first(run: Run, splits: Splits, heads: tuple[Head, ...]) -> tuple[Shown, ...]:
    """Drawn again: what a position holds follows from (seed, epoch, sample), whoever asks."""
    if run.preprocess is None or run.preprocess.channels not in (1, 3) or run.preprocess.depth != "uint8":
        raise BadInput("the network takes no grey or colour pictures of 8 bits, and others cannot be shown as they are")
    some = min(FIRST, run.train.batch if isinstance(run.train.batch, int) else FIRST)
    small = replace(run, train=replace(run.train, batch=some, device="cpu"), data=replace(run.data, workers=0), name="")
    stream = loader_of(small, splits, Quarantine(None, len(splits.train), 1.0, "train")).batches(0)
    try:
        batch = next(stream)
    finally:
        stream.close()
    pictures = [_as_shown(batch, i, run.model.backbone) for i in range(len(batch["ids"]))]
    uris = [encoded(picture.permute(1, 2, 0).numpy()) for picture in pictures]
    words = [_labels(batch, i, heads) if run.labelled else "" for i in range(len(uris))]
    return tuple(Shown(name, at, told) for name, at, told in zip(batch["ids"], uris, words, strict=True))


def _as_shown(batch: Mapping[str, Any], i: int, backbone: Backbone) -> Tensor:
    """(C, H, W): of several views side by side the large ones; hidden patches are pale."""
    image, mask = batch["image"][i], batch["mask"][i] if "mask" in batch else None
    if mask is not None and isinstance(backbone, ViTConfig):
        pale = mask.repeat_interleave(backbone.patch_size, -2).repeat_interleave(backbone.patch_size, -1)
        image = torch.where(pale.unsqueeze(-3), image // 5 + 190, image)
    return image if image.ndim == 3 else torch.cat(list(image), dim=-1)


def _labels(batch: Mapping[str, Any], i: int, heads: tuple[Head, ...]) -> str:
    """What the network was told of this picture, mixtures included."""
    out = []
    for head, leaf in zip(heads, leaves(heads).values(), strict=True):
        if leaf not in batch:
            continue
        value = batch[leaf][i]
        lead = f"{head.name}: " if len(heads) > 1 else ""
        if head.task != "classify" and bool(torch.isnan(value).all()):  # nobody knows, and it was told nothing
            continue
        if head.task == "number":
            out.append(f"{lead}{float(value):.4g}")
        elif head.task == "tags":
            out.append(lead + (", ".join(head.classes[k] for k in torch.nonzero(value > 0.5).flatten()) or "none"))
        elif int(value) >= 0:
            own = head.classes[int(value)]
            share = float(batch["mix"][i]) if "mix" in batch and len(heads) == 1 else 1.0
            other = head.classes[int(batch["mix_label"][i])] if share < 1 else own
            out.append(
                lead + (own if other == own else f"{100 * share:.0f} % {own}, {100 - 100 * share:.0f} % {other}")
            )
    return " · ".join(out)


# -- what the network sees ----------------------------------------------------------------------------------------


def _attention(model: Model, source: Source, story: Story) -> tuple[Looked, ...]:
    """Worst mistakes and right answers, half and half."""
    if model.preprocess.channels not in (1, 3) or model.preprocess.depth != "uint8":
        raise BadInput("the network takes no grey or colour pictures of 8 bits, and others cannot be shown as they are")
    head = next(head for head in story.heads if head.name in story.found)
    p = story.found[head.name]
    rows = shown(p, head)
    if head.task == "classify":
        a = answers(p)
        picked = chosen(a)
        places = [*picked.worst[: LOOKS // 2], *picked.best[:LOOKS]]
        rows = [int(a.rows[i]) for i in places]
    wanted = {p.ids[row]: row for row in rows[:LOOKS]}
    out: dict[int, Looked] = {}
    for i, name in enumerate(source.ids):
        if name in wanted:
            out[wanted[name]] = _looked(
                model, model.classifier, wanted[name], prepare(source.read(i), model.preprocess, name)
            )
    return tuple(out[row] for row in wanted.values() if row in out)


def _looked(model: Model, network: Classifier, row: int, pixels_CHW: Tensor) -> Looked:
    """The picture as the network saw it, and the same in grey with the map in colour."""
    images = model.finish({"image": pixels_CHW[None].to(model.device)})["image"]
    map_hw = looked_at(network, images)[0].float().cpu()
    factor = max(1, round(SIDE / max(pixels_CHW.shape[-2:])))  # tiny pictures: whole pixels, so that nothing is mud
    plain = F.interpolate(pixels_CHW[None].float(), scale_factor=factor, mode="nearest")[0]
    even = map_hw * map_hw.numel()  # 1: no more than from anywhere else
    more = F.interpolate(even[None, None], size=plain.shape[-2:], mode="bicubic", align_corners=False)[0, 0] - 1
    share = 0.85 * (more / more.flatten().quantile(0.99).clamp_min(1.5)).clamp(0, 1)  # a flat map stays grey
    pale = 70 + 0.55 * plain.mean(0)  # neither black nor white, so that colour is seen everywhere
    lit = torch.stack([pale * (1 - share) + tint * share for tint in TINT])
    both = [x.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy() for x in (plain, lit)]
    return Looked(row, encoded(both[0]), encoded(both[1]))


def _positions(model: Model) -> str:
    """Cosines of each place's embedding with all others', as one picture of small maps with gaps."""
    vit = model.classifier.backbone
    cfg, table = (vit.cfg, vit.pos_embed) if isinstance(vit, ViT) else (None, None)
    if cfg is None or cfg.position != "learned" or table is None:
        kind = "none" if cfg is None or cfg.position == "none" else cfg.position
        raise BadInput(f"positions are not learned here ({kind}), so there is nothing to compare")
    rows, columns = cfg.grid
    patches = F.normalize(table[0, table.shape[1] - rows * columns :].detach().float().cpu(), dim=1)
    alike = (patches @ patches.T).view(rows, columns, rows, columns)
    own = torch.eye(rows * columns, dtype=torch.bool).view(rows, columns, rows, columns)
    low, high = alike.min(), alike[~own].max() if rows * columns > 1 else alike.max()
    shade = ((alike - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    picked = [np.unique(np.linspace(0, n - 1, min(PLACES, n)).round().astype(int)) for n in (rows, columns)]
    canvas = np.zeros((len(picked[0]) * (rows + 1) - 1, len(picked[1]) * (columns + 1) - 1, 4), np.uint8)
    canvas[..., :3] = TINT  # with transparency: it stands on light and on dark
    for i, y in enumerate(picked[0]):
        for j, x in enumerate(picked[1]):
            at = slice(i * (rows + 1), i * (rows + 1) + rows), slice(j * (columns + 1), j * (columns + 1) + columns)
            canvas[(*at, 3)] = (255 * (0.04 + 0.96 * shade[y, x].numpy() ** 1.5)).astype(np.uint8)
    held = io.BytesIO()
    Image.fromarray(canvas, "RGBA").save(held, "PNG", optimize=True)
    return uri(held, "png")
