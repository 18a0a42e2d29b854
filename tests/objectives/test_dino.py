"""DINO: every loss is the paper's; the teacher follows, and sees what it may; the alarm knows a collapse."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracle import selfdistill as oracle
from torch import Tensor, nn
from viewed import HALF, MODES, POOLS, VIT, batch, fresh, losses_of

from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig
from tessella.models.classifier import Classifier
from tessella.models.patches import blanked
from tessella.models.staged import SwinConfig
from tessella.objectives import dino
from tessella.objectives.dino import DINO, DINOConfig, Pulse
from tessella.training import distributed

# -- the losses against the papers ------------------------------------------------------------------------------------


class Slow:
    """What the two say, picture by picture, as lists; and the losses that follow."""

    @torch.no_grad()
    def __init__(self, o: DINO, b: dict[str, Any]) -> None:
        self.cfg, self.mask = o.cfg, b["mask"].flatten(2) if o.cfg.masked else None
        self.taught, self.said, self.pooled = [], [], []  # [sample][view] scores, and features of the large views
        self.patches_taught, self.patches_said, self.hidden = [], [], []  # [large view][patch]
        for i in range(len(b["image"])):
            self.taught.append([self.scores(o.teacher, x) for x in b["image"][i]])
            mine = []
            for v, x in enumerate(b["image"][i]):
                hide = None if self.mask is None else (self.mask[i, v][None], o.mask_token)
                mine.append(self.scores(o.student, x, hide))
                self.pooled.append(o.student.network.pool(o.student.network.backbone(x[None], hide=hide))[0].tolist())
                if self.mask is not None:
                    self.hidden.append(self.mask[i, v].tolist())
                    self.patches_taught.append(self.patches(o.teacher, x))
                    self.patches_said.append(self.patches(o.student, x, hide))
            self.said.append(mine + [self.scores(o.student, x) for x in b["local"][i]])
        self.centre = None if o.of_views.centre is None else o.of_views.centre.tolist()
        kept = o.of_patches
        self.patch_centre = None if kept is None or kept.centre is None else kept.centre.tolist()

    @staticmethod
    def scores(branch: Any, image: Tensor, hide: Any = None) -> list[float]:
        network = branch.network
        out: list[float] = branch.head(network.pool(network.backbone(image[None], hide=hide)))[0].tolist()
        return out

    @staticmethod
    def patches(branch: Any, image: Tensor, hide: Any = None) -> list[list[float]]:
        head = branch.patch_head or branch.head
        out: list[list[float]] = head(branch.network.backbone(image[None], hide=hide).patches[0]).tolist()
        return out

    def temperature(self, progress: float) -> float:
        start, end = self.cfg.teacher_start, self.cfg.teacher_temperature
        return start + (end - start) * min(1.0, progress / self.cfg.teacher_warmup)

    def answers(self, rows: list[list[float]], centre: list[float] | None, progress: float) -> list[list[float]]:
        heat = self.temperature(progress)
        if self.cfg.centring == "sinkhorn":
            return oracle.sinkhorn(rows, heat)
        return [oracle.answer(row, heat, centre) for row in rows]

    def views(self, progress: float = HALF) -> float:
        flat = self.answers([row for sample in self.taught for row in sample], self.centre, progress)
        pairs = [flat[i : i + 2] for i in range(0, len(flat), 2)]
        return oracle.views(pairs, self.said, self.cfg.student_temperature)

    def at_hidden(self, progress: float = HALF) -> float:
        places = [(n, p) for n, row in enumerate(self.hidden) for p, there in enumerate(row) if there]
        flat = self.answers([self.patches_taught[n][p] for n, p in places], self.patch_centre, progress)
        told: list[list[Any]] = [[None] * 16 for _ in self.hidden]
        for (n, p), row in zip(places, flat, strict=True):
            told[n][p] = row
        return oracle.patches(told, self.patches_said, self.hidden, self.cfg.student_temperature)

    def koleo(self) -> float:
        return (oracle.koleo(self.pooled[0::2]) + oracle.koleo(self.pooled[1::2])) / 2


@pytest.mark.parametrize("progress", [0.0, HALF, 0.9])
@pytest.mark.parametrize("mode", MODES)
def test_against_the_formulas(mode: str, progress: float) -> None:
    o, b = fresh(**MODES[mode]), batch()
    slow, expected = Slow(o, b), {"views": 0.0}
    expected["views"] = slow.views(progress)
    if o.cfg.masked:
        expected["patches"] = o.cfg.masked * slow.at_hidden(progress)
    if o.cfg.koleo:
        expected["koleo"] = o.cfg.koleo * slow.koleo()
    assert losses_of(o, b, progress) == pytest.approx(expected, rel=2e-5)


def test_another_formula_is_seen() -> None:
    """The mutations: each is a plausible mistake, and moves a loss far beyond the tolerance."""
    o, b = fresh(**MODES["hidden"]), batch()
    loss, slow = losses_of(o, b), Slow(o, b)
    wrong = {"another time": slow.views(0.0)}
    kept, slow.centre = slow.centre, None
    wrong["no centre"] = slow.views()
    slow.centre, slow.taught = kept, [sample[::-1] for sample in slow.taught]
    wrong["own view"] = slow.views()
    for name, value in wrong.items():
        assert abs(value / loss["views"] - 1) > 1e-3, name  # 50 times the tolerance above
    slow.hidden = [row[::-1] for row in slow.hidden]
    assert abs(0.5 * slow.at_hidden() / loss["patches"] - 1) > 1e-2
    flat = [t for row in slow.hidden for t in row]
    assert len(set(map(sum, slow.hidden))) > 3 and sum(flat) > 20, "views must differ in how much is hidden"


def test_sinkhorn_against_its_listing() -> None:
    torch.manual_seed(0)
    score_NK = torch.rand(7, 5) * 2 - 1
    ours, theirs = dino.sinkhorn(score_NK, 0.1), oracle.sinkhorn(score_NK.tolist(), 0.1)
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=1e-4, atol=1e-6)
    assert (torch.tensor(oracle.sinkhorn(score_NK.tolist(), 0.1, rounds=2)) - ours).abs().max() > 1e-3
    even = dino.sinkhorn(score_NK, 0.5).sum(0)
    assert (even.max() - even.min()) < 0.3 * ((score_NK / 0.5).softmax(1).sum(0).max() - even.min())
    assert dino.sinkhorn(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), 0.01).isfinite().all()


def test_koleo_against_the_formula() -> None:
    torch.manual_seed(0)
    feature_BGD = torch.randn(6, 2, 3)
    each = [oracle.koleo(feature_BGD[:, g].tolist()) for g in range(2)]
    ours = float(dino.koleo(feature_BGD).mean())
    assert ours == pytest.approx(sum(each) / 2, rel=1e-5)
    together = oracle.koleo(feature_BGD.flatten(0, 1).tolist())  # views of one sample are no neighbours
    assert abs(ours - together) > 1e-2 and abs(each[0] - each[1]) > 1e-2
    assert dino.koleo(torch.ones(2, 1, 4)).tolist() == pytest.approx([-math.log(1e-8)] * 2), "never infinite"
    moving = torch.randn(5, 1, 3, requires_grad=True)
    dino.koleo(moving).mean().backward()
    closer, further = (float(dino.koleo(moving.detach() + step * moving.grad).mean()) for step in (0.01, -0.01))
    assert further < float(dino.koleo(moving.detach()).mean()) < closer


def test_koleo_needs_somebody_else() -> None:
    for n in (0, 1):
        alone = torch.randn(n, 2, 3, requires_grad=True)
        dino.koleo(alone).sum().backward()
        assert alone.grad is not None and not alone.grad.any()


# -- who sees what, and what moves ------------------------------------------------------------------------------------


def test_the_teacher_sees_large_views_alone_and_each_size_goes_in_one_call() -> None:
    o, b = fresh(**MODES["hidden"]), batch()
    seen: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    for name, branch in (("student", o.student), ("teacher", o.teacher)):
        branch.register_forward_pre_hook(lambda m, args, name=name: seen[name].append(tuple(args[0].shape)))
    o.before_step(HALF)
    losses, metrics = o(b, HALF)
    assert seen["teacher"] == [(10, 3, 16, 16)]
    assert seen["student"] == [(10, 3, 16, 16), (15, 3, 8, 8)]
    gathered = o.of_views.seen
    o.before_step(HALF)
    other, same = o(b | {"local": b["local"] * 0.5 + 1}, HALF)
    assert torch.equal(metrics["entropy"], same["entropy"]) and torch.equal(gathered, o.of_views.seen)
    assert (losses["views"] - other["views"]).abs() > 1e-3
    o.before_step(HALF)
    _, moved = o(b | {"image": b["image"] * 0.5 + 1}, HALF)
    assert not torch.equal(metrics["entropy"], moved["entropy"]), "the comparison can fail"


def test_the_teacher_sees_what_is_hidden_from_the_student() -> None:
    o, b = fresh(**MODES["hidden"]), batch()
    whole = b | {"mask": torch.zeros_like(b["mask"])}
    entropy = [float(o(x, HALF)[1]["entropy"]) for x in (b, whole)]
    assert entropy[0] == entropy[1] and losses_of(o, b)["views"] != losses_of(o, whole)["views"]
    assert losses_of(o, whole)["patches"] == 0.0


def test_nothing_hidden_leaks_through_a_stem() -> None:
    """A stem's convolution sees across the border of its patch."""
    o, b = fresh(backbone=replace(VIT, embed="stem"), masked=1.0), batch()
    mask = b["mask"].flatten(0, 1).flatten(1)
    large = b["image"].flatten(0, 1)
    other = torch.where(~blanked(torch.ones_like(large), mask, 4).bool(), torch.randn_like(large), large)
    assert o.mask_token is not None and not torch.equal(large, other)
    said, again = (o.student(x, mask, o.mask_token).pooled for x in (large, other))
    assert torch.allclose(said, again, atol=1e-5)
    assert not torch.allclose(o.student(large).pooled, o.student(other).pooled, atol=1e-3)


