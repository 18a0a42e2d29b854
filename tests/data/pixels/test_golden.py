"""Forty odd files and more give the pixels that went into them, the same in training, evaluation and prediction; broken
ones are refused by name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from odd import COLOUR, SIZE, Odd, broken_files, odd_files, turned
from torch import Tensor

from tessella.card import Preprocess
from tessella.data.loading.loader import Loader, LoaderConfig, once
from tessella.data.loading.pictures import Pictures
from tessella.data.names import Names
from tessella.data.pixels import decode as decoding
from tessella.data.pixels import deep, jpeg
from tessella.data.pixels.decode import decode, header
from tessella.data.pixels.transforms import prepare
from tessella.data.source import Source
from tessella.errors import BadInput
from tessella.runtime.model import decoded_ahead

FILES = odd_files()
BROKEN = broken_files()


@dataclass(frozen=True)
class Held:
    """A reader of pictures that lie in memory."""

    data: tuple[bytes, ...]

    def read(self, row: int) -> bytes:
        return self.data[row]


def source(files: list[Odd]) -> Source:
    rows: NDArray[np.int64] = np.arange(len(files))
    sizes = np.array([len(f.data) for f in files])
    names = Names.of([f.name for f in files])
    return Source(reader=Held(tuple(f.data for f in files)), ids=names, sizes=sizes, rows=rows)


def far(got: Tensor, want: NDArray[np.generic]) -> float:
    return float(np.abs(got.numpy().transpose(1, 2, 0).astype(float) - want.astype(float)).max())


@pytest.mark.parametrize("file", FILES, ids=[f.name for f in FILES])
def test_pixels_are_those_that_went_in(file: Odd) -> None:
    got = prepare(file.data, file.card, file.name)
    assert str(got.dtype) == f"torch.{file.depth}" and got.shape == (file.want.shape[2], *SIZE)
    assert far(got, file.want) <= file.near


def test_there_are_enough() -> None:
    assert len(FILES) >= 40 and len({f.name for f in FILES}) == len(FILES)


@pytest.mark.parametrize("size", [SIZE, (24, 20)])
def test_every_path_sees_the_same(size: tuple[int, int], tmp_path: Path) -> None:
    def asked(file: Odd) -> Preprocess:
        return replace(file.card, size=size, resize="shortest", crop=0.9, decode="scaled")

    for card, group in groupby(sorted(FILES, key=lambda f: repr(asked(f))), key=asked):
        files = list(group)
        held = source(files)
        want = {f.name: prepare(f.data, card, f.name) for f in files}
        (batch,) = once(Pictures(held, card), len(files), workers=0)
        assert all(torch.equal(p, want[i]) for i, p in zip(batch["ids"], batch["image"], strict=True))
        stream = Loader(Pictures(held, card, augment=None), LoaderConfig(batch=len(files), workers=0)).batches()
        batch = next(stream)
        assert sorted(batch["ids"]) == sorted(want)
        assert all(torch.equal(p, want[i]) for i, p in zip(batch["ids"], batch["image"], strict=True))
        paths = []
        for file in files:
            paths.append(tmp_path / file.name)
            paths[-1].write_bytes(file.data)
        ahead = torch.cat([pixels for _, pixels in decoded_ahead(paths, card, 7)])
        assert all(torch.equal(p, want[path.name]) for path, p in zip(paths, ahead, strict=True))


def test_resampled_pixels_stay_what_they_were() -> None:
    """Of lossless files: whole numbers in and out, so the same on every machine."""
    hasher = hashlib.sha256()
    for file in FILES:
        if not file.near and file.depth == "uint8" and file.limits is None:
            for resize in ("shortest", "squash", "letterbox", "pad", "native"):
                hasher.update(prepare(file.data, replace(file.card, size=(20, 24), resize=resize)).numpy().tobytes())
    assert hasher.hexdigest()[:16] == "ec0c07daba008eaa"


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_name_in_one_line(name: str) -> None:
    data, words = BROKEN[name]
    with pytest.raises(BadInput) as caught:
        decode(data, 3, name)
    said = str(caught.value)
    assert said.startswith(name + " ") and words in said and "\n" not in said


@pytest.mark.parametrize("file", FILES, ids=[f.name for f in FILES])
def test_headers_say_what_decoding_gives(file: Odd) -> None:
    head = header(file.data, file.name)
    pixels = decode(file.data, file.want.shape[2], file.name, depth=file.depth, limits=file.limits)
    assert (head.height, head.width) == pixels.shape[:2]
    assert (head.frames > 1) == ("animated" in file.name or "pages" in file.name)
    assert (head.bits > 8) == (
        any(w in file.name for w in ("sixteen", "twelve", "float", "signed", "double", "zero"))
    ) or (file.name == "eight_as_sixteen.png")


# ---------------------------------------------------------------- mutations: each must make a file above fail


def wrong(file: str, monkeypatch: pytest.MonkeyPatch | None = None) -> float:
    found = next(f for f in FILES if f.name == file)
    return far(prepare(found.data, found.card), found.want) - found.near


def test_an_ignored_orientation_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "upright", lambda pixels, turn: pixels)
    for turn in (2, 3, 4):
        assert wrong(f"turn{turn}.jpg") > 0
    assert len({turned(COLOUR, t).tobytes() for t in range(1, 9)}) == 8


def test_inks_that_are_not_inverted_show(monkeypatch: pytest.MonkeyPatch) -> None:
    true = jpeg._coloured
    monkeypatch.setattr(jpeg, "_coloured", lambda stored: true(255 - stored if stored.shape[2] == 4 else stored))
    assert wrong("cmyk.jpg") > 0 and wrong("ycck.jpg") > 0


def test_saturating_or_rounding_sixteen_bits_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "_by_bits", lambda v, bits, depth: np.clip(v, 0, 255).astype(np.uint8))
    assert wrong("sixteen.tif") > 0 and wrong("sixteen_colour.png") > 0
    rounded = lambda v, bits, depth: np.rint(v / 257).astype(np.uint8)  # noqa: E731
    monkeypatch.setattr(deep, "_by_bits", rounded)
    assert wrong("sixteen.tif") > 0 or wrong("sixteen_colour.png") > 0


def test_a_file_that_is_cut_and_read_anyway_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a lenient decoder does: the rest is grey."""
    import simplejpeg

    true = simplejpeg.decode_jpeg
    lenient = lambda *a, **k: true(*a, **k, strict=False)  # noqa: E731
    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", lenient)
    assert decode(BROKEN["cut4.jpg"][0]).shape == (120, 160, 3)
