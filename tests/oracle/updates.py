"""Rules of update, slow and obvious: number by number, or by a decomposition into singular values."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lion(
    weights: Tensor, gradients: list[Tensor], lr: float, decay: float, betas: tuple[float, float]
) -> list[list[float]]:
    """The weights after each step (arXiv 2302.06675, algorithm 2)."""
    theta, momentum, after = [float(w) for w in weights], [0.0] * len(weights), []
    for gradient in gradients:
        for i, g in enumerate(map(float, gradient)):
            c = betas[0] * momentum[i] + (1 - betas[0]) * g
            theta[i] -= lr * (math.copysign(1.0, c) * (c != 0) + decay * theta[i])
            momentum[i] = betas[1] * momentum[i] + (1 - betas[1]) * g
        after.append(list(theta))
    return after


def muon(weight: Tensor, gradients: list[Tensor], lr: float, decay: float, mu: float) -> Tensor:
    """The matrix after all steps: momentum of Nesterov, singular values through the quintic, AdamW's size."""
    theta, momentum = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient in gradients:
        g = gradient.double()
        momentum = mu * momentum + (1 - mu) * g
        u, s, v = torch.linalg.svd(mu * momentum + (1 - mu) * g, full_matrices=False)
        s = s / s.square().sum().sqrt()
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        theta = theta - lr * decay * theta - lr * 0.2 * math.sqrt(max(weight.shape)) * (u @ s.diag() @ v)
    return theta
