"""How tensors of ours are made of theirs, and taken apart again: bit for bit, only moved.

Shape suffixes:  D width  A heads  K head size  P prefix rows of a table  N patches
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import BadInput
from .table import Architecture, Way

Parts = Sequence[Tensor]


def rows(count: int) -> Way:
    """Equal shares of one tensor, one under the other: q, k and v; gate and value."""
    return Way(lambda parts, _: [torch.cat(list(parts))], lambda whole, _: whole[0].chunk(count))


def _join_qv(parts: Parts, _: Architecture) -> Parts:
    q, v = parts
    return [torch.cat([q, torch.zeros_like(v), v])]


def _cut_qv(whole: Parts, _: Architecture) -> Parts:
    q, k, v = whole[0].chunk(3)
    if not k.is_meta and bool(k.any()):
        raise BadInput("its keys have a bias, and that layout has none for them; write another one, or keep ours")
    return [q, v]


QUERIES_VALUES = Way(_join_qv, _cut_qv)  # biases of q and v; keys have none


def _join_projection(parts: Parts, _: Architecture) -> Parts:
    weight, bias = parts
    if not bias.is_meta and bool(bias.any()):
        raise BadInput("it has a bias, and the projection of such a network has none")
    return [weight]


# a projection that timm keeps as a head: the bias is zero
UNBIASED = Way(_join_projection, lambda whole, _: [whole[0], torch.zeros_like(whole[0][:, 0])])
SAME = Way(lambda parts, _: parts, lambda whole, _: whole)
TRANSPOSED = Way(lambda parts, _: [part.T for part in parts], lambda whole, _: [part.T for part in whole])


def _join_places(parts: Parts, _: Architecture) -> Parts:
    token, table_1PND = parts
    return [token + table_1PND[:, :1], table_1PND[:, 1:]]


def _cut_places(whole: Parts, _: Architecture) -> Parts:
    token, table_1ND = whole
    return [token, torch.cat([torch.zeros_like(table_1ND[:, :1]), table_1ND], dim=1)]


FOLDED = Way(_join_places, _cut_places)  # the class token's place into the token: on the way back its row is zero


def _cut_query(parts: Parts, _: Architecture) -> Parts:
    q, k, v = parts[0].chunk(3)
    return [q, torch.cat([k, v])]


QUERY_THEN_KEYS_VALUES = Way(_cut_query, lambda whole, _: [torch.cat(list(whole))])  # of a pool that has one query


def shaped(*ours: int) -> Way:
    """One tensor with other axes of length 1: `ours` with -1 for the one that has a length; theirs has only that."""
    return Way(lambda parts, _: [part.reshape(ours) for part in parts], lambda whole, _: [w.flatten() for w in whole])


def one_more_axis(way: Way = SAME) -> Way:
    """Theirs lacks the first axis, of length 1."""
    return Way(
        lambda parts, a: way.join([part[None] for part in parts], a), lambda whole, a: [w[0] for w in way.cut(whole, a)]
    )


def turned(way: Way, columns_first: bool = False) -> Way:
    """Fused queries, keys and values whose features turn in neighbouring pairs; ours turn in pairs half a head apart,
    those of the rows first. Only q and k have their features in another order for it."""

    def order(size: int) -> Tensor:
        pairs = torch.arange(size // 2)
        if columns_first:
            pairs = pairs.roll(size // 4)
        return torch.cat([2 * pairs, 2 * pairs + 1])

    def moved(whole: Tensor, architecture: Architecture, back: bool) -> Tensor:
        size = architecture.backbone.size_of_head
        at = order(size)
        heads_3AKD = whole.reshape(3, -1, size, *whole.shape[1:])
        turning = heads_3AKD[:2, :, at.argsort() if back else at]
        return torch.cat([turning, heads_3AKD[2:]]).flatten(0, 2)

    return Way(
        lambda parts, a: [moved(part, a, back=False) for part in way.join(parts, a)],
        lambda whole, a: way.cut([moved(part, a, back=True) for part in whole], a),
    )
