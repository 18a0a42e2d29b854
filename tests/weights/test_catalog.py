"""Every name of the catalogue against the library of its weights: depth cut, widths real, tensors redrawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from redrawn import BAR, VISIBLE, error, redraw
from torch import Tensor, nn

from tessella.models.architecture import ViTConfig
from tessella.models.classifier import Classifier
from tessella.weights import catalog, native
from tessella.weights.catalog import CATALOG, COUNTS, Entry
from tessella.weights.layouts import LAYOUTS
from tessella.weights.table import rename

timm = pytest.importorskip("timm")

# what has stages is in files of its own: tests/weights/test_swin_parity.py, test_cvt_parity.py
TIMM = [name for name, entry in CATALOG.items() if entry.origins[0].library == "timm"]
VITS = {name: entry for name, entry in CATALOG.items() if isinstance(entry.architecture.backbone, ViTConfig)}


def cut(entry: Entry, pixels: int = 0) -> Entry:
    """Two blocks deep; `pixels`: of another size, for a network whose own would take long."""
    a = entry.architecture
    backbone = replace(a.backbone, depth=2, image_size=pixels or a.backbone.image_size)
    return replace(entry, architecture=replace(a, backbone=backbone))


def several_sizes(entry: Entry) -> bool:
    """timm's BEiT takes pictures of one size, and cuts nothing where sizes may differ."""
    b = entry.architecture.backbone
    return not b.relative and b.indivisible == "refuse"


def theirs(entry: Entry) -> nn.Module:
    """timm's network, with every tensor redrawn."""
    a = entry.architecture
    called = entry.origins[0].id.removeprefix("timm/").partition(".")[0]
    if entry.name.endswith(".openai"):  # the files are listed under the network that would compute otherwise
        called = called.replace("_clip_", "_clip_quickgelu_")
    told: dict[str, Any] = {"depth": a.backbone.depth, "num_classes": a.classes or a.pool.projection}
    told["img_size"] = a.backbone.size
    if entry.family == "dinov3":
        told["global_pool"] = "token"  # as the paper; timm takes the mean
    if several_sizes(entry):
        told["dynamic_img_size"] = True
    net: nn.Module = timm.create_model(called, **told).eval()
    redraw(net)
    if a.pool.projection:  # has no bias: timm's head holds zeros
        nn.init.zeros_(net.get_parameter("head.bias"))
    return net


def ours(entry: Entry, state: dict[str, Tensor]) -> Classifier:
    with torch.device("meta"):
        net = Classifier(entry.architecture)
    net = net.to_empty(device="cpu").eval()
    net.init_buffers()
    read = LAYOUTS[entry.origins[0].layout].read(state, entry.architecture).tensors
    net.load_state_dict(rename(read, native.from_file({"type": "ClassifierConfig"}, read)))
    return net


@torch.no_grad()
def said(net: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Tokens and logits, of ours or of theirs."""
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    if isinstance(net, Classifier):
        return net.tokens(images).together(), net(images)
    features = net.forward_features(images)
    return features, net.forward_head(features)


def apart(mine: Classifier, other: Any, size: tuple[int, int]) -> float:
    """The largest difference, as a share of the largest value."""
    return max(error(a, b) for a, b in zip(said(mine, size), said(other, size), strict=True))


@pytest.mark.parametrize("name", VITS)
def test_tokens_and_logits_and_back(name: str) -> None:
    """At the size of the weights, at one that is not square, and the tensors bit for bit as they came."""
    entry = cut(CATALOG[name])
    b, table, net = entry.architecture.backbone, LAYOUTS[entry.origins[0].layout], theirs(entry)
    state = net.state_dict()
    mine = ours(entry, state)
    assert apart(mine, net, b.size) <= BAR
    if several_sizes(entry):
        assert apart(mine, net, (5 * b.patch_size, 8 * b.patch_size)) <= BAR
    held = mine.state_dict()
    back = table.write(rename(held, native.to_file({"type": "ClassifierConfig"}, held)), entry.architecture)
    assert back.keys() == {n for n in state if not n.endswith("relative_position_index")}
    assert all(torch.equal(back[n], state[n]) for n in back)


def alike(entry: Entry) -> Any:
    """What two names have in common if their networks are built alike, and only wider or of other pictures."""
    a = entry.architecture
    if a.backbone.resnet is not None:  # with all its layers, or with the stem alone; behind them all are alike
        return bool(a.backbone.resnet.layers)
    free = {"width": 768, "heads": 12, "head_size": None, "depth": 12, "image_size": 224, "mlp_ratio": 4.0}
    rotary = replace(a.backbone.rotary, reference=None, offset=0.0) if a.backbone.rotary else None
    backbone = replace(a.backbone, patch_size=16, rotary=rotary, indivisible="refuse", **free)
    return entry.origins[0].layout, backbone, a.pool.kind, a.pool.norm, bool(a.pool.projection), bool(a.classes)


KINDS = {alike(entry): entry for entry in reversed(VITS.values())}


@pytest.mark.parametrize("entry", KINDS.values(), ids=lambda entry: entry.name)
def test_every_tensor_matters(entry: Entry) -> None:
    """The mutation, for one name of each kind: whichever tensor of the source is wrong, the comparison sees it."""
    b = entry.architecture.backbone
    size = ((4 if b.resnet is None else 2) * b.patch_size,) * 2  # the layers before the patches are all there
    entry, unseen = cut(entry, size[0]), []
    net = theirs(entry)
    mine = ours(entry, net.state_dict())
    right_answers = said(mine, size)
    assert apart(mine, net, size) <= BAR
    for called, p in net.named_parameters():
        if entry.architecture.pool.projection and called == "head.bias":
            continue
        right = p.detach().clone()
        for how, wrong in (("zeroed", torch.zeros_like(p)), ("permuted", right.flip(tuple(range(p.ndim))))):
            with torch.no_grad():
                p.copy_(wrong)
            if max(error(a, b) for a, b in zip(said(net, size), right_answers, strict=True)) <= VISIBLE:
                unseen.append(f"{called} {how}")
        with torch.no_grad():
            p.copy_(right)
    assert not unseen


@pytest.mark.parametrize("name", TIMM)
def test_preprocessing_and_licence_are_timm_s(name: str) -> None:
    entry = CATALOG[name]
    called = entry.origins[0].id.removeprefix("timm/")
    told = timm.get_pretrained_cfg(called) or timm.get_pretrained_cfg(called.replace("_clip_", "_clip_quickgelu_"))
    mine = entry.preprocess
    assert (mine.mean, mine.std) == (pytest.approx(told.mean), pytest.approx(told.std))
    assert mine.size == told.input_size[1:] == entry.architecture.backbone.size
    assert (mine.crop, mine.interpolation) == (told.crop_pct, told.interpolation)
    assert mine.resize == {"center": "shortest", "squash": "squash"}[told.crop_mode]
    assert entry.licence == told.license
    assert entry.architecture.classes == COUNTS[entry.labels]
    assert (entry.architecture.classes or entry.architecture.pool.projection) == told.num_classes


def test_there_are_names_enough_and_none_twice() -> None:
    names = [row.name for rows, _ in catalog.FAMILIES for row in rows]
    assert len(names) == len(set(names)) == len(CATALOG) >= 60
    assert len({entry.family for entry in CATALOG.values()}) >= 16
    assert len({origin for entry in CATALOG.values() for origin in entry.origins}) == sum(
        len(entry.origins) for entry in CATALOG.values()
    )
