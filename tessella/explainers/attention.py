"""Where a network looks: the share of what its head reads that came from each patch, by its own softmax maps.

Shape suffixes:  B batch  C channels  H,W pixels  h,w patches  N = h * w  T all tokens  A heads of attention
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import BadInput
from ..models.classifier import Classifier
from ..models.vit import Tokens, ViT

How = Literal["last", "rollout"]


@torch.no_grad()
def looked_at(network: Classifier, images_BCHW: Tensor, how: How = "last") -> Tensor:
    """Normalised pictures (B, C, H, W) to shares (B, h, w) that sum to 1; all that is recomputed is softmax(q k).

    last: what the last block mixes into the tokens that the head reads, the mean over its heads. rollout: the same
    followed down to the patches through all blocks, each half its map and half the identity (arXiv 2005.00928); the
    deeper the network, the flatter it gets.
    """
    vit = network.backbone
    if not isinstance(vit, ViT):
        kind = type(vit).__name__
        raise BadInput(
            f"a {kind} merges tokens from stage to stage, so no map says what came from each patch; use a ViT"
        )
    depth, seen_BTT = len(vit.units()), None
    walk = vit.walk(images_BCHW)
    for step in walk:
        if how == "last" and step.index + 1 < depth:
            continue
        map_BTT = step.block.attention_of(step.x, step.place).mean(1)
        if how == "rollout":
            map_BTT = (map_BTT + torch.eye(map_BTT.shape[-1], device=map_BTT.device)) / 2
        seen_BTT = map_BTT if seen_BTT is None else map_BTT @ seen_BTT
    tokens, prefix = walk.finish(), vit.cfg.prefix
    assert seen_BTT is not None, "ViTConfig refuses a network without blocks"
    flow_BN = (read(network, tokens)[:, None] @ seen_BTT)[:, 0, prefix:]
    return (flow_BN / flow_BN.sum(1, keepdim=True)).view(-1, *tokens.grid)


def read(network: Classifier, tokens: Tokens) -> Tensor:
    """How much the heads read of each token (B, T); sums to 1."""
    cfg, (batch, n) = network.backbone.cfg, tokens.patches.shape[:2]
    out = tokens.patches.new_zeros(batch, cfg.prefix + n)
    match network.pool.kind:
        case "cls":
            out[:, 0] = 1
        case "mean":
            out[:, cfg.prefix :] = 1 / n
        case "attention":
            first = 0 if network.pool.prefix else cfg.prefix
            out[:, first:] = network.pool.attn_pool.map(tokens.together()[:, first:]).mean(1)
    if cfg.distill_token:  # its own head has the other half of the say
        out /= 2
        out[:, int(cfg.class_token)] += 0.5
    return out
