"""Distillation: a small network learns from a large, finished one that looks at the same pictures.

Of the teacher it learns the class that it says (hard: DeiT, arXiv 2012.12877), how sure it is of each class (soft:
Hinton, arXiv 1503.02531), or the vectors from which it says it (features), with labels beside it or without. Classes
are matched by name, vectors through a learned linear map: teacher and student may differ in width, grid and size.

Shape suffixes:  B pictures  C channels  H,W pixels  K classes of the student  D features of the student, E of the
                 teacher  N places of the student's grid  h,w places of the teacher's  S what the heads read: 1 or 2
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..card import LABEL, Head, Preprocess
from ..errors import BadInput, TessellaError
from ..models.classifier import Classifier
from ..models.vit import Tokens, init_layers
from .losses import TINY, LossConfig, known, mass, most, of_class, over_known, told
from .objective import Batch, Losses, Metrics, Objective


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    teacher: str = ""  # a run, a model folder, a weights file, a known name or a hub id; it is loaded and never changed
    teacher_sha256: str = ""  # of that file; a value that is given must be this one
    teacher_like: str = ""  # the known name as which a bare file is read; empty: its architecture says enough
    kind: Literal["hard", "soft", "features"] = "hard"  # what is learned of it: its class, its probabilities, vectors
    share: float = 0.5  # of the teacher in the loss, the rest is the labels'; 1: it alone, and there need be no labels
    partial: bool = False  # hard and soft: the student may have classes that the teacher does not know; of these the
    # labels alone tell
    smoothing: float = 0.1  # share of each label spread evenly over all classes; what the teacher says is left as it is
    temperature: float = 3.0  # soft: logits of both are divided by it; higher: unlikely classes tell more
    divergence: Literal["mean", "sum"] = "mean"  # soft, over classes: mean is DeiT's code, sum both papers' formula,
    # which is larger by the number of classes: at 1000 of them a mean is small beside the labels' loss
    of: Literal["pooled", "patches", "both"] = "both"  # features: the vector of a picture, those of its places, or both
    distance: Literal["cosine", "smooth_l1"] = "cosine"  # features: of two vectors; smooth_l1: each normalised before
    delta: float = 2.0  # smooth_l1: the error, in deviations of a vector, from which it counts straight, not squared

    def __post_init__(self) -> None:
        _require(0 <= self.share <= 1, f"objective.share is {self.share}; give a share in [0, 1]")
        _require(0 < self.temperature < math.inf, f"objective.temperature is {self.temperature}; give a number above 0")
        _require(0 < self.delta < math.inf, f"objective.delta is {self.delta}; give a finite number above 0")
        _ = self.labels

    @property
    def labels(self) -> LossConfig:
        return LossConfig(loss="cross_entropy", smoothing=self.smoothing)


def _require(good: bool, otherwise: str) -> None:
    if not good:
        raise BadInput(otherwise)


# -- the teacher ------------------------------------------------------------------------------------------------------


class Features(NamedTuple):
    """The vectors from which a network says what it says."""

    pooled: Tensor  # (B, E)
    patches: Tensor | None  # (B, E, h, w); E may be another than above


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A finished network that is asked, and never changed. It is no module on purpose: an objective that holds it
    neither saves it with every state, nor shards it, nor trains it, nor sets it to training; every rank has all of it.
    """

    network: nn.Module  # its own pictures (B, C, H, W) to logits of all its classes; of "features" alone: to anything
    wants: Preprocess  # how it wants its pictures
    given: Preprocess  # how they come: normalised as the student's
    rows: tuple[int, ...] = ()  # for each class of the student, which of its logits means it, -1: none; see `matched`
    vectors: Callable[[Tensor], Features] | None = None  # its pictures to features, by `network`; None: a Classifier's

    def __post_init__(self) -> None:
        for key in ("channels", "limits"):
            ours, theirs = getattr(self.given, key), getattr(self.wants, key)
            what = f"the teacher's pictures have {key} {theirs}, the student's {ours}"
            _require(ours == theirs, f"{what}; use a teacher and a student that see the same")
        self.network.eval().requires_grad_(False)

    def pictures(self, images_BCHW: Tensor) -> Tensor:
        """The student's pictures as the teacher wants them: normalised its way, of its size."""
        each = zip(self.given.mean, self.given.std, self.wants.mean, self.wants.std, strict=True)
        pairs = [(std / its_std, (mean - its_mean) / its_std) for mean, std, its_mean, its_std in each]
        scale_C11, shift_C11 = images_BCHW.new_tensor(pairs).mT[..., None, None]
        images_BCHW = images_BCHW * scale_C11 + shift_C11
        if images_BCHW.shape[-2:] != self.wants.size:
            images_BCHW = F.interpolate(images_BCHW, self.wants.size, mode="bilinear", antialias=True)
        return images_BCHW

    @property
    def known(self) -> list[int]:
        """The student's classes that it knows."""
        return [place for place, row in enumerate(self.rows) if row >= 0]

    @torch.no_grad()
    def logits(self, images_BCHW: Tensor) -> Tensor:
        """(B, K): of the student's classes that it knows, in the student's order. What else it knows is left out."""
        logits: Tensor = self.network(self._asked(images_BCHW))
        rows_K = torch.tensor([row for row in self.rows if row >= 0], device=logits.device)
        return logits.index_select(1, rows_K).float()[: len(images_BCHW)]

    @torch.no_grad()
    def features(self, images_BCHW: Tensor) -> Features:
        look = self.vectors
        if look is None:
            assert isinstance(self.network, Classifier), "Distill refuses others"
            look = partial(_vectors_of, self.network)
        pooled, patches = look(self._asked(images_BCHW))
        number = len(images_BCHW)
        return Features(pooled.float()[:number], None if patches is None else patches.float()[:number])

    def features_of_one(self) -> Features:
        """Of a picture that shows nothing: how wide they are."""
        example = next(self.network.parameters(), torch.zeros(()))
        return self.features(example.new_zeros(1, self.given.channels, *self.given.size))

    def _asked(self, images_BCHW: Tensor) -> Tensor:
        """Its pictures, on their device: it follows them there the first time. Of no pictures one, because not every
        network takes none."""
        if not len(images_BCHW):
            images_BCHW = images_BCHW.new_zeros(1, *images_BCHW.shape[1:])
        example = next(self.network.parameters(), images_BCHW)
        if example.device != images_BCHW.device:
            self.network.to(images_BCHW.device)
        return self.pictures(images_BCHW).to(example.dtype)


