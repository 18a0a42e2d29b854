"""The layouts of OpenAI's CLIP, which open_clip keeps, and of the towers that open_clip takes from timm; their image
side. Left is our side, as it stands in our files.
"""

from __future__ import annotations

from collections.abc import Sequence

from .table import Joint, Left, Rule
from .ways import TRANSPOSED, one_more_axis, shaped

TEXT: list[Rule] = [
    Left("transformer.{*rest}"),
    Left("token_embedding.weight"),
    Left("positional_embedding"),
    Left("ln_final.{kind}"),
    Left("text_projection"),
    Left("text.{*rest}"),
    Left("logit_scale"),
    Left("logit_bias"),
    Left("input_resolution"),  # of OpenAI's own files
    Left("context_length"),
    Left("vocab_size"),
    Left("attn_mask"),
]


def clip() -> list[Rule]:
    """OpenAI's layout: `visual.transformer.resblocks`."""
    ours, theirs = "blocks.{i}", "visual.transformer.resblocks.{i}"
    return [
        Joint(("cls_token",), ("visual.class_embedding",), shaped(1, 1, -1)),
        Joint(("pos_embed",), ("visual.positional_embedding",), one_more_axis()),
        ("patch_embed.proj.{kind}", "visual.conv1.{kind}"),
        ("norm_pre.{kind}", "visual.ln_pre.{kind}"),
        (f"{ours}.attn.qkv.weight", f"{theirs}.attn.in_proj_weight"),
        (f"{ours}.attn.qkv.bias", f"{theirs}.attn.in_proj_bias"),
        (f"{ours}.attn.proj.{{kind}}", f"{theirs}.attn.out_proj.{{kind}}"),
        (f"{ours}.norm1.{{kind}}", f"{theirs}.ln_1.{{kind}}"),
        (f"{ours}.norm2.{{kind}}", f"{theirs}.ln_2.{{kind}}"),
        (f"{ours}.mlp.fc1.{{kind}}", f"{theirs}.mlp.c_fc.{{kind}}"),
        (f"{ours}.mlp.fc2.{{kind}}", f"{theirs}.mlp.c_proj.{{kind}}"),
        ("norm.{kind}", "visual.ln_post.{kind}"),
        Joint(("projection.weight",), ("visual.proj",), TRANSPOSED),
        *TEXT,
    ]


def trunk(timm: Sequence[Rule]) -> list[Rule]:
    """A tower of timm's as open_clip holds it: the same names behind `visual.trunk.`, and a projection beside it."""
    out: list[Rule] = [*TEXT, ("projection.{kind}", "visual.head.proj.{kind}")]
    for rule in timm:
        match rule:
            case Joint(ours, theirs, way):
                out.append(Joint(ours, tuple(f"visual.trunk.{name}" for name in theirs), way))
            case Left(theirs):
                out.append(Left(f"visual.trunk.{theirs}"))
            case (ours, theirs):
                out.append((ours, f"visual.trunk.{theirs}"))
    return out
