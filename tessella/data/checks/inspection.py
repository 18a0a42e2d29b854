"""Every picture of a source looked at once, by the loader's workers: size, kind, digests, a thumbnail, what is wrong.

What comes back is one row of plain numbers a picture (about 1.1 kB), so that a million of them fit on a small machine.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import BadInput
from ..loading.loader import cores_here, once
from ..loading.order import Key
from ..loading.quarantine import Quarantine
from ..loading.samples import Batch, Spot
from ..pixels import jpeg
from ..pixels.decode import Pixels, decode, header
from ..pixels.sniff import Header, kind_of
from ..source import Source
from .duplicates import SIDE, thumbnail

BATCH = 32  # pictures that a worker looks at before it reports
IN_MEMORY = 200_000  # rows; more of them go to a file without a name, which the system may move out of memory
LEAST = (
    512,
    512,
)  # larger JPEG pictures are decoded at 1/2, 1/4 or 1/8: all data is still read, at a third of the time

ROW = np.dtype(
    [
        ("seen", "?"),  # False: whoever decoded it died
        ("good", "?"),  # decodes to the end
        ("bytes", "<i8"),
        ("height", "<i4"),  # upright, as in the header; 0: no header
        ("width", "<i4"),
        ("turn", "u1"),  # EXIF orientation; 1: upright as stored
        ("bits", "u1"),
        ("channels", "<u2"),
        ("alpha", "?"),
        ("inks", "?"),  # CMYK or YCCK
        ("frames", "<i4"),
        ("format", "S8"),
        ("numbers", "S8"),  # uint, int, float
        ("file", "u1", (32,)),  # sha256 of the bytes
        ("pixels", "u1", (16,)),  # blake2b of what they decode to
        ("thumb", "u1", (SIDE, SIDE)),
    ]
)
Rows = NDArray[np.void]  # of ROW

FORMATS_OF = {  # what a suffix promises
    "JPEG": "jpg jpeg jpe jfif", "PNG": "png", "BMP": "bmp", "GIF": "gif", "WEBP": "webp", "TIFF": "tif tiff",
    "PPM": "ppm pgm pbm pnm", "AVIF": "avif", "HEIF": "heic heif", "NPY": "npy",
}  # fmt: skip
FORMAT_OF = {f".{suffix}": name for name, suffixes in FORMATS_OF.items() for suffix in suffixes.split()}


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found; `reasons` says for each picture that cannot be read why, `holds` what its bytes are."""

    source: Source
    rows: Rows
    reasons: dict[int, str]
    holds: dict[int, str]

    def __len__(self) -> int:
        return len(self.rows)

    def wrong_suffix(self) -> Iterator[tuple[int, str]]:
        """(row, what it really is) of pictures that are called after another format."""
        for i, name in enumerate(self.source.ids):
            promised = FORMAT_OF.get(os.path.splitext(name)[1].lower())
            real = bytes(self.rows["format"][i]).decode()
            if promised is not None and real and real != promised:
                yield i, real


def inspect(source: Source, workers: int | None = None, part: str = "all", rows: Rows | None = None) -> Inspection:
    """Decodes each picture once; memory does not grow with the size of the pictures. Nothing is written to the data.

    `rows`: where to put what is found, so that several parts can share one table.
    """
    rows = table(len(source)) if rows is None else rows
    reasons: dict[int, str] = {}
    holds: dict[int, str] = {}
    deadly = Quarantine(None, len(source), 1.0, part)  # only what kills a worker comes here: `Looks` raises nothing
    stream = once(Looks(source), BATCH, cores_here() if workers is None else workers, quarantine=deadly)
    try:
        for batch in stream:
            found: Rows = batch["row"].numpy().view(ROW)[:, 0] if len(batch["at"]) else rows[:0]
            rows[batch["at"].numpy()] = found
            for i, reason, held in batch["wrong"]:
                reasons[i], holds[i] = reason, held
    finally:
        stream.close()
    for i in np.flatnonzero(~rows["seen"]).tolist():
        reasons[i] = deadly.reasons.get(source.ids[i], "decoding it ended the process")
        holds[i] = "not known"
    return Inspection(source, rows, dict(sorted(reasons.items())), holds)


