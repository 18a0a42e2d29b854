"""`list --for`: a size that fits, a speed that was measured, and a recommendation that follows from both."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import commands
import pytest
from commands import World

from tessella.errors import BadInput
from tessella.models.build import network
from tessella.models.presets import PRESETS, classifier
from tessella.models.size import inference_bytes, macs
from tessella.verbs import suiting as verb
from tessella.verbs.suiting import Candidate, recommended, sizes, suiting


def machine(monkeypatch: Any, ms_each: float) -> list[float]:
    """A machine with so many milliseconds for a billion multiply-adds; what it was asked to measure."""
    asked: list[float] = []

    def speed(architecture: dict[str, Any], device: Any) -> float:
        built = network(architecture, empty=True)
        asked.append(macs(built.cfg) / 1e9)  # type: ignore[arg-type]
        return asked[-1] * ms_each

    monkeypatch.setattr(verb, "_speed", speed)
    return asked


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("vit_n4", 28, [28]),
        ("vit_n4", 30, [32]),
        ("vit_n4", 500, [112]),
        ("vit_n8", 64, [64]),
        ("vit_t16", 28, [64, 224]),
        ("vit_t16", 500, [224]),
        ("vit_h14", 100, [112, 224]),
    ],
)
def test_sizes_fit_the_pictures(name: str, side: int, expected: list[int]) -> None:
    assert sizes(PRESETS[name], side) == expected
    for size in expected:
        _ = replace(PRESETS[name], image_size=size).grid


def test_one_line_of_json_each(world: World) -> None:
    done = commands.run("list", "vit_n4", "--for", world.photos, "--device", "cpu", "--json", place=world.place)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["pictures"] == {"side": 28, "training": 33, "classes": 3} and told["device"] == "cpu"
    (one,) = told["candidates"]
    assert one == told["best"] and one["measured"] and 0.05 < one["ms"] < 10_000 and one["size"] == 28
    weights = sum(p.numel() for p in network({"type": "ClassifierConfig", **plain("vit_n4", 28)}).parameters())
    assert one["parameters"] == weights and 4 * weights < one["memory"] < 8 * weights
    assert "Apache-2.0" in one["licence"] and "vit_n4 --size 28" in told["why"]


def plain(name: str, size: int) -> dict[str, Any]:
    from tessella.config import encode

    return encode(replace(classifier(name, 3), backbone=replace(PRESETS[name], image_size=size)))  # type: ignore[no-any-return]


def test_what_is_too_slow_is_not_shown_nor_waited_for(world: World, monkeypatch: Any) -> None:
    asked = machine(monkeypatch, ms_each=50.0)
    told = suiting(world.photos, device="cpu", max_ms=20)
    assert told.candidates and all(c.ms <= 20 and c.measured for c in told.candidates)
    assert max(asked) <= 4.0, "somebody waited for what was known to be too slow"
    assert told.best is not None and told.best.name == "vit_n4"
    everything = suiting(world.photos, device="cpu").candidates
    assert {c.name for c in everything} == set(PRESETS) and not all(c.measured for c in everything)
    assert [c.gmacs for c in everything] == sorted(c.gmacs for c in everything)


def test_nothing_is_quick_enough(world: World, monkeypatch: Any) -> None:
    machine(monkeypatch, ms_each=5000.0)
    told = suiting(world.photos, device="cpu", max_ms=1)
    assert told.best is None and told.candidates == ()
    assert told.why.startswith("none needs 1 ms or less; the quickest is vit_n")
    told.tell()


@pytest.mark.parametrize(
    ("side", "pictures", "limit", "name", "size"),
    [
        (28, 500, 1000, "vit_n4", 28),
        (64, 500, 1000, "vit_n8", 64),
        (500, 800, 1000, "vit_t16", 224),
        (500, 200_000, 1000, "vit_s16", 224),
        (500, 2_000_000, 1000, "vit_b16", 224),
        (500, 2_000_000, 5, "vit_s16", 224),
        (500, 2_000_000, 1.2, "vit_m16", 224),
        (500, 800, 0.9, "vit_n8", 112),
    ],
)
def test_the_recommendation_follows(side: int, pictures: int, limit: float, name: str, size: int) -> None:
    found = []
    for preset, backbone in PRESETS.items():
        for one in sizes(backbone, side):
            cfg = classifier(replace(backbone, image_size=one), 10)
            gmacs = macs(cfg) / 1e9
            found.append(Candidate(preset, one, 1, gmacs, gmacs, True, inference_bytes(cfg), ""))
    best, why = recommended([c for c in found if c.ms <= limit], side, pictures)
    assert best is not None and (best.name, best.size) == (name, size) and why


def test_a_speed_that_is_measured_grows_with_the_work() -> None:
    from torch import device

    small, large = (verb._speed(plain(name, 64), device("cpu")) for name in ("vit_n8", "vit_b16"))
    assert 0 < 2 * small < large


@pytest.mark.parametrize("limit", [0, -3, float("nan")])
def test_a_limit_that_means_nothing(limit: float, world: World) -> None:
    with pytest.raises(BadInput, match="max-ms"):
        suiting(world.photos, max_ms=limit)
