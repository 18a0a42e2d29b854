"""Batches of a source: boxes and masks lie where their object is seen; pairs are mixed; layouts are kept."""

from __future__ import annotations

import io
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tessella.card import Preprocess
from tessella.data.loading.loader import Loader, LoaderConfig
from tessella.data.loading.order import Key
from tessella.data.loading.pictures import Pictures
from tessella.data.loading.quarantine import Quarantine
from tessella.data.names import Names
from tessella.data.origins.frames import SizeColumn
from tessella.data.origins.outlines import OutlineColumn
from tessella.data.origins.targets import BoxColumn, Boxes, MaskColumn
from tessella.data.pixels.augment import AugmentConfig
from tessella.data.pixels.mix import MixConfig
from tessella.data.source import Rows, Source
from tessella.errors import BadInput

PRE = Preprocess(size=(48, 64), mean=(0.5,) * 3, std=(0.2,) * 3)
N = 6


class Held:
    """A reader of what is in memory."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def read(self, row: int) -> bytes:
        return self.files[row]


def png(pixels: NDArray[np.uint8], turn: int = 1) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


def scenes(turn: int = 1, told: bool = False) -> Source:
    """A white rectangle on black in each; its box, mask and outline as drawn on the pixels that the file stores."""
    rng = np.random.default_rng(0)
    files, masks, boxes, shapes = [], [], [], []
    for _ in range(N):
        left, top = rng.integers(5, 40, 2).tolist()
        right, bottom = left + int(rng.integers(20, 40)), top + int(rng.integers(10, 30))
        pixels = np.zeros((80, 120, 3), np.uint8)
        pixels[top:bottom, left:right] = 255
        files.append(png(pixels, turn))
        masks.append(png((pixels[:, :, 0] > 0).astype(np.uint8) * 3))
        boxes.append(Boxes.of([[left, top, right, bottom], [0, 0, 3, 3]], [1, 0], [False, True]))
        shapes.append([[[left, top, right, top, right, bottom, left, bottom]], None])
    ids = Names.of(f"{i}.png" for i in range(N))
    sizes: Rows = np.full(N, -1, dtype=np.int64)
    drawn = np.tile([80, 120] if told else [0, 0], (N, 1))
    return Source(
        reader=Held(files), ids=ids, sizes=sizes, rows=np.arange(N), labels=np.arange(N) % 2, classes=("a", "b"),
        targets={
            "boxes": BoxColumn.of(boxes), "size": SizeColumn(drawn),
            "mask": MaskColumn(reader=Held(masks), rows=np.arange(N), ids=ids, sizes=sizes),
            "outlines": OutlineColumn.of(shapes, np.tile([80, 120], (N, 1)), ids),
        },
    )  # fmt: skip


def seen_at(image: torch.Tensor) -> list[int] | None:
    """Where white pixels are: left, top, right, bottom."""
    rows, columns = torch.where(image[0] > 127)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1] if len(rows) else None


@pytest.mark.parametrize(
    "augment",
    [None, AugmentConfig(), AugmentConfig(crop="pad", padding=5, vertical=0.5), AugmentConfig(crop="none")],
    ids=["evaluation", "resized", "pad", "none"],
)
@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("resize", ["shortest", "letterbox"])
def test_boxes_masks_and_outlines_lie_where_the_object_is_seen(augment: Any, turn: int, resize: Any) -> None:
    """The picture itself is the oracle. The size that was told says that boxes were drawn on it as stored."""
    data = Pictures(scenes(turn, told=True), replace(PRE, resize=resize, fill=(0,)), augment)
    rim = 5 if augment is not None and augment.crop == "pad" else 0  # black comes in, and boxes may reach into it
    checked = 0
    for epoch, index in itertools.product(range(3), range(N)):
        sample = data.sample(Key(epoch, index))
        seen, boxes = seen_at(sample["image"]), sample["boxes"]
        big = boxes["classes"] == 1
        if seen is None or not bool(big.any()):
            continue
        assert np.abs(boxes["corners"][big][0].numpy() - seen).max() <= 1.5 + rim
        mask = sample["mask"] == 3
        white = sample["image"][0] > 127
        assert float((mask != white).float().mean()) < 0.05 + rim / 48 and mask.shape == white.shape
        shape = sample["outlines"][int(big.nonzero()[0])]
        assert float((shape != white).float().mean()) < 0.05 + rim / 48
        assert len(sample["outlines"]) == len(boxes["corners"]) == len(boxes["crowd"]) and "size" not in sample
        checked += 1
    assert checked > 2 * N


def test_boxes_that_stay_where_they_were_are_seen() -> None:
    """The mutation: boxes of the file beside a picture that was cropped and resized."""
    source = scenes()
    sample = Pictures(source, PRE).sample(Key(0, 0))
    assert np.abs(source.targets["boxes"][0].corners[0] - seen_at(sample["image"])).max() > 5


def test_batches_of_targets() -> None:
    data = Pictures(scenes(), PRE)
    batch = next(Loader(data, LoaderConfig(batch=4, workers=1)).batches(0))
    assert batch["mask"].shape == (4, 48, 64) and batch["mask"].dtype == torch.uint8
    assert [len(batch[k]) for k in ("boxes", "outlines", "label", "ids")] == [4] * 4 and "size" not in batch
    assert batch["boxes"][0]["corners"].dtype == torch.float32
    empty = data.collate([], [])
    assert {len(leaf) for leaf in empty.values()} == {0} and empty["image"].shape == (0, 3, 48, 64)


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (png(np.zeros((80, 119), np.uint8)), "119 x 80 pixels and the picture 120 x 80"),
        (png(np.zeros((80, 120, 3), np.uint8)), "in colour"),
        (b"<html>", "cannot be read"),
    ],
)
def test_masks_that_do_not_fit_are_named(mask: bytes, match: str) -> None:
    source = scenes()
    column = replace(source.targets["mask"], reader=Held([mask] * N))  # type: ignore[type-var]
    with pytest.raises(BadInput, match=f"mask of 2.png.*{match}"):
        Pictures(replace(source, targets={"mask": column}), PRE).sample(Key(0, 2))
    gone = replace(column, rows=np.full(N, -1))
    assert bool((Pictures(replace(source, targets={"mask": gone}), PRE).sample(Key(0, 2))["mask"] == 255).all())


# ---------------------------------------------------------------- mixing


def photos(n: int = 12) -> Source:
    rng = np.random.default_rng(1)
    files = [png(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)) for _ in range(n)]
    ids = Names.of(f"{i:02}.png" for i in range(n))
    sizes: Rows = np.full(n, -1, dtype=np.int64)
    return Source(reader=Held(files), ids=ids, sizes=sizes, rows=np.arange(n), labels=np.arange(n), classes=("x",) * n)


def stream(source: Source, n: int, mix: MixConfig | None, **cfg: Any) -> list[Any]:
    data = Pictures(source, PRE, AugmentConfig(), mix=mix)
    return list(itertools.islice(Loader(data, LoaderConfig(**cfg), Quarantine(None, 99, 1.0)).batches(0), n))


def test_pairs_are_mixed_alike_by_workers_and_ranks() -> None:
    mix = MixConfig()
    want = stream(photos(), 4, mix, batch=8, workers=0)
    plain = stream(photos(), 4, None, batch=8, workers=0)
    for workers, ranks in ((1, 1), (0, 2), (0, 4)):
        got = [stream(photos(), 4, mix, batch=8, workers=workers, rank=r, ranks=ranks) for r in range(ranks)]
        for step in range(4):
            for leaf in ("image", "label", "mix_label", "mix"):
                assert torch.equal(want[step][leaf], torch.cat([g[step][leaf] for g in got]))
    for mixed, alone in zip(want, plain, strict=True):
        partners = alone["label"][[i ^ 1 for i in range(8)]]
        changed = mixed["mix"] < 1
        assert bool(changed.any()) and torch.equal(mixed["mix_label"][changed], partners[changed])
        assert not torch.equal(mixed["image"], alone["image"])


def test_whose_partner_is_a_hole_stays_as_it_is() -> None:
    """By position, not by row: after a hole all rows have moved, and nobody's partner has changed."""
    source = photos()
    hole = stream(source, 1, None, batch=8, workers=0)[0]["ids"][2]
    whole = stream(source, 1, MixConfig(), batch=8, workers=0)[0]
    files = [b"" if f"{i:02}.png" == hole else f for i, f in enumerate(source.reader.files)]  # type: ignore[attr-defined]
    holed = stream(replace(source, reader=Held(files)), 1, MixConfig(), batch=8, workers=0)[0]
    keep = [0, 1, 4, 5, 6, 7]
    assert holed["ids"] == [whole["ids"][i] for i in [0, 1, 3, 4, 5, 6, 7]]
    assert torch.equal(holed["image"][[0, 1, 3, 4, 5, 6]], whole["image"][keep])
    alone = holed["ids"].index(whole["ids"][3])
    assert float(holed["mix"][alone]) == 1.0 and holed["mix_label"][alone] == holed["label"][alone]


