"""Swin and SwinV2 against timm (every name of the catalogue), against transformers, and as Microsoft wrote files."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from redrawn import BAR, VISIBLE, error, redraw
from safetensors.torch import save_file
from torch import Tensor, nn

from tessella import tensorfile
from tessella.config import encode
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig
from tessella.models.classifier import Classifier
from tessella.models.staged import SwinConfig
from tessella.weights import native
from tessella.weights.catalog import CATALOG
from tessella.weights.guess import candidates
from tessella.weights.layouts import LAYOUTS
from tessella.weights.opened import open_weights
from tessella.weights.recognise import recognise
from tessella.weights.table import rename
from tessella.weights.transfer import Network, offsets, transfer

timm = pytest.importorskip("timm")

NAMES = [name for name, entry in CATALOG.items() if isinstance(entry.architecture.backbone, SwinConfig)]
CUT = (1, 2, 1, 1)  # blocks: the second stage is the one that shifts, whatever the window
NEVER = ("relative_position_index", "relative_coords_table", "attn_mask")  # follow from sizes


def swin(cfg: ClassifierConfig) -> SwinConfig:
    assert isinstance(cfg.backbone, SwinConfig)
    return cfg.backbone


def cut(name: str, **options: Any) -> ClassifierConfig:
    cfg = CATALOG[name].architecture
    return replace(cfg, backbone=replace(swin(cfg), **({"depths": CUT} | options)))


@torch.no_grad()
def drawn(net: nn.Module) -> Any:
    redraw(net)
    for name, p in net.named_parameters():
        if name.endswith("logit_scale"):  # logarithms of factors
            p.copy_(1.5 + 0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
        elif "cpb_mlp" in name or "position_bias" in name:
            p.mul_(4)
    return net.eval()


def timm_name(name: str) -> str:
    return CATALOG[name].origins[0].id.removeprefix("timm/").partition(".")[0]


def timms(called: str, cfg: ClassifierConfig, **options: Any) -> Any:
    told = {"depths": swin(cfg).depths, "num_classes": cfg.classes, "img_size": swin(cfg).size, **options}
    return drawn(timm.create_model(called, dynamic_img_size=True, **told))


def ours(cfg: ClassifierConfig, state: dict[str, Tensor], layout: str) -> Classifier:
    with torch.device("meta"):
        net = Classifier(cfg)
    net = net.to_empty(device="cpu").eval()
    net.init_buffers()
    read = LAYOUTS[layout].read(state, cfg).tensors
    net.load_state_dict(rename(read, native.from_file(encode(cfg), read)))
    return net


def written(net: Classifier, layout: str) -> dict[str, Tensor]:
    held = net.state_dict()
    return LAYOUTS[layout].write(rename(held, native.to_file(encode(net.cfg), held)), net.cfg)


def pictures(size: tuple[int, int], batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def said(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and logits, of ours or of theirs."""
    if isinstance(net, Classifier):
        return net.tokens(images).patches, net(images)
    if type(net).__module__.startswith("timm."):
        features = net.forward_features(images)
        return features.flatten(1, 2), net.forward_head(features)
    return net.base_model(images).last_hidden_state, net(images).logits


def apart(a: Any, b: Any, images: Tensor) -> float:
    return max(error(x, y) for x, y in zip(said(a, images), said(b, images), strict=True))


# -- timm --------------------------------------------------------------------------------------------------------------


@cache
def compared(called: str, cfg: ClassifierConfig) -> tuple[float, float, bool]:
    """Differences at the size of the weights and at one that is not square; whether the tensors came back as they were.
    Kept, because several names may be of one network."""
    net, side = timms(called, cfg), swin(cfg).window_of(0)
    mine, state = ours(cfg, net.state_dict(), "timm/swin"), net.state_dict()
    back = written(mine, "timm/swin")
    same = back.keys() == state.keys() and all(torch.equal(back[n], state[n]) for n in back)
    # whole windows where a block shifts, half ones and quarters behind it: those are padded
    return apart(mine, net, pictures(swin(cfg).size)), apart(mine, net, pictures((8 * side, 16 * side))), same


