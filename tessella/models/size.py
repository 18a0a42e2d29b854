"""How many numbers a network holds and multiplies, by arithmetic: a test compares with the network itself."""

from __future__ import annotations

from .architecture import ClassifierConfig, ViTConfig


def parameters(cfg: ClassifierConfig) -> int:
    """Everything that is learned, with pool and head."""
    b = cfg.backbone
    width, inner, head = b.width, b.heads * b.size_of_head, b.size_of_head
    norm = width * (2 if b.norm == "layer" else 1)
    fc1 = b.hidden * (2 if b.mlp == "swiglu" else 1)
    block = 2 * norm + _linear(width, 3 * inner, b.qkv_bias) + _linear(inner, width)
    block += _linear(width, fc1) + _linear(b.hidden, width)
    block += 2 * head * (2 if b.norm == "layer" else 1) if b.qk_norm else 0
    block += 2 * width if b.layer_scale is not None and b.norm_order == "pre" else 0
    rows = b.grid[0] * b.grid[1] + (b.prefix if b.prefix_position else 0)
    total = _embedding(b) + b.prefix * width + (rows * width if b.position == "learned" else 0)
    total += b.depth * block + norm * (b.norm_pre + b.final_norm + cfg.pool.norm)
    if cfg.pool.kind == "attention":
        hidden = _pool_hidden(cfg)
        total += width + 2 * _linear(width, width) + _linear(width, 2 * width) + norm
        total += _linear(width, hidden) + _linear(hidden, width)
    return total + (_linear(width, cfg.classes) * (2 if b.distill_token else 1) if cfg.classes else 0)


def macs(cfg: ClassifierConfig) -> int:
    """Multiplications of matrix products and convolutions for one picture of the configured size."""
    b = cfg.backbone
    width, inner, patches = b.width, b.heads * b.size_of_head, b.grid[0] * b.grid[1]
    tokens = patches + b.prefix
    fc1 = b.hidden * (2 if b.mlp == "swiglu" else 1)
    block = tokens * (width * 3 * inner + inner * width + width * fc1 + b.hidden * width) + 2 * tokens**2 * inner
    total = b.depth * block
    if b.embed == "stem":
        height, across = b.padded(*b.size)
        for before, after, stride in b.stem_plan:
            height, across = height // stride, across // stride
            total += height * across * 9 * before * after
        total += patches * b.stem_plan[-1][1] * width
    else:
        total += patches * b.channels * b.patch_size**2 * width
    if cfg.pool.kind == "attention":
        total += 2 * width * width + patches * 2 * width * width + 2 * patches * width + 2 * width * _pool_hidden(cfg)
    return total + width * cfg.classes * (2 if b.distill_token else 1)


def _linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return outputs * (inputs + bias)


def _embedding(b: ViTConfig) -> int:
    if b.embed != "stem":
        return _linear(b.channels * b.patch_size**2, b.width, b.embed_bias)
    stem = sum(9 * before * after + 2 * after for before, after, _ in b.stem_plan)
    return stem + _linear(b.stem_plan[-1][1], b.width, b.embed_bias)


def _pool_hidden(cfg: ClassifierConfig) -> int:
    return int(cfg.backbone.width * (cfg.backbone.mlp_ratio if cfg.pool.mlp_ratio is None else cfg.pool.mlp_ratio))
