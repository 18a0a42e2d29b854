"""The layouts of Microsoft's repositories. Swin: timm's names, but stages end with merging, and the head is `head`.

Left is our side, as it stands in our files.
"""

from __future__ import annotations

from .table import Left, Rule
from .timm import SWIN_SIZES


def swin() -> list[Rule]:
    """v1 and v2."""
    merging: list[Rule] = [
        (f"layers.{i + 1}.downsample.{{*rest}}", f"layers.{i}.downsample.{{*rest}}") for i in range(3)
    ]
    head: Rule = ("head.fc.{kind}", "head.{kind}")
    return [*(Left(f"layers.{{s}}.blocks.{{i}}.{name}") for name in SWIN_SIZES), *merging, head, ("{*all}", "{*all}")]


def cvt() -> list[Rule]:
    """Our names. How many batches the statistics are of is left out: they stay."""
    return [Left("stage{s}.blocks.{i}.attn.{part}.bn.num_batches_tracked"), ("{*all}", "{*all}")]
