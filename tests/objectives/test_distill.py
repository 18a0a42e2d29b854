"""Distillation: each loss is its paper's, the teacher sees the student's pictures its own way and never changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import classification, mixing
from oracle import distillation as oracle
from taught import (
    ANSWERS,
    CLASSES,
    GIVEN,
    KINDS,
    KNOWN,
    ROWS,
    VECTORS,
    WANTS,
    batch,
    mixed,
    network,
    objective,
    raw,
    rows_of,
    taught,
    teacher,
    told,
)
from torch import Tensor, nn

from tessella.card import Head, Preprocess, alone
from tessella.data.pixels.finish import Finish
from tessella.errors import BadInput, TessellaError
from tessella.models.classifier import Classifier
from tessella.objectives.distill import Distill, DistillConfig, Features, Teacher, matched

# -- what is learned of answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("distill", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_against_the_formula(distill: bool, temperature: float) -> None:
    o, b = objective("soft, summed", distill, temperature=temperature), batch()
    said = o.network.both(b["image"])
    last = rows_of(said.classes if said.distill is None else said.distill)
    found, seen = told(o, b), taught(o, b)
    assert found["teacher"] == pytest.approx(0.3 * oracle.soft(last, seen, temperature), rel=1e-4)
    assert found["agreement"] == pytest.approx(oracle.agreement(rows_of(o.infer(b)), seen))
    mean = objective("soft", distill, temperature=temperature)
    assert told(mean, b)["teacher"] == pytest.approx(found["teacher"] / 5, rel=1e-5), "DeiT's code counts classes too"
    for wrong in (  # the mutations
        oracle.soft(last, seen, temperature + 0.05),
        oracle.soft(last, seen, temperature) / temperature**2 if temperature != 1 else 0.0,
        oracle.soft(seen, last, temperature),
        oracle.soft(last, taught(o, b, ROWS[::-1]), temperature),
    ):
        assert found["teacher"] != pytest.approx(0.3 * wrong, rel=1e-3), "the comparison can fail"


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_soft_as_deit_writes_it(temperature: float) -> None:
    """Its own lines: a sum over everything, times T^2, over the number of logits."""
    o, b = objective("soft", True, temperature=temperature), batch()
    said, theirs = o.network.both(b["image"]).distill, torch.tensor(taught(o, b), dtype=torch.float32)
    assert said is not None
    said = said.detach()

    def deit(t: float, theirs: Tensor = theirs) -> float:
        ours, goal = F.log_softmax(said / t, dim=1), F.log_softmax(theirs / t, dim=1)
        return float(F.kl_div(ours, goal, reduction="sum", log_target=True) * (t * t) / said.numel())

    found = told(o, b)["teacher"]
    assert found == pytest.approx(0.3 * deit(temperature), rel=1e-4)
    assert found != pytest.approx(0.3 * deit(temperature + 0.05), rel=1e-3), "the comparison can fail"
    assert found != pytest.approx(0.3 * deit(temperature, theirs.roll(1, 1)), rel=1e-3)


@pytest.mark.parametrize("distill", [False, True])
def test_hard_against_the_formula(distill: bool) -> None:
    o, b = objective("hard", distill), batch()
    said = o.network.both(b["image"])
    last, seen = rows_of(said.classes if said.distill is None else said.distill), taught(o, b)
    found = told(o, b)
    assert found["teacher"] == pytest.approx(0.3 * oracle.hard(last, seen), rel=1e-4)
    assert found["agreement"] == pytest.approx(oracle.agreement(rows_of(o.infer(b)), seen))
    assert 0 < found["agreement"] < 1 and len({max(range(5), key=row.__getitem__) for row in seen}) > 1
    assert found["teacher"] != pytest.approx(0.3 * oracle.hard(last, taught(o, b, ROWS[::-1])), rel=1e-3)
    if distill:
        assert found["teacher"] != pytest.approx(0.3 * oracle.hard(rows_of(said.classes), seen), rel=1e-3)


def test_what_else_the_teacher_knows_is_no_answer() -> None:
    """Its probabilities are those of the student's classes, even where it is surest of another one."""
    o, b = objective("soft, summed"), batch()
    with torch.no_grad():
        o.teacher.network.get_parameter("head.bias")[4] += 50.0  # fox
    seen = taught(o, b)
    assert told(o, b)["teacher"] == pytest.approx(0.3 * oracle.soft(rows_of(o.infer(b)), seen, 3.0), rel=1e-4)


# -- what is learned of features --------------------------------------------------------------------------------------


