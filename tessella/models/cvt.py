"""CvT: Transformers whose tokens are embedded, and whose queries, keys and values are projected, by convolutions.

Wu 2021 (arXiv 2103.15808); parameter names are those of its authors' files. Three stages, each on a map of half the
size; keys and values of every other place; no positions. The class token enters in the last stage.

The batch norms keep the statistics of the weights that were loaded, in training too: they are affine maps that learn
their factor and shift. So `forward` changes no state, and a picture does not depend on its neighbours. Whoever starts
without weights starts from mean 0 and variance 1.

Shape suffixes:  B batch  C channels  H,W pixels  h,w tokens of a map  N = h * w  T = N, and 1 in the last stage
                 S every other token in both directions, and 1 in the last stage  D width  A heads  K head size
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import BadInput
from .attention import attend
from .layers import DropPath, Mlp
from .staged import SMALLEST, CvTConfig
from .vit import Hide, Tokens, init_layers

__all__ = ["CvT", "CvTBlock", "CvTConfig"]

Sides = tuple[int, int]  # rows, columns
STATISTICS_EPS = 1e-5  # beside the variance of a batch norm


def spread(x_BND: Tensor, grid: Sides) -> Tensor:
    """Tokens as a map (B, D, h, w)."""
    return x_BND.mT.reshape(x_BND.shape[0], -1, *grid)


class Statistics(nn.Module):
    """What a batch norm holds: a factor and a shift that learn, a mean and a variance that do not."""

    running_mean: Tensor  # (D,)
    running_var: Tensor  # (D,)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.register_buffer("running_mean", torch.empty(width))
        self.register_buffer("running_var", torch.empty(width))

    @torch.no_grad()
    def init_weights(self) -> None:
        for tensor in (self.weight, self.running_var):
            nn.init.ones_(tensor)
        for tensor in (self.bias, self.running_mean):
            nn.init.zeros_(tensor)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and shift (D,) of each channel."""
        factor = self.weight * (self.running_var + STATISTICS_EPS).rsqrt()
        return factor, self.bias - self.running_mean * factor


class Look(nn.Module):
    """A 3 x 3 convolution of each channel by itself, and a batch norm, which is folded into it."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        self.bn = Statistics(width)

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """Tokens again, (B, N or S, D)."""
        factor, shift = self.bn.affine()
        weight, conv = self.conv.weight * factor[:, None, None, None], self.conv
        return F.conv2d(x_BDhw, weight, shift, conv.stride, conv.padding, groups=conv.groups).flatten(2).mT


class ConvAttention(nn.Module):
    """All tokens ask every other token in both directions, each seen with its neighbours; the class token as it is."""

    def __init__(self, cfg: CvTConfig, stage: int) -> None:
        super().__init__()
        width, self.heads, self.dropout = cfg.widths[stage], cfg.heads[stage], cfg.attention_dropout
        self.conv_proj_q, self.conv_proj_k, self.conv_proj_v = (Look(width, stride) for stride in (1, 2, 2))
        self.proj_q, self.proj_k, self.proj_v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(cfg.projection_dropout)

    def queries_keys_values(self, x_BTD: Tensor, grid: Sides) -> tuple[Tensor, Tensor, Tensor]:
        """(B, A, T, K), (B, A, S, K), (B, A, S, K), such that q k' is a score when divided by the root of K."""
        first = x_BTD.shape[1] - grid[0] * grid[1]
        prefix, map_BDhw = x_BTD[:, :first], spread(x_BTD[:, first:], grid)
        looks = (self.conv_proj_q, self.proj_q), (self.conv_proj_k, self.proj_k), (self.conv_proj_v, self.proj_v)
        seen = [
            linear(torch.cat([prefix, look(map_BDhw)], dim=1) if first else look(map_BDhw)) for look, linear in looks
        ]
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in seen)
        return q * self.heads**-0.5, k, v  # its authors divide by the root of the width, not of a head's share

    def forward(self, x_BTD: Tensor, grid: Sides) -> Tensor:
        q, k, v = self.queries_keys_values(x_BTD, grid)
        out_BATK = attend(q, k, v, self.dropout if self.training else 0.0)
        x: Tensor = self.proj_drop(self.proj(out_BATK.transpose(1, 2).flatten(2)))
        return x

    def map(self, x_BTD: Tensor, grid: Sides) -> Tensor:
        """The softmax map (B, A, T, S)."""
        q, k, _ = self.queries_keys_values(x_BTD, grid)
        scores_BATS: Tensor = (q.float() * q.shape[-1] ** -0.5) @ k.float().mT
        return scores_BATS.softmax(dim=-1)


class CvTBlock(nn.Module):
    """Attention between the tokens of a map, then an MLP on each; both are added to what was there."""

    def __init__(self, cfg: CvTConfig, stage: int) -> None:
        super().__init__()
        width = cfg.widths[stage]
        self.norm1 = nn.LayerNorm(width, eps=cfg.norm_eps)
        self.attn = ConvAttention(cfg, stage)
        self.drop_path1 = DropPath() if cfg.drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=cfg.norm_eps)
        self.mlp = Mlp(width, int(width * cfg.mlp_ratio), cfg.mlp, cfg.mlp_dropout)
        self.drop_path2 = DropPath() if cfg.drop_path > 0 else nn.Identity()

    def attend(self, x_BTD: Tensor, grid: Sides) -> Tensor:
        """x + attention: the first half."""
        x: Tensor = x_BTD + self.drop_path1(self.attn(self.norm1(x_BTD), grid))
        return x

    def feed(self, x_BTD: Tensor) -> Tensor:
        """x + MLP: the second half."""
        x: Tensor = x_BTD + self.drop_path2(self.mlp(self.norm2(x_BTD)))
        return x

    def forward(self, x_BTD: Tensor, grid: Sides) -> Tensor:
        return self.feed(self.attend(x_BTD, grid))

    def attention_of(self, x_BTD: Tensor, grid: Sides) -> Tensor:
        """The softmax map (B, A, T, S) of this block for its input x."""
        return self.attn.map(self.norm1(x_BTD), grid)


