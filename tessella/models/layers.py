"""The small parts that blocks are made of; names of parameters are timm's.

Shape suffixes:  B batch  T tokens  D width  H hidden  A heads  K head size  N patches  C channels
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Common, ViTConfig
from .attention import attend
from .hybrid import resnet
from .position import Place


def norm_layer(cfg: Common, size: int) -> nn.Module:
    """The norm that this network uses everywhere, over the last axis of length `size`."""
    return nn.LayerNorm(size, eps=cfg.norm_eps) if cfg.norm == "layer" else nn.RMSNorm(size, eps=cfg.norm_eps)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
}


class Mlp(nn.Module):
    """fc2(norm(act(fc1(x)))); most have no norm."""

    def __init__(
        self, width: int, hidden: int, activation: str, dropout: float = 0.0, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = ACTIVATIONS[activation]
        self.norm = norm or nn.Identity()
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x: Tensor = self.drop(self.fc2(self.norm(self.drop(self.act(self.fc1(x_BTD))))))
        return x


class SwiGLU(nn.Module):
    """fc2(norm(silu(a) * b)), where a and b are the first and the second half of fc1(x): timm's SwiGLUPacked."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)  # rows: gate first, then value
        self.norm = norm or nn.Identity()
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTH, value_BTH = self.fc1(x_BTD).chunk(2, dim=-1)
        x: Tensor = self.drop(self.fc2(self.norm(self.drop(F.silu(gate_BTH) * value_BTH))))
        return x

    def stacked(self) -> list[tuple[Tensor, int]]:
        return [(self.fc1.weight, 2)]


class LayerScale(nn.Module):
    """A learned factor per feature (CaiT); its initial value is set by the network's init_weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: forgets the branch of some samples, and scales the others up.

    The rate is a buffer: as a Python number it would be compiled in, and every block would become a graph of its own.
    """

    rate: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", torch.zeros(()), persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if not self.training:
            return x_BTD
        stays = 1 - self.rate
        drawn = torch.rand(x_BTD.shape[0], *[1] * (x_BTD.ndim - 1), device=x_BTD.device)  # maps have four
        return x_BTD * ((drawn < stays) / stays).to(x_BTD.dtype)


class Attention(nn.Module):
    """Self-attention; no map is ever kept; `map` recomputes the softmax for whoever asks for it."""

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__()
        size = cfg.size_of_head
        inner = cfg.heads * size
        self.heads, self.scale, self.dropout = cfg.heads, size**-0.5, cfg.attention_dropout
        self.qkv = nn.Linear(cfg.width, 3 * inner, bias=cfg.qkv_bias)
        self.q_norm = norm_layer(cfg, size) if cfg.qk_norm else nn.Identity()
        self.k_norm = norm_layer(cfg, size) if cfg.qk_norm else nn.Identity()
        self.norm = norm_layer(cfg, inner) if cfg.attention_norm else nn.Identity()
        self.proj = nn.Linear(inner, cfg.width)
        self.proj_drop = nn.Dropout(cfg.projection_dropout)
        self.grid = cfg.grid
        rows = (2 * cfg.grid[0] - 1) * (2 * cfg.grid[1] - 1) + 3
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, cfg.heads)) if cfg.relative else None

    def bias(self, place: Place) -> Tensor | None:
        """What is added to the scores, (B or 1, A, T, T), if this network has tables of relative positions."""
        if self.relative_position_bias_table is None:
            return None
        assert place.related is not None, "the network that holds the tables says where its tokens are"
        table = place.related.resized(self.relative_position_bias_table, self.grid)
        return table[place.related.rows()].permute(0, 3, 1, 2)

    def queries_keys_values(self, x_BTD: Tensor, place: Place) -> tuple[Tensor, Tensor, Tensor]:
        """Each (B, A, T, K), normalised and turned."""
        q, k, v = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = place.turn(self.q_norm(q)), place.turn(self.k_norm(k))
        return q.to(v.dtype), k.to(v.dtype), v  # under autocast the norms return 32 bits; the kernel wants one type

    def forward(self, x_BTD: Tensor, place: Place) -> Tensor:
        q, k, v = self.queries_keys_values(x_BTD, place)
        out_BATK = attend(q, k, v, self.dropout if self.training else 0.0, self.bias(place))
        x: Tensor = self.proj_drop(self.proj(self.norm(out_BATK.transpose(1, 2).flatten(2))))
        return x

    def map(self, x_BTD: Tensor, place: Place, queries: Tensor | None = None) -> Tensor:
        """The softmax map (B, A, Q, T) of the query tokens with these indices (Q,); None = of all tokens."""
        q, k, _ = self.queries_keys_values(x_BTD, place)
        bias = self.bias(place)
        if queries is not None:
            q, bias = q[:, :, queries], None if bias is None else bias[:, :, queries]
        scores_BAQT: Tensor = (q.float() * self.scale) @ k.float().transpose(-2, -1)
        return (scores_BAQT if bias is None else scores_BAQT + bias.float()).softmax(dim=-1)

    def stacked(self) -> list[tuple[Tensor, int]]:
        return [(self.qkv.weight, 3)]


class StemConv(nn.Module):
    """One 3x3 convolution with norm and activation. The norm keeps no running statistics: forward changes no state."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x: Tensor = F.gelu(self.norm(self.conv(x_BCHW)))
        return x


class PatchEmbed(nn.Module):
    """Pictures to patch tokens. All kinds keep the weight of `proj` in the shape of a convolution."""

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        channels, kernel, stride = cfg.channels, cfg.patch_size, cfg.step
        if cfg.embed == "stem":
            self.stem = nn.Sequential(*(StemConv(*conv) for conv in cfg.stem_plan))
            channels, kernel, stride = cfg.stem_plan[-1][1], 1, 1
        elif cfg.resnet is not None:
            self.backbone = resnet(cfg.resnet, cfg.channels)
            channels, kernel = cfg.resnet.channels, cfg.patch_size // cfg.resnet.stride
            stride = kernel
        self.proj = nn.Conv2d(channels, cfg.width, kernel, stride=stride, bias=cfg.embed_bias)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, N, D) and the grid (rows, columns); pads with zeros, and cuts, at the right and bottom."""
        cfg, (height, width) = self.cfg, images_BCHW.shape[-2:]
        full = cfg.padded(height, width)
        if full != (height, width):
            images_BCHW = F.pad(images_BCHW, (0, full[1] - width, 0, full[0] - height))
        match cfg.embed:
            case "conv":
                x: Tensor = self.proj(images_BCHW).flatten(2).transpose(1, 2)
            case "linear":
                pixels = F.unfold(images_BCHW, cfg.patch_size, stride=cfg.step).transpose(1, 2)  # (B, N, C * p * p)
                x = F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias)
            case "stem":
                images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)  # a tenth faster on processors
                x = self.proj(self.stem(images_BCHW)).flatten(2).transpose(1, 2)
            case "resnet":
                x = self.proj(self.backbone(images_BCHW)).flatten(2).transpose(1, 2)
        return x, cfg.grid_of(*full)
