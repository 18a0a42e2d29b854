"""Pictures that are the same photograph: resized, encoded anew, trimmed, mirrored; told from small thumbnails alone.

Two steps. Candidates: each thumbnail's low frequencies against those of all others and of slightly cropped copies of
them, as matrix products of bounded size (no table of all pairs). Proof: each candidate is laid over the other by a
Gauss-Newton search for shift and stretch (Lucas and Kanade, with gain and offset of brightness as two more unknowns),
and must then agree in its fine detail. Pictures that merely look alike agree in the coarse, hardly ever in the fine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...errors import BadInput

Thumbs = NDArray[np.uint8]  # (N, 32, 32) grey, stretched to the full range
Rows = NDArray[np.int64]

SIDE = 32  # pixels of a thumbnail: at 64 the proof was no surer (flowers, CIFAR-10), and four times the memory
FLAT = 6  # grey levels between the darkest and the brightest pixel below which a thumbnail shows nothing
WAVES = 10  # half waves per side that a descriptor keeps: 78 numbers
SHIFT = 0.05  # of the side: the crops that candidates are sought under
WINDOWS = (
    (0.0, 0.0, 1.0), *((x, y, 1 - SHIFT) for y in (0.0, SHIFT) for x in (0.0, SHIFT))
)  # left, top, side of what is kept  # fmt: skip
ROWS, COLUMNS = 512, 2048  # of one matrix product: 4 MiB of cosines stay in the cache (five times as fast as 32 MiB)
NOISE = 0.02  # of the mean power of the detail: neighbourhoods with less than that have nothing to disagree about
PROVED = 256  # pairs laid over each other at a time: more would not fit into the cache
HOPE = 0.6  # correlation at half the size, below which a pair is given up; proven pairs had 0.8 and more


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """When two pictures are called the same."""

    neighbours: int = 10  # candidates of each picture: the nearest, so that a set of lookalikes stays affordable
    cosine: float = 0.7  # of two descriptors, for a candidate; crops by 5 % stay above 0.9
    detail: float = 0.9  # correlation of the fine detail when laid over each other; crops by 5 % stay above 0.95
    everywhere: float = 0.95  # share of the neighbourhoods that must agree by themselves; planted copies have 1.0
    overlap: float = 0.65  # share of the larger that both must show
    mirrored: bool = True  # also left for right
    device: str = "cpu"  # where the products are computed

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise BadInput(f"neighbours is {self.neighbours}; give 1 or more")
        shares = {"cosine": self.cosine, "detail": self.detail, "everywhere": self.everywhere, "overlap": self.overlap}
        for name, value in shares.items():
            if not 0 < value <= 1:
                raise BadInput(f"{name} is {value}; give a number in (0, 1]")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Found pairs, each once, first < second."""

    first: Rows
    second: Rows
    score: NDArray[np.float32]  # 0 to 1
    mirrored: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)


# ---------------------------------------------------------------- what is kept of a picture


def thumbnail(pixels: NDArray[Any]) -> Thumbs:
    """(H, W, C) of uint8 to (32, 32) grey; the aspect is given up, so that a squeezed copy is found as well."""
    whole = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] < 3 else pixels[:, :, :3]))
    # Reduced first: turning twelve million pixels grey would take longer than all else.
    grey = whole.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0).convert("L")
    small = np.asarray(grey, dtype=np.float32)
    low, high = float(small.min()), float(small.max())
    if high - low < FLAT:
        return np.zeros((SIDE, SIDE), dtype=np.uint8)
    out: Thumbs = np.rint((small - low) * (255 / (high - low))).astype(np.uint8)
    return out


def flat(thumbs: Thumbs) -> NDArray[np.bool_]:
    """(N,) True where there is nothing to compare: one colour, or nearly."""
    return np.logical_not(thumbs.any(axis=(1, 2)))