def _vectors_of(network: Classifier, images_BCHW: Tensor) -> Features:
    tokens = network.tokens(images_BCHW)
    return Features(network.pool(tokens), tokens.map())


def matched(student_classes: Sequence[str], teacher_classes: Sequence[str], partial: bool = False) -> tuple[int, ...]:
    """For each class of the student, which output of the teacher means it: the one of the same name. `partial`: it may
    lack some, which are -1."""
    times = Counter(teacher_classes)
    unknown = [name for name in student_classes if not times[name]]
    for what, odd in (
        ("does not know", unknown if not partial or len(unknown) == len(student_classes) else []),
        ("has more than one output for", [name for name in student_classes if times[name] > 1]),
    ):
        some = ", ".join(repr(name) for name in odd[:5]) + f" and {len(odd) - 5} more" * (len(odd) > 5)
        cure = 'rename classes, or learn what needs no names: objective.kind = "features"'
        _require(not odd, f"the teacher {what} {some}, of {len(student_classes)} classes; {cure}")
    places = {name: place for place, name in enumerate(teacher_classes)}
    return tuple(places.get(name, -1) for name in student_classes)


# -- the losses, each (B,) --------------------------------------------------------------------------------------------


def hard(said_BK: Tensor, taught_BK: Tensor) -> Tensor:
    """Cross-entropy with the class that the teacher says."""
    return F.cross_entropy(said_BK.float(), taught_BK.argmax(1), reduction="none")


def soft(said_BK: Tensor, taught_BK: Tensor, cfg: DistillConfig) -> Tensor:
    """Divergence of the student's softened probabilities from the teacher's, times T^2, because softening makes slopes
    smaller by as much: T^2 sum_k p_k log(p_k / q_k). DeiT's code divides it by the number of classes as well."""
    ours_BK = (said_BK.float() / cfg.temperature).log_softmax(1)
    theirs_BK = (taught_BK.float() / cfg.temperature).log_softmax(1)
    each_BK = F.kl_div(ours_BK, theirs_BK, reduction="none", log_target=True)
    return cfg.temperature**2 * (each_BK.mean(1) if cfg.divergence == "mean" else each_BK.sum(1))


