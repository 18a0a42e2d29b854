"""Self-distillation without labels: of every view a student says what its own running average says of another view.

DINO (Caron 2021, arXiv 2104.14294), with the hidden patches of iBOT (2111.07832) and what DINOv2 (2304.07193) added:
Sinkhorn-Knopp, KoLeo, a head of their own for patches.

Shape suffixes:  B samples  G large views, which the teacher sees  V all views of a sample, the large ones first
                 N pictures  C channels  H,W pixels  h,w patches, P = h * w  M hidden patches of all pictures together
                 D width of the features  E width of the bottleneck  K prototypes  T samples of all ranks
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import parallel
from ..errors import BadInput
from ..models.architecture import ClassifierConfig, ViTConfig
from ..models.classifier import Classifier
from ..models.patches import blanked
from ..models.vit import init_layers
from .objective import Batch, Losses, Metrics, Objective

ROUNDS = 3  # of Sinkhorn-Knopp, as SwAV and DINOv2
TINY = 1e-8  # the logarithm of 0 is none
MEMORY = 0.98  # of the running mean that the alarm looks at: about 50 steps, so that one odd batch stops nothing
# Share of log(prototypes) by which answers must tell pictures apart. Networks with random weights begin at 0.007 to
# 0.09, at both temperatures; vit_n4 on 32 px pictures stayed above 0.017, and in either collapse it was below 0.002 at
# step 300.
LEAST = 0.003


@dataclass(frozen=True, kw_only=True)
class DINOConfig:
    """Sizes are for small networks; what the papers take for large ones stands beside them."""

    width: int = 1024  # features inside the head (DINO: 2048)
    bottleneck: int = 192  # features that the prototypes are compared with (DINO: 256)
    prototypes: int = 4096  # directions among which an answer is spread (DINO: 65536; DINOv2: up to 131072)
    student_temperature: float = 0.1  # lower: surer answers
    teacher_temperature: float = 0.07  # below the student's, or all answers become alike
    teacher_start: float = 0.04  # the teacher's temperature at first; it rises linearly
    teacher_warmup: float = 0.3  # share of the run in which it rises (DINO: 30 of 100 epochs)
    momentum: float = 0.996  # of the teacher at first (DINO, for batches of 1024; DINOv2: 0.992)
    momentum_end: float = 1.0  # at the end; between them half a cosine
    centring: Literal["mean", "sinkhorn", "none"] = "mean"  # DINO, DINOv2; none lets one prototype win everywhere
    centre_momentum: float = 0.9  # of the mean score that is taken off ("mean")
    frozen: float = 0.01  # share of the run in which the prototypes stand still (DINO: 1 of 100 epochs)
    masked: float = 0.0  # weight of the loss at hidden patches (iBOT and DINOv2: 1); 0: nothing is hidden
    shared_head: bool = True  # one head for pictures and patches (iBOT); False: two (DINOv2)
    koleo: float = 0.0  # weight of what spreads features out (DINOv2: 0.1 on the sum of two views, here 0.2)
    grace: int = 300  # steps before answers that are all alike stop a run

    def __post_init__(self) -> None:
        for name in ("width", "bottleneck"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("prototypes", self.prototypes >= 2, "2 or more")
        for name in ("student_temperature", "teacher_temperature", "teacher_start"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a finite number above 0")
        for name in ("teacher_warmup", "momentum", "momentum_end", "centre_momentum", "frozen"):
            self._require(name, 0 <= getattr(self, name) <= 1, "a share in [0, 1]")
        for name in ("masked", "koleo", "grace"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "a finite number, 0 or more")
        if self.momentum_end < self.momentum:
            what = f"objective.momentum_end is {self.momentum_end}, below objective.momentum, {self.momentum}"
            raise BadInput(f"{what}; a teacher becomes steadier, not less so: give as much or more")

    def _require(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise BadInput(f"objective.{name} is {getattr(self, name)}; give {wanted}")

    def temperature(self, progress: float) -> float:
        """Of the teacher."""
        risen = min(1.0, progress / self.teacher_warmup) if self.teacher_warmup else 1.0
        return self.teacher_start + (self.teacher_temperature - self.teacher_start) * risen

    def keeps(self, progress: float) -> float:
        """What share of itself the teacher keeps in a step."""
        return self.momentum_end - (self.momentum_end - self.momentum) * (1 + math.cos(math.pi * progress)) / 2


# -- losses -----------------------------------------------------------------------------------------------------------


def over_views(target_BGK: Tensor, log_BVK: Tensor) -> Tensor:
    """(B,): cross entropy, a mean over all pairs of a large view of the teacher and another view of the student."""
    taught, views = target_BGK.shape[1], log_BVK.shape[1]
    others_BGK = log_BVK.sum(1, keepdim=True) - log_BVK[:, :taught]  # of all views but the one that the teacher saw
    return -(target_BGK * others_BGK).sum((1, 2)) / (taught * (views - 1))


def over_patches(target_MK: Tensor, log_MK: Tensor, chosen_NP: Tensor) -> Tensor:
    """(): a mean over the hidden patches of each picture, then over the pictures that have some; 0 where none has."""
    hidden_N1 = chosen_NP.sum(1, keepdim=True).clamp(min=1)
    weight_M = (1 / hidden_N1).expand(chosen_NP.shape)[chosen_NP]
    return -((target_MK * log_MK).sum(1) * weight_M).sum() / chosen_NP.any(1).sum().clamp(min=1)


def koleo(features_BGD: Tensor) -> Tensor:
    """(B,): minus the logarithm of the distance to the nearest other sample of all ranks, in the same large view; a
    mean over these. Near neighbours push each other away (Sablayrolles 2018, arXiv 1806.03198)."""
    unit_BGD = F.normalize(features_BGD.float(), dim=-1)
    all_TGD, first = rows_of_all(unit_BGD)
    if len(all_TGD) < 2:  # nobody else
        return unit_BGD.sum((1, 2)) * 0.0
    own_GBD, all_GTD = unit_BGD.transpose(0, 1), all_TGD.transpose(0, 1)
    with torch.no_grad(), torch.autocast(own_GBD.device.type, enabled=False):
        alike_GBT = own_GBD @ all_GTD.mT
        alike_GBT.diagonal(first, 1, 2).fill_(-math.inf)  # not itself
        nearest_GB1 = alike_GBT.argmax(-1, keepdim=True)
    other_GBD = all_GTD.gather(1, nearest_GB1.expand(own_GBD.shape))
    distance_GB: Tensor = torch.linalg.vector_norm(own_GBD - other_GBD, dim=-1)
    return -(distance_GB + TINY).log().mean(0)


def rows_of_all(x: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks, with gradient, and where the own ones begin. A picture that cannot be read leaves its rank
    with fewer rows, and the exchange wants as many of each: the rest is filled up and cut off again."""
    if not parallel.active():
        return x, 0
    rows = torch.zeros(parallel.world(), device=x.device)
    rows[parallel.rank()] = len(x)
    counts = [int(n) for n in parallel.sum_over_ranks(rows).tolist()]
    most = max(1, *counts)
    full = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
    parts = parallel.gather_with_gradient(full).view(len(counts), most, *x.shape[1:])
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)]), sum(counts[: parallel.rank()])