def by_hand(o: Distill, b: dict[str, Any]) -> float:
    """Vector by vector, place by place: 2x2 of the student against 4x4 of the teacher."""
    theirs, tokens = o.teacher.network, o.network.tokens(b["image"])
    assert isinstance(theirs, Classifier)
    pictures, total, names = Finish(WANTS).pixels(raw(len(b["ids"]))), 0.0, list(o.projections)
    seen = theirs.tokens(pictures)
    ours = {"pooled": o.network.pool(tokens)[:, None], "patches": tokens.patches}
    for name in names:
        weight, bias = rows_of(o.projections[name].weight), rows_of(o.projections[name].bias)
        for i in range(len(pictures)):
            goal = [rows_of(theirs.pool(seen)[i])]
            if name == "patches":
                maps = [oracle.resized_map(rows, 2, 2) for rows in rows_of(seen.map()[i])]
                goal = [[channel[y][x] for channel in maps] for y in range(2) for x in range(2)]
            for vector, aim in zip(rows_of(ours[name][i]), goal, strict=True):
                there = oracle.projected(vector, weight, bias)
                cosine = o.cfg.distance == "cosine"
                far = oracle.cosine(there, aim) if cosine else oracle.smooth_l1(there, aim, o.cfg.delta)
                total += far / len(goal) / len(pictures) / len(names)
    return total


@pytest.mark.parametrize("kind", VECTORS)
def test_features_against_the_formula(kind: str) -> None:
    o, b = objective(kind), batch(3)
    found = told(o, b)["teacher"]
    assert found == pytest.approx(0.3 * by_hand(o, b), rel=1e-4)
    assert "agreement" not in told(o, b), "the heads never hear what the teacher says"
    other = objective(kind, distance="smooth_l1" if o.cfg.distance == "cosine" else "cosine")
    assert found != pytest.approx(0.3 * by_hand(other, b), rel=1e-3), "the comparison can fail"
    if o.cfg.distance == "smooth_l1":
        assert found != pytest.approx(0.3 * by_hand(objective(kind, delta=o.cfg.delta + 0.1), b), rel=1e-3)
    turned = objective(kind)
    with torch.no_grad():
        for part in turned.projections.values():
            part.get_parameter("weight").copy_(part.get_parameter("weight").roll(1, 0))
    assert found != pytest.approx(0.3 * by_hand(turned, b), rel=1e-3)


def test_a_map_is_not_turned() -> None:
    """Each place learns from what the teacher sees there: a student that is the teacher has nothing to learn."""
    t = teacher(GIVEN)
    o = Distill(DistillConfig(kind="features", share=1.0, of="patches"), teacher(GIVEN).network, t, ())  # type: ignore[arg-type]
    with torch.no_grad():
        o.projections["patches"].get_parameter("weight").copy_(torch.eye(24))
    o.network.eval()
    b = batch(labels=False)
    assert told(o, b)["teacher"] == pytest.approx(0, abs=1e-5)
    o.teacher = replace(t, vectors=lambda x: Features(torch.zeros(len(x), 24), t.network.tokens(x).map().mT))
    assert told(o, b)["teacher"] > 0.01


