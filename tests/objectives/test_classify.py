"""Classification: the loss is the formula's, with one head or two; sharing the batch out changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from oracle import classification as oracle
from torch import Tensor

from tessella.models.architecture import ClassifierConfig, PoolConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.objectives.classify import Classify, ClassifyConfig


def objective(smoothing: float, distill: bool = False) -> Classify:
    torch.manual_seed(0)
    backbone = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, distill_token=distill)
    network = Classifier(ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="cls"), classes=5))
    with torch.no_grad():
        for p in network.parameters():  # the initial head is so small that all classes look alike
            p.normal_(0, 0.3)
    return Classify(ClassifyConfig(smoothing=smoothing), network)


def batch(n: int = 6) -> dict[str, object]:
    g = torch.Generator().manual_seed(1)
    images, labels = torch.randn(n, 3, 16, 16, generator=g), torch.arange(n) % 5
    return {"ids": [str(i) for i in range(n)], "image": images, "label": labels}


def loss_of(o: Classify) -> tuple[float, float]:
    losses, metrics = o(batch(), 0.0)
    assert set(losses) == {"label"} and set(metrics) == {"accuracy"}
    return float(losses["label"].detach()), float(metrics["accuracy"])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("distill", [False, True])
def test_against_the_formula(smoothing: float, distill: bool) -> None:
    o, b = objective(smoothing, distill), batch()
    heads = [h for h in o.network.both(b["image"]) if h is not None]
    assert len(heads) == 1 + distill
    targets = b["label"].tolist()
    expected = sum(oracle.cross_entropy(h.tolist(), targets, smoothing) for h in heads) / len(heads)
    loss, accuracy = loss_of(o)
    assert math.isclose(loss, expected, rel_tol=1e-5)
    assert accuracy == pytest.approx(oracle.top(o.infer(b).tolist(), targets, 1))


def test_another_constant_is_seen() -> None:
    """The mutation: a little more smoothing, or smoothing that leaves out the target, is another loss."""
    b, o = batch(), objective(0.1)
    scores, targets = o.infer(b).tolist(), b["label"].tolist()
    loss = loss_of(o)[0]
    assert abs(loss - oracle.cross_entropy(scores, targets, 0.15)) > 1e-3
    left_out = 0.0
    for row, t in zip(scores, targets, strict=True):
        others = [oracle.log_probability(row, k) for k in range(5) if k != t]
        left_out -= (0.9 * oracle.log_probability(row, t) + 0.1 * sum(others) / 4) / 6
    assert abs(loss - left_out) > 1e-3


@pytest.mark.parametrize("distill", [False, True])
def test_every_weight_has_a_gradient(distill: bool) -> None:
    """A weight without one would stop data-parallel training."""
    o = objective(0.1, distill)
    o(batch(), 0.0)[0]["label"].backward()
    missing = [n for n, p in o.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing in ([], ["network.backbone.blocks.0.attn.qkv.bias"])


def test_the_gradient_of_the_whole_is_the_mean_of_its_parts() -> None:
    def gradient(parts: list[dict[str, object]]) -> Tensor:
        o = objective(0.1)
        for part in parts:
            (o(part, 0.0)[0]["label"] * len(part["ids"]) / 6).backward()
        return torch.cat([p.grad.flatten() for p in o.parameters()])

    b = batch()
    cut = [{k: v[i:j] for k, v in b.items()} for i, j in ((0, 2), (2, 6))]
    assert torch.allclose(gradient([b]), gradient(cut), atol=1e-6)


def test_forward_changes_no_state() -> None:
    o = objective(0.1)
    before = {k: v.clone() for k, v in o.state_dict().items()}
    o(batch(), 0.5)
    assert all(torch.equal(v, before[k]) for k, v in o.state_dict().items())


def test_bf16_logits_lose_nothing_in_the_loss() -> None:
    o = objective(0.1)
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = o(batch(), 0.0)
    assert losses["label"].dtype == torch.float32
    assert float(losses["label"].detach()) == pytest.approx(loss_of(o)[0], rel=0.05)


def test_the_model_is_registered_once() -> None:
    o = objective(0.1)
    assert o.model is o.network
    assert {k.split(".")[0] for k in o.state_dict()} == {"network"}
