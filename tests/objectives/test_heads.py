"""Several heads: each learns by its own loss from what is known of it, however a batch is cut or mixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import classification
from oracle import losses as oracle
from torch import Tensor

from tessella.card import Head
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.objectives.classify import Classify, ClassifyConfig, HeadConfig

COLOUR = Head(name="colour", task="classify", classes=("blue", "green", "red"))
PRICE = Head(name="price", task="number", mean=100.0, scale=20.0)
TAGS = Head(name="tags", task="tags", classes=("old", "used"))
HEADS = (COLOUR, PRICE, TAGS)
NAN = float("nan")
NAMES = {"colour/loss", "price/loss", "tags/loss", "colour/accuracy", "price/mae", "tags/accuracy"}


def objective(cfg: ClassifyConfig | None = None, heads: tuple[Head, ...] = HEADS, distill: bool = False) -> Classify:
    torch.manual_seed(0)
    backbone = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, distill_token=distill)
    outputs = sum(head.outputs for head in heads)
    network = Classifier(ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="cls"), classes=outputs))
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(0, 0.3)
    return Classify(cfg or ClassifyConfig(smoothing=0.0), network, heads)


def batch() -> dict[str, Any]:
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return {
        "ids": list("abcdef"),
        "image": images,
        "target/colour": torch.tensor([0, -1, 2, 1, -1, 0]),
        "target/price": torch.tensor([110.0, 85.0, NAN, 100.0, 130.0, NAN]),
        "target/tags": torch.tensor([[1, 0], [NAN, 1], [NAN, NAN], [0, 0], [1, 1], [0, NAN]]),
    }


def mixed() -> dict[str, Any]:
    b = batch()
    partner = [1, 0, 3, 2, 5, 4]
    b |= {f"mix_target/{n}": b[f"target/{n}"][partner] for n in ("colour", "price", "tags")}
    return b | {"mix": torch.tensor([1.0, 0.25, 0.9, 0.5, 0.0, 0.4])}


def expected(o: Classify, b: dict[str, Any]) -> dict[str, float]:
    """Sample by sample, over what is known; a mixture counts with both targets, by their shares."""
    out = o.infer(b).double()
    colour, price, tags = out[:, :3].tolist(), out[:, 3].tolist(), out[:, 4:].tolist()
    rows: dict[str, tuple[list[list[float]], list[list[float]]]] = {n: ([], []) for n in ("colour", "price", "tags")}
    share = b.get("mix", torch.ones(6)).tolist()
    for prefix, weights in (("", share), ("mix_", [1 - w for w in share])):
        if f"{prefix}target/colour" not in b:
            continue
        for i, w in enumerate(weights):
            label = int(b[f"{prefix}target/colour"][i])
            rows["colour"][0].append([classification.cross_entropy([colour[i]], [max(label, 0)])])
            rows["colour"][1].append([w * (label >= 0)])
            number = float(b[f"{prefix}target/price"][i])
            rows["price"][0].append([oracle.huber(price[i], (number - 100) / 20, 1.0)])
            rows["price"][1].append([w * (number == number)])
            there = b[f"{prefix}target/tags"][i].tolist()
            rows["tags"][0].append([oracle.binary(x, t) for x, t in zip(tags[i], there, strict=True)])
            rows["tags"][1].append([w * (t == t) for t in there])
    return {name: oracle.masked_mean(*told) for name, told in rows.items()}


@pytest.mark.parametrize("make", [batch, mixed])
def test_each_head_against_the_formula(make: Any) -> None:
    o, b = objective(), make()
    losses, metrics = o(b, 0.0)
    told = expected(o, b)
    assert list(losses) == ["colour/loss", "price/loss", "tags/loss"]
    assert {n.removesuffix("/loss"): float(v.detach()) for n, v in losses.items()} == pytest.approx(told, rel=1e-5)
    assert set(metrics) == {"colour/accuracy", "price/mae", "tags/accuracy"}
    filled = b | {"target/colour": b["target/colour"].clamp(min=0)}
    assert float(o(filled, 0.0)[0]["colour/loss"].detach()) != pytest.approx(told["colour"], rel=1e-4), (
        "a gap that counts"
    )
    zero = b | {"target/price": b["target/price"].nan_to_num()}
    assert float(o(zero, 0.0)[0]["price/loss"].detach()) != pytest.approx(told["price"], rel=1e-3)


def test_figures_of_a_step() -> None:
    o, b = objective(), batch()
    out, metrics = o.infer(b).detach(), o(b, 0.0)[1]
    right = [bool(out[i, :3].argmax() == b["target/colour"][i]) for i in (0, 2, 3, 5)]
    assert float(metrics["colour/accuracy"]) == pytest.approx(sum(right) / 4)
    error = [abs(float(out[i, 3]) * 20 + 100 - float(b["target/price"][i])) for i in (0, 1, 3, 4)]
    assert float(metrics["price/mae"]) == pytest.approx(sum(error) / 4, rel=1e-5), "in its own unit"
    bits = [(float(out[i, 4 + k]) > 0) == bool(t) for i, k, t in known_tags(b)]
    assert float(metrics["tags/accuracy"]) == pytest.approx(sum(bits) / len(bits))


def known_tags(b: dict[str, Any]) -> list[tuple[int, int, float]]:
    rows = b["target/tags"].tolist()
    return [(i, k, t) for i, row in enumerate(rows) for k, t in enumerate(row) if t == t]


CUTS = [[(0, 2), (2, 6)], [(0, 3), (3, 4), (4, 6)], [(0, 0), (0, 6)], [(i, i + 1) for i in range(6)]]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("make", [batch, mixed])
def test_cutting_changes_nothing(cuts: list[tuple[int, int]], make: Any) -> None:
    """Each loss by the share that `counts` gives it: also where a micro-batch knows nothing of a head."""

    def gradient(parts: list[dict[str, Any]], naive: bool = False) -> Tensor:
        o = objective()
        each = [o.counts(part) for part in parts]
        totals = {name: sum(c[name] for c in each) for name in each[0]}
        assert set(totals) == NAMES
        for part, counts in zip(parts, each, strict=True):
            losses, _ = o(part, 0.0)
            share = {n: len(part["ids"]) / 6 if naive else counts[n] / totals[n] for n in losses}
            sum(loss * share[n] for n, loss in losses.items()).backward()
        return torch.cat([p.grad.flatten() for p in o.parameters()])

    b = make()
    parts = [{k: v[i:j] for k, v in b.items()} for i, j in cuts]
    assert torch.allclose(gradient([b]), gradient(parts), atol=1e-6)
    if len(parts[0]["ids"]):
        assert not torch.allclose(gradient([b]), gradient(parts, naive=True), atol=1e-4), (
            "counting samples is another mean"
        )


def test_counts_are_what_is_known() -> None:
    o = objective()
    assert o.counts(batch()) == dict.fromkeys(NAMES, 4)
    assert o.counts(mixed())["colour/loss"] == pytest.approx(1.0 + 0.75 + 1.0 + 1.0 + 1.0 + 0.4)
    assert objective(heads=(COLOUR,)).counts({"ids": ["a"], "label": torch.tensor([1])}) == {}


@pytest.mark.parametrize("distill", [False, True])
def test_nothing_known_costs_nothing(distill: bool) -> None:
    o, b = objective(distill=distill), batch()
    none = b | {"target/colour": torch.full((6,), -1), "target/price": torch.full((6,), NAN)}
    none["target/tags"] = torch.full((6, 2), NAN)
    for nothing in (none, {k: v[:0] for k, v in mixed().items()}):
        o.zero_grad()
        losses, metrics = o(nothing, 0.0)
        assert all(float(v.detach()) == 0 for v in losses.values()) and all(float(v) == 0 for v in metrics.values())
        assert all(v == 0 for v in o.counts(nothing).values())
        sum(losses.values()).backward()
        assert all(p.grad is not None and not p.grad.any() and p.grad.isfinite().all() for p in o.parameters())


def test_a_head_learns_from_its_outputs_alone() -> None:
    """The gradient of one head's loss touches its rows of the linear layer, and no other."""
    for name, rows in (("colour", slice(0, 3)), ("price", slice(3, 4)), ("tags", slice(4, 6))):
        o = objective()
        o(batch(), 0.0)[0][f"{name}/loss"].backward()
        touched = o.network.head.weight.grad.abs().sum(1) > 0
        assert touched[rows].all() and touched.sum() == rows.stop - rows.start


