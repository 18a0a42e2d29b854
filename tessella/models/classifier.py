"""A backbone with a pool and a linear head: pictures to logits.

Shape suffixes:  B batch  C channels  H,W pixels  N patches  D width  A heads  K head size
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Backbone, ClassifierConfig, PoolConfig, ViTConfig
from .cvt import CvT
from .layers import Mlp, norm_layer
from .staged import CvTConfig, SwinConfig
from .swin import Swin
from .vit import Tokens, ViT, init_layers

__all__ = ["AttentionPool", "Classifier", "ClassifierConfig", "Logits", "Pool", "PoolConfig", "around", "built"]


class AttentionPool(nn.Module):
    """A learned query looks at all patches, then an MLP (SigLIP; names and layout are timm's AttentionPoolLatent)."""

    def __init__(self, cfg: ViTConfig, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        width = cfg.width
        self.heads = heads
        self.latent = nn.Parameter(torch.empty(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = norm_layer(cfg, width)
        self.mlp = Mlp(width, int(width * mlp_ratio), "gelu" if cfg.mlp == "swiglu" else cfg.mlp)

    def forward(self, patches_BND: Tensor) -> Tensor:
        q, k, v = self._queries_keys_values(patches_BND)
        x: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # (B, 1, D)
        x = x + self.mlp(self.norm(x))
        return x[:, 0]

    def map(self, patches_BND: Tensor) -> Tensor:
        """The softmax map (B, A, N) of the learned query."""
        q, k, _ = self._queries_keys_values(patches_BND)
        scores_BA1N: Tensor = (q.float() * q.shape[-1] ** -0.5) @ k.float().mT
        return scores_BA1N.softmax(dim=-1)[:, :, 0]

    def _queries_keys_values(self, patches_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, A, 1, K), (B, A, N, K), (B, A, N, K)."""
        q_1A1K = self.q(self.latent).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(patches_BND).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q_1A1K.expand(patches_BND.shape[0], -1, -1, -1), k, v


class Pool(nn.Module):
    """The tokens of a picture to one vector (B, D). It owns its parameters, so no backbone has any that lie idle."""

    def __init__(self, cfg: PoolConfig, backbone: Backbone) -> None:
        super().__init__()
        self.kind, self.prefix = cfg.kind, cfg.prefix
        if cfg.kind == "attention":
            assert isinstance(backbone, ViTConfig), "ClassifierConfig refuses this pool behind others"
            ratio = backbone.mlp_ratio if cfg.mlp_ratio is None else cfg.mlp_ratio
            self.attn_pool = AttentionPool(backbone, cfg.heads or backbone.heads, ratio)
        width = backbone.features
        self.fc_norm = norm_layer(backbone, width) if cfg.norm else nn.Identity()
        self.pre_logits = nn.Linear(width, width) if cfg.tanh else nn.Identity()
        self.tanh = nn.Tanh() if cfg.tanh else nn.Identity()
        self.projection = nn.Linear(width, cfg.projection, bias=False) if cfg.projection else nn.Identity()

    def forward(self, tokens: Tokens) -> Tensor:
        if self.kind == "attention":
            x = self.attn_pool(tokens.together() if self.prefix else tokens.patches)
        else:
            x = tokens.pooled(self.kind)
        pooled: Tensor = self.projection(self.tanh(self.pre_logits(self.fc_norm(x))))
        return pooled


class Logits(NamedTuple):
    """The opinions of the two heads of a distilled network; without a distillation token the second is None."""

    classes: Tensor  # (B, classes), to be trained on labels
    distill: Tensor | None  # (B, classes), to be trained on a teacher


def built(cfg: Backbone) -> ViT | Swin | CvT:
    match cfg:
        case ViTConfig():
            return ViT(cfg)
        case SwinConfig():
            return Swin(cfg)
        case CvTConfig():
            return CvT(cfg)


def around(backbone: ViT | Swin | CvT, cfg: ClassifierConfig) -> Classifier:
    """A classifier on a backbone that is there already and stays whose it is; pool and head must have no weights."""
    with torch.device("meta"):
        out = Classifier(cfg)
    out.backbone = backbone
    return out.train(backbone.training)


class Classifier(nn.Module):
    """Pictures to logits. With a distillation token these are the mean of two heads, in training too (see `both`).

    Every parameter takes part in `forward`. Of FSDP2, whoever calls `both`, `embed` or `tokens` on a sharded network
    first names them to `register_fsdp_forward_method`.
    """

    def __init__(self, cfg: ClassifierConfig) -> None:
        super().__init__()
        self.cfg = cfg
        width = cfg.backbone.features
        self.backbone = built(cfg.backbone)
        self.pool = Pool(cfg.pool, cfg.backbone)
        self.head_drop = nn.Dropout(cfg.dropout)
        self.head = nn.Linear(cfg.pool.projection or width, cfg.classes) if cfg.classes else nn.Identity()
        self.head_dist = nn.Linear(width, cfg.classes) if cfg.classes and cfg.backbone.distill_token else nn.Identity()
        self._init_head()

    def init_weights(self) -> None:
        """Every initial value, of parameters and of buffers."""
        self.backbone.init_weights()
        self._init_head()

    @torch.no_grad()
    def _init_head(self) -> None:
        init_layers(self.pool)
        if self.cfg.pool.kind == "attention":
            nn.init.trunc_normal_(self.pool.attn_pool.latent, std=self.cfg.backbone.features**-0.5)
        for head in (self.head, self.head_dist):
            if isinstance(head, nn.Linear):  # small: the first loss is close to log(classes)
                nn.init.trunc_normal_(head.weight, std=0.01)
                nn.init.zeros_(head.bias)

    def init_buffers(self) -> None:
        """The values that no checkpoint holds: enough for whoever loads all parameters anyway."""
        self.backbone.init_buffers()

    def forward(self, images: Tensor | Tokens) -> Tensor:
        """Normalised pictures (B, C, H, W), their tokens or their `features`, to logits (B, classes).

        Tokens: who wants them as well calls `backbone`, then this; FSDP2 gathers the shards around each of the two.
        """
        logits = self.both(images)
        return logits.classes if logits.distill is None else (logits.classes + logits.distill) / 2

    def both(self, images: Tensor | Tokens, keep: Tensor | None = None) -> Logits:
        """The two heads apart: what an objective needs that trains the second one on a teacher (DeiT)."""
        if isinstance(images, Tensor) and images.ndim == 3:
            features_BSD = images
        else:
            features_BSD = self.features(images, keep)
        classes = self.head(self.head_drop(features_BSD[:, 0]))
        distilled = features_BSD.shape[1] == 2
        return Logits(classes, self.head_dist(self.head_drop(features_BSD[:, 1])) if distilled else None)

    def features(self, images: Tensor | Tokens, keep: Tensor | None = None) -> Tensor:
        """What the heads read (B, S, D): the pooled vector, and the distillation token where there is one. `keep`
        (B, n): see ViT.forward."""
        tokens = images if isinstance(images, Tokens) else self.tokens(images, keep)
        seen = [self.pool(tokens)] + ([] if tokens.distill is None else [tokens.distill])
        return torch.stack(seen, dim=1)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """The pooled features (B, D) that the head sees."""
        pooled: Tensor = self.pool(self.tokens(images_BCHW))
        return pooled

    def tokens(self, images_BCHW: Tensor, keep: Tensor | None = None) -> Tokens:
        """What the backbone returns."""
        tokens: Tokens = self.backbone(images_BCHW, keep=keep)
        return tokens

    # -- as the trainer sees it (the protocol Tower): the backbone, then pool and head ---------------------------------

    def units(self) -> list[nn.Module]:
        return list(self.backbone.units())

    def depth_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        return self.backbone.depth_of(rest) if first == "backbone" else self.cfg.backbone.depth + 1

    def no_decay(self) -> frozenset[str]:
        own = {name for name, p in self.named_parameters() if p.ndim < 2 or name == "pool.attn_pool.latent"}
        return frozenset(own | {f"backbone.{name}" for name in self.backbone.no_decay()})
