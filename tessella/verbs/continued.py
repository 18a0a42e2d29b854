"""`train --from RUN --add DATA`: a finished classifier learns more classes, and is kept from forgetting the old ones.

It starts from the run's weights, sees some of the run's own pictures again (replay), and of every picture it is also
taught what the model of the run says of the classes that it knows (learning without forgetting, arXiv 1606.09282).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..build import Run
from ..config import decode, read_plain
from ..data.origins.open import absolute
from ..errors import BadInput

METHOD = "distill"


class GoingOn(NamedTuple):
    """What `train` is asked for."""

    data: str
    settings: dict[str, Any]
    method: str = METHOD


def going_on(run: str | Path, add: str | Path, settings: Mapping[str, Any]) -> GoingOn:
    """`settings` win over what follows from the run."""
    place = Path(run)
    if not (place / "run.json").is_file():
        raise BadInput(f"{place} holds no run.json; give the folder of a run, such as runs/photos-1")
    before = decode(Run, read_plain(place / "run.json").get("run"), f"{place / 'run.json'}: run")
    if not before.labelled or before.data.targets:
        what = "learned several things at once" if before.data.targets else "learned no classes"
        raise BadInput(f"{place} {what}; --from goes on with a run that learned one class for each picture")
    own = {
        "weights": str(place),
        "objective.teacher": str(place),
        "objective.kind": "soft",
        "objective.divergence": "sum",  # of few classes; the mean is for a thousand
        "objective.partial": True,
        "data.add": [*before.data.add, absolute(add)],
        "data.validation": before.data.validation,
        "data.val_share": before.data.val_share,
        "data.seed": before.data.seed,
        "data.kind": before.data.kind,
        "data.image": before.data.image,
        "data.label": before.data.label,
        "data.split": before.data.split,
    }
    return GoingOn(before.data.path, {key: value for key, value in own.items() if value is not None} | dict(settings))
