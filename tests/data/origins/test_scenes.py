"""Scenes say the truth about themselves: boxes, masks, labels and captions are checked against the pixels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tessella.data.origins.scenes import (
    COLOURS,
    SHAPES,
    VISIBLE,
    VOCABULARY,
    Scene,
    ScenesConfig,
    _boxes,
    _draw,
    caption_ids,
    scene,
    scene_batches,
)
from tessella.errors import BadInput

CFG = ScenesConfig(size=40, objects=(1, 4), label="both")
SCENES = [scene(0, i, CFG) for i in range(150)]


def tight_box(mask: np.ndarray) -> list[float]:
    """The slow and obvious way: all pixels of the mask, one by one."""
    n = len(mask)
    ys = [y for y in range(n) for x in range(n) if mask[y, x]]
    xs = [x for y in range(n) for x in range(n) if mask[y, x]]
    x0, x1, y0, y1 = min(xs) / n, (max(xs) + 1) / n, min(ys) / n, (max(ys) + 1) / n
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]


def test_boxes_enclose_the_visible_pixels_exactly() -> None:
    for s in SCENES[:60]:
        assert s.boxes.dtype == np.float32 and s.boxes.shape == (len(s.labels), 4) and 1 <= len(s.labels) <= 4
        for box, mask in zip(s.boxes, s.masks, strict=True):
            assert np.allclose(box, tight_box(mask), atol=1e-6)
    moved = SCENES[0].masks.copy()
    moved[0] = np.roll(moved[0], 1, 1)
    assert not np.allclose(_boxes(moved)[0], SCENES[0].boxes[0])


def test_masks_share_no_pixel_and_show_the_named_colour() -> None:
    """A shade differs from its colour's name by 12 at most; no two colours are that close."""
    for s in SCENES:
        assert s.masks.dtype == bool and s.masks.sum(0).max() == 1
        for label, mask in zip(s.labels, s.masks, strict=True):
            shades = s.image[mask].astype(int)
            name = CFG.classes[label].split()[0]
            nearest = min(COLOURS, key=lambda c: np.abs(shades[0] - COLOURS[c]).sum())
            assert nearest == name and (shades == shades[0]).all()


def test_background_lies_outside_the_masks_only() -> None:
    for s in SCENES:
        assert np.abs(s.image[~s.masks.any(0)].astype(int).mean() - 95) < 60


def test_label_is_that_of_the_largest_object() -> None:
    for s in SCENES:
        areas = s.masks.sum((1, 2))
        assert s.label in s.labels[areas == areas.max()]
    assert len({s.label for s in SCENES}) > 25


def test_classes_and_labels_agree_between_the_kinds() -> None:
    for i in range(20):
        by = {kind: scene(0, i, ScenesConfig(label=kind)) for kind in ("shape", "colour", "both")}
        assert len({s.image.tobytes() for s in by.values()}) == 1
        names = {kind: ScenesConfig(label=kind).classes[s.label] for kind, s in by.items()}
        assert names["both"] == f"{names['colour']} {names['shape']}"


def test_caption_names_what_is_there_and_where() -> None:
    relations = set()
    for s in SCENES:
        words = [CFG.classes[label] for label in s.labels]
        assert s.caption.count("a ") == len(words) and all(f"a {w}" in s.caption for w in words)
        if len(words) > 1:
            relation = s.caption.removeprefix(f"a {words[0]} ").split(" a ")[0]
            dx, dy = (s.boxes[0] - s.boxes[1])[:2]
            truth = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
            assert truth[relation] == max(truth.values())
            relations.add(relation)
        else:
            assert s.caption == f"a {words[0]}"
    assert relations == {"left of", "right of", "above", "below"}


def test_objects_stay_visible() -> None:
    """Against the whole shape, drawn again alone: at least half of every object is seen."""
    crowded = ScenesConfig(size=32, objects=(6, 6), radius=(0.2, 0.3))
    counts = []
    for i in range(40):
        s = scene(1, i, crowded)
        counts.append(len(s.labels))
        least = min(_draw(shape, 32, 16, 16, 0.2 * 32).sum() for shape in SHAPES)
        assert s.masks.sum((1, 2)).min() >= VISIBLE * least * 0.8
    assert min(counts) >= 1 and max(counts) > 2


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_fills_its_extent_and_differs(shape: str) -> None:
    mask = _draw(shape, 64, 32.0, 32.0, 20.0)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert 30 <= len(rows) <= 40 and 30 <= len(columns) <= 40
    assert all((mask != _draw(other, 64, 32.0, 32.0, 20.0)).sum() > 80 for other in SHAPES if other != shape)


def same(a: Scene, b: Scene) -> bool:
    return a.caption == b.caption and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_pure_function_of_seed_and_index() -> None:
    np.random.seed(0)
    again = scene(0, 7, CFG)
    assert same(again, SCENES[7])
    assert not same(again, scene(1, 7, CFG)) and not same(again, scene(0, 8, CFG))
    assert scene(0, 10**12, ScenesConfig(background="plain")).image.shape == (48, 48, 3)
    image = scene(0, 0, ScenesConfig(background="plain", objects=(1, 1))).image.reshape(-1, 3)
    assert len(np.unique(image, axis=0)) == 2


def equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_slices_of_the_ranks_are_the_global_batch(ranks: int) -> None:
    whole = list(itertools.islice(scene_batches(CFG, 7, seed=3)(0), 4))
    for start in (0, 2):
        parts = [next(scene_batches(CFG, 7, 3, rank, ranks)(start)) for rank in range(ranks)]
        for key, value in whole[start].items():
            pieces = [part[key] for part in parts]
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, torch.cat(pieces))
            else:
                flat = [leaf for piece in pieces for leaf in piece]
                assert len(flat) == 7 and all(equal(x, y) for x, y in zip(value, flat, strict=True))
    assert whole[0]["ids"] != whole[1]["ids"] and not torch.equal(whole[0]["image"], whole[1]["image"])


def test_batch_has_the_promised_leaves() -> None:
    batch = next(scene_batches(CFG, 5)(0))
    assert batch["image"].shape == (5, 3, 40, 40) and batch["image"].dtype == torch.uint8
    assert batch["label"].shape == (5,) and batch["label"].dtype == torch.int64
    for labels, boxes, masks in zip(batch["labels"], batch["boxes"], batch["masks"], strict=True):
        assert labels.dtype == torch.int64 and boxes.dtype == torch.float32 and masks.dtype == torch.bool
        assert boxes.shape == (len(labels), 4) and masks.shape == (len(labels), 40, 40)
    assert batch["caption_ids"].shape == (5, CFG.caption_length) and batch["caption_ids"].dtype == torch.int64
    assert torch.equal(batch["image"][2], torch.from_numpy(scene(0, 2, CFG).image).permute(2, 0, 1))


def test_caption_numbers_read_back() -> None:
    captions = [s.caption for s in SCENES]
    for caption, row in zip(captions, caption_ids(captions, CFG.caption_length).tolist(), strict=True):
        end = VOCABULARY.index("<end>")
        assert " ".join(VOCABULARY[i] for i in row[: row.index(end)]) == caption
        assert set(row[row.index(end) + 1 :]) <= {0}
    assert any(len(c.split()) + 1 == CFG.caption_length for c in captions)  # the length is needed
    assert ScenesConfig(objects=(1, 1)).caption_length == 4


@pytest.mark.parametrize("bad", [{"size": 8}, {"objects": (0, 2)}, {"objects": (3, 2)}, {"radius": (0.3, 0.6)}])
def test_impossible_scenes_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="scenes"):
        ScenesConfig(**bad)
