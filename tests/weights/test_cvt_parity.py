"""CvT's names in the catalogue against transformers, from whose hub they come: depth cut, widths real."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from redrawn import BAR, VISIBLE, error, redraw
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import transforms

from tessella import tensorfile
from tessella.config import encode
from tessella.data.pixels.transforms import prepare
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig
from tessella.models.classifier import Classifier
from tessella.models.staged import CvTConfig
from tessella.weights import native
from tessella.weights.catalog import CATALOG
from tessella.weights.guess import shapes_of
from tessella.weights.layouts import LAYOUTS
from tessella.weights.opened import open_weights
from tessella.weights.recognise import recognise
from tessella.weights.table import rename
from tessella.weights.transfer import Network, transfer

hf = pytest.importorskip("transformers")

NAMES = [name for name, entry in CATALOG.items() if isinstance(entry.architecture.backbone, CvTConfig)]
CUT = (1, 2, 3)  # transformers asks for the rate of a stage's block by the number of the stage, so each has as many
LAYOUT = LAYOUTS["transformers/cvt"]
BICUBIC = transforms.InterpolationMode.BICUBIC


class QuickGelu(nn.Module):
    """As the weights were trained; transformers computes the exact one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def cut(name: str, **options: Any) -> ClassifierConfig:
    cfg = CATALOG[name].architecture
    return replace(cfg, backbone=replace(cfg.backbone, depths=CUT, **options))


def theirs(cfg: ClassifierConfig, activation: str = "quick_gelu") -> Any:
    b = cfg.backbone
    assert isinstance(b, CvTConfig)
    told = dict(embed_dim=list(b.widths), depth=list(b.depths), num_heads=list(b.heads), num_labels=cfg.classes)
    net: nn.Module = hf.CvtForImageClassification(hf.CvtConfig(**told)).eval()
    if activation == "quick_gelu":
        for layer in net.modules():
            if type(layer).__name__ == "CvtIntermediate":
                layer.activation = QuickGelu()
    redraw(net)
    with torch.no_grad():  # scores are divided by more than elsewhere: else all would be mixed nearly evenly
        for name, p in net.named_parameters():
            if "attention.attention" in name and p.ndim > 1:
                p.mul_(5)
    return net


def ours(cfg: ClassifierConfig, state: dict[str, Tensor]) -> Classifier:
    with torch.device("meta"):
        net = Classifier(cfg)
    net = net.to_empty(device="cpu").eval()
    net.init_buffers()
    read = LAYOUT.read(state, cfg).tensors
    net.load_state_dict(rename(read, native.from_file(encode(cfg), read)))
    return net


def written(net: Classifier) -> dict[str, Tensor]:
    held = net.state_dict()
    return LAYOUT.write(rename(held, native.to_file(encode(net.cfg), held)), net.cfg)


@torch.no_grad()
def apart(mine: Classifier, net: Any, size: tuple[int, int]) -> float:
    """The largest difference of tokens and of logits, as a share of the largest value."""
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    out = net.cvt(images)
    tokens = net.layernorm(torch.cat([out.cls_token_value, out.last_hidden_state.flatten(2).mT], dim=1))
    return max(error(mine.tokens(images).together(), tokens), error(mine(images), net(images).logits))


@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_logits_and_back(name: str) -> None:
    """At the size of the weights, at one that is not square, and the tensors bit for bit as they came."""
    cfg = cut(name)
    net = theirs(cfg)
    state = net.state_dict()
    mine = ours(cfg, state)
    for size in (cfg.backbone.size, (80, 144)):
        assert apart(mine, net, size) <= BAR
    back = written(mine)
    assert back.keys() == {n for n in state if not n.endswith("num_batches_tracked")}
    assert all(torch.equal(back[n], state[n]) for n in back)
    exact = theirs(cfg, "gelu")
    assert apart(mine, exact, (64, 64)) > BAR, "the mutation, and what transformers says of the same weights"
    assert apart(ours(cut(name, mlp="gelu"), state), exact, (64, 64)) <= BAR


def hidden(name: str) -> bool:
    """What moves all keys of a stage alike: softmax does not see it (see tests/models/test_cvt.py)."""
    moved = name.endswith("normalization.bias") and "projection_key" in name and "stages.2" not in name
    return moved or name.endswith("projection_key.bias")


