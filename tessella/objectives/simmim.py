"""SimMIM (arXiv 2111.09886): a learned token stands in for hidden patches; a linear layer says their pixels.

Unlike MAE's the encoder sees the hidden places as well, so each step costs all tokens, and there is no decoder.

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
class SimMIMConfig:
    """Nothing to settle: which patches are hidden is a matter of the data, see data.views."""


class SimMIM(Objective):
    calls: ClassVar[tuple[str, ...]] = ("embed",)

    def __init__(self, cfg: SimMIMConfig, network: Painter) -> None:
        super().__init__()
        self.cfg, self.network = cfg, network

    @property
    def model(self) -> Painter:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, C, H, W) normalised; mask (B, rows, columns) bool: hidden, in each picture as many.

        The mean distance of hidden pixels, as transformers has it (there over 1e-5 more than their number)."""
        images_BCHW, hidden_BN = batch["image"], batch["mask"].flatten(1)
        said_BNO = self.network(images_BCHW, hidden_BN)
        target_BNO = to_patches(images_BCHW.float(), self.network.cfg.encoder.patch_size)
        off_BN = (said_BNO.float() - target_BNO).abs().mean(-1)
        return {"patches": (off_BN * hidden_BN).sum() / hidden_BN.sum().clamp(min=1)}, {}

    def infer(self, batch: Batch) -> Tensor:
        """Features (B, D) of whole pictures."""
        return self.network.embed(batch["image"])