def groups(digests: NDArray[np.uint8]) -> list[Rows]:
    """(N, bytes): the rows that share a digest, for each digest that more than one has; in the order of their first."""
    if not len(digests):
        return []
    flat_digests = np.ascontiguousarray(digests).view(f"S{digests.shape[1]}")[:, 0]
    order = np.argsort(flat_digests, kind="stable")
    ordered = flat_digests[order]
    cuts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
    found = [order[a:b].astype(np.int64) for a, b in itertools.pairwise(cuts.tolist()) if b - a > 1]
    return sorted(found, key=lambda rows: int(rows[0]))


def clusters(n: int, first: Rows, second: Rows) -> list[Rows]:
    """Sets of rows that pairs connect, however many steps apart; sorted, singles left out."""
    parent = np.arange(n)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    touched = np.unique(np.r_[first, second]).astype(np.int64)
    roots = np.array([root(int(i)) for i in touched], dtype=np.int64)
    order = np.argsort(roots, kind="stable")
    cuts = np.flatnonzero(np.r_[True, np.diff(roots[order]) != 0, True]) if len(roots) else np.zeros(0, np.int64)
    return [touched[order[a:b]] for a, b in itertools.pairwise(cuts.tolist())]


# ---------------------------------------------------------------- candidates


def same_photograph(thumbs: Thumbs, cfg: MatchConfig | None = None) -> Pairs:
    """Pairs of thumbnails that show one photograph; flat ones take no part."""
    cfg = cfg or MatchConfig()
    rows = np.flatnonzero(~flat(thumbs)).astype(np.int64)
    if len(rows) < 2:
        return _none()
    straight, turned = candidates(thumbs, rows, cfg)
    found = [prove(thumbs, straight, cfg, mirrored=False)]
    if cfg.mirrored:
        found.append(prove(thumbs, turned, cfg, mirrored=True))
    return _merged(found)


