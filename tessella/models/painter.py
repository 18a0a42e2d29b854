"""A backbone that sees a picture of which something is missing, and a linear layer that says what it was.

What is missing: patches, for which a learned token stands in (SimMIM, arXiv 2111.09886; transformers'
ViTForMaskedImageModeling); patches whose pixels are blank (context encoders, arXiv 1604.07379); or all colour
(arXiv 1603.08511).

Shape suffixes:  B batch  C channels  H,W pixels  N patches  D width  O = p * p * C numbers of one patch: row, column,
                 channel
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .architecture import PainterConfig
from .classifier import Classifier, around
from .patches import blanked
from .vit import Block, Tokens, ViT, init_layers

__all__ = ["Painter", "PainterConfig", "grey"]

LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue look (BT.601)


def grey(images_BCHW: Tensor) -> Tensor:
    """(B, 1, H, W): brightness of normalised pictures. Of other than three channels their mean."""
    if images_BCHW.shape[1] != len(LUMA):
        return images_BCHW.mean(1, keepdim=True)
    share_C11 = torch.tensor(LUMA, device=images_BCHW.device, dtype=images_BCHW.dtype)[:, None, None]
    return (images_BCHW * share_C11).sum(1, keepdim=True)


class Painter(nn.Module):
    """Pictures, and which patches are missing, to the pixels of all patches; or to what colour adds to grey."""

    def __init__(self, cfg: PainterConfig) -> None:
        super().__init__()
        self.cfg = cfg
        encoder = cfg.encoder
        self.backbone = ViT(encoder)
        self.mask_token = nn.Parameter(torch.empty(encoder.width)) if cfg.lacks == "token" else None
        self.decoder = nn.Linear(encoder.width, encoder.patch_size**2 * encoder.channels)
        self._init_decoder()

    def init_weights(self) -> None:
        """Every initial value, of parameters and of buffers."""
        self.backbone.init_weights()
        self._init_decoder()

    @torch.no_grad()
    def _init_decoder(self) -> None:
        init_layers(self.decoder)
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    def init_buffers(self) -> None:
        """The values that no checkpoint holds: enough for whoever loads all parameters anyway."""
        self.backbone.init_buffers()

    def forward(self, images_BCHW: Tensor, hidden_BN: Tensor | None = None) -> Tensor:
        """(B, N, O). `hidden` (True: missing) is not for `colour`, which misses everywhere; None: nothing is hidden."""
        said_BNO: Tensor = self.decoder(self.tokens(images_BCHW, hidden_BN).patches)
        return said_BNO

    def tokens(self, images_BCHW: Tensor, hidden_BN: Tensor | None) -> Tokens:
        """What the backbone makes of the spoilt picture."""
        encoder = self.cfg.encoder
        if self.cfg.lacks == "colour":
            images_BCHW = grey(images_BCHW).expand_as(images_BCHW)
        elif hidden_BN is not None and (self.cfg.lacks == "pixels" or encoder.embed == "stem"):
            # a stem sees across the border of its patch: what is hidden must not be there at all
            images_BCHW = blanked(images_BCHW, hidden_BN, encoder.patch_size)
        hide = None if hidden_BN is None or self.mask_token is None else (hidden_BN, self.mask_token)
        tokens: Tokens = self.backbone(images_BCHW, hide=hide)
        return tokens

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, D) of whole pictures, as whoever has no use for the decoder takes them."""
        tokens: Tokens = self.backbone(images_BCHW)
        return tokens.pooled(self.cfg.classifier.pool.kind)

    def classifier(self) -> Classifier:
        """The backbone with its pool: it is shared, not copied."""
        return around(self.backbone, self.cfg.classifier)

    # -- as the trainer sees it (the protocol Tower) ----------------------------------------------------------------

    def units(self) -> list[Block]:
        return self.backbone.units()

    def depth_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "backbone":
            return self.backbone.depth_of(rest)
        return 0 if first == "mask_token" else self.cfg.encoder.depth + 1

    def no_decay(self) -> frozenset[str]:
        own = {name for name, p in self.named_parameters() if p.ndim < 2}
        return frozenset(own | {f"backbone.{name}" for name in self.backbone.no_decay()})
