"""Every picture looked at once: what a row says of really odd and really broken files, and the survey made of it."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessella.data.checks.balance import advise
from tessella.data.checks.duplicates import MatchConfig
from tessella.data.checks.inspection import ROW, inspect, look
from tessella.data.checks.overlap import KINDS, Whole, described, files_of, matches, sets_of, shared
from tessella.data.checks.survey import facts, median_side
from tessella.data.origins.open import open_splits
from tessella.data.source import DataConfig
from tessella.errors import BadInput


def noisy(seed: int, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(picture: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    held = io.BytesIO()
    picture.save(held, kind, **how)
    return held.getvalue()


def turned(picture: Image.Image, turn: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(picture, "JPEG", quality=95, exif=exif.tobytes())


def broken_code(data: bytes) -> bytes:
    """A JPEG that most programs show, with noise in it."""
    out, rng = bytearray(data), np.random.default_rng(0)
    for at in rng.integers(data.index(b"\xff\xda") + 14, len(data) - 2, 20).tolist():
        out[at] = int(rng.integers(0, 255))
    return bytes(out)


JPEG = encoded(noisy(20, (200, 200)), "JPEG", quality=95)
GOOD = {
    "plain.png": lambda: encoded(noisy(0)),
    "turned.jpg": lambda: turned(noisy(1), 6),
    "deep.png": lambda: encoded(Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20)),
    "grey.jpg": lambda: encoded(noisy(2, mode="L"), "JPEG"),
    "inks.jpg": lambda: encoded(noisy(3, mode="CMYK"), "JPEG"),
    "clear.png": lambda: encoded(noisy(4, mode="RGBA")),
    "moves.gif": lambda: encoded(noisy(5), "GIF", save_all=True, append_images=[noisy(6), noisy(7)]),
    "tiny.png": lambda: encoded(noisy(8, (1, 1))),
    "long.png": lambda: encoded(noisy(9, (300, 20))),
    "white.png": lambda: encoded(Image.new("RGB", (40, 40), "white")),
    "really.png": lambda: encoded(noisy(10), "JPEG"),
    "floats.npy": lambda: array(np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)),
    "five.npy": lambda: array(np.random.default_rng(1).integers(0, 255, (20, 30, 5)).astype(np.uint8)),
}
BAD = {
    "code.jpg": (lambda: broken_code(JPEG), "a JPEG picture"),
    "half.jpg": (lambda: JPEG[: len(JPEG) // 2], "a JPEG picture"),
    "empty.jpg": (lambda: b"", "nothing (0 bytes)"),
    "zeros.png": (lambda: bytes(4000), "nothing but zero bytes"),
    "page.jpg": (lambda: b"<!DOCTYPE html><html>404</html>", "an HTML page"),
    "pointer.png": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "half.png": (lambda: encoded(noisy(21))[:900], "a PNG picture"),
    "text.gif": (lambda: b"hello there\n" * 9, "text"),
}


def array(values: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, values)
    return held.getvalue()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    for name, make in [*GOOD.items(), *((name, made[0]) for name, made in BAD.items())]:
        folder = root / ("bad" if name in BAD else "good")
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(make())
    return root


def opened(root: Path) -> tuple[dict, tuple[str, ...], list[str]]:
    return open_splits(DataConfig(path=str(root)))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_bad_file_is_named_and_no_other(workers: int, odd: Path) -> None:
    sources, classes, _ = opened(odd)
    found = inspect(sources["all"], workers)
    ids = found.source.ids
    assert {ids[i] for i in found.reasons} == {f"bad/{name}" for name in BAD}
    for i, reason in found.reasons.items():
        assert ids[i] in reason and found.holds[i].startswith(BAD[ids[i].split("/")[1]][1])
    plain = facts(found, classes)
    assert plain["pictures"] == len(GOOD) + len(BAD) and plain["readable"] == len(GOOD)
    assert [bad["id"] for bad in plain["unreadable"]] == sorted(f"bad/{name}" for name in BAD)
    expected = {
        "rotated": ["turned.jpg"], "deep": ["deep.png"], "float": ["floats.npy"], "inks": ["inks.jpg"],
        "alpha": ["clear.png"], "channels": ["five.npy"], "frames": ["moves.gif"], "tiny": ["tiny.png"],
        "long": ["long.png"], "plain": ["tiny.png", "white.png"], "grey": ["deep.png", "floats.npy", "grey.jpg"],
    }  # fmt: skip
    assert {kind: sorted(i.split("/")[1] for i in ids) for kind, ids in plain["odd"].items()} == expected
    assert plain["wrong_suffix"] == [{"id": "good/really.png", "holds": "JPEG"}]
    assert plain["classes"] == {"bad": len(BAD), "good": len(GOOD)}


def test_filling_before_the_end_is_no_damage() -> None:
    """Some cameras do that; left-over codes are another thing."""
    filled = JPEG[:-2] + bytes(12) + JPEG[-2:]
    assert look(filled, "f")["good"]
    with pytest.raises(BadInput, match="left over"):
        look(broken_code(JPEG), "c")


def test_a_row() -> None:
    data = turned(noisy(1, (64, 48)), 6)
    row = look(data, "x.jpg")
    assert (row["height"], row["width"], row["turn"], row["bits"]) == (64, 48, 6, 8)
    assert row["file"].tobytes() == hashlib.sha256(data).digest() and row["bytes"] == len(data) and row["good"]
    assert ROW.itemsize < 1200, "a million of them must fit"
    with pytest.raises(BadInput, match=r"x\.jpg"):
        look(data[:300], "x.jpg")


def test_same_pixels_in_other_bytes() -> None:
    picture = noisy(3)
    rows = [look(encoded(picture, kind), kind) for kind in ("PNG", "BMP", "TIFF")]
    assert len({row["pixels"].tobytes() for row in rows}) == 1 and len({row["file"].tobytes() for row in rows}) == 3
    other = picture.copy()
    other.putpixel((5, 5), (1, 2, 3))
    assert look(encoded(other), "o")["pixels"].tobytes() != rows[0]["pixels"].tobytes()
    flat = [look(encoded(Image.new("RGB", size, "red")), "f")["pixels"].tobytes() for size in ((4, 9), (9, 4), (6, 6))]
    assert len(set(flat)) == 3, "the shape counts"


def test_degrees_of_sameness(tmp_path: Path) -> None:
    seed = 100
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(3):
                seed += 1
                (tmp_path / part / name / f"{k}.png").write_bytes(encoded(noisy(seed, (200, 160))))
    data = encoded(noisy(77, (200, 160)))
    (tmp_path / "train/a/x.png").write_bytes(data)
    (tmp_path / "val/a/x.png").hardlink_to(tmp_path / "train/a/x.png")
    (tmp_path / "test/a/copy.png").write_bytes(data)
    (tmp_path / "test/b/again.bmp").write_bytes(encoded(noisy(77, (200, 160)), "BMP"))
    (tmp_path / "test/b/small.jpg").write_bytes(encoded(noisy(77, (200, 160)).resize((90, 90)), "JPEG", quality=60))
    sources, classes, _ = opened(tmp_path)
    parts = {name: inspect(sources[name], 0, name) for name in ("train", "val", "test")}
    whole = Whole.of(parts, np.concatenate([p.rows for p in parts.values()]), classes)
    found = matches(whole, files_of(whole, str(tmp_path)), MatchConfig())
    assert [KINDS[m.kind] for m in found] == ["file", "bytes", "pixels", "photograph"]
    (same,) = described(whole, found, sets_of(whole, found))
    assert same["leak"] and same["conflict"] and same["kind"] == "photograph" and len(same["pictures"]) == 5
    counted = {(s["part"], s["with"]): s["pictures"] for s in shared(whole, sets_of(whole, found))}
    assert counted == {("val", "train"): 1, ("test", "train"): 3, ("test", "val"): 3}
    # Mutation: a wrong digest of the pixels joins what differs.
    whole.rows["pixels"][:] = 1
    assert len(sets_of(whole, matches(whole, None, MatchConfig()))[0]) == len(whole.rows)


def test_median_side(odd: Path) -> None:
    sources, _, _ = opened(odd)
    assert 30 <= median_side(sources["all"]) <= 80


@pytest.mark.parametrize(
    ("counts", "remedy"),
    [
        ({"a": 100, "b": 80}, "nothing"),
        ({"a": 100, "b": 20}, "weights"),
        ({"a": 1000, "b": 20}, "root"),
        ({"a": 9000, "b": 200}, "classes"),
        ({"a": 90, "b": 0}, "nothing"),
        ({}, "nothing"),
    ],
)
def test_advice(counts: dict[str, int], remedy: str) -> None:
    found = advise(counts)
    assert found.remedy == remedy and bool(found.option) == (remedy != "nothing") and found.why
    weighted = sum(found.weights.get(name, 0) * n for name, n in counts.items())
    assert not found.weights or weighted == pytest.approx(sum(counts.values())), "mean 1 over the pictures"
    if counts.get("b", 100) in (2, 5):
        assert "collect more" in found.why
