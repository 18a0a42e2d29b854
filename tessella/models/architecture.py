"""What a network is made of: frozen dataclasses without torch, as a card stores them and `tessella list` reads them.

They stand apart from the modules that they configure so that listing and checking networks need not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import BadInput


@dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """Queries and keys are turned by the place of their patch; tokens without a place are not."""

    base: float = 100.0  # longest period over the shortest
    reference: tuple[int, int] | int | None = None  # patches: places are numbers of patches, of any grid as if it had
    # so many (EVA-02, PE-Core); None: places run from -2 pi to 2 pi whatever the grid (DINOv3)
    offset: float = 0.0  # number of the first patch, where places are numbers

    def __post_init__(self) -> None:
        _require(self.base > 0, f"model.backbone.rotary.base is {self.base}; it must be above 0")
        if self.reference is not None:
            sides = (self.reference,) if isinstance(self.reference, int) else self.reference
            what = f"model.backbone.rotary.reference is {self.reference}; give at least 1 patch"
            _require(min(sides) >= 1, what)
        wrong = self.offset and self.reference is None
        _require(not wrong, "model.backbone.rotary.offset counts patches; give model.backbone.rotary.reference too")


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A Vision Transformer; the defaults are ViT-B/16 as timm's `vit_base_patch16_224` without its head."""

    image_size: tuple[int, int] | int = 224  # pixels, (height, width) or one side; the size of the position table only
    patch_size: int = 16  # pixels; with a stem: its total stride, a power of two
    stride: int | None = None  # pixels between patches; None = patch_size; smaller = overlapping patches
    embed: Literal["conv", "linear", "stem"] = "conv"  # linear: same weights and values as conv, as one matrix product
    stem_convs: int | tuple[int, ...] = 1  # convolutions per halving of the stem, or of each; the first of them halves
    embed_bias: bool = True  # CLIP has none
    channels: int = 3  # of the pictures: 1 grey, 3 colour, any number
    width: int = 768  # features per token
    depth: int = 12  # blocks
    heads: int = 12  # of attention
    head_size: int | None = None  # features per head; None = width / heads; heads * head_size need not be the width
    mlp_ratio: float = 4.0  # features between fc1 and fc2 (after the gate of SwiGLU) / width
    mlp: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "swiglu"] = "gelu"
    mlp_norm: bool = False  # a norm before fc2 (EVA-02)
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False  # normalise queries and keys per head: steadier training at large widths
    attention_norm: bool = False  # a norm before the projection of each attention (EVA-02-CLIP)
    position: Literal["learned", "sincos", "none"] = "learned"  # added to the tokens; sincos as MAE
    rotary: RotaryConfig | None = None  # instead of these (DINOv3), or as well (EVA-02)
    relative: bool = (
        False  # each block adds to its scores what a table says of how two patches lie to each other (BEiT)
    )
    prefix_position: bool = True  # the learned table has rows for the prefix tokens too (timm: not no_embed_class)
    position_resize: Literal["antialias", "plain"] = "antialias"  # of the table to another grid: as timm, or as
    # transformers' DINOv2, which filters nothing away
    class_token: bool = True
    distill_token: bool = False  # DeiT's second class token, for the teacher's head
    registers: int = 0  # tokens without place or meaning of their own (Darcet 2023)
    norm_order: Literal["pre", "post"] = "pre"  # pre: x + f(norm(x)); post: x + norm(f(x)), as timm's ResPostBlock
    norm_pre: bool = False  # a norm before the first block, as CLIP
    final_norm: bool = True  # a norm after the last block; False when the pool normalises (fc_norm)
    layer_scale: float | None = None  # initial factor of each branch; "post" has no such parameter: initial norm weight
    position_dropout: float = 0.0  # on all tokens, after the positions are added
    projection_dropout: float = 0.0  # on the output of each attention
    mlp_dropout: float = 0.0  # after fc1 and after fc2
    attention_dropout: float = 0.0  # on the softmax map, inside the fused kernel
    drop_path: float = 0.0  # stochastic depth of the last block; grows linearly from 0 at the first
    remat: bool = False  # recompute each block in the backward pass: less memory, about a third more time
    indivisible: Literal["refuse", "pad", "cut"] = "refuse"  # a picture that the patches do not tile; never in silence

    def __post_init__(self) -> None:
        for name in ("patch_size", "channels", "width", "depth", "heads"):
            _require(getattr(self, name) >= 1, f"model.backbone.{name} is {getattr(self, name)}; it must be at least 1")
        _require(self.registers >= 0, f"model.backbone.registers is {self.registers}; it must be at least 0")
        _require(
            self.size_of_head >= 1, f"model.backbone.head_size is {self.head_size}; heads need at least 1 feature each"
        )
        _require(self.hidden >= 1, f"model.backbone.mlp_ratio is {self.mlp_ratio}; the MLP needs at least 1 feature")
        _require(self.norm_eps > 0, f"model.backbone.norm_eps is {self.norm_eps}; it must be above 0")
        for name in ("position_dropout", "projection_dropout", "mlp_dropout", "attention_dropout", "drop_path"):
            rate = getattr(self, name)
            _require(0 <= rate < 1, f"model.backbone.{name} is {rate}; it is a share, at least 0 and below 1")
        _require(
            self.head_size is not None or self.width % self.heads == 0,
            f"model.backbone.width {self.width} is no multiple of model.backbone.heads {self.heads};"
            " change one, or set model.backbone.head_size",
        )
        _require(
            self.rotary is None or self.size_of_head % 4 == 0,
            f"rotary positions need a head size divisible by 4, not {self.size_of_head}; set model.backbone.head_size",
        )
        _require(
            self.position != "sincos" or self.width % 4 == 0,
            f"sin-cos positions need a width divisible by 4, not {self.width}; set model.backbone.width",
        )
        if self.stride is not None:
            good = 1 <= self.stride <= self.patch_size and self.embed != "stem"
            _require(
                good, f"model.backbone.stride is {self.stride}; it lies between 1 and patch_size, and a stem has none"
            )
        if self.embed == "stem":
            p = self.patch_size
            halves = p >= 2 and p & (p - 1) == 0
            _require(halves, f"a stem halves the picture: model.backbone.patch_size {p} is no power of two")
            each, halvings = self.stem_convs, p.bit_length() - 1
            good = each >= 1 if isinstance(each, int) else len(each) == halvings and min(each) >= 1
            _require(
                good,
                f"model.backbone.stem_convs is {each}; give at least 1, or {halvings} such numbers, one per halving",
            )
        _ = self.grid  # refuses a size that the patches do not tile

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def step(self) -> int:
        """Pixels from one patch to the next."""
        return self.patch_size if self.stride is None else self.stride

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches at the configured size."""
        return self.grid_of(*self.padded(*self.size))

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches: class, distillation, registers, in this order."""
        return int(self.class_token) + int(self.distill_token) + self.registers

    @property
    def size_of_head(self) -> int:
        return self.width // self.heads if self.head_size is None else self.head_size

    @property
    def hidden(self) -> int:
        """Features that enter fc2."""
        return int(self.width * self.mlp_ratio)

    @property
    def stem_plan(self) -> tuple[tuple[int, int, int], ...]:
        """(channels in, channels out, stride) of each convolution: wider by two per halving, at last about a token."""
        halvings, before, plan = self.patch_size.bit_length() - 1, self.channels, []
        each = self.stem_convs
        for i, convs in enumerate((each,) * halvings if isinstance(each, int) else each):
            after = max(8, self.width >> (halvings - 1 - i)) // 8 * 8
            plan += [(before, after, 2)] + [(after, after, 1)] * (convs - 1)
            before = after
        return tuple(plan)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The size that the patches tile: the picture's own, or what padding or cutting makes it; else a BadInput."""
        sides = []
        for n in (height, width):
            if self.indivisible == "cut" and n >= self.patch_size:
                sides.append(n - (n - self.patch_size) % self.step)
                continue
            short = -(n - self.patch_size) % self.step if n >= self.patch_size else self.patch_size - n
            sides.append(n + short)
        if self.indivisible == "cut" and (sides[0] > height or sides[1] > width):
            raise BadInput(f"a picture of {height}x{width} pixels is smaller than a patch of {self.patch_size}")
        if (height, width) != (sides[0], sides[1]) and self.indivisible == "refuse":
            patches = f"patches of {self.patch_size}" + ("" if self.step == self.patch_size else f" every {self.step}")
            raise BadInput(
                f"a picture of {height}x{width} pixels is not tiled by {patches} pixels;"
                f' resize it to {sides[0]}x{sides[1]}, or set model.backbone.indivisible = "pad"'
            )
        return sides[0], sides[1]

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches in a picture that they tile."""
        return (height - self.patch_size) // self.step + 1, (width - self.patch_size) // self.step + 1


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """How the tokens of one picture become one vector."""

    kind: Literal["cls", "mean", "attention"] = "cls"  # class token, mean of the patches, or a learned query over them
    prefix: bool = False  # the query looks at the prefix tokens as well (PE-Core)
    norm: bool = False  # normalise the pooled vector (timm's fc_norm), usually with backbone.final_norm = False
    tanh: bool = False  # a linear layer and tanh behind it (transformers' pooler of ViT)
    projection: int = 0  # features after a linear map without bias, into the space that CLIP shares with text; 0: none
    heads: int | None = None  # of the attention; None = the backbone's
    mlp_ratio: float | None = None  # of the MLP behind the attention; None = the backbone's

    def __post_init__(self) -> None:
        _require(self.projection >= 0, f"model.pool.projection is {self.projection}; it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A backbone, a pool and a linear layer; with a distillation token, two of the latter."""

    backbone: ViTConfig = field(default_factory=ViTConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    classes: int = 1000  # 0 = no head: the network returns the pooled features
    dropout: float = 0.0  # on the pooled vector

    def __post_init__(self) -> None:
        _require(self.classes >= 0, f"model.classes is {self.classes}; it must be at least 0")
        _require(0 <= self.dropout < 1, f"model.dropout is {self.dropout}; it is a share, at least 0 and below 1")
        _require(
            self.pool.kind != "cls" or self.backbone.class_token,
            'model.pool.kind is "cls", but the backbone has no class token; set model.pool.kind = "mean"',
        )
        what = "model.pool.projection and a distillation token do not go together; leave one of them out"
        _require(not (self.pool.projection and self.backbone.distill_token), what)
        heads = self.pool.heads or self.backbone.heads
        _require(
            self.pool.kind != "attention" or self.backbone.width % heads == 0,
            f"attention pooling needs a width divisible by its heads, not {self.backbone.width} / {heads};"
            " set model.pool.heads",
        )


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """A masked autoencoder; the defaults are He 2021's decoder."""

    encoder: ViTConfig = field(default_factory=ViTConfig)
    decoder_width: int = 512  # features per token
    decoder_depth: int = 8  # blocks
    decoder_heads: int = 16  # of attention
    decoder_mlp_ratio: float = 4.0  # features between fc1 and fc2 / width

    def __post_init__(self) -> None:
        good = self.encoder.stride is None and self.encoder.embed != "stem"
        _require(good, "a decoder says what patches held that lie side by side: leave encoder.stride and a stem out")
        _ = self.decoder  # refuses what is no network

    @property
    def decoder(self) -> ViTConfig:
        """Its blocks; all else of it is the encoder's."""
        e = self.encoder
        return ViTConfig(
            image_size=e.image_size,
            patch_size=e.patch_size,
            channels=e.channels,
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            mlp_ratio=self.decoder_mlp_ratio,
            mlp=e.mlp,
            norm=e.norm,
            norm_eps=e.norm_eps,
            qkv_bias=e.qkv_bias,
            position="sincos",
            indivisible=e.indivisible,
        )


def _require(good: bool, otherwise: str) -> None:
    if not good:
        raise BadInput(otherwise)