def look(data: bytes, name: str) -> Rows:
    """One row of a picture that decodes; BadInput says what is wrong."""
    row: Rows = np.zeros((), dtype=ROW)
    row["seen"], row["bytes"] = True, len(data)
    row["file"] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    head = header(data, name)
    row["height"], row["width"], row["turn"], row["bits"] = head.height, head.width, head.turn, head.bits
    row["channels"], row["alpha"], row["frames"] = head.channels, head.alpha, head.frames
    row["format"], row["numbers"] = head.format.encode(), head.numbers.encode()
    row["inks"] = head.format == "JPEG" and jpeg.frame(data).components == 4
    pixels = _decoded(data, head, name)
    digest = hashlib.blake2b(f"{head.height} {head.width} {pixels.shape} {pixels.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    row["pixels"] = np.frombuffer(digest.digest(), np.uint8)
    row["thumb"] = thumbnail(_eight_bits(pixels))
    row["good"] = True
    return row


@dataclass(frozen=True, eq=False)
class Looks:
    """A source as the loader takes it; a sample is a row of ROW, or what is wrong with the file."""

    source: Source

    @property
    def labels(self) -> None:
        return None

    @property
    def chunks(self) -> NDArray[np.int64] | None:
        return self.source.chunks

    @property
    def paired(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self.source)

    def name(self, sample: int) -> str:
        return self.source.ids[sample]

    def megapixels(self) -> float | None:
        return None

    def ready(self) -> None:
        importlib.import_module("simplejpeg")

    def sample(self, key: Key) -> dict[str, Any]:
        """Never raises BadInput: a file that cannot be read is a finding as well."""
        name, data = self.source.ids[key.sample], b""
        try:
            data = self.source.read(key.sample)
            return {"at": key.sample, "row": look(data, name), "wrong": None}
        except BadInput as error:
            row: Rows = np.zeros((), dtype=ROW)
            row["seen"], row["bytes"] = True, len(data)
            row["file"] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
            held = kind_of(data) if data else "nothing (0 bytes)" if self.source.sizes[key.sample] == 0 else "not known"
            return {"at": key.sample, "row": row, "wrong": (str(error), held)}

    def collate(self, samples: Sequence[dict[str, Any]], spots: Sequence[Spot]) -> Batch:
        rows = np.array([s["row"] for s in samples], dtype=ROW)
        return {
            "ids": [self.source.ids[s["at"]] for s in samples],
            "at": torch.tensor([s["at"] for s in samples], dtype=torch.int64),
            "row": torch.from_numpy(rows.view(np.uint8).reshape(len(samples), ROW.itemsize).copy()),
            "wrong": [(s["at"], *s["wrong"]) for s in samples if s["wrong"] is not None],
        }


def table(n: int) -> Rows:
    """(n,) of ROW, all zero."""
    if n <= IN_MEMORY:
        return np.zeros(n, dtype=ROW)
    with tempfile.TemporaryFile(prefix="tessella-") as file:  # gone when the last page is
        file.truncate(n * ROW.itemsize)
        return np.memmap(file, dtype=ROW, mode="r+", shape=(n,))


def _decoded(data: bytes, head: Header, name: str) -> Pixels:
    """At the depth that the file has; what has no range of its own as floats."""
    channels = 3 if head.channels - head.alpha in (1, 3) else head.channels
    if head.numbers != "uint" or head.bits > 16:
        return decode(data, channels, name, depth="float32")
    return decode(data, channels, name, depth="uint16" if head.bits > 8 else "uint8", least=LEAST)


def _eight_bits(pixels: Pixels) -> NDArray[np.uint8]:
    """For a thumbnail, whose range is stretched anyway."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels.astype(np.float64) - low) * (255 / (high - low) if high > low else 0.0)
    return np.rint(scaled).astype(np.uint8)
