"""Real weights of others on the 10,000 test pictures of CIFAR-10: the accuracy that is known of them there."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import tessella as ts
from tessella.verbs.evaluate import Evaluation
from tessella.weights import lora

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ADAPTED = f'like = "deit_t16"\nclasses = {json.dumps(CLASSES)}\n[preprocess]\ncrop = 1.0\ninterpolation = "bilinear"\n'
SMALL = f"""
classes = {json.dumps(CLASSES)}
[model.backbone]
image_size = 32
patch_size = 4
width = 64
depth = 4
heads = 4
[preprocess]
crop = 1.0
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
"""


@pytest.fixture(scope="module")
def pictures(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cifar")
    for packed in sorted((shared_data / "cifar10").glob("cifar10-test-*.tar.xz")):
        with tarfile.open(packed) as tar:
            tar.extractall(place, filter="data")
    return place / "test"


def accuracy(found: Evaluation, seen: str) -> float:
    """Per cent. The mutation beside it: with classes in another order nothing of it is left."""
    told = found.predictions
    assert len(told.ids) == 10_000, seen
    assert np.mean(told.outputs.argmax(1) == 9 - told.targets) < 0.2
    return 100 * found.metrics["top1"]


@pytest.mark.slow
def test_a_real_adapter_in_the_real_deit_tiny(pictures: Path, shared_data: Path, tmp_path: Path) -> None:
    """LoRA of rank 16, trained with transformers and PEFT, on pictures enlarged to 224 px by bilinear interpolation; on
    1,000 of these pictures bicubic is one point worse, and a crop of 0.9 two. About 8 minutes on one core."""
    files = shared_data / "weights"
    config = json.loads((files / f"lora_deit_tiny_cifar10_r16.{lora.CONFIG}").read_text())
    config["base_model_name_or_path"] = str(files / "deit_tiny_patch16_224_lnq8.safetensors")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / lora.CONFIG).write_text(json.dumps(config))
    (tmp_path / "adapter" / lora.FILES[0]).symlink_to(files / "lora_deit_tiny_cifar10_r16.safetensors")
    (tmp_path / "about.toml").write_text(ADAPTED)
    found = ts.evaluate(tmp_path / "adapter", pictures, like=str(tmp_path / "about.toml"))
    assert accuracy(found, "merged") == pytest.approx(80.2, abs=0.2)


@pytest.mark.slow
def test_a_small_real_network(pictures: Path, shared_data: Path, tmp_path: Path) -> None:
    """208,074 parameters that somebody trained; no preset has its sizes, so a file says them. Its pictures have values
    from 0 to 1: any other mean and deviation that is usual leaves 23 to 25 %."""
    weights = shared_data / "weights" / "vit_cifar10_p4_d64x4_h4.safetensors"
    (tmp_path / "about.toml").write_text(SMALL)
    found = ts.evaluate(weights, pictures, like=str(tmp_path / "about.toml"))
    assert accuracy(found, "small") == pytest.approx(55.9, abs=0.2)
    (tmp_path / "about.toml").write_text(SMALL.replace("0.0", "0.5").replace("[1.0, 1.0, 1.0]", "[0.5, 0.5, 0.5]"))
    wrong = ts.evaluate(weights, pictures, like=str(tmp_path / "about.toml"))
    assert wrong.metrics["top1"] < 0.3, "the mutation: another mean"
