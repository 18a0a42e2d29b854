"""How many numbers a network holds and multiplies, by arithmetic: a test compares with the network itself."""

from __future__ import annotations

from typing import NamedTuple

from .architecture import Backbone, ClassifierConfig, ViTConfig
from .staged import OFFSETS, CvTConfig, SwinConfig


def parameters(cfg: ClassifierConfig) -> int:
    """Everything that is learned, with pool and head."""
    b, width = cfg.backbone, cfg.backbone.features
    norm = width * (2 if b.norm == "layer" else 1)
    total = _backbone_parameters(b) + norm * cfg.pool.norm
    if cfg.pool.kind == "attention":
        hidden = _pool_hidden(cfg)
        total += width + 2 * _linear(width, width) + _linear(width, 2 * width) + norm
        total += _linear(width, hidden) + _linear(hidden, width)
    total += (_linear(width, width) if cfg.pool.tanh else 0) + width * cfg.pool.projection
    heads = _linear(cfg.pool.projection or width, cfg.classes) + _linear(width, cfg.classes) * b.distill_token
    return total + (heads if cfg.classes else 0)


def macs(cfg: ClassifierConfig) -> int:
    """Multiplications of matrix products and convolutions for one picture of the configured size."""
    b, width = cfg.backbone, cfg.backbone.features
    total = _backbone_macs(b)
    if cfg.pool.kind == "attention":
        assert isinstance(b, ViTConfig)
        seen = b.grid[0] * b.grid[1] + b.prefix * cfg.pool.prefix
        total += 2 * width * width + seen * 2 * width * width + 2 * seen * width + 2 * width * _pool_hidden(cfg)
    total += (width * width if cfg.pool.tanh else 0) + width * cfg.pool.projection
    return total + ((cfg.pool.projection or width) + width * b.distill_token) * cfg.classes


class Share(NamedTuple):
    """Of all blocks together, in the whole network."""

    macs: float
    parameters: float


def blocks_of(cfg: ClassifierConfig) -> Share:
    """How much of a network is Transformer; the rest embeds, pools and answers."""
    match b := cfg.backbone:
        case ViTConfig():
            work, held = b.depth * _block_macs(b), b.depth * _block_parameters(b)
        case SwinConfig():
            work = sum(depth * _swin_block_macs(b, i) for i, depth in enumerate(b.depths))
            held = sum(depth * _swin_block_parameters(b, i) for i, depth in enumerate(b.depths))
        case CvTConfig():
            work = sum(depth * _cvt_block_macs(b, i) for i, depth in enumerate(b.depths))
            held = sum(depth * _cvt_block_parameters(b, i) for i, depth in enumerate(b.depths))
    return Share(work / macs(cfg), held / parameters(cfg))


def _backbone_parameters(b: Backbone) -> int:
    match b:
        case ViTConfig():
            return _vit_parameters(b)
        case SwinConfig():
            return _swin_parameters(b)
        case CvTConfig():
            return _cvt_parameters(b)


def _backbone_macs(b: Backbone) -> int:
    match b:
        case ViTConfig():
            return _vit_macs(b)
        case SwinConfig():
            return _swin_macs(b)
        case CvTConfig():
            return _cvt_macs(b)


# -- a ViT -------------------------------------------------------------------------------------------------------------


def _vit_parameters(b: ViTConfig) -> int:
    width, norm = b.width, b.width * (2 if b.norm == "layer" else 1)
    rows = b.grid[0] * b.grid[1] + (b.prefix if b.prefix_position else 0)
    total = _embedding(b) + b.prefix * width + (rows * width if b.position == "learned" else 0)
    return total + b.depth * _block_parameters(b) + norm * (b.norm_pre + b.final_norm)


