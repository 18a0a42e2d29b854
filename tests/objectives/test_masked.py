"""MAE, SimMIM, inpainting, colourisation: losses as transformers and the papers have them, of what is hidden alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import painting
from redrawn import redraw
from torch import Tensor, nn

from tessella.config import encode
from tessella.errors import BadInput
from tessella.models.architecture import MAEConfig, PainterConfig, ViTConfig
from tessella.models.build import network
from tessella.models.mae import MaskedAutoencoder
from tessella.models.painter import Painter, grey
from tessella.models.patches import blanked, from_patches, hidden, seen, to_patches
from tessella.objectives.colorize import Colorize, ColorizeConfig
from tessella.objectives.inpaint import Inpaint, InpaintConfig
from tessella.objectives.mae import MAE, MaskedConfig
from tessella.objectives.simmim import SimMIM, SimMIMConfig
from tessella.weights import native
from tessella.weights.io import load_into
from tessella.weights.layouts import LAYOUTS
from tessella.weights.painter import TABLES, open_painter, painter_tensors
from tessella.weights.table import rename

VIT = ViTConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, mlp_ratio=2.5, norm_eps=1e-12)
AUTO = MAEConfig(encoder=VIT, decoder_width=24, decoder_depth=1, decoder_heads=3, decoder_mlp_ratio=2.0)
STEM = replace(VIT, embed="stem")


def batch(n: int = 3, share: float = 0.75, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 32, 32, generator=generator)
    order = torch.rand(n, 16, generator=generator).argsort(1).argsort(1)
    return {"ids": [str(i) for i in range(n)], "image": images, "mask": (order < round(16 * share)).view(n, 4, 4)}


def drawn(net: nn.Module) -> Any:
    redraw(net)
    return net.eval()


def mae(cfg: MAEConfig = AUTO, **settings: Any) -> MAE:
    return MAE(MaskedConfig(**settings), drawn(MaskedAutoencoder(cfg)))


def painter(lacks: str, encoder: ViTConfig = VIT) -> Painter:
    return drawn(Painter(PainterConfig(encoder=encoder, lacks=lacks)))  # type: ignore[arg-type]


def objectives() -> dict[str, Any]:
    return {
        "mae": mae(),
        "simmim": SimMIM(SimMIMConfig(), painter("token")),
        "inpaint": Inpaint(InpaintConfig(), painter("pixels")),
        "colorize": Colorize(ColorizeConfig(), painter("colour")),
    }


def value(objective: Any, of: dict[str, Any]) -> float:
    (loss,) = objective(of, 0.0)[0].values()
    return float(loss.detach())


# -- patches -----------------------------------------------------------------------------------------------------------


def test_patches_and_back() -> None:
    images = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12).float()
    cut = to_patches(images, 4)
    assert cut.shape == (2, 6, 48) and torch.equal(from_patches(cut, 4, (2, 3)), images)
    assert cut[1, 4].tolist() == painting.patch(images[1].tolist(), 4, 1, 1)


def test_what_is_hidden_and_what_is_seen() -> None:
    mask = batch()["mask"].flatten(1)
    keep = seen(mask)
    assert keep.shape == (3, 4) and not mask.gather(1, keep).any() and (keep.diff(dim=1) > 0).all()
    assert torch.equal(hidden(keep, 16), mask)
    blank = to_patches(blanked(batch()["image"], mask, 8), 8)
    assert torch.equal(blank == 0, mask[..., None].expand_as(blank))


# -- against others ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True])
def test_mae_is_transformers(normalise: bool) -> None:
    hf = pytest.importorskip("transformers")
    config = hf.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=80, image_size=32, patch_size=8,
        decoder_hidden_size=24, decoder_num_hidden_layers=1, decoder_num_attention_heads=3,
        decoder_intermediate_size=48, norm_pix_loss=normalise,
    )  # fmt: skip
    theirs = drawn(hf.ViTMAEForPreTraining(config))
    read = LAYOUTS["transformers/mae decoder in memory"].read(theirs.state_dict(), AUTO).tensors
    net = network(encode(AUTO), empty=True).eval()
    load_into(net, rename(read, native.from_file(encode(AUTO), read)))
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(1))
    told = theirs(batch()["image"], noise=noise)
    of = batch() | {"mask": told.mask.bool().view(3, 4, 4)}
    assert isinstance(net, MaskedAutoencoder)
    ours = value(MAE(MaskedConfig(normalise=normalise), net), of)
    assert ours == pytest.approx(float(told.loss.detach()), rel=1e-5)
    other = of | {"mask": of["mask"].roll(1, 0)}
    assert ours != pytest.approx(value(MAE(MaskedConfig(normalise=normalise), net), other), rel=1e-3)
    assert ours != pytest.approx(value(MAE(MaskedConfig(normalise=not normalise), net), of), rel=1e-3)


def theirs_simmim() -> Any:
    hf = pytest.importorskip("transformers")
    config = hf.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=80, image_size=32, patch_size=8,
        encoder_stride=8,
    )  # fmt: skip
    return drawn(hf.ViTForMaskedImageModeling(config))


def as_ours(theirs: Any) -> Painter:
    net = painter("token")
    load_into(net, painter_tensors(dict(theirs.state_dict()), net.cfg, "theirs"))
    return net


def test_simmim_is_transformers() -> None:
    theirs, of = theirs_simmim(), batch(share=0.6)
    told = theirs(of["image"], bool_masked_pos=of["mask"].flatten(1))
    net = as_ours(theirs)
    ours = value(SimMIM(SimMIMConfig(), net), of)
    assert ours == pytest.approx(float(told.loss.detach()), rel=1e-5)
    said = from_patches(net(of["image"], of["mask"].flatten(1)), 8, (4, 4))
    assert torch.allclose(said, told.reconstruction, atol=1e-5)
    with torch.no_grad():
        assert net.mask_token is not None
        net.mask_token.add_(torch.randn(32))
    assert ours != pytest.approx(value(SimMIM(SimMIMConfig(), net), of), rel=1e-4), "the token must matter"


def test_files_of_transformers_open_and_go_back(tmp_path: Path) -> None:
    theirs, of = theirs_simmim(), batch()
    theirs.save_pretrained(tmp_path)
    found = open_painter(tmp_path)
    net = Painter(found.config).eval()
    load_into(net, found.tensors)
    mask = of["mask"].flatten(1)
    told = theirs(of["image"], bool_masked_pos=mask).reconstruction
    assert torch.allclose(from_patches(net(of["image"], mask), 8, (4, 4)), told, atol=1e-5)
    flat = rename(found.tensors, native.to_file(encode(found.config), found.tensors))
    back, held = TABLES[1].write(flat, found.config), dict(theirs.state_dict())
    assert back.keys() == held.keys() and all(torch.equal(back[name], held[name]) for name in held)
    with pytest.raises(BadInput, match="ViTForMaskedImageModeling"):
        open_painter(Path(__file__).parent)


@pytest.mark.parametrize("normalise", [False, True])
def test_mae_against_the_paper(normalise: bool) -> None:
    objective, of = mae(normalise=normalise), batch()
    mask = of["mask"].flatten(1)
    said = objective.network(of["image"], seen(mask))
    slow = painting.mae(of["image"].tolist(), said.tolist(), mask.tolist(), 8, normalise)
    assert value(objective, of) == pytest.approx(slow, rel=1e-5)
    everywhere = painting.mae(of["image"].tolist(), said.tolist(), torch.ones_like(mask).tolist(), 8, normalise)
    assert abs(everywhere - slow) > 1e-3, "a loss over all patches must be seen"


def test_inpaint_and_simmim_against_the_paper() -> None:
    of = batch(share=0.4)
    mask = of["mask"].flatten(1)
    fill = Inpaint(InpaintConfig(), painter("pixels"))
    said = fill.network(of["image"], mask)
    slow = painting.mae(of["image"].tolist(), said.tolist(), mask.tolist(), 8, False)
    assert value(fill, of) == pytest.approx(slow, rel=1e-5)
    token = SimMIM(SimMIMConfig(), painter("token"))
    said = token.network(of["image"], mask)
    assert value(token, of) == pytest.approx(
        painting.distance(of["image"].tolist(), said.tolist(), mask.tolist(), 8), rel=1e-5
    )


def test_colour_is_what_grey_lacks() -> None:
    of, objective = batch(), Colorize(ColorizeConfig(), painter("colour"))
    images = of["image"]
    luma = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    assert torch.allclose(grey(images)[:, 0], luma, atol=1e-6)
    target = images - luma[:, None]
    said = from_patches(objective.network(images), 8, (4, 4))
    assert value(objective, of) == pytest.approx(float((said - target).square().mean().detach()), rel=1e-5)
    plain = luma[:, None].expand_as(images)
    assert torch.allclose(objective.network(plain), objective.network(images), atol=1e-5), "no colour is seen"
    assert value(objective, of | {"image": plain}) != pytest.approx(value(objective, of), rel=1e-2)


# -- what must not leak, and what must be learned ----------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [VIT, STEM], ids=["conv", "stem"])
def test_what_is_hidden_is_not_seen(encoder: ViTConfig) -> None:
    """Other pixels in hidden patches change nothing that is said."""
    of = batch()
    mask = of["mask"].flatten(1)
    other = from_patches(
        torch.where(mask[..., None], to_patches(batch(seed=7)["image"], 8), to_patches(of["image"], 8)), 8, (4, 4)
    )
    auto = drawn(MaskedAutoencoder(replace(AUTO, encoder=encoder)))
    nets: list[tuple[Any, Tensor]] = [
        (auto, seen(mask)),
        (painter("token", encoder), mask),
        (painter("pixels", encoder), mask),
    ]
    for net, how in nets:
        assert torch.allclose(net(of["image"], how), net(other, how), atol=1e-5)
        assert float((net(of["image"]) - net(other)).abs().max()) > 1e-3, "without a mask it must be seen"


@pytest.mark.parametrize("name", ["mae", "simmim", "inpaint", "colorize"])
def test_every_weight_learns_and_forward_changes_nothing(name: str) -> None:
    objective, of = objectives()[name], batch()
    before = {n: t.clone() for n, t in objective.state_dict().items()}
    sum(objective(of, 0.0)[0].values()).backward()
    assert all(torch.equal(t, before[n]) for n, t in objective.state_dict().items())
    idle = [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


@pytest.mark.parametrize("name", ["mae", "simmim", "inpaint", "colorize"])
def test_halves_of_a_batch_are_the_batch(name: str) -> None:
    objective, of = objectives()[name], batch(4)
    halves = [{k: v[i : i + 2] for k, v in of.items()} for i in (0, 2)]
    assert sum(value(objective, half) for half in halves) / 2 == pytest.approx(value(objective, of), rel=1e-5)
    empty = {k: v[:0] for k, v in of.items()}
    losses = objective(empty, 0.0)[0]
    sum(losses.values()).backward()
    assert all(float(v) == 0 for v in losses.values()), "nothing was hidden, so nothing is wrong"


@pytest.mark.parametrize("name", ["mae", "simmim", "inpaint", "colorize"])
def test_features_are_those_of_the_encoder_alone(name: str) -> None:
    objective, of = objectives()[name], batch()
    alone = objective.model.classifier()
    assert alone.backbone is objective.model.backbone and torch.equal(alone(of["image"]), objective.infer(of))
    assert objective.infer(of).shape == (3, 32)


def test_every_value_is_drawn() -> None:
    for net in (
        MaskedAutoencoder(AUTO),
        *(Painter(PainterConfig(encoder=VIT, lacks=k)) for k in ("token", "pixels", "colour")),
    ):  # type: ignore[arg-type]
        with torch.no_grad():
            for tensor in net.state_dict().values():
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        net.init_weights()
        assert not [n for n, t in net.state_dict().items() if t.is_floating_point() and not t.isfinite().all()]


def test_patches_can_be_learned() -> None:
    """Of a picture with few colours, hidden patches are soon said better than by their mean."""
    torch.manual_seed(0)
    rows = torch.linspace(-1, 1, 32)
    images = torch.stack([(rows[:, None] * a + rows[None] * b).expand(3, 32, 32) for a, b in torch.randn(16, 2)])
    of = batch(16) | {"image": images}
    for objective in objectives().values():
        objective.network.init_weights()
        objective.train()
        optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
        first = value(objective, of)
        for _ in range(40):
            loss = sum(objective(of, 0.0)[0].values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert value(objective, of) < 0.7 * first or first < 0.05
