"""What becomes of each tensor when a network starts from another's weights: any size, any channels, any classes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from redrawn import BAR, VISIBLE, error, redraw
from torch import Tensor

from tessella.card import Head
from tessella.errors import BadInput
from tessella.models.architecture import ClassifierConfig, PoolConfig, RotaryConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.weights import native
from tessella.weights import transfer as moving
from tessella.weights.transfer import Network, channels, difference, patches, positions, transfer

TINY = ViTConfig(image_size=32, patch_size=8, width=16, depth=2, heads=2)
NAMES = ("ant", "bee", "cow", "dog")


def head(*classes: str, name: str = "label") -> tuple[Head, ...]:
    return (Head(name=name, task="classify", classes=classes),)


def network(heads: tuple[Head, ...] = head(*NAMES), pool: PoolConfig | None = None, **backbone: object) -> Network:
    count = sum(h.outputs for h in heads)
    cfg = ClassifierConfig(backbone=replace(TINY, **backbone), pool=pool or PoolConfig(), classes=count)
    return Network(cfg, heads)


def tensors_of(net: Network, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {n: torch.randn(t.shape) for n, t in Classifier(net.config).state_dict().items()}


def loaded(net: Network, tensors: dict[str, Tensor], seed: int = 1) -> Classifier:
    torch.manual_seed(seed)
    built = Classifier(net.config).eval()
    built.load_state_dict({**built.state_dict(), **tensors})
    return built


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_the_same_network_is_taken_as_it_is() -> None:
    net = network()
    tensors = tensors_of(net)
    out, told = transfer(tensors, net, net)
    assert out.keys() == tensors.keys() and all(torch.equal(out[n], tensors[n]) for n in out)
    assert told.loaded == len(tensors) - 2 and str(told) == f"loaded {told.loaded} tensors; head kept: 4 outputs"


@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seen=st.integers(1, 13),
    wanted=st.integers(1, 13),
    classes=st.integers(1, 6),
    registers=st.integers(0, 2),
    prefixed=st.booleans(),
    pooled=st.sampled_from(["cls", "mean"]),
)
def test_any_size_channels_and_classes(
    grid: tuple[int, int], seen: int, wanted: int, classes: int, registers: int, prefixed: bool, pooled: str
) -> None:
    """The result has all that the new network needs but the head, in its shapes, and says what it did."""
    pool = PoolConfig(kind=pooled)  # type: ignore[arg-type]
    source = network(pool=pool, channels=seen, registers=registers, prefix_position=prefixed)
    size = (8 * grid[0], 8 * grid[1])
    other = head(*(f"new {i}" for i in range(classes)))
    target = network(other, pool, channels=wanted, image_size=size, registers=registers, prefix_position=prefixed)
    tensors = tensors_of(source)
    out, told = transfer(tensors, source, target)
    shapes = {n: t.shape for n, t in Classifier(target.config).state_dict().items()}
    assert {n: t.shape for n, t in out.items()} == {n: s for n, s in shapes.items() if not n.startswith("head.")}
    moved = {"backbone.pos_embed": grid != (4, 4), "backbone.patch_embed.proj.weight": seen != wanted}
    changed = {name for name, has in moved.items() if has}
    assert all(torch.equal(out[n], tensors[n]) for n in out.keys() - changed)
    assert (told.loaded, len(told.resized)) == (len(out) - len(changed), len(changed))
    assert f"head new: {classes} outputs instead of 4" in str(told) and "\n" not in str(told)


def test_a_changed_tensor_is_seen() -> None:
    """The mutation beside the test above: one block's weights in another's place."""
    net = network()
    tensors = tensors_of(net)
    swapped = dict(tensors)
    swapped["backbone.blocks.0.attn.qkv.weight"] = tensors["backbone.blocks.1.attn.qkv.weight"]
    x = torch.randn(2, 3, 32, 32)
    same = loaded(net, transfer(tensors, net, net)[0])(x)
    assert torch.equal(same, loaded(net, tensors)(x))
    assert not torch.allclose(same, loaded(net, transfer(swapped, net, net)[0])(x), atol=1e-3)


# -- positions and channels --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 3))
def test_positions_are_resampled_and_the_prefix_stays(grid: tuple[int, int], registers: int) -> None:
    cfg = replace(TINY, registers=registers)
    table = torch.randn(1, 16 + 1 + registers, 16)
    out = positions(table, cfg, grid)
    assert torch.equal(out[:, : 1 + registers], table[:, : 1 + registers])
    grown = table[:, 1 + registers :].view(1, 4, 4, 16).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grown, grid, mode="bicubic", antialias=True).permute(0, 2, 3, 1)
    assert torch.allclose(out[:, 1 + registers :].view(1, *grid, 16), wanted, atol=1e-5)
    if grid[0] != grid[1] and grid[0] > 1 and grid[1] > 1:  # the mutation: rows for columns
        turned = positions(table, cfg, (grid[1], grid[0]))
        assert not torch.allclose(out, turned, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 14), st.integers(0, 1000))
def test_channels_as_timm_does_it(wanted: int, seed: int) -> None:
    manipulate = pytest.importorskip("timm.models._manipulate")
    torch.manual_seed(seed)
    weight = torch.randn(5, 3, 2, 2)
    known = manipulate.adapt_input_conv(wanted, weight.clone())
    assert torch.allclose(channels(weight, wanted) if wanted != 3 else weight, known, atol=1e-6)
    if wanted > 3:  # the mutation: repeated channel by channel instead of in turn
        assert not torch.allclose(weight.repeat_interleave(5, 1)[:, :wanted] * 3 / wanted, known, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 14))
def test_alike_channels_give_what_they_gave(have: int, wanted: int) -> None:
    """A picture whose channels are all the same is seen as before, whenever one number divides the other or is 1."""
    weight, pixel = torch.randn(5, have, 2, 2), torch.randn(1, 1, 2, 2)
    out = channels(weight, wanted)
    assert out.shape == (5, wanted, 2, 2)
    if wanted % have == 0:
        seen, before = (out * pixel).sum((1, 2, 3)), (weight * pixel).sum((1, 2, 3))
        assert torch.allclose(seen, before, atol=1e-4)


# -- patches of other sizes --------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 24), st.integers(2, 24), st.integers(0, 1000))
def test_patches_as_timm_resizes_them(have: int, wanted: int, seed: int) -> None:
    resized = pytest.importorskip("timm.layers.patch_embed").resample_patch_embed
    torch.manual_seed(seed)
    weight = torch.randn(5, 3, have, have)
    ours, theirs = patches(weight, wanted), resized(weight, [wanted, wanted])
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    if have != wanted:  # the mutation: resized as a picture would be
        picture = torch.nn.functional.interpolate(weight, (wanted, wanted), mode="bicubic", antialias=True)
        assert (picture - theirs).abs().max() > 1e-3 * theirs.abs().max()


@pytest.mark.parametrize(("patch", "size"), [(4, 32), (16, 48), (6, 36)])
def test_a_whole_network_as_timm_takes_it_over(patch: int, size: int) -> None:
    """Patches and positions together, as timm loads FlexiViT at another size of patches."""
    timm = pytest.importorskip("timm.models.vision_transformer")
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}
    old, new = (timm.VisionTransformer(img_size=s, patch_size=p, **sizes).eval() for s, p in ((32, 8), (size, patch)))
    redraw(old)
    new.load_state_dict(timm.checkpoint_filter_fn(old.state_dict(), new))
    source, target = network(), network(patch_size=patch, image_size=size)
    names = native.from_file({"type": "ClassifierConfig"}, old.state_dict())
    out, _ = transfer({names[n]: t for n, t in old.state_dict().items()}, source, target)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        theirs = new(images)
        assert error(loaded(target, out)(images), theirs) <= BAR
        table = "backbone.pos_embed"
        assert error(loaded(target, out | {table: out[table].flip(1)})(images), theirs) > VISIBLE, "the mutation"


@pytest.mark.parametrize(("wanted", "channels"), [(16, 3), (12, 3), (16, 1)])
def test_an_enlarged_patch_gives_the_same_token(wanted: int, channels: int) -> None:
    """Each patch enlarged by itself: its token is the same; positions stay where the grid does."""
    source = network()
    target = network(patch_size=wanted, image_size=4 * wanted, channels=channels)
    tensors = tensors_of(source)
    out, told = transfer(tensors, source, target)
    sides = f"patches 8 to {wanted} px" + (", 3 to 1 channels" if channels == 1 else "")
    assert told.resized == (sides,) and torch.equal(out["backbone.pos_embed"], tensors["backbone.pos_embed"])
    images = torch.randn(2, 1, 4, 4, 8, 8).expand(2, 3, 4, 4, 8, 8)  # pictures, channels, grid, pixels
    large = torch.nn.functional.interpolate(
        images.reshape(-1, 1, 8, 8), (wanted, wanted), mode="bicubic", antialias=True
    )
    large = large.view(2, 3, 4, 4, wanted, wanted)[:, :channels]

    def together(patches: Tensor) -> Tensor:
        return patches.permute(0, 1, 2, 4, 3, 5).reshape(2, patches.shape[1], 4 * patches.shape[4], -1)

    before, after = loaded(source, tensors)(together(images)), loaded(target, out)(together(large))
    assert (before - after).abs().max() <= 1e-4 * before.abs().max()
    turned = out | {"backbone.patch_embed.proj.weight": out["backbone.patch_embed.proj.weight"].flip(3)}
    assert (before - loaded(target, turned)(together(large))).abs().max() > 1e-2 * before.abs().max(), "the mutation"


def test_smaller_patches_see_a_smooth_picture_alike() -> None:
    """Half the side of a patch and of the picture: on average the logits move by little; resized as a picture would be,
    without the least squares, by far more."""
    source = network()
    target = network(patch_size=4, image_size=16)
    tensors = tensors_of(source)
    weight = tensors["backbone.patch_embed.proj.weight"]
    tensors["backbone.patch_embed.proj.weight"] = torch.nn.functional.avg_pool2d(weight, 5, 1, 2)  # as learned: smooth
    out, told = transfer(tensors, source, target)
    assert told.resized == ("patches 8 to 4 px",)
    coarse = torch.randn(64, 3, 4, 4)
    large, small = (
        torch.nn.functional.interpolate(coarse, (n, n), mode="bicubic", align_corners=False) for n in (32, 16)
    )
    before = loaded(source, tensors)(large)

    @torch.no_grad()
    def moved(weights: Tensor) -> float:
        after = loaded(target, out | {"backbone.patch_embed.proj.weight": weights})(small)
        return float((after - before).norm() / (before - before.mean(0)).norm())

    right = out["backbone.patch_embed.proj.weight"]
    plain = torch.nn.functional.interpolate(tensors["backbone.patch_embed.proj.weight"], (4, 4), mode="area")
    assert 3 * moved(right) < 0.5 < moved(plain), "the mutation"


def test_where_patches_stay_as_they_are() -> None:
    for backbone in ({"embed": "stem"}, {"stride": 4}):
        source, target = network(**backbone), network(**backbone, patch_size=16)
        with pytest.raises(BadInput, match=r"model\.backbone\.patch_size is 16"):
            transfer(tensors_of(source), source, target)


# -- heads -------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.permutations(NAMES), st.integers(1, 4))
def test_rows_go_by_name(order: list[str], count: int) -> None:
    """Each class of the data gets the row that the weights have for its name, whatever its number."""
    source, target = network(), network(head(*order[:count]))
    tensors = tensors_of(source)
    out, told = transfer(tensors, source, target)
    for i, name in enumerate(order[:count]):
        assert torch.equal(out["head.weight"][i], tensors["head.weight"][NAMES.index(name)])
        assert out["head.bias"][i] == tensors["head.bias"][NAMES.index(name)]
    if tuple(order[:count]) != NAMES:
        assert f"head kept by name: {count} of 4 outputs" in str(told)
        # the mutation: rows by number name some class wrongly
        misplaced = [n for i, n in enumerate(order[:count]) if n != NAMES[i]]
        assert bool(misplaced) == (not torch.equal(out["head.weight"], tensors["head.weight"][:count]))


def test_one_class_more_keeps_the_known_ones() -> None:
    source, target = network(), network(head("bee", "emu", "ant", "cow", "dog"))
    out, told = transfer(tensors_of(source), source, target)
    assert "kept by name: 4 of 4 outputs, 1 new" in str(told)
    assert not out["head.weight"][1].any() and out["head.weight"][[0, 2, 3, 4]].abs().sum(1).all()
    x = torch.randn(3, 3, 32, 32)
    before, after = loaded(source, tensors_of(source))(x), loaded(target, out)(x)
    assert torch.allclose(after[:, [2, 0, 3, 4]], before, atol=1e-5)


def test_relative_positions_go_to_another_grid_as_the_network_would_take_them() -> None:
    """Resized once at the start, or in every pass: the same features."""
    small = ViTConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, position="none", relative=True)
    source = ClassifierConfig(backbone=small, classes=0)
    target = replace(source, backbone=replace(small, image_size=(48, 24)))
    before, after = Classifier(source).eval(), Classifier(target).eval()
    with torch.no_grad():
        for p in before.parameters():
            p.add_(0.1 * torch.randn_like(p))
    tensors, told = transfer(before.state_dict(), Network(source), Network(target))
    assert told.resized == ("relative positions 4x4 to 6x3",) and told.loaded == len(tensors) - 2
    after.load_state_dict(tensors)
    images = torch.randn(2, 3, 48, 24)
    assert torch.allclose(after(images), before(images), atol=1e-6)
    table = "backbone.blocks.0.attn.relative_position_bias_table"
    after.load_state_dict(tensors | {table: tensors[table].flip(0)})
    assert not torch.allclose(after(images), before(images), atol=1e-4), "the mutation: a table upside down"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (head(*NAMES), head("ant", "emu")),
        (head("ant", "bee"), head("emu", "fox")),
        ((), head(*NAMES)),
        (head(*NAMES), (Head(name="label", task="tags", classes=NAMES),)),
        (head(*NAMES), (*head(*NAMES, name="a"), *head(*NAMES, name="b"))),
        ((Head(name="price", task="number"),), (Head(name="weight", task="number"),)),
    ],
)
def test_other_meanings_are_a_new_head(source: tuple[Head, ...], target: tuple[Head, ...]) -> None:
    """Also where the numbers agree: what nobody can name is never taken for something else."""
    old = network(source) if source else Network(network().config)
    out, told = transfer(tensors_of(old), old, network(target))
    assert "head.weight" not in out and told.head.startswith("new: ")


def test_several_heads_by_their_names() -> None:
    """Two heads change places, and a number changes its unit: the same answers."""
    size = Head(name="size", task="number", mean=10.0, scale=2.0)
    kind = Head(name="kind", task="classify", classes=("x", "y"))
    grams = Head(name="size", task="number", mean=4.0, scale=0.5)
    source, target = network((size, kind)), network((kind, grams))
    tensors = tensors_of(source)
    out, told = transfer(tensors, source, target)
    x = torch.randn(3, 3, 32, 32)
    before, after = loaded(source, tensors)(x), loaded(target, out)(x)
    assert torch.allclose(after[:, :2], before[:, 1:], atol=1e-5)
    assert torch.allclose(after[:, 2] * 0.5 + 4, before[:, 0] * 2 + 10, atol=1e-4) and "kept by name: 3" in told.head


def test_one_of_several_heads_is_found_by_its_name() -> None:
    kind, other = head("x", "y", name="kind"), head("x", "y", name="other")
    source = network((*other, *kind))
    tensors = tensors_of(source)
    out, told = transfer(tensors, source, network(kind))
    assert torch.equal(out["head.weight"], tensors["head.weight"][2:]) and "kept by name: 2 of 4" in told.head
    assert "head.weight" not in transfer(tensors, source, network(head("x", "y", name="third")))[0]


def test_a_head_behind_another_pool_is_new() -> None:
    source, target = network(), network(pool=PoolConfig(kind="attention"))
    out, told = transfer(tensors_of(source), source, target)
    assert "head.weight" not in out and "new: attn_pool" in str(told)


def test_both_heads_of_a_distilled_network() -> None:
    source = network(distill_token=True)
    target = network(head(*NAMES[::-1]), distill_token=True)
    tensors = tensors_of(source)
    out, _ = transfer(tensors, source, target)
    assert torch.equal(out["head_dist.weight"], tensors["head_dist.weight"].flip(0))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [("width", 32), ("depth", 3), ("heads", 4), ("stride", 4), ("norm_eps", 1e-5), ("mlp", "quick_gelu"),
     ("class_token", False), ("registers", 1), ("layer_scale", 1e-5), ("position", "none"),
     ("rotary", RotaryConfig()), ("relative", True)],
)  # fmt: skip
def test_another_network_is_named(key: str, value: object) -> None:
    source = network()
    backbone = replace(TINY, **{key: value})
    pool = PoolConfig(kind="cls" if backbone.class_token else "mean")
    target = Network(replace(source.config, backbone=backbone, pool=pool), source.heads)
    with pytest.raises(BadInput, match=rf"model\.backbone\.{key} is .*leave it out, or --weights"):
        transfer(tensors_of(source), source, target)


def test_what_may_differ() -> None:
    free = {"image_size": 64, "channels": 1, "drop_path": 0.3, "mlp_dropout": 0.1, "remat": True, "embed": "linear"}
    assert difference(network().config, network(**free).config) is None
    scaled = network(layer_scale=1e-5)
    assert difference(scaled.config, network(layer_scale=0.1).config) is None
    known = {"image_size", "channels", "drop_path", "remat", "indivisible"}
    assert known <= moving.FREE and all(name in ViTConfig.__dataclass_fields__ for name in moving.FREE)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan", "whole numbers"])
def test_wrong_tensors_are_named(fault: str) -> None:
    net = network()
    tensors = tensors_of(net)
    name = "backbone.blocks.1.mlp.fc1.weight"
    match fault:
        case "missing":
            del tensors[name]
        case "extra":
            tensors["backbone.blocks.2.attn.qkv.weight"] = torch.zeros(1)
        case "shape":
            tensors[name] = tensors[name][:8]
        case "nan":
            tensors[name][0, 0] = float("nan")
        case _:
            tensors[name] = tensors[name].to(torch.int8)
    shown = "blocks.2.attn.qkv.weight" if fault == "extra" else "blocks.1.mlp.fc1.weight"
    with pytest.raises(BadInput, match=re.escape(shown)) as told:
        transfer(tensors, net, net)
    assert "\n" not in str(told.value) and "width 16, depth 2, patches of 8" in str(told.value)


def test_what_others_leave_behind_is_told() -> None:
    net = network()
    idle = {"backbone.mask_token": torch.zeros(1, 16), "backbone.pre_logits.fc.bias": torch.ones(3)}
    _, told = transfer(tensors_of(net) | idle, net, net)
    assert told.left == ("mask_token", "pre_logits")


def test_half_precision_becomes_single() -> None:
    net = network()
    tensors = {n: t.bfloat16() for n, t in tensors_of(net).items()}
    out, _ = transfer(tensors, net, net)
    assert all(t.dtype == torch.float32 for t in out.values())
