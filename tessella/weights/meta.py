"""The layouts of the papers' own repositories: DINO, DeiT and MAE have our names; DeiT-III, DINOv2 and DINOv3 nearly.

Left is our side, as it stands in our files.
"""

from __future__ import annotations

from .table import Joint, Left, Rule
from .ways import FOLDED, QUERIES_VALUES, rows

_SAME: Rule = ("{*all}", "{*all}")
_MASK = Left("mask_token")
_SCALES: list[Rule] = [
    ("blocks.{i}.ls1.gamma", "blocks.{i}.gamma_1"),
    ("blocks.{i}.ls2.gamma", "blocks.{i}.gamma_2"),
]


def plain() -> list[Rule]:
    """DeiT, DINO."""
    return [_SAME]


def mae() -> list[Rule]:
    """The encoder out of a file that holds the decoder as well."""
    return [_MASK, Left("decoder_{*rest}"), _SAME]


def autoencoder() -> list[Rule]:
    """The whole file, whose names are ours."""
    return [_SAME]


def deit3() -> list[Rule]:
    return [*_SCALES, _SAME]


def dinov2(registers: bool, gated: bool) -> list[Rule]:
    places: list[Rule] = [
        Joint(("cls_token", "pos_embed"), ("cls_token", "pos_embed"), FOLDED),
        ("reg_token", "register_tokens"),
    ]
    mlp: list[Rule] = [
        ("blocks.{i}.mlp.fc1.{kind}", "blocks.{i}.mlp.w12.{kind}"),
        ("blocks.{i}.mlp.fc2.{kind}", "blocks.{i}.mlp.w3.{kind}"),
    ]
    return [_MASK, *(places if registers else []), *(mlp if gated else []), _SAME]


def dinov3(gated: bool) -> list[Rule]:
    """Biases of keys are there and masked: `bias_mask` is zero where they are."""
    gates = ("blocks.{i}.mlp.w1.{kind}", "blocks.{i}.mlp.w2.{kind}")
    mlp: list[Rule] = [
        Joint(("blocks.{i}.mlp.fc1.{kind}",), gates, rows(2)),
        ("blocks.{i}.mlp.fc2.{kind}", "blocks.{i}.mlp.w3.{kind}"),
    ]
    return [
        _MASK,
        Left("rope_embed.periods"),
        Left("blocks.{i}.attn.qkv.bias_mask"),
        ("reg_token", "storage_tokens"),
        *(mlp if gated else []),
        _SAME,
    ]


def beit() -> list[Rule]:
    biases = ("blocks.{i}.attn.q_bias", "blocks.{i}.attn.v_bias")
    return [
        Joint(("blocks.{i}.attn.qkv.bias",), biases, QUERIES_VALUES),
        Left("blocks.{i}.attn.relative_position_index"),
        *_SCALES,
        _SAME,
    ]