class ConvEmbed(nn.Module):
    """A token for each 4 x 4 pixels, later for 2 x 2 tokens, seen with what lies around; then a norm."""

    def __init__(self, cfg: CvTConfig, stage: int) -> None:
        super().__init__()
        before = cfg.widths[stage - 1] if stage else cfg.channels
        stride, padding = (2, 1) if stage else (4, 2)
        self.proj = nn.Conv2d(before, cfg.widths[stage], cfg.kernel(stage), stride=stride, padding=padding)
        self.norm = nn.LayerNorm(cfg.widths[stage], eps=cfg.norm_eps)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Sides]:
        """Tokens (B, N, D) and (rows, columns)."""
        map_BDhw = self.proj(x_BCHW)
        x: Tensor = self.norm(map_BDhw.flatten(2).mT)
        return x, (map_BDhw.shape[2], map_BDhw.shape[3])


class Stage(nn.Module):
    """Blocks over maps of one size."""

    def __init__(self, cfg: CvTConfig, stage: int) -> None:
        super().__init__()
        self.patch_embed = ConvEmbed(cfg, stage)
        last = stage + 1 == len(cfg.depths)
        self.cls_token = nn.Parameter(torch.empty(1, 1, cfg.widths[stage])) if last else None
        self.blocks = nn.ModuleList(CvTBlock(cfg, stage) for _ in range(cfg.depths[stage]))

    def embed(self, x_BCHW: Tensor) -> tuple[Tensor, Sides]:
        """What enters the first block: tokens (B, T, D), and (rows, columns)."""
        x, grid = self.patch_embed(x_BCHW)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return x, grid

    def units(self) -> list[CvTBlock]:
        return list(self.blocks)  # type: ignore[arg-type]  # a ModuleList forgets what it holds


class CvT(nn.Module):
    """Pictures of any size to the class token and the tokens of the last map. It cannot leave out a patch."""

    def __init__(self, cfg: CvTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        for stage in range(len(cfg.depths)):
            self.add_module(f"stage{stage}", Stage(cfg, stage))
        self.norm = nn.LayerNorm(cfg.widths[-1], eps=cfg.norm_eps)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Every initial value, of parameters and of buffers."""
        init_layers(self)
        for part in self.modules():
            if isinstance(part, Statistics):
                part.init_weights()
            elif isinstance(part, Stage) and part.cls_token is not None:
                nn.init.trunc_normal_(part.cls_token, std=0.02)
        self.init_buffers()

    @torch.no_grad()
    def init_buffers(self) -> None:
        """The values that no checkpoint holds: enough for whoever loads all parameters anyway."""
        blocks = self.units()
        for i, block in enumerate(blocks):
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

        `keep` and `hide` are refused: convolutions see all patches.
        """
        cfg = self.cfg
        if keep is not None or hide is not None:
            raise BadInput("a CvT cannot leave out or hide patches, its convolutions need them all; use a ViT for that")
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != cfg.channels or min(images_BCHW.shape[2:]) < SMALLEST:
            wanted = f"(batch, {cfg.channels}, height, width) of at least {SMALLEST} px"
            raise BadInput(f"pictures of shape {tuple(images_BCHW.shape)}; model.backbone.channels wants {wanted}")
        unknown = [i for i in layers if not 0 <= i < len(cfg.depths)]
        if unknown:
            raise BadInput(f"layers {unknown} do not exist; this network has stages 0 to {len(cfg.depths) - 1}")
        map_BDhw, maps = images_BCHW, {}
        for i, stage in enumerate(self.stages()):
            x, grid = stage.embed(map_BDhw)
            for block in stage.units():
                x = self.run(block, x, grid)
            map_BDhw = spread(x[:, -grid[0] * grid[1] :], grid)
            if i in layers:
                maps[i] = map_BDhw
        x = self.norm(x)
        return Tokens(x[:, 0], None, x[:, :0], x[:, 1:], grid, tuple(maps[i] for i in layers))

    def run(self, block: CvTBlock, x_BTD: Tensor, grid: Sides) -> Tensor:
        """One block, recomputed in the backward pass if the configuration says so."""
        if self.cfg.remat and torch.is_grad_enabled():
            again: Tensor = checkpoint(block, x_BTD, grid, use_reentrant=False)
            return again
        x: Tensor = block(x_BTD, grid)
        return x

    def stages(self) -> list[Stage]:
        return [part for part in self.children() if isinstance(part, Stage)]

    # -- as the trainer sees it (the protocol Tower) ----------------------------------------------------------------

    def units(self) -> list[CvTBlock]:
        return [block for stage in self.stages() for block in stage.units()]

    def depth_of(self, name: str) -> int:
        """0 for what embeds pictures, i + 1 for block i over all stages, depth + 1 for the final norm. What embeds a
        later map, and the class token, lie as deep as the block behind them."""
        if not name.startswith("stage"):
            return self.cfg.depth + 1
        stage, kind, *rest = name.removeprefix("stage").split(".")
        before = sum(self.cfg.depths[: int(stage)])
        if kind == "blocks":
            return before + 1 + int(rest[0])
        return before + 1 if before else 0

    def no_decay(self) -> frozenset[str]:
        """The class token, and whatever has one axis: biases and norms."""
        return frozenset(name for name, p in self.named_parameters() if p.ndim < 2 or name.endswith("cls_token"))