# -- the teacher's answers --------------------------------------------------------------------------------------------


def sinkhorn(score_NK: Tensor, temperature: float) -> Tensor:
    """Answers (N, K) that, over the pictures of all ranks, give each prototype about as much (Cuturi 2013; SwAV)."""
    answer_NK = ((score_NK - 1) / temperature).exp()  # scores are at most 1, and a common factor cancels
    tiny = torch.finfo(answer_NK.dtype).tiny
    for _ in range(ROUNDS):
        answer_NK = answer_NK / parallel.sum_over_ranks(answer_NK.sum(0)).clamp(min=tiny)
        answer_NK = answer_NK / answer_NK.sum(1, keepdim=True).clamp(min=tiny)
    return answer_NK


class Answers(nn.Module):
    """The teacher's scores to the distributions that the student learns to say; keeps the centre that this takes."""

    centre: Tensor | None  # (K,) mean score: off it, no prototype wins everywhere

    def __init__(self, cfg: DINOConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.register_buffer("centre", torch.zeros(cfg.prototypes) if cfg.centring == "mean" else None)
        self.forget()

    def forget(self) -> None:
        self.seen: Tensor | None = None  # (K + 1,) sum of this step's scores, and how many: no state

    def forward(self, score_NK: Tensor, temperature: float) -> Tensor:
        if self.cfg.centring == "sinkhorn":
            return sinkhorn(score_NK, temperature)
        if self.centre is not None:
            seen = torch.cat([score_NK.sum(0), score_NK.new_full((1,), len(score_NK))])
            self.seen = seen if self.seen is None else self.seen + seen
            score_NK = score_NK - self.centre
        answer_NK: Tensor = (score_NK / temperature).softmax(1)
        return answer_NK

    def move(self) -> None:
        if self.centre is None or self.seen is None:
            return
        seen = parallel.sum_over_ranks(self.seen)
        mean_K = torch.where(seen[-1] > 0, seen[:-1] / seen[-1].clamp(min=1), self.centre)
        self.centre.lerp_(mean_K, 1 - self.cfg.centre_momentum)


class Pulse(nn.Module):
    """Whether the teacher still tells pictures apart: how much an answer says about which picture it is.

    That is the entropy of the mean answer less the mean entropy of an answer, here in shares of log K. It is 0 when all
    pictures get the same answer, be it one prototype (sure) or all of them (unsure).
    """

    steps: Tensor  # () int64
    means: Tensor  # (2,) running: entropy of an answer, entropy of the mean answer

    def __init__(self, prototypes: int) -> None:
        super().__init__()
        self.most = math.log(prototypes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("means", torch.zeros(2))
        self.forget()

    def forget(self) -> None:
        self.seen: Tensor | None = None  # (K + 2,) sums of this step: answers, their entropies, how many: no state

    def watch(self, answer_NK: Tensor) -> Tensor:
        """(): the mean entropy of these."""
        entropy_N: Tensor = torch.special.entr(answer_NK).sum(1) / self.most
        told = entropy_N.new_tensor([len(answer_NK)])
        seen = torch.cat([answer_NK.sum(0), entropy_N.sum()[None], told])
        self.seen = seen if self.seen is None else self.seen + seen
        return entropy_N.sum() / told[0].clamp(min=1)

    def move(self) -> None:
        if self.seen is None:
            return
        seen = parallel.sum_over_ranks(self.seen)
        mean_K = seen[:-2] / seen[-1].clamp(min=1)
        now = torch.stack([seen[-2] / seen[-1].clamp(min=1), torch.special.entr(mean_K).sum() / self.most])
        self.steps += 1
        self.means += (now - self.means) * (1 / self.steps).clamp(min=1 - MEMORY)  # at first a plain mean

    @property
    def information(self) -> Tensor:
        told: Tensor = self.means[1] - self.means[0]
        return told


# -- the whole --------------------------------------------------------------------------------------------------------


class Head(nn.Module):
    """Features (N, D) to scores (N, K): the cosines of what a bottleneck lets through with the prototypes."""

    def __init__(self, cfg: DINOConfig, features: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(features, cfg.width),
            nn.GELU(),
            nn.Linear(cfg.width, cfg.width),
            nn.GELU(),
            nn.Linear(cfg.width, cfg.bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(cfg.prototypes, cfg.bottleneck))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        init_layers(self.mlp)
        nn.init.normal_(self.prototypes, std=self.prototypes.shape[1] ** -0.5)  # lengths of about 1

    def forward(self, feature_ND: Tensor) -> Tensor:
        at_NE = F.normalize(self.mlp(feature_ND).float(), dim=1)
        # Only directions of the prototypes count: DINO's weight norm, whose gain is fixed at 1.
        return F.linear(at_NE, F.normalize(self.prototypes, dim=1)).float()


class Said(NamedTuple):
    """What a branch says of N pictures."""

    pooled: Tensor  # (N, D)
    scores: Tensor  # (N, K)
    patches: Tensor | None  # (M, K) of those that were chosen


class Branch(nn.Module):
    """A network and a head: what the student is, and the teacher."""

    def __init__(self, cfg: DINOConfig, network: Classifier) -> None:
        super().__init__()
        width, backbone = network.cfg.pool.projection or network.cfg.backbone.features, network.cfg.backbone
        self.network = network
        self.head = Head(cfg, width)
        self.patch_head = Head(cfg, backbone.features) if cfg.masked and not cfg.shared_head else None

    def heads(self) -> list[Head]:
        return [self.head] if self.patch_head is None else [self.head, self.patch_head]

    def init_weights(self) -> None:
        """Every initial value, of parameters and of buffers."""
        self.network.init_weights()
        for head in self.heads():
            head.init_weights()

    def forward(self, image_NCHW: Tensor, chosen_NP: Tensor | None = None, token_D: Tensor | None = None) -> Said:
        """chosen_NP: the patches that are scored as well; token_D: what stands in their place, so that they are hidden.

        Backbone and network are two calls, because pictures and patches come from one pass, and what sharding (FSDP2)
        has cut is whole only inside the call of the module that owns it.
        """
        hide = (chosen_NP, token_D) if chosen_NP is not None and token_D is not None else None
        backbone = self.network.cfg.backbone
        if hide is not None and isinstance(backbone, ViTConfig) and backbone.embed == "stem":
            # it sees across the border of its patch: what is hidden must not be there at all
            image_NCHW = blanked(image_NCHW, hide[0], backbone.patch_size)
        tokens = self.network.backbone(image_NCHW, hide=hide)
        pooled_ND = self.network(tokens)
        scores_NK = self.head(pooled_ND)
        if chosen_NP is None:
            return Said(pooled_ND, scores_NK, None)
        return Said(pooled_ND, scores_NK, self.heads()[-1](tokens.patches[chosen_NP]))


class DINO(Objective):
    """What ships is the teacher's network. Its answers for the large views are the student's targets for all others."""

    own_average = True
    mask_token: Tensor | None

    def __init__(self, cfg: DINOConfig, network: Classifier) -> None:
        """network: the student's, with the weights that it starts from; it has no classes."""
        super().__init__()
        _refuse(cfg, network.cfg)
        self.cfg = cfg
        self.student = Branch(cfg, network)
        self.teacher = Branch(cfg, Classifier(calm(network.cfg))).requires_grad_(False)
        # Only where it is used: a parameter without a gradient stops data-parallel training.
        self.mask_token = nn.Parameter(torch.empty(network.cfg.backbone.features)) if cfg.masked else None
        self.of_views, self.of_patches = Answers(cfg), Answers(cfg) if cfg.masked else None
        self.pulse = Pulse(cfg.prototypes)
        self._begin()

    def init_weights(self) -> None:
        """Every initial value, of parameters and of buffers."""
        self.student.init_weights()
        self.teacher.network.init_buffers()
        self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        for kept in [buffer for part in self._gatherers() for buffer in part.buffers()]:
            kept.zero_()
        self.teacher.load_state_dict(self.student.state_dict())

    @property
    def model(self) -> Classifier:
        return self.teacher.network

    @property
    def whole_batch(self) -> bool:  # type: ignore[override]  # it depends on the settings
        """Sinkhorn-Knopp and KoLeo compare the samples of a batch with each other."""
        return self.cfg.centring == "sinkhorn" or self.cfg.koleo > 0

    def before_step(self, progress: float) -> None:
        for gathers in self._gatherers():
            gathers.forget()

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, G, C, H, W), the large views; local (B, V - G, C, H, W), smaller ones, or none; where
        patches are hidden, mask (B, G, h, w): which of the large views. Pictures of one size pass a network in one
        call. A batch may be empty: a mean over nothing is 0. `information` is of the steps before this one.
        """
        large, local, temperature = batch["image"], batch.get("local"), self.cfg.temperature(progress)
        samples, taught = large.shape[:2]
        chosen_NP = _mask(batch).flatten(0, 1).flatten(1) if self.cfg.masked else None
        with torch.no_grad():
            known = self.teacher(large.flatten(0, 1), chosen_NP)
            target_NK = self.of_views(known.scores, temperature)
            entropy = self.pulse.watch(target_NK)
        said = self.student(large.flatten(0, 1), chosen_NP, self.mask_token)
        score_BVK = said.scores.unflatten(0, (samples, taught))
        if local is not None and local.shape[1]:
            small_NK = self.student(local.flatten(0, 1)).scores
            score_BVK = torch.cat([score_BVK, small_NK.unflatten(0, local.shape[:2])], 1)
        elif taught == 1:
            raise BadInput("a sample is one large view and no other, so there is nothing to compare; give two or more")
        log_BVK = (score_BVK / self.cfg.student_temperature).log_softmax(-1)
        views_B = over_views(target_NK.unflatten(0, (samples, taught)), log_BVK)
        losses = {"views": views_B.sum() / max(samples, 1)}
        if chosen_NP is not None:
            losses["patches"] = self.cfg.masked * self._at_hidden(known, said, chosen_NP, temperature)
        if self.cfg.koleo:
            alone_B = koleo(said.pooled.unflatten(0, (samples, taught)))
            losses["koleo"] = self.cfg.koleo * alone_B.sum() / max(samples, 1)
        return losses, {"entropy": entropy, "information": self.pulse.information}

    def _at_hidden(self, known: Said, said: Said, chosen_NP: Tensor, temperature: float) -> Tensor:
        assert self.of_patches is not None and known.patches is not None and said.patches is not None
        target_MK = self.of_patches(known.patches, temperature)
        return over_patches(target_MK, (said.patches / self.cfg.student_temperature).log_softmax(-1), chosen_NP)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Large views with something hidden; the rest counts samples."""
        return {"patches": float(_mask(batch).flatten(2).any(-1).sum())} if self.cfg.masked else {}

    def after_backward(self, progress: float) -> None:
        """At first the prototypes stand still, until features are worth being sorted."""
        if progress < self.cfg.frozen:
            for head in self.student.heads():
                head.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        follow = 1 - self.cfg.keeps(progress)
        for ours, theirs in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
            theirs.lerp_(ours, follow)
        for gathers in self._gatherers():
            gathers.move()

    def alarm(self) -> str:
        """Why going on is of no use; nothing where it is. The same on all ranks."""
        steps, apart = int(self.pulse.steps), max(0.0, float(self.pulse.information))
        if steps < self.cfg.grace or apart >= LEAST:
            return ""
        entropy, cfg = float(self.pulse.means[0]), self.cfg
        if entropy > 0.5:
            kind = "uniform: it gives every prototype as much"
            cool = 0.4 * cfg.student_temperature  # as the papers
            cure = f"lower objective.teacher_temperature ({cfg.teacher_temperature:g}) to {cool:g}, or train.lr"
            if cfg.teacher_temperature <= cool:
                cure = "lower train.lr"
        else:
            kind = "one-sided: it gives every picture the same prototypes"
            other = "mean" if cfg.centring == "none" else "sinkhorn"
            cure = f"set objective.centring ({cfg.centring}) to {other}, or lower train.lr"
        what = f"after {steps} steps the teacher has collapsed, and its answers are {kind}"
        figures = f"they tell pictures apart by {apart:.4f} of what is possible, below {LEAST:g}; entropy {entropy:.2f}"
        return f"{what} ({figures}); {cure}"

    def _gatherers(self) -> list[Answers | Pulse]:
        return [part for part in (self.of_views, self.of_patches, self.pulse) if part is not None]


def calm(cfg: ClassifierConfig) -> ClassifierConfig:
    """The same network without chance: neither dropout nor stochastic depth."""
    chance = [f.name for f in fields(cfg.backbone) if f.name == "drop_path" or f.name.endswith("dropout")]
    none: dict[str, Any] = dict.fromkeys(chance, 0.0)
    return replace(cfg, backbone=replace(cfg.backbone, **none), dropout=0.0)


def _mask(batch: Batch) -> Tensor:
    if "mask" not in batch:
        raise BadInput("objective.masked is above 0, but the batches say of no patch that it is hidden; set it to 0")
    mask: Tensor = batch["mask"]
    return mask


def _refuse(cfg: DINOConfig, network: ClassifierConfig) -> None:
    if network.classes:
        raise BadInput(f"model.classes is {network.classes}, but DINO learns without classes; set model.classes = 0")
    if cfg.masked and not network.backbone.chooses:
        raise BadInput(f"objective.masked is {cfg.masked:g}, but this backbone cannot hide patches; use a ViT, or 0")
    projected = network.pool.projection not in (0, network.backbone.features)
    if cfg.masked and cfg.shared_head and projected:
        what = f"model.pool.projection makes {network.pool.projection} features of a picture's, but not of a patch's"
        raise BadInput(f"{what}; set objective.shared_head = false")
