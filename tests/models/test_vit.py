"""The backbone by its own rules: what is kept, hidden, padded, walked, recomputed, compiled, initialised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from tessella.config import decode, encode
from tessella.errors import BadInput
from tessella.models.architecture import RotaryConfig
from tessella.models.layers import DropPath
from tessella.models.position import Place
from tessella.models.vit import Tokens, ViT, ViTConfig
from tessella.objectives.objective import Tower

SMALL: dict[str, Any] = dict(image_size=(16, 24), patch_size=8, width=32, depth=3, heads=4)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"embed": "linear", "stride": 4, "channels": 5},
    {"embed": "stem", "stem_convs": 2, "class_token": False, "position": "sincos"},
    {"position": "none", "rotary": RotaryConfig(), "head_size": 12, "registers": 3},
    {"position": "none", "class_token": False, "embed_bias": False, "norm": "rms"},
    {"distill_token": True, "registers": 1, "prefix_position": False, "layer_scale": 0.1, "qk_norm": True},
    {"norm_order": "post", "layer_scale": 0.1, "norm_pre": True, "mlp": "swiglu", "qkv_bias": False},
    {"norm": "rms", "qk_norm": True, "mlp": "gelu_tanh", "final_norm": False, "drop_path": 0.2, "indivisible": "pad"},
    {"position": "none", "relative": True, "registers": 1, "qk_norm": True},
    {"rotary": RotaryConfig(base=1e4, reference=(3, 5)), "mlp": "swiglu", "mlp_norm": True, "attention_norm": True},
    {"mlp": "relu", "mlp_norm": True, "indivisible": "cut", "rotary": RotaryConfig(reference=4, offset=1.0)},
    {"mlp": "relu", "position_dropout": 0.1, "mlp_dropout": 0.1, "projection_dropout": 0.1, "attention_dropout": 0.1},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "plain")


@pytest.fixture(autouse=True)
def _one_thread_one_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def build(**options: Any) -> ViT:
    """A small network in evaluation mode whose tokens and norms are not at their quiet initial values."""
    vit = ViT(ViTConfig(**(SMALL | options))).eval()
    with torch.no_grad():
        for p in vit.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return vit


def pictures(vit: ViT, batch: int = 2, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.randn(batch, vit.cfg.channels, *size)


def tensors(tokens: Tokens) -> list[Tensor]:
    return [t for t in (tokens.cls, tokens.distill, tokens.registers, tokens.patches) if t is not None]


def same(a: Tokens, b: Tokens) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@each_option
def test_init_weights_leaves_no_tensor_out(options: dict[str, Any]) -> None:
    vit = ViT(ViTConfig(**(SMALL | options)))
    everything = dict(vit.named_parameters()) | dict(vit.named_buffers())
    with torch.no_grad():
        for t in everything.values():
            t.fill_(torch.nan)
    vit.init_weights()
    assert [name for name, t in everything.items() if t.isnan().any()] == []
    again = {name: t.clone() for name, t in everything.items()}
    with torch.device("meta"):
        empty = ViT(vit.cfg)
    empty.to_empty(device="cpu").init_buffers()
    assert all(torch.equal(b, again[name]) for name, b in empty.named_buffers())
    assert vit(pictures(vit)).patches.isfinite().all()


def test_initial_values_are_small_and_random() -> None:
    vit = ViT(ViTConfig(**SMALL, norm_order="post", layer_scale=0.1, registers=2))
    assert 0.8 < vit.blocks[0].attn.qkv.weight.std() / (2 / (32 + 96)) ** 0.5 < 1.2
    assert vit.blocks[0].norm1.weight.eq(0.1).all() and vit.norm.weight.eq(1).all()
    assert vit.reg_token.std() > 0.01 and not torch.equal(vit.reg_token[:, 0], vit.reg_token[:, 1])


@each_option
@pytest.mark.parametrize("size", [(16, 24), (32, 16)])
def test_shapes_and_configuration_round_trip(options: dict[str, Any], size: tuple[int, int]) -> None:
    vit = build(**options)
    cfg = vit.cfg
    assert decode(ViTConfig, encode(cfg)) == cfg
    h, w = cfg.grid_of(*size)
    out = vit(pictures(vit, size=size), layers=(2, 0))
    assert out.grid == (h, w) and out.map().shape == (2, 32, h, w)
    assert out.patches.shape == (2, h * w, 32) and out.registers.shape == (2, cfg.registers, 32)
    assert (out.cls is not None, out.distill is not None) == (cfg.class_token, cfg.distill_token)
    assert [m.shape for m in out.layers] == [(2, 32, h, w)] * 2
    normed = vit.norm(out.layers[0].flatten(2).transpose(1, 2))
    assert torch.allclose(normed, out.patches, atol=1e-5)  # block 2 is the last one
    assert not torch.allclose(out.layers[0], out.layers[1], atol=1e-2)
    assert torch.equal(out.map()[:, :, 0, 1], out.patches[:, 1])


@each_option
def test_all_parameters_take_part(options: dict[str, Any]) -> None:
    vit = build(**options).train()
    out = vit(pictures(vit))
    torch.cat([t.flatten(1) for t in tensors(out)], dim=1).square().sum().backward()
    assert [name for name, p in vit.named_parameters() if p.grad is None] == []


@each_option
def test_walk_equals_forward(options: dict[str, Any]) -> None:
    vit = build(**options)
    images = pictures(vit)
    keep = torch.tensor([[3, 0], [1, 2]])
    for kept in (None, keep):
        walk = vit.walk(images, keep=kept)
        seen = [step.index for step in walk]
        assert seen == [0, 1, 2] and same(walk.finish(), vit(images, keep=kept))


def test_walk_can_be_changed() -> None:
    vit = build(position="none", rotary=RotaryConfig())
    images = pictures(vit)
    walk = vit.walk(images)
    for step in walk:  # replacing a block by its own halves changes nothing
        step.replace(step.block.feed(step.block.attend(step.x, step.place)))
    assert same(walk.finish(), vit(images))
    walk = vit.walk(images)
    for step in walk:  # prompts come in behind the class token and go out again
        if step.index == 1:
            prompt = torch.randn(1, 2, 32).expand(2, -1, -1)
            step.x = torch.cat([step.x[:, :1], prompt, step.x[:, 1:]], dim=1)
            step.place = step.place.with_placeless(2, at=1)
    walk.x = torch.cat([walk.x[:, :1], walk.x[:, 3:]], dim=1)
    prompted = walk.finish()
    assert prompted.map().shape == (2, 32, 2, 3) and not same(prompted, vit(images))
    walk = vit.walk(images)
    for step in walk:  # half of the tokens merge: fewer patches, and a map is refused aloud
        if step.index == 0:
            step.replace(step.x[:, :4])
            step.place = step.place.select(torch.arange(4).expand(2, 4))
    assert walk.finish().patches.shape == (2, 3, 32)
    with pytest.raises(BadInput, match="3 patches are no 2x3 map"):
        walk.finish().map()


@each_option
def test_keep_takes_patches_with_their_places(options: dict[str, Any]) -> None:
    vit = build(**options)
    images = pictures(vit)
    count = vit(images).patches.shape[1]
    order = torch.stack([torch.randperm(count) for _ in range(2)])
    whole, shuffled = vit(images), vit(images, keep=order)
    back = order.argsort(dim=1)[..., None].expand(-1, -1, 32)
    assert torch.allclose(shuffled.patches.gather(1, back), whole.patches, atol=1e-5)  # attention knows no order
    few = vit(images, keep=order[:, :2])
    assert few.patches.shape == (2, 2, 32) and few.grid == whole.grid
    alone = vit(images[:1], keep=order[:1, :2])
    assert torch.allclose(alone.patches[0], few.patches[0], atol=1e-5)
    with pytest.raises(BadInput, match="not for both"):
        vit(images, keep=order, layers=(0,))


def test_kept_patches_do_not_see_the_others() -> None:
    vit = build()
    images = pictures(vit, batch=1)
    keep = torch.tensor([[0, 4]])
    before = vit(images, keep=keep).patches
    images[:, :, :8, 8:] = 7.0  # patches 1 and 2
    assert torch.equal(vit(images, keep=keep).patches, before)
    images[:, :, :8, :8] = 7.0  # patch 0
    assert not torch.allclose(vit(images, keep=keep).patches, before)


def test_hidden_patches_are_unseen_but_have_a_place() -> None:
    vit = build()
    images = pictures(vit, batch=1)
    mask, token = torch.zeros(1, 6, dtype=torch.bool), torch.randn(32, requires_grad=True)
    assert same(vit(images, hide=(mask, token)), vit(images))
    mask[0, [1, 5]] = True
    before = vit(images, hide=(mask, token))
    images[:, :, :8, 8:16] = 7.0  # patch 1
    after = vit(images, hide=(mask, token))
    assert same(before, after) and not same(after, vit(images))
    assert not torch.allclose(after.patches[0, 1], after.patches[0, 5])  # same token, different places
    (gradient,) = torch.autograd.grad(after.patches.sum(), token)
    assert gradient.abs().sum() > 0


def test_linear_embedding_equals_convolution() -> None:
    for stride in (None, 4):
        conv = build(stride=stride)
        linear = ViT(replace(conv.cfg, embed="linear")).eval()
        linear.load_state_dict(conv.state_dict())
        images = pictures(conv, size=(24, 16))
        assert torch.allclose(conv(images).patches, linear(images).patches, atol=1e-4)


def test_a_size_that_patches_do_not_tile_is_refused_or_padded() -> None:
    vit = build()
    with pytest.raises(BadInput, match=r"17x24 pixels is not tiled by patches of 8 .* 24x24, or set .*pad"):
        vit(pictures(vit, size=(17, 24)))
    with pytest.raises(BadInput, match="4x24"):
        vit(pictures(vit, size=(4, 24)))
    with pytest.raises(BadInput, match="30x30"):
        ViTConfig(image_size=30, patch_size=8)
    overlapping = build(stride=4)
    assert overlapping(pictures(overlapping, size=(20, 24))).grid == (4, 5)
    with pytest.raises(BadInput, match="patches of 8 every 4"):
        overlapping(pictures(overlapping, size=(18, 24)))
    for options in ({}, {"stride": 4}, {"embed": "stem"}):
        padding = build(indivisible="pad", **options)
        images = pictures(padding, size=(17, 22))
        padded = F.pad(images, (0, 2, 0, 3 if "stride" in options else 7))
        assert same(padding(images), padding(padded))


def test_what_cannot_be_is_refused_with_a_cure() -> None:
    for options, words in [
        ({"width": 30}, "no multiple of model.backbone.heads"),
        ({"rotary": RotaryConfig(), "heads": 16}, "divisible by 4"),
        ({"position": "sincos", "width": 30, "heads": 3}, "divisible by 4"),
        ({"embed": "stem", "patch_size": 12, "image_size": 24}, "no power of two"),
        ({"stride": 9}, "model.backbone.stride"),
        ({"depth": 0}, "model.backbone.depth is 0"),
        ({"drop_path": 1.0}, "model.backbone.drop_path"),
    ]:
        with pytest.raises(BadInput, match=words):
            ViTConfig(**(SMALL | options))
    vit = build()
    with pytest.raises(BadInput, match=r"model.backbone.channels wants \(batch, 3"):
        vit(torch.zeros(2, 1, 16, 24))
    with pytest.raises(BadInput, match="blocks 0 to 2"):
        vit(pictures(vit), layers=(3,))


@each_option
def test_attention_of_equals_the_slow_softmax(options: dict[str, Any]) -> None:
    vit = build(**options)
    for step in vit.walk(pictures(vit)):
        attn, x = step.block.attn, step.x
        q, k, v = attn.queries_keys_values(x if step.block.post else step.block.norm1(x), step.place)
        slow, bias = torch.zeros(2, 4, x.shape[1], x.shape[1]), attn.bias(step.place)
        for b in range(2):
            for head in range(4):
                for i in range(x.shape[1]):
                    scores = torch.stack([q[b, head, i] @ k[b, head, j] for j in range(x.shape[1])])
                    added = 0 if bias is None else bias[0, head, i]
                    slow[b, head, i] = (scores / q.shape[-1] ** 0.5 + added).softmax(0)
        found = step.block.attention_of(x, step.place)
        assert torch.allclose(found, slow, atol=1e-5)
        some = torch.tensor([0, x.shape[1] - 1])
        assert torch.allclose(step.block.attention_of(x, step.place, some), found[:, :, some], atol=1e-6)
        fused = F.scaled_dot_product_attention(q, k, v, bias)
        assert torch.allclose(found @ v, fused, atol=1e-5)  # it is the map that the kernel uses
        if step.index == 1:
            break


def gradients(vit: ViT, images: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(5)
    vit.zero_grad()
    vit(images).patches.square().mean().backward()
    return {name: p.grad.clone() for name, p in vit.named_parameters() if p.grad is not None}


def test_remat_gives_equal_gradients_also_with_dropout() -> None:
    vit = build(drop_path=0.3, mlp_dropout=0.2, attention_dropout=0.1, position="none", rotary=RotaryConfig()).train()
    again = ViT(replace(vit.cfg, remat=True)).train()
    again.load_state_dict(vit.state_dict())
    images = pictures(vit, batch=4)
    plain, recomputed = gradients(vit, images), gradients(again, images)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    drop = DropPath().train()
    drop.rate.fill_(0.25)
    x = torch.ones(4000, 2, 3)
    out = drop(x)
    assert abs(out.mean() - 1) < 0.05
    values = out.flatten(1)
    assert torch.equal(values.amin(1), values.amax(1)) and out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(drop.eval()(x), x)
    vit = ViT(ViTConfig(**SMALL, drop_path=0.2))
    assert [round(b.drop_path2.rate.item(), 6) for b in vit.blocks] == [0.0, 0.1, 0.2]
    assert not any("rate" in name for name in vit.state_dict())


def compiled_blocks(vit: ViT, images: Tensor) -> int:
    torch._dynamo.reset()
    counter = CompileCounter()
    for block in vit.units():
        block.compile(backend=counter)
    vit(images)
    return int(counter.frame_count)


@pytest.mark.parametrize(
    "options", [{}, {"position": "none", "rotary": RotaryConfig()}, {"layer_scale": 0.1, "qk_norm": True}]
)
def test_twelve_blocks_share_one_graph_with_stochastic_depth(options: dict[str, Any]) -> None:
    vit = build(depth=12, drop_path=0.3, **options).train()
    assert compiled_blocks(vit, pictures(vit)) == 1


def test_a_rate_that_is_a_number_would_make_more_graphs() -> None:
    class Number(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.rate = rate

        def forward(self, x: Tensor) -> Tensor:
            return x * (torch.rand(x.shape[0], 1, 1) < 1 - self.rate) / (1 - self.rate)

    vit = build(depth=4, drop_path=0.3).train()
    for i, block in enumerate(vit.blocks):
        block.drop_path1, block.drop_path2 = Number(0.1 * i), Number(0.1 * i)
    assert compiled_blocks(vit, pictures(vit)) > 1  # two since torch makes numbers symbolic, one per block before


@pytest.mark.filterwarnings(
    "ignore:Dynamo detected a call to a `functools.lru_cache`"
)  # pure: tracing through is right
@pytest.mark.parametrize("options", [{}, {"position": "none", "rotary": RotaryConfig()}, {"relative": True}])
def test_forward_is_one_graph(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    vit = build(**options)
    images = pictures(vit, size=(24, 32))  # another size than configured: the resampling is in the graph
    whole = torch.compile(vit, fullgraph=True, backend="eager")
    assert same(whole(images), vit(images))


def test_cutting_is_asked_for_and_leaves_the_rest_out() -> None:
    cutting = build(indivisible="cut")
    images = torch.randn(2, 3, 23, 29)
    assert same(cutting(images), cutting(images[:, :, :16, :24])) and cutting(images).grid == (2, 3)
    with pytest.raises(BadInput, match="a picture of 7x24 pixels is smaller than a patch of 8"):
        cutting(torch.randn(1, 3, 7, 24))


def test_a_table_of_relative_places_is_that_of_another_grid() -> None:
    """Interpolated as transformers does it; tokens without a place keep their own rows."""
    vit = build(position="none", relative=True)
    attention = vit.units()[0].attn
    place = vit.embed(torch.randn(1, 3, 24, 40))[1]
    bias_AQK = attention.bias(place)
    assert bias_AQK is not None and bias_AQK.shape == (1, 4, 16, 16) and place.related is not None
    table = attention.relative_position_bias_table
    assert table is not None
    old = table[:-3].T.reshape(1, 4, 3, 5)
    new = torch.nn.functional.interpolate(old, (5, 9), mode="bilinear")[0]
    assert torch.allclose(bias_AQK[0, :, 1, 2], new[:, 2, 3], atol=1e-6)  # the patch beside on the right
    assert torch.allclose(bias_AQK[0, :, 1, 6], new[:, 1, 4], atol=1e-6)  # the patch below
    assert torch.equal(bias_AQK[0, :, 0, 3], table[-3]) and torch.equal(bias_AQK[0, :, 3, 0], table[-2])
    assert torch.equal(bias_AQK[0, :, 0, 0], table[-1])


def test_tower() -> None:
    vit = build(registers=2, norm_pre=True, layer_scale=0.1)
    assert isinstance(vit, Tower) and vit.units() == list(vit.blocks)
    depths = {name: vit.depth_of(name) for name, _ in vit.named_parameters()}
    assert depths["cls_token"] == depths["patch_embed.proj.weight"] == depths["norm_pre.weight"] == 0
    assert depths["blocks.0.attn.qkv.weight"] == 1 and depths["blocks.2.ls2.gamma"] == 3 and depths["norm.bias"] == 4
    rest = {name for name, _ in vit.named_parameters()} - vit.no_decay()
    assert {name.split(".")[-1] for name in rest} == {"weight"} and not any("norm" in name for name in rest)
    assert {"cls_token", "reg_token", "pos_embed", "norm.weight", "blocks.0.mlp.fc1.bias"} <= vit.no_decay()


def test_bf16_autocast_is_close_to_fp32() -> None:
    vit = build(position="none", rotary=RotaryConfig(), qk_norm=True)
    images = pictures(vit)
    right = vit(images)
    with torch.autocast("cpu", torch.bfloat16):
        rough = vit(images)
    assert (rough.patches.float() - right.patches).abs().max() < 0.05 * right.patches.abs().max()
    assert vit.embed(images)[1] != Place()


@pytest.mark.parametrize(
    ("key", "value"),
    [("registers", -1), ("head_size", 0), ("mlp_ratio", 0.0), ("norm_eps", -1.0)],
)
def test_an_edited_card_with_impossible_numbers_is_refused(key: str, value: float) -> None:
    with pytest.raises(BadInput, match=key):
        ViTConfig(**{key: value})
