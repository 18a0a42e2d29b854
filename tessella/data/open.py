"""One address, whatever it names: a folder, an archive, shards, a table, a known set. The only place that chooses."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .folder import every_folder, open_folder
from .folder import open_labelled as labelled_folder
from .source import DataConfig, Opened, Source, Splits

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def open_data(cfg: DataConfig) -> Splits:
    """What a training run reads."""
    return open_folder(cfg.path, validation=cfg.validation, val_share=cfg.val_share, seed=cfg.seed)


def open_labelled(address: str | Path, classes: Sequence[str]) -> Opened:
    """What a network with these classes is evaluated on: the validation part where there is one, labels by name."""
    return labelled_folder(address, classes)


def open_splits(cfg: DataConfig) -> tuple[dict[str, Source], tuple[str, ...], list[str]]:
    """All parts by the name that they have there, none made, none left out; classes of all; what should be known."""
    return every_folder(cfg.path)


def absolute(address: str | Path) -> str:
    """The same address from any working folder."""
    given = os.fspath(address)
    if given.lower().startswith("hf:"):
        return f"hf:{os.path.abspath(given[3:])}" if os.path.exists(given[3:]) else given
    if "://" in given or "::" in given:
        return given
    return os.path.abspath(given)


def is_local(address: str) -> bool:
    """Whether it is a path of this machine."""
    return absolute(address) != address or os.path.isabs(address)


def stem(address: str) -> str:
    """A short name for what lies at an address, fit for a folder: photos.zip is photos, hf:ylecun/mnist is mnist."""
    last = re.split(r"[/:\\]", re.sub(r"[{*?\[].*", "", address).rstrip("/:\\"))[-1]
    for suffix in sorted((*ARCHIVES, *TABLES), key=len, reverse=True):
        last = last.removesuffix(suffix)
    return re.sub(r"[^\w.-]+", "-", last).strip(".-") or "run"
