"""A bare file, and a TOML file that says what it is: the same answers as out of a model folder that says it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tessella as ts
from tessella.card import Preprocess, alone
from tessella.config import encode
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.weights.io import write_model
from tessella.weights.opened import assumed, open_weights

CONFIG = ClassifierConfig(backbone=ViTConfig(image_size=16, patch_size=4, width=12, depth=2, heads=2), classes=3)
SAID = """
like = "vit_t16"
classes = ["ant", "bee", "cow"]
licence = "mit"
[model.backbone]
image_size = 16
patch_size = 4
width = 12
depth = 2
heads = 2
[preprocess]
crop = 1.0
mean = [0.1, 0.2, 0.3]
std = [0.4, 0.5, 0.6]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Beside it the model folder of the same weights, and a picture."""
    torch.manual_seed(0)
    net = Classifier(CONFIG)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    card = assumed(CONFIG, tmp_path, 0)
    card = type(card)(
        architecture=encode(CONFIG),
        heads=(alone(("ant", "bee", "cow")),),
        preprocess={"image": Preprocess(size=(16, 16), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))},
    )
    write_model(tmp_path / "model", net.state_dict(), card)
    shutil.copy(tmp_path / "model" / "model.safetensors", tmp_path / "w.safetensors")
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "about.toml").write_text(SAID)
    return tmp_path / "w.safetensors"


def test_it_is_read_as_the_file_says(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = ts.load(file, like="about.toml"), ts.load(file.parent / "model")
    assert model.classes == folder.classes and model.card.licence == "mit"
    assert np.array_equal(model.logits("a.png"), folder.logits("a.png"))
    assert "read as about.toml says: 16 x 16 px, shortest, crop 1, bicubic\n" in capsys.readouterr().err
    assert open_weights(file, "about.toml").network.heads[0].classes == ("ant", "bee", "cow")
    (file.parent / "about.toml").write_text(SAID.replace("0.6]", "0.9]"))
    assert not np.allclose(ts.load(file, like="about.toml").logits("a.png"), folder.logits("a.png"), atol=1e-3)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"cow"', '"cow", "dog"', "classes has 4 names for 3 outputs"),
        ("licence", "license", "no key 'license' is known here; did you mean 'licence'"),
        ("width", "dim", "model.backbone has no key 'dim'"),
        ("crop = 1.0", "crop = 7.0", "crop is 7.0; give a share"),
        ('"vit_t16"', '"vit_q16"', "there is no model 'vit_q16'"),
        ('"vit_t16"', '"deit_t16"', "deit_t16 settles the architecture"),
        ('["ant", "bee", "cow"]', "3", "classes is 3; expected"),
        ("like", "like = ", "is not valid TOML"),
    ],
)
def test_what_it_cannot_say(old: str, new: str, told: str, file: Path) -> None:
    (file.parent / "about.toml").write_text(SAID.replace(old, new, 1))
    with pytest.raises(BadInput, match=told) as refused:
        open_weights(file, "about.toml")
    assert "\n" not in str(refused.value)
