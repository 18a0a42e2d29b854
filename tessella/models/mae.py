"""The masked autoencoder: an encoder that sees a few patches, and a decoder that says what the others were (He 2021).

Shape suffixes:  B batch  C channels  H,W pixels  N patches  n patches that are seen  P prefix tokens  D width of the
                 encoder  E width of the decoder  O = p * p * C numbers of one patch: row, column, channel
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .architecture import MAEConfig
from .classifier import Classifier, around
from .layers import norm_layer
from .patches import blanked, hidden
from .position import Place, resample, sincos
from .vit import Block, Tokens, ViT, init_layers

__all__ = ["MAEConfig", "MaskedAutoencoder"]


class MaskedAutoencoder(nn.Module):
    """Pictures, and which patches are seen, to the pixels of all patches. Names of the decoder are its authors'."""

    decoder_pos_embed: Tensor

    def __init__(self, cfg: MAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        encoder, decoder = cfg.encoder, cfg.decoder
        self.backbone = ViT(encoder)
        self.decoder_embed = nn.Linear(encoder.width, decoder.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder.width))
        rows, columns = encoder.grid
        # sines, not learned, and yet in every file: others may have made them otherwise
        self.register_buffer("decoder_pos_embed", torch.empty(1, encoder.prefix + rows * columns, decoder.width))
        self.decoder_blocks = nn.ModuleList(Block(decoder) for _ in range(decoder.depth))
        self.decoder_norm = norm_layer(decoder, decoder.width)
        self.decoder_pred = nn.Linear(decoder.width, encoder.patch_size**2 * encoder.channels)
        self._init_decoder()

    def init_weights(self) -> None:
        """Every initial value, of parameters and of buffers."""
        self.backbone.init_weights()
        self._init_decoder()

    @torch.no_grad()
    def _init_decoder(self) -> None:
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_norm, self.decoder_pred):
            init_layers(part)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.init_buffers()
        table = sincos(self.cfg.decoder.width, *self.cfg.encoder.grid).flatten(0, 1)
        self.decoder_pos_embed.zero_()[0, self.cfg.encoder.prefix :].copy_(table)

    def init_buffers(self) -> None:
        """The values that no checkpoint holds: enough for whoever loads all parameters anyway."""
        self.backbone.init_buffers()

    def forward(self, images_BCHW: Tensor, keep: Tensor | None = None) -> Tensor:
        """`keep` (B, n): which patches the encoder sees; None: all. To (B, N, O), of those that it saw as well."""
        encoder = self.cfg.encoder
        if keep is not None and encoder.embed == "stem":
            # it sees across the border of its patch: what is hidden must not be there at all
            rows, columns = encoder.grid_of(*images_BCHW.shape[-2:])
            images_BCHW = blanked(images_BCHW, hidden(keep, rows * columns), encoder.patch_size)
        return self.decode(self.backbone(images_BCHW, keep=keep), keep)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, D) of whole pictures, as whoever has no use for the decoder takes them."""
        tokens: Tokens = self.backbone(images_BCHW)
        return tokens.pooled(self.cfg.classifier.pool.kind)

    def classifier(self) -> Classifier:
        """The encoder with its pool: it is shared, not copied."""
        return around(self.backbone, self.cfg.classifier)

    def decode(self, tokens: Tokens, keep: Tensor | None = None) -> Tensor:
        """What the encoder returned for these `keep` (B, n), to (B, N, O)."""
        prefix, (h, w) = self.cfg.encoder.prefix, tokens.grid
        x = self.decoder_embed(tokens.together())  # (B, P + n, E)
        seen_BnE = x[:, prefix:]
        if keep is None:
            all_BNE = seen_BnE
        else:
            hidden = self.mask_token.to(x.dtype).expand(x.shape[0], h * w, -1)
            all_BNE = hidden.scatter(1, keep[..., None].expand_as(seen_BnE), seen_BnE)
        x = torch.cat([x[:, :prefix], all_BNE], dim=1) + self._positions(h, w)
        for block in self.decoder_units():
            x = self.backbone.run(block, x, Place())
        predicted: Tensor = self.decoder_pred(self.decoder_norm(x[:, prefix:]))
        return predicted

    def _positions(self, h: int, w: int) -> Tensor:
        """(1, P + N, E) at this grid."""
        prefix, (rows, columns) = self.cfg.encoder.prefix, self.cfg.encoder.grid
        if (h, w) == (rows, columns):
            return self.decoder_pos_embed
        patches = self.decoder_pos_embed[0, prefix:].view(rows, columns, -1)
        return torch.cat([self.decoder_pos_embed[:, :prefix], resample(patches, h, w).flatten(0, 1)[None]], dim=1)

    # -- as the trainer sees it (the protocol Tower) ----------------------------------------------------------------

    def decoder_units(self) -> list[Block]:
        return list(self.decoder_blocks)  # type: ignore[arg-type]  # a ModuleList forgets what it holds

    def units(self) -> list[Block]:
        return [*self.backbone.units(), *self.decoder_units()]

    def depth_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        return self.backbone.depth_of(rest) if first == "backbone" else self.cfg.encoder.depth + 1

    def no_decay(self) -> frozenset[str]:
        own = {name for name, p in self.named_parameters() if p.ndim < 2 or name == "mask_token"}
        return frozenset(own | {f"backbone.{name}" for name in self.backbone.no_decay()})
