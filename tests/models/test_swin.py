"""Swin as a backbone of the house, by its own rules; against its sources: tests/weights/test_swin_parity.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode

import tessella as ts
from tessella.config import decode, encode
from tessella.errors import BadInput
from tessella.explainers.attention import looked_at
from tessella.models.architecture import Backbone, ClassifierConfig, Common, PoolConfig, ViTConfig
from tessella.models.build import network
from tessella.models.classifier import Classifier
from tessella.models.layers import DropPath
from tessella.models.size import blocks_of, inference_bytes, macs, parameters
from tessella.models.staged import SwinConfig
from tessella.models.swin import Swin, apart, joined, padded, parted
from tessella.objectives.classify import Classify, ClassifyConfig
from tessella.objectives.lighten import size_at
from tessella.objectives.objective import Tower
from tessella.training.depths import depths
from tessella.verbs.anomaly import patches_of
from tessella.verbs.check import embeddings
from tessella.weights.guess import shapes_of

SMALL: dict[str, Any] = dict(image_size=(32, 48), width=16, depths=(2, 2), heads=(2, 4), window=4)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"version": "v2", "trained_window": (3, 2)},
    {"window": (5, 3), "channels": 1, "drop_path": 0.3},
    {"version": "v2", "window": 16, "mlp_ratio": 2.0, "mlp_dropout": 0.1, "attention_dropout": 0.1},
    {"depths": (1, 3, 2), "heads": (2, 2, 8), "patch_size": 2, "projection_dropout": 0.1, "window": 3},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "plain")


@pytest.fixture(autouse=True)
def _one_thread_one_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def build(**options: Any) -> Swin:
    """A small network in evaluation mode whose norms and tables are not at their quiet initial values."""
    swin = Swin(SwinConfig(**(SMALL | options))).eval()
    with torch.no_grad():
        for p in swin.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return swin


def classifier(**options: Any) -> Classifier:
    cfg = ClassifierConfig(backbone=SwinConfig(**(SMALL | options)), pool=PoolConfig(kind="mean"), classes=5)
    return Classifier(cfg).eval()


def pictures(channels: int = 3, size: tuple[int, int] = (32, 48), batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


@each_option
def test_init_weights_leaves_no_tensor_out(options: dict[str, Any]) -> None:
    swin = Swin(SwinConfig(**(SMALL | options)))
    everything = dict(swin.named_parameters()) | dict(swin.named_buffers())
    with torch.no_grad():
        for t in everything.values():
            t.fill_(torch.nan if t.is_floating_point() else -(2**40))
    swin.init_weights()
    assert [n for n, t in everything.items() if (t.isnan() if t.is_floating_point() else t < 0).any()] == []
    again = {name: t.clone() for name, t in everything.items()}
    with torch.device("meta"):
        empty = Swin(swin.cfg)
    empty.to_empty(device="cpu").init_buffers()
    assert all(torch.equal(b, again[name]) for name, b in empty.named_buffers())
    assert swin(pictures(swin.cfg.channels)).patches.isfinite().all()


@each_option
@pytest.mark.parametrize("size", [(32, 48), (33, 27), (5, 70)])
def test_any_size_and_the_maps_of_its_stages(options: dict[str, Any], size: tuple[int, int]) -> None:
    swin = build(**options)
    cfg = swin.cfg
    assert decode(SwinConfig, encode(cfg)) == cfg
    last, grids = cfg.maps - 1, cfg.grids_of(*size)
    out = swin(pictures(cfg.channels, size), layers=(last, 0))
    h, w = out.grid
    assert out.grid == grids[-1] and out.map().shape == (2, cfg.features, h, w)
    assert out.patches.shape == (2, h * w, cfg.features) and out.registers.shape == (2, 0, cfg.features)
    assert out.cls is None and out.distill is None
    assert [m.shape for m in out.layers] == [(2, cfg.width_of(i), *grids[i]) for i in (last, 0)]
    normed = swin.norm(out.layers[0].flatten(2).transpose(1, 2))
    assert torch.allclose(normed, out.patches, atol=1e-5)  # before the final norm
    assert torch.equal(out.map().flatten(2)[:, :, -1], out.patches[:, -1])


@each_option
def test_all_parameters_take_part_and_recomputing_changes_nothing(options: dict[str, Any]) -> None:
    swin = build(**options).train()
    found = []
    for remat in (False, True):
        swin.cfg = replace(swin.cfg, remat=remat)
        swin.zero_grad()
        torch.manual_seed(3)
        swin(pictures(swin.cfg.channels)).patches.square().sum().backward()
        found.append({name: p.grad.clone() for name, p in swin.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == dict(swin.named_parameters()).keys()
    assert all(torch.allclose(found[0][n], found[1][n], rtol=1e-4, atol=1e-5) for n in found[0])


def test_windows_are_cut_and_put_together() -> None:
    x = torch.arange(2 * 6 * 8 * 3).view(2, 6, 8, 3).float()
    windows = parted(x, (3, 4))
    assert windows.shape == (2, 4, 12, 3) and torch.equal(joined(windows, (3, 4), (6, 8)), x)
    assert torch.equal(windows[1, 1].view(3, 4, 3), x[1, :3, 4:])
    assert torch.equal(padded(x[:, :5], (3, 4))[:, 5], torch.zeros(2, 8, 3)) and padded(x, (3, 4)) is x


def test_the_mask_parts_what_only_the_shift_brought_together() -> None:
    """Slowly: in a map that was rolled, tokens of a window see each other if the roll left their distance as it was."""
    grid, tile, shift = (8, 9), (4, 3), (2, 1)
    rolled = torch.arange(72).view(8, 9).roll((-2, -1), (0, 1))
    at = parted(rolled[None, :, :, None], tile)[0, ..., 0]  # number of each token before the roll
    here = parted(torch.arange(72).view(1, 8, 9, 1), tile)[0, ..., 0]
    down, across = ((n[:, :, None] - n[:, None]) for n in (at // 9, at % 9))
    now_down, now_across = ((n[:, :, None] - n[:, None]) for n in (here // 9, here % 9))
    neighbours = (down == now_down) & (across == now_across)
    mask = apart(grid, tile, shift, torch.device("cpu"))
    assert torch.equal(mask == 0, neighbours) and mask.min() == -100 and not neighbours.all()
    assert not apart(grid, tile, (0, 0), torch.device("cpu")).any()
    assert not torch.equal(apart(grid, tile, (1, 1), torch.device("cpu")) == 0, neighbours)  # the mutation


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_shifted_map_looks_no_further_than_its_windows(version: str) -> None:
    """Also padded: a token at the lower rim is not changed by one at the upper."""
    swin = build(version=version, image_size=36, depths=(2,), heads=(2,))  # 9 x 9 tokens in windows of 4
    assert swin.units()[1].shift == (2, 2)
    x = torch.randn(1, 9, 9, 16)
    other = x.clone()
    other[:, 0] = torch.randn(1, 9, 16)
    moved = (swin.units()[1](other) - swin.units()[1](x)).detach().abs().amax((0, 2, 3))
    assert moved[0] > 0.1 and moved[1] > 1e-4 and not moved[2:].any()  # the first window of the shifted map has 2 rows


def test_a_window_shrinks_to_its_map_and_then_does_not_shift() -> None:
    cfg = SwinConfig(image_size=(112, 448))  # timm's rule, by the configured size
    assert cfg.grids_of(*cfg.size) == ((28, 112), (14, 56), (7, 28), (4, 14))
    assert [cfg.tile(i) for i in range(4)] == [(7, 7), (7, 7), (7, 7), (4, 7)]
    assert [cfg.shift(i) for i in range(4)] == [(3, 3), (3, 3), (0, 3), (0, 3)]
    assert [SwinConfig(window=(7, 7, 14, 7)).tile(i) for i in range(4)] == [(7, 7), (7, 7), (14, 14), (7, 7)]


def test_what_it_cannot_do_is_refused() -> None:
    swin = build()
    for asked in ({"keep": torch.zeros(2, 3, dtype=torch.long)}, {"hide": (torch.zeros(2, 96), torch.zeros(16))}):
        with pytest.raises(BadInput, match="a Swin cannot leave out or hide patches"):
            swin(pictures(), **asked)
    with pytest.raises(BadInput, match=r"layers \[2\] do not exist; this network has stages 0 to 1"):
        swin(pictures(), layers=(2,))
    with pytest.raises(BadInput, match=r"model.backbone.channels wants \(batch, 3, height, width\)"):
        swin(pictures(4))
    with pytest.raises(BadInput, match="a Swin merges tokens"):
        looked_at(classifier(), pictures())
    with pytest.raises(BadInput, match=r"patch_dropout is 0.5, but a Swin needs all patches"):
        Classify(ClassifyConfig(patch_dropout=0.5), classifier())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"depths": (2, 0)}, "model.backbone.depths"),
        ({"depths": (), "heads": ()}, "model.backbone.depths"),
        ({"heads": (2, 4, 8)}, "heads is (2, 4, 8); give 2 numbers"),
        ({"heads": (3, 4)}, "the width 16 of stage 0 is no multiple of its 3 heads"),
        ({"window": (4,)}, "window is (4,); give 2 numbers"),
        ({"window": 0}, "model.backbone.window is 0"),
        ({"trained_window": (4, 4)}, "trained_window is of v2"),
        ({"width": 0}, "model.backbone.width is 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"image_size": 0}, "image_size is 0"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as told:
        SwinConfig(**(SMALL | options))
    assert says in str(told.value)


def test_only_the_mean_pools_it() -> None:
    for kind in ("cls", "attention"):
        with pytest.raises(BadInput, match=r'set model.pool.kind = "mean"'):
            ClassifierConfig(backbone=SwinConfig(), pool=PoolConfig(kind=kind))  # type: ignore[arg-type]


def test_every_backbone_answers_what_the_house_asks() -> None:
    """The protocol Common, without which `Backbone` would be a list of names."""
    asked = [n for n in vars(Common) if not n.startswith("_")]
    each: list[Backbone] = [ViTConfig(), SwinConfig()]
    assert len(asked) > 10 and all(getattr(cfg, name) is not None for cfg in each for name in asked)
    assert SwinConfig().step == SwinConfig().least == 32 and SwinConfig().features == 768


def test_a_card_from_before_has_a_vit() -> None:
    plain = encode(ClassifierConfig(backbone=ViTConfig(width=96, heads=3)))
    assert plain["backbone"].pop("type") == "ViTConfig"
    assert decode(ClassifierConfig, plain).backbone == ViTConfig(width=96, heads=3)
    swin = encode(classifier().cfg)
    assert decode(ClassifierConfig, swin) == classifier().cfg
    del swin["backbone"]["type"]
    with pytest.raises(BadInput, match="backbone has no key"):
        decode(ClassifierConfig, swin)
    net = network(encode(classifier().cfg.backbone))
    assert isinstance(net, Swin)


@each_option
def test_tower(options: dict[str, Any]) -> None:
    net = classifier(**options)
    cfg = net.cfg.backbone
    assert isinstance(net, Tower) and isinstance(net.backbone, Tower) and len(net.units()) == cfg.depth
    places = {name: net.backbone.depth_of(name) for name, _ in net.backbone.named_parameters()}
    for i, unit in enumerate(net.units()):
        inside = {id(p) for p in unit.parameters()}
        assert {places[n] for n, p in net.backbone.named_parameters() if id(p) in inside} == {i + 1}
    first = cfg.depths[0] + 1  # of the second stage: what merges learns with it
    assert places["layers.1.downsample.reduction.weight"] == places["layers.1.blocks.0.norm1.weight"] == first
    assert places["patch_embed.norm.weight"] == 0 and places["norm.bias"] == cfg.depth + 1
    assert net.depth_of("head.weight") == cfg.depth + 1 and depths(net)["head.weight"].last == cfg.depth + 1
    rates = [p.rate.item() for p in net.modules() if isinstance(p, DropPath)]
    wanted = [cfg.drop_path * i / (cfg.depth - 1) for i in range(cfg.depth) for _ in (0, 1)]
    assert rates == (pytest.approx(wanted) if cfg.drop_path else [])
    spared = net.no_decay()
    kinds = ("relative_position_bias_table", "logit_scale", "cpb_mlp.0.weight", "cpb_mlp.2.weight")
    for name, p in net.named_parameters():
        assert (name in spared) == (p.ndim < 2 or name.endswith(kinds)), name
    attention = net.units()[0].attn
    assert [(w.shape, n) for w, n in attention.stacked()] == [((48, 16), 3)]


@each_option
def test_sizes_by_arithmetic_equal_the_network(options: dict[str, Any]) -> None:
    net = classifier(**options)
    cfg = net.cfg
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, cfg.backbone.channels, *cfg.backbone.size))
    assert counter.get_total_flops() == 2 * macs(cfg)
    assert sum(p.numel() for p in net.parameters()) == parameters(cfg)
    found = counter.get_flop_counts()
    inside = sum(sum(each.values()) for name, each in found.items() if name.split(".")[-2:-1] == ["blocks"])
    held = sum(p.numel() for unit in net.units() for p in unit.parameters())
    share = blocks_of(cfg)
    assert share.macs == pytest.approx(inside / counter.get_total_flops())
    assert share.parameters == pytest.approx(held / parameters(cfg))
    assert inference_bytes(cfg) > 4 * parameters(cfg)


def test_it_compiles_to_one_graph_a_stage_and_shift() -> None:
    net = build(drop_path=0.2).train()
    torch._dynamo.reset()
    counter = CompileCounter()
    x = torch.randn(2, 8, 12, 16)
    for block in net.stages()[0].units() * 2:
        compiled = torch.compile(block, backend=counter, fullgraph=True)
        assert compiled(x).shape == x.shape
    assert counter.frame_count <= 2
    torch._dynamo.reset()


def test_bf16_autocast_is_close_to_fp32() -> None:
    for version in ("v1", "v2"):
        swin = build(version=version)
        exact = swin(pictures()).patches
        with torch.autocast("cpu", torch.bfloat16):
            rough = swin(pictures()).patches
        assert (rough - exact).abs().max() / exact.abs().max() < 0.06


def test_growing_pictures_need_no_padding() -> None:
    cfg = SwinConfig()
    sizes = {size_at(share, 0.5, (224, 224), cfg) for share in (0.0, 0.3, 0.6, 1.0)}
    assert (224, 224) in sizes and min(sizes) == (96, 96) and all(h % 32 == 0 for h, _ in sizes)
    assert size_at(0.0, 0.5, (28, 20), cfg) == (28, 20)  # smaller than the least: as they are


def test_features_of_checks_and_anomalies() -> None:
    net = classifier()
    pooled, deep = embeddings(net, pictures())
    assert pooled.shape == (2, 32) and deep.shape[0] == 2 and deep.shape[1] >= 96
    found = patches_of(net, pictures())
    assert found.ndim == 3 and torch.allclose(found.norm(dim=2), torch.ones(found.shape[:2]), atol=1e-5)


# -- through the verbs -------------------------------------------------------------------------------------------------

TRAINED = {
    "train.steps": 12, "train.batch": 8, "data.workers": 0, "train.device": "cpu", "train.precision": "fp32",
    "train.ema": None, "train.lr": 2e-3, "train.warmup": 2, "objective.start_size": 0.5, "size": 32,
    "model.backbone.width": 16, "model.backbone.depths": (2, 2), "model.backbone.heads": (2, 4),
    "model.backbone.window": 4, "model.backbone.patch_size": 2,
}  # fmt: skip


def test_train_evaluate_predict_embed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "photos"
    commands.photos(place / "train")
    commands.photos(place / "val", each=3, seed=1)
    for version in ("v1", "v2"):
        settings = TRAINED | {"folder": str(tmp_path / version), "model.backbone.version": version}
        done = ts.train(place, model="swin_t", recipe="scratch", settings=settings)
        model = done.load()
        assert isinstance(model.network, Classifier) and isinstance(model.network.backbone, Swin)
        files = sorted((place / "val").rglob("*.png"))
        logits, features = model.logits(files), model.embed(files)
        assert logits.shape == (len(files), 3) and features.shape == (len(files), 32)
        weight, bias = (p.detach().numpy() for p in (model.network.head.weight, model.network.head.bias))
        assert np.allclose(features @ weight.T + bias, logits, atol=1e-4)
        assert len(list(model.predict(files))) == len(files)
        assert 0 <= ts.evaluate(done.folder, place).metrics["top1"] <= 1
        same = {key: value for key, value in TRAINED.items() if key.startswith(("train.", "data."))}
        same |= {"train.warmup": 1, "train.steps": 2, "folder": str(tmp_path / version / "more")}
        more = ts.train(place, settings=same | {"weights": str(done.folder), "size": 48})
        assert "loaded" in capfd.readouterr().err and more.load().logits(files).shape == (len(files), 3)
        timm = pytest.importorskip("timm")
        theirs = timm.create_model(
            {"v1": "swin_tiny_patch4_window7_224", "v2": "swinv2_tiny_window8_256"}[version], img_size=32, patch_size=2,
            embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=3,
        ).eval()  # fmt: skip
        from safetensors.torch import load_file

        theirs.load_state_dict(load_file(done.folder / "model" / "model.safetensors"))  # strictly
        images = torch.randn(1, 3, 32, 32)
        assert torch.allclose(theirs(images), model(images), atol=1e-5)
        assert shapes_of(model.network.cfg).keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_training_lowers_the_loss(version: str) -> None:
    net = classifier(version=version, drop_path=0.1).train()
    objective = Classify(ClassifyConfig(smoothing=0.0), net)
    batch = {"ids": list("abcde"), "image": pictures(batch=5), "label": torch.arange(5)}
    optimiser, seen = torch.optim.AdamW(net.parameters(), lr=3e-3), []
    for _ in range(30):
        loss = objective(batch, 0.5)[0]["label"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    assert seen[0] == pytest.approx(np.log(5), abs=0.2) and seen[-1] < 0.5 * seen[0]