@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_logits_and_back(name: str) -> None:
    native_size, not_square, same = compared(timm_name(name), cut(name))
    assert native_size <= BAR and not_square <= BAR and same


KINDS = {"v1": "swin_t.in1k", "v2": "swinv2_t_w8.in1k", "v2, a window that grew": "swinv2_b.in22k_ft"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_matters(kind: str) -> None:
    """The mutation: whichever tensor of timm's is wrong, the comparison sees it."""
    name, narrow = KINDS[kind], {"embed_dim": 24, "num_heads": (2, 4, 4, 8), "window_size": 4}
    cfg = cut(name, width=24, heads=(2, 4, 4, 8), window=4, image_size=64)
    net = timms(timm_name(name), replace(cfg, classes=9), **narrow)
    mine, images = ours(replace(cfg, classes=9), net.state_dict(), "timm/swin"), pictures((64, 64))
    right, unseen = said(mine, images), []
    assert apart(mine, net, images) <= BAR
    for called, p in net.named_parameters():
        held = p.detach().clone()
        for how, wrong in (("zeroed", torch.zeros_like(p)), ("permuted", held.flip(tuple(range(p.ndim))))):
            with torch.no_grad():
                p.copy_(wrong)
            if max(error(x, y) for x, y in zip(said(net, images), right, strict=True)) <= VISIBLE:
                unseen.append(f"{called} {how}")
        with torch.no_grad():
            p.copy_(held)
    assert not unseen


def test_a_window_that_grew_measures_offsets_in_the_old_one() -> None:
    """The mutation: without it the same weights say something else."""
    cfg = cut("swinv2_b.in22k_ft", width=24, heads=(2, 4, 4, 8), image_size=256)
    net = timms(timm_name("swinv2_b.in22k_ft"), cfg, embed_dim=24, num_heads=(2, 4, 4, 8))
    images = pictures((256, 256))
    assert apart(ours(cfg, net.state_dict(), "timm/swin"), net, images) <= BAR
    other = replace(cfg, backbone=replace(swin(cfg), trained_window=None))
    assert apart(ours(other, net.state_dict(), "timm/swin"), net, images) > VISIBLE


def test_windows_of_each_stage_as_timm_has_them() -> None:
    """Of different sizes (S3), shrunk to the map, and of a picture that is not square."""
    narrow = {"embed_dim": 24, "num_heads": (2, 4, 4, 8)}
    for window, size in (((3, 2, 4, 3), (48, 96)), (7, (64, 64)), (4, (64, 128))):
        cfg = cut("swin_t.in1k", depths=(2, 2, 2, 2), width=24, heads=(2, 4, 4, 8), window=window, image_size=size)
        net = timms(timm_name("swin_t.in1k"), cfg, **narrow, window_size=window)
        tiles = [tuple(stage.blocks[1].window_size) for stage in net.layers]
        shifts = [tuple(stage.blocks[1].shift_size) for stage in net.layers]
        assert tiles == [swin(cfg).tile(i) for i in range(4)] and shifts == [swin(cfg).shift(i) for i in range(4)]
        mine = ours(cfg, net.state_dict(), "timm/swin")
        if window != 7:  # there a block that shifts is padded, and timm shifts first (see models/swin.py)
            assert apart(mine, net, pictures(size)) <= BAR


@pytest.mark.parametrize("name", ["swin_t.in1k", "swinv2_t_w8.in1k"])
def test_microsoft_s_files_are_what_timm_takes_them_for(name: str) -> None:
    cfg = cut(name, width=24, heads=(2, 4, 4, 8))
    net = timms(timm_name(name), cfg, embed_dim=24, num_heads=(2, 4, 4, 8))
    state = net.state_dict()
    old = written(ours(cfg, state, "timm/swin"), "microsoft/swin")
    assert "layers.0.downsample.reduction.weight" in old and "head.weight" in old and "head.fc.weight" not in old
    module = importlib.import_module(type(net).__module__)
    index = {f"layers.0.blocks.0.{name}": torch.zeros(3) for name in ("attn.relative_position_index", "attn_mask")}
    taken = module.checkpoint_filter_fn(old | index, net)
    assert taken.keys() == state.keys() and all(torch.equal(taken[n], state[n]) for n in state)
    read = LAYOUTS["microsoft/swin"].read(old | index, cfg)
    assert set(read.left) == set(index) and all(torch.equal(read.tensors[n], state[n]) for n in state)


# -- transformers ------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = dict(image_size=64, embed_dim=24, depths=(2, 2, 1), num_heads=(2, 4, 4), window_size=4)
OURS: dict[str, Any] = dict(image_size=64, width=24, depths=(2, 2, 1), heads=(2, 4, 4), window=4)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "swin": ("Swin", {}, {}, "swin in memory"),
    "swinv2": ("Swinv2", {}, {"version": "v2"}, "swinv2"),
    "swinv2, a window that grew": (
        "Swinv2", {"pretrained_window_sizes": (3, 3, 2)}, {"version": "v2", "trained_window": (3, 3, 2)}, "swinv2",
    ),
}  # fmt: skip


