"""Swin Transformers: attention in windows, which every second block shifts, over maps that halve from stage to stage.

v1 Liu 2021 (arXiv 2103.14030), v2 Liu 2021 (arXiv 2111.09883); parameter names are timm's.

Pictures of any size: a map that its windows do not tile is padded right and below, then shifted, so that the mask parts
what does not lie side by side; what was padded is looked at, as its authors do. (timm shifts first: where a map of a
block that shifts has to be padded, its rows meet those of the other rim.)

Shape suffixes:  B batch  C channels  H,W pixels  h,w tokens of a map  D width  W windows of a map  T tokens of a window
                 A heads  K head size  R places of two tokens to each other, (2 rows - 1) * (2 columns - 1)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import BadInput
from .attention import attend
from .layers import DropPath, Mlp
from .staged import OFFSETS, SwinConfig
from .vit import Hide, Tokens, init_layers

__all__ = ["Swin", "SwinBlock", "SwinConfig"]

APART = -100.0  # added to the score of two tokens that only the shift brought together; the authors' number, and soft
SHARPEST = math.log(100.0)  # the logarithm of the largest factor of a cosine

Sides = tuple[int, int]  # rows, columns


# -- windows -----------------------------------------------------------------------------------------------------------


def padded(x_BhwD: Tensor, tile: Sides) -> Tensor:
    """With zeros right and below, so that windows tile it."""
    down, right = (-n % side for n, side in zip(x_BhwD.shape[1:3], tile, strict=True))
    return F.pad(x_BhwD, (0, 0, 0, right, 0, down)) if down or right else x_BhwD


def parted(x_BhwD: Tensor, tile: Sides) -> Tensor:
    """(B, W, T, D): windows row by row, and in them the tokens row by row."""
    batch, h, w, width = x_BhwD.shape
    rows, columns = tile
    tiles = x_BhwD.reshape(batch, h // rows, rows, w // columns, columns, width)
    return tiles.transpose(2, 3).reshape(batch, -1, rows * columns, width)


def joined(x_BWTD: Tensor, tile: Sides, grid: Sides) -> Tensor:
    """The map (B, h, w, D) of which these are the windows."""
    (h, w), (rows, columns) = grid, tile
    tiles = x_BWTD.view(x_BWTD.shape[0], h // rows, w // columns, rows, columns, -1)
    return tiles.transpose(2, 3).reshape(x_BWTD.shape[0], h, w, -1)


def apart(grid: Sides, tile: Sides, shift: Sides, device: torch.device) -> Tensor:
    """(W, T, T): what is added to the scores in a map that was shifted: APART where two tokens were no neighbours."""
    regions = []
    for n, side, moved in zip(grid, tile, shift, strict=True):
        at = torch.arange(n, device=device)
        regions.append((at >= n - side).long() + (at >= n - moved).long() if moved else torch.zeros_like(at))
    region_WT = parted((3 * regions[0][:, None] + regions[1])[None, :, :, None], tile)[0, ..., 0]
    return (region_WT[:, :, None] != region_WT[:, None, :]) * APART


# -- blocks ------------------------------------------------------------------------------------------------------------


class WindowAttention(nn.Module):
    """Every token looks at those of its window; how they lie to each other is added to the scores.

    v1: the table of a block says what each of these places means. v2: an MLP says it, of offsets on a scale of
    logarithms; scores are cosines times a factor for each head; keys have no bias.
    """

    relative_position_index: Tensor  # (T, T): the row for query and key
    relative_coords_table: Tensor  # (1, 2 rows - 1, 2 columns - 1, 2)

    def __init__(self, cfg: SwinConfig, stage: int) -> None:
        super().__init__()
        width, self.heads, self.tile = cfg.width_of(stage), cfg.heads[stage], cfg.tile(stage)
        self.dropout, self.cosine = cfg.attention_dropout, cfg.version == "v2"
        self.unit = cfg.trained_window[stage] if cfg.trained_window is not None else None
        (rows, columns), area = (2 * n - 1 for n in self.tile), self.tile[0] * self.tile[1]
        self.qkv = nn.Linear(width, 3 * width, bias=not self.cosine)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(cfg.projection_dropout)
        index = torch.empty(area, area, dtype=torch.long)
        self.register_buffer("relative_position_index", index, persistent=False)
        if self.cosine:
            self.logit_scale = nn.Parameter(torch.empty(self.heads, 1, 1))
            last = nn.Linear(OFFSETS, self.heads, bias=False)
            self.cpb_mlp = nn.Sequential(nn.Linear(2, OFFSETS), nn.ReLU(), last)
            self.q_bias, self.v_bias = (nn.Parameter(torch.empty(width)) for _ in range(2))
            self.register_buffer("relative_coords_table", torch.empty(1, rows, columns, 2), persistent=False)
        else:
            self.relative_position_bias_table = nn.Parameter(torch.empty(rows * columns, self.heads))

    @torch.no_grad()
    def init_weights(self) -> None:
        """What init_layers leaves: tables, factors, biases on their own."""
        if self.cosine:
            nn.init.constant_(self.logit_scale, math.log(10.0))
            nn.init.zeros_(self.q_bias)
            nn.init.zeros_(self.v_bias)
        else:
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    @torch.no_grad()
    def init_buffers(self) -> None:
        if self.relative_position_index.is_meta:  # arithmetic without values takes a second to import
            return
        rows, columns = self.tile
        down, across = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
        offsets = [at[:, None] - at[None] + n - 1 for at, n in ((down, rows), (across, columns))]
        self.relative_position_index.copy_(offsets[0] * (2 * columns - 1) + offsets[1])
        if self.cosine:
            far = [torch.arange(1 - n, n) * (8 / max(1, (self.unit or n) - 1)) for n in self.tile]
            logs = [at.sign() * (at.abs() + 1).log2() / 3 for at in far]
            self.relative_coords_table.copy_(torch.stack(torch.meshgrid(*logs, indexing="ij"), dim=-1)[None])

    def bias(self) -> Tensor:
        """(A, T, T)"""
        if not self.cosine:
            return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        table_RA = self.cpb_mlp(self.relative_coords_table).flatten(0, 2)
        return 16 * torch.sigmoid(table_RA[self.relative_position_index]).permute(2, 0, 1)

    def queries_keys_values(self, x_BWTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each (B, W, A, T, K); of v2 such that their product is a score when it is divided by the root of K."""
        qkv = self.qkv(x_BWTD)
        if self.cosine:
            qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]).to(qkv.dtype)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)
        if self.cosine:
            factor_A11 = self.logit_scale.clamp(max=SHARPEST).exp() * q.shape[-1] ** 0.5
            q = (F.normalize(q.float(), dim=-1) * factor_A11).to(v.dtype)
            k = F.normalize(k.float(), dim=-1).to(v.dtype)
        return q, k, v

    def forward(self, x_BWTD: Tensor, apart_WTT: Tensor | None) -> Tensor:
        q, k, v = self.queries_keys_values(x_BWTD)
        dropout, bias_ATT = self.dropout if self.training else 0.0, self.bias()
        if apart_WTT is None:  # windows are alike: they stand with the pictures
            out = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), dropout, bias_ATT[None])
        else:  # each has its mask, which all pictures share: windows stand with the heads
            bias_1WTT = (bias_ATT + apart_WTT[:, None]).flatten(0, 1)[None]
            out = attend(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), dropout, bias_1WTT)
        x: Tensor = self.proj(out.view(v.shape).transpose(2, 3).flatten(3))
        dropped: Tensor = self.proj_drop(x)
        return dropped

    def stacked(self) -> list[tuple[Tensor, int]]:
        return [(self.qkv.weight, 3)]