def candidates(thumbs: Thumbs, rows: Rows, cfg: MatchConfig) -> tuple[Rows, Rows]:
    """(P, 2) pairs to prove as they are, and (Q, 2) to prove with one of them mirrored."""
    device = torch.device(cfg.device)
    plain, mirror = _windows(device)
    own = torch.cat([_describe(thumbs[rows[a : a + COLUMNS]], plain[:1], device)[0] for a in _starts(rows, COLUMNS)])

    def cropped(columns: slice) -> list[Tensor]:
        return _describe(thumbs[rows[columns]], plain, device)

    straight = rows[nearest(own, cropped, cfg.neighbours, cfg.cosine)]
    if not cfg.mirrored:
        return straight, straight[:0]
    # One product only: what the windows gain is not worth five more for the rarer case.
    turned = nearest(own * mirror, lambda columns: [own[columns]], max(1, cfg.neighbours // 2), cfg.cosine)
    return straight, rows[turned]


def nearest(queries: Tensor, columns: Callable[[slice], list[Tensor]], most: int, least: float) -> Rows:
    """(P, 2) pairs of rows, first < second, each once: every row's `most` nearest with a cosine of `least` or more.

    `columns(part)` gives the unit vectors to compare with: one tensor, or several variants of which the best counts.
    Memory does not grow with the number of pairs: products are made by blocks, and each row keeps its best.
    """
    n = len(queries)
    best = torch.full((n, most), -2.0, device=queries.device)
    where = torch.zeros((n, most), dtype=torch.int64, device=queries.device)
    for left in range(0, n, COLUMNS):
        variants = columns(slice(left, min(n, left + COLUMNS)))
        for top in range(0, n, ROWS):
            block = queries[top : top + ROWS]
            cosines = block @ variants[0].T
            for other in variants[1:]:
                torch.maximum(cosines, block @ other.T, out=cosines)
            inside = range(max(top, left), min(top + len(block), left + cosines.shape[1]))
            cosines[[i - top for i in inside], [i - left for i in inside]] = -2.0  # itself
            hit = (cosines.amax(dim=1) >= least).nonzero()[:, 0]
            if not len(hit):
                continue
            values, at = cosines[hit].topk(min(most, cosines.shape[1]), dim=1)
            values = torch.cat([best[top + hit], values], dim=1)
            at = torch.cat([where[top + hit], at + left], dim=1)
            kept = values.topk(most, dim=1)
            best[top + hit], where[top + hit] = kept.values, at.gather(1, kept.indices)
    row, rank = (best >= least).nonzero(as_tuple=True)
    pairs = torch.stack([row, where[row, rank]], dim=1).sort(dim=1).values
    out: Rows = torch.unique(pairs, dim=0).cpu().numpy() if len(pairs) else np.zeros((0, 2), dtype=np.int64)
    return out


def unit(vectors: NDArray[Any]) -> Tensor:
    """(N, D) rows of length 1."""
    return F.normalize(torch.from_numpy(np.ascontiguousarray(vectors)).float(), dim=1)


def _windows(device: torch.device) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
    """For each window (rows, columns, weights) of its descriptor, and the signs that mirror one."""
    k = np.arange(WAVES)
    away = np.hypot(k[:, None], k[None, :])
    chosen = (away > 0) & (away < WAVES)
    # Natural pictures fade as 1 / frequency: multiplied by it, all of the 78 numbers count about the same.
    weights = torch.from_numpy(away[chosen]).float().to(device)
    signs = torch.from_numpy(np.broadcast_to((-1.0) ** k, (WAVES, WAVES))[chosen].copy()).float().to(device)
    out = []
    for x, y, side in WINDOWS:
        up, across = (torch.from_numpy(_cosines(start, side)).float().to(device) for start in (y, x))
        out.append((up, across, weights))
    return out, signs


def _cosines(start: float, side: float) -> NDArray[np.float64]:
    """(WAVES, SIDE): the cosine transform of a window of the line, linearly interpolated, as one matrix."""
    at = np.clip((start + (np.arange(SIDE) + 0.5) / SIDE * side) * SIDE - 0.5, 0, SIDE - 1)
    low = np.minimum(at.astype(np.int64), SIDE - 2)
    resample = np.zeros((SIDE, SIDE))
    resample[np.arange(SIDE), low] = 1 - (at - low)
    resample[np.arange(SIDE), low + 1] += at - low
    waves = np.cos(np.pi * np.outer(np.arange(WAVES), (np.arange(SIDE) + 0.5) / SIDE))
    out: NDArray[np.float64] = waves @ resample
    return out


def _describe(thumbs: Thumbs, windows: list[tuple[Tensor, Tensor, Tensor]], device: torch.device) -> list[Tensor]:
    """For each window (N, 78) unit vectors."""
    grey = torch.from_numpy(np.ascontiguousarray(thumbs)).to(device).float()
    k = torch.arange(WAVES)
    away = torch.hypot(k[:, None].float(), k[None, :].float())
    chosen = ((away > 0) & (away < WAVES)).to(device)
    return [F.normalize((up @ grey @ across.T)[:, chosen] * weights, dim=1) for up, across, weights in windows]


def _starts(rows: Rows, step: int) -> range:
    return range(0, len(rows), step)


# ---------------------------------------------------------------- proof


def prove(thumbs: Thumbs, pairs: Rows, cfg: MatchConfig, *, mirrored: bool) -> Pairs:
    """Those of the (P, 2) pairs that lie on each other; the score is the correlation of their fine detail."""
    kept: list[NDArray[np.bool_]] = []
    scores: list[NDArray[np.float32]] = []
    device = torch.device(cfg.device)
    for start in range(0, len(pairs), PROVED):
        part = pairs[start : start + PROVED]
        first, second = (_standard(torch.from_numpy(thumbs[part[:, c]]).to(device)) for c in (0, 1))
        laid = lay_over(first.flip(-1) if mirrored else first, second)
        scores.append(laid.detail.clamp(0, 1).cpu().numpy())
        proven = (laid.detail >= cfg.detail) & (laid.everywhere >= cfg.everywhere) & (laid.covered >= cfg.overlap)
        kept.append(proven.cpu().numpy())
    if not kept:
        return _none()
    chosen, score = np.concatenate(kept), np.concatenate(scores)
    out = pairs[chosen]
    return Pairs(out[:, 0], out[:, 1], score[chosen], np.full(len(out), mirrored))


class Laid(NamedTuple):
    """Each (N,); all 0 where it was given up early."""

    detail: Tensor  # correlation of the fine detail
    everywhere: Tensor  # share of the neighbourhoods that agree by themselves
    covered: Tensor  # share of the larger that both show


def lay_over(first: Tensor, second: Tensor) -> Laid:
    """(N, 32, 32) pairs of standardised thumbnails, the first moved and stretched to lie on the second."""
    coarse = _halved(first), _halved(second)
    place = first.new_zeros(len(first), 4)  # stretch and shift across, stretch and shift down; sides are 2 long
    soft = _blurred(coarse[0], 1), _blurred(coarse[1], 1)
    for _ in range(6):
        place = _better(*soft, place)
    moved, inside = _moved(coarse[0], place)
    fine = _correlation(moved - _blurred(moved, 2), coarse[1] - _blurred(coarse[1], 2), inside)
    hopeful = (fine > HOPE).nonzero()[:, 0]  # most candidates end here
    out = Laid(*(first.new_zeros(len(first)) for _ in Laid._fields))
    if not len(hopeful):
        return out
    one, other, place = first[hopeful], second[hopeful], place[hopeful]
    for _ in range(4):
        place = _better(one, other, place)
    moved, inside = _moved(one, place)
    within = -F.max_pool2d(-F.pad(inside, (2,) * 4)[:, None], 5, 1)[:, 0]  # where the blur saw nothing from outside
    moved, still = moved - _blurred(moved, 2), other - _blurred(other, 2)
    out.detail[hopeful] = _correlation(moved, still, within)
    out.everywhere[hopeful] = _agreeing(moved * within, still * within, within)
    used = ((1 + place[:, 0]) * (1 + place[:, 2])).clamp(max=1)  # of the first, where the second is a part of it
    out.covered[hopeful] = inside.mean((1, 2)) * used
    return out


def _agreeing(a: Tensor, b: Tensor, within: Tensor) -> Tensor:
    """(N,) share of overlapping windows of 8 x 8 whose detail is alike: one strong outline must not speak for all.

    Without it, cups of one shape with other prints were one picture.
    """
    count = within.sum((1, 2)).clamp(min=1)
    a = a / torch.sqrt((a * a).sum((1, 2)) / count).clamp(min=1e-6)[:, None, None]
    b = b / torch.sqrt((b * b).sum((1, 2)) / count).clamp(min=1e-6)[:, None, None]
    both, one, other, share = (F.avg_pool2d(x[:, None], 8, 4)[:, 0] for x in (a * b, a * a, b * b, within))
    alike = (2 * both + NOISE) / (one + other + NOISE) > 0.5
    seen = share > 0.5
    return (alike & seen).sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)


def _better(first: Tensor, second: Tensor, place: Tensor) -> Tensor:
    """One Gauss-Newton step: second = gain * first(stretched, shifted) + offset, all six at once."""
    n = first.shape[-1]
    at = _grid(n, first)
    moved, inside = _moved(first, place)
    inside = inside.clone()
    inside[:, [0, -1]] = 0
    inside[:, :, [0, -1]] = 0
    across, down = torch.zeros_like(moved), torch.zeros_like(moved)
    across[:, :, 1:-1] = (moved[:, :, 2:] - moved[:, :, :-2]) * (n / 4)
    down[:, 1:-1] = (moved[:, 2:] - moved[:, :-2]) * (n / 4)
    across = across / (1 + place[:, 0, None, None])  # by the picture's own coordinates
    down = down / (1 + place[:, 2, None, None])
    slopes = torch.stack(
        [across * at, across, down * at[:, None], down, moved, torch.ones_like(moved)], dim=-1
    ).flatten(1, 2)  # (N, n * n, 6)
    weighted = slopes * inside.flatten(1)[..., None]
    damping = torch.tensor([1e-4] * 4 + [1e-7] * 2, device=first.device).diag() * (n * n)  # for what has no slope
    matrix = weighted.transpose(1, 2) @ slopes + damping
    solved = torch.linalg.solve(matrix, (weighted * second.flatten(1)[..., None]).sum(1))
    gain = solved[:, 4:5]
    step = torch.where(gain > 0.2, solved[:, :4] / gain.clamp(min=0.2), torch.zeros_like(solved[:, :4]))
    return (place + step.clamp(-0.06, 0.06)).clamp(-0.25, 0.25)


def _moved(picture: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """(N, n, n) sampled at its place, and 1 where that lies inside."""
    n = picture.shape[-1]
    at = _grid(n, picture)
    across = (1 + place[:, 0:1]) * at + place[:, 1:2]
    down = (1 + place[:, 2:3]) * at + place[:, 3:4]
    grid = torch.stack([across[:, None, :].expand(-1, n, -1), down[:, :, None].expand(-1, -1, n)], dim=-1)
    out = F.grid_sample(picture[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    edge = 1 - 1 / n
    inside = (across.abs() <= edge)[:, None, :] & (down.abs() <= edge)[:, :, None]
    return out, inside.to(picture.dtype)


def _grid(n: int, like: Tensor) -> Tensor:
    """(n,) centres of the pixels of a side that goes from -1 to 1."""
    return (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n * 2 - 1


def _standard(thumbs: Tensor) -> Tensor:
    grey = thumbs.float()
    grey = grey - grey.mean((1, 2), keepdim=True)
    return grey / grey.std((1, 2), keepdim=True).clamp(min=1e-3)


def _halved(picture: Tensor) -> Tensor:
    return F.avg_pool2d(_blurred(picture, 1)[:, None], 2)[:, 0]


def _blurred(picture: Tensor, reach: int) -> Tensor:
    """Binomial, 3 or 5 pixels wide."""
    weights = [math.comb(2 * reach, k) / 4**reach for k in range(2 * reach + 1)]
    line = torch.tensor(weights, device=picture.device, dtype=picture.dtype)
    padded = F.pad(picture[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, line[None, None, None, :]), line[None, None, :, None])[:, 0]


def _correlation(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """(N,) of (N, n, n), where the weight is 1."""
    count = weight.sum((1, 2)).clamp(min=1)
    a = (a - ((a * weight).sum((1, 2)) / count)[:, None, None]) * weight
    b = (b - ((b * weight).sum((1, 2)) / count)[:, None, None]) * weight
    return (a * b).sum((1, 2)) / torch.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2))).clamp(min=1e-6)


def _none() -> Pairs:
    empty = np.zeros(0, dtype=np.int64)
    return Pairs(empty, empty, np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.bool_))


def _merged(found: list[Pairs]) -> Pairs:
    """Each pair once; where it was found both ways, as it is (a symmetric picture is its own mirror image)."""
    first = np.concatenate([pairs.first for pairs in found])
    second = np.concatenate([pairs.second for pairs in found])
    score = np.concatenate([pairs.score for pairs in found])
    mirrored = np.concatenate([pairs.mirrored for pairs in found])
    order = np.lexsort((mirrored, second, first))
    first, second, score, mirrored = first[order], second[order], score[order], mirrored[order]
    new = np.r_[True, (np.diff(first) != 0) | (np.diff(second) != 0)] if len(first) else np.zeros(0, dtype=bool)
    return Pairs(first[new], second[new], score[new], mirrored[new])
