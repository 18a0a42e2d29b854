"""Every odd file that we know of, made here for real, decodes to known pixels or is refused by name in one line."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import odd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tessella.data.pixels import jpeg, png
from tessella.data.pixels.decode import PIXEL_CAP, Header, decode, header, kind_of
from tessella.data.pixels.sniff import exif_turn
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


def test_kind_goes_by_bytes() -> None:
    assert kind_of(saved(COLOUR)) == "a PNG picture" and kind_of(b"\x07\x99\xab" * 9) == "unknown bytes"
    assert kind_of(odd.heic(odd.COLOUR)) == "a HEIC picture" and kind_of(saved(COLOUR, "AVIF")) == "an AVIF picture"
    assert kind_of(b"P1 4 4 0 0") == "a PPM picture" and kind_of(b"P100 is a motorway") == "text"
    assert kind_of(b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(9)) == "a video"
    assert np.array_equal(decode(saved(COLOUR), 3, "named.jpg"), COLOUR)


# ---------------------------------------------------------------- JPEG


def jpeg_of(height: int, width: int, **options: Any) -> bytes:
    rng = np.random.default_rng(height * 1000 + width)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return saved(small.resize((width, height), Image.Resampling.BICUBIC), "JPEG", quality=90, **options)


sides = st.integers(1, 150)


@settings(max_examples=300, deadline=None)
@example(3, 3, 0, False, (1, 1), 1)  # 3/8 and 1/2 of it have one size
@example(3, 8, 0, False, (1, 1), 1)
@given(sides, sides, st.sampled_from([0, 1, 2]), st.booleans(), st.none() | st.tuples(sides, sides), st.integers(1, 8))
def test_scaled_decoding_is_what_pillow_does(
    height: int, width: int, sampling: int, progressive: bool, least: tuple[int, int] | None, turn: int
) -> None:
    """Scales are powers of two only, so that a program without simplejpeg can follow the card, bit for bit."""
    data = jpeg_of(height, width, subsampling=sampling, progressive=progressive, exif=odd.exif(turn))
    got = decode(data, least=least)
    image = Image.open(io.BytesIO(data))
    if least is not None and max(image.size) >= 8:
        image.draft(None, (least[1], least[0]) if turn < 5 else least)  # type: ignore[arg-type]
    assert np.array_equal(got, np.array(ImageOps.exif_transpose(image)))
    head = header(data)
    assert head[:6] == (*((height, width) if turn < 5 else (width, height)), turn, "JPEG", 3, 8)
    for have, whole, asked in zip(got.shape, head[:2], least or head[:2], strict=False):
        assert have >= min(asked, whole)


def test_the_smallest_scale_is_taken_and_no_smaller() -> None:
    data = jpeg_of(808, 1600)
    for least, side in [
        ((101, 200), 101),
        ((101, 201), 202),
        ((102, 200), 202),
        ((202, 1), 202),
        ((203, 1), 404),
        ((1, 801), 808),
    ]:
        assert decode(data, least=least).shape[0] == side, least
    assert decode(data, least=(5000, 5000)).shape == decode(data).shape == (808, 1600, 3)
    assert decode(data, 1, least=(101, 200)).shape == (101, 200, 1)
    assert decode(saved(COLOUR), least=(1, 1)).shape == COLOUR.shape, "other formats are decoded whole"


def test_real_photos_equal_pillow(shared_data: Path) -> None:
    """Each of 250 photos of ImageNet, some of them odd, and its header."""
    with tarfile.open(shared_data / "imagenet250" / "imagenet-sample-250.tar") as tar:
        members = [m for m in tar.getmembers() if m.name.lower().endswith(("jpg", "jpeg"))]
        assert len(members) == 250
        for member in members:
            data = tar.extractfile(member).read()  # type: ignore[union-attr]
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            head = header(data, member.name)
            assert (head.width, head.height) == image.size
            assert np.array_equal(decode(data, 3, member.name), np.array(image.convert("RGB"))), member.name


NOISE = odd.wide(quality=95)  # 120 x 160


def test_every_cut_of_a_jpeg_is_refused() -> None:
    """Pillow takes many of these in parts; none may pass, of neither process, with or without restart marks."""
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = odd.wide(quality=95, **options)
        whole = decode(data)
        for end in [*range(2, 700, 23), *np.linspace(700, len(data) - 3, 60).astype(int).tolist()]:
            with pytest.raises(BadInput, match=r"damaged|cannot be read"):
                decode(data[:end])
            with pytest.raises(BadInput):
                decode(data[:end], least=(30, 40))
        if "progressive" not in options:
            assert np.array_equal(decode(data[:-2]), whole), "only the end mark is missing: some cameras leave it out"


def test_damage_that_the_codec_notices_is_refused() -> None:
    """A code that does not exist, a mark in the middle. What is left over before the end mark cannot be judged: many
    programs write some bytes too many there."""
    data = odd.wide(quality=75)
    start, silent = data.index(b"\xff\xda") + 14, 0
    for damage in (b"\xff\0" * 10, b"\xff\xd9", b"\xff\xd0", b"\xff\x01"):
        for at in range(start, len(data) - 60, 397):
            damaged = data[:at] + damage + data[at + len(damage) :]
            with pytest.raises(BadInput, match="JPEG"):
                decode(damaged)
            with contextlib.suppress(OSError):
                Image.open(io.BytesIO(damaged)).load()
                silent += 1
    assert silent > 10, "the mutation: Pillow's decoder says nothing"


def test_what_a_jpeg_lacks_is_said() -> None:
    for data, words in [
        (NOISE[:2] + b"\xff\xd9", "header ends"),
        (NOISE.replace(b"\xff\xc0\0\x11\x08\0\x78", b"\xff\xc0\0\x11\x08\0\0"), "160 x 0 pixels"),
        (NOISE.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "a kind that is not read"),
    ]:
        with pytest.raises(BadInput, match=words):
            decode(data)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["<", ">"]),
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(1, 12), st.integers(0, 0xFFFFFFFF)), max_size=4),
    st.integers(0, 12),
    st.sampled_from([1, 3, 4]),
)
def test_orientation_is_read_as_pillow_reads_it(
    order: str, others: list[tuple[int, int, int]], turn: int, kind: int
) -> None:
    entries = [struct.pack(order + "HHII", tag, k, 1, v) for tag, k, v in others if tag not in (0x112, 0x8769, 0x8825)]
    value = {1: struct.pack("Bxxx", turn), 3: struct.pack(order + "Hxx", turn), 4: struct.pack(order + "I", turn)}[kind]
    entries.insert(len(entries) // 2, struct.pack(order + "HHI", 0x112, kind, 1) + value)
    block = (
        {"<": b"II*\0", ">": b"MM\0*"}[order]
        + struct.pack(order + "IH", 8, len(entries))
        + b"".join(entries)
        + bytes(4)
    )
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + block)
    said: Any = turn
    with contextlib.suppress(Exception):  # it trips over other tags that are no EXIF
        said = exif.get(0x112)
    said = said[0] if isinstance(said, bytes) else said
    want = turn if 1 <= turn <= 8 else 1
    assert said in (None, turn), "None: it gave up at one of the others"
    assert exif_turn(block) == want
    for cut in range(len(block)):
        assert exif_turn(block[:cut]) in (None, want)


def test_a_header_costs_no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: what lies in a header agrees with what Pillow says of these bytes."""
    for file in odd.odd_files():
        head = header(file.data, file.name)
        if head.format not in ("NPY", "HEIF", "TIFF"):
            with Image.open(io.BytesIO(file.data)) as image:
                size = image.size if head.turn < 5 else image.size[::-1]
                assert (head.width, head.height) == size and head.format == image.format.replace("MPO", "JPEG")  # type: ignore[union-attr]
                assert head.frames == getattr(image, "n_frames", 1), file.name
    monkeypatch.setattr(jpeg, "pixels", None)
    assert header(NOISE) == Header(120, 160, 1, "JPEG", 3, 8, 1)
    assert header(NOISE[:700]).width == 160, "nothing behind the header is needed"


