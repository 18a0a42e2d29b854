"""Masked autoencoding (MAE, arXiv 2111.06377): the network sees a quarter of the patches and says what the others were.

B batch  C channels  H,W pixels  N patches  n patches that are seen  O = p * p * C numbers of one patch
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import BadInput
from ..models.mae import MaskedAutoencoder
from ..models.patches import seen, to_patches
from .objective import Batch, Losses, Metrics, Objective

FLAT = 1e-6  # added to the variance of a patch: one of a single colour has none


@dataclass(frozen=True, kw_only=True)
class MaskedConfig:
    """Which patches are hidden is a matter of the data: see data.views. Sizes of 0 follow from the encoder."""

    normalise: bool = True  # the target is each patch with mean 0 and deviation 1: contrast counts, not brightness
    decoder_width: int = 0  # features per token (MAE with ViT-B: 512)
    decoder_depth: int = 0  # blocks (8)
    decoder_heads: int = 0  # of attention (16)
    decoder_mlp_ratio: float = 4.0  # features between fc1 and fc2 / width

    def __post_init__(self) -> None:
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            if getattr(self, name) < 0:
                raise BadInput(f"objective.{name} is {getattr(self, name)}; give 1 or more, or 0 for what fits")


class MAE(Objective):
    """The loss is over what was hidden: what is seen need not be guessed."""

    calls: ClassVar[tuple[str, ...]] = ("embed",)

    def __init__(self, cfg: MaskedConfig, network: MaskedAutoencoder) -> None:
        super().__init__()
        self.cfg, self.network = cfg, network

    @property
    def model(self) -> MaskedAutoencoder:
        return self.network

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """batch: image (B, C, H, W) normalised; mask (B, rows, columns) bool: hidden, in each picture as many."""
        images_BCHW, hidden_BN = batch["image"], batch["mask"].flatten(1)
        said_BNO = self.network(images_BCHW, seen(hidden_BN))
        target_BNO = targets(images_BCHW, self.network.cfg.encoder.patch_size, self.cfg.normalise)
        off_BN = (said_BNO.float() - target_BNO).square().mean(-1)
        return {"patches": (off_BN * hidden_BN).sum() / hidden_BN.sum().clamp(min=1)}, {}

    def infer(self, batch: Batch) -> Tensor:
        """Features (B, D) of whole pictures."""
        return self.network.embed(batch["image"])


def targets(images_BCHW: Tensor, side: int, normalise: bool) -> Tensor:
    """(B, N, O): what each patch holds."""
    patches_BNO = to_patches(images_BCHW.float(), side)
    if not normalise:
        return patches_BNO
    off_BNO = patches_BNO - patches_BNO.mean(-1, keepdim=True)
    variance_BN1 = off_BNO.square().sum(-1, keepdim=True) / (off_BNO.shape[-1] - 1)
    return off_BNO / (variance_BN1 + FLAT).sqrt()
