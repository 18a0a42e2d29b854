"""CvT against transformers', small and redrawn with its statistics: tokens, maps and logits of pictures of any size."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch._dynamo
from redrawn import BAR, VISIBLE, error, redraw
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode

from tessella.config import encode
from tessella.errors import BadInput
from tessella.explainers.attention import looked_at
from tessella.models.architecture import ClassifierConfig, Common, PoolConfig
from tessella.models.build import network
from tessella.models.classifier import Classifier
from tessella.models.cvt import CvT
from tessella.models.size import blocks_of, inference_bytes, macs, parameters
from tessella.models.staged import CvTConfig
from tessella.objectives.classify import Classify, ClassifyConfig
from tessella.objectives.lighten import size_at
from tessella.objectives.objective import Tower
from tessella.verbs.anomaly import patches_of
from tessella.verbs.check import embeddings
from tessella.weights.layouts import LAYOUTS

hf = pytest.importorskip("transformers")

SMALL = CvTConfig(image_size=(32, 48), widths=(16, 24, 32), depths=(1, 2, 3), heads=(1, 3, 2))
SIZES = ((32, 48), (64, 32), (37, 51), (5, 3))  # tiled by the total stride, and not


class QuickGelu(nn.Module):
    """As the authors of CvT have it; transformers computes the exact one with the same weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


@cache
def theirs(activation: str) -> nn.Module:
    cfg = hf.CvtConfig(
        embed_dim=list(SMALL.widths), depth=list(SMALL.depths), num_heads=list(SMALL.heads), num_labels=7
    )
    net: nn.Module = hf.CvtForImageClassification(cfg).eval()
    if activation == "quick_gelu":
        for layer in net.modules():
            if type(layer).__name__ == "CvtIntermediate":
                layer.activation = QuickGelu()
    redraw(net)
    with torch.no_grad():  # so narrow a network would mix nearly evenly, and what makes the scores would not show
        for name, p in net.named_parameters():
            if "attention.attention" in name and p.ndim > 1:
                p.mul_(5)
    return net


def read(net: nn.Module) -> dict[str, Tensor]:
    return LAYOUTS["transformers/cvt"].read(net.state_dict(), SMALL).tensors


@cache
def ours(activation: Any) -> CvT:
    net = CvT(replace(SMALL, mlp=activation)).eval()
    net.load_state_dict({name: t for name, t in read(theirs(activation)).items() if not name.startswith("head.")})
    return net


@cache
def head(activation: str) -> nn.Linear:
    linear = nn.Linear(SMALL.widths[-1], 7)
    linear.load_state_dict({n.removeprefix("head."): t for n, t in read(theirs(activation)).items() if "head" in n})
    return linear