# ---------------------------------------------------------------- channels and depth


def test_channels_are_those_asked_for_or_the_file_is_refused() -> None:
    rgba = np.dstack([COLOUR, RAMP])
    assert np.array_equal(decode(saved(rgba), 4), rgba)
    assert np.array_equal(decode(saved(np.dstack([RAMP, RAMP])), 2), np.dstack([RAMP, RAMP]))
    bands = np.dstack([rgba, RAMP])
    assert np.array_equal(decode(odd.npy(bands), 5), bands)
    for data, channels, has in [
        (NOISE, 4, "3 channels, and 4"),
        (saved(RAMP), 2, "1 channel, and 2"),
        (saved(rgba), 5, r"4 channels \(the last is transparency\), and 5"),
        (odd.npy(bands), 3, "5 channels, and 3"),
        (odd.npy(rgba), 3, "4 channels, and 3"),  # nothing says that the fourth is transparency
        (saved(Image.new("CMYK", (9, 9)), "JPEG"), 4, "3 channels, and 4"),
    ]:
        with pytest.raises(BadInput, match=rf"^x has {has} are asked for; set preprocess.channels to \d$"):
            decode(data, channels, "x")
    with pytest.raises(BadInput, match="1 channel or more, not 0"):
        decode(NOISE, 0)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sixteen_bit_png_equals_libpng(colour: int, channels: int, interlaced: bool) -> None:
    from torchvision.io import ImageReadMode, decode_png

    for size in ((1, 1), (3, 2), (17, 23)):
        values = np.random.default_rng(0).integers(0, 65536, (*size, channels)).astype(np.uint16)
        data = odd.png(values, colour, interlaced=interlaced)
        libpng = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
        assert np.array_equal(png.sixteen(data), libpng.permute(1, 2, 0).numpy()) and np.array_equal(
            png.sixteen(data), values
        )
        assert np.array_equal(decode(data, channels, depth="uint16"), values)


