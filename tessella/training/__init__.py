"""The training loop. `train(cfg, objective, batches)` takes any objective; no table has to know it."""

from .trainer import Job, Result, TrainConfig, train

__all__ = ["Job", "Result", "TrainConfig", "train"]
