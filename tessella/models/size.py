"""How many numbers a network holds and multiplies, by arithmetic: a test compares with the network itself."""

from __future__ import annotations

from typing import NamedTuple

from .architecture import ClassifierConfig, ViTConfig


def parameters(cfg: ClassifierConfig) -> int:
    """Everything that is learned, with pool and head."""
    b = cfg.backbone
    width, norm = b.width, b.width * (2 if b.norm == "layer" else 1)
    rows = b.grid[0] * b.grid[1] + (b.prefix if b.prefix_position else 0)
    total = _embedding(b) + b.prefix * width + (rows * width if b.position == "learned" else 0)
    total += b.depth * _block_parameters(b) + norm * (b.norm_pre + b.final_norm + cfg.pool.norm)
    if cfg.pool.kind == "attention":
        hidden = _pool_hidden(cfg)
        total += width + 2 * _linear(width, width) + _linear(width, 2 * width) + norm
        total += _linear(width, hidden) + _linear(hidden, width)
    total += (_linear(width, width) if cfg.pool.tanh else 0) + width * cfg.pool.projection
    heads = _linear(cfg.pool.projection or width, cfg.classes) + _linear(width, cfg.classes) * b.distill_token
    return total + (heads if cfg.classes else 0)


def macs(cfg: ClassifierConfig) -> int:
    """Multiplications of matrix products and convolutions for one picture of the configured size."""
    b = cfg.backbone
    width, patches = b.width, b.grid[0] * b.grid[1]
    total = b.depth * _block_macs(b)
    if b.embed == "stem":
        height, across = b.padded(*b.size)
        for before, after, stride in b.stem_plan:
            height, across = height // stride, across // stride
            total += height * across * 9 * before * after
        total += patches * b.stem_plan[-1][1] * width
    elif b.resnet is not None:
        height, across = b.padded(*b.size)
        for conv in b.resnet.plan(b.channels):
            places = (height // conv.pixels) * (across // conv.pixels)
            total += places * conv.kernel**2 * conv.before * conv.after
        total += height * across // b.resnet.stride**2 * b.resnet.channels * width
    else:
        total += patches * b.channels * b.patch_size**2 * width
    if cfg.pool.kind == "attention":
        seen = patches + b.prefix * cfg.pool.prefix
        total += 2 * width * width + seen * 2 * width * width + 2 * seen * width + 2 * width * _pool_hidden(cfg)
    total += (width * width if cfg.pool.tanh else 0) + width * cfg.pool.projection
    return total + ((cfg.pool.projection or width) + width * b.distill_token) * cfg.classes


class Share(NamedTuple):
    """Of all blocks together, in the whole network."""

    macs: float
    parameters: float


def blocks_of(cfg: ClassifierConfig) -> Share:
    """How much of a network is Transformer; the rest embeds, pools and answers."""
    b = cfg.backbone
    return Share(b.depth * _block_macs(b) / macs(cfg), b.depth * _block_parameters(b) / parameters(cfg))


def _block_parameters(b: ViTConfig) -> int:
    width, inner = b.width, b.heads * b.size_of_head
    affine = 2 if b.norm == "layer" else 1  # numbers of a norm for each feature
    block = 2 * width * affine + _linear(width, 3 * inner, b.qkv_bias) + _linear(inner, width)
    block += _linear(width, _fc1(b)) + _linear(b.hidden, width)
    block += 2 * b.size_of_head * affine if b.qk_norm else 0
    block += b.hidden * affine * b.mlp_norm + inner * affine * b.attention_norm
    block += ((2 * b.grid[0] - 1) * (2 * b.grid[1] - 1) + 3) * b.heads * b.relative
    return block + (2 * width if b.layer_scale is not None and b.norm_order == "pre" else 0)


def _block_macs(b: ViTConfig) -> int:
    width, inner, tokens = b.width, b.heads * b.size_of_head, b.grid[0] * b.grid[1] + b.prefix
    return tokens * (width * 4 * inner + width * (_fc1(b) + b.hidden)) + 2 * tokens**2 * inner


def _fc1(b: ViTConfig) -> int:
    return b.hidden * (2 if b.mlp == "swiglu" else 1)


def inference_bytes(cfg: ClassifierConfig) -> int:
    """Weights in fp32, and what one picture needs at the widest place of a block: the tokens, their norm, and q, k, v
    with their result, or both sides of the MLP."""
    b = cfg.backbone
    tokens, inner = b.grid[0] * b.grid[1] + b.prefix, b.heads * b.size_of_head
    return 4 * (parameters(cfg) + tokens * (2 * b.width + max(4 * inner, _fc1(b) + b.hidden)))


def _linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return outputs * (inputs + bias)


def _embedding(b: ViTConfig) -> int:
    if b.resnet is not None:
        convs = sum(c.kernel**2 * c.before * c.after + 2 * c.after for c in b.resnet.plan(b.channels))
        return convs + _linear(b.resnet.channels * (b.patch_size // b.resnet.stride) ** 2, b.width, b.embed_bias)
    if b.embed != "stem":
        return _linear(b.channels * b.patch_size**2, b.width, b.embed_bias)
    stem = sum(9 * before * after + 2 * after for before, after, _ in b.stem_plan)
    return stem + _linear(b.stem_plan[-1][1], b.width, b.embed_bias)


def _pool_hidden(cfg: ClassifierConfig) -> int:
    return int(cfg.backbone.width * (cfg.backbone.mlp_ratio if cfg.pool.mlp_ratio is None else cfg.pool.mlp_ratio))