def test_one_scale_at_every_depth() -> None:
    """Black is black and white is white, whatever the file's bits and the network's."""
    ramp = np.array([[0, 1, 128, 254, 255]], np.uint8)
    deep = ramp.astype(np.uint16) * 257
    for data in (saved(ramp), saved(deep), saved(deep, "TIFF"), odd.npy(ramp), odd.npy(deep), pgm(deep)):
        assert np.array_equal(decode(data, 1, depth="uint8")[:, :, 0], ramp)
        assert np.array_equal(decode(data, 1, depth="uint16")[:, :, 0], deep)
        assert np.allclose(decode(data, 1, depth="float32")[:, :, 0], ramp / 255, atol=1e-7)
    twelve = np.array([[0, 1, 2048, 4095]], np.uint16)
    packed = np.packbits(np.unpackbits(twelve.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:])
    data = odd.tiff(packed.tobytes(), {256: 4, 257: 1, 278: 1, 258: 12, 262: 1})
    assert decode(data, 1, depth="uint16").ravel().tolist() == [0, 16, 32776, 65535]
    assert decode(data, 1, depth="float32").max() == 1.0 and decode(data, 1).max() == 255


def test_limits_are_black_and_white_of_all_that_is_deeper_than_8_bits() -> None:
    low, high = -1000.0, 3000.0
    numbers = np.array([[-2000, -1000, 0, 1000, 3000, 9999]])
    share = np.clip((numbers - low) / (high - low), 0, 1)
    for kind in (np.int16, np.int32, np.float32, np.float64):
        for data in (odd.npy(numbers.astype(kind)), odd.by_tifffile(numbers.astype(kind))):
            assert np.array_equal(decode(data, 1, limits=(low, high))[0, :, 0], np.rint(share[0] * 255))
            got = decode(data, 1, depth="uint16", limits=(low, high))[0, :, 0]
            assert np.array_equal(got, np.rint(share[0] * 65535))
            assert np.array_equal(decode(data, 1, depth="float32")[0, :, 0], numbers[0]), "as they are, not clipped"
            with pytest.raises(BadInput, match=r"range is not known; set preprocess\.limits"):
                decode(data, 1)
    twelve_in_sixteen = np.array([[0, 2048, 4095]], np.uint16)
    assert decode(saved(twelve_in_sixteen), 1, limits=(0.0, 4095.0)).ravel().tolist() == [0, 128, 255]
    eight = np.array([[0, 51, 255]], np.uint8)
    for data in (saved(eight), odd.npy(eight), odd.by_tifffile(eight)):
        assert decode(data, 1, limits=(low, high)).ravel().tolist() == [0, 51, 255]
        assert decode(data, 1, depth="float32", limits=(low, high)).ravel().tolist() == [-1000.0, -200.0, 3000.0]


def test_numbers_that_are_none_are_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(BadInput, match=r"^x holds numbers that are not finite"):
            decode(odd.npy(np.array([[0.0, bad]])), 1, "x", limits=(0.0, 1.0))
    with pytest.raises(BadInput, match="32-bit floats"):
        decode(odd.npy(np.array([[1e300]])), 1, depth="float32")


