"""The training loop. `train(cfg, objective, batches)` takes any objective; no table has to know it.

Imported when asked for: whoever only asks `choose` for a device does not wait for the distributed parts of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import Job, Result, TrainConfig, train

__all__ = ["Job", "Result", "TrainConfig", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tessella.training' has no attribute {name!r}")
    return getattr(importlib.import_module(".trainer", __name__), name)
