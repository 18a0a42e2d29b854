"""Odd picture files that are right, with the pixels they must give, and broken ones, with what must be said of them.

What a file must give is known from how it is made here, never from a decoder: the picture that went in, within `near`
where the codec is lossy. All but the smallest are one picture of 32 x 48, smooth enough for any codec, and different in
each of its eight orientations.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pillow_heif
import simplejpeg
import tifffile
from PIL import Image

from tessella.card import Preprocess

Array = np.ndarray[Any, np.dtype[Any]]
SIZE = (32, 48)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]
COLOUR = np.stack([40 + 4 * X, 30 + 5 * Y, 220 - 2 * X - 2 * Y], 2).astype(np.uint8)
GREY = COLOUR[:, :, :1]
DEEP = (COLOUR.astype(np.uint16) << 8) + 250  # the high byte is the picture; rounding or saturating would show
OTHER = 255 - COLOUR  # what stands where it must not be seen: second frames, transparent pixels


@dataclass(frozen=True)
class Odd:
    name: str
    data: bytes
    want: Array  # (H, W, C)
    near: int = 0  # largest difference that the codec may make, of 255
    depth: Literal["uint8", "uint16", "float32"] = "uint8"
    limits: tuple[float, float] | None = None

    @property
    def card(self) -> Preprocess:
        """One that changes nothing but the form."""
        channels = self.want.shape[2]
        half = (0.5,) * channels
        return Preprocess(
            size=SIZE,
            mean=half,
            std=half,
            channels=channels,
            depth=self.depth,
            limits=self.limits,
            interpolation="bilinear",
        )


def saved(image: Image.Image | Array, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    image.save(file, format, **options)
    return file.getvalue()


def turned(pixels: Array, turn: int) -> Array:
    """As a camera that was held in one of eight ways stores the upright picture."""
    pixels = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[::-1],
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: pixels.transpose(1, 0, 2)[:, ::-1],
    }[turn]
    return np.ascontiguousarray(pixels)


def exif(turn: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = turn
    return block.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values: Array, colour: int, *, before: bytes = b"", after: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of 8 or 16 bits written by hand, a filter of another kind in each row."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    body = b"".join(_filtered(values[y::dy, x::dx]) for y, x, dy, dx in passes)
    height, width = values.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour, 0, 0, interlaced)
    parts = chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(body)) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _filtered(values: Array) -> bytes:
    if not values.size:
        return b""
    step = values.shape[2] * values.itemsize
    above = np.zeros(values.shape[1] * step, int)
    out = b""
    for number, row in enumerate(values):
        now = np.frombuffer(row.astype(row.dtype.newbyteorder(">")).tobytes(), np.uint8).astype(int)
        left, corner = (np.r_[np.zeros(step, int), v[:-step]] for v in (now, above))
        guess = left + above - corner
        a, b, c = abs(guess - left), abs(guess - above), abs(guess - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        kind = number % 5
        guessed = (0 * now, left, above, (left + above) // 2, paeth)[kind]
        out += bytes([kind]) + ((now - guessed) % 256).astype(np.uint8).tobytes()
        above = now
    return out


def tiff(values: bytes, tags: dict[int, int | tuple[int, ...]]) -> bytes:
    """Uncompressed, one strip; tags as numbers of 16 bits, or of 32 where they need it."""
    full: dict[int, int | tuple[int, ...]] = {
        256: SIZE[1],
        257: SIZE[0],
        259: 1,
        277: 1,
        278: SIZE[0],
        279: len(values),
    }
    full |= tags | {273: 8}
    out = struct.pack("<2sHI", b"II", 42, 8 + len(values)) + values
    extra, entries = b"", b""
    behind = len(out) + 2 + 12 * len(full) + 4
    for tag, value in sorted(full.items()):
        many = value if isinstance(value, tuple) else (value,)
        if len(many) > 2:
            entries += struct.pack("<HHII", tag, 3, len(many), behind + len(extra))
            extra += struct.pack(f"<{len(many)}H", *many)
        elif len(many) == 2:
            entries += struct.pack("<HHIHH", tag, 3, 2, *many)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, many[0])
    return out + struct.pack("<H", len(full)) + entries + bytes(4) + extra


def npy(values: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


def by_tifffile(values: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def inks(colour: Array) -> Array:
    """Without black, so that every formula gives the colour back."""
    return np.ascontiguousarray(np.dstack([255 - colour, np.zeros(colour.shape[:2], np.uint8)]))


def heic(image: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(image)).save(file, quality=-1, **options)
    return file.getvalue()


def odd_files() -> list[Odd]:
    return [*_jpegs(), *_pngs(), *_animations(), *_tiffs(), *_others(), *_deep()]


def _jpegs() -> Iterator[Odd]:
    for turn in range(1, 9):
        yield Odd(
            f"turn{turn}.jpg",
            saved(turned(COLOUR, turn), "JPEG", quality=98, subsampling=0, exif=exif(turn)),
            COLOUR,
            4,
        )
    for sampling in ("444", "422", "420", "440", "411"):
        yield Odd(f"{sampling}.jpg", simplejpeg.encode_jpeg(COLOUR, 98, "RGB", sampling), COLOUR, 9)
    best: dict[str, Any] = {"quality": 98, "subsampling": 0}
    plain = saved(COLOUR, "JPEG", **best)
    yield Odd("progressive.jpg", saved(COLOUR, "JPEG", progressive=True, **best), COLOUR, 4)
    yield Odd("restarts.jpg", saved(COLOUR, "JPEG", restart_marker_blocks=2, **best), COLOUR, 4)
    yield Odd("profile.jpg", saved(COLOUR, "JPEG", icc_profile=b"a profile" * 99, **best), COLOUR, 4)
    yield Odd("adobe.jpg", saved(COLOUR, "JPEG", keep_rgb=True, **best), COLOUR, 4)
    yield Odd("cmyk.jpg", saved(Image.frombytes("CMYK", SIZE[::-1], inks(COLOUR).tobytes()), "JPEG", **best), COLOUR, 5)
    yield Odd("ycck.jpg", simplejpeg.encode_jpeg(255 - inks(COLOUR), 98, "CMYK", "444"), COLOUR, 5)
    yield Odd("grey.jpg", saved(GREY, "JPEG", quality=98), np.repeat(GREY, 3, 2), 4)
    yield Odd("trailing.jpg", plain + b"appended by a camera" * 20, COLOUR, 4)
    yield Odd("unended.jpg", plain.removesuffix(b"\xff\xd9"), COLOUR, 4)
    yield Odd("extraneous.jpg", plain[:-2] + b"\0\0\0\xff\xd9", COLOUR, 4)
    yield Odd("litter.jpg", plain[:20] + b"\0\0\0" + plain[20:], COLOUR, 4)
    yield Odd("xmp.jpg", _with_xmp(saved(turned(COLOUR, 6), "JPEG", **best), 6), COLOUR, 4)


def _with_xmp(jpeg: bytes, turn: int) -> bytes:
    body = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % turn
    return jpeg[:2] + struct.pack(">HH", 0xFFE1, 2 + len(body)) + body + jpeg[2:]


def _pngs() -> Iterator[Odd]:
    left = np.zeros(SIZE, np.uint8)
    left[:, 20:] = 255
    on_white = np.where(left[:, :, None] > 0, COLOUR, 255).astype(np.uint8)
    grey_on_white = np.repeat(np.where(left[:, :, None] > 0, GREY, 255).astype(np.uint8), 3, 2)
    half = np.where(left[:, :, None] > 0, COLOUR, (COLOUR.astype(int) * 128 + 255 * 127) // 255).astype(np.uint8)
    few = np.repeat(np.where(X[:, :, None] < 20, 10, 200).astype(np.uint8), 3, 2)
    two = Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    clear = int(np.array(two)[0, 0])
    yield Odd("really_a_png.jpg", saved(COLOUR), COLOUR)
    yield Odd("interlaced.png", png(COLOUR, 2, interlaced=True), COLOUR)
    yield Odd("palette.png", saved(two), few)
    yield Odd("palette_clear.png", saved(two, transparency=clear), np.where(few == 10, 255, few).astype(np.uint8))
    yield Odd("bilevel.png", saved(Image.fromarray(X < 20)), np.repeat(np.where(X[:, :, None] < 20, 255, 0), 3, 2))
    yield Odd("grey.png", saved(GREY), np.repeat(GREY, 3, 2))
    yield Odd("grey_alpha.png", saved(np.dstack([GREY, left])), grey_on_white)
    yield Odd("alpha.png", saved(np.dstack([np.where(left[:, :, None] > 0, COLOUR, OTHER), left])), on_white)
    yield Odd("half_alpha.png", saved(np.dstack([COLOUR, np.where(left > 0, 255, 128).astype(np.uint8)])), half, 1)
    yield Odd("sixteen.png", png(DEEP[:, :, :1], 0), np.repeat(GREY, 3, 2))
    yield Odd("sixteen_colour.png", png(DEEP, 2), COLOUR)
    yield Odd("sixteen_interlaced.png", png(DEEP, 2, interlaced=True), COLOUR)
    yield Odd("sixteen_alpha.png", png(np.dstack([DEEP, left.astype(np.uint16) * 257]), 6), on_white)
    key = chunk(b"tRNS", DEEP[0, 0].astype(">u2").tobytes())
    keyed = COLOUR.copy()
    keyed[0, 0] = 255
    yield Odd("sixteen_key.png", png(DEEP, 2, before=key), keyed)
    late = chunk(b"eXIf", exif(8).removeprefix(b"Exif\0\0"))
    yield Odd("turned_late.png", png(turned(COLOUR, 8), 2, after=late), COLOUR)


def _animations() -> Iterator[Odd]:
    frames = [Image.fromarray(f) for f in (COLOUR, OTHER, OTHER)]
    rest: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    flat = np.where(X[:, :, None] < 20, np.uint8(10), np.uint8(200)).repeat(3, 2)
    steps = [Image.fromarray(f).quantize(2) for f in (flat, 255 - flat)]
    yield Odd("animated.png", saved(frames[0], "PNG", **rest), COLOUR)
    yield Odd("animated.webp", saved(frames[0], "WEBP", lossless=True, **rest), COLOUR)
    yield Odd("animated.gif", saved(steps[0], "GIF", save_all=True, append_images=steps[1:]), flat)
    yield Odd("animated.avif", saved(frames[0], "AVIF", quality=95, subsampling="4:4:4", **rest), COLOUR, 8)
    yield Odd("pages.tif", saved(frames[0], "TIFF", **rest), COLOUR)


def _tiffs() -> Iterator[Odd]:
    grey = np.repeat(GREY, 3, 2)
    padded = (GREY.astype(np.uint16) << 4 | 15).astype(">u2")
    twelve = np.unpackbits(padded.view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    yield Odd("turned.tif", saved(turned(COLOUR, 5), "TIFF", exif=_exif_object(5)), COLOUR)
    yield Odd("lzw.tif", saved(COLOUR, "TIFF", compression="tiff_lzw"), COLOUR)
    yield Odd("inks.tif", saved(Image.frombytes("CMYK", SIZE[::-1], inks(COLOUR).tobytes()), "TIFF"), COLOUR)
    yield Odd("sixteen.tif", saved(DEEP[:, :, 0], "TIFF"), grey)
    yield Odd("twelve.tif", tiff(np.packbits(twelve).tobytes(), {258: 12, 262: 1}), grey)
    yield Odd("white_is_zero.tif", tiff((65535 - DEEP[:, :, 0]).astype("<u2").tobytes(), {258: 16, 262: 0}), grey)
    yield Odd("sixteen_colour.tif", by_tifffile(DEEP, photometric="rgb"), COLOUR)
    yield Odd("planes.tif", by_tifffile(np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate"), COLOUR)
    yield Odd("big.tif", by_tifffile(COLOUR, photometric="rgb", bigtiff=True), COLOUR)
    floats = (COLOUR / 255 * 300 - 100).astype(np.float32)
    yield Odd("floats.tif", by_tifffile(floats, photometric="rgb"), COLOUR, limits=(-100.0, 200.0))


def _exif_object(turn: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = turn
    return block


def _others() -> Iterator[Odd]:
    grey = np.repeat(GREY, 3, 2)
    flat = np.full((*SIZE, 3), (200, 30, 90), np.uint8)
    yield Odd("plain.bmp", saved(COLOUR, "BMP"), COLOUR)
    yield Odd("plain.ppm", saved(COLOUR, "PPM"), COLOUR)
    yield Odd("sixteen.pgm", b"P5 # grey\n48 32 65535\n" + DEEP[:, :, 0].astype(">u2").tobytes(), grey)
    yield Odd("sixteen.ppm", b"P6 48 32 65535\n" + DEEP.astype(">u2").tobytes(), COLOUR)
    yield Odd("plain.avif", saved(COLOUR, "AVIF", quality=95, subsampling="4:4:4"), COLOUR, 8)
    yield Odd("turned.avif", saved(turned(COLOUR, 6), "AVIF", quality=95, subsampling="4:4:4", exif=exif(6)), COLOUR, 8)
    yield Odd("plain.heic", heic(COLOUR, chroma=444), COLOUR, 8)
    yield Odd("turned.heic", heic(turned(COLOUR, 6), chroma=444, exif=exif(6)), COLOUR, 8)
    yield Odd("lossy.webp", saved(COLOUR, "WEBP", quality=100), COLOUR, 12)
    yield Odd("pixel.png", saved(flat[:1, :1]), flat)
    yield Odd("line.png", saved(np.repeat(flat[:1, :1], 10_000, 1)), flat)
    yield Odd("column.bmp", saved(np.repeat(flat[:1, :1], 10_000, 0), "BMP"), flat)
    yield Odd("grey.npy", npy(GREY[:, :, 0]), grey)
    yield Odd("fortran.npy", npy(np.asfortranarray(COLOUR)), COLOUR)
    yield Odd("bits.npy", npy(X < 20), np.repeat(np.where(X[:, :, None] < 20, 255, 0), 3, 2))


def _deep() -> Iterator[Odd]:
    """What is more than three channels of 8 bits, and asked for as such."""
    left = np.where(X[:, :, None] < 20, 0, 255).astype(np.uint8)
    thirteen = np.stack([COLOUR[:, :, c % 3] ^ np.uint8(c) for c in range(13)], 2)
    low = (Y[:, :, None] * 100 - 2000 + X[:, :, None]).astype(np.int16)
    yield Odd("alpha_kept.png", saved(np.dstack([COLOUR, left])), np.dstack([COLOUR, left]))
    yield Odd("four.tif", by_tifffile(thirteen[:, :, :4], photometric="rgb", extrasamples=(0,)), thirteen[:, :, :4])
    bands = np.moveaxis(thirteen, 2, 0)
    yield Odd("five.tif", by_tifffile(bands[:5], photometric="minisblack", planarconfig="separate"), thirteen[:, :, :5])
    yield Odd("thirteen.tif", by_tifffile(thirteen, photometric="minisblack", planarconfig="contig"), thirteen)
    yield Odd("thirteen.npy", npy(thirteen), thirteen)
    yield Odd("sixteen_kept.png", png(DEEP, 2), DEEP, depth="uint16")
    yield Odd("sixteen_kept.tif", by_tifffile(DEEP, photometric="rgb"), DEEP, depth="uint16")
    yield Odd("sixteen_kept.npy", npy(DEEP), DEEP, depth="uint16")
    yield Odd("eight_as_sixteen.png", saved(COLOUR), COLOUR.astype(np.uint16) * 257, depth="uint16")
    yield Odd(
        "signed.tif", by_tifffile(low[:, :, 0]), low.astype(np.float32), depth="float32", limits=(-3000.0, 3000.0)
    )
    yield Odd("signed.npy", npy(low), low.astype(np.float32), depth="float32", limits=(-3000.0, 3000.0))
    yield Odd("doubles.npy", npy(low / 7), (low / 7).astype(np.float32), depth="float32", limits=(-3000.0, 3000.0))


# ---------------------------------------------------------------- broken


def wide(format: str = "JPEG", **options: Any) -> bytes:
    """Something with enough inside to be cut."""
    noise = np.random.default_rng(0).integers(0, 40, (120, 160, 3), dtype=np.uint8)
    return saved(noise + 100, format, **options)


def giant() -> bytes:
    """A PNG whose header promises 200 megapixels, and whose data would unpack to them: a bomb."""
    rows = zlib.compress(bytes(1 << 22))
    head = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gigapixel() -> bytes:
    jpeg = bytearray(wide())
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(jpeg)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def broken_files() -> dict[str, tuple[bytes, str]]:
    """name -> (bytes, words that the one line must have)."""
    jpeg, whole = wide(), wide("PNG")
    cut: dict[str, Callable[[], bytes]] = {f"cut{k}.jpg": (lambda k=k: jpeg[: len(jpeg) * k // 8]) for k in range(1, 8)}
    found = {name: (make(), "a JPEG picture") for name, make in cut.items()}
    for format, words in (
        ("PNG", "PNG"),
        ("WEBP", "WebP"),
        ("GIF", "GIF"),
        ("BMP", "BMP"),
        ("TIFF", "TIFF"),
        ("PPM", "PPM"),
    ):
        data = wide(format)
        for k in (1, 4, 7):
            found[f"cut{k}.{format.lower()}"] = (data[: len(data) * k // 8], f"a {words} picture")
    for format, make in (("AVIF", lambda: wide("AVIF")), ("HEIC", lambda: heic(np.tile(COLOUR, (4, 4, 1))))):
        data = make()
        found[f"cut.{format.lower()}"] = (data[: len(data) // 2], format)
    scan = jpeg.index(b"\xff\xda") + 14
    found |= {
        "empty.jpg": (b"", "empty"),
        "zeros.jpg": (bytes(5000), "nothing but zero bytes"),
        "page.jpg": (b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        "._x.jpg": (b"\0\5\x16\7\0\2\0\0" + b"Mac OS X        " + bytes(60), "an AppleDouble file"),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        "text.png": (b"hello, this is a text and no picture", "text"),
        "drawing.png": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        "zip.png": (b"PK\3\4" + bytes(50), "a zip archive"),
        "video.heic": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(50), "a video"),
        "huffman.jpg": (jpeg[:scan] + b"\xfe\xfd" * 60 + jpeg[scan + 120 :], "a JPEG picture"),
        "progressive_cut.jpg": (wide(progressive=True)[:-400], "truncated"),
        "tables.jpg": (jpeg.replace(b"\xff\xdb", b"\xff\xfe"), "a JPEG picture"),
        "gigapixel.jpg": (gigapixel(), "60000 x 60000 pixels"),
        "bomb.png": (giant(), "20000 x 10000 pixels"),
        "checksum.png": (flipped(whole, len(whole) // 2), "a PNG picture"),
        "header.png": (flipped(whole, 30), "a PNG picture"),
        "pickle.npy": (npy(np.array([[{}]], object), allow_pickle=True), "numpy array of object"),
        "short.npy": (npy(COLOUR)[:-9], "a numpy array"),
        "vector.npy": (npy(GREY.ravel()), "shape (1536,)"),
        "huge.npy": (npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4), }", b"(99999, 9999), }"), "pixels, more than"),
        "floats.tif": (by_tifffile(np.zeros((4, 4), np.float32)), "preprocess.limits"),
        "seven.tif": (
            by_tifffile(np.zeros((32, 48, 7), np.uint8), planarconfig="contig"),
            "7 channels, and 3 are asked",
        ),
    }
    return found