@cache
def theirs(case: str) -> Any:
    hf = pytest.importorskip("transformers")
    kind, more, _, _ = CASES[case]
    labels = {i: f"class {i}" for i in range(7)}
    return drawn(
        getattr(hf, f"{kind}ForImageClassification")(getattr(hf, f"{kind}Config")(**SMALL, **more, id2label=labels))
    )


def config_of(case: str) -> ClassifierConfig:
    backbone = SwinConfig(**OURS, **CASES[case][2])
    return ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="mean"), classes=7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (70, 106)])
def test_out_of_transformers_memory(case: str, size: tuple[int, int]) -> None:
    """(70, 106): patches, windows that shift and merging are all padded."""
    cfg, net = config_of(case), theirs(case)
    mine = ours(cfg, dict(net.state_dict()), f"transformers/{CASES[case][3]}")
    assert apart(mine, net, pictures(size, 2)) <= BAR
    back = written(mine, f"transformers/{CASES[case][3]}")
    net.load_state_dict(back)  # strictly


@pytest.mark.parametrize("case", CASES)
def test_out_of_transformers_files_and_back(case: str, tmp_path: Path) -> None:
    cfg, net, layout = config_of(case), theirs(case), f"transformers/{CASES[case][3].partition(' ')[0]}"
    net.save_pretrained(tmp_path)
    state = tensorfile.read(tmp_path / "model.safetensors")
    mine = ours(cfg, state, layout)
    assert apart(mine, net, pictures((64, 64))) <= BAR
    back = written(mine, layout)
    assert back.keys() == {n for n in state if not n.endswith(NEVER)}
    assert all(torch.equal(back[n], state[n]) for n in back)
    for shift in (0.0, 0.01):  # the mutation: it reads what was written
        save_file({n: t + shift for n, t in back.items()}, tmp_path / "model.safetensors", {"format": "pt"})
        again = type(net).from_pretrained(tmp_path).eval()
        assert (apart(mine, again, pictures((64, 64))) <= BAR) == (shift == 0), shift


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_of_transformers_matters(case: str) -> None:
    cfg, net, images = config_of(case), theirs(case), pictures((64, 64))
    right = said(ours(cfg, dict(net.state_dict()), f"transformers/{CASES[case][3]}"), images)
    unseen = []
    for called, p in net.named_parameters():
        if "k_proj.bias" in called:  # softmax does not see it
            continue
        held = p.detach().clone()
        for wrong in (torch.zeros_like(p), held.flip(tuple(range(p.ndim)))):
            with torch.no_grad():
                p.copy_(wrong)
            if max(error(x, y) for x, y in zip(said(net, images), right, strict=True)) <= VISIBLE:
                unseen.append(called)
        with torch.no_grad():
            p.copy_(held)
    assert not unseen


# -- files, and other sizes --------------------------------------------------------------------------------------------


