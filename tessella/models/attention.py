"""Attention by the fused kernel, save where that is slow: training in bf16 on a processor.

There PyTorch's kernel takes 2 to 6 times as long as batched products (bench/attention.py). The products run over a few
samples at a time, so that the map stays in the cache, and backward computes the map again: as with the fused kernel,
none is kept. The scores are rounded to bf16 before the softmax; the fused kernel keeps them in fp32.

Shape suffixes:  B batch  A heads  T tokens  K head size
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED = 600_000  # numbers of the map (a, A, T, T) of one go: about a megabyte


def attend(q_BATK: Tensor, k_BATK: Tensor, v_BATK: Tensor, dropout: float = 0.0, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(K) + bias) v, each (B, A, T, K); the bias (B or 1, A, T, T)."""
    learning = torch.is_grad_enabled() and (q_BATK.requires_grad or v_BATK.requires_grad)
    slow = q_BATK.device.type == "cpu" and q_BATK.dtype == torch.bfloat16 and dropout == 0.0 and bias is None
    if learning and slow:
        out: Tensor = products(q_BATK, k_BATK, v_BATK)
        return out
    mask = None if bias is None else bias.to(q_BATK.dtype)
    return F.scaled_dot_product_attention(q_BATK, k_BATK, v_BATK, mask, dropout_p=dropout)


def _goes(q_BATK: Tensor) -> list[slice]:
    batch, heads, tokens, _ = q_BATK.shape
    goes = max(1, min(batch, round(batch * heads * tokens * tokens / CACHED)))
    return [slice(i * batch // goes, (i + 1) * batch // goes) for i in range(goes)]


def _like(x_BATK: Tensor) -> Tensor:
    """Empty, with the memory order that the projection after it wants: heads beside each other."""
    batch, heads, tokens, size = x_BATK.shape
    return x_BATK.new_empty(batch, tokens, heads, size).transpose(1, 2)


@torch.library.custom_op("tessella::attend", mutates_args=())
def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One opaque operation, so that a compiled block does not unroll the loop."""
    out = _like(q)
    scale = q.shape[-1] ** -0.5
    for some in _goes(q):
        out[some] = ((q[some] * scale) @ k[some].transpose(-2, -1)).softmax(-1) @ v[some]
    return out


@torch.library.custom_op("tessella::attend_backward", mutates_args=())
def products_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = _like(q), _like(k), _like(v)
    scale = q.shape[-1] ** -0.5
    for some in _goes(q):
        scaled = q[some] * scale
        map_BATT = (scaled @ k[some].transpose(-2, -1)).softmax(-1)
        dv[some] = map_BATT.transpose(-2, -1) @ grad[some]
        dmap_BATT = grad[some] @ v[some].transpose(-2, -1)
        dscores_BATT = torch.ops.aten._softmax_backward_data(dmap_BATT, map_BATT, -1, map_BATT.dtype)
        dq[some] = (dscores_BATT @ k[some]).mul_(scale)
        dk[some] = dscores_BATT.transpose(-2, -1) @ scaled
    return dq, dk, dv


@products.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _like(q)


@products_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _like(q), _like(k), _like(v)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = ctx.saved_tensors  # type: ignore[attr-defined]
    found: tuple[Tensor, Tensor, Tensor] = products_backward(grad, q, k, v)
    return found


products.register_autograd(_backward, setup_context=_save)