def apart(ours_BNE: Tensor, theirs_BNE: Tensor, cfg: DistillConfig) -> Tensor:
    """Mean over places of how far two vectors lie apart: 1 - cosine; or smooth L1 of vectors whose own mean is 0 and
    deviation 1 (as arXiv 2205.14141 does to the teacher's), so that no feature counts because it is large."""
    ours_BNE, theirs_BNE = ours_BNE.float(), theirs_BNE.float()
    if cfg.distance == "cosine":
        return (1 - F.cosine_similarity(ours_BNE, theirs_BNE, dim=-1)).mean(1)
    ours_BNE, theirs_BNE = (F.layer_norm(x, x.shape[-1:]) for x in (ours_BNE, theirs_BNE))
    return F.smooth_l1_loss(ours_BNE, theirs_BNE, reduction="none", beta=cfg.delta).mean((1, 2))


# -- the whole --------------------------------------------------------------------------------------------------------


class Distill(Objective):
    """With a distillation token the first head learns the labels and the second the teacher's answers, as in DeiT;
    without, one head learns both. Of the features' linear maps nothing ships."""

    calls = ("both", "features")

    def __init__(self, cfg: DistillConfig, network: Classifier, teacher: Teacher, heads: Sequence[Head]):
        """heads: what the network says, one class; of features without labels it may say nothing."""
        super().__init__()
        self.answers = cfg.kind != "features" or cfg.share < 1  # whether the heads learn
        _refuse_unfit(cfg, network, teacher, heads if self.answers or heads else None)
        self.cfg, self.network, self.teacher = cfg, network, teacher
        self.projections = _projections(cfg, network, teacher)
        if not self.answers:  # what no loss reaches must not seem to learn: ranks would wait for its gradient
            idle = [network.head, network.head_dist] + ([network.pool] if cfg.of == "patches" else [])
            for part in idle:
                part.requires_grad_(False)

    @property
    def model(self) -> Classifier:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, C, H, W) normalised as the student's; label (B,) int64, -1 unknown, unless the share of the
        teacher is 1. Where pictures were mixed also mix (B,), the weight of the own one, and mix_label; the teacher
        looks at what came out.

        `label` is a mean over the known labels, `teacher` one over pictures; both by their shares.
        """
        images, cfg = batch["image"], self.cfg
        with overheard(self.network.backbone) as tokens:
            vectors_BSD = self.network.features(images)
        said = [said_BK.float() for said_BK in self._said(vectors_BSD)] if self.answers else []
        of_labels, of_teacher = self._pupils(said)
        losses, metrics = {}, {}
        if cfg.kind == "features":
            each_B = self._apart(vectors_BSD[:, 0], tokens[0], self.teacher.features(images))
        else:
            taught_BK = self.teacher.logits(images)
            learn: Callable[[Tensor, Tensor], Tensor] = hard if cfg.kind == "hard" else partial(soft, cfg=cfg)
            shared = self.teacher.known
            each_B = torch.stack([learn(said_BK[:, shared], taught_BK) for said_BK in of_teacher]).mean(0)
            metrics["agreement"] = _mean((_together(said)[:, shared].argmax(1) == taught_BK.argmax(1)).float())
        losses["teacher"] = cfg.share * _mean(each_B)
        if self._has_labels(batch):
            labels_B = most(LABEL, batch)
            right_B, there_B1 = _together(said).argmax(1) == labels_B, known("classify", labels_B)
            metrics["accuracy"] = right_B.sum() / there_B1.sum().clamp(min=TINY)
            if cfg.share < 1:
                parts = told("classify", LABEL, batch)
                each = [over_known(parts, partial(self._of_labels, said_BK)) for said_BK in of_labels]
                losses[LABEL] = (1 - cfg.share) * torch.stack(each).mean()
        return losses, metrics

    def counts(self, batch: Batch) -> dict[str, float]:
        """Known labels, and of a mixed picture by their share. The teacher says something of every picture."""
        if not self._has_labels(batch):
            return {}
        counts = {"accuracy": float(known("classify", most(LABEL, batch)).sum())}
        return counts | ({LABEL: float(mass(told("classify", LABEL, batch)))} if self.cfg.share < 1 else {})

    def infer(self, batch: Batch) -> Tensor:
        """What `model` says, in two calls: under FSDP2 a call inside a call leaves the outer one without weights."""
        return _together(self._said(self.network.features(batch["image"])))

    def _said(self, vectors_BSD: Tensor) -> list[Tensor]:
        """(B, K) of each head."""
        return [said_BK for said_BK in self.network.both(vectors_BSD) if said_BK is not None]

    def _pupils(self, said: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Whom the labels teach, and whom the teacher's answers. Where only one of them teaches, both heads learn from
        it, because both speak when the network is used."""
        if self.cfg.kind == "features" or self.cfg.share in (0, 1):
            return said, said
        return said[:1], said[-1:]

    def _has_labels(self, batch: Batch) -> bool:
        """And somebody learns what they say."""
        what = f"objective.share is {self.cfg.share}, but the pictures have no labels"
        _require(LABEL in batch or self.cfg.share == 1, f"{what}; set it to 1 to learn from the teacher alone")
        return LABEL in batch and self.answers

    def _of_labels(self, said_BK: Tensor, labels_B: Tensor) -> Tensor:
        """(B, 1); of an unknown label any number."""
        return of_class(self.cfg.labels, said_BK, labels_B.clamp(min=0))[:, None]

    def _apart(self, pooled_BD: Tensor, tokens: Tokens, taught: Features) -> Tensor:
        """(B,): where both kinds of vectors are learned, half of each."""
        each = []
        for name, project in self.projections.items():
            if name == "pooled":
                ours_BNE, theirs_BNE = project(pooled_BD)[:, None], taught.pooled[:, None]
            else:
                assert taught.patches is not None, "seen when the objective was made"
                map_BEhw = taught.patches
                if map_BEhw.shape[-2:] != tokens.grid:
                    map_BEhw = F.interpolate(map_BEhw, tokens.grid, mode="bilinear", antialias=True)
                ours_BNE, theirs_BNE = project(tokens.patches), map_BEhw.flatten(2).mT
            each.append(apart(ours_BNE, theirs_BNE, self.cfg))
        return torch.stack(each).mean(0)


