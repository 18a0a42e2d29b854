"""What the outputs of ImageNet's classifiers mean: names of WordNet's synsets, in the order of each label set."""

from __future__ import annotations

import lzma
from collections import Counter
from functools import cache
from importlib.resources import files

from .catalog import COUNTS, Labels

PACKED = "imagenet.tsv.xz"  # a line a synset, in order: number of WordNet, the label sets that it is in, first name
BITS: dict[Labels, int] = {"imagenet-1k": 1, "imagenet-12k": 2, "imagenet-21k": 4}


@cache
def names(labels: Labels) -> tuple[str, ...]:
    """In the order of the outputs; a name that two classes share has their numbers behind it."""
    text = lzma.decompress(files("tessella.weights").joinpath("bundled", PACKED).read_bytes()).decode()
    rows = [line.split("\t") for line in text.splitlines()]
    mine = [(number, name) for number, sets, name in rows if int(sets) & BITS[labels]]
    times = Counter(name for _, name in mine)
    assert len(mine) == COUNTS[labels], "the file is bundled with this list"
    return tuple(name if times[name] == 1 else f"{name} ({number})" for number, name in mine)
