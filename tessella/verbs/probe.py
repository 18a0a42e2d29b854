"""`evaluate --probe`: how well the frozen features of a network tell the classes of any data apart.

A probe is fitted on the training part of the data and judged on the part held out; the network learns nothing, and
needs no head, or one of other classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..card import Head
from ..config import nearest
from ..data.origins.open import open_data
from ..data.source import Source, Splits
from ..errors import BadInput
from ..metrics.linear import probe as linear
from ..metrics.neighbours import VoteConfig, vote
from ..metrics.predictions import Array, Predictions
from ..metrics.summary import summary
from ..runtime.model import Model
from .evaluate import Evaluation
from .labelled import Features, Reading, features, how_read, opened, trained_on

KINDS = ("knn", "linear")


def probe(
    source: str | Path,
    data: str | Path,
    kind: str = "knn",
    *,
    like: str | None = None,
    reading: Reading | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Classes are those of the data. One pass over each part; pictures are prepared as the model's card says."""
    if kind not in KINDS:
        raise BadInput(f"there is no probe {kind!r}{nearest(kind, KINDS)}")
    reading = reading or Reading()
    how = how_read(Path(source), str(data), settings or {})
    splits = open_data(how)
    train, val = _labelled(splits)
    model = opened(source, like, reading, headless=True)
    known, asked = (_features(model, part, reading) for part in (train, val))
    assert train.labels is not None and val.labels is not None
    labels, count = train.labels[known.rows], len(splits.classes)
    outputs, told = _answers(kind, (known.vectors, labels), asked.vectors, count)
    head = Head(name="label", task="classify", classes=splits.classes)
    found = Predictions(asked.ids, val.labels[asked.rows], outputs)
    width = known.vectors.shape[1]
    note = f"{told['what']}, fitted on {width} frozen features of {len(known.ids):,} training pictures"
    return Evaluation(
        metrics=summary(found, "classify"),
        heads=(head,),
        found={"label": found},
        notes=(*splits.notes, note),
        unreadable=known.unreadable | asked.unreadable,
        learned=trained_on(Path(source), val, how.path),
        about={"probe": told | {"kind": kind, "features": width, "training_pictures": len(known.ids)}},
    )


def _labelled(splits: Splits) -> tuple[Source, Source]:
    if splits.val is None:
        raise BadInput("a probe is judged on pictures that it was not fitted on, and there are none; add a val/ folder")
    if splits.train.labels is None or splits.val.labels is None:
        raise BadInput("a probe needs one class for each picture, and these have none; name it with --data.label")
    return splits.train, splits.val


def _features(model: Model, source: Source, reading: Reading) -> Features:
    assert source.labels is not None
    return features(model, source.take(np.flatnonzero(source.labels >= 0)), reading, model.classifier.embed)


def _answers(kind: str, known: tuple[Array, Array], asked: Array, classes: int) -> tuple[Array, dict[str, Any]]:
    """(logits (N, classes), what was fitted)."""
    if kind == "knn":
        cfg = VoteConfig()
        cfg = replace(cfg, neighbours=min(cfg.neighbours, len(known[0])))
        what = f"{cfg.neighbours} nearest neighbours by cosine"
        return vote(*known, asked, classes, cfg), {"what": what, "neighbours": cfg.neighbours}
    fitted = linear(*known, classes)
    what = f"logistic regression, penalty {fitted.penalty:g}"
    return fitted(asked), {"what": what, "penalty": fitted.penalty, "tried": fitted.tried}
