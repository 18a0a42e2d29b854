"""The layout of AugReg's and big_vision's `.npz` files, with dots for their slashes: a kernel has inputs first, and
each head an axis of its own. Left is our side, as it stands in our files.

Shape suffixes:  D width  A heads  K head size  O outputs  p patch  C channels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .table import Architecture, Joint, Rule, Way
from .ways import TRANSPOSED

UNITS = (3, 4, 9, 3)  # of the deepest hybrids, by stage

Parts = Sequence[Tensor]
BLOCK, THEIRS = "blocks.{i}", "Transformer.encoderblock_{i}"
_HEADS = f"{THEIRS}.MultiHeadDotProductAttention_1"


def _heads(whole: Tensor, architecture: Architecture) -> Tensor:
    """(3 A K, ...) to (3, A, K, ...)."""
    return whole.reshape(3, -1, architecture.backbone.size_of_head, *whole.shape[1:])


def _join_heads(parts: Parts, _: Architecture) -> Parts:
    return [torch.cat([part_DAK.flatten(1).T for part_DAK in parts])]


def _cut_heads(whole: Parts, architecture: Architecture) -> Parts:
    return [part_AKD.permute(2, 0, 1) for part_AKD in _heads(whole[0], architecture)]


def _join_biases(parts: Parts, _: Architecture) -> Parts:
    return [torch.cat([part_AK.flatten() for part_AK in parts])]


def _cut_biases(whole: Parts, architecture: Architecture) -> Parts:
    return list(_heads(whole[0], architecture))


def _cut_out(whole: Parts, architecture: Architecture) -> Parts:
    return [whole[0].T.reshape(-1, architecture.backbone.size_of_head, whole[0].shape[0])]


KERNELS, BIASES = Way(_join_heads, _cut_heads), Way(_join_biases, _cut_biases)
OUT = Way(lambda parts, _: [parts[0].flatten(0, 1).T], _cut_out)  # (A, K, D) to (D, A K)
CHANNELS = Way(  # (1, 1, 1, C) to (C,): so flax once kept what a norm has for each channel of a map
    lambda parts, _: [parts[0].flatten()], lambda whole, _: [whole[0].reshape(1, 1, 1, -1)]
)
PATCHES = Way(  # (p, p, C, D) to (D, C, p, p)
    lambda parts, _: [parts[0].permute(3, 2, 0, 1)], lambda whole, _: [whole[0].permute(2, 3, 1, 0)]
)


def _linear(ours: str, theirs: str) -> list[Rule]:
    return [Joint((f"{ours}.weight",), (f"{theirs}.kernel",), TRANSPOSED), (f"{ours}.bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [(f"{ours}.weight", f"{theirs}.scale"), (f"{ours}.bias", f"{theirs}.bias")]


def vit() -> list[Rule]:
    apart = ("query", "key", "value")
    return [
        ("cls_token", "cls"),
        ("pos_embed", "Transformer.posembed_input.pos_embedding"),
        Joint(("patch_embed.proj.weight",), ("embedding.kernel",), PATCHES),
        ("patch_embed.proj.bias", "embedding.bias"),
        *_norm(f"{BLOCK}.norm1", f"{THEIRS}.LayerNorm_0"),
        *_norm(f"{BLOCK}.norm2", f"{THEIRS}.LayerNorm_2"),
        Joint((f"{BLOCK}.attn.qkv.weight",), tuple(f"{_HEADS}.{name}.kernel" for name in apart), KERNELS),
        Joint((f"{BLOCK}.attn.qkv.bias",), tuple(f"{_HEADS}.{name}.bias" for name in apart), BIASES),
        Joint((f"{BLOCK}.attn.proj.weight",), (f"{_HEADS}.out.kernel",), OUT),
        (f"{BLOCK}.attn.proj.bias", f"{_HEADS}.out.bias"),
        *_linear(f"{BLOCK}.mlp.fc1", f"{THEIRS}.MlpBlock_3.Dense_0"),
        *_linear(f"{BLOCK}.mlp.fc2", f"{THEIRS}.MlpBlock_3.Dense_1"),
        *_norm("norm", "Transformer.encoder_norm"),
        *_linear("pre_logits", "pre_logits"),
        *_linear("head", "head"),
    ]


def _conv(ours: str, norm: str, theirs: str, their_norm: str) -> list[Rule]:
    """A convolution and the norm behind it."""
    return [
        Joint((f"{ours}.weight",), (f"{theirs}.kernel",), PATCHES),
        Joint((f"{norm}.weight",), (f"{their_norm}.scale",), CHANNELS),
        Joint((f"{norm}.bias",), (f"{their_norm}.bias",), CHANNELS),
    ]


def hybrid(stages: bool) -> list[Rule]:
    """A ViT behind a ResNet, or behind its stem alone. They count from 1."""
    at = "patch_embed.backbone"
    stem = f"{at}.stem" if stages else at
    out = _conv(f"{stem}.conv", f"{stem}.norm", "conv_root", "gn_root")
    for i, units in enumerate(UNITS if stages else ()):
        for j in range(units):
            ours, theirs = f"{at}.stages.{i}.blocks.{j}", f"block{i + 1}.unit{j + 1}"
            if j == 0:  # before the others, whose {r} would take "_proj" for a number
                short = f"{ours}.downsample"
                out += _conv(f"{short}.conv", f"{short}.norm", f"{theirs}.conv_proj", f"{theirs}.gn_proj")
            out += _conv(f"{ours}.conv{{r}}", f"{ours}.norm{{r}}", f"{theirs}.conv{{r}}", f"{theirs}.gn{{r}}")
    return [*out, *vit()]
