"""One address, whatever it names: a folder, an archive, shards, a table, a known set. The only place that chooses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .folder import every_folder, open_folder
from .folder import open_labelled as labelled_folder
from .source import DataConfig, Opened, Source, Splits


def open_data(cfg: DataConfig) -> Splits:
    """What a training run reads."""
    return open_folder(cfg.path, validation=cfg.validation, val_share=cfg.val_share, seed=cfg.seed)


def open_labelled(address: str | Path, classes: Sequence[str]) -> Opened:
    """What a network with these classes is evaluated on: the validation part where there is one, labels by name."""
    return labelled_folder(address, classes)


def open_splits(cfg: DataConfig) -> tuple[dict[str, Source], tuple[str, ...], list[str]]:
    """All parts by the name that they have there, none made, none left out; classes of all; what should be known."""
    return every_folder(cfg.path)
