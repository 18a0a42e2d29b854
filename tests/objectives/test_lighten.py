"""Light steps: which patches and which size a network sees while it is early, and that nothing else changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig, RotaryConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.objectives.classify import Classify, ClassifyConfig
from tessella.objectives.lighten import LightenConfig, light, size_at
from tessella.training import Job, TrainConfig, train
from tessella.training.seeds import reseed

SQUARE = ViTConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2)
KINDS = {
    "learned, class token": SQUARE,
    "rotary, registers": replace(SQUARE, position="none", rotary=RotaryConfig(), registers=3),
    "sincos, mean": replace(SQUARE, position="sincos", class_token=False),
    "not square": replace(SQUARE, image_size=(24, 16)),
    "two heads": replace(SQUARE, distill_token=True),
    "stem": replace(SQUARE, embed="stem"),
}


def network(backbone: ViTConfig) -> Classifier:
    torch.manual_seed(0)
    pool = PoolConfig(kind="cls" if backbone.class_token else "mean")
    out = Classifier(ClassifierConfig(backbone=backbone, pool=pool, classes=5))
    with torch.no_grad():
        for p in out.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return out


def batch(backbone: ViTConfig, n: int = 6, seed: int = 1) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    return {
        "ids": [str(i) for i in range(n)],
        "image": torch.randn(n, 3, *backbone.size, generator=g),
        "label": torch.arange(n) % 5,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_patches_that_stay(kind: str) -> None:
    """Against each picture alone, whose tokens are picked by hand after the positions were added."""
    backbone = KINDS[kind]
    o, b = Classify(ClassifyConfig(patch_dropout=0.4, smoothing=0.0), network(backbone)), batch(backbone)
    reseed(3)
    loss = float(o(b, 0.0)[0]["label"].detach())
    reseed(3)
    _, keep = light(b["image"], o.lighten, backbone, 0.0)
    assert keep is not None
    assert loss == pytest.approx(slowly(o, b, keep), rel=1e-5)
    another = keep.clone()
    another[0, 0] = next(i for i in range(backbone.grid[0] * backbone.grid[1]) if i not in keep[0].tolist())
    assert loss != pytest.approx(slowly(o, b, another), rel=1e-6)  # the mutation: one patch of one picture


def slowly(o: Classify, b: dict[str, Any], keep: Tensor) -> float:
    """The mean over pictures and heads of -log p, token by token."""
    vit, losses = o.network.backbone, []
    for i in range(len(keep)):
        x, place, grid = vit.embed(b["image"][i : i + 1])
        prefix = vit.cfg.prefix
        rows = [*range(prefix), *(prefix + int(k) for k in keep[i])]
        place = place.select(torch.tensor([rows]))
        x = x[:, rows]
        for block in vit.units():
            x = block(x, place)
        tokens = vit.finish(x, grid)
        said = [o.network.head(o.network.pool(tokens))]
        if tokens.distill is not None:
            said.append(o.network.head_dist(tokens.distill))
        losses += [-float(logits.detach().log_softmax(-1)[0, b["label"][i]]) for logits in said]
    return sum(losses) / len(losses)


def test_every_patch_stays_as_often_and_none_twice() -> None:
    torch.manual_seed(0)
    cfg, images = LightenConfig(patch_dropout=0.75), torch.zeros(4000, 3, 24, 16)
    keep = light(images, cfg, KINDS["not square"], 0.1).keep
    assert keep is not None and keep.shape == (4000, 6)  # a quarter of 6 x 4
    assert all(len(set(row)) == 6 for row in keep.tolist())
    often = torch.bincount(keep.flatten(), minlength=24) / 4000
    assert (often - 0.25).abs().max() < 0.04  # five deviations
    assert len({tuple(row) for row in keep[:50].tolist()}) == 50


def test_the_last_steps_see_everything() -> None:
    cfg = LightenConfig(patch_dropout=0.5, start_size=0.5, light_until=0.6)
    images = batch(SQUARE)["image"]
    whole = light(images, cfg, SQUARE, 0.6)
    assert whole.keep is None and whole.images is images
    early = light(images, cfg, SQUARE, 0.0)
    assert early.images.shape[-2:] == (8, 8) and early.keep is not None and early.keep.shape[1] == 2
    assert light(images, replace(cfg, light_until=0.0), SQUARE, 0.0).keep is None


def test_pictures_grow_in_whole_patches_with_the_area() -> None:
    backbone = replace(SQUARE, image_size=32)
    sizes = [size_at(i / 100, 0.5, (32, 32), backbone)[0] for i in range(101)]
    assert sizes == sorted(sizes) and sizes[0] == 16 and sizes[-1] == 32
    assert set(sizes) == {16, 20, 24, 28, 32}
    for i, size in enumerate(sizes):  # the slow way: the largest multiple of 4 whose square fits
        area = 16**2 + (32**2 - 16**2) * i / 100
        assert size == max(s for s in range(4, 33, 4) if s * s <= area + 1e-2)
    assert size_at(0.0, 0.01, (32, 32), backbone) == (4, 4)  # a patch at least
    assert size_at(0.0, 0.5, (48, 32), backbone) == (24, 16)
    assert size_at(0.0, 7 / 16, (16, 16), replace(backbone, stride=2, image_size=16)) == (6, 6)  # 4 + 2, overlapping


def test_growing_pictures_are_pictures() -> None:
    """A resized picture keeps its mean and its bright side; the loss is that of the small picture."""
    o = Classify(ClassifyConfig(start_size=0.5), network(SQUARE))
    ramp = torch.linspace(0, 1, 16).expand(6, 3, 16, 16)
    small = light(ramp, o.lighten, SQUARE, 0.0).images
    assert small.shape[-2:] == (8, 8) and float(small.mean()) == pytest.approx(0.5, abs=1e-3)
    expected = (ramp[0, 0, 0, 0::2] + ramp[0, 0, 0, 1::2]) / 2
    assert (small[0, 0, 3, 1:-1] - expected[1:-1]).abs().max() < 1e-3
    b = batch(SQUARE)
    alone = Classify(ClassifyConfig(), o.network)
    shrunk = b | {"image": light(b["image"], o.lighten, SQUARE, 0.0).images}
    assert float(o(b, 0.0)[0]["label"].detach()) == pytest.approx(float(alone(shrunk, 0.0)[0]["label"].detach()))


def test_features_are_no_pictures() -> None:
    """A probe sees each picture once: what its batches bring has no patches any more."""
    o = Classify(ClassifyConfig(patch_dropout=0.5, start_size=0.5), network(SQUARE))
    b = batch(SQUARE)
    b["image"] = o.network.features(b["image"]).detach()
    whole = Classify(ClassifyConfig(), o.network)
    assert torch.equal(o(b, 0.0)[0]["label"], whole(b, 0.0)[0]["label"])


def test_a_batch_without_a_sample() -> None:
    o = Classify(ClassifyConfig(patch_dropout=0.5, start_size=0.5), network(SQUARE))
    assert float(o(batch(SQUARE, 0), 0.0)[0]["label"].detach()) == 0.0


@pytest.mark.parametrize("stop", [3, 5])
def test_going_on_draws_the_same(tmp_path: Path, stop: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = trained(whole, 8)
    trained(parts, 8, stop)
    assert torch.equal(expected, trained(parts, 8))
    assert not torch.equal(expected, trained(tmp_path / "other", 8, seed=1))  # the mutation: other draws


def trained(folder: Path, steps: int, stop: int | None = None, seed: int = 0) -> Tensor:
    """Weights after so many steps with half of the patches; `stop`: the data ends there."""

    def batches(start: int) -> Iterator[dict[str, Any]]:
        for step in itertools.count(start):
            if step == stop:
                return
            yield batch(SQUARE, seed=step)

    o = Classify(ClassifyConfig(patch_dropout=0.5, start_size=0.5), network(SQUARE))
    cfg = TrainConfig(steps=steps, batch=6, accumulate=2, precision="fp32", save_every=1, device="cpu", seed=seed)
    try:
        train(cfg, o, batches, Job(folder=folder, quiet=True))
    except BadInput:
        assert stop is not None
    return torch.cat([p.detach().flatten() for p in o.network.parameters()])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"patch_dropout": 1.0}, "objective.patch_dropout is 1.0"),
        ({"start_size": 0.0}, "objective.start_size is 0.0"),
        ({"start_size": 24}, "give a share in (0, 1]"),
        ({"light_until": 1.5}, "objective.light_until is 1.5"),
    ],
)
def test_values_that_mean_nothing(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput) as caught:
        Classify(ClassifyConfig(**settings), network(SQUARE))
    assert told in str(caught.value) and "\n" not in str(caught.value)