def test_any_network_can_teach() -> None:
    """Not only a Classifier: then somebody says what its features are."""
    convolution = nn.Conv2d(3, 10, 4, 4)

    def look(images: Tensor) -> Features:
        return Features(convolution(images).mean((2, 3)), convolution(images))

    heads, b = (alone(CLASSES),), batch()
    pooled = Teacher(
        network=nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten()), wants=WANTS, given=GIVEN
    )
    for kind in ANSWERS:
        o = Distill(DistillConfig(**KINDS[kind]), network(), replace(pooled, rows=(9, 7, 5, 3, 1)), heads)
        assert torch.equal(
            o.teacher.logits(b["image"]), pooled.network(pooled.pictures(b["image"]))[:, [9, 7, 5, 3, 1]]
        )
        assert math.isfinite(told(o, b)["teacher"])
    o = Distill(DistillConfig(**KINDS["both"]), network(), replace(pooled, vectors=look), heads)
    assert {name: part.out_features for name, part in o.projections.items()} == {"pooled": 10, "patches": 10}
    assert math.isfinite(told(o, b)["teacher"])
    with pytest.raises(BadInput, match="a Sequential does not say what they are; set it to"):
        Distill(DistillConfig(**KINDS["both"]), network(), pooled, heads)
    blind = replace(pooled, vectors=lambda x: Features(look(x).pooled, None))
    with pytest.raises(BadInput, match=r"objective.of is 'both', but the teacher gives no map.*pooled"):
        Distill(DistillConfig(**KINDS["both"]), network(), blind, heads)
    assert list(Distill(DistillConfig(**KINDS["pooled"]), network(), blind, heads).projections) == ["pooled"]


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distill", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [batch, mixed])
def test_labels_against_the_formula(make: Callable[[], dict[str, Any]], kind: str, distill: bool) -> None:
    """Of what is known, by the share that the teacher leaves; two heads share it out only where both are taught."""
    o, b = objective(kind, distill, smoothing=0.2), make()
    said = [rows_of(x) for x in o.network.both(b["image"]) if x is not None]
    pupils = said if kind in VECTORS else said[:1]
    own = b["label"].tolist()
    parts = [(own, b["mix"].tolist()), (b["mix_label"].tolist(), (1 - b["mix"]).tolist())] if "mix" in b else []
    total = mass = 0.0
    for labels, weights in parts or [(own, [1.0] * 6)]:
        for i, (label, weight) in enumerate(zip(labels, weights, strict=True)):
            if label >= 0:
                mass += weight
                for rows in pupils:
                    total += weight * classification.cross_entropy([rows[i]], [label], 0.2) / len(pupils)
    found = told(o, b)
    assert found["label"] == pytest.approx(0.7 * total / mass, rel=1e-4)
    assert found["label"] != pytest.approx(0.7 * total / 6, rel=1e-3), "unknown labels that count are seen"
    assert o.counts(b) == pytest.approx({"label": mass, "accuracy": o.counts(b)["accuracy"]})
    most = [a if "mix" not in b or b["mix"][i] >= 0.5 else b["mix_label"][i] for i, a in enumerate(own)]
    there = [i for i, label in enumerate(most) if label >= 0]
    right = classification.top([rows_of(o.infer(b))[i] for i in there], [int(most[i]) for i in there], 1)
    assert found["accuracy"] == pytest.approx(right) and o.counts(b)["accuracy"] == len(there)


