"""Attention maps are those of the slow obvious way: queries and keys caught by hooks, softmax by hand, loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tessella.explainers.attention import looked_at, read
from tessella.models.architecture import ClassifierConfig, PoolConfig, ViTConfig
from tessella.models.classifier import Classifier

TINY = ViTConfig(image_size=(12, 16), patch_size=4, width=24, depth=3, heads=2)
NETWORKS = {
    "class token": ClassifierConfig(backbone=TINY, classes=3),
    "registers": ClassifierConfig(backbone=replace(TINY, registers=2), classes=3),
    "mean": ClassifierConfig(backbone=replace(TINY, class_token=False), pool=PoolConfig(kind="mean"), classes=3),
    "distilled": ClassifierConfig(backbone=replace(TINY, distill_token=True), classes=3),
    "query": ClassifierConfig(backbone=replace(TINY, class_token=False), pool=PoolConfig(kind="attention"), classes=3),
}


def made(kind: str) -> tuple[Classifier, Tensor]:
    network = Classifier(NETWORKS[kind]).eval()
    with torch.no_grad():
        for p in network.parameters():  # maps that are far from flat
            p += 0.3 * torch.randn_like(p)
    return network, torch.randn(2, 3, 12, 16)


def by_hand(network: Classifier, images: Tensor, how: str) -> Tensor:
    """Only the outputs of the qkv layers are taken from the network."""
    caught: list[Tensor] = []
    hooks = [b.attn.qkv.register_forward_hook(lambda m, i, out: caught.append(out)) for b in network.backbone.units()]
    with torch.no_grad():
        tokens = network.tokens(images)
    for hook in hooks:
        hook.remove()
    heads, width = TINY.heads, TINY.width
    maps = []
    for qkv in caught:
        q, k = qkv[..., :width], qkv[..., width : 2 * width]
        size, each = width // heads, []
        for a in range(heads):
            part = slice(a * size, (a + 1) * size)
            each.append(torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size), -1))
        maps.append(sum(each) / heads)
    prefix, n = network.backbone.cfg.prefix, tokens.patches.shape[1]
    out = []
    for i in range(len(images)):
        row = torch.zeros(prefix + n)
        if network.pool.kind == "mean":
            row[prefix:] = 1 / n
        elif network.pool.kind == "attention":
            row[prefix:] = _pool_by_hand(network.pool.attn_pool, tokens.patches[i])
        elif network.backbone.cfg.distill_token:
            row[0] = row[1] = 0.5
        else:
            row[0] = 1.0
        for block in reversed(maps) if how == "rollout" else [maps[-1]]:
            row = row @ (block[i] if how == "last" else (block[i] + torch.eye(prefix + n)) / 2)
        out.append((row[prefix:] / row[prefix:].sum()).view(3, 4))
    return torch.stack(out)


def _pool_by_hand(pool: Any, patches: Tensor) -> Tensor:
    with torch.no_grad():
        q, k = pool.q(pool.latent[0, 0]), pool.kv(patches)[:, : TINY.width]
    size = TINY.width // pool.heads
    each = []
    for a in range(pool.heads):
        part = slice(a * size, (a + 1) * size)
        each.append(torch.softmax(k[:, part] @ q[part] / math.sqrt(size), 0))
    return torch.stack(each).mean(0)


@pytest.mark.parametrize("how", ["last", "rollout"])
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_against_the_slow_way(kind: str, how: Any) -> None:
    network, images = made(kind)
    mine, slow = looked_at(network, images, how), by_hand(network, images, how)
    assert mine.shape == (2, 3, 4) and torch.allclose(mine.sum((1, 2)), torch.ones(2))
    assert torch.allclose(mine, slow, atol=1e-6)
    other = by_hand(network, images, "rollout" if how == "last" else "last")
    assert not torch.allclose(mine, other, atol=1e-3), "the other rule is another map"


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_what_the_head_reads(kind: str) -> None:
    network, images = made(kind)
    shares = read(network, network.tokens(images))
    assert torch.allclose(shares.sum(1), torch.ones(2)) and (shares >= 0).all()


def test_a_permuted_network_is_seen() -> None:
    """The mutation: queries and keys of one block swapped give another map."""
    network, images = made("class token")
    before = looked_at(network, images)
    qkv = network.backbone.units()[-1].attn.qkv
    with torch.no_grad():
        qkv.weight.copy_(torch.cat([qkv.weight[24:48], qkv.weight[:24], qkv.weight[48:]]))
    assert not torch.allclose(before, looked_at(network, images), atol=1e-3)