def _vit_macs(b: ViTConfig) -> int:
    width, patches = b.width, b.grid[0] * b.grid[1]
    total = b.depth * _block_macs(b)
    if b.embed == "stem":
        height, across = b.padded(*b.size)
        for before, after, stride in b.stem_plan:
            height, across = height // stride, across // stride
            total += height * across * 9 * before * after
        return total + patches * b.stem_plan[-1][1] * width
    if b.resnet is not None:
        height, across = b.padded(*b.size)
        for conv in b.resnet.plan(b.channels):
            places = (height // conv.pixels) * (across // conv.pixels)
            total += places * conv.kernel**2 * conv.before * conv.after
        return total + height * across // b.resnet.stride**2 * b.resnet.channels * width
    return total + patches * b.channels * b.patch_size**2 * width


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
    if isinstance(b, SwinConfig):
        return 4 * (parameters(cfg) + max(_swin_block_numbers(b, i) for i in range(len(b.depths))))
    if isinstance(b, CvTConfig):
        return 4 * (parameters(cfg) + max(_cvt_block_numbers(b, i) for i in range(len(b.depths))))
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
    return int(cfg.backbone.features * (cfg.backbone.mlp_ratio if cfg.pool.mlp_ratio is None else cfg.pool.mlp_ratio))


# -- a Swin ------------------------------------------------------------------------------------------------------------


class _Windows(NamedTuple):
    """Of one stage at the configured size."""

    tokens: int  # of its map
    tiled: int  # of the map that was padded to whole windows
    tile: int  # tokens of a window
    offsets: int  # in which two of them may lie to each other


def _windows(b: SwinConfig, stage: int) -> _Windows:
    (h, w), (rows, columns) = b.grids_of(*b.size)[stage], b.tile(stage)
    tiled = -(-h // rows) * rows * -(-w // columns) * columns
    return _Windows(h * w, tiled, rows * columns, (2 * rows - 1) * (2 * columns - 1))


def _swin_parameters(b: SwinConfig) -> int:
    total = _linear(b.channels * b.patch_size**2, b.width) + 2 * b.width + 2 * b.features
    for stage, depth in enumerate(b.depths):
        before, after = b.width_of(stage) // 2, b.width_of(stage)
        total += depth * _swin_block_parameters(b, stage)
        total += 4 * before * after + 2 * (after if b.version == "v2" else 4 * before) if stage else 0
    return total


def _swin_macs(b: SwinConfig) -> int:
    total = _windows(b, 0).tokens * b.channels * b.patch_size**2 * b.width
    for stage, depth in enumerate(b.depths):
        total += depth * _swin_block_macs(b, stage)
        total += _windows(b, stage).tokens * 2 * b.width_of(stage) ** 2 if stage else 0
    return total


def _swin_block_parameters(b: SwinConfig, stage: int) -> int:
    width, heads, hidden = b.width_of(stage), b.heads[stage], int(b.width_of(stage) * b.mlp_ratio)
    block = 4 * width + _linear(width, width) + _linear(width, hidden) + _linear(hidden, width)
    if b.version == "v2":  # keys have no bias
        return block + 3 * width**2 + 2 * width + heads + _linear(2, OFFSETS) + OFFSETS * heads
    return block + _linear(width, 3 * width) + _windows(b, stage).offsets * heads


def _swin_block_macs(b: SwinConfig, stage: int) -> int:
    width, of = b.width_of(stage), _windows(b, stage)
    block = of.tiled * (4 * width**2 + 2 * of.tile * width) + of.tokens * 2 * width * int(width * b.mlp_ratio)
    return block + (of.offsets * OFFSETS * (2 + b.heads[stage]) if b.version == "v2" else 0)


def _swin_block_numbers(b: SwinConfig, stage: int) -> int:
    """What one picture needs there: tokens, their norm, and q, k, v with their result and the mask, or the MLP."""
    width, of = b.width_of(stage), _windows(b, stage)
    mask = of.tiled * of.tile * b.heads[stage] if any(b.shift(stage)) else 0
    return max(of.tiled * 6 * width + mask, of.tokens * 2 * (width + int(width * b.mlp_ratio)))


# -- a CvT -------------------------------------------------------------------------------------------------------------


class _Map(NamedTuple):
    """Of one stage at the configured size."""

    tokens: int
    keys: int  # every other token in both directions
    prefix: int  # the class token is in the last stage


def _map(b: CvTConfig, stage: int) -> _Map:
    h, w = b.grids_of(*b.size)[stage]
    return _Map(h * w, -(-h // 2) * -(-w // 2), b.prefix if stage + 1 == len(b.depths) else 0)


def _cvt_parameters(b: CvTConfig) -> int:
    total, before = b.prefix * b.features + 2 * b.features, b.channels
    for stage, depth in enumerate(b.depths):
        width = b.widths[stage]
        total += _linear(before * b.kernel(stage) ** 2, width) + 2 * width + depth * _cvt_block_parameters(b, stage)
        before = width
    return total


def _cvt_macs(b: CvTConfig) -> int:
    total, before = 0, b.channels
    for stage, depth in enumerate(b.depths):
        width = b.widths[stage]
        total += _map(b, stage).tokens * before * b.kernel(stage) ** 2 * width + depth * _cvt_block_macs(b, stage)
        before = width
    return total


def _cvt_block_parameters(b: CvTConfig, stage: int) -> int:
    width, hidden = b.widths[stage], int(b.widths[stage] * b.mlp_ratio)
    looks = 3 * (9 + 2) * width  # a convolution of each channel, and a batch norm's factor and shift
    return 4 * width + looks + 4 * _linear(width, width) + _linear(width, hidden) + _linear(hidden, width)


def _cvt_block_macs(b: CvTConfig, stage: int) -> int:
    width, of = b.widths[stage], _map(b, stage)
    tokens, keys = of.tokens + of.prefix, of.keys + of.prefix
    looks = 9 * width * (of.tokens + 2 * of.keys)
    return looks + 2 * width * (tokens * (width + int(width * b.mlp_ratio)) + keys * (width + tokens))


def _cvt_block_numbers(b: CvTConfig, stage: int) -> int:
    """What one picture needs there: tokens, their norm, and q, k, v with their result, or the MLP."""
    width, of = b.widths[stage], _map(b, stage)
    tokens, keys = of.tokens + of.prefix, of.keys + of.prefix
    return max(width * (4 * tokens + 2 * keys), tokens * 2 * (width + int(width * b.mlp_ratio)))
