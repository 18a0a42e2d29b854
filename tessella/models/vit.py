"""The Vision Transformer, all of it, on one page (Dosovitskiy 2020; parameter names are timm's).

Shape suffixes:  B batch  C channels  H,W pixels  h,w patches  N = h * w patch tokens  P prefix tokens
                 T = P + N all tokens  D width  A heads  Q queries
Order of tokens: class, distillation, registers, patches row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import BadInput
from .architecture import ViTConfig
from .layers import Attention, DropPath, LayerScale, Mlp, PatchEmbed, SwiGLU, norm_layer
from .position import Place, related, resample, rotary, sincos

__all__ = ["Block", "Place", "Step", "Tokens", "ViT", "ViTConfig", "Walk"]

Hide = tuple[Tensor, Tensor]  # (B, N) bool: which patches; (D,): the token to put there, owned by the objective


class Tokens(NamedTuple):
    """What a backbone returns. The prefix is split off here and nowhere else."""

    cls: Tensor | None  # (B, D)
    distill: Tensor | None  # (B, D)
    registers: Tensor  # (B, R, D); R may be 0
    patches: Tensor  # (B, N, D), or (B, n, D) when `keep` chose n of them
    grid: tuple[int, int]  # (h, w) of the whole picture
    layers: tuple[Tensor, ...]  # the maps that were asked for, (B, D, h, w) each, before the final norm

    def map(self) -> Tensor:
        """The patches as a map (B, D, h, w)."""
        return to_map(self.patches, self.grid)

    def pooled(self, kind: str) -> Tensor:
        """One vector (B, D): the class token ("cls"), or the mean of the patches; a class token, if there is one,
        still takes part as something to attend to."""
        if kind == "mean":
            return self.patches.mean(dim=1)
        assert self.cls is not None, "ClassifierConfig refuses this pool without a class token"
        return self.cls

    def together(self) -> Tensor:
        """All tokens (B, T, D), in the order of the blocks."""
        single = [token[:, None] for token in (self.cls, self.distill) if token is not None]
        return torch.cat([*single, self.registers, self.patches], dim=1)


def to_map(patches_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    if patches_BND.shape[1] != grid[0] * grid[1]:
        raise BadInput(f"{patches_BND.shape[1]} patches are no {grid[0]}x{grid[1]} map; ask without `keep` or merging")
    return patches_BND.mT.reshape(patches_BND.shape[0], -1, *grid)


class Block(nn.Module):
    """One layer: attention between the tokens, then an MLP on each; both are added to what was there."""

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__()
        self.post = cfg.norm_order == "post"
        scaled, dropped = cfg.layer_scale is not None and not self.post, cfg.drop_path > 0
        self.norm1 = norm_layer(cfg, cfg.width)
        self.attn = Attention(cfg)
        self.ls1 = LayerScale(cfg.width) if scaled else nn.Identity()
        self.drop_path1 = DropPath() if dropped else nn.Identity()
        self.norm2 = norm_layer(cfg, cfg.width)
        self.mlp: nn.Module
        inner = norm_layer(cfg, cfg.hidden) if cfg.mlp_norm else nn.Identity()
        if cfg.mlp == "swiglu":
            self.mlp = SwiGLU(cfg.width, cfg.hidden, cfg.mlp_dropout, inner)
        else:
            self.mlp = Mlp(cfg.width, cfg.hidden, cfg.mlp, cfg.mlp_dropout, inner)
        self.ls2 = LayerScale(cfg.width) if scaled else nn.Identity()
        self.drop_path2 = DropPath() if dropped else nn.Identity()

    def attend(self, x_BTD: Tensor, place: Place) -> Tensor:
        """x + attention: the first half, (B, T, D) to (B, T, D)."""
        branch = self.norm1(self.attn(x_BTD, place)) if self.post else self.attn(self.norm1(x_BTD), place)
        x: Tensor = x_BTD + self.drop_path1(self.ls1(branch))
        return x

    def feed(self, x_BTD: Tensor) -> Tensor:
        """x + MLP: the second half, (B, T, D) to (B, T, D)."""
        branch = self.norm2(self.mlp(x_BTD)) if self.post else self.mlp(self.norm2(x_BTD))
        x: Tensor = x_BTD + self.drop_path2(self.ls2(branch))
        return x

    def forward(self, x_BTD: Tensor, place: Place) -> Tensor:
        return self.feed(self.attend(x_BTD, place))

    def attention_of(self, x_BTD: Tensor, place: Place, queries: Tensor | None = None) -> Tensor:
        """The softmax map (B, A, Q, T) of this block for its input x; `queries` (Q,): of these tokens only."""
        return self.attn.map(x_BTD if self.post else self.norm1(x_BTD), place, queries)


@dataclass
class Step:
    """One stop of a walk, before its block has run. Edit `x` and `place` to change what the block sees."""

    index: int
    block: Block
    x: Tensor  # (B, T, D), what enters the block
    place: Place
    result: Tensor | None = None

    def replace(self, x_BTD: Tensor) -> None:
        """Take this as the block's output; the block itself does not run. Set `place` too when tokens went away."""
        self.result = x_BTD


