"""Makes tessella/data/bundled/ from the original Fashion-MNIST files: the first pictures of each class, packed.

    python scripts/build_demo_data.py FOLDER_WITH_THE_FOUR_IDX_GZ_FILES

Prints the sha256 that tessella/data/origins/demo.py must state. The same files give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessella.data.origins import demo

NAMES = {"train": "train", "test": "t10k"}
LIMIT = 6_000_000  # bytes of everything in the bundle


def read_idx(path: Path, header: int) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def first_of_each_class(folder: Path, split: str, count: int) -> NDArray[np.uint8]:
    """(classes, count, 28, 28): in the order in which the original file has them."""
    images = read_idx(folder / f"{NAMES[split]}-images-idx3-ubyte.gz", 16).reshape(-1, demo.SIDE, demo.SIDE)
    labels = read_idx(folder / f"{NAMES[split]}-labels-idx1-ubyte.gz", 8)
    return np.stack([images[labels == c][:count] for c in range(len(demo.CLASSES))])


def main(folder: Path) -> None:
    raw = b"".join(first_of_each_class(folder, split, n).tobytes() for split, n in demo.COUNTS.items())
    packed = lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)
    if len(packed) > LIMIT:
        raise SystemExit(f"the bundle has {len(packed):,} bytes; at most {LIMIT:,} are allowed")
    target = Path(demo.__file__).parent / "bundled" / demo.PACKED
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(packed)
    digest = hashlib.sha256(raw).hexdigest()
    state = "as stated" if digest == demo.SHA256 else "CHANGED"
    print(f"{target}: {len(packed):,} bytes; SHA256 = {digest!r} ({state})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
