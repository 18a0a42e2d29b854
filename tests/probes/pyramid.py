"""A backbone of two stages (Swin's idea) with a dense head: a tower that neither the package nor the trainer knows.

B pictures  H,W pixels  h,w patches of a stage  N = h * w  D width  s side of a window  K classes, 0 is background
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessella.errors import BadInput
from tessella.models.vit import Block, Place, Tokens, ViTConfig, init_layers, to_map
from tessella.objectives.objective import Batch, Losses, Metrics, Objective

PATCH, WINDOW = 4, 6


class WindowBlock(nn.Module):
    """The house's block, in windows; every second one with the windows shifted by half. Edges wrap: this is a toy."""

    def __init__(self, cfg: ViTConfig, side: int, shift: int) -> None:
        super().__init__()
        self.block = Block(cfg)
        self.side, self.shift = side, shift

    def forward(self, x_BND: Tensor) -> Tensor:
        n, s = self.side // WINDOW, WINDOW
        x_BhwD = x_BND.unflatten(1, (self.side, self.side)).roll((-self.shift, -self.shift), (1, 2))
        windows = x_BhwD.unflatten(2, (n, s)).unflatten(1, (n, s)).transpose(2, 3)  # (B, n, n, s, s, D)
        y = self.block(windows.reshape(-1, s * s, x_BND.shape[2]), Place())
        y_BhwD = y.view(windows.shape).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return y_BhwD.roll((self.shift, self.shift), (1, 2)).flatten(1, 2)


class Merge(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        side = int(x_BND.shape[1] ** 0.5)
        x = x_BND.unflatten(1, (side // 2, 2, side // 2, 2)).transpose(2, 3).flatten(3)  # (B, h/2, w/2, 4 D)
        return self.reduce(self.norm(x.flatten(1, 2)))


class Pyramid(nn.Module):
    """Obeys the protocol `Tower` by having its three methods, and returns the same `Tokens` as any backbone."""

    def __init__(self, width: int = 32, depths: tuple[int, int] = (2, 2), size: int = 48) -> None:
        super().__init__()
        self.sides = (size // PATCH, size // PATCH // 2)
        self.widths = (width, 2 * width)
        self.ends = (depths[0] - 1, sum(depths) - 1)  # the last block of each stage: ask for these `layers`
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.places = nn.Parameter(torch.empty(1, self.sides[0] ** 2, width))
        stages = []
        for wide, side, depth in zip(self.widths, self.sides, depths, strict=True):
            cfg = ViTConfig(image_size=WINDOW, patch_size=1, width=wide, heads=wide // 16, mlp_ratio=2, depth=depth)
            shift = WINDOW // 2 if side > WINDOW else 0
            stages.append(nn.ModuleList(WindowBlock(cfg, side, i % 2 * shift) for i in range(depth)))
        self.fine, self.coarse = stages
        self.merge = Merge(width)
        self.norm = nn.LayerNorm(2 * width)
        init_layers(self)
        nn.init.trunc_normal_(self.places, std=0.02)

    def forward(
        self, images_BCHW: Tensor, *, keep: Tensor | None = None, hide: Any = None, layers: Sequence[int] = ()
    ) -> Tokens:
        if keep is not None or hide is not None:
            asked = "keep" if keep is not None else "hide"
            raise BadInput(
                f"a windowed pyramid cannot `{asked}` patches: windows are whole; leave it out, or use a ViT"
            )
        x = self.patches(images_BCHW).flatten(2).mT + self.places
        maps = {}
        for i, unit in enumerate(self.units()):
            if i == len(self.fine):
                x = self.merge(x)
            x = unit(x)
            if i in layers:
                side = self.sides[int(i >= len(self.fine))]
                maps[i] = to_map(x, (side, side))
        x = self.norm(x)
        side = self.sides[1]
        return Tokens(None, None, x[:, :0], x, (side, side), tuple(maps[i] for i in layers))

    def units(self) -> list[nn.Module]:
        return [*self.fine, *self.coarse]

    def depth_of(self, name: str) -> int:
        """Asked of the modules, not read from the name; merging is as deep as the block that it feeds."""
        wanted = self.get_parameter(name)
        levels: list[list[nn.Module]] = [[self.patches], *([unit] for unit in self.units()), [self.norm]]
        levels[1 + len(self.fine)].append(self.merge)
        for depth, modules in enumerate(levels):
            if any(p is wanted for module in modules for p in module.parameters()):
                return depth
        return 0  # the table of places

    def no_decay(self) -> frozenset[str]:
        return frozenset({"places"})


class Segmenter(nn.Module):
    """Both maps, brought to the finer grid, say the class of each pixel."""

    def __init__(self, backbone: Pyramid, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        fine, coarse = backbone.widths
        self.lift = nn.Conv2d(coarse, fine, 1)
        self.head = nn.Conv2d(fine, classes * PATCH**2, 1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, K, H, W)"""
        tokens = self.backbone(images_BCHW, layers=self.backbone.ends)
        fine, _ = tokens.layers
        coarse = F.interpolate(self.lift(tokens.map()), size=fine.shape[-2:], mode="nearest")
        return F.pixel_shuffle(self.head(F.gelu(fine + coarse)), PATCH)


class Segment(Objective):
    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    @property
    def model(self) -> Segmenter:
        return self.segmenter

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        logits_BKHW, wanted_BHW = self.segmenter(batch["image"]).float(), classes_of_pixels(batch)
        right = (logits_BKHW.argmax(1) == wanted_BHW).float().mean()
        return {"pixels": F.cross_entropy(logits_BKHW, wanted_BHW)}, {"accuracy": right}


def classes_of_pixels(batch: Batch) -> Tensor:
    """(B, H, W) from the masks of the objects, which differ in number from picture to picture."""
    picture = batch["image"]
    out = torch.zeros(len(picture), *picture.shape[-2:], dtype=torch.int64, device=picture.device)
    for row, labels, masks in zip(out, batch["labels"], batch["masks"], strict=True):
        for label, mask in zip(labels, masks, strict=True):
            row[mask] = label + 1
    return out


@torch.no_grad()
def accuracy(infer: Callable[[Batch], Tensor], batch: Batch) -> dict[str, float]:
    """Share of the pixels that are right: of all, of those of objects; and how many one gets for background alone."""
    guess, wanted = infer(batch).argmax(1), classes_of_pixels(batch)
    right, thing = (guess == wanted).float(), wanted > 0
    return {
        "all": right.mean().item(),
        "objects": right[thing].mean().item(),
        "background alone": 1 - thing.float().mean().item(),
    }
