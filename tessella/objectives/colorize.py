"""Colourisation (arXiv 1603.08511): the network sees a picture in grey and says what colour adds to it, pixel by pixel.

Grey is brightness in all channels; what a pixel has beside it, channel by channel, is its colour. The loss is a squared
distance, where the paper sorts colours into bins: simpler, and paler where several colours are likely.

B batch  C channels  H,W pixels  N patches  O = p * p * C numbers of one patch
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..models.painter import Painter, grey
from ..models.patches import to_patches
from .objective import Batch, Losses, Metrics, Objective


@dataclass(frozen=True, kw_only=True)
class ColorizeConfig:
    """Nothing to settle."""


class Colorize(Objective):
    calls: ClassVar[tuple[str, ...]] = ("embed",)

    def __init__(self, cfg: ColorizeConfig, network: Painter) -> None:
        super().__init__()
        self.cfg, self.network = cfg, network

    @property
    def model(self) -> Painter:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, C, H, W) normalised."""
        images_BCHW = batch["image"]
        said_BNO = self.network(images_BCHW)
        colour_BCHW = images_BCHW.float() - grey(images_BCHW.float())
        target_BNO = to_patches(colour_BCHW, self.network.cfg.encoder.patch_size)
        off_BN = (said_BNO.float() - target_BNO).square().mean(-1)
        return {"colour": off_BN.sum() / max(1, off_BN.numel())}, {}

    def infer(self, batch: Batch) -> Tensor:
        """Features (B, D) of whole pictures, in colour."""
        return self.network.embed(batch["image"])