@contextmanager
def overheard(backbone: nn.Module) -> Iterator[list[Tokens]]:
    """What the backbone returns inside the block. So one pass gives patches beside what the heads read, and under FSDP2
    all weights are where they must be: `pool` and heads belong to the network, and are gathered by its calls alone."""
    heard: list[Tokens] = []
    hook = backbone.register_forward_hook(lambda module, args, output: heard.append(output))
    try:
        yield heard
    finally:
        hook.remove()


def _together(said: list[Tensor]) -> Tensor:
    return torch.stack(said).mean(0)


def _mean(each_B: Tensor) -> Tensor:
    """Over no pictures it is 0."""
    return each_B.sum() / max(1, len(each_B))


def _projections(cfg: DistillConfig, network: Classifier, teacher: Teacher) -> nn.ModuleDict:
    """Student's width to teacher's, for each kind of vector that is learned."""
    out = nn.ModuleDict()
    if cfg.kind == "features":
        seen, width = teacher.features_of_one(), network.cfg.backbone.features
        if cfg.of != "patches":
            out["pooled"] = nn.Linear(network.cfg.pool.projection or width, seen.pooled.shape[1])
        if cfg.of != "pooled":
            what = f"objective.of is {cfg.of!r}, but the teacher gives no map of patches"
            if seen.patches is None:
                raise BadInput(f'{what}; set it to "pooled"')
            out["patches"] = nn.Linear(width, seen.patches.shape[1])
        init_layers(out)
    return out


def _refuse_unfit(cfg: DistillConfig, network: Classifier, teacher: Teacher, heads: Sequence[Head] | None) -> None:
    """Before the first step. heads: None where nobody says anything."""
    if {id(p) for p in network.parameters()} & {id(p) for p in teacher.network.parameters()}:
        raise TessellaError("teacher and student share weights, and a teacher never changes; load one of them anew")
    if cfg.kind == "features" and teacher.vectors is None and not isinstance(teacher.network, Classifier):
        what = f'objective.kind is "features", and a {type(teacher.network).__name__} does not say what they are'
        raise BadInput(f'{what}; set it to "soft" or "hard"')
    if heads is None:
        return
    if len(heads) != 1 or heads[0].task != "classify":
        named = ", ".join(f"{head.name} ({head.task})" for head in heads) or "none"
        raise BadInput(f"a teacher teaches one target, which is a class, and the targets are: {named}; choose one")
    classes = heads[0].outputs
    _require(network.cfg.classes == classes, f"model.classes is {network.cfg.classes}, and the data has {classes}")
    if cfg.kind != "features" and len(teacher.rows) != classes:
        raise TessellaError(f"the teacher's rows are {len(teacher.rows)} for {classes} classes; give `matched` of both")