def test_pairs_across_ranks_are_refused() -> None:
    data = Pictures(photos(), PRE, mix=MixConfig())
    with pytest.raises(BadInput, match="multiple of 4"):
        Loader(data, LoaderConfig(batch=6, ranks=2))
    Loader(data, LoaderConfig(batch=7, workers=0))


def test_repeats_are_other_views_and_the_first_is_as_ever() -> None:
    data = Pictures(photos(), PRE, AugmentConfig())
    first, second = data.sample(Key(3, 5)), data.sample(Key(3, 5, 1))
    assert not torch.equal(first["image"], second["image"])
    again = Loader(data, LoaderConfig(batch=12, repeats=2, workers=0)).batches(0)
    seen = [name for _ in range(2) for name in next(again)["ids"]]
    assert sorted(seen) == sorted([*data.source.ids] * 2)


def test_layouts_survive_the_way_from_a_worker() -> None:
    here, there = (stream(photos(), 2, None, batch=6, workers=w) for w in (0, 1))
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a["image"], b["image"]) and a["image"].stride() == b["image"].stride()


def test_megapixels_by_headers(tmp_path: Path) -> None:
    assert Pictures(photos(), PRE).megapixels() == 30 * 40 / 1e6
    broken = replace(photos(), reader=Held([b"no picture"] * 12))
    assert Pictures(broken, PRE).megapixels() is None and os.getpid() > 0
