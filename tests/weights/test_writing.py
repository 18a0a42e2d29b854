"""A model of ours as a folder of another library, opened there by its own means: the same outputs, or a refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from redrawn import BAR, VISIBLE, error, redraw
from torch import Tensor

from tessella import tensorfile
from tessella.card import Card, Head, Preprocess
from tessella.config import encode
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig, RotaryConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.models.staged import CvTConfig, SwinConfig
from tessella.weights.catalog import CATALOG
from tessella.weights.files import read_tensors
from tessella.weights.opened import open_weights
from tessella.weights.writing.folder import describe, write_abroad

timm = pytest.importorskip("timm")
hf = pytest.importorskip("transformers")

SIZE, PATCH = 32, 8
SMALL: dict[str, Any] = dict(image_size=SIZE, patch_size=PATCH, width=48, depth=2, heads=3)
SEVEN = tuple(f"class {i}" for i in range(7))
OTHER_SIZE = (40, 24)


def of(backbone: dict[str, Any], classes: int = 0, **pool: Any) -> ClassifierConfig:
    return ClassifierConfig(backbone=ViTConfig(**SMALL | backbone), pool=PoolConfig(**pool), classes=classes)


def staged(backbone: SwinConfig, classes: int) -> ClassifierConfig:
    return ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="mean"), classes=classes)


CVT: dict[str, Any] = dict(image_size=64, widths=(16, 24, 48), depths=(1, 2, 3), heads=(1, 1, 3))
PLAIN = of({}, 7)
DINOV3 = {"position": "none", "rotary": RotaryConfig(), "registers": 4, "layer_scale": 1e-5, "norm_eps": 1e-5}
NETWORKS = {
    "vit": PLAIN,
    "vit without bias, tanh gelu": of({"qkv_bias": False, "mlp": "gelu_tanh", "norm_eps": 1e-5}, 7),
    "vit features": of({}),
    "vit with its pooler": of({}, tanh=True),
    "vit not square, grey": of({"image_size": (32, 48), "channels": 1}, 7),
    "mean of the patches": of({"class_token": False}, 7, kind="mean"),
    "mean, norm behind it": of(
        {"final_norm": False, "registers": 1, "prefix_position": False}, 7, kind="mean", norm=True
    ),
    "attention pool": of({"class_token": False}, 7, kind="attention"),
    "deit distilled": of({"distill_token": True}, 7),
    "scaled, registers, normalised heads": of(
        {"layer_scale": 0.1, "registers": 2, "prefix_position": False, "qk_norm": True}, 7
    ),
    "dinov2": of({"layer_scale": 0.1}),
    "dinov2 gated": of({"layer_scale": 0.1, "mlp": "swiglu", "mlp_ratio": 128 / 48}),
    "dinov2 registers": of({"layer_scale": 0.1, "registers": 4, "prefix_position": False}),
    "dinov3": of(DINOV3),
    "dinov3 gated": of(DINOV3 | {"mlp": "swiglu"}),
    "clip": of({"norm_pre": True, "embed_bias": False, "norm_eps": 1e-5, "mlp": "quick_gelu"}, projection=20),
    "siglip": of({"class_token": False, "mlp": "gelu_tanh"}, kind="attention"),
    "beit": of(
        {"position": "none", "relative": True, "layer_scale": 0.1, "final_norm": False}, 7, kind="mean", norm=True
    ),
    "swin": staged(SwinConfig(image_size=64, width=24, depths=(2, 2), heads=(2, 4), window=4), 7),
    "swin features": staged(SwinConfig(image_size=64, width=24, depths=(2, 2), heads=(2, 4), window=4), 0),
    "swinv2": staged(SwinConfig(image_size=64, width=24, depths=(2, 2), heads=(2, 4), window=4, version="v2"), 7),
    "swinv2, a window that grew": staged(
        SwinConfig(
            image_size=64, width=24, depths=(2, 2), heads=(2, 4), window=4, version="v2", trained_window=(3, 2)
        ),
        7,
    ),
    "cvt": ClassifierConfig(backbone=CvTConfig(**CVT, mlp="gelu"), classes=7),
    "cvt as it was trained": ClassifierConfig(backbone=CvTConfig(**CVT), classes=7),
    "rms norm": of({"norm": "rms"}, 7),
    "norm behind": of({"norm_order": "post"}, 7),
}  # fmt: skip
TIMM = {
    "vit", "vit without bias, tanh gelu", "vit features", "vit not square, grey", "mean of the patches",
    "mean, norm behind it", "attention pool", "scaled, registers, normalised heads", "dinov2", "dinov2 registers",
    "siglip", "swin", "swin features", "swinv2", "swinv2, a window that grew",
}  # fmt: skip
TRANSFORMERS = {
    "vit", "vit without bias, tanh gelu", "vit features", "vit with its pooler", "vit not square, grey",
    "deit distilled",
    "dinov2", "dinov2 gated", "dinov2 registers", "dinov3", "dinov3 gated", "clip", "siglip", "beit",
    "swin", "swin features", "swinv2", "swinv2, a window that grew", "cvt",
}  # fmt: skip


def card(cfg: ClassifierConfig, **image: Any) -> Card:
    b = cfg.backbone
    grey = (0.5,) * b.channels
    resize = "shortest" if b.size[0] == b.size[1] else "squash"
    told: dict[str, Any] = dict(size=b.size, mean=grey, std=grey, channels=b.channels, crop=0.9, resize=resize)
    heads = (Head(name="label", task="classify", classes=tuple(f"class {i}" for i in range(cfg.classes))),)
    pictures = {"image": Preprocess(**told | image)}
    return Card(architecture=encode(cfg), heads=heads if cfg.classes else (), preprocess=pictures, licence="mit")


def drawn(cfg: ClassifierConfig) -> Classifier:
    net = Classifier(cfg).eval()
    redraw(net)
    b = cfg.backbone
    if isinstance(b, ViTConfig) and (b.relative or b.rotary is not None):  # such families have no bias of keys
        with torch.no_grad():
            for name, p in net.named_parameters():
                if name.endswith("qkv.bias"):
                    p.view(3, -1)[1] = 0
    return net


def images(cfg: ClassifierConfig, size: tuple[int, int] | None = None) -> Tensor:
    shape = (2, cfg.backbone.channels, *(size or cfg.backbone.size))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def outputs_of_transformers(folder: Path, x: Tensor) -> Tensor:
    called = json.loads((folder / "config.json").read_text())["architectures"][0]
    pooled = "pooler.dense.weight" in read_tensors(folder / "model.safetensors")
    more = {"add_pooling_layer": pooled} if called == "ViTModel" else {}
    net, told = getattr(hf, called).from_pretrained(folder, output_loading_info=True, **more)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    out = net.eval()(pixel_values=x)
    for name in ("logits", "image_embeds", "pooler_output"):
        if out.get(name) is not None:
            found: Tensor = out[name]
            return found
    first: Tensor = out.last_hidden_state[:, 0]
    return first


def outputs_of_timm(folder: Path, x: Tensor) -> Tensor:
    out: Tensor = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(x)
    return out


READERS = {"timm": outputs_of_timm, "transformers": outputs_of_transformers}


@torch.no_grad()
@pytest.mark.parametrize("library", READERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_opened_there_it_says_the_same_or_is_refused(name: str, library: str, tmp_path: Path) -> None:
    cfg = NETWORKS[name]
    if name not in {"timm": TIMM, "transformers": TRANSFORMERS}[library]:
        with pytest.raises(BadInput, match=r"has no such|keep our own folder|computes the exact GELU"):
            describe(card(cfg), library)  # type: ignore[arg-type]
        return
    net, folder, x = drawn(cfg), tmp_path / "out", images(cfg)
    write_abroad(folder, net.state_dict(), card(cfg), library)  # type: ignore[arg-type]
    assert error(net(x), READERS[library](folder, x)) <= BAR
    back = open_weights(folder)
    if library == "timm" or (folder / "preprocessor_config.json").is_file():
        assert back.card.preprocess["image"].mean == card(cfg).preprocess["image"].mean
    assert back.card.licence == "mit"
    again = Classifier(back.network.config).eval()
    again.load_state_dict(back.classifier_tensors)
    assert error(net(x), again(x)) <= BAR, "what we write there we read as what it was"
    held = tensorfile.read(folder / "model.safetensors")
    seen = next(n for n in held if "norm" in n and n.endswith("weight"))
    (folder / "model.safetensors").unlink()
    tensorfile.write(folder / "model.safetensors", held | {seen: held[seen].flip(0)})
    assert error(net(x), READERS[library](folder, x)) > VISIBLE, "the mutation: one tensor the other way round"


def test_names_classes_and_licence_go_along(tmp_path: Path) -> None:
    net = drawn(PLAIN)
    for library in READERS:
        write_abroad(tmp_path / library, net.state_dict(), card(PLAIN), library)  # type: ignore[arg-type]
    told = hf.AutoConfig.from_pretrained(tmp_path / "transformers")
    assert tuple(told.id2label[i] for i in range(7)) == SEVEN
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    assert tuple(model.pretrained_cfg["label_names"]) == SEVEN and model.pretrained_cfg["license"] == "mit"
    page = (tmp_path / "timm" / "README.md").read_text()
    assert "license: mit" in page and "library_name: timm" in page and "class 3" in page


def test_pictures_are_prepared_there_as_here(tmp_path: Path) -> None:
    """One level of 255: transformers resizes by torchvision, we and timm by Pillow."""
    from tessella.runtime.model import Model
    from tessella.verbs.against import compare

    cfg = replace(PLAIN, backbone=replace(PLAIN.backbone, image_size=64))
    for resize, crop, interpolation in (
        ("shortest", 0.875, "bicubic"),
        ("squash", 1.0, "bilinear"),
        ("squash", 8 / 9, "bicubic"),
    ):
        told = card(cfg, resize=resize, crop=crop, interpolation=interpolation, mean=(0.4, 0.5, 0.6))
        model = Model(drawn(cfg), told)
        for library, bar in (("timm", 1e-3), ("transformers", 1.001)):
            found = compare(model, library)  # type: ignore[arg-type]
            assert found.pixels is not None and found.pixels <= bar, (library, resize, found)
            assert found.outputs <= BAR and (found.tokens or 0.0) <= BAR and not found.differs


def test_a_centre_with_an_odd_margin_is_told() -> None:
    """transformers rounds down, timm and torchvision to even: a pixel between the two cuts."""
    from tessella.runtime.model import Model
    from tessella.verbs.against import compare

    cfg = replace(PLAIN, backbone=replace(PLAIN.backbone, image_size=64))
    told = card(cfg, resize="squash", crop=64 / 71)
    assert "margin around it is odd" in describe(told, "transformers").lost[0]
    found = compare(Model(drawn(cfg), told), "transformers")
    assert found.pixels is not None and found.pixels > 2 and "pixels differ by up to" in found.differs[0]
    assert found.outputs <= BAR


def test_what_has_no_words_there_is_told_and_no_processor_is_written(tmp_path: Path) -> None:
    told = write_abroad(
        tmp_path / "a", drawn(PLAIN).state_dict(), card(PLAIN, resize="letterbox", crop=1.0), "transformers"
    )
    assert not (tmp_path / "a" / "preprocessor_config.json").exists() and "letterbox" in told.lost[0]
    assert "letterbox" in (tmp_path / "a" / "README.md").read_text()
    hot = replace(card(PLAIN), heads=(Head(name="label", task="classify", classes=SEVEN, temperature=2.0),))
    assert "temperature 2" in describe(hot, "timm").lost[0]


@torch.no_grad()
def test_a_swin_by_its_name_in_timm(tmp_path: Path) -> None:
    cfg = replace(CATALOG["swin_t.in1k"].architecture, classes=7)
    net = drawn(cfg)
    write_abroad(tmp_path / "out", net.state_dict(), card(cfg), "timm")
    x = images(cfg)
    assert error(net(x), outputs_of_timm(tmp_path / "out", x)) <= BAR
    assert open_weights(tmp_path / "out").network.config.backbone == cfg.backbone


def test_a_swin_whose_shifted_maps_are_padded_is_refused_by_timm() -> None:
    padded = staged(SwinConfig(image_size=96, width=24, depths=(2, 2), heads=(2, 4), window=7), 7)
    with pytest.raises(BadInput, match="timm pads those otherwise; write --to transformers"):
        describe(card(padded), "timm")
    assert describe(card(padded), "transformers").layout == "transformers/swin"


def test_several_heads_and_numbers_are_refused(tmp_path: Path) -> None:
    two = (Head(name="a", task="classify", classes=SEVEN[:6]), Head(name="b", task="number"))
    for library in ("timm", "transformers"):
        with pytest.raises(BadInput, match=r"more than a class \(a \(classify\), b \(number\)\)"):
            describe(replace(card(PLAIN), heads=two), library)  # type: ignore[arg-type]


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="is there already, and a conversion replaces nothing"):
        write_abroad(tmp_path, drawn(PLAIN).state_dict(), card(PLAIN), "timm")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessella.errors import TessellaError
    from tessella.weights.writing import folder

    def other(path: Path) -> dict[str, Tensor]:
        found = read_tensors(path)
        return found | {"head.weight": found["head.weight"] + 1}

    monkeypatch.setattr(folder, "read_tensors", other)
    with pytest.raises(TessellaError, match=r"timm/vit does not bring back head\.weight as written"):
        write_abroad(tmp_path / "out", drawn(PLAIN).state_dict(), card(PLAIN), "timm")
    assert not list(tmp_path.iterdir())


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_b32.openai", "vit_b16.laion2b", "vit_b16.siglip"])
def test_a_tower_for_open_clip(name: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    from tessella.runtime.model import Model
    from tessella.verbs.against import compare

    a = CATALOG[name].architecture
    cfg = replace(a, backbone=replace(a.backbone, image_size=64)) if "siglip" not in name else a
    told = replace(card(cfg, crop=1.0), provenance={"like": name})
    found = compare(Model(drawn(cfg), told), "open_clip")
    assert found.outputs <= BAR and found.pixels is not None and found.pixels <= 1.001


@pytest.mark.parametrize(("name", "library", "file"), [
    ("deit_t16", "meta", "model.safetensors"),
    ("vit_s14.dinov2", "meta", "model.safetensors"),
    ("vit_t16.augreg", "big_vision", "model.npz"),
])  # fmt: skip
def test_one_file_in_the_layout_of_the_paper(name: str, library: Any, file: str, tmp_path: Path) -> None:
    cfg = CATALOG[name].architecture
    b = cfg.backbone
    with torch.device("meta"):
        net = Classifier(replace(cfg, classes=min(cfg.classes, 7)))
    net.to_empty(device="cpu")
    redraw(net)
    told = replace(card(net.cfg), provenance={"like": name})
    write_abroad(tmp_path / "out", net.state_dict(), told, library)
    held = read_tensors(tmp_path / "out" / file)
    assert len(held) >= 12 * b.depth
