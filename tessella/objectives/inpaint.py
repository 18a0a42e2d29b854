"""Image completion (context encoders, arXiv 1604.07379): blocks of a picture are blank, the network fills them in.

Unlike SimMIM's the hole is one of pixels, which any network can be shown: no token, no mask at the input. There is no
adversary here, so what is filled in is a mean of what is likely, and looks smooth.

B batch  C channels  H,W pixels  N patches  O = p * p * C numbers of one patch
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..models.painter import Painter
from ..models.patches import to_patches
from .objective import Batch, Losses, Metrics, Objective


@dataclass(frozen=True, kw_only=True)
class InpaintConfig:
    """Nothing to settle: which patches are blank is a matter of the data, see data.views."""


class Inpaint(Objective):
    calls: ClassVar[tuple[str, ...]] = ("embed",)

    def __init__(self, cfg: InpaintConfig, network: Painter) -> None:
        super().__init__()
        self.cfg, self.network = cfg, network

    @property
    def model(self) -> Painter:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, C, H, W) normalised; mask (B, rows, columns) bool: blank, in each picture as many."""
        images_BCHW, hidden_BN = batch["image"], batch["mask"].flatten(1)
        said_BNO = self.network(images_BCHW, hidden_BN)
        target_BNO = to_patches(images_BCHW.float(), self.network.cfg.encoder.patch_size)
        off_BN = (said_BNO.float() - target_BNO).square().mean(-1)
        return {"hole": (off_BN * hidden_BN).sum() / hidden_BN.sum().clamp(min=1)}, {}

    def infer(self, batch: Batch) -> Tensor:
        """Features (B, D) of whole pictures."""
        return self.network.embed(batch["image"])
