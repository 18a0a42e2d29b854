"""Names of ImageNet's classes against timm's lists of synsets, and on a real picture."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

import tessella as ts
from tessella.weights import labels
from tessella.weights.catalog import COUNTS, Labels
from tessella.weights.labels import names


@pytest.mark.parametrize("known", labels.BITS)
def test_order_and_names_are_timm_s(known: Labels) -> None:
    info = pytest.importorskip("timm.data").ImageNetInfo(
        {"imagenet-21k": "imagenet21k_goog"}.get(known, known.replace("-", ""))
    )
    mine = names(known)
    assert len(mine) == len(set(mine)) == COUNTS[known]
    synsets = info.label_names()
    for i, name in enumerate(mine):
        first = info.label_name_to_description(synsets[i], detailed=False).split(", ")[0]
        assert name in (first, f"{first} ({synsets[i]})")


def test_two_classes_of_one_name_are_told_apart() -> None:
    assert [n for n in names("imagenet-1k") if n.startswith("crane")] == ["crane (n02012849)", "crane (n03126707)"]


def test_real_pictures_are_named(shared_data: Path, tmp_path: Path) -> None:
    """Their files are called after their classes."""
    with tarfile.open(shared_data / "imagenet250" / "imagenet-sample-250.tar") as tar:
        some = [member for member in tar if member.name.endswith(".JPEG")][::25]
        tar.extractall(tmp_path, some, filter="data")
    model = ts.load(shared_data / "weights" / "deit_tiny_patch16_224_lnq8.safetensors", like="deit_t16")
    found = model.predict([tmp_path / member.name for member in some], top=1)
    called = [Path(member.name).stem.partition("_")[2].replace("_", " ") for member in some]
    right = sum(f.names[0].lower() == name.lower() for f, name in zip(found, called, strict=True))
    shifted = sum(f.names[0].lower() == name.lower() for f, name in zip(found, called[1:] + called[:1], strict=True))
    assert right >= 6 and shifted <= 1, "of 10; the mutation: names of other pictures"