@torch.no_grad()
def apart(activation: str, size: tuple[int, int]) -> float:
    """Of the maps of all stages, the normalised tokens, and the logits."""
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    other: Any = theirs(activation)
    out, told = other.cvt(images, output_hidden_states=True), other(images).logits
    tokens = ours(activation)(images, layers=[0, 1, 2])
    normed = other.layernorm(torch.cat([out.cls_token_value, out.last_hidden_state.flatten(2).mT], dim=1))
    assert tokens.cls is not None and tokens.grid == SMALL.grids_of(*size)[-1]
    assert [(m.shape[2], m.shape[3]) for m in tokens.layers] == list(SMALL.grids_of(*size))
    logits = head(activation)(tokens.cls)
    pairs = [*zip(tokens.layers, out.hidden_states, strict=True), (tokens.together(), normed), (logits, told)]
    return max(error(mine, wanted) for mine, wanted in pairs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_maps_tokens_and_logits_are_transformers(activation: str, size: tuple[int, int]) -> None:
    assert apart(activation, size) <= BAR


def test_the_activation_shows() -> None:
    """The mutation, and the reason why the catalogue has another than transformers."""
    with torch.no_grad():
        images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
        other = CvT(replace(SMALL, mlp="quick_gelu")).eval()
        other.load_state_dict(ours("gelu").state_dict())
        assert error(other(images).patches, ours("gelu")(images).patches) > VISIBLE


def shown(name: str, wrong: Tensor) -> bool:
    """Whether this tensor of theirs, made wrong, moves what is compared; it is put right again."""
    net = theirs("gelu")
    tensor = dict(net.named_parameters()) | dict(net.named_buffers())
    right = tensor[name].detach().clone()
    with torch.no_grad():
        tensor[name].copy_(wrong)
    seen = apart("gelu", SIZES[0]) > VISIBLE
    with torch.no_grad():
        tensor[name].copy_(right)
    return seen


def shift_of_keys(name: str) -> bool:
    """What moves all keys alike, which softmax forgets. In the last stage the class token's key is not convolved, so
    that a shift of the others shows."""
    if name.endswith("projection_key.bias"):
        return True
    moved = "convolution_projection_key" in name and name.endswith((".normalization.bias", ".running_mean"))
    return moved and "stages.2" not in name


def test_every_tensor_matters() -> None:
    net = theirs("gelu")
    named = [*net.named_parameters(), *((n, b) for n, b in net.named_buffers() if b.ndim)]
    unseen = [
        f"{name} {how}"
        for name, p in named
        for how, wrong in (("zeroed", torch.zeros_like(p)), ("permuted", p.detach().flip(tuple(range(p.ndim)))))
        if shown(name, wrong) == shift_of_keys(name)
    ]
    assert not unseen and apart("gelu", SIZES[0]) <= BAR


def test_round_trip() -> None:
    """Bit for bit; what is left out is how many batches the statistics are of."""
    net = theirs("gelu")
    state, table = net.state_dict(), LAYOUTS["transformers/cvt"]
    found = table.read(state, SMALL)
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert set(found.left) == counters and len(counters) == 3 * SMALL.depth
    back = table.write(found.tensors, SMALL)
    assert back.keys() == state.keys() - counters and all(torch.equal(back[n], state[n]) for n in back)
    other = hf.CvtForImageClassification(net.config)
    other.load_state_dict(back)  # strictly: torch begins to count again
    meta = LAYOUTS["microsoft/cvt"]
    assert meta.write(found.tensors, SMALL).keys() == found.tensors.keys()
    assert "stage2.blocks.1.attn.conv_proj_q.bn.running_var" in found.tensors


def test_training_moves_no_statistics_and_no_neighbour() -> None:
    net = CvT(SMALL).train()
    net.load_state_dict(ours("quick_gelu").state_dict())
    held = {name: t.clone() for name, t in net.named_buffers()}
    images = torch.randn(3, 3, 32, 48)
    whole = net(images).patches
    assert error(net(images[:1]).patches, whole[:1]) <= BAR
    whole.sum().backward()
    assert all(torch.equal(held[name], t) for name, t in net.named_buffers())
    assert "stage0.blocks.0.attn.conv_proj_q.bn.running_mean" in held


@pytest.mark.parametrize("remat", [False, True])
def test_gradients_reach_everything(remat: bool) -> None:
    net = CvT(replace(SMALL, remat=remat, drop_path=0.1))
    tokens = net(torch.randn(2, 3, 32, 48))
    assert tokens.cls is not None
    (tokens.cls.square().sum() + tokens.patches.square().sum()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_init_weights_leaves_no_tensor_out() -> None:
    net = CvT(replace(SMALL, drop_path=0.1))
    everything = dict(net.named_parameters()) | dict(net.named_buffers())
    with torch.no_grad():
        for t in everything.values():
            t.fill_(torch.nan)
    net.init_weights()
    assert [name for name, t in everything.items() if t.isnan().any()] == []
    rates = [block.drop_path1.get_buffer("rate").item() for block in net.units()]
    assert rates[0] == 0 and rates == sorted(rates) and rates[-1] == pytest.approx(0.1)


def test_tower() -> None:
    net = CvT(SMALL)
    assert isinstance(net, Tower) and len(net.units()) == SMALL.depth == 6
    depths = {name: net.depth_of(name) for name, _ in net.named_parameters()}
    assert depths["stage0.patch_embed.proj.weight"] == 0 and depths["norm.bias"] == 7
    assert depths["stage0.blocks.0.mlp.fc1.bias"] == 1 and depths["stage1.patch_embed.norm.bias"] == 2
    assert depths["stage2.cls_token"] == 4 and depths["stage2.blocks.2.attn.proj_k.weight"] == 6
    assert {"stage2.cls_token", "stage1.blocks.0.attn.conv_proj_k.bn.weight"} <= net.no_decay()
    assert all(net.get_parameter(name).ndim >= 2 for name in depths.keys() - net.no_decay())


def test_the_map_of_a_block_is_what_it_mixes() -> None:
    net = ours("quick_gelu")
    stage = net.stages()[0]
    with torch.no_grad():
        x, grid = stage.embed(torch.randn(2, 3, 32, 48))
        block = stage.units()[0]
        seen = block.attention_of(x, grid)
        assert seen.shape == (2, 1, 8 * 12, 4 * 6) and torch.allclose(seen.sum(-1), torch.ones(2, 1, 96))
        _, _, v = block.attn.queries_keys_values(block.norm1(x), grid)
        mixed = block.attn.proj((seen @ v).transpose(1, 2).flatten(2))
        assert error(mixed, block.attn(block.norm1(x), grid)) <= BAR


def test_what_cannot_be_is_refused() -> None:
    net, images = CvT(SMALL), torch.randn(1, 3, 32, 32)
    with pytest.raises(BadInput, match="cannot leave out or hide patches"):
        net(images, keep=torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(BadInput, match=r"layers \[3\] do not exist; this network has stages 0 to 2"):
        net(images, layers=[3])
    with pytest.raises(BadInput, match="of at least 3 px"):
        net(torch.randn(1, 3, 32, 2))
    for wrong, says in (
        ({"depths": (1, 2)}, r"depths is \(1, 2\); give 3 numbers"),
        ({"heads": (1, 5, 2)}, "24, no multiple of its 5 heads"),
        ({"image_size": 2}, "give at least 3 px"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
    ):
        with pytest.raises(BadInput, match=says):
            replace(SMALL, **wrong)  # type: ignore[arg-type]


# -- as a backbone of the house ----------------------------------------------------------------------------------------


def classifier(**options: Any) -> Classifier:
    return Classifier(ClassifierConfig(backbone=replace(SMALL, **options), classes=5)).eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"image_size": (37, 51), "channels": 1}, {"depths": (2, 1), "widths": (16, 24), "heads": (2, 3)}],
)
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


def test_it_answers_what_the_house_asks() -> None:
    cfg = CvTConfig()
    assert all(getattr(cfg, name) is not None for name in vars(Common) if not name.startswith("_"))
    assert (cfg.step, cfg.features, cfg.depth, cfg.looks) == (16, 384, 13, "CvT, widths 64-192-384, depths 1-2-10")
    assert cfg.tiles(3) and not cfg.tiles(2) and size_at(0.0, 0.5, (224, 224), cfg) == (112, 112)
    net = classifier()
    again = network(encode(net.cfg), empty=True).eval()
    again.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 32, 48)
    assert torch.equal(again(images), net(images)) and isinstance(network(encode(SMALL)), CvT)
    pooled, deep = embeddings(net, images)
    assert pooled.shape == (2, 32) and deep.shape[0] == 2 and patches_of(net, images).ndim == 3
    with pytest.raises(BadInput, match="a CvT merges tokens"):
        looked_at(net, images)
    with pytest.raises(BadInput, match=r"patch_dropout is 0.5, but a CvT needs all patches"):
        Classify(ClassifyConfig(patch_dropout=0.5), net)
    for kind in ("mean", "attention"):
        pool = PoolConfig(kind=kind)  # type: ignore[arg-type]
        if kind == "mean":
            assert Classifier(ClassifierConfig(backbone=SMALL, pool=pool, classes=3))(images).shape == (2, 3)
        else:
            with pytest.raises(BadInput, match="which only a ViT has"):
                ClassifierConfig(backbone=SMALL, pool=pool)


def test_it_compiles_to_one_graph_a_stage() -> None:
    net = classifier(drop_path=0.2).train()
    stage = net.backbone.get_submodule("stage2")
    torch._dynamo.reset()
    counter, x = CompileCounter(), torch.randn(2, 1 + 12, 32)
    for block in stage.get_submodule("blocks").children():
        compiled = torch.compile(block, backend=counter, fullgraph=True)
        assert compiled(x, (3, 4)).shape == x.shape
    assert counter.frame_count == 1
    torch._dynamo.reset()