def saved(place: Path, name: str, layout: str, classes: int = 1000) -> Path:
    from tessella.weights.guess import shapes_of

    cfg = replace(CATALOG[name].architecture, classes=classes)
    generator = torch.Generator().manual_seed(0)
    tensors = {n: 0.02 * torch.randn(s, generator=generator) for n, s in shapes_of(cfg).items()}
    save_file({n: t.contiguous() for n, t in LAYOUTS[layout].write(tensors, cfg).items()}, place)
    return place


@pytest.mark.parametrize(
    "layout", ["timm/swin", "microsoft/swin", "transformers/swin", "transformers/swin bare in memory"]
)
def test_a_bare_file_is_recognised_and_loads(layout: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "w.safetensors", "swin_t.in1k", layout)
    found = open_weights(file)
    assert found.entry is not None and found.entry.name in ("swin_t.in1k", "swin_t.in22k_ft")
    assert found.card.provenance["layout"] == layout and found.card.licence == "mit"
    net = Classifier(found.network.config)
    net.load_state_dict(found.tensors)


def test_v2_files_do_not_say_their_window(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.safetensors", "swinv2_t_w8.in1k", "timm/swin", classes=4)
    with pytest.raises(BadInput, match=r"fits swinv2_t_w8.in1k, swinv2_t_w16.in1k, .*; add --like NAME"):
        open_weights(file)
    found = open_weights(file, "swinv2_t_w16.in1k").network.config
    assert swin(found).window == 16 and found.classes == 4
    assert candidates(tensorfile.read(file)) == []


def test_one_tensor_that_is_wrong_is_named(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.safetensors", "swin_t.in1k", "timm/swin")
    tensors = tensorfile.read(file)
    del tensors["layers.1.blocks.0.attn.relative_position_bias_table"]
    assert recognise(tensors) == []
    save_file(tensors, file)
    with pytest.raises(BadInput, match=r"1 missing \(layers.1.blocks.0.attn.relative_position_bias_table\)"):
        open_weights(file, "swin_t.in1k")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_another_size_channels_and_classes(version: str) -> None:
    """Windows stay; only where a map of smaller pictures has no room for one the tables of v1 shrink with it."""
    before = ClassifierConfig(
        backbone=SwinConfig(**OURS, version=version),
        pool=PoolConfig(kind="mean"),
        classes=4,  # type: ignore[arg-type]
    )
    tensors = {n: t.clone() for n, t in Classifier(before).state_dict().items()}
    for size, resized in ((128, False), ((96, 64), False), (24, version == "v1")):
        after = replace(before, backbone=replace(swin(before), image_size=size, channels=1, drop_path=0.1), classes=2)
        out, told = transfer(tensors, Network(before), Network(after))
        missing, extra = Classifier(after).load_state_dict(out, strict=False)
        assert set(missing) == {"head.weight", "head.bias"} and not extra
        assert "patches 3 to 1 channels" in str(told) and resized == ("relative positions 4x4 to 3x3" in str(told))
    other = replace(before, backbone=replace(swin(before), window=2))
    with pytest.raises(BadInput, match=r"model.backbone.window is 2, but the weights are of a network with 4"):
        transfer(tensors, Network(before), Network(other))
    with pytest.raises(BadInput, match=r"model.backbone is a ViT, but the weights are of a Swin"):
        transfer(tensors, Network(before), Network(ClassifierConfig()))


def test_offsets_of_a_smaller_window() -> None:
    at = torch.arange(-6.0, 7.0)
    table = torch.stack([at[:, None].expand(13, 13), at[None].expand(13, 13)], dim=2).flatten(0, 1)
    assert offsets(table, (7, 7), (7, 7)) is not None and torch.equal(offsets(table, (7, 7), (7, 7)), table)
    small = offsets(table, (7, 7), (4, 7)).view(7, 13, 2)
    assert small[3].abs()[..., 0].max() < 1e-4 and torch.allclose(small[..., 1], table.view(13, 13, 2)[:7, :, 1])
    assert (small[1:, :, 0] > small[:-1, :, 0]).all(), "the mutation: rows and columns stay what they are"
