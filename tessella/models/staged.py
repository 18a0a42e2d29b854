"""Settings of backbones whose maps shrink from stage to stage; without torch, as those in architecture.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import BadInput

SMALLEST = 3  # pixels of a side that a CvT makes a token of
OFFSETS = 512  # features inside the MLP of Swin v2 that says how two patches lie to each other


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """A Swin Transformer; the defaults are Swin-T as timm's `swin_tiny_patch4_window7_224` without its head.

    Takes pictures of any size: what patches, windows and merging do not tile is padded with zeros, right and below.
    """

    image_size: tuple[int, int] | int = 224  # pixels; decides where windows shrink to a map and no longer shift
    patch_size: int = 4  # pixels
    channels: int = 3  # of the pictures
    width: int = 96  # features per token in the first stage; doubles from stage to stage, while the map halves
    depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks of each stage; every second one shifts its windows by half
    heads: tuple[int, ...] = (3, 6, 12, 24)  # of attention, in each stage
    window: tuple[int, ...] | int = 7  # patches of a side, in all stages or in each; other pictures have the same
    version: Literal["v1", "v2"] = "v1"  # v2: norms behind the branches, cosines for scores, places through an MLP
    trained_window: tuple[int, ...] | None = None  # v2: offsets count in windows of so many patches, in each stage;
    # None: in the window's own. Weights that moved to a larger window keep the one that they learned with
    mlp_ratio: float = 4.0  # features between fc1 and fc2 / width
    norm_eps: float = 1e-5
    projection_dropout: float = 0.0  # on the output of each attention
    mlp_dropout: float = 0.0  # after fc1 and after fc2
    attention_dropout: float = 0.0  # on the softmax map, inside the fused kernel
    drop_path: float = 0.0  # stochastic depth of the last block; grows linearly from 0 at the first
    remat: bool = False  # recompute each block in the backward pass: less memory, about a third more time

    def __post_init__(self) -> None:
        for name in ("patch_size", "channels", "width"):
            _require(getattr(self, name) >= 1, f"model.backbone.{name} is {getattr(self, name)}; it must be at least 1")
        stages = len(self.depths)
        _require(stages >= 1 and min(self.depths) >= 1, f"model.backbone.depths is {self.depths}; give 1 block or more")
        for name in ("heads", "window", "trained_window"):
            each = getattr(self, name)
            if each is None or (name == "window" and isinstance(each, int)):
                continue
            good = len(each) == stages and min(each) >= 1
            _require(good, f"model.backbone.{name} is {each}; give {stages} numbers, 1 or more, one for each stage")
        _require(self.window_of(0) >= 1, f"model.backbone.window is {self.window}; it must be at least 1")
        for stage, heads in enumerate(self.heads):
            width = self.width_of(stage)
            what = f"the width {width} of stage {stage} is no multiple of its {heads} heads"
            _require(width % heads == 0, f"{what}; change model.backbone.width or model.backbone.heads")
        _require(
            int(self.width * self.mlp_ratio) >= 1,
            f"model.backbone.mlp_ratio is {self.mlp_ratio}; the MLP needs at least 1 feature",
        )
        _require(self.norm_eps > 0, f"model.backbone.norm_eps is {self.norm_eps}; it must be above 0")
        for name in ("projection_dropout", "mlp_dropout", "attention_dropout", "drop_path"):
            rate = getattr(self, name)
            _require(0 <= rate < 1, f"model.backbone.{name} is {rate}; it is a share, at least 0 and below 1")
        what = "model.backbone.trained_window is of v2, whose offsets have a unit; leave it out"
        _require(self.version == "v2" or self.trained_window is None, what)
        _require(min(self.size) >= 1, f"model.backbone.image_size is {self.image_size}; give 1 pixel or more")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def depth(self) -> int:
        return sum(self.depths)

    @property
    def features(self) -> int:
        return self.width_of(len(self.depths) - 1)

    @property
    def maps(self) -> int:
        return len(self.depths)

    @property
    def class_token(self) -> bool:
        return False

    @property
    def distill_token(self) -> bool:
        return False

    @property
    def prefix(self) -> int:
        return 0

    @property
    def chooses(self) -> bool:
        return False

    @property
    def first_weight(self) -> str:
        return "patch_embed.proj.weight"

    @property
    def looks(self) -> str:
        depths = "-".join(map(str, self.depths))
        return f"width {self.width}, depths {depths}, patches of {self.patch_size}, {self.version}"

    @property
    def norm(self) -> str:
        return "layer"

    @property
    def step(self) -> int:
        """Pixels of which one token is left in the last stage: every merging then finds whole fours."""
        return self.patch_size << (len(self.depths) - 1)

    @property
    def least(self) -> int:
        return self.step

    def tiles(self, side: int) -> bool:
        return side >= 1

    def width_of(self, stage: int) -> int:
        """Features per token."""
        return self.width << stage

    def grids_of(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the map of each stage, for a picture of so many pixels."""
        grids = [(-(-height // self.patch_size), -(-width // self.patch_size))]
        for _ in self.depths[1:]:
            grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
        return tuple(grids)

    def window_of(self, stage: int) -> int:
        """Patches of a side, as configured."""
        return self.window if isinstance(self.window, int) else self.window[stage]

    def tile(self, stage: int) -> tuple[int, int]:
        """(rows, columns) of a window: not more than the map has at the configured size."""
        rows, columns = self.grids_of(*self.size)[stage]
        return min(rows, self.window_of(stage)), min(columns, self.window_of(stage))

    def shift(self, stage: int) -> tuple[int, int]:
        """By how many (rows, columns) every second block moves its windows: none where one window is the map."""
        grid, half = self.grids_of(*self.size)[stage], self.window_of(stage) // 2
        rows, columns = (half if n > self.window_of(stage) else 0 for n in grid)
        return rows, columns


@dataclass(frozen=True, kw_only=True)
class CvTConfig:
    """A Convolutional vision Transformer; the defaults are Microsoft's CvT-13 without its head.

    Takes pictures of any size from 3 px on, as they are: convolutions pad themselves, and there are no positions. Who
    chooses a size takes a multiple of the total stride.
    """

    image_size: tuple[int, int] | int = 224  # pixels, (height, width) or one side; what pictures usually have
    channels: int = 3  # of the pictures
    widths: tuple[int, ...] = (64, 192, 384)  # features per token in each stage; the map halves from stage to stage
    depths: tuple[int, ...] = (1, 2, 10)  # blocks of each stage
    heads: tuple[int, ...] = (1, 3, 6)  # of attention, in each stage
    mlp_ratio: float = 4.0  # features between fc1 and fc2 / width
    mlp: Literal["gelu", "gelu_tanh", "quick_gelu", "relu"] = "quick_gelu"  # as it was trained; transformers: gelu
    norm_eps: float = 1e-5
    projection_dropout: float = 0.0  # on the output of each attention
    mlp_dropout: float = 0.0  # after fc1 and after fc2
    attention_dropout: float = 0.0  # on the softmax map, inside the fused kernel
    drop_path: float = 0.0  # stochastic depth of the last block; grows linearly from 0 at the first
    remat: bool = False  # recompute each block in the backward pass: less memory, about a third more time

    def __post_init__(self) -> None:
        _require(self.channels >= 1, f"model.backbone.channels is {self.channels}; it must be at least 1")
        stages = len(self.widths)
        for name in ("widths", "depths", "heads"):
            each = getattr(self, name)
            good = len(each) == stages >= 1 and min(each) >= 1
            _require(good, f"model.backbone.{name} is {each}; give {max(1, stages)} numbers, 1 or more, one a stage")
        for width, heads in zip(self.widths, self.heads, strict=True):
            _require(width % heads == 0, f"model.backbone.widths has {width}, no multiple of its {heads} heads")
        good = int(min(self.widths) * self.mlp_ratio) >= 1
        _require(good, f"model.backbone.mlp_ratio is {self.mlp_ratio}; the MLP needs at least 1 feature")
        _require(self.norm_eps > 0, f"model.backbone.norm_eps is {self.norm_eps}; it must be above 0")
        for name in ("projection_dropout", "mlp_dropout", "attention_dropout", "drop_path"):
            rate = getattr(self, name)
            _require(0 <= rate < 1, f"model.backbone.{name} is {rate}; it is a share, at least 0 and below 1")
        for side in self.size:
            what = f"model.backbone.image_size is {self.image_size}; give at least {SMALLEST} px"
            _require(side >= SMALLEST, what)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def depth(self) -> int:
        return sum(self.depths)

    @property
    def width(self) -> int:
        return self.widths[0]

    @property
    def features(self) -> int:
        return self.widths[-1]

    @property
    def maps(self) -> int:
        return len(self.depths)

    @property
    def class_token(self) -> bool:
        return True

    @property
    def distill_token(self) -> bool:
        return False

    @property
    def prefix(self) -> int:
        return 1

    @property
    def chooses(self) -> bool:
        return False

    @property
    def first_weight(self) -> str:
        return "stage0.patch_embed.proj.weight"

    @property
    def looks(self) -> str:
        widths, depths = ("-".join(map(str, each)) for each in (self.widths, self.depths))
        return f"CvT, widths {widths}, depths {depths}"

    @property
    def norm(self) -> str:
        return "layer"

    @property
    def step(self) -> int:
        """Pixels from one token of the last map to the next: then no map has an odd side."""
        return 4 << (len(self.widths) - 1)

    @property
    def least(self) -> int:
        return self.step

    def tiles(self, side: int) -> bool:
        return side >= SMALLEST

    def kernel(self, stage: int) -> int:
        """Pixels, or tokens of the map before, of a side that one token is made of."""
        return 3 if stage else 7

    def grids_of(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the map of each stage, for a picture of so many pixels."""
        grids = [((height - 3) // 4 + 1, (width - 3) // 4 + 1)]  # 7 x 7 pixels every 4, two of padding
        for _ in self.widths[1:]:
            grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))  # 3 x 3 every 2, one of padding
        return tuple(grids)


def _require(good: bool, otherwise: str) -> None:
    if not good:
        raise BadInput(otherwise)
