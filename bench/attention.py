"""Attention trained in bf16 on a processor: PyTorch's fused kernel against the products of models/attention.py.

Forward and backward of one layer, alternating, medians; the sizes of the demo's model, ViT-T/16, ViT-S/16 and ViT-B/16.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import record
import torch
import torch.nn.functional as F
from torch import Tensor

from tessella.models.attention import products

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
SIZES = {  # batch, heads, tokens, head size
    "vit_n4 at 28 px": (64, 4, 49, 32),
    "ViT-T/16": (16, 3, 197, 64),
    "ViT-S/16": (16, 6, 197, 64),
    "ViT-B/16": (16, 12, 197, 64),
    "ViT-S/16 at 384 px": (4, 6, 577, 64),
}


def once(attend: Attend, qkv: Tensor) -> float:
    """Milliseconds, from the fused projection's output to its gradient."""
    qkv.grad = None
    began = time.perf_counter()
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    out = attend(q, k, v).transpose(1, 2).flatten(2)
    out.backward(torch.ones_like(out))
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    parser.add_argument("--small", action="store_true", help="one small size, to see that the command works")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    rows, verdicts = [], []
    for name, (batch, heads, tokens, size) in ({"small": (2, 2, 9, 8)} if asked.small else SIZES).items():
        qkv = torch.randn(batch, tokens, 3, heads, size, dtype=torch.bfloat16).requires_grad_()
        ways: dict[str, Attend] = {"fused": F.scaled_dot_product_attention, "products": products}
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(asked.rounds + 2):
            for way, attend in ways.items():
                took[way].append(once(attend, qkv))
        fused, ours = (statistics.median(took[way][2:]) for way in ways)
        rows.append((name, fused, ours, fused / ours))
        verdicts.append(record.verdict(f"{name}: fused / products", fused / ours, 1.0, at_least=True))
    record.table(("size", "fused ms", "products ms", "ratio"), rows)
    record.show(verdicts)
    figures = {
        "threads": torch.get_num_threads(),
        "milliseconds": {r[0]: {"fused": r[1], "products": r[2]} for r in rows},
    }
    record.keep(asked, "attention", figures | {"verdicts": verdicts})


if __name__ == "__main__":
    main()