def test_alpha_lies_on_white_at_every_depth() -> None:
    alpha = np.zeros((6, 8, 1), np.uint16)
    alpha[:, 4:] = 65535
    values = COLOUR.astype(np.uint16) * 257
    data = odd.png(np.dstack([values, alpha]), 6)
    got = decode(data, depth="uint16")
    assert (got[:, :4] == 65535).all() and np.array_equal(got[:, 4:], values[:, 4:])
    assert np.array_equal(decode(data, 4, depth="uint16"), np.dstack([values, alpha]))
    assert (decode(data, limits=(0.0, 1000.0))[:, :4] == 255).all(), "white is the upper limit"
    grey = decode(data, 1, depth="uint16").astype(int)
    assert np.abs((grey >> 8) - decode(data, 1)).max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_colours_that_were_mixed_with_their_transparency(kind: type) -> None:
    """TIFF's associated alpha: half red is stored as half of it."""
    full = np.iinfo(kind).max
    pixels = np.array([[[full // 2, 0, 0, full // 2], [0, 0, 0, 0], [full, full, full, full]]], kind)
    data = odd.by_tifffile(pixels, photometric="rgb", extrasamples=(1,))
    assert np.abs(decode(data)[0].astype(int) - [(255, 128, 128), (255, 255, 255), (255, 255, 255)]).max() <= 1
    assert decode(data, 4)[0, 0].tolist() == [255, 0, 0, 127]


def test_forms_of_tiff_that_no_reader_here_has_right_are_refused() -> None:
    sixteen = np.zeros((4, 4, 4), np.uint16)
    for data in (
        odd.by_tifffile(sixteen, photometric="separated"),
        odd.tiff(bytes(48 * 32 * 5 // 2), {258: (4,) * 5, 262: 1, 277: 5}),
        odd.tiff(bytes(48 * 32 * 6), {258: (8, 8, 16), 262: 2, 277: 3}),
    ):
        channels = header(data).channels
        with pytest.raises(BadInput, match=r"^x is a TIFF picture in a form that is not read .*bits per channel"):
            decode(data, channels, "x")


def test_a_missing_chunk_of_pixels_is_no_picture() -> None:
    """All checksums agree, and the end is there."""
    whole = odd.png(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8), 2)
    (start, end) = next((a, b) for name, a, b in png.chunks(whole) if name == b"IDAT")
    data = whole[: start - 8] + odd.chunk(b"IDAT", whole[start : (start + end) // 2]) + whole[end + 4 :]
    for pixels in (data, data[:-12]):
        with pytest.raises(BadInput, match=r"truncated|damaged"):
            decode(pixels)
    assert decode(whole).shape == (40, 40, 3) == decode(whole[:-12]).shape


@pytest.mark.parametrize("module", ["tifffile", "pillow_heif"])
def test_a_missing_extra_says_what_mends_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (
        odd.heic(odd.COLOUR)
        if module == "pillow_heif"
        else odd.by_tifffile(np.zeros((9, 9, 5), np.uint8), planarconfig="contig")
    )
    extra, channels = {"tifffile": ("tiff", 5), "pillow_heif": ("heif", 3)}[module]
    decode(data, channels)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInput, match=rf'^x is a .* needs .*: pip install "tessella\[{extra}\]"$'):
        decode(data, channels, "x")
    decode(odd.by_tifffile(odd.COLOUR, photometric="rgb"))  # what Pillow reads needs no extra


def test_caps_hold_before_anything_is_decoded() -> None:
    side = int(PIXEL_CAP**0.5) + 1
    for data in (
        odd.npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4), }", f"({side}, {side}), }}".encode()),
        odd.tiff(b"", {256: side, 257: side}),
        b"P5 %d %d 255\n" % (side, side),
        odd.npy(np.zeros((4, 4, 4), np.uint8)).replace(b"(4, 4, 4), }", b"(9999, 9999, 99), }"),
    ):
        for look in (header, decode):
            with pytest.raises(BadInput, match=r"^the picture has .*more than [\d,]+( pixels)?; scale it down"):
                look(data)


# ---------------------------------------------------------------- damage

FILES = [(f.name, f.data, f.want.shape[2], f.depth, f.limits) for f in odd.odd_files()]


@pytest.mark.filterwarnings("ignore")  # Pillow on damaged tags
@settings(max_examples=700, deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_random_damage_is_refused_in_one_line_or_gives_the_shape_of_the_header(file: Any, draw: st.DataObject) -> None:
    name, whole, channels, depth, limits = file
    data = bytearray(whole)
    places = st.integers(0, len(data) - 1)
    for at, value in draw.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        data[at] = value
    start, end = sorted(draw.draw(st.tuples(places, places)))
    how = draw.draw(st.sampled_from(["whole", "cut", "hole"]))
    damaged = {"whole": bytes(data), "cut": bytes(data[:end]), "hole": bytes(data[:start] + data[end:])}[how]
    try:
        head = header(damaged, name)
        if head.height * head.width > 1 << 20:
            return  # right, but it takes seconds
        pixels = decode(damaged, channels, name, depth=depth, limits=limits)
    except BadInput as error:
        assert "\n" not in str(error) and str(error).startswith(name + " ")
        return
    assert pixels.shape == (head.height, head.width, channels) and str(pixels.dtype) == depth