def test_every_tensor_matters() -> None:
    """The mutation, at real widths: whichever tensor of the source is wrong, the comparison sees it."""
    cfg = cut("cvt_13.in1k")
    net = theirs(cfg)
    mine, unseen = ours(cfg, net.state_dict()), []
    statistics = [(n, b) for n, b in net.named_buffers() if n.endswith("running_var")]
    for called, p in [*net.named_parameters(), *statistics]:
        right = p.detach().clone()
        for how, wrong in (("zeroed", torch.zeros_like(p)), ("permuted", right.flip(tuple(range(p.ndim))))):
            with torch.no_grad():
                p.copy_(wrong)
            if (apart(mine, net, (32, 48)) <= VISIBLE) != hidden(called):
                unseen.append(f"{called} {how}")
        with torch.no_grad():
            p.copy_(right)
    assert not unseen and apart(mine, net, (32, 48)) <= BAR


def picture(size: tuple[int, int]) -> tuple[Image.Image, bytes]:
    drawn = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image, file = Image.fromarray(drawn).resize(size, Image.Resampling.BICUBIC), io.BytesIO()
    image.save(file, "png")
    return image, file.getvalue()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(500, 410), (640, 427)])
def test_pixels_are_those_of_its_authors_and_of_its_processor(name: str, size: tuple[int, int]) -> None:
    """Bit for bit: resized by Pillow to 8/7 and cropped, or at 384 px squashed to it. Where the rest to be cut is odd,
    the processor of transformers cuts a pixel less at the left than torchvision, by which its authors evaluated."""
    card, (image, file) = CATALOG[name].preprocess, picture(size)
    side, mine = card.size[0], prepare(file, card).float()
    cropped = transforms.Compose([transforms.Resize(side * 8 // 7, BICUBIC), transforms.CenterCrop(side)])
    authors = transforms.Resize((side, side), BICUBIC) if side == 384 else cropped
    assert torch.equal(mine, transforms.functional.pil_to_tensor(authors(image)).float())
    processor = hf.ConvNextImageProcessorPil(
        size={"shortest_edge": side}, crop_pct=0.875, resample=3, image_mean=card.mean, image_std=card.std
    )  # what the repositories of these weights say
    found = torch.as_tensor(processor(image, return_tensors="np")["pixel_values"][0])
    mean, std = (torch.tensor(v)[:, None, None] for v in (card.mean, card.std))
    levels = (found * std + mean) * 255
    if side == 224 and size == (640, 427):
        mine, levels = mine[:, :, :-1], levels[:, :, 1:]
    assert (mine - levels).abs().max() < 1e-3
    other = replace(card, resize="shortest" if card.resize == "squash" else "squash", crop=1.0)
    assert (prepare(file, other).float() - prepare(file, card).float()).abs().max() > 20, "the mutation"


def saved(file: Path, layout: str, classes: int = 1000) -> Path:
    cfg = replace(CATALOG["cvt_13.in1k"].architecture, classes=classes)
    generator = torch.Generator().manual_seed(0)
    tensors = {n: 0.02 * torch.randn(s, generator=generator) for n, s in shapes_of(cfg).items()}
    out = {n: t.contiguous() for n, t in LAYOUTS[layout].write(tensors, cfg).items()}
    counted = {n.replace("running_var", "num_batches_tracked"): torch.tensor(3) for n in out if "running_var" in n}
    save_file(out | counted, file)
    return file


@pytest.mark.parametrize("layout", ["transformers/cvt", "microsoft/cvt"])
def test_a_bare_file_is_recognised_and_loads(layout: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "w.safetensors", layout)
    with pytest.raises(BadInput, match=r"fits cvt_13.in1k, cvt_13_384.in1k, .*; add --like NAME"):
        open_weights(file)
    found = open_weights(file, "cvt_13.in1k")
    assert found.card.provenance["layout"] == layout and found.card.licence == "apache-2.0"
    Classifier(found.network.config).load_state_dict(found.tensors)
    tensors = tensorfile.read(file)
    lost = next(name for name in tensors if name.endswith("running_mean"))
    del tensors[lost]
    assert recognise(tensors) == []


def test_another_size_channels_and_classes(tmp_path: Path) -> None:
    before = cut("cvt_13.in1k", widths=(16, 24, 32), heads=(1, 2, 2), image_size=64)
    tensors = {n: t.clone() for n, t in Classifier(before).state_dict().items()}
    after = replace(before, backbone=replace(before.backbone, image_size=(48, 96), channels=1), classes=3)
    out, told = transfer(tensors, Network(before), Network(after))
    missing, extra = Classifier(after).load_state_dict(out, strict=False)
    assert set(missing) == {"head.weight", "head.bias"} and not extra
    assert told.resized == ("patches 3 to 1 channels",)
    other = replace(before, backbone=replace(before.backbone, mlp="gelu"))  # type: ignore[call-arg]
    with pytest.raises(BadInput, match=r"model.backbone.mlp is 'gelu', but the weights are of a network with"):
        transfer(tensors, Network(before), Network(other))
