"""Classification: the loss is the formula's, with one head or two; sharing the batch out changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from oracle import classification as oracle
from oracle import mixing
from torch import Tensor

from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.objectives.classify import Classify, ClassifyConfig


def objective(smoothing: float, distill: bool = False, weights: tuple[float, ...] = ()) -> Classify:
    torch.manual_seed(0)
    backbone = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, distill_token=distill)
    network = Classifier(ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="cls"), classes=5))
    with torch.no_grad():
        for p in network.parameters():  # the initial head is so small that all classes look alike
            p.normal_(0, 0.3)
    return Classify(ClassifyConfig(smoothing=smoothing, weights=weights), network)


def batch(n: int = 6) -> dict[str, object]:
    g = torch.Generator().manual_seed(1)
    images, labels = torch.randn(n, 3, 16, 16, generator=g), torch.arange(n) % 5
    return {"ids": [str(i) for i in range(n)], "image": images, "label": labels}


def mixed_batch(n: int = 6) -> dict[str, object]:
    weights = torch.tensor([1.0, 0.25, 0.9, 0.5, 0.0, 0.4])[:n]
    return batch(n) | {"mix_label": (torch.arange(n) * 3 + 1) % 5, "mix": weights}


WEIGHTS = (0.5, 2.0, 1.0, 0.7, 1.3)


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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("distill", [False, True])
def test_mixed_labels_against_the_formula(smoothing: float, distill: bool) -> None:
    o, b = objective(smoothing, distill), mixed_batch()
    own, others, weights = (b[k].tolist() for k in ("label", "mix_label", "mix"))
    heads = [h.tolist() for h in o.network.both(b["image"]) if h is not None]
    expected = sum(mixing.soft_cross_entropy(h, own, others, weights, smoothing) for h in heads) / len(heads)
    losses, metrics = o(b, 0.0)
    assert math.isclose(float(losses["label"].detach()), expected, rel_tol=1e-5)
    most = [a if w >= 0.5 else b for a, b, w in zip(own, others, weights, strict=True)]
    assert metrics["accuracy"] == pytest.approx(oracle.top(o.infer(b).tolist(), most, 1))
    turned = mixing.soft_cross_entropy(heads[0], own, others, [1 - w for w in weights], smoothing)
    assert abs(float(losses["label"].detach()) - turned) > 1e-3, "the comparison can fail"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_are_timms_soft_targets(smoothing: float) -> None:
    from timm.data.mixup import mixup_target
    from timm.loss import SoftTargetCrossEntropy

    o, b = objective(smoothing), mixed_batch()
    b["mix"] = torch.full((6,), 0.3)  # timm mixes with the batch turned round, and one weight for all of it
    b["mix_label"] = b["label"].flip(0)
    theirs = SoftTargetCrossEntropy()(o.infer(b), mixup_target(b["label"], 5, 0.3, smoothing))
    ours = o(b, 0.0)[0]["label"]
    assert torch.allclose(ours, theirs, atol=1e-6)
    targets = mixup_target(b["label"], 5, 0.3, 0.0)
    assert torch.allclose(ours, torch.nn.functional.cross_entropy(o.infer(b), targets, label_smoothing=smoothing))
    assert not torch.allclose(ours, SoftTargetCrossEntropy()(o.infer(b), mixup_target(b["label"], 5, 0.4, smoothing)))


def test_a_batch_that_is_mixed_with_nothing_is_a_plain_one() -> None:
    for weights in ((), WEIGHTS):
        o = objective(0.1, weights=weights)
        plain = batch() | {"mix_label": torch.zeros(6, dtype=torch.int64), "mix": torch.ones(6)}
        assert o(plain, 0.0)[0]["label"] == o(batch(), 0.0)[0]["label"]


@pytest.mark.parametrize("mixes", [False, True])
def test_class_weights_against_the_formula(mixes: bool) -> None:
    """Each part of a sample's loss by the weight of the class that it is about; a mean over samples."""
    o, b = objective(0.1, weights=WEIGHTS), mixed_batch() if mixes else batch()
    scores, own = o.infer(b).tolist(), b["label"].tolist()
    others, weights = (b["mix_label"].tolist(), b["mix"].tolist()) if mixes else (own, [1.0] * 6)
    expected = 0.0
    for row, a, c, w in zip(scores, own, others, weights, strict=True):
        expected += w * WEIGHTS[a] * oracle.cross_entropy([row], [a], 0.1) / 6
        expected += (1 - w) * WEIGHTS[c] * oracle.cross_entropy([row], [c], 0.1) / 6
    ours = o(b, 0.0)[0]["label"]
    assert float(ours.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(objective(0.1)(b, 0.0)[0]["label"].detach()) != pytest.approx(expected, rel=1e-3)
    if not mixes:  # without smoothing torch's own weights say the same, but divide by their sum
        plain = objective(0.0, weights=WEIGHTS)
        total = torch.nn.functional.cross_entropy(plain.infer(b), b["label"], torch.tensor(WEIGHTS), reduction="sum")
        assert torch.allclose(plain(b, 0.0)[0]["label"], total / 6)


def test_weights_are_not_saved_and_must_fit() -> None:
    o = objective(0.1, weights=WEIGHTS)
    assert set(o.state_dict()) == set(objective(0.1).state_dict())
    assert o.weights_O is not None and o.double().weights_O.dtype == torch.float64
    with pytest.raises(BadInput, match="3 numbers for 5 classes"):
        objective(0.1, weights=(1.0, 2.0, 3.0))
    for bad in ((1.0, 0.0), (1.0, -1.0), (1.0, math.nan), (math.inf, 1.0)):
        with pytest.raises(BadInput, match=r"^objective.weights[^\n]*$"):
            ClassifyConfig(weights=bad)


CUTS = [[(0, 2), (2, 6)], [(0, 3), (3, 4), (4, 6)], [(0, 0), (0, 6)], [(i, i + 1) for i in range(6)]]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("weights", [(), WEIGHTS])
@pytest.mark.parametrize("mixes", [False, True])
def test_the_gradient_of_the_whole_is_the_mean_of_its_parts(
    cuts: list[tuple[int, int]], weights: tuple[float, ...], mixes: bool
) -> None:
    """However a batch is cut, into empty parts too: the mean is over samples, as `counts` says by its silence."""

    def gradient(parts: list[dict[str, object]]) -> Tensor:
        o = objective(0.1, weights=weights)
        for part in parts:
            assert o.counts(part) == {}
            (o(part, 0.0)[0]["label"] * len(part["ids"]) / 6).backward()
        return torch.cat([p.grad.flatten() for p in o.parameters()])

    b = mixed_batch() if mixes else batch()
    parts = [{k: v[i:j] for k, v in b.items()} for i, j in cuts]
    assert torch.allclose(gradient([b]), gradient(parts), atol=1e-6)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("distill", [False, True])
@pytest.mark.parametrize("pool", ["cls", "mean", "attention"])
def test_an_empty_batch_costs_nothing(pool: str, distill: bool, bf16: bool) -> None:
    """All pictures of a micro-batch may be unreadable: the loss is 0, and so is every gradient, but there is one."""
    backbone = ViTConfig(image_size=16, patch_size=8, width=16, depth=2, heads=2, distill_token=distill)
    network = Classifier(ClassifierConfig(backbone=backbone, pool=PoolConfig(kind=pool), classes=5))
    o = Classify(ClassifyConfig(weights=WEIGHTS), network)
    nothing = {k: v[:0] for k, v in mixed_batch().items()}
    for b in (nothing, {k: v for k, v in nothing.items() if not k.startswith("mix")}):
        o.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses, metrics = o(b, 0.0)
        assert float(losses["label"].detach()) == 0 and float(metrics["accuracy"]) == 0
        losses["label"].backward()
        assert all(p.grad is not None and not p.grad.any() and p.grad.isfinite().all() for p in o.parameters())


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
