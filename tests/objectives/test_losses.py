"""Every loss is its paper's formula and what torchvision, timm or torch compute. Beside each, a wrong constant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracle import classification
from oracle import losses as oracle
from torch import Tensor

from tessella.errors import BadInput
from tessella.objectives.losses import LossConfig, asymmetric, focal, of_class, of_number, of_tags

LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
TAGS = (torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.4).double()
LABELS = torch.tensor([0, 1, 2, 3, 4, 1])
VALUES, NUMBERS = LOGITS[:, 0], LOGITS[:, 1]


def each(function: object, *more: object) -> Tensor:
    """An oracle of one number, over all logits and tags."""
    rows = zip(LOGITS.tolist(), TAGS.tolist(), strict=True)
    told = [[function(x, bool(t), *more) for x, t in zip(xs, ts, strict=True)] for xs, ts in rows]  # type: ignore[operator]
    return torch.tensor(told, dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal(gamma: float, alpha: float | None) -> None:
    from torchvision.ops import sigmoid_focal_loss

    ours = focal(LOGITS, TAGS, gamma, alpha)
    assert torch.allclose(ours, each(oracle.focal, gamma, alpha))
    assert torch.allclose(ours, sigmoid_focal_loss(LOGITS, TAGS, -1 if alpha is None else alpha, gamma))
    assert torch.equal(ours, of_tags(LossConfig(loss="focal", gamma=gamma, alpha=alpha), LOGITS, TAGS))
    assert not torch.allclose(ours, each(oracle.focal, gamma + 0.1, alpha), rtol=1e-3), "the comparison can fail"
    assert not torch.allclose(ours, each(oracle.focal, gamma, 0.3), rtol=1e-3)


def test_focal_is_without_focus_the_plain_one() -> None:
    assert torch.allclose(focal(LOGITS, TAGS, 0.0), F.binary_cross_entropy_with_logits(LOGITS, TAGS, reduction="none"))
    assert torch.equal(of_tags(LossConfig(loss="focal"), LOGITS, TAGS), focal(LOGITS, TAGS, 2.0))


@pytest.mark.parametrize(("gamma", "present"), [(4.0, 1.0), (2.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
def test_asymmetric(gamma: float, present: float, margin: float) -> None:
    from timm.loss import AsymmetricLossMultiLabel

    ours = asymmetric(LOGITS, TAGS, gamma, present, margin)
    assert torch.allclose(ours, each(oracle.asymmetric, gamma, present, margin), atol=1e-9)
    theirs = AsymmetricLossMultiLabel(gamma_neg=gamma, gamma_pos=present, clip=margin)(LOGITS, TAGS)
    assert torch.allclose(ours.sum(1).mean().float(), theirs, rtol=1e-5)  # theirs computes in fp32
    cfg = LossConfig(loss="asymmetric", gamma=gamma, gamma_present=present, margin=margin)
    assert torch.equal(ours, of_tags(cfg, LOGITS, TAGS))
    for wrong in ((gamma + 0.5, present, margin), (gamma, present + 0.5, margin), (gamma, present, margin + 0.05)):
        assert not torch.allclose(ours, each(oracle.asymmetric, *wrong), rtol=1e-2, atol=1e-4), (
            "the comparison can fail"
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_by_yes_and_no(smoothing: float) -> None:
    from timm.loss import BinaryCrossEntropy

    ours = of_class(LossConfig(loss="bce", smoothing=smoothing), LOGITS, LABELS)
    assert torch.allclose(ours.mean(), BinaryCrossEntropy(smoothing)(LOGITS, LABELS))
    rows = []
    for scores, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        target = [smoothing / 5 + (1 - smoothing) * (k == label) for k in range(5)]
        rows.append(sum(oracle.binary(x, t) for x, t in zip(scores, target, strict=True)) / 5)
    assert torch.allclose(ours, torch.tensor(rows, dtype=torch.float64))
    assert not torch.allclose(ours.mean(), BinaryCrossEntropy(smoothing + 0.1)(LOGITS, LABELS), rtol=1e-3)
    soft = torch.softmax(LOGITS.flip(0), 1)
    theirs = BinaryCrossEntropy(0.0)(LOGITS, soft)
    assert torch.allclose(of_tags(LossConfig(), LOGITS, soft).mean(), theirs), "soft targets, as DeiT-III's"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_by_cross_entropy(smoothing: float) -> None:
    expected = classification.cross_entropy(LOGITS.tolist(), LABELS.tolist(), smoothing)
    for name in ("auto", "cross_entropy"):
        ours = of_class(LossConfig(loss=name, smoothing=smoothing), LOGITS, LABELS)
        assert float(ours.mean()) == pytest.approx(expected)
    assert float(ours.mean()) != pytest.approx(
        classification.cross_entropy(LOGITS.tolist(), LABELS.tolist(), smoothing + 0.1), rel=1e-3
    )


@pytest.mark.parametrize("name", ["focal", "asymmetric"])
def test_a_class_is_one_tag_of_all(name: str) -> None:
    cfg = LossConfig(loss=name, smoothing=0.0)
    assert torch.equal(of_class(cfg, LOGITS, LABELS), of_tags(cfg, LOGITS, F.one_hot(LABELS, 5).double()).mean(1))


@pytest.mark.parametrize(
    ("cfg", "slow", "theirs"),
    [
        (LossConfig(loss="mse"), oracle.squared, F.mse_loss),
        (LossConfig(loss="l1"), oracle.absolute, F.l1_loss),
        (LossConfig(loss="huber"), lambda v, t: oracle.huber(v, t, 1.0), F.smooth_l1_loss),
        (LossConfig(loss="auto", delta=0.3), lambda v, t: oracle.huber(v, t, 0.3), None),
    ],
)
def test_numbers(cfg: LossConfig, slow: object, theirs: object) -> None:
    ours = of_number(cfg, VALUES, NUMBERS)
    told = [slow(v, t) for v, t in zip(VALUES.tolist(), NUMBERS.tolist(), strict=True)]  # type: ignore[operator]
    assert torch.allclose(ours, torch.tensor(told, dtype=torch.float64))
    if theirs is not None:
        assert torch.allclose(ours.mean(), theirs(VALUES, NUMBERS))  # type: ignore[operator]
    other = LossConfig(loss="huber", delta=0.5)
    assert not torch.allclose(ours, of_number(other, VALUES, NUMBERS), rtol=1e-3), "the comparison can fail"


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
@pytest.mark.parametrize("more", [{}, {"gamma": 0.5, "gamma_present": 0.5}, {"margin": 0.0}, {"gamma": 0.0}])
def test_nothing_overflows(name: str, more: dict[str, float]) -> None:
    """Logits of any size have a finite loss and a finite slope, in fp32."""
    logits = torch.tensor([[-300.0, -90, -20, 0, 20, 90, 300]]).repeat(2, 1).requires_grad_()
    targets = torch.tensor([[0.0], [1.0]]).expand(2, 7)
    loss = of_tags(LossConfig(loss=name, **more), logits, targets)  # type: ignore[arg-type]
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
def test_the_loss_of_a_mixture_is_the_mixture_of_losses(name: str) -> None:
    cfg = LossConfig(loss=name)
    both = of_tags(cfg, LOGITS, 0.3 * TAGS + 0.7 * TAGS.flip(0))
    assert torch.allclose(both, 0.3 * of_tags(cfg, LOGITS, TAGS) + 0.7 * of_tags(cfg, LOGITS, TAGS.flip(0)))


@pytest.mark.parametrize(
    "bad",
    [
        {"smoothing": 1.0},
        {"gamma": -1.0},
        {"gamma_present": float("nan")},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"margin": 1.0},
        {"delta": 0.0},
        {"delta": float("inf")},
    ],
)
def test_what_cannot_be(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=rf"^objective.{next(iter(bad))} is [^\n]*; give "):
        LossConfig(**bad)  # type: ignore[arg-type]