class SwinBlock(nn.Module):
    """Attention in windows, then an MLP on each token; both are added to what was there."""

    def __init__(self, cfg: SwinConfig, stage: int, shifted: bool) -> None:
        super().__init__()
        width = cfg.width_of(stage)
        self.post, self.tile = cfg.version == "v2", cfg.tile(stage)
        self.shift = cfg.shift(stage) if shifted else (0, 0)
        self.norm1 = nn.LayerNorm(width, eps=cfg.norm_eps)
        self.attn = WindowAttention(cfg, stage)
        self.drop_path1 = DropPath() if cfg.drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=cfg.norm_eps)
        self.mlp = Mlp(width, int(width * cfg.mlp_ratio), "gelu", cfg.mlp_dropout)
        self.drop_path2 = DropPath() if cfg.drop_path > 0 else nn.Identity()

    def look(self, x_BhwD: Tensor) -> Tensor:
        """Attention in the windows of this map, which has any size."""
        h, w = x_BhwD.shape[1:3]
        x, (down, across) = padded(x_BhwD, self.tile), self.shift
        grid, mask = (x.shape[1], x.shape[2]), None
        if down or across:
            x = x.roll((-down, -across), (1, 2))
            mask = apart(grid, self.tile, self.shift, x.device)
        x = joined(self.attn(parted(x, self.tile), mask), self.tile, grid)
        if down or across:
            x = x.roll((down, across), (1, 2))
        return x[:, :h, :w]

    def attend(self, x_BhwD: Tensor) -> Tensor:
        """x + attention: the first half."""
        branch = self.norm1(self.look(x_BhwD)) if self.post else self.look(self.norm1(x_BhwD))
        x: Tensor = x_BhwD + self.drop_path1(branch)
        return x

    def feed(self, x_BhwD: Tensor) -> Tensor:
        """x + MLP: the second half."""
        branch = self.norm2(self.mlp(x_BhwD)) if self.post else self.mlp(self.norm2(x_BhwD))
        x: Tensor = x_BhwD + self.drop_path2(branch)
        return x

    def forward(self, x_BhwD: Tensor) -> Tensor:
        return self.feed(self.attend(x_BhwD))