def test_one_head_of_any_task() -> None:
    """Its targets are the batch's `label`; its loss and its figure are named plainly."""
    for head, label in ((PRICE, torch.tensor([90.0, NAN])), (TAGS, torch.tensor([[1.0, 0.0], [NAN, 1.0]]))):
        o = objective(heads=(head,))
        b = {"ids": ["a", "b"], "image": torch.zeros(2, 3, 16, 16), "label": label}
        losses, metrics = o(b, 0.0)
        assert list(losses) == ["label"] and list(metrics) == ["mae" if head is PRICE else "accuracy"]
        assert o.counts(b) == dict.fromkeys(["label", *metrics], 1 if head is PRICE else 1.5)


def test_own_loss_own_weight() -> None:
    plain, b = objective(), batch()
    own = {
        "colour": HeadConfig(weight=0.5, smoothing=0.2),
        "price": HeadConfig(loss="l1"),
        "tags": HeadConfig(weight=2.0),
    }
    o = objective(ClassifyConfig(smoothing=0.0, loss="focal", gamma=1.0, heads=own))
    before, after = plain(b, 0.0)[0], o(b, 0.0)[0]
    assert [part.loss.loss for part in o.parts] == ["focal", "l1", "focal"], "the loss of all goes where it can"
    assert [part.loss.smoothing for part in o.parts] == [0.2, 0.0, 0.0] and o.parts[2].loss.gamma == 1.0
    alone = objective(ClassifyConfig(smoothing=0.0, loss="focal", gamma=1.0, heads={"price": HeadConfig(loss="l1")}))
    assert torch.allclose(after["tags/loss"], 2 * alone(b, 0.0)[0]["tags/loss"])
    assert not torch.allclose(after["price/loss"], before["price/loss"], rtol=1e-3)