class Walk:
    """The forward pass as a loop that its reader may change: `for step in walk`, then `walk.finish()`.

    Between the steps, and after the last one, `x` and `place` are the state; what came in (prompts) is taken out there.
    """

    def __init__(self, vit: ViT, x_BTD: Tensor, place: Place, grid: tuple[int, int]) -> None:
        self.vit, self.x, self.place, self.grid = vit, x_BTD, place, grid

    def __iter__(self) -> Iterator[Step]:
        for index, block in enumerate(self.vit.units()):
            step = Step(index, block, self.x, self.place)
            yield step
            self.x = self.vit.run(block, step.x, step.place) if step.result is None else step.result
            self.place = step.place

    def finish(self) -> Tokens:
        return self.vit.finish(self.x, self.grid)


class ViT(nn.Module):
    """Pictures to tokens. Of any size that the patches tile, or of any size at all with indivisible = "pad"."""

    pos_embed: Tensor | None

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.patch_embed = PatchEmbed(cfg)
        self.cls_token = _token(cfg.width, int(cfg.class_token))
        self.dist_token = _token(cfg.width, int(cfg.distill_token))
        self.reg_token = _token(cfg.width, cfg.registers)
        h, w = cfg.grid
        match cfg.position:
            case "learned":  # rows: prefix tokens (if they have a place), then patches
                self.pos_embed = _token(cfg.width, h * w + (cfg.prefix if cfg.prefix_position else 0))
            case "sincos":
                self.register_buffer("pos_embed", torch.empty(1, h * w, cfg.width), persistent=False)
            case "none":
                self.pos_embed = None
        self.pos_drop = nn.Dropout(cfg.position_dropout)
        self.norm_pre = norm_layer(cfg, cfg.width) if cfg.norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.depth))
        self.norm = norm_layer(cfg, cfg.width) if cfg.final_norm else nn.Identity()
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Every initial value, of parameters and of buffers."""
        init_layers(self)
        for token in (self.cls_token, self.dist_token, self.reg_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        if isinstance(self.pos_embed, nn.Parameter):
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        scale = self.cfg.layer_scale
        for block in self.units():
            for part in (block.ls1, block.ls2):
                if isinstance(part, LayerScale) and scale is not None:
                    nn.init.constant_(part.gamma, scale)
            if block.attn.relative_position_bias_table is not None:
                nn.init.zeros_(block.attn.relative_position_bias_table)
            if block.post and scale is not None:  # the norm's weight is the last factor of the branch
                for norm in (block.norm1, block.norm2):
                    nn.init.constant_(norm.get_parameter("weight"), scale)
        self.init_buffers()

    @torch.no_grad()
    def init_buffers(self) -> None:
        """The values that no checkpoint holds: enough for whoever loads all parameters anyway."""
        cfg, blocks = self.cfg, self.units()
        for i, block in enumerate(blocks):
            for part in (block.drop_path1, block.drop_path2):
                if isinstance(part, DropPath):
                    part.rate.fill_(cfg.drop_path * i / max(1, len(blocks) - 1))
        if self.pos_embed is not None and cfg.position == "sincos":
            self.pos_embed.copy_(sincos(cfg.width, *cfg.grid).flatten(0, 1)[None])

    def embed(
        self, images_BCHW: Tensor, keep: Tensor | None = None, hide: Hide | None = None
    ) -> tuple[Tensor, Place, tuple[int, int]]:
        """What enters the first block: tokens (B, T, D), their place, and the grid of the whole picture."""
        cfg, batch = self.cfg, images_BCHW.shape[0]
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != cfg.channels:
            shape = tuple(images_BCHW.shape)
            wanted = f"(batch, {cfg.channels}, height, width)"
            raise BadInput(f"pictures of shape {shape}; model.backbone.channels wants {wanted}")
        x, (h, w) = self.patch_embed(images_BCHW)  # (B, N, D)
        if hide is not None:
            mask_BN, token_D = hide
            x = torch.where(mask_BN[..., None], token_D.to(x.dtype), x)
        prefix: list[Tensor] = [t for t in (self.cls_token, self.dist_token, self.reg_token) if t is not None]
        if self.pos_embed is not None:
            prefix_pos, patch_pos = self._positions(self.pos_embed, h, w)
            x = x + patch_pos
            if prefix_pos.shape[1]:
                prefix = [torch.cat(prefix, dim=1) + prefix_pos]
        place = rotary(cfg.rotary, cfg.size_of_head, h, w, x.device) if cfg.rotary else Place()
        if cfg.relative:
            place = place._replace(related=related(h, w, x.device))
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
            place = place.select(keep)
        if prefix:
            x = torch.cat([*(t.expand(batch, -1, -1) for t in prefix), x], dim=1)
        x = self.norm_pre(self.pos_drop(x))
        return x, place.with_placeless(cfg.prefix), (h, w)

    def _positions(self, table: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Positions of the prefix (1, P or 0, D) and of the patches (1, N, D) at this grid."""
        rows, columns = self.cfg.grid
        count = table.shape[1] - rows * columns
        patches_hwD = table[0, count:].view(rows, columns, -1)
        new_hwD = resample(patches_hwD, h, w, plain=self.cfg.position_resize == "plain")
        return table[:, :count], new_hwD.flatten(0, 1)[None]

    def run(self, block: Block, x_BTD: Tensor, place: Place) -> Tensor:
        """One block, recomputed in the backward pass if the configuration says so."""
        if self.cfg.remat and torch.is_grad_enabled():
            again: Tensor = checkpoint(block, x_BTD, place, use_reentrant=False)
            return again
        x: Tensor = block(x_BTD, place)
        return x

    def forward(
        self,
        images_BCHW: Tensor,
        *,
        keep: Tensor | None = None,
        hide: Hide | None = None,
        layers: Sequence[int] = (),
    ) -> Tokens:
        """Normalised pictures (B, C, H, W) to tokens.

        keep: (B, n) indices of the patches to process at all (MAE, dropout of patches); they keep their places.
        hide: a (B, N) bool mask and the (D,) token that stands in for those patches (iBOT, SimMIM).
        layers: the blocks whose patch maps to return as well, in this order.
        """
        if layers and keep is not None:
            raise BadInput("maps of layers need all patches; ask for `layers` or for `keep`, not for both")
        unknown = [i for i in layers if not 0 <= i < self.cfg.depth]
        if unknown:
            raise BadInput(f"layers {unknown} do not exist; this network has blocks 0 to {self.cfg.depth - 1}")
        x, place, grid = self.embed(images_BCHW, keep, hide)
        maps = {}
        for i, block in enumerate(self.blocks):
            x = self.run(block, x, place)  # type: ignore[arg-type]  # a ModuleList forgets what it holds
            if i in layers:
                maps[i] = to_map(x[:, self.cfg.prefix :], grid)
        return self.finish(x, grid, tuple(maps[i] for i in layers))

    def walk(self, images_BCHW: Tensor, keep: Tensor | None = None, hide: Hide | None = None) -> Walk:
        """The same pass, one block at a time, in the reader's hands."""
        return Walk(self, *self.embed(images_BCHW, keep, hide))

    def finish(self, x_BTD: Tensor, grid: tuple[int, int], layers: tuple[Tensor, ...] = ()) -> Tokens:
        """What leaves the last block, normalised and split."""
        cfg = self.cfg
        x = self.norm(x_BTD)
        distill = int(cfg.class_token)
        return Tokens(
            cls=x[:, 0] if cfg.class_token else None,
            distill=x[:, distill] if cfg.distill_token else None,
            registers=x[:, cfg.prefix - cfg.registers : cfg.prefix],
            patches=x[:, cfg.prefix :],
            grid=grid,
            layers=layers,
        )

    # -- as the trainer sees it (the protocol Tower) ----------------------------------------------------------------

    def units(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]  # a ModuleList forgets what it holds

    def depth_of(self, name: str) -> int:
        """0 for what embeds, i + 1 for block i, depth + 1 for the final norm."""
        first, _, rest = name.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.cfg.depth + 1 if first == "norm" else 0

    def no_decay(self) -> frozenset[str]:
        """Tokens and tables, and whatever has one axis: biases, norms, layer scales."""
        tables = ("cls_token", "dist_token", "reg_token", "pos_embed", "relative_position_bias_table")
        return frozenset(name for name, p in self.named_parameters() if p.ndim < 2 or name.endswith(tables))


def _token(width: int, count: int) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(1, count, width)) if count else None


def init_layers(root: nn.Module) -> None:
    """Weights of every linear map, convolution and norm under `root`; the rest is the network's own affair."""
    for part in root.modules():
        match part:
            case nn.Linear():  # 0.02 to 0.04 at width 768, more in narrow networks, which learn faster so
                nn.init.trunc_normal_(part.weight, std=(2 / sum(part.weight.shape)) ** 0.5)
            case nn.Conv2d():  # std by fan-in: pixels, not features, come in
                nn.init.trunc_normal_(part.weight, std=part.weight[0].numel() ** -0.5)
            case nn.LayerNorm() | nn.RMSNorm() | nn.GroupNorm():
                nn.init.ones_(part.weight)
            case _:
                continue
        if not isinstance(part, nn.RMSNorm) and part.bias is not None:
            nn.init.zeros_(part.bias)
