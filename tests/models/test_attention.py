"""The two ways to attend agree with plain formulas; the slow-kernel detour is taken only where it pays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tessella.models import attention


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5).softmax(-1) @ v


def inputs(dtype: torch.dtype, batch: int = 5, tokens: int = 23) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 2, tokens, 8, generator=g).to(dtype).requires_grad_() for _ in range(3)]


def grads(function: object, dtype: torch.dtype) -> list[Tensor]:
    qkv = inputs(dtype)
    out = function(*qkv)  # type: ignore[operator]
    out.backward(torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(dtype))
    return [out.detach().double(), *(x.grad.double() for x in qkv if x.grad is not None)]


def near(a: list[Tensor], b: list[Tensor], tolerance: float) -> bool:
    return all(float((x - y).abs().max()) <= tolerance * float(y.abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("cached", [1, 2 * 2 * 23 * 23, 10**9])
def test_bf16_products_equal_the_formula(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CACHED", cached)
    assert near(grads(attention.attend, torch.bfloat16), grads(plain, torch.float64), 0.03)


def test_products_in_fp32_are_exact() -> None:
    assert near(grads(attention.products, torch.float32), grads(plain, torch.float64), 1e-5)


def test_a_wrong_scale_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: the same comparison with queries a tenth too large."""
    assert not near(
        grads(lambda q, k, v: attention.products(q * 1.1, k, v), torch.float32), grads(plain, torch.float64), 1e-5
    )
    assert not near(
        grads(lambda q, k, v: attention.attend(q * 1.1, k, v), torch.bfloat16), grads(plain, torch.float64), 0.03
    )


def test_fp32_and_inference_use_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: seen.append(1) or fused(*a, **k))
    attention.attend(*inputs(torch.float32))
    with torch.no_grad():
        attention.attend(*inputs(torch.bfloat16))
    assert len(seen) == 2
    attention.attend(*inputs(torch.bfloat16))
    assert len(seen) == 2


def test_no_map_is_kept() -> None:
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        attention.attend(*inputs(torch.bfloat16))
    assert kept and all(shape[-1] == 8 for shape in kept)


def test_the_operation_obeys_the_dispatcher() -> None:
    torch.library.opcheck(attention.products, tuple(inputs(torch.float32)))
