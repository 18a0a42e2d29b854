"""What the files beside somebody's weights say of them: network, pictures, classes, licence, and how tensors are named.

They beat whatever we would assume. A file that says something else than the tensors is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...card import Head, Preprocess, Task
from ...errors import BadInput
from ...models.architecture import ClassifierConfig
from .facts import Facts

NUMBERS = {"LABEL_{}", "class {}"}  # names that only count


@dataclass(frozen=True, kw_only=True)
class Told:
    """Of one set of weights, before its tensors are read."""

    library: str  # whose files these are
    where: str  # the file that says it
    config: ClassifierConfig  # its head, pooler and projection as far as the files tell: the tensors settle them
    preprocess: Preprocess | None = None  # None: nothing is said of pictures
    classes: tuple[str, ...] = ()  # (): nothing is said of their names
    outputs: int | None = None  # how many, where that is said
    task: Task = "classify"
    layouts: tuple[str, ...]  # keys of LAYOUTS to read the tensors by, the likeliest first
    before: str = ""  # stands before all names where the network is part of a larger one, and is added where it is not
    idle: tuple[str, ...] = ()  # beginnings of our names that such a file may hold and its network does not use
    licence: str | None = None

    @property
    def lacks(self) -> list[str]:
        """What is said nowhere."""
        found = [("preprocessing", self.preprocess), ("a licence", self.licence)]
        return [what for what, said in found if said is None]


def named(facts: Facts, key: str, found: Any) -> tuple[str, ...]:
    """Names of outputs in their order, from a list or from a table by number; () where they only count. A name that two
    outputs share has its number behind it."""
    if isinstance(found, dict):
        try:
            by_number = {int(number): str(name) for number, name in found.items()}
        except ValueError:
            raise facts.refused(key, "names by number are wanted") from None
        if sorted(by_number) != list(range(len(by_number))):
            raise facts.refused(key, f"a name for each number from 0 to {len(by_number) - 1} is wanted")
        names = [by_number[i] for i in range(len(by_number))]
    elif isinstance(found, (list, tuple)):
        names = [str(name) for name in found]
    else:
        raise facts.refused(key, "a list of names, or names by number, is wanted")
    if any(all(name == pattern.format(i) for i, name in enumerate(names)) for pattern in NUMBERS):
        return ()
    return distinct(names)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    times = Counter(names)
    return tuple(name if times[name] == 1 else f"{name} ({i})" for i, name in enumerate(names))


def heads(told: Told, config: ClassifierConfig) -> tuple[Head, ...]:
    """What the outputs mean; without names they have numbers."""
    if told.task == "number":
        if config.classes != 1:
            raise BadInput(f"{told.where}: {config.classes} numbers come out of one head; 1 is known here")
        return (Head(name="label", task="number"),)
    numbered = tuple(f"class {i}" for i in range(config.classes))
    classes = told.classes if told.classes and config.classes else numbered
    return (Head(name="label", task=told.task, classes=classes),)


def ratio(hidden: int, width: int) -> float:
    """The mlp_ratio that gives exactly `hidden`: a quotient may end a hair below it."""
    out = hidden / width
    return out if int(width * out) == hidden else math.nextafter(out, math.inf)


def share(size: int, large: int) -> float:
    """The crop with which a picture is resized to `large` before `size` of it are kept."""
    out = size / large
    return out if math.floor(size / out) == large else math.nextafter(out, 0)


def of_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """For as many channels as the network has, where the file speaks of others: the mean of its colours."""
    if preprocess.channels == channels:
        return preprocess
    mean, std = ((sum(v) / len(v),) * channels for v in (preprocess.mean, preprocess.std))
    return replace(preprocess, channels=channels, mean=mean, std=std)