def test_class_weights_of_one_of_several() -> None:
    weights = (0.5, 2.0, 1.0)
    o = objective(ClassifyConfig(smoothing=0.0, heads={"colour": HeadConfig(weights=weights)}))
    b = batch()
    out, labels = o.infer(b)[:, :3].tolist(), b["target/colour"].tolist()
    told = [weights[t] * classification.cross_entropy([out[i]], [t]) for i, t in enumerate(labels) if t >= 0]
    losses = o(b, 0.0)[0]
    assert float(losses["colour/loss"].detach()) == pytest.approx(sum(told) / 4, rel=1e-5)
    assert float(losses["price/loss"].detach()) == pytest.approx(float(objective()(b, 0.0)[0]["price/loss"].detach()))


@pytest.mark.parametrize(
    ("cfg", "told"),
    [
        ({"heads": {"prise": HeadConfig()}}, "objective.heads has 'prise', which is no target; did you mean 'price'?"),
        ({"heads": {"price": HeadConfig(loss="focal")}}, "price is a number; choose one of huber, mse, l1"),
        ({"heads": {"colour": HeadConfig(loss="mse")}}, "colour is a class; choose one of cross_entropy"),
        ({"heads": {"price": HeadConfig(weights=(1.0,))}}, "weighs classes, and price is a number"),
        (
            {"heads": {"colour": HeadConfig(weights=(1.0,))}},
            "objective.heads.colour.weights has 1 numbers for 3 classes",
        ),
        ({"weights": (1.0, 2.0, 3.0)}, "say of which: objective.heads.NAME.weights"),
    ],
)
def test_what_does_not_fit(cfg: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput) as caught:
        objective(ClassifyConfig(**cfg))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_loss_that_no_head_can_have() -> None:
    with pytest.raises(BadInput, match="no target can have it; for a number: huber, mse, l1"):
        objective(ClassifyConfig(loss="focal"), heads=(PRICE,))
    with pytest.raises(BadInput, match=r"model\.classes is 6, and the heads need 3"):
        Classify(ClassifyConfig(), objective().network, (COLOUR,))


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ({"weight": -1.0}, "objective.heads.price.weight is -1.0"),
        ({"gamma": -1.0}, "objective.heads.price.gamma is -1.0"),
        ({"weights": (0.0,)}, "objective.heads.price.weights has a number that is not above 0"),
    ],
)
def test_what_cannot_be_of_a_head(head: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput) as caught:
        ClassifyConfig(heads={"price": HeadConfig(**head)})
    assert told in str(caught.value)
