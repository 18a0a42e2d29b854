"""The masked autoencoder against transformers' ViTMAEForPreTraining, with the same patches seen; files both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from redrawn import BAR, VISIBLE, error, redraw
from torch import Tensor

from tessella.card import Card, Preprocess
from tessella.config import encode
from tessella.errors import BadInput
from tessella.models.architecture import MAEConfig, ViTConfig
from tessella.models.build import network
from tessella.models.mae import MaskedAutoencoder
from tessella.weights import native
from tessella.weights.autoencoder import open_autoencoder
from tessella.weights.io import load_into, read_model, write_model
from tessella.weights.layouts import LAYOUTS
from tessella.weights.opened import open_weights
from tessella.weights.table import rename

TINY = MAEConfig(
    encoder=ViTConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, mlp_ratio=2.5, norm_eps=1e-12),
    decoder_width=24, decoder_depth=2, decoder_heads=3, decoder_mlp_ratio=2.0,
)  # fmt: skip


def theirs() -> Any:
    hf = pytest.importorskip("transformers")
    config = hf.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=80, image_size=32, patch_size=8,
        decoder_hidden_size=24, decoder_num_hidden_layers=2, decoder_num_attention_heads=3,
        decoder_intermediate_size=48,
    )  # fmt: skip
    net = hf.ViTMAEForPreTraining(config).eval()
    redraw(net)
    return net


def ours(net: Any) -> MaskedAutoencoder:
    read = LAYOUTS["transformers/mae decoder in memory"].read(net.state_dict(), TINY).tensors
    out = network(encode(TINY), empty=True).eval()
    load_into(out, rename(read, native.from_file(encode(TINY), read)))
    assert isinstance(out, MaskedAutoencoder)
    return out


@torch.no_grad()
def apart(mine: MaskedAutoencoder, net: Any) -> float:
    generator = torch.Generator().manual_seed(1)
    images, noise = torch.randn(2, 3, 32, 32, generator=generator), torch.rand(2, 16, generator=generator)
    keep = noise.argsort(dim=1)[:, :4]
    return error(mine(images, keep), net(images, noise=noise).logits)


def test_predictions_are_theirs_and_every_tensor_matters() -> None:
    net = theirs()
    mine, unseen = ours(net), []
    assert apart(mine, net) <= BAR
    for called, p in net.named_parameters():
        if "k_proj.bias" in called:  # softmax does not see it
            continue
        right = p.detach().clone()
        for wrong in (torch.zeros_like(p), right.flip(tuple(range(p.ndim)))):
            with torch.no_grad():
                p.copy_(wrong)
            if apart(mine, net) <= VISIBLE:
                unseen.append(called)
        with torch.no_grad():
            p.copy_(right)
    assert not unseen


def flat(net: MaskedAutoencoder) -> dict[str, Tensor]:
    held = net.state_dict()
    return rename(held, native.to_file(encode(TINY), held))


def test_files_of_transformers_open_whole_and_as_an_encoder(tmp_path: Path) -> None:
    net = theirs()
    net.save_pretrained(tmp_path)
    found = open_autoencoder(tmp_path)
    assert found.config == replace(TINY, normalised=False) and found.layout == "transformers/mae decoder of version 5"
    mine = MaskedAutoencoder(found.config).eval()
    load_into(mine, found.tensors)
    assert apart(mine, net) <= BAR
    alone = open_weights(tmp_path)
    assert alone.card.architecture["type"] == "ClassifierConfig" and not any("decoder" in n for n in alone.tensors)
    with torch.no_grad():
        alone_net = network(alone.card.architecture, empty=True).eval()
        load_into(alone_net, alone.tensors)
        x = torch.randn(2, 3, 32, 32)
        assert error(alone_net(x), mine.backbone(x).cls) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["mae decoder", "mae decoder of version 5", "mae decoder in memory"])
def test_back_bit_for_bit(layout: str) -> None:
    held, table = flat(ours(theirs())), LAYOUTS[f"transformers/{layout}"]
    written = table.write(held, TINY)
    again = table.read(written, TINY)
    assert again.left == () and again.tensors.keys() == held.keys()
    assert all(torch.equal(again.tensors[name], held[name]) for name in held)


def test_what_transformers_has_is_what_we_write() -> None:
    net = theirs()
    written = LAYOUTS["transformers/mae decoder in memory"].write(flat(ours(net)), TINY)
    state = net.state_dict()
    assert written.keys() == state.keys() and all(torch.equal(written[name], state[name]) for name in state)


def test_meta_s_file_has_our_names(tmp_path: Path) -> None:
    """As mae_pretrain_vit_*_full.pth: flat names under "model"; its heads are those of the paper."""
    cfg = MAEConfig(encoder=ViTConfig(width=768, depth=12), decoder_width=32, decoder_depth=1)
    net = MaskedAutoencoder(cfg)
    names = {name.removeprefix("backbone.") for name in net.state_dict()}
    assert {"cls_token", "pos_embed", "mask_token", "decoder_pos_embed", "decoder_embed.weight"} <= names
    assert {"decoder_blocks.0.attn.qkv.bias", "decoder_norm.weight", "decoder_pred.bias", "norm.weight"} <= names
    held = {name.removeprefix("backbone."): tensor for name, tensor in net.state_dict().items()}
    torch.save({"model": held}, tmp_path / "full.pth")
    found = open_autoencoder(tmp_path / "full.pth")
    assert found.config == cfg and found.layout == "meta/mae decoder"
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in net.state_dict().items())
    del held["decoder_pred.weight"]
    torch.save({"model": held}, tmp_path / "half.pth")
    with pytest.raises(BadInput, match="holds no decoder of MAE"):
        open_autoencoder(tmp_path / "half.pth")


def test_positions_of_the_decoder_are_the_sines_of_theirs() -> None:
    """Before anything was trained: as its authors start, in their order of rows and columns."""
    hf = pytest.importorskip("transformers")
    config = hf.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
        decoder_hidden_size=24, decoder_num_hidden_layers=1, decoder_num_attention_heads=3,
    )  # fmt: skip
    drawn = hf.models.vit_mae.modeling_vit_mae.ViTMAEDecoder(config, 16).decoder_pos_embed
    mine = MaskedAutoencoder(TINY).decoder_pos_embed
    assert torch.allclose(mine, drawn, atol=1e-6) and not torch.allclose(mine.flip(1), drawn, atol=1e-2)


def test_every_initial_value_is_set_and_a_folder_holds_it(tmp_path: Path) -> None:
    net = MaskedAutoencoder(TINY)
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data.fill_(float("nan"))
    net.init_weights()
    assert all(bool(t.isfinite().all()) for t in net.state_dict().values())
    half = (0.5, 0.5, 0.5)
    card = Card(architecture=encode(TINY), preprocess={"image": Preprocess(size=(32, 32), mean=half, std=half)})
    write_model(tmp_path / "m", net.state_dict(), card)
    told, tensors = read_model(tmp_path / "m")
    again = network(told.architecture, empty=True)
    load_into(again, tensors)
    x, keep = torch.randn(1, 3, 32, 32), torch.tensor([[3, 0, 9]])
    assert torch.equal(again(x, keep), net(x, keep))
    found = open_weights(tmp_path / "m")  # to go on from: the encoder
    assert found.network.config.backbone == TINY.encoder
    assert all(name.startswith("backbone.") for name in found.classifier_tensors)


def test_other_sizes_and_what_it_is_trained_by() -> None:
    net = MaskedAutoencoder(TINY)
    x = torch.randn(2, 3, 24, 40)
    assert net(x).shape == (2, 15, 192) and net(x, torch.tensor([[1], [14]])).shape == (2, 15, 192)
    net(x, torch.tensor([[1, 2], [14, 3]])).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert len(net.units()) == 4 and net.depth_of("decoder_blocks.0.norm1.weight") == net.depth_of("backbone.norm.bias")
    assert {"mask_token", "backbone.cls_token", "decoder_norm.weight"} <= net.no_decay()
    assert "decoder_embed.weight" not in net.no_decay()
    with pytest.raises(BadInput, match="lie side by side"):
        MAEConfig(encoder=ViTConfig(stride=8))
