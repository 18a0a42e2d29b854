"""Same pictures: planted copies are found, lookalikes are not; without the proof, or with another bar, both fail."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tessella.data.checks import duplicates
from tessella.data.checks.duplicates import (
    MatchConfig,
    Pairs,
    clusters,
    flat,
    groups,
    nearest,
    same_photograph,
    thumbnail,
    unit,
)
from tessella.errors import BadInput

N = 60


def photo(seed: int, side: int = 160) -> Image.Image:
    """Something with structure at every scale: noise that fades as 1 / frequency, and a few shapes."""
    rng = np.random.default_rng(seed)
    waves = np.fft.rfft2(rng.normal(size=(side, side, 3)), axes=(0, 1))
    away = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    field = np.fft.irfft2(waves / np.maximum(away, 1)[:, :, None] ** 1.2, s=(side, side), axes=(0, 1))
    field = (field - field.min()) / np.ptp(field)
    picture = Image.fromarray((255 * field).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y, r = (int(rng.integers(low, high)) for low, high in ((0, side), (0, side), (6, 30)))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return picture


def saved(picture: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=quality)
    return Image.open(io.BytesIO(held.getvalue()))


def trimmed(picture: Image.Image, left: float, top: float, share: float) -> Image.Image:
    w, h = picture.size
    x, y = round(left * (1 - share) * w), round(top * (1 - share) * h)
    return picture.crop((x, y, x + round(share * w), y + round(share * h)))


def thumbs_of(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([thumbnail(np.asarray(p.convert("RGB"))) for p in pictures])


COPIES = {
    "smaller": lambda p: p.resize((70, 70), Image.Resampling.LANCZOS),
    "larger, squeezed": lambda p: p.resize((300, 220), Image.Resampling.BILINEAR),
    "saved at 35": lambda p: saved(p, 35),
    "trimmed at a corner": lambda p: trimmed(p, 0, 0, 0.95),
    "trimmed at the other": lambda p: trimmed(p, 1, 1, 0.95),
    "trimmed by a tenth": lambda p: trimmed(p, 0.3, 0.8, 0.9),
    "all of it": lambda p: saved(trimmed(p, 0.9, 0.2, 0.95).resize((90, 90)), 50),
    "grey": lambda p: p.convert("L"),
    "darker": lambda p: p.point(lambda v: v * 0.6 + 10),
    "mirrored": lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "mirrored and saved": lambda p: saved(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((100, 100)), 60),
}


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return [photo(seed) for seed in range(N)]


def set_of(found: Pairs) -> set[tuple[int, int]]:
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found_and_nothing_else(name: str, originals: list[Image.Image]) -> None:
    copies = [COPIES[name](p) for p in originals[:20]]
    found = same_photograph(thumbs_of([*originals, *copies]))
    assert set_of(found) == {(i, N + i) for i in range(20)}
    assert found.mirrored.all() == found.mirrored.any() == name.startswith("mirrored")
    assert (found.score >= 0.9).all() and (found.score <= 1).all()


def test_mirrors_only_when_asked(originals: list[Image.Image]) -> None:
    thumbs = thumbs_of([*originals, *[COPIES["mirrored"](p) for p in originals[:5]]])
    assert len(same_photograph(thumbs, MatchConfig(mirrored=False))) == 0
    assert len(same_photograph(thumbs)) == 5


def lookalikes() -> list[Image.Image]:
    """Discs of other textures at the same place: alike in the coarse."""
    out = []
    for seed in range(20):
        picture = Image.new("RGB", (128, 128), (20, 60, 20))
        mask = Image.new("L", (128, 128))
        ImageDraw.Draw(mask).ellipse((24, 24, 104, 104), fill=255)
        texture = np.random.default_rng(seed).integers(120, 256, (128, 128, 3)).astype(np.uint8)
        picture.paste(Image.fromarray(texture).resize((40, 40)).resize((128, 128)), (0, 0), mask)
        out.append(picture)
    return out


def test_lookalikes_are_candidates_but_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    thumbs = thumbs_of(lookalikes())
    candidates, _ = duplicates.candidates(thumbs, np.arange(20), MatchConfig())
    assert len(candidates) > 50, "else this proves nothing"
    assert len(same_photograph(thumbs)) == 0

    # Mutations: one outline speaks for all; the whole proof is switched off.
    assert len(same_photograph(thumbs, MatchConfig(everywhere=0.01))) > 50
    monkeypatch.setattr(duplicates, "lay_over", lambda a, b: duplicates.Laid(*[torch.ones(len(a))] * 3))
    assert len(same_photograph(thumbs)) > 50


@pytest.mark.parametrize("wrong", [{"detail": 0.9999}, {"cosine": 0.999}], ids=["detail", "cosine"])
def test_a_wrong_bar_misses(wrong: dict[str, float], originals: list[Image.Image]) -> None:
    thumbs = thumbs_of([*originals[:20], *[COPIES["all of it"](p) for p in originals[:20]]])
    assert len(same_photograph(thumbs)) == 20
    assert len(same_photograph(thumbs, replace(MatchConfig(), **wrong))) < 12


@pytest.mark.parametrize("first", [0, 1])
def test_a_part_of_a_picture_is_not_the_picture(first: int, originals: list[Image.Image]) -> None:
    both = [originals[0], trimmed(originals[0], 0.5, 0.5, 0.88)]
    thumbs = thumbs_of([both[first], both[1 - first]])
    assert len(same_photograph(thumbs)) == 1
    assert len(same_photograph(thumbs, MatchConfig(overlap=0.9))) == 0, "77 % of the area"


def test_without_shifted_windows_crops_are_farther(
    originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    thumbs = thumbs_of([*originals[:20], *[COPIES["trimmed by a tenth"](p) for p in originals[:20]]])
    strict = MatchConfig(cosine=0.9, mirrored=False)
    many = len(duplicates.candidates(thumbs, np.arange(40), strict)[0])
    monkeypatch.setattr(duplicates, "WINDOWS", duplicates.WINDOWS[:1])
    assert len(duplicates.candidates(thumbs, np.arange(40), strict)[0]) < many


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.93, 1), st.floats(0.5, 2), st.integers(40, 95))
def test_any_crop_size_and_quality(left: float, top: float, share: float, scale: float, quality: int) -> None:
    whole = photo(7)
    copy = trimmed(whole, left, top, share)
    copy = saved(copy.resize((round(copy.width * scale), round(copy.height * scale))), quality)
    assert len(same_photograph(thumbs_of([whole, copy, photo(8)]))) == 1


def test_blocks_change_nothing(originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    thumbs = thumbs_of([*originals, *[COPIES["all of it"](p) for p in originals[:20]]])
    whole = same_photograph(thumbs)
    for name, value in (("ROWS", 7), ("COLUMNS", 11), ("PROVED", 3)):
        monkeypatch.setattr(duplicates, name, value)
    parts = same_photograph(thumbs)
    assert set_of(parts) == set_of(whole) and np.allclose(parts.score, whole.score, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.floats(-0.5, 0.9), st.integers(0, 5))
def test_nearest_is_the_slow_way(n: int, most: int, least: float, seed: int) -> None:
    own = unit(np.random.default_rng(seed).normal(size=(n, 4)))
    cosines = (own @ own.T).numpy()
    np.fill_diagonal(cosines, -2)
    expected = set()
    for i in range(n):
        for j in np.argsort(-cosines[i], kind="stable")[:most]:
            if cosines[i, j] >= least:
                expected.add((min(i, int(j)), max(i, int(j))))
    found = nearest(own, lambda part: [own[part]], most, least)
    assert set(map(tuple, found.tolist())) == expected and len(found) == len(expected)


def test_plain_pictures_take_no_part() -> None:
    white = np.full((50, 50, 3), 255, np.uint8)
    nearly = white.copy()
    nearly[:10, :10] = 253
    thumbs = np.stack([thumbnail(white), thumbnail(nearly), thumbnail(np.zeros((1, 1, 1), np.uint8))])
    assert flat(thumbs).all() and len(same_photograph(thumbs)) == 0
    assert len(same_photograph(thumbs[:0])) == 0


def test_digests_and_clusters() -> None:
    digests = np.zeros((5, 16), np.uint8)
    digests[1, 0] = digests[3, 0] = 1
    digests[4, 15] = 9
    assert [g.tolist() for g in groups(digests)] == [[0, 2], [1, 3]]
    assert groups(digests[:0]) == []
    found = clusters(9, np.array([5, 1, 7]), np.array([7, 2, 8]))
    assert [c.tolist() for c in found] == [[1, 2], [5, 7, 8]]
    assert clusters(3, np.zeros(0, np.int64), np.zeros(0, np.int64)) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_clusters_beside_scipy(pairs: list[tuple[int, int]]) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    graph = pytest.importorskip("scipy.sparse.csgraph")
    first, second = (np.array([p[c] for p in pairs], np.int64) for c in (0, 1))
    _, label = graph.connected_components(sparse.coo_matrix((np.ones(len(pairs)), (first, second)), (20, 20)), False)
    touched = np.unique(np.r_[first, second])
    expected = {tuple(i for i in touched.tolist() if label[i] == k) for k in set(label[touched].tolist())}
    assert {tuple(c.tolist()) for c in clusters(20, first, second)} == expected


def test_settings_that_mean_nothing() -> None:
    for wrong in ({"neighbours": 0}, {"detail": 0.0}, {"cosine": 1.5}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            MatchConfig(**wrong)  # type: ignore[arg-type]
