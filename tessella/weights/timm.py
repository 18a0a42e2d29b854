"""The layouts of timm's files. Its VisionTransformer and its Swins are ours, name for name; Eva and Beit differ.

Eva turns neighbouring features, ours turn features half a head apart (PE-Core moreover those of the columns first); it
has no bias of keys, and scales its branches by gamma_1 and gamma_2. Left is our side, as it stands in our files.
"""

from __future__ import annotations

from .table import Joint, Left, Rule
from .ways import QUERIES_VALUES, SAME, UNBIASED, rows, turned

_SAME: list[Rule] = [("{*all}", "{*all}")]
_SCALES: list[Rule] = [
    ("blocks.{i}.ls1.gamma", "blocks.{i}.gamma_1"),
    ("blocks.{i}.ls2.gamma", "blocks.{i}.gamma_2"),
]
_QKV, _A = "blocks.{i}.attn.qkv", "blocks.{i}.attn"
_GATED = [
    Joint(("blocks.{i}.mlp.fc1.{kind}",), ("blocks.{i}.mlp.fc1_g.{kind}", "blocks.{i}.mlp.fc1_x.{kind}"), rows(2)),
]
_APART = tuple(f"{_A}.{part}_proj.weight" for part in "qkv")
_BIASES = (f"{_A}.q_bias", f"{_A}.v_bias")

SWIN_SIZES = ("attn_mask", "attn.relative_position_index", "attn.relative_coords_table", "attn.k_bias")
_PROJECTION = Joint(("projection.weight",), ("head.weight", "head.bias"), UNBIASED)

RULES: dict[str, list[Rule]] = {
    "vit": _SAME,
    "clip": [_PROJECTION, *_SAME],
    # BEiT, BEiTv2
    "beit": [
        Joint((f"{_QKV}.bias",), _BIASES, QUERIES_VALUES),
        Left(f"{_A}.relative_position_index"), *_SCALES, *_SAME,
    ],
    # DINOv3: features are half a head apart already
    "dinov3": [*_SCALES, *_SAME],
    "dinov3 qkvb": [Joint((f"{_QKV}.bias",), _BIASES, QUERIES_VALUES), *_SCALES, *_SAME],
    "dinov3 gated": [*_GATED, *_SCALES, *_SAME],
    "dinov3 gated qkvb": [Joint((f"{_QKV}.bias",), _BIASES, QUERIES_VALUES), *_GATED, *_SCALES, *_SAME],
    # EVA-02 tiny and small, and the SBB ViTs with rotary positions
    "eva": [
        Joint((f"{_QKV}.weight",), (f"{_QKV}.weight",), turned(SAME)),
        Joint((f"{_QKV}.bias",), _BIASES, turned(QUERIES_VALUES)),
        *_SCALES, *_SAME,
    ],
    # EVA-02 base and large: queries, keys and values apart, a norm inside the MLP
    "eva apart": [
        Joint((f"{_QKV}.weight",), _APART, turned(rows(3))),
        Joint((f"{_QKV}.bias",), (f"{_A}.q_proj.bias", f"{_A}.v_proj.bias"), turned(QUERIES_VALUES)),
        *_GATED, *_SCALES, *_SAME,
    ],
    # v1 and v2; what follows from sizes is left out
    "swin": [*(Left(f"layers.{{s}}.blocks.{{i}}.{name}") for name in SWIN_SIZES), *_SAME],
    "pe": [
        _PROJECTION,
        Joint((f"{_QKV}.weight",), (f"{_QKV}.weight",), turned(SAME, columns_first=True)),
        Joint((f"{_QKV}.bias",), (f"{_QKV}.bias",), turned(SAME, columns_first=True)),
        *_SAME,
    ],
}  # fmt: skip
