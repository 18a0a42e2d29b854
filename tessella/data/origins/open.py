"""One address, whatever it names: a folder, an archive, shards, a table, a known set. The only place that chooses."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from ...card import LABEL, Head
from ...errors import BadInput
from ..source import NOTHING_HELD, DataConfig, Opened, Source, Splits, relabelled, split
from .asked import no_table, settle_asked, settle_for
from .folder import SUFFIXES, every_folder, open_all, open_folder
from .folder import open_labelled as labelled_folder
from .listing import Listing, as_it_lies, settle, settle_all, settle_known

Origin = Literal["folder", "archive", "shards", "table", "hub", "set"]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
KINDS = (
    "a folder, a .zip or .tar, shards/{000..099}.tar, a .csv, .jsonl or .parquet, "
    "a known set such as cifar10, or hf:owner/name"
)


def origin(address: str) -> Origin:
    """What kind of thing an address names; a local one must be there."""
    from .torchvision_sets import NAMES

    lower = address.lower()
    if lower.startswith("hf:"):
        return "hub"
    if "://" in address or "::" in address or (re.search(r"[{*?\[]", address) and not os.path.exists(address)):
        return "table" if lower.endswith(TABLES) else "shards"
    if os.path.isdir(address):
        return "folder"
    if os.path.isfile(address):
        if lower.endswith(ARCHIVES):
            return "archive"
        if lower.endswith(TABLES):
            return "table"
        raise BadInput(f"{address} is a file that holds no data set; give {KINDS}")
    if lower.split(":")[0] in NAMES:
        return "set"
    close = difflib.get_close_matches(lower.split(":")[0], NAMES, 1)
    raise BadInput(f"{address} is not there{f', did you mean {close[0]}?' if close else ''}; give {KINDS}")


def open_data(cfg: DataConfig) -> Splits:
    """What a training run reads."""
    listing = _listing(cfg)
    if listing is None and cfg.targets:
        raise BadInput(no_table(cfg.path, cfg.targets))
    if listing is None:
        if cfg.validation is None or _listing(replace(cfg, path=cfg.validation)) is None:
            return open_folder(cfg.path, validation=cfg.validation, val_share=cfg.val_share, seed=cfg.seed)
        splits = open_folder(cfg.path, val_share=0)
    else:
        splits = settle_asked(listing, cfg) if cfg.targets else settle(listing, cfg)
    if cfg.validation is None:
        return splits
    val, notes = open_for(cfg.validation, splits.heads, cfg)
    told = [note for note in splits.notes if "val_share" not in note]
    if absolute(cfg.validation) == absolute(cfg.path) and np.isin(val.rows, splits.train.rows).any():
        told.append(f"validation is the training data itself ({cfg.path}): its figures will flatter")
    return splits._replace(val=val, notes=told + notes)


def open_unlabelled(cfg: DataConfig) -> Splits:
    """What learning without labels reads: every picture of the training part. Where there are classes they are kept: by
    them it is judged what was learned."""
    if cfg.targets:
        what = f"data.targets names {', '.join(cfg.targets)}, and this method learns without labels"
        raise BadInput(f"{what}; leave it out")
    share = 0.0 if cfg.validation is not None else cfg.val_share
    listing = _listing(cfg)
    if listing is None:
        splits = open_all(cfg.path, val_share=share, seed=cfg.seed)
    else:
        splits = settle_all(listing, replace(cfg, val_share=share))
    if cfg.validation is None:
        return splits
    other = open_unlabelled(replace(cfg, path=cfg.validation, validation=None, val_share=0))
    held = other.train if other.val is None else other.val
    notes = [note for part in (splits, other) for note in part.notes if note != NOTHING_HELD]
    return splits._replace(val=relabelled(held, splits.classes), notes=notes)


def open_partly(cfg: DataConfig) -> Splits:
    """What learning from a few labels reads: all of the training part, with a label or without; a share of what has one
    is held out where no validation part is found."""
    splits = open_unlabelled(replace(cfg, val_share=0.0))
    everything, labels = splits.train, splits.train.labels
    if labels is None or len(np.unique(labels[labels >= 0])) < 2:
        what = f"{cfg.path} has no classes, and this method learns some pictures' classes"
        raise BadInput(f"{what}; lay labelled ones in class folders, the others in unlabelled/ beside them")
    rows, held = np.flatnonzero(labels >= 0), splits.val
    notes = [note for note in splits.notes if note != NOTHING_HELD]
    if held is not None and held.labels is not None:
        held = held.take(np.flatnonzero(held.labels >= 0))
    elif cfg.val_share:
        held = split(everything.take(rows), cfg.val_share, cfg.seed)[1]
        everything = everything.take(np.flatnonzero(~np.isin(everything.rows, held.rows)))
        notes.append(f"no validation part: {len(held):,} of {len(rows):,} labelled pictures held out")
    assert everything.labels is not None
    known = int((everything.labels >= 0).sum())
    notes.append(f"{known:,} of {len(everything):,} training pictures have a label")
    return Splits(everything, held, splits.classes, notes)


def open_labelled(address: str | Path, classes: Sequence[str], cfg: DataConfig | None = None) -> Opened:
    """What a network with these classes is evaluated on: the validation part where there is one, labels by name."""
    at = os.fspath(address)
    listing = _listing(replace(cfg or DataConfig(path=at), path=at))
    return labelled_folder(at, classes) if listing is None else settle_known(listing, classes)


def open_for(address: str | Path, heads: Sequence[Head], cfg: DataConfig) -> Opened:
    """What a network with these heads is evaluated on. A single class may lie in folders as well as in a column."""
    at = os.fspath(address)
    if len(heads) == 1 and heads[0].task == "classify" and (heads[0].name == LABEL or cfg.label is not None):
        return open_labelled(at, heads[0].classes, replace(cfg, targets=(), kinds={}))
    names = tuple(head.name for head in heads)
    listing = _listing(replace(cfg, path=at, targets=names, kinds={}, label=None))
    if len(heads) == 1 and heads[0].task == "classify" and (listing is None or listing.label is not None):
        return open_labelled(at, heads[0].classes, replace(cfg, targets=(), kinds={}))
    if listing is None:
        raise BadInput(no_table(at, names))
    return settle_for(listing, heads)


def open_splits(cfg: DataConfig) -> tuple[dict[str, Source], tuple[str, ...], list[str]]:
    """All parts by the name that they have there, none made, none left out; classes of all; what should be known."""
    listing = _listing(cfg)
    return every_folder(cfg.path) if listing is None else as_it_lies(listing)


def _listing(cfg: DataConfig) -> Listing | None:
    """None for class folders, which are read by folder.py directly."""
    if cfg.kind != "auto":
        return _of_kind(cfg)
    match origin(cfg.path):
        case "folder":
            return _in_folder(cfg)
        case "archive":
            from .archive import open_archive

            return open_archive(cfg.path, cfg)
        case "shards":
            from .shards import open_shards

            return open_shards(cfg.path, cfg)
        case "table":
            from .table import open_table

            return open_table(cfg.path, cfg)
        case "hub":
            from .hub import open_hub

            return open_hub(cfg.path, cfg)
        case "set":
            from .torchvision_sets import open_set

            return open_set(cfg.path, cfg)


def _of_kind(cfg: DataConfig) -> Listing:
    """Where the user says what it is."""
    match cfg.kind:
        case "coco":
            from .coco import open_coco

            return open_coco(cfg.path, cfg)
        case "voc":
            from .voc import open_voc

            return open_voc(cfg.path, cfg)
        case "masks":
            from .masks import open_masks

            return open_masks(cfg.path, cfg)
        case "yolo":
            from .yolo import open_yolo

            return open_yolo(cfg.path, cfg)
        case "auto":
            raise AssertionError("the caller looks at the address")


def _in_folder(cfg: DataConfig) -> Listing | None:
    """A folder may hold a table beside loose pictures, or shards."""
    from .table import open_table, table_in

    table = table_in(cfg.path, cfg.targets)
    if table is not None:
        listing = open_table(table, cfg)
        return replace(listing, notes=[f"read by the table in it, {os.path.basename(table)}", *listing.notes])
    with os.scandir(cfg.path) as entries:
        plain = [e.name.lower() for e in entries if not e.name.startswith(".")]
    suffixes = {os.path.splitext(name)[1] for name in plain}
    if ".tar" in suffixes and not suffixes & ({""} | SUFFIXES):
        from .shards import open_shards

        return open_shards(os.path.join(glob.escape(cfg.path), "*.tar"), cfg)
    return None


def absolute(address: str | Path) -> str:
    """The same address from any working folder."""
    given = os.fspath(address)
    if given.lower().startswith("hf:"):
        return f"hf:{os.path.abspath(given[3:])}" if os.path.exists(given[3:]) else given
    if "://" in given or "::" in given:
        return given
    from .torchvision_sets import NAMES

    return given if not os.path.exists(given) and given.lower().split(":")[0] in NAMES else os.path.abspath(given)


def is_local(address: str) -> bool:
    """Whether it is a path of this machine."""
    return absolute(address) != address or os.path.isabs(address)


def stem(address: str) -> str:
    """A short name for what lies at an address, fit for a folder: photos.zip is photos, hf:ylecun/mnist is mnist."""
    last = re.split(r"[/:\\]", re.sub(r"[{*?\[].*", "", address).rstrip("/:\\"))[-1]
    for suffix in sorted((*ARCHIVES, *TABLES), key=len, reverse=True):
        last = last.removesuffix(suffix)
    return re.sub(r"[^\w.-]+", "-", last).strip(".-") or "run"