def test_a_mixture_of_known_labels_is_its_soft_target() -> None:
    o, b = objective("soft"), mixed()
    b["label"], b["mix_label"] = b["label"].clamp(min=0), b["mix_label"].clamp(min=0)
    known = mixing.soft_cross_entropy(
        rows_of(o.infer(b)), b["label"].tolist(), b["mix_label"].tolist(), b["mix"].tolist(), 0.1
    )
    assert told(o, b)["label"] == pytest.approx(0.7 * known, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_two_heads_share_what_there_is(kind: str, share: float) -> None:
    """The first has the labels and the second the teacher's answers; where only one teaches, both learn from it."""
    o = objective(kind, distill=True, share=share)

    def gradients(b: dict[str, Any]) -> list[Tensor | None]:
        o.zero_grad()
        torch.stack(list(o(b, 0.0)[0].values())).sum().backward()
        return [head.weight.grad for head in (o.network.head, o.network.head_dist)]

    first, other = gradients(batch()), gradients(batch() | {"label": torch.tensor([4, 3, -1, 1, 0, 2])})
    moved = [a is not None and b is not None and not torch.equal(a, b) for a, b in zip(first, other, strict=True)]
    assert moved == {0.0: [True, True], 0.3: [True, kind in VECTORS], 1.0: [False, False]}[share]
    if kind in ANSWERS:
        o.teacher = replace(o.teacher, rows=ROWS[::-1])
        again = gradients(batch() | {"label": torch.tensor([4, 3, -1, 1, 0, 2])})
        moved = [a is not None and b is not None and not torch.equal(a, b) for a, b in zip(other, again, strict=True)]
        assert moved == {0.0: [False, False], 0.3: [False, True], 1.0: [True, True]}[share]


@pytest.mark.parametrize("kind", KINDS)
def test_without_labels(kind: str) -> None:
    o, b = objective(kind, share=1.0), batch(labels=False)
    found = told(o, b)
    assert set(found) == {"teacher"} | ({"agreement"} if kind in ANSWERS else set()) and o.counts(b) == {}
    labelled = told(o, batch())  # labels that are there are not learned
    assert labelled["teacher"] == found["teacher"] and ("accuracy" in labelled) == (kind in ANSWERS)
    assert set(o.counts(batch())) == ({"accuracy"} if kind in ANSWERS else set())
    needs = objective(kind)
    for call in (needs.counts, lambda b: needs(b, 0.0)):
        with pytest.raises(BadInput, match=r"^objective.share is 0.3, but the pictures have no labels; set it to 1"):
            call(b)


# -- the student as the trainer sees it -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("distill", [False, True])
@pytest.mark.parametrize("pool", ["cls", "mean", "attention"])
def test_every_weight_that_learns_has_a_gradient(pool: str, distill: bool, share: float, kind: str) -> None:
    o = objective(kind, distill, pool, share=share)
    torch.stack(list(o(batch(), 0.0)[0].values())).sum().backward()
    learns = {n: p for n, p in o.named_parameters() if p.requires_grad}
    missing = {n for n, p in learns.items() if p.grad is None or not p.grad.abs().sum() > 0}
    assert missing <= {"network.backbone.blocks.0.attn.qkv.bias"}
    idle = {n for n, p in o.named_parameters() if not p.requires_grad}
    if share < 1 or kind in ANSWERS:
        assert not idle
    else:  # no head is taught, and no pool where only patches are
        assert {"network.head.weight"} <= idle and all(n.startswith(("network.head", "network.pool")) for n in idle)
        assert any(n.startswith("network.pool") for n in idle) == (kind == "patches" and pool == "attention")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_used_is_the_model(kind: str) -> None:
    for distill in (False, True):
        o, b = objective(kind, distill), batch()
        assert o.model is o.network and torch.equal(o.infer(b), o.model(b["image"]))
        assert {name.split(".")[0] for name in o.state_dict()} == {"network"} | (
            {"projections"} if kind in VECTORS else set()
        )


CUTS = [[(0, 2), (2, 6)], [(0, 3), (3, 4), (4, 6)], [(0, 0), (0, 6)], [(i, i + 1) for i in range(6)]]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("make", [batch, mixed])
@pytest.mark.parametrize("kind", ["hard", "soft", "both"])
def test_the_gradient_of_the_whole_is_the_mean_of_its_parts(kind: str, make: Any, cuts: list[tuple[int, int]]) -> None:
    def gradient(parts: list[dict[str, Any]]) -> Tensor:
        o = objective(kind, distill=True)
        totals = o.counts(make())
        for part in parts:
            losses, _ = o(part, 0.0)
            share = {"label": o.counts(part)["label"] / totals["label"], "teacher": len(part["ids"]) / 6}
            torch.stack([share[name] * loss for name, loss in losses.items()]).sum().backward()
        return torch.cat([p.grad.flatten() for p in o.parameters()])

    parts = [{k: v[i:j] for k, v in make().items()} for i, j in cuts]
    assert torch.allclose(gradient([make()]), gradient(parts), atol=1e-6)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_costs_nothing(kind: str, bf16: bool) -> None:
    """Nor does a batch of which no label is known cost anything of the labels."""
    o = objective(kind, distill=True)
    for b in ({k: v[:0] for k, v in mixed().items()}, {k: v[:0] for k, v in batch().items()}):
        o.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses, metrics = o(b, 0.0)
        assert all(float(v.detach()) == 0 for v in [*losses.values(), *metrics.values()])
        torch.stack(list(losses.values())).sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in o.parameters())
    nobody = batch() | {"label": torch.full((6,), -1)}
    found = told(o, nobody)
    assert found["label"] == found["accuracy"] == 0 < found["teacher"] and o.counts(nobody) == {
        "label": 0,
        "accuracy": 0,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_loses_nothing_in_the_loss(kind: str) -> None:
    o = objective(kind, distill=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = o(batch(), 0.0)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    found = told(o, batch())
    assert {name: float(loss.detach()) for name, loss in losses.items()} == pytest.approx(
        {name: found[name] for name in losses}, rel=0.1
    )


# -- the teacher ------------------------------------------------------------------------------------------------------


def test_its_pictures_are_those_of_its_own_preprocessing() -> None:
    t, pixels = teacher(), raw()
    ours = t.pictures(Finish(GIVEN).pixels(pixels))
    assert torch.allclose(ours, Finish(WANTS).pixels(pixels), atol=1e-5)
    swapped = replace(t, wants=GIVEN, given=WANTS)
    assert not torch.allclose(swapped.pictures(Finish(GIVEN).pixels(pixels)), Finish(WANTS).pixels(pixels), atol=0.1)
    large = teacher(replace(WANTS, size=(24, 32)))
    theirs = F.interpolate(Finish(WANTS).pixels(pixels), (24, 32), mode="bilinear", antialias=True)
    assert torch.allclose(large.pictures(Finish(GIVEN).pixels(pixels)), theirs, atol=1e-5)
    small = teacher(replace(WANTS, size=(8, 8))).pictures(Finish(GIVEN).pixels(pixels))
    slow = oracle.resized_map(rows_of(Finish(WANTS).pixels(pixels)[0, 1]), 8, 8)
    assert rows_of(small[0, 1]) == [pytest.approx(row, abs=1e-4) for row in slow]


def test_classes_are_matched_by_name() -> None:
    assert matched(CLASSES, KNOWN) == ROWS
    assert matched(KNOWN, KNOWN) == tuple(range(7)) and matched(KNOWN[::-1], KNOWN) == tuple(range(7))[::-1]
    with pytest.raises(BadInput, match=r"^the teacher does not know 'gnu', 'owl', of 3 classes; [^\n]*features[^\n]*$"):
        matched(("ant", "gnu", "owl"), KNOWN)
    with pytest.raises(BadInput, match=r"more than one output for 'ant', of 5 classes"):
        matched(CLASSES, (*KNOWN, "ant"))
    with pytest.raises(BadInput, match=r"'4' and 3 more, of 8"):
        matched([str(i) for i in range(8)], ())


def test_the_teacher_is_no_part_of_the_objective() -> None:
    for kind in KINDS:
        o = objective(kind)
        theirs = {id(p) for p in o.teacher.network.parameters()}
        assert not theirs & {id(p) for p in o.parameters()} and "teacher" not in str(o.state_dict().keys())
        assert all(module is not o.teacher.network for module in o.modules())
        assert not o.train().teacher.network.training and not any(m.training for m in o.teacher.network.modules())
        once = [told(o, batch())["teacher"] for _ in range(2)]  # it drops half its depth where it trains
        assert once[0] == once[1]
        b = batch()
        torch.stack(list(o(b | {"image": b["image"].requires_grad_()}, 0.0)[0].values())).sum().backward()
        assert (
            not o.teacher.logits(b["image"]).requires_grad and not o.teacher.features(b["image"]).pooled.requires_grad
        )
        assert all(p.grad is None and not p.requires_grad for p in o.teacher.network.parameters())


def test_it_follows_the_pictures() -> None:
    o = objective().to("meta")
    assert next(o.teacher.network.parameters()).device.type == "cpu"
    assert o.teacher.logits(batch()["image"].to("meta")).device.type == "meta"
    assert {p.device.type for p in o.teacher.network.parameters()} == {"meta"}


def test_a_teacher_of_few_bits_is_asked_in_them() -> None:
    o = objective("both")
    o.teacher.network.bfloat16()
    assert o.teacher.features(batch()["image"]).pooled.dtype == torch.float32
    assert told(o, batch())["teacher"] == pytest.approx(told(objective("both"), batch())["teacher"], rel=0.1)


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"share": -0.1},
        {"share": 1.5},
        {"share": math.nan},
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"smoothing": 1.0},
        {"delta": 0.0},
        {"delta": math.nan},
    ],
)
def test_numbers_that_mean_nothing(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=rf"^objective.{next(iter(bad))} is [^\n]*; give [^\n]*$"):
        DistillConfig(**bad)  # type: ignore[arg-type]