@pytest.mark.parametrize("local", [None, torch.zeros(5, 0, 3, 8, 8)])
def test_there_may_be_no_small_views(local: Tensor | None) -> None:
    o, b = fresh(), batch()
    b |= {"local": torch.zeros(5, 0, 3, 8, 8)}
    expected = Slow(o, b).views()
    del b["local"]
    assert losses_of(o, b if local is None else b | {"local": local})["views"] == pytest.approx(expected, rel=1e-5)
    one = {k: v[:, :1] if isinstance(v, Tensor) else v for k, v in b.items()}
    with pytest.raises(BadInput, match="one large view and no other"):
        o(one, 0.0)


@pytest.mark.parametrize("mode", MODES)
def test_forward_changes_no_state(mode: str) -> None:
    o = fresh(backbone=replace(VIT, drop_path=0.3), **MODES[mode])
    before = {k: v.clone() for k, v in o.state_dict().items()}
    o.before_step(0.3)
    o(batch(), 0.3)
    assert all(torch.equal(v, before[k]) for k, v in o.state_dict().items())
    o.after_step(0.3)
    moved = {k.split(".")[0] for k, v in o.state_dict().items() if not torch.equal(v, before[k])}
    assert moved >= {"teacher", "pulse"} and "student" not in moved and "mask_token" not in moved


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_the_teacher_follows_by_the_momentum_of_the_hour(progress: float) -> None:
    o = fresh(momentum=0.9, momentum_end=0.98, **MODES["two heads"])
    before = {k: p.clone() for k, p in o.teacher.named_parameters()}
    o.after_step(progress)
    keeps = 0.98 - 0.08 * (math.cos(math.pi * progress) + 1) / 2
    students = dict(o.student.named_parameters())
    for name, p in o.teacher.named_parameters():
        torch.testing.assert_close(p, keeps * before[name] + (1 - keeps) * students[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(p, before[name], atol=1e-5) or progress == 1.0
    assert len(before) > 30


def test_the_schedules() -> None:
    cfg = DINOConfig()
    heat = [cfg.temperature(x) for x in (0.0, 0.15, 0.3, 0.6, 1.0)]
    assert heat == pytest.approx([0.04, 0.055, 0.07, 0.07, 0.07])
    assert DINOConfig(teacher_warmup=0.0).temperature(0.0) == pytest.approx(0.07)
    keeps = [cfg.keeps(i / 10) for i in range(11)]
    assert keeps == sorted(keeps) and keeps[0] == pytest.approx(0.996) and keeps[-1] == 1.0
    assert keeps[5] == pytest.approx(0.998) and keeps[1] - keeps[0] < (keeps[5] - keeps[4]) / 3, "a cosine"


def test_the_centre_follows_the_mean_of_the_teacher() -> None:
    o, b = fresh(**MODES["hidden"]), batch()
    slow = Slow(o, b)
    o.before_step(0.0)
    for part in (slice(0, 2), slice(2, 5)):  # two micro-batches
        o({k: v[part] for k, v in b.items()}, 0.0)
    o.after_step(0.0)
    rows = [row for sample in slow.taught for row in sample]
    assert slow.centre is not None and slow.patch_centre is not None
    assert o.of_views.centre.tolist() == pytest.approx(oracle.moved(slow.centre, rows, 0.9), rel=1e-4, abs=1e-6)
    assert o.of_views.centre.tolist() != pytest.approx(oracle.moved(slow.centre, rows, 0.8), rel=1e-3)
    hidden = [slow.patches_taught[n][p] for n in range(10) for p in range(16) if slow.hidden[n][p]]
    assert o.of_patches.centre.tolist() == pytest.approx(oracle.moved(slow.patch_centre, hidden, 0.9), abs=1e-6)
    kept = o.of_patches.centre.clone()
    o.before_step(0.0)
    o(b | {"mask": torch.zeros_like(b["mask"])}, 0.0)
    o.after_step(0.0)
    assert torch.equal(kept, o.of_patches.centre), "nothing hidden, nothing learned of hidden patches"


def test_chance_is_the_students_alone() -> None:
    o, b = fresh(backbone=replace(VIT, drop_path=0.4, mlp_dropout=0.2)), batch()
    o.train()
    assert o.teacher.network.cfg.backbone.drop_path == 0 and o.teacher.network.cfg.backbone.mlp_dropout == 0
    (first, m1), (second, m2) = o(b, HALF), o(b, HALF)
    assert torch.equal(m1["entropy"], m2["entropy"]) and first["views"] != second["views"]


def test_teacher_and_student_start_alike_and_the_teacher_ships() -> None:
    network = Classifier(ClassifierConfig(backbone=VIT, classes=0))
    given = {k: v.clone() for k, v in network.state_dict().items()}
    o = DINO(DINOConfig(prototypes=8), network)
    for k, v in o.student.state_dict().items():
        assert torch.equal(v, o.teacher.state_dict()[k])
    assert all(torch.equal(v, given[k]) for k, v in o.model.state_dict().items())
    assert o.model is o.teacher.network and not any(p.requires_grad for p in o.teacher.parameters())
    image = batch()["image"][:, 0]
    o.init_weights()
    o.after_step(1.0)
    assert torch.equal(o.infer({"image": image}), o.teacher.network.embed(image))
    distributed.refuse_two_names(o)


@pytest.mark.parametrize("distill", [False, True])
def test_a_network_takes_its_own_tokens(distill: bool) -> None:
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig(backbone=replace(VIT, distill_token=distill), classes=0))
    image = batch()["image"][:, 0]
    assert torch.equal(network(network.backbone(image)), network(image))
    assert not torch.equal(network(network.backbone(image.flip(3))), network(image))


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("mode", MODES)
def test_every_weight_that_learns_has_a_gradient(mode: str, pool: str, hides: bool) -> None:
    """A weight without one would stop data-parallel training, in a step in which nothing is hidden too."""
    backbone = replace(VIT, class_token=pool == "cls", final_norm=pool != "attention")
    o, b = fresh(pool, backbone, **MODES[mode]), batch()
    if not hides:
        b["mask"] = torch.zeros_like(b["mask"])
    torch.stack(list(o(b, HALF)[0].values())).sum().backward()
    learns = {n: p for n, p in o.named_parameters() if p.requires_grad}
    assert ("mask_token" in learns) == bool(o.cfg.masked) and not [n for n in learns if n.startswith("teacher")]
    missing = [n for n, p in learns.items() if p.grad is None or (hides and not p.grad.any())]
    assert not missing
    assert all(p.grad is None for p in o.teacher.parameters())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_costs_nothing(mode: str, bf16: bool) -> None:
    o = fresh(**MODES[mode])
    nothing = {k: v[:0] for k, v in batch().items()}
    o.before_step(HALF)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses, metrics = o(nothing, HALF)
    assert not any(v.any() for v in losses.values()) and all(v.isfinite() for v in metrics.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in o.parameters() if p.requires_grad)
    assert o.counts(nothing) == ({"patches": 0.0} if o.cfg.masked else {})
    before = {k: v.clone() for k, v in o.state_dict().items() if "centre" in k}
    o.after_step(HALF)
    assert all(torch.equal(v, o.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("mode", MODES)
def test_bf16_loses_little(mode: str) -> None:
    o, b = fresh(**MODES[mode]), batch()
    whole = losses_of(o, b)
    with torch.autocast("cpu", torch.bfloat16):
        half = o(b, HALF)[0]
    assert all(loss.dtype == torch.float32 for loss in half.values())
    assert {k: float(v.detach()) for k, v in half.items()} == pytest.approx(whole, rel=0.08)


def test_nothing_is_left_without_a_start() -> None:
    o = fresh("attention", replace(VIT, drop_path=0.2, class_token=False), **MODES["two heads"])
    with torch.no_grad():
        for t in [*o.parameters(), *o.buffers()]:
            t.fill_(math.nan if t.is_floating_point() else 7)
    o.init_weights()
    assert [n for n, t in [*o.named_parameters(), *o.named_buffers()] if not bool(torch.isfinite(t).all())] == []
    assert int(o.pulse.steps) == 0 and o.mask_token is not None and o.mask_token.std() > 0
    for k, v in o.student.state_dict().items():
        assert torch.equal(v, o.teacher.state_dict()[k])


# -- the alarm --------------------------------------------------------------------------------------------------------


def watched(answers: Iterator[Tensor], steps: int, grace: int = 100) -> tuple[DINO, list[int]]:
    """The steps after which the alarm rings, given what a teacher answers."""
    o, rang = fresh(grace=grace), []
    for step in range(steps):
        o.pulse.forget()
        o.pulse.watch(next(answers))
        o.pulse.move()
        if o.alarm():
            rang.append(step)
    return o, rang


def healthy(n: int = 16) -> Iterator[Tensor]:
    g = torch.Generator().manual_seed(0)
    while True:
        yield (torch.randn(n, 12, generator=g) * 3).softmax(1)


def collapsed(heat: float) -> Iterator[Tensor]:
    """Nearly the same for all: 0.1 one prototype, 100 all of them."""
    g = torch.Generator().manual_seed(0)
    while True:
        yield ((torch.arange(12) == 3) / heat + torch.randn(16, 12, generator=g) * 0.01).softmax(1)


def test_information_against_its_definition() -> None:
    pulse, answers = Pulse(12), next(healthy())
    for part in answers.split(6):
        pulse.watch(part)
    pulse.move()
    assert float(pulse.information) == pytest.approx(oracle.information(answers.tolist()), rel=1e-4)
    assert float(pulse.means[0]) == pytest.approx(sum(map(oracle.entropy, answers.tolist())) / 16 / math.log(12))
    assert abs(float(pulse.information) - oracle.information(answers[:8].tolist())) > 1e-3
    first = float(pulse.information)
    pulse.forget()
    pulse.watch(torch.full((4, 12), 1 / 12))
    pulse.move()
    assert float(pulse.information) == pytest.approx(first / 2, abs=1e-6), "a mean over the first steps"


def test_the_alarm_rings_for_both_kinds_of_collapse_and_not_in_health() -> None:
    assert watched(healthy(), 250)[1] == []
    o, rang = watched(collapsed(0.1), 120)
    assert rang == list(range(99, 120)), "not before its time"
    assert (
        "one-sided" in o.alarm()
        and "set objective.centring (mean) to sinkhorn, or" in o.alarm()
        and "\n" not in o.alarm()
    )
    o, rang = watched(collapsed(100.0), 120)
    assert rang == list(range(99, 120))
    assert "uniform" in o.alarm() and "lower objective.teacher_temperature (0.07) to 0.04, or" in o.alarm()
    assert "0.00" in o.alarm() and "train.lr" in o.alarm()


def test_one_odd_batch_stops_nothing() -> None:
    def odd(every: int) -> Iterator[Tensor]:
        kinds = healthy(), collapsed(0.1)
        step = 0
        while True:
            step += 1
            yield next(kinds[step % every == 0])

    assert watched(odd(20), 300)[1] == []
    assert watched(odd(1), 300)[1], "the comparison can fail"


@pytest.mark.parametrize(("kind", "centring"), [("one-sided", "none"), ("uniform", "mean")])
def test_the_alarm_looks_at_what_forward_gathers(kind: str, centring: Any) -> None:
    """A teacher that says the same of everything: off the centre that is uniform, without one it is one prototype."""
    o = fresh(grace=3, centring=centring, momentum=1.0)
    health = fresh(grace=3, centring=centring, momentum=1.0)
    with torch.no_grad():
        last = [m for m in o.teacher.head.mlp if isinstance(m, nn.Linear)][-1]
        last.weight.zero_()
        last.bias.copy_(o.teacher.head.prototypes[2])
        if o.of_views.centre is not None:
            o.of_views.centre.copy_(o.teacher.head(torch.zeros(1, 16))[0])
    for step in range(3):
        for one in (o, health):
            one.before_step(0.0)
            one(batch(8, step), 0.0)
            one.after_step(0.0)
    assert kind in o.alarm() and health.alarm() == ""


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"width": 0}, "objective.width is 0; give 1 or more"),
        ({"prototypes": 1}, "objective.prototypes is 1; give 2 or more"),
        ({"student_temperature": 0.0}, "objective.student_temperature is 0.0"),
        ({"teacher_temperature": math.inf}, "objective.teacher_temperature is inf"),
        ({"teacher_start": math.nan}, "objective.teacher_start is nan"),
        ({"teacher_warmup": 1.5}, "give a share in [0, 1]"),
        ({"momentum": 0.99, "momentum_end": 0.9}, "objective.momentum_end is 0.9, below objective.momentum, 0.99"),
        ({"frozen": -0.1}, "objective.frozen is -0.1"),
        ({"masked": -1.0}, "objective.masked is -1.0; give a finite number, 0 or more"),
        ({"koleo": math.nan}, "objective.koleo is nan"),
        ({"grace": -1}, "objective.grace is -1"),
    ],
)
def test_values_that_mean_nothing(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput) as caught:
        DINOConfig(**settings)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_networks_that_do_not_fit() -> None:
    def built(cfg: DINOConfig, **settings: Any) -> DINO:
        return DINO(cfg, Classifier(ClassifierConfig(**{"backbone": VIT, "classes": 0} | settings)))

    hidden = DINOConfig(masked=1.0, prototypes=8)
    with pytest.raises(BadInput, match=r"set model\.classes = 0"):
        built(DINOConfig(prototypes=8), classes=5)
    with pytest.raises(BadInput, match="this backbone cannot hide patches"):
        swin = SwinConfig(image_size=32, width=16, depths=(1, 1), heads=(1, 2), window=2)
        built(hidden, backbone=swin, pool=PoolConfig(kind="mean"))
    with pytest.raises(BadInput, match=r"set objective\.shared_head = false"):
        built(hidden, pool=PoolConfig(projection=8))
    built(replace(hidden, shared_head=False), pool=PoolConfig(projection=8))
    with pytest.raises(BadInput, match="the batches say of no patch that it is hidden"):
        fresh(**MODES["hidden"])({k: v for k, v in batch().items() if k != "mask"}, 0.0)
