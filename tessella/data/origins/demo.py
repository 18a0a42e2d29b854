"""The bundled demo set: a part of Fashion-MNIST, kept as one packed file and unpacked to ordinary class folders.

Data by Zalando Research under the MIT licence, see NOTICE. `scripts/build_demo_data.py` makes the packed file.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import BadInput

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
COUNTS = {"train": 1000, "test": 200}  # pictures per class
SIDE = 28  # pixels
PACKED = "fashion-mnist.xz"  # uint8 pixels: by split, by class, picture after picture
SHA256 = "28f18b801ea088981350ccec4e88d2d5a6bd303ee86c624887dbcfdb9f49cd6e"  # of the unpacked pixels


def pixels() -> dict[str, NDArray[np.uint8]]:
    """{"train": (10, 1000, 28, 28), "test": (10, 200, 28, 28)}, class by class."""
    raw = lzma.decompress(files("tessella.data").joinpath("bundled", PACKED).read_bytes())
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise BadInput(f"the bundled data set {PACKED} is damaged; install the package again")
    out, start = {}, 0
    for split, count in COUNTS.items():
        size = len(CLASSES) * count * SIDE * SIDE
        flat = np.frombuffer(raw, np.uint8, size, start)
        out[split] = flat.reshape(len(CLASSES), count, SIDE, SIDE)
        start += size
    return out


def unpack(folder: str | Path) -> Path:
    """Write folder/{train,test}/<class>/<n>.png unless it is there; the folder appears complete or not at all."""
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if not _complete(target):
            raise BadInput(f"{target} exists and is not the complete demo set; remove it or name another folder")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(temporary)
        temporary.chmod(0o755)  # mkdtemp makes it private
        os.replace(temporary, target)
    except OSError:
        if not _complete(target):  # else another process was faster, which is as good
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write(folder: Path) -> None:
    for split, pictures in pixels().items():
        for name, of_class in zip(CLASSES, pictures, strict=True):
            place = folder / split / name
            place.mkdir(parents=True)
            for n, picture in enumerate(of_class):
                Image.fromarray(picture).save(place / f"{n:04}.png")


def _complete(folder: Path) -> bool:
    """Every file by name: contents are not read, since the folder was put in place whole."""
    for split, count in COUNTS.items():
        names = [f"{n:04}.png" for n in range(count)]
        for name in CLASSES:
            place = folder / split / name
            if not place.is_dir() or sorted(os.listdir(place)) != names:
                return False
    return True
