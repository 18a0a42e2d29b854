"""The ResNet of a hybrid: BiT's, whose convolutions standardise their weights (Kolesnikov 2019; names are timm's).

Nothing here keeps running statistics: weights are standardised from the weights themselves, and groups of channels are
normalised within their picture. So `forward` changes no state, and a picture does not depend on its neighbours.

Shape suffixes:  B batch  C channels  H,W pixels, or places of a map
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import ResNetConfig

GROUPS = 32
WEIGHT_EPS = 1e-8  # beside the variance of a filter; that of the norms is torch's, 1e-5


class StdConv(nn.Conv2d):
    """A convolution without bias, each of whose filters is used with mean 0 and variance 1.

    Padded as TensorFlow does at "same": where the map is halved, one place more at the right and bottom than at the
    left and top. The numbers are those of a map that the stride tiles; others do not reach this (`ViTConfig.padded`).
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1) -> None:
        super().__init__(before, after, kernel, stride=stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        filters = self.weight.flatten(1)[None]  # as if they were channels of a batch: one operation, 32 bits inside
        standard = F.batch_norm(filters, None, None, training=True, momentum=0.0, eps=WEIGHT_EPS)
        x = _same(x_BCHW, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, standard.view_as(self.weight), None, self.stride)


class MaxPool(nn.Module):
    """The largest of 3 x 3 places, at every other one. Zeros around change nothing: what comes in is not negative."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.max_pool2d(_same(x_BCHW, 3, 2), 3, 2)


def _same(x_BCHW: Tensor, kernel: int, stride: int) -> Tensor:
    before = max(0, kernel - stride) // 2
    after = max(0, kernel - stride) - before
    return F.pad(x_BCHW, (before, after, before, after)) if after else x_BCHW


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels)


class Bottleneck(nn.Module):
    """relu(x + narrow, look around, widen); a norm behind each convolution. The first of a stage projects its x."""

    def __init__(self, before: int, inner: int, after: int, stride: int, first: bool) -> None:
        super().__init__()
        self.downsample = None
        if first:
            parts = OrderedDict(conv=StdConv(before, after, 1, stride), norm=_norm(after))
            self.downsample = nn.Sequential(parts)
        self.conv1, self.norm1 = StdConv(before, inner, 1), _norm(inner)
        self.conv2, self.norm2 = StdConv(inner, inner, 3, stride), _norm(inner)
        self.conv3, self.norm3 = StdConv(inner, after, 1), _norm(after)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        short = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        x = F.relu(self.norm1(self.conv1(x_BCHW)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(short + self.norm3(self.conv3(x)))


class Stage(nn.Module):
    """Bottlenecks at one resolution."""

    def __init__(self, before: int, inner: int, stride: int, layers: int) -> None:
        super().__init__()
        after = 4 * inner
        self.blocks = nn.Sequential(
            Bottleneck(before, inner, after, stride, first=True),
            *(Bottleneck(after, inner, after, 1, first=False) for _ in range(layers - 1)),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x: Tensor = self.blocks(x_BCHW)
        return x


class ResNet(nn.Module):
    """Pictures (B, C, H, W) to a map (B, C', H / stride, W / stride)."""

    def __init__(self, cfg: ResNetConfig, channels: int) -> None:
        super().__init__()
        self.stem = stem(channels, cfg.width)
        stages, before = [], cfg.width
        for i, layers in enumerate(cfg.layers):
            stages.append(Stage(before, cfg.width << i, 2 if i else 1, layers))
            before = cfg.width << (i + 2)
        self.stages = nn.Sequential(*stages)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x: Tensor = self.stages(self.stem(images_BCHW))
        return x


def stem(channels: int, width: int) -> nn.Sequential:
    """A quarter of the pixels on each side."""
    parts = OrderedDict(conv=StdConv(channels, width, 7, 2), norm=_norm(width), act=nn.ReLU(), pool=MaxPool())
    return nn.Sequential(parts)


def resnet(cfg: ResNetConfig, channels: int) -> nn.Module:
    """Without stages the stem stands for itself, and its tensors have no "stem." before their names."""
    return ResNet(cfg, channels) if cfg.layers else stem(channels, cfg.width)
