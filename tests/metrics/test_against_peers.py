"""The figures are those of scikit-learn and of torchmetrics, also with ties, classes that are absent, and gaps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional as peers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from tessella.metrics import regression, tags
from tessella.metrics.calibration import brier, reliability
from tessella.metrics.confusion import balanced_accuracy, by_class, confusion, macro_f1, worst_pairs
from tessella.metrics.predictions import Predictions
from tessella.metrics.probability import log_softmax
from tessella.metrics.ranking import auroc, average_precision, one_against_rest
from tessella.metrics.summary import summary

FEW = st.sampled_from([-2.0, -0.5, 0.0, 1.0])  # many equal ones
ANY = st.integers(-6000, 6000).map(lambda i: i / 1024)  # no two so close that peers, squashing them, see one
MANY = settings(max_examples=60, deadline=None)


def named(targets: Any, outputs: Any) -> Predictions:
    return Predictions(tuple(str(i) for i in range(len(targets))), targets, outputs)


@st.composite
def one_class(draw: st.DrawFn) -> Predictions:
    """Some classes have no sample, some none but one."""
    n, k = draw(st.integers(1, 14)), draw(st.integers(2, 6))
    outputs = draw(arrays(np.float32, (n, k), elements=draw(st.sampled_from([FEW, ANY]))))
    return named(draw(arrays(np.int64, n, elements=st.integers(0, draw(st.integers(0, k - 1))))), outputs)


@st.composite
def several_labels(draw: st.DrawFn, gaps: bool = False) -> Predictions:
    n, k = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    kinds = [0.0, 1.0, float("nan")] if gaps else [0.0, 1.0]
    outputs = draw(arrays(np.float32, (n, k), elements=draw(st.sampled_from([FEW, ANY]))))
    return named(draw(arrays(np.float32, (n, k), elements=st.sampled_from(kinds))), outputs)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Peers warn of what is absent; our figures must be without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def same(ours: float | None, theirs: float) -> bool:
    return ours is not None and math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-7)


# -- one class a picture -----------------------------------------------------------------------------------------------


@MANY
@given(one_class())
def test_what_follows_from_the_table(p: Predictions) -> None:
    answers, k = p.outputs.argmax(1), p.outputs.shape[1]
    table = confusion(p)
    assert (table == sk.confusion_matrix(p.targets, answers, labels=range(k))).all()
    assert same(balanced_accuracy(table), sk.balanced_accuracy_score(p.targets, answers))
    assert same(macro_f1(table), sk.f1_score(p.targets, answers, average="macro"))
    theirs = sk.precision_recall_fscore_support(p.targets, answers, labels=range(k), zero_division=np.nan)
    for ours, *expected in zip(by_class(table), *theirs, strict=True):
        found = [math.nan if v is None else v for v in (ours.precision, ours.recall, ours.f1, ours.support)]
        assert found == pytest.approx(expected, nan_ok=True)
    theirs_f1 = peers.f1_score(torch.tensor(answers), torch.tensor(p.targets), "multiclass", num_classes=k,
                               average="macro")  # fmt: skip
    assert same(macro_f1(table), float(theirs_f1))
    found = {(t, a): n for t, a, n in worst_pairs(table, k * k)}
    assert found == {(t, a): table[t, a] for t in range(k) for a in range(k) if t != a and table[t, a]}
    assert list(found.values()) == sorted(found.values(), reverse=True)


@MANY
@given(one_class())
def test_the_area_under_the_curve(p: Predictions) -> None:
    logs = log_softmax(p.outputs)
    each = []
    for k, column in enumerate(logs.T):
        one = auroc(column, p.targets == k)
        if 0 < (p.targets == k).sum() < len(p.targets):
            each.append(sk.roc_auc_score(p.targets == k, column))
            chances = torch.tensor(column).double().exp()  # torchmetrics squashes what is no probability
            theirs = peers.auroc(chances, torch.tensor(p.targets == k).long(), "binary")
            assert same(one, each[-1]) and math.isclose(each[-1], float(theirs), abs_tol=1e-5)
        else:
            assert one is None
    assert (one_against_rest(auroc, logs, p.targets) is None) == (not each)
    assert not each or same(one_against_rest(auroc, logs, p.targets), float(np.mean(each)))


def test_one_against_rest_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = named(rng.permutation(np.arange(200) % 7), rng.normal(size=(200, 7)).astype(np.float32))
    chances = torch.from_numpy(p.outputs).double().softmax(1).numpy()
    expected = sk.roc_auc_score(p.targets, chances, multi_class="ovr", average="macro")
    assert same(summary(p, "classify")["auroc"], expected)
    by_logits = one_against_rest(auroc, p.outputs, p.targets)  # the mutation: logits of two samples do not compare
    assert not same(by_logits, expected)


@MANY
@given(one_class())
def test_calibration(p: Predictions) -> None:
    assume(len(p.targets) > 1)
    k = p.outputs.shape[1]
    chances = torch.from_numpy(p.outputs).double().softmax(1)
    theirs = peers.calibration_error(chances, torch.tensor(p.targets), "multiclass", n_bins=15, num_classes=k)
    sure = chances.max(1).values.numpy() * 15
    if (np.abs(sure - np.rint(sure)) > 1e-5).all():  # a bin's edge: rounding says on which side
        assert math.isclose(reliability(p).ece, float(theirs), abs_tol=1e-5)
    expected = sk.brier_score_loss(p.targets, chances.numpy(), labels=range(k), scale_by_half=False)
    assert math.isclose(brier(p), expected, rel_tol=1e-9, abs_tol=1e-12)


def test_a_certain_answer_is_in_the_last_bin() -> None:
    p = named(np.array([0, 1]), np.array([[200.0, 0], [200.0, 0]], np.float32))
    found = reliability(p)
    assert found.count.tolist() == [0] * 14 + [2] and found.ece == 0.5 and found.confidence[-1] == 1.0


# -- several labels ----------------------------------------------------------------------------------------------------


@MANY
@given(several_labels())
def test_labels_against_both(p: Predictions) -> None:
    held = [k for k in range(p.targets.shape[1]) if p.targets[:, k].any()]
    mixed = [k for k in held if not p.targets[:, k].all()]
    found = summary(p, "tags")
    for name, names, score in (
        ("map", held, sk.average_precision_score),
        ("auroc", mixed, sk.roc_auc_score),
    ):
        assert (name in found) == bool(names)
        assert not names or same(found[name], np.mean([score(p.targets[:, k], p.outputs[:, k]) for k in names]))
    if held:
        chances, truth = torch.tensor(p.outputs).double().sigmoid(), torch.tensor(p.targets).long()
        theirs = peers.average_precision(chances[:, held], truth[:, held], "multilabel", num_labels=len(held)) if len(
            held) > 1 else peers.average_precision(chances[:, held[0]], truth[:, held[0]], "binary")  # fmt: skip
        assert math.isclose(found["map"], float(theirs), abs_tol=1e-5)
    expected = sk.f1_score(p.targets, p.outputs > 0, average="macro", zero_division=np.nan) if p.targets.shape[
        1] > 1 else sk.f1_score(p.targets[:, 0], p.outputs[:, 0] > 0, zero_division=np.nan)  # fmt: skip
    assert found.get("macro_f1", math.nan) == pytest.approx(expected, nan_ok=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(p.outputs).double(),
                                                                torch.tensor(p.targets).double())  # fmt: skip
    assert same(found["loss"], float(loss))


@MANY
@given(several_labels(gaps=True))
def test_gaps_do_not_count(p: Predictions) -> None:
    """Each label alone, on the samples of which it is known."""
    whole: dict[str, list[float]] = {"map": [], "auroc": [], "macro_f1": []}
    for k in range(p.targets.shape[1]):
        held = ~np.isnan(p.targets[:, k])
        if held.any():
            alone = summary(named(p.targets[held, k : k + 1], p.outputs[held, k : k + 1]), "tags")
            for name in whole.keys() & alone.keys():
                whole[name].append(alone[name])
    found = summary(p, "tags")
    for name, values in whole.items():
        assert (name in found) == bool(values)
        assert not values or same(found[name], float(np.mean(values)))


def test_a_gap_taken_for_no_is_seen() -> None:
    """The mutation beside it."""
    nan = float("nan")
    p = named(np.array([[1.0], [nan], [0.0]], np.float32), np.array([[1.0], [2.0], [0.0]], np.float32))
    wrong = named(np.nan_to_num(p.targets), p.outputs)
    right, mutated = summary(p, "tags"), summary(wrong, "tags")
    assert right["map"] == right["auroc"] == 1.0 and all(right[name] != mutated[name] for name in right)


# -- ties --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [auroc, average_precision])
def test_the_order_of_equal_scores_does_not_matter(score: Callable[..., float | None]) -> None:
    rng = np.random.default_rng(1)
    scores, positive = rng.integers(0, 4, 60).astype(np.float32), rng.random(60) < 0.3
    found = {score(scores[order], positive[order]) for order in (rng.permutation(60) for _ in range(5))}
    assert len({round(v, 12) for v in found if v is not None}) == 1
    lucky = score(scores + 1e-3 * positive, positive)  # the mutation: positives first among equals
    assert lucky is not None and lucky > max(v for v in found if v is not None) + 0.05


def test_equal_probabilities_of_unequal_logits_tie() -> None:
    """Rows that differ by a constant are the same probabilities; the last bit must not tell them apart."""
    rng = np.random.default_rng(2)
    row = rng.normal(size=9).astype(np.float32)
    outputs = np.stack([np.float32(np.round(row * 8) / 8) + c for c in range(6)]).astype(np.float32)
    assert auroc(log_softmax(outputs)[:, 3], np.arange(6) % 2 > 0) == 0.5


# -- numbers -----------------------------------------------------------------------------------------------------------


@MANY
@given(st.data(), st.integers(1, 12))
def test_numbers_against_both(data: st.DataObject, n: int) -> None:
    some = st.floats(-1000, 1000, width=16)
    targets, outputs = data.draw(arrays(np.float32, n, elements=some)), data.draw(arrays(np.float32, n, elements=some))
    found = summary(named(targets, outputs[:, None]), "number")
    assert same(found["mae"], sk.mean_absolute_error(targets, outputs))
    assert same(found["rmse"], sk.root_mean_squared_error(targets.astype(float), outputs.astype(float)))
    assert same(found["mae"], float(peers.mean_absolute_error(torch.tensor(outputs), torch.tensor(targets))))
    assert ("r2" in found) == (len(np.unique(targets)) > 1)
    if "r2" in found:
        expected = sk.r2_score(targets.astype(float), outputs.astype(float))
        assert math.isclose(found["r2"], expected, rel_tol=1e-6, abs_tol=1e-9)
        swapped = sk.r2_score(outputs.astype(float), targets.astype(float))  # the mutation: the two the wrong way round
        spreads = np.var(outputs.astype(float)), np.var(targets.astype(float))
        alike = found["r2"] > 1 - 1e-6 or math.isclose(*spreads, rel_tol=1e-3)
        assert alike or not math.isclose(1 - found["r2"], 1 - swapped, rel_tol=1e-6)


def test_an_unknown_number_does_not_count() -> None:
    p = named(np.array([1.0, np.nan, 3.0], np.float32), np.array([[2.0], [9.0], [3.0]], np.float32))
    assert regression.errors(p) == regression.Errors(0.5, math.sqrt(0.5), 0.5)


# -- nothing to say ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_said_has_no_key() -> None:
    one = summary(named(np.array([1, 1]), np.zeros((2, 3), np.float32)), "classify")
    assert "auroc" not in one and one["balanced_accuracy"] == 0.0 and one["macro_f1"] == 0.0
    assert summary(named(np.array([-1, -1]), np.zeros((2, 3), np.float32)), "classify") == {}
    nothing = named(np.full((2, 3), np.nan, np.float32), np.zeros((2, 3), np.float32))
    assert summary(nothing, "tags") == {} and tags.macro_f1(nothing) is None
    assert summary(named(np.full(2, np.nan, np.float32), np.zeros((2, 1), np.float32)), "number") == {}
    broken = summary(named(np.array([0, 1]), np.full((2, 2), np.nan, np.float32)), "classify")
    assert broken["top1"] == 0.0 and all(math.isfinite(v) for v in broken.values()) and "loss" not in broken


def test_the_keys_of_each_task() -> None:
    rng = np.random.default_rng(0)
    p = named(rng.integers(0, 3, 30), rng.normal(size=(30, 3)).astype(np.float32))
    assert list(summary(p, "classify")) == ["top1", "top5", "loss", "balanced_accuracy", "macro_f1", "auroc", "ece"]
    several = named((rng.random((30, 3)) < 0.5).astype(np.float32), p.outputs)
    assert list(summary(several, "tags")) == ["map", "macro_f1", "auroc", "loss"]
    number = named(rng.normal(size=30).astype(np.float32), p.outputs[:, :1])
    assert list(summary(number, "number")) == ["mae", "rmse", "r2"]
