"""Tessella: one toolkit for the whole life of a Vision Transformer.

`import tessella as ts`: `ts.train`, `ts.resume`, `ts.evaluate`, `ts.predict`, `ts.load`, `ts.Model`,
`ts.Run`. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Model", "Run", "__version__", "anomalies", "calibrate", "check", "convert", "evaluate", "inspect", "load",
    "predict", "probe", "resume", "train",
]  # fmt: skip

if TYPE_CHECKING:
    from .runtime.load import load
    from .runtime.model import Model
    from .runtime.run import Run
    from .verbs.anomaly import anomalies
    from .verbs.calibrate import calibrate
    from .verbs.check import check
    from .verbs.convert import convert
    from .verbs.evaluate import evaluate
    from .verbs.inspect import inspect
    from .verbs.predict import predict
    from .verbs.probe import probe
    from .verbs.train import resume, train

_WHERE = {
    "Model": "runtime.model",
    "anomalies": "verbs.anomaly",
    "calibrate": "verbs.calibrate",
    "convert": "verbs.convert",
    "Run": "runtime.run",
    "check": "verbs.check",
    "evaluate": "verbs.evaluate",
    "inspect": "verbs.inspect",
    "load": "runtime.load",
    "predict": "verbs.predict",
    "probe": "verbs.probe",
    "resume": "verbs.train",
    "train": "verbs.train",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'tessella' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
