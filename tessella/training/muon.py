"""Muon: a matrix moves along its momentum with all singular values made about equal (Jordan 2024).

So directions that the gradient shows seldom are learned as fast as the others. For the matrices of blocks only; what
embeds, norms, tables and heads are left to AdamW. A step is scaled to the size of AdamW's (Liu 2025, arXiv 2502.16982:
0.2 is the root mean square of AdamW's steps), so that learning rate and decay of the one serve the other. Ours instead
of torch's: matrices that lie in one parameter are taken apart, equal shapes are one batched product, shards are whole.

R rows, C columns, M matrices of one shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .distributed import like, unsharded

STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # Jordan's quintic: singular values from 0.003 to 1 land between 0.7 and 1.2
TINY = 1e-7
RMS = 0.2


def orthogonalise(x_MRC: Tensor) -> Tensor:
    """U V^T of each matrix, about; needs R <= C, for speed."""
    x: Tensor = x_MRC / x_MRC.flatten(1).norm(dim=1).clamp(min=TINY)[:, None, None]  # no singular value is above 1
    for _ in range(STEPS):
        gram_MRR = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram_MRR, gram_MRR, gram_MRR, beta=B, alpha=C), x, beta=A)
    return x


class Muon(torch.optim.Optimizer):
    """Groups say how many `matrices` lie one upon the other in each of their parameters."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float, products: torch.dtype):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "matrices": 1})
        self.products = products

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing changes before all directions are there, which take the memory: where it is short, a step may be
        tried again."""
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        pieces = [self._look_ahead(p, group).chunk(group["matrices"]) for p, group in moving]
        directions = iter(self._directions([piece for parts in pieces for piece in parts]))
        for (p, group), parts in zip(moving, pieces, strict=True):
            update = torch.cat([next(directions) for _ in parts])
            self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(like(update, p), alpha=-group["lr"])

    def _look_ahead(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """Nesterov's momentum, whole, in the type of the products."""
        assert p.grad is not None, "`step` passes over these"
        if not self.state[p]:
            self.state[p]["momentum"] = torch.zeros_like(p)
        momentum = self.state[p]["momentum"].lerp(p.grad, 1 - group["momentum"])
        return unsharded(p.grad.lerp(momentum, group["momentum"])).to(self.products)

    def _directions(self, pieces: list[Tensor]) -> list[Tensor]:
        """Each orthogonalised and scaled, in 32 bits, in order."""
        wide = [piece if piece.shape[0] <= piece.shape[1] else piece.mT for piece in pieces]
        shapes: dict[torch.Size, list[int]] = {}
        for i, piece in enumerate(wide):
            shapes.setdefault(piece.shape, []).append(i)
        out = list(pieces)
        for shape, members in shapes.items():
            found_MRC = orthogonalise(torch.stack([wide[i] for i in members])).float() * (RMS * shape[1] ** 0.5)
            for i, found in zip(members, found_MRC, strict=True):
                out[i] = found if wide[i] is pieces[i] else found.mT
        return out
