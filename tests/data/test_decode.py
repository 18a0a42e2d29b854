"""Every odd file that we know of, made here for real, decodes to known pixels or is refused by name in one line."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tessella.data.decode import decode, kind_of
from tessella.errors import BadInput

RAMP = np.linspace(0, 255, 6 * 8, dtype=np.uint8).reshape(6, 8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], 2)  # no two of its eight orientations are alike


def saved(image: Image.Image | np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def pgm(values: np.ndarray, largest: int = 65535) -> bytes:
    return f"P5 {values.shape[1]} {values.shape[0]} {largest}\n".encode() + values.astype(">u2").tobytes()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_their_pixels(format: str) -> None:
    data = saved(COLOUR, format, **({"lossless": True} if format == "WEBP" else {}))
    assert np.array_equal(decode(data), COLOUR)


def test_jpeg_equals_pillow_and_grey_is_repeated() -> None:
    data = saved(COLOUR, "JPEG", quality=95)
    assert np.array_equal(decode(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))
    for grey in (saved(RAMP), saved(RAMP, "JPEG")):
        assert np.array_equal(decode(grey), np.repeat(decode(grey, 1), 3, axis=2))
    assert np.array_equal(decode(saved(RAMP), 1)[:, :, 0], RAMP)
    assert decode(saved(COLOUR), 1).shape == (6, 8, 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied(format: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    options: dict[str, Any] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(format, {})
    data = saved(COLOUR, format, exif=exif.tobytes() if format != "TIFF" else exif, **options)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode(data), np.array(want))
    if turn > 1:
        assert not np.array_equal(decode(data), decode(saved(COLOUR, format, **options)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_is_no_orientation() -> None:
    data = saved(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x99" * 40)
    assert np.array_equal(decode(data), decode(saved(COLOUR, "JPEG")))


def test_sixteen_bits_keep_their_range() -> None:
    """The fault this guards against: a ramp from 0 to 65535 that comes out nearly all white."""
    ramp = np.linspace(0, 65535, 6 * 8).astype(np.uint16).reshape(6, 8)
    want = (ramp >> 8).astype(np.uint8)
    assert want.min() == 0 and want.max() == 255 and 120 < want.mean() < 135
    inverted = bytearray(saved(ramp, "TIFF"))
    at = inverted.index(struct.pack("<HHI", 262, 3, 1)) + 8
    inverted[at] = 0  # photometric: white is zero
    for data in (saved(ramp), saved(ramp, "TIFF"), pgm(ramp)):
        assert np.array_equal(decode(data, 1)[:, :, 0], want)
        assert np.array_equal(decode(data, 3), np.repeat(want[:, :, None], 3, 2))
    assert np.array_equal(decode(bytes(inverted), 1)[:, :, 0], ((65535 - ramp) >> 8).astype(np.uint8))


def test_sixteen_bit_colour_png_follows_the_same_rule() -> None:
    values = np.linspace(0, 65535, 2 * 3 * 3).astype(np.uint16).reshape(2, 3, 3)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(decode(data), (values >> 8).astype(np.uint8))


def test_alpha_lies_on_white() -> None:
    alpha = np.zeros((6, 8), np.uint8)
    alpha[:, 4:] = 255
    alpha[:, 3] = 128
    got = decode(saved(np.dstack([COLOUR, alpha])))
    assert (got[:, :3] == 255).all() and np.array_equal(got[:, 4:], COLOUR[:, 4:])
    half = COLOUR[:, 3] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(got[:, 3] - half).max() <= 1
    grey = decode(saved(np.dstack([RAMP, alpha])), 1)
    assert (grey[:, :3] == 255).all() and np.array_equal(grey[:, 4:, 0], RAMP[:, 4:])
    palette = Image.fromarray(COLOUR).quantize(8)
    clear = int(np.array(palette)[0, 0])
    got = decode(saved(palette, transparency=clear))
    assert (got[np.array(palette) == clear] == 255).all()
    rest = np.array(palette) != clear
    assert np.array_equal(got[rest], np.array(palette.convert("RGB"))[rest])


def test_palette_bilevel_and_cmyk() -> None:
    palette = Image.fromarray(COLOUR).quantize(16)
    assert np.array_equal(decode(saved(palette)), np.array(palette.convert("RGB")))
    assert np.array_equal(decode(saved(RAMP > 99), 1)[:, :, 0], np.where(RAMP > 99, 255, 0))
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for data in (saved(red, "JPEG", quality=95), saved(red, "TIFF")):
        assert np.abs(decode(data).astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_many(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:])
    assert np.abs(decode(data).astype(int) - (255, 0, 0)).max() <= 3


def test_one_pixel_and_a_line() -> None:
    assert decode(saved(COLOUR[:1, :1])).shape == (1, 1, 3)
    assert decode(saved(np.zeros((1, 10_000), np.uint8))).shape == (1, 10_000, 3)


def header_of_a_giant() -> bytes:
    data = bytearray(saved(COLOUR))
    data[16:24] = struct.pack(">II", 20_000, 10_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>not found</html>", "an HTML page"),
        (b"\n<html><body>", "an HTML page"),
        (b"\0\5\x16\7" + bytes(100), "AppleDouble"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"hello, this is text", "text"),
        (bytes(1000), "zero bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "PostScript"),
        (saved(COLOUR, "JPEG")[:400], "JPEG"),
        (saved(np.tile(COLOUR, (20, 20, 1)), "JPEG")[:-900], "truncated"),
        (saved(np.tile(COLOUR, (20, 20, 1)))[:-200], "PNG"),
        (saved(COLOUR)[:40], "PNG"),
        (header_of_a_giant(), "pixels"),
        (saved(np.zeros((4, 4), np.float32), "TIFF"), "float"),
        (saved(np.zeros((4, 4), np.int32), "TIFF"), "32-bit"),
    ],
)
def test_refused_by_name_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=r"cat/7\.jpg") as caught:
        decode(data, 3, "cat/7.jpg")
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on damaged tags
def test_random_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"):
        whole = saved(COLOUR, format)
        for _ in range(40):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(256)
            try:
                decode(bytes(data[: rng.integers(1, len(data) + 1)]))
            except BadInput as error:
                assert "\n" not in str(error)


def test_kind_goes_by_bytes() -> None:
    assert kind_of(saved(COLOUR)) == "a PNG picture" and kind_of(b"\x07\x99\xab" * 9) == "unknown bytes"
    assert np.array_equal(decode(saved(COLOUR), 3, "named.jpg"), COLOUR)
    with pytest.raises(BadInput, match="channels"):
        decode(saved(COLOUR), 4)