def test_what_does_not_fit() -> None:
    t, one = teacher(), alone(CLASSES)
    grey = Preprocess(size=(16, 16), mean=(0.5,), std=(0.2,), channels=1)
    with pytest.raises(BadInput, match=r"^the teacher's pictures have channels 3, the student's 1; [^\n]*$"):
        replace(t, given=grey)
    deep = replace(GIVEN, depth="float32", limits=(0.0, 400.0))
    with pytest.raises(BadInput, match="have limits None, the student's"):
        replace(t, given=deep)
    price, tags = Head(name="price", task="number"), Head(name="tags", task="tags", classes=CLASSES)
    for heads, named in (
        ((tags,), r"tags \(tags\)"),
        ((one, price), r"label \(classify\), price \(number\)"),
        ((), "none"),
    ):
        with pytest.raises(
            BadInput, match=rf"^a teacher teaches one target, which is a class[^\n]*: {named}; choose one$"
        ):
            Distill(DistillConfig(), network(), t, heads)
    with pytest.raises(BadInput, match=r"model\.classes is 5, and the data has 4"):
        Distill(DistillConfig(), network(), t, (alone(CLASSES[:4]),))
    with pytest.raises(TessellaError, match="rows are 4 for 5 classes"):
        Distill(DistillConfig(), network(), replace(t, rows=ROWS[:4]), (one,))
    with pytest.raises(TessellaError, match="share weights"):
        Distill(DistillConfig(kind="features"), t.network, t, (alone(KNOWN),))  # type: ignore[arg-type]
    silent = Distill(DistillConfig(kind="features", share=1.0), network(classes=0), replace(t, rows=()), ())
    assert set(told(silent, batch(labels=False))) == {"teacher"}