# -- stages ------------------------------------------------------------------------------------------------------------


class PatchEmbed(nn.Module):
    """Pictures (B, C, H, W) to a map (B, h, w, D), normalised; padded right and below to whole patches."""

    def __init__(self, cfg: SwinConfig) -> None:
        super().__init__()
        self.patch = cfg.patch_size
        self.proj = nn.Conv2d(cfg.channels, cfg.width, cfg.patch_size, stride=cfg.patch_size)
        self.norm = nn.LayerNorm(cfg.width, eps=cfg.norm_eps)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        down, right = (-n % self.patch for n in images_BCHW.shape[2:])
        if down or right:
            images_BCHW = F.pad(images_BCHW, (0, right, 0, down))
        x: Tensor = self.norm(self.proj(images_BCHW).permute(0, 2, 3, 1))
        return x


class PatchMerging(nn.Module):
    """Four tokens to one of twice the width. v1 normalises what comes in, v2 what goes out."""

    def __init__(self, cfg: SwinConfig, stage: int) -> None:
        super().__init__()
        before, after = cfg.width_of(stage - 1), cfg.width_of(stage)
        self.post = cfg.version == "v2"
        self.norm = nn.LayerNorm(after if self.post else 4 * before, eps=cfg.norm_eps)
        self.reduction = nn.Linear(4 * before, after, bias=False)

    def forward(self, x_BhwD: Tensor) -> Tensor:
        x = padded(x_BhwD, (2, 2))
        batch, h, w, width = x.shape
        fours = x.reshape(batch, h // 2, 2, w // 2, 2, width)  # rows, down, columns, across
        x = fours.permute(0, 1, 3, 4, 2, 5).flatten(3)  # the lower left one comes second
        merged: Tensor = self.norm(self.reduction(x)) if self.post else self.reduction(self.norm(x))
        return merged


class Stage(nn.Module):
    """Blocks over maps of one size; all but the first begin by merging."""

    def __init__(self, cfg: SwinConfig, stage: int) -> None:
        super().__init__()
        self.downsample = PatchMerging(cfg, stage) if stage else nn.Identity()
        self.blocks = nn.ModuleList(SwinBlock(cfg, stage, shifted=i % 2 == 1) for i in range(cfg.depths[stage]))

    def units(self) -> list[SwinBlock]:
        return list(self.blocks)  # type: ignore[arg-type]  # a ModuleList forgets what it holds


class Swin(nn.Module):
    """Pictures of any size to the tokens of the last map. It has no prefix, and cannot leave out a patch."""

    def __init__(self, cfg: SwinConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.patch_embed = PatchEmbed(cfg)
        self.layers = nn.ModuleList(Stage(cfg, stage) for stage in range(len(cfg.depths)))
        self.norm = nn.LayerNorm(cfg.features, eps=cfg.norm_eps)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Every initial value, of parameters and of buffers."""
        init_layers(self)
        for block in self.units():
            block.attn.init_weights()
            if block.post:  # a block begins as the identity, as its authors have it
                nn.init.zeros_(block.norm1.weight)
                nn.init.zeros_(block.norm2.weight)
        self.init_buffers()

    @torch.no_grad()
    def init_buffers(self) -> None:
        """The values that no checkpoint holds: enough for whoever loads all parameters anyway."""
        blocks = self.units()
        for i, block in enumerate(blocks):
            block.attn.init_buffers()
            for part in (block.drop_path1, block.drop_path2):
                if isinstance(part, DropPath):
                    part.rate.fill_(self.cfg.drop_path * i / max(1, len(blocks) - 1))

    def forward(
        self,
        images_BCHW: Tensor,
        *,
        keep: Tensor | None = None,
        hide: Hide | None = None,
        layers: Sequence[int] = (),
    ) -> Tokens:
        """Normalised pictures (B, C, H, W) to tokens. layers: the stages whose maps to return as well, in this order.

        `keep` and `hide` are refused: windows are made of all patches.
        """
        cfg = self.cfg
        if keep is not None or hide is not None:
            raise BadInput("a Swin cannot leave out or hide patches, its windows need them all; use a ViT for that")
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != cfg.channels:
            wanted = f"(batch, {cfg.channels}, height, width)"
            raise BadInput(f"pictures of shape {tuple(images_BCHW.shape)}; model.backbone.channels wants {wanted}")
        unknown = [i for i in layers if not 0 <= i < cfg.maps]
        if unknown:
            raise BadInput(f"layers {unknown} do not exist; this network has stages 0 to {cfg.maps - 1}")
        x, maps = self.patch_embed(images_BCHW), {}
        for i, stage in enumerate(self.stages()):
            x = stage.downsample(x)
            for block in stage.units():
                x = self.run(block, x)
            if i in layers:
                maps[i] = x.permute(0, 3, 1, 2)
        patches_BND, grid = self.norm(x).flatten(1, 2), (x.shape[1], x.shape[2])
        none = patches_BND[:, :0]
        return Tokens(None, None, none, patches_BND, grid, tuple(maps[i] for i in layers))

    def run(self, block: SwinBlock, x_BhwD: Tensor) -> Tensor:
        """One block, recomputed in the backward pass if the configuration says so."""
        if self.cfg.remat and torch.is_grad_enabled():
            again: Tensor = checkpoint(block, x_BhwD, use_reentrant=False)
            return again
        x: Tensor = block(x_BhwD)
        return x

    def stages(self) -> list[Stage]:
        return list(self.layers)  # type: ignore[arg-type]  # a ModuleList forgets what it holds

    # -- as the trainer sees it (the protocol Tower) ----------------------------------------------------------------

    def units(self) -> list[SwinBlock]:
        return [block for stage in self.stages() for block in stage.units()]

    def depth_of(self, name: str) -> int:
        """0 for what embeds, i + 1 for block i over all stages, depth + 1 for the final norm. What merges lies as deep
        as the block behind it."""
        first, _, rest = name.partition(".")
        if first != "layers":
            return self.cfg.depth + 1 if first == "norm" else 0
        stage, kind, block = rest.split(".")[:3]
        before = sum(self.cfg.depths[: int(stage)])
        return before + 1 + (int(block) if kind == "blocks" else 0)

    def no_decay(self) -> frozenset[str]:
        """What says how tokens lie to each other, factors of scores, and whatever has one axis: biases and norms."""
        spared = (".relative_position_bias_table", ".logit_scale", ".cpb_mlp.0.weight", ".cpb_mlp.2.weight")
        return frozenset(name for name, p in self.named_parameters() if p.ndim < 2 or name.endswith(spared))
