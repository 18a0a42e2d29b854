"""FixMatch: by its formula, number by number; nothing is learned of what is not sure, and a guess has no gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from oracle.classification import cross_entropy

from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.objectives.fixmatch import FixMatch, FixMatchConfig


def objective(**settings: Any) -> FixMatch:
    torch.manual_seed(0)
    backbone = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, class_token=False)
    network = Classifier(ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="mean"), classes=4))
    with torch.no_grad():
        network.head.weight.normal_(0, 0.6)  # so that it is sure of some
    return FixMatch(FixMatchConfig(**settings), network)


def batch(n: int = 8, known: int = 3) -> dict[str, Any]:
    g = torch.Generator().manual_seed(1)
    images, strong = (torch.randn(n, 3, 16, 16, generator=g) for _ in range(2))
    labels = torch.where(torch.arange(n) < known, torch.arange(n) % 4, -1)
    return {"ids": [str(i) for i in range(n)], "image": images, "strong": strong, "label": labels}


def by_hand(o: FixMatch, of: dict[str, Any], sure: float, weight: float) -> tuple[float, float, int]:
    weak, strong = (o.network(of[key]).tolist() for key in ("image", "strong"))
    labelled = [(w, y) for w, y in zip(weak, of["label"].tolist(), strict=True) if y >= 0]
    label = cross_entropy([w for w, _ in labelled], [y for _, y in labelled], 0.0)
    total, taken = 0.0, 0
    for w, s in zip(weak, strong, strict=True):
        top = max(range(4), key=lambda k: w[k])
        if math.exp(w[top]) / sum(math.exp(x) for x in w) >= sure:
            total += cross_entropy([s], [top], 0.0)
            taken += 1
    return label, weight * total / len(weak), taken


@pytest.mark.parametrize(("sure", "weight"), [(0.6, 1.0), (0.75, 2.5)])
def test_against_the_formula(sure: float, weight: float) -> None:
    o, of = objective(sure=sure, weight=weight), batch()
    label, pseudo, taken = by_hand(o, of, sure, weight)
    losses, metrics = o(of, 0.0)
    assert 0 < taken < 8, "some are sure, some are not"
    assert float(losses["label"].detach()) == pytest.approx(label, rel=1e-5)
    assert float(losses["pseudo"].detach()) == pytest.approx(pseudo, rel=1e-5)
    assert float(metrics["taken"]) == pytest.approx(taken / 8)
    other = by_hand(o, of, sure - 0.2, weight)[1]
    assert abs(other - pseudo) > 1e-3, "another threshold must be seen"


def test_a_guess_has_no_gradient() -> None:
    o, of = objective(sure=0.3), batch(known=0)
    o(of, 0.0)[0]["pseudo"].backward()
    here = [p.grad.clone() for p in o.parameters() if p.grad is not None]
    o.zero_grad()
    with torch.no_grad():
        said = o.network(of["image"]).argmax(1)
    torch.nn.functional.cross_entropy(o.network(of["strong"]), said).backward()
    there = [p.grad for p in o.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(here, there, strict=True))


def test_halves_of_a_batch_are_the_batch() -> None:
    o, of = objective(sure=0.6), batch()
    whole, counts = o(of, 0.0)[0], o.counts(of)
    halves = [{k: v[i : i + 4] for k, v in of.items()} for i in (0, 4)]
    for name, value in whole.items():
        each = [(float(o(half, 0.0)[0][name].detach()), o.counts(half).get(name, 4)) for half in halves]
        assert sum(v * n for v, n in each) / counts.get(name, 8) == pytest.approx(float(value.detach()), rel=1e-5)
    losses = o({k: v[:0] for k, v in of.items()}, 0.0)[0]
    assert all(float(v) == 0 for v in losses.values())


def test_what_cannot_be_is_refused() -> None:
    for settings in ({"sure": 1.0}, {"weight": -1.0}, {"temperature": 0.0}, {"smoothing": 1.0}):
        with pytest.raises(BadInput, match=f"objective.{next(iter(settings))}"):
            FixMatchConfig(**settings)
