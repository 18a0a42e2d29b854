"""What a network is made of: frozen dataclasses without torch, as a card stores them and `tessella list` reads them.

They stand apart from the modules that they configure so that listing and checking networks need not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from ..errors import BadInput
from .staged import CvTConfig, SwinConfig


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


class Conv(NamedTuple):
    """One convolution of a `ResNetConfig`, with the norm behind it."""

    before: int  # channels
    after: int
    kernel: int
    pixels: int  # of the picture, from one of its outputs to the next


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The convolutions before the patches of a hybrid: a ResNet as in BiT and in the paper of the ViT."""

    layers: tuple[int, ...] = (3, 4, 9)  # bottlenecks of each stage; all stages but the first halve; (): only the stem
    width: int = 64  # channels of the stem, a multiple of the norms' 32 groups; stage i ends in 4 * 2**i times as many

    def __post_init__(self) -> None:
        good = all(layers >= 1 for layers in self.layers)
        _require(good, f"model.backbone.resnet.layers is {self.layers}; each stage has at least 1")
        good = self.width >= 32 and self.width % 32 == 0
        _require(good, f"model.backbone.resnet.width is {self.width}; give a multiple of 32")

    @property
    def stride(self) -> int:
        """Pixels from one place of its map to the next: the stem's 4, doubled by each stage but the first."""
        return 4 << max(0, len(self.layers) - 1)

    @property
    def channels(self) -> int:
        """Of its map."""
        return self.width << (len(self.layers) + 1) if self.layers else self.width

    def plan(self, channels: int) -> tuple[Conv, ...]:
        """All its convolutions, for pictures of so many channels."""
        before, plan = self.width, [Conv(channels, self.width, 7, 2)]
        for stage, layers in enumerate(self.layers):
            inner, after, pixels = self.width << stage, self.width << (stage + 2), 4 << stage
            for layer in range(layers):
                first = layer == 0
                plan += [Conv(before, after, 1, pixels)] if first else []
                plan.append(Conv(before, inner, 1, pixels // 2 if first and stage else pixels))
                plan += [Conv(inner, inner, 3, pixels), Conv(inner, after, 1, pixels)]
                before = after
        return tuple(plan)


class Common(Protocol):
    """What the settings of every backbone answer. Who needs more of one kind asks for that kind."""

    @property
    def size(self) -> tuple[int, int]: ...  # (height, width) in pixels

    @property
    def channels(self) -> int: ...  # of the pictures

    @property
    def width(self) -> int: ...  # features of a token of the first block

    @property
    def features(self) -> int: ...  # of a token that leaves the last block, which a pool and a head see

    @property
    def depth(self) -> int: ...  # blocks: units of the Tower

    @property
    def maps(self) -> int: ...  # how many `layers` can be asked for: blocks of a ViT, stages of others

    @property
    def class_token(self) -> bool: ...

    @property
    def distill_token(self) -> bool: ...

    @property
    def prefix(self) -> int: ...  # how many tokens stand before the patches

    @property
    def chooses(self) -> bool: ...  # whether it can leave out patches (`keep`) or put a token there (`hide`)

    @property
    def first_weight(self) -> str: ...  # the only tensor of the network that sees the channels of a picture

    @property
    def looks(self) -> str: ...  # its sizes in some words

    @property
    def norm(self) -> str: ...  # "layer" or "rms", of a pool as well

    @property
    def norm_eps(self) -> float: ...

    @property
    def drop_path(self) -> float: ...

    @property
    def remat(self) -> bool: ...

    @property
    def least(self) -> int: ...  # pixels: the shortest side that growing pictures begin with

    @property
    def step(self) -> int: ...  # pixels from there to the next side that needs no padding

    def tiles(self, side: int) -> bool: ...  # whether it takes pictures of so many pixels


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A Vision Transformer; the defaults are ViT-B/16 as timm's `vit_base_patch16_224` without its head."""

    image_size: tuple[int, int] | int = 224  # pixels, (height, width) or one side; the size of the position table only
    patch_size: int = 16  # pixels; with a stem: its total stride, a power of two; a ResNet's stride divides it
    stride: int | None = None  # pixels between patches; None = patch_size; smaller = overlapping patches
    embed: Literal["conv", "linear", "stem", "resnet"] = "conv"  # linear: as conv, by one matrix product
    stem_convs: int | tuple[int, ...] = 1  # convolutions per halving of the stem, or of each; the first of them halves
    resnet: ResNetConfig | None = None  # of a hybrid, whose patches are cut out of its map
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
            good = 1 <= self.stride <= self.patch_size and self.embed in ("conv", "linear")
            what = "it lies between 1 and patch_size, and neither a stem nor a ResNet has one"
            _require(good, f"model.backbone.stride is {self.stride}; {what}")
        what = 'model.backbone.embed = "resnet" and model.backbone.resnet go together; give both or neither'
        _require((self.embed == "resnet") == (self.resnet is not None), what)
        if self.resnet is not None:
            good, step = self.patch_size % self.resnet.stride == 0, self.resnet.stride
            _require(good, f"a ResNet of stride {step} does not go into model.backbone.patch_size {self.patch_size}")
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
    def least(self) -> int:
        return self.patch_size

    def tiles(self, side: int) -> bool:
        return side >= self.patch_size and (self.indivisible != "refuse" or not (side - self.patch_size) % self.step)

    @property
    def features(self) -> int:
        return self.width

    @property
    def maps(self) -> int:
        return self.depth

    @property
    def chooses(self) -> bool:
        return True

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

    @property
    def first_weight(self) -> str:
        """The only tensor of the network that sees the channels of a picture."""
        if self.resnet is not None:
            return "patch_embed.backbone." + ("stem." if self.resnet.layers else "") + "conv.weight"
        return "patch_embed." + ("stem.0.conv.weight" if self.embed == "stem" else "proj.weight")

    @property
    def looks(self) -> str:
        return f"width {self.width}, depth {self.depth}, patches of {self.patch_size}"

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


Backbone = ViTConfig | SwinConfig | CvTConfig  # each of them is Common


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

    backbone: Backbone = field(default_factory=ViTConfig)
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
        if self.pool.kind == "attention":
            b = self.backbone
            if not isinstance(b, ViTConfig):
                raise BadInput('model.pool.kind is "attention", which only a ViT has; set model.pool.kind = "mean"')
            heads = self.pool.heads or b.heads
            what = f"attention pooling needs a width divisible by its heads, not {b.width} / {heads}"
            _require(b.width % heads == 0, f"{what}; set model.pool.heads")


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """A masked autoencoder; the defaults are He 2021's decoder."""

    encoder: ViTConfig = field(default_factory=ViTConfig)
    decoder_width: int = 512  # features per token
    decoder_depth: int = 8  # blocks
    decoder_heads: int = 16  # of attention
    decoder_mlp_ratio: float = 4.0  # features between fc1 and fc2 / width
    pool: Literal["cls", "mean"] | None = None  # how its features are read without the decoder; None: by its tokens
    normalised: bool = True  # it says patches with mean 0 and deviation 1 (norm_pix_loss), not pixels

    def __post_init__(self) -> None:
        _refuse_apart(self.encoder)
        _ = self.decoder, self.classifier  # which refuse what is no network

    @property
    def classifier(self) -> ClassifierConfig:
        """The encoder with its pool."""
        return _headless(self.encoder, self.pool)

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


@dataclass(frozen=True, kw_only=True)
class PainterConfig:
    """A backbone that sees a picture of which something is missing, and a linear layer that says what it was."""

    encoder: ViTConfig = field(default_factory=ViTConfig)
    lacks: Literal["token", "pixels", "colour"] = "token"  # hidden patches: a learned token, or blank; or all is grey
    pool: Literal["cls", "mean"] | None = None  # how its features are read without the decoder; None: by its tokens

    def __post_init__(self) -> None:
        _refuse_apart(self.encoder)
        colours = self.encoder.channels
        _require(self.lacks != "colour" or colours > 1, f"pictures of {colours} channel have no colour to be said")
        _ = self.classifier

    @property
    def classifier(self) -> ClassifierConfig:
        """The encoder with its pool."""
        return _headless(self.encoder, self.pool)


def _refuse_apart(encoder: ViTConfig) -> None:
    what = "a decoder says what patches held that lie side by side"
    _require(encoder.stride is None, f"{what}: leave encoder.stride out")


def _headless(encoder: ViTConfig, pool: Literal["cls", "mean"] | None) -> ClassifierConfig:
    kind = pool or ("cls" if encoder.class_token else "mean")
    return ClassifierConfig(backbone=encoder, pool=PoolConfig(kind=kind), classes=0)


def _require(good: bool, otherwise: str) -> None:
    if not good:
        raise BadInput(otherwise)
