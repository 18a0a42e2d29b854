"""Weights that have a name here: whose they are, what network they are of, how pictures reach it, under which licence.

Data only; needs no torch. Accuracies are top-1 on ImageNet-1k's validation pictures, per cent, as timm lists them in
results/results-imagenet.csv, where it has the network. Every name has its parity test (tests/weights/test_catalog.py,
test_swin_parity.py, test_cvt_parity.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..card import Preprocess
from ..models.architecture import ClassifierConfig, PoolConfig, ResNetConfig, RotaryConfig, ViTConfig
from ..models.staged import CvTConfig, SwinConfig

Labels = Literal["imagenet-1k", "imagenet-12k", "imagenet-21k", ""]
COUNTS: dict[Labels, int] = {"imagenet-1k": 1000, "imagenet-12k": 11821, "imagenet-21k": 21843, "": 0}


IN_MEMORY = {
    f"transformers/{kind}": (f"transformers/{kind} in memory",)
    for kind in (
        "vit", "deit", "deit distilled", "vit bare", "mae", "beit", "swin", "swin bare",
        *(f"dinov2{r}{g}" for r in ("", " registers") for g in ("", " gated")),
        *(f"dinov3{g} biases" for g in ("", " gated")),
    )
} | {f"transformers/{kind}": (f"transformers/{kind} bare",) for kind in ("clip", "siglip")}  # fmt: skip


class Origin(NamedTuple):
    """Where the weights lie, and how their tensors are called there."""

    library: Literal["timm", "transformers", "open_clip"]
    id: str  # of the hub: owner/name
    layout: str  # a key of LAYOUTS


@dataclass(frozen=True, kw_only=True)
class Entry:
    name: str
    family: str
    architecture: ClassifierConfig
    preprocess: Preprocess
    licence: str
    origins: tuple[Origin, ...]  # the same weights; the first is asked for them
    also: tuple[str, ...] = ()  # layouts in which they are found elsewhere, beside those of the origins
    labels: Labels = ""  # what the outputs mean; "": the network has no head
    accuracy: float | None = None

    @property
    def layouts(self) -> tuple[str, ...]:
        """All that these weights may be written in: transformers' also as version 5 has them in memory."""
        named = (*(origin.layout for origin in self.origins), *self.also)
        return tuple(dict.fromkeys(n for name in named for n in (name, *IN_MEMORY.get(name, ()))))


# -- sizes and pictures ------------------------------------------------------------------------------------------------

SIZES: dict[str, dict[str, Any]] = {
    "t": {"width": 192, "heads": 3},
    "s": {"width": 384, "heads": 6},
    "m": {"width": 512, "heads": 8},
    "b": {"width": 768, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "so400m": {"width": 1152, "depth": 27, "heads": 16, "mlp_ratio": 3.7362},
    "h": {"width": 1280, "depth": 32, "heads": 16},
    "g": {"width": 1536, "depth": 40, "heads": 24},
}
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SATELLITE = ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))
Colours = tuple[tuple[float, float, float], tuple[float, float, float]]


def _backbone(size: str, patch: int, pixels: int, **more: Any) -> ViTConfig:
    return ViTConfig(**{"patch_size": patch, "image_size": pixels, **SIZES[size], **more})


def _pictures(pixels: int, colours: Colours, crop: float = 0.9, squash: bool = False) -> Preprocess:
    return Preprocess(
        size=(pixels, pixels), crop=crop, mean=colours[0], std=colours[1], resize="squash" if squash else "shortest"
    )


def _timm(name: str, layout: str = "timm/vit") -> Origin:
    return Origin("timm", f"timm/{name}", layout)


def _hf(name: str, layout: str) -> Origin:
    return Origin("transformers", name, f"transformers/{layout}")


class _Row(NamedTuple):
    """What the names of a family differ in."""

    name: str
    size: str
    patch: int
    pixels: int
    timm: str
    hf: str = ""
    accuracy: float | None = None


# -- families ----------------------------------------------------------------------------------------------------------


def _augreg(row: _Row) -> Entry:
    """Steiner 2021: pre-norm, class token, numbers around 0."""
    labels: Labels = "imagenet-1k" if row.accuracy else "imagenet-21k"
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="augreg",
        architecture=ClassifierConfig(backbone=_backbone(row.size, row.patch, row.pixels), classes=COUNTS[labels]),
        preprocess=_pictures(row.pixels, HALF, 1.0 if row.pixels == 384 else 0.9),
        licence="apache-2.0",
        origins=(_timm(row.timm),),
        also=("big_vision/vit", "transformers/vit", "transformers/vit bare"),
        labels=labels,
    )


AUGREG = [
    _Row("vit_t16.augreg", "t", 16, 224, "vit_tiny_patch16_224.augreg_in21k_ft_in1k", accuracy=75.452),
    _Row("vit_s32.augreg", "s", 32, 224, "vit_small_patch32_224.augreg_in21k_ft_in1k", accuracy=76.010),
    _Row("vit_s16.augreg", "s", 16, 224, "vit_small_patch16_224.augreg_in21k_ft_in1k", accuracy=81.402),
    _Row("vit_b32.augreg", "b", 32, 224, "vit_base_patch32_224.augreg_in21k_ft_in1k", accuracy=80.732),
    _Row("vit_b16.augreg", "b", 16, 224, "vit_base_patch16_224.augreg_in21k_ft_in1k", accuracy=84.534),
    _Row("vit_b16.augreg2", "b", 16, 224, "vit_base_patch16_224.augreg2_in21k_ft_in1k", accuracy=85.108),
    _Row("vit_b8.augreg2", "b", 8, 224, "vit_base_patch8_224.augreg2_in21k_ft_in1k", accuracy=86.252),
    _Row("vit_b16_384.augreg", "b", 16, 384, "vit_base_patch16_384.augreg_in21k_ft_in1k", accuracy=86.010),
    _Row("vit_l16.augreg", "l", 16, 224, "vit_large_patch16_224.augreg_in21k_ft_in1k", accuracy=85.856),
    _Row("vit_l16_384.augreg", "l", 16, 384, "vit_large_patch16_384.augreg_in21k_ft_in1k", accuracy=87.096),
    _Row("vit_t16.augreg_in21k", "t", 16, 224, "vit_tiny_patch16_224.augreg_in21k"),
    _Row("vit_b16.augreg_in21k", "b", 16, 224, "vit_base_patch16_224.augreg_in21k"),
]


def _deit(row: _Row) -> Entry:
    """Touvron 2020. Distilled: a second token and a second head; the answer is the mean of both."""
    distilled = "distilled" in row.name
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="deit",
        architecture=ClassifierConfig(
            backbone=_backbone(row.size, row.patch, row.pixels, distill_token=distilled), classes=1000
        ),
        preprocess=_pictures(row.pixels, IMAGENET, 1.0 if row.pixels == 384 else 0.9),
        licence="apache-2.0",
        origins=(_timm(row.timm), _hf(row.hf, "deit distilled" if distilled else "vit")),
        labels="imagenet-1k",
    )


DEIT = [
    _Row("deit_t16", "t", 16, 224, "deit_tiny_patch16_224.fb_in1k", "facebook/deit-tiny-patch16-224", 72.190),
    _Row("deit_s16", "s", 16, 224, "deit_small_patch16_224.fb_in1k", "facebook/deit-small-patch16-224", 79.856),
    _Row("deit_b16", "b", 16, 224, "deit_base_patch16_224.fb_in1k", "facebook/deit-base-patch16-224", 81.980),
    _Row("deit_b16_384", "b", 16, 384, "deit_base_patch16_384.fb_in1k", "facebook/deit-base-patch16-384", 83.108),
    _Row(
        "deit_t16_distilled", "t", 16, 224, "deit_tiny_distilled_patch16_224.fb_in1k",
        "facebook/deit-tiny-distilled-patch16-224", 74.538,
    ),
    _Row(
        "deit_s16_distilled", "s", 16, 224, "deit_small_distilled_patch16_224.fb_in1k",
        "facebook/deit-small-distilled-patch16-224", 81.204,
    ),
    _Row(
        "deit_b16_distilled", "b", 16, 224, "deit_base_distilled_patch16_224.fb_in1k",
        "facebook/deit-base-distilled-patch16-224", 83.384,
    ),
]  # fmt: skip


def _deit3(row: _Row) -> Entry:
    """Touvron 2022: scaled branches, and the class token has no place."""
    backbone = _backbone(row.size, row.patch, row.pixels, layer_scale=1e-6, prefix_position=False)
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="deit3",
        architecture=ClassifierConfig(backbone=backbone, classes=1000),
        preprocess=_pictures(row.pixels, IMAGENET, 1.0),
        licence="apache-2.0",
        origins=(_timm(row.timm),),
        also=("meta/deit3",),
        labels="imagenet-1k",
    )


DEIT3 = [
    _Row("deit3_s16", "s", 16, 224, "deit3_small_patch16_224.fb_in22k_ft_in1k", accuracy=83.082),
    _Row("deit3_m16", "m", 16, 224, "deit3_medium_patch16_224.fb_in22k_ft_in1k", accuracy=84.550),
    _Row("deit3_b16", "b", 16, 224, "deit3_base_patch16_224.fb_in22k_ft_in1k", accuracy=85.728),
    _Row("deit3_l16", "l", 16, 224, "deit3_large_patch16_224.fb_in22k_ft_in1k", accuracy=86.990),
    _Row("deit3_h14", "h", 14, 224, "deit3_huge_patch14_224.fb_in22k_ft_in1k", accuracy=87.180),
]


def _mae(row: _Row) -> Entry:
    """He 2021: the encoder. Its table of places is sines, stored as they are."""
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="mae",
        architecture=ClassifierConfig(backbone=_backbone(row.size, row.patch, row.pixels), classes=0),
        preprocess=_pictures(row.pixels, IMAGENET),
        licence="cc-by-nc-4.0",
        origins=(_timm(row.timm), _hf(row.hf, "mae")),
        also=("meta/mae",),
    )


MAE = [
    _Row("vit_b16.mae", "b", 16, 224, "vit_base_patch16_224.mae", "facebook/vit-mae-base"),
    _Row("vit_l16.mae", "l", 16, 224, "vit_large_patch16_224.mae", "facebook/vit-mae-large"),
    _Row("vit_h14.mae", "h", 14, 224, "vit_huge_patch14_224.mae", "facebook/vit-mae-huge"),
]


def _dino(row: _Row) -> Entry:
    """Caron 2021: a plain network without a head."""
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="dino",
        architecture=ClassifierConfig(backbone=_backbone(row.size, row.patch, row.pixels), classes=0),
        preprocess=_pictures(row.pixels, IMAGENET),
        licence="apache-2.0",
        origins=(_timm(row.timm), _hf(row.hf, "vit bare")),
    )


DINO = [
    _Row("vit_s16.dino", "s", 16, 224, "vit_small_patch16_224.dino", "facebook/dino-vits16"),
    _Row("vit_s8.dino", "s", 8, 224, "vit_small_patch8_224.dino", "facebook/dino-vits8"),
    _Row("vit_b16.dino", "b", 16, 224, "vit_base_patch16_224.dino", "facebook/dino-vitb16"),
    _Row("vit_b8.dino", "b", 8, 224, "vit_base_patch8_224.dino", "facebook/dino-vitb8"),
]


def _dinov2(row: _Row) -> Entry:
    """Oquab 2023; with registers Darcet 2023. The giant gates its MLP, packed in one matrix."""
    registers, gated = "reg4" in row.name, row.size == "g"
    more: dict[str, Any] = {"layer_scale": 1e-5}
    more |= {"registers": 4, "prefix_position": False} if registers else {}
    more |= {"mlp": "swiglu", "mlp_ratio": 4096 / 1536} if gated else {}
    layout = "dinov2" + " registers" * registers + " gated" * gated
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="dinov2",
        architecture=ClassifierConfig(backbone=_backbone(row.size, row.patch, row.pixels, **more), classes=0),
        preprocess=_pictures(row.pixels, IMAGENET, 1.0),
        licence="apache-2.0",
        origins=(_timm(row.timm), _hf(row.hf, layout)),
        also=(f"meta/{layout}",),
    )


DINOV2 = [
    _Row("vit_s14.dinov2", "s", 14, 518, "vit_small_patch14_dinov2.lvd142m", "facebook/dinov2-small"),
    _Row("vit_b14.dinov2", "b", 14, 518, "vit_base_patch14_dinov2.lvd142m", "facebook/dinov2-base"),
    _Row("vit_l14.dinov2", "l", 14, 518, "vit_large_patch14_dinov2.lvd142m", "facebook/dinov2-large"),
    _Row("vit_g14.dinov2", "g", 14, 518, "vit_giant_patch14_dinov2.lvd142m", "facebook/dinov2-giant"),
    _Row(
        "vit_s14_reg4.dinov2", "s", 14, 518, "vit_small_patch14_reg4_dinov2.lvd142m",
        "facebook/dinov2-with-registers-small",
    ),
    _Row(
        "vit_b14_reg4.dinov2", "b", 14, 518, "vit_base_patch14_reg4_dinov2.lvd142m",
        "facebook/dinov2-with-registers-base",
    ),
    _Row(
        "vit_l14_reg4.dinov2", "l", 14, 518, "vit_large_patch14_reg4_dinov2.lvd142m",
        "facebook/dinov2-with-registers-large",
    ),
    _Row(
        "vit_g14_reg4.dinov2", "g", 14, 518, "vit_giant_patch14_reg4_dinov2.lvd142m",
        "facebook/dinov2-with-registers-giant",
    ),
]  # fmt: skip


def _dinov3(row: _Row) -> Entry:
    """Siméoni 2025: rotary places, four registers, no bias of keys; a plus in the name gates the MLP."""
    gated = "plus" in row.name
    kind = "dinov3" + " gated" * gated
    more: dict[str, Any] = {"layer_scale": 1e-5, "norm_eps": 1e-5, "registers": 4}
    more |= {"position": "none", "rotary": RotaryConfig()} | ({"mlp": "swiglu", "mlp_ratio": 4.0} if gated else {})
    more |= {"heads": 20} if row.size == "h" else {}
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="dinov3",
        architecture=ClassifierConfig(backbone=_backbone(row.size, row.patch, row.pixels, **more), classes=0),
        preprocess=_pictures(row.pixels, SATELLITE if "sat" in row.name else IMAGENET, 1.0),
        licence="dinov3-license",
        origins=(_timm(row.timm, f"timm/{kind} qkvb"), _hf(row.hf, f"{kind} biases")),
        also=(f"meta/{kind}",),
    )


DINOV3 = [
    _Row(
        "vit_s16.dinov3", "s", 16, 256, "vit_small_patch16_dinov3_qkvb.lvd1689m",
        "facebook/dinov3-vits16-pretrain-lvd1689m",
    ),
    _Row(
        "vit_s16plus.dinov3", "s", 16, 256, "vit_small_plus_patch16_dinov3_qkvb.lvd1689m",
        "facebook/dinov3-vits16plus-pretrain-lvd1689m",
    ),
    _Row(
        "vit_b16.dinov3", "b", 16, 256, "vit_base_patch16_dinov3_qkvb.lvd1689m",
        "facebook/dinov3-vitb16-pretrain-lvd1689m",
    ),
    _Row(
        "vit_l16.dinov3", "l", 16, 256, "vit_large_patch16_dinov3_qkvb.lvd1689m",
        "facebook/dinov3-vitl16-pretrain-lvd1689m",
    ),
    _Row(
        "vit_h16plus.dinov3", "h", 16, 256, "vit_huge_plus_patch16_dinov3_qkvb.lvd1689m",
        "facebook/dinov3-vith16plus-pretrain-lvd1689m",
    ),
    _Row(
        "vit_l16.dinov3_sat", "l", 16, 256, "vit_large_patch16_dinov3_qkvb.sat493m",
        "facebook/dinov3-vitl16-pretrain-sat493m",
    ),
]  # fmt: skip


def _clip(row: _Row) -> Entry:
    """Radford 2021 and open_clip's: a norm before the blocks, no bias of patches, a space shared with text."""
    openai = row.name.endswith(".openai")
    backbone = _backbone(
        row.size, row.patch, row.pixels, norm_pre=True, embed_bias=False, norm_eps=1e-5,
        mlp="quick_gelu" if openai else "gelu",
    )  # fmt: skip
    space = {"b": 512, "l": 768, "h": 1024}[row.size]
    whole = 0.9 if row.timm in NINE_TENTHS else 1.0
    pictures = _pictures(row.pixels, HALF if row.name == "vit_l14.laion2b" else CLIP, whole)
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="clip",
        architecture=ClassifierConfig(backbone=backbone, pool=PoolConfig(projection=space), classes=0),
        preprocess=pictures,
        licence="apache-2.0",
        origins=(_timm(row.timm, "timm/clip"), *([_hf(row.hf, "clip")] if row.hf else [])),
        also=("open_clip/clip",),
    )


NINE_TENTHS = (
    "vit_base_patch32_clip_224.openai",
    "vit_base_patch16_clip_224.openai",
    "vit_base_patch32_clip_224.laion2b",
)
CLIPS = [
    _Row("vit_b32.openai", "b", 32, 224, "vit_base_patch32_clip_224.openai", "openai/clip-vit-base-patch32"),
    _Row("vit_b16.openai", "b", 16, 224, "vit_base_patch16_clip_224.openai", "openai/clip-vit-base-patch16"),
    _Row("vit_l14.openai", "l", 14, 224, "vit_large_patch14_clip_224.openai", "openai/clip-vit-large-patch14"),
    _Row("vit_l14_336.openai", "l", 14, 336, "vit_large_patch14_clip_336.openai", "openai/clip-vit-large-patch14-336"),
    _Row("vit_b32.laion2b", "b", 32, 224, "vit_base_patch32_clip_224.laion2b", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    _Row("vit_b16.laion2b", "b", 16, 224, "vit_base_patch16_clip_224.laion2b", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
    _Row(
        "vit_l14.laion2b", "l", 14, 224, "vit_large_patch14_clip_224.laion2b", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
    ),
    _Row("vit_h14.laion2b", "h", 14, 224, "vit_huge_patch14_clip_224.laion2b", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    _Row("vit_b16.datacomp", "b", 16, 224, "vit_base_patch16_clip_224.datacompxl"),
    _Row("vit_l14.datacomp", "l", 14, 224, "vit_large_patch14_clip_224.datacompxl"),
]


def _siglip(row: _Row) -> Entry:
    """Zhai 2023, Tschannen 2025: no class token, a learned query over the patches."""
    tanh = row.timm == "vit_so400m_patch16_siglip_384.v2_webli"  # timm keeps the exact GELU for all others
    backbone = _backbone(
        row.size,
        row.patch,
        row.pixels,
        class_token=False,
        mlp="gelu_tanh" if tanh else "gelu",
        indivisible="cut" if row.pixels % row.patch else "refuse",
    )
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="siglip2" if "siglip2" in row.name else "siglip",
        architecture=ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="attention"), classes=0),
        preprocess=_pictures(row.pixels, HALF, 0.9),
        licence="apache-2.0",
        origins=(_timm(row.timm),),
        also=("open_clip/timm vit", "transformers/siglip") if tanh else ("open_clip/timm vit",),
    )


SIGLIP = [
    _Row("vit_b16.siglip", "b", 16, 224, "vit_base_patch16_siglip_224.webli"),
    _Row("vit_b16_256.siglip", "b", 16, 256, "vit_base_patch16_siglip_256.webli"),
    _Row("vit_b16_384.siglip", "b", 16, 384, "vit_base_patch16_siglip_384.webli"),
    _Row("vit_l16_256.siglip", "l", 16, 256, "vit_large_patch16_siglip_256.webli"),
    _Row("vit_so400m14_384.siglip", "so400m", 14, 384, "vit_so400m_patch14_siglip_384.webli"),
    _Row("vit_b16.siglip2", "b", 16, 224, "vit_base_patch16_siglip_224.v2_webli"),
    _Row("vit_b16_256.siglip2", "b", 16, 256, "vit_base_patch16_siglip_256.v2_webli"),
    _Row("vit_l16_256.siglip2", "l", 16, 256, "vit_large_patch16_siglip_256.v2_webli"),
    _Row("vit_so400m16_384.siglip2", "so400m", 16, 384, "vit_so400m_patch16_siglip_384.v2_webli"),
]


def _pe(row: _Row) -> Entry:
    """Bolya 2025: CLIP with rotary places beside the table, and a learned query with eight heads."""
    side = row.pixels // row.patch
    backbone = _backbone(
        row.size, row.patch, row.pixels, norm_pre=True, embed_bias=False, norm_eps=1e-5,
        rotary=RotaryConfig(base=10_000, reference=side, offset=1),
    )  # fmt: skip
    pool = PoolConfig(
        kind="attention", heads=8, mlp_ratio=4.0, prefix=True, projection=512 if row.size in "ts" else 1024
    )
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="pe",
        architecture=ClassifierConfig(backbone=backbone, pool=pool, classes=0),
        preprocess=_pictures(row.pixels, HALF, 1.0),
        licence="apache-2.0",
        origins=(_timm(row.timm, "timm/pe"),),
        also=("open_clip/timm pe",),
    )


PE = [
    _Row("vit_t16_384.pe", "t", 16, 384, "vit_pe_core_tiny_patch16_384.fb"),
    _Row("vit_s16_384.pe", "s", 16, 384, "vit_pe_core_small_patch16_384.fb"),
    _Row("vit_b16.pe", "b", 16, 224, "vit_pe_core_base_patch16_224.fb"),
    _Row("vit_l14_336.pe", "l", 14, 336, "vit_pe_core_large_patch14_336.fb"),
]


def _beit(row: _Row) -> Entry:
    """Bao 2021, Peng 2022: each block has a table of relative places; the mean of the patches is normalised."""
    backbone = _backbone(
        row.size, row.patch, row.pixels, position="none", relative=True, final_norm=False,
        layer_scale=0.1 if row.size == "b" else 1e-5,
    )  # fmt: skip
    second = "beitv2" in row.name
    crop = 0.95 if row.name == "beitv2_l16" else 0.9
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="beitv2" if second else "beit",
        architecture=ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="mean", norm=True), classes=1000),
        preprocess=_pictures(row.pixels, IMAGENET if second else HALF, crop),
        licence="apache-2.0",
        origins=(_timm(row.timm, "timm/beit"), *([_hf(row.hf, "beit")] if row.hf else [])),
        also=("meta/beit",),
        labels="imagenet-1k",
    )


BEIT = [
    _Row(
        "beit_b16", "b", 16, 224, "beit_base_patch16_224.in22k_ft_in22k_in1k",
        "microsoft/beit-base-patch16-224", 85.238,
    ),
    _Row(
        "beit_l16", "l", 16, 224, "beit_large_patch16_224.in22k_ft_in22k_in1k",
        "microsoft/beit-large-patch16-224", 87.486,
    ),
    _Row("beitv2_b16", "b", 16, 224, "beitv2_base_patch16_224.in1k_ft_in22k_in1k", accuracy=86.494),
    _Row("beitv2_l16", "l", 16, 224, "beitv2_large_patch16_224.in1k_ft_in22k_in1k", accuracy=88.406),
]  # fmt: skip


def _eva02(row: _Row) -> Entry:
    """Fang 2023: rotary places beside the table, a gated MLP with a norm inside (base and large)."""
    apart, labels = row.size in "bl", "imagenet-1k" if row.accuracy else ""
    hidden = {"t": 512, "s": 1024, "b": 2048, "l": 2730}[row.size]
    width = SIZES[row.size]["width"]
    backbone = _backbone(
        row.size, row.patch, row.pixels, rotary=RotaryConfig(base=10_000, reference=16), mlp="swiglu",
        mlp_ratio=hidden / width, mlp_norm=apart, final_norm=False,
    )  # fmt: skip
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="eva02",
        architecture=ClassifierConfig(
            backbone=backbone, pool=PoolConfig(kind="mean", norm=True), classes=1000 if labels else 0
        ),
        preprocess=_pictures(row.pixels, CLIP, 1.0 if labels else 0.9, squash=bool(labels)),
        licence="mit",
        origins=(_timm(row.timm, "timm/eva apart" if apart else "timm/eva"),),
        labels="imagenet-1k" if labels else "",
    )


EVA02 = [
    _Row("eva02_t14", "t", 14, 224, "eva02_tiny_patch14_224.mim_in22k"),
    _Row("eva02_s14", "s", 14, 224, "eva02_small_patch14_224.mim_in22k"),
    _Row("eva02_b14_448", "b", 14, 448, "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", accuracy=88.678),
    _Row("eva02_l14_448", "l", 14, 448, "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", accuracy=90.056),
]


def _flexi(row: _Row) -> Entry:
    """Beyer 2022: patches of any size; the weights of other sizes follow by least squares."""
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="flexivit",
        architecture=ClassifierConfig(
            backbone=_backbone(row.size, row.patch, row.pixels, prefix_position=False), classes=1000
        ),
        preprocess=_pictures(row.pixels, HALF, 0.95),
        licence="apache-2.0",
        origins=(_timm(row.timm),),
        labels="imagenet-1k",
    )


FLEXI = [
    _Row("flexivit_s16", "s", 16, 240, "flexivit_small.1200ep_in1k", accuracy=82.576),
    _Row("flexivit_b16", "b", 16, 240, "flexivit_base.1200ep_in1k", accuracy=84.678),
    _Row("flexivit_l16", "l", 16, 240, "flexivit_large.1200ep_in1k", accuracy=85.646),
]

SBB_SIZES: dict[str, dict[str, Any]] = {
    "little": {"width": 320, "depth": 14, "heads": 5, "mlp_ratio": 5.6},
    "medium": {"width": 512, "heads": 8},
    "mediumd": {"width": 512, "depth": 20, "heads": 8},
    "betwixt": {"width": 640, "heads": 10},
    "so150m": {"width": 896, "depth": 18, "heads": 14, "mlp_ratio": 2.572, "layer_scale": None},
    "so150m2": {"width": 832, "depth": 21, "heads": 13, "mlp_ratio": 34 / 13, "qkv_bias": False},
}


def _sbb(row: _Row) -> Entry:
    """timm's searching for better baselines: registers, no class token, the mean of the patches."""
    rope, registers = "rope" in row.timm, int(row.timm.split("_reg")[1][0])
    more: dict[str, Any] = {"class_token": False, "registers": registers, "final_norm": False, "layer_scale": 1e-5}
    more |= {"position": "none", "rotary": RotaryConfig(base=10_000, reference=16)} if rope else {}
    more |= {"prefix_position": row.size.startswith("so150m")} | SBB_SIZES[row.size]
    pool = PoolConfig(kind="mean", norm=True)
    if row.size == "so150m":
        more["final_norm"], pool = True, PoolConfig(kind="mean")
    colours = CLIP if row.name == "vit_betwixt16_rope.sbb" else HALF
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="sbb",
        architecture=ClassifierConfig(
            backbone=ViTConfig(image_size=row.pixels, patch_size=row.patch, **more), pool=pool, classes=1000
        ),
        preprocess=_pictures(row.pixels, colours, 1.0 if row.size == "so150m2" else 0.95),
        licence="mit" if rope else "apache-2.0",
        origins=(_timm(row.timm, "timm/eva" if rope else "timm/vit"),),
        labels="imagenet-1k",
    )


SBB = [
    _Row("vit_little16.sbb", "little", 16, 256, "vit_little_patch16_reg4_gap_256.sbb_in1k", accuracy=82.520),
    _Row("vit_medium16.sbb", "medium", 16, 256, "vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k", accuracy=84.956),
    _Row(
        "vit_betwixt16.sbb", "betwixt", 16, 256, "vit_betwixt_patch16_reg4_gap_256.sbb_in12k_ft_in1k", accuracy=85.426
    ),
    _Row(
        "vit_mediumd16.sbb", "mediumd", 16, 256, "vit_mediumd_patch16_reg4_gap_256.sbb_in12k_ft_in1k", accuracy=86.198
    ),
    _Row(
        "vit_so150m16.sbb", "so150m", 16, 256, "vit_so150m_patch16_reg4_gap_256.sbb_e250_in12k_ft_in1k", accuracy=86.720
    ),
    _Row(
        "vit_so150m2_16.sbb",
        "so150m2",
        16,
        256,
        "vit_so150m2_patch16_reg1_gap_256.sbb_e200_in12k_ft_in1k",
        accuracy=87.318,
    ),
    _Row("vit_medium16_rope.sbb", "medium", 16, 256, "vit_medium_patch16_rope_reg1_gap_256.sbb_in1k", accuracy=83.810),
    _Row(
        "vit_betwixt16_rope.sbb", "betwixt", 16, 256, "vit_betwixt_patch16_rope_reg4_gap_256.sbb_in1k", accuracy=83.906
    ),
]


def _hybrid(row: _Row) -> Entry:
    """Dosovitskiy 2020 (orig), Steiner 2021: patches are cut out of the map of a ResNet, or of its stem alone."""
    stages = {"_r_": (), "r26": (2, 2, 2, 2), "r50_s32": (3, 4, 6, 3), "r50_s16": (3, 4, 9)}
    resnet = ResNetConfig(layers=next(layers for called, layers in stages.items() if called in row.timm))
    labels: Labels = "imagenet-1k" if row.accuracy else "imagenet-21k" if "augreg" in row.timm else ""
    backbone = _backbone(row.size, row.patch, row.pixels, embed="resnet", resnet=resnet)
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="hybrid",
        architecture=ClassifierConfig(backbone=backbone, classes=COUNTS[labels]),
        preprocess=_pictures(row.pixels, HALF, 1.0 if row.pixels == 384 else 0.9),
        licence="apache-2.0",
        origins=(_timm(row.timm),),
        also=("big_vision/hybrid" if resnet.layers else "big_vision/hybrid stem",),
        labels=labels,
    )


HYBRID = [
    # the stem's step is 4 px and the patches are 8 x 8 of those: 32 px, though its authors call it R+Ti/16
    _Row("vit_r_t32.augreg", "t", 32, 224, "vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k", accuracy=71.800),
    _Row("vit_r_t32_384.augreg", "t", 32, 384, "vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k", accuracy=75.962),
    _Row("vit_r26_s32.augreg", "s", 32, 224, "vit_small_r26_s32_224.augreg_in21k_ft_in1k", accuracy=81.856),
    _Row("vit_r26_s32_384.augreg", "s", 32, 384, "vit_small_r26_s32_384.augreg_in21k_ft_in1k", accuracy=84.066),
    _Row("vit_r26_s32.augreg_in21k", "s", 32, 224, "vit_small_r26_s32_224.augreg_in21k"),
    _Row("vit_r50_b16.orig_in21k", "b", 16, 224, "vit_base_r50_s16_224.orig_in21k"),
    _Row("vit_r50_b16_384.orig", "b", 16, 384, "vit_base_r50_s16_384.orig_in21k_ft_in1k", accuracy=84.988),
    _Row("vit_r50_l32.augreg", "l", 32, 224, "vit_large_r50_s32_224.augreg_in21k_ft_in1k", accuracy=84.434),
    _Row("vit_r50_l32_384.augreg", "l", 32, 384, "vit_large_r50_s32_384.augreg_in21k_ft_in1k", accuracy=86.188),
]


SWIN_SIZES: dict[str, dict[str, Any]] = {
    "t": {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "s": {"width": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
    "b": {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    "l": {"width": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48)},
}


def _swin(row: _Row) -> Entry:
    """Liu 2021, both: the window stands in timm's name, of v2 also the one that it had before it grew (12to16)."""
    second, window = row.timm.startswith("swinv2"), row.timm.split("window")[1].split("_")[0]
    more: dict[str, Any] = {"version": "v2"} if second else {}
    more |= {"trained_window": (12, 12, 12, 6)} if "to" in window else {}
    backbone = SwinConfig(
        image_size=row.pixels, patch_size=row.patch, window=int(window.split("to")[-1]), **SWIN_SIZES[row.size], **more
    )
    layout = "swinv2" if second else "swin"
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family=layout,
        architecture=ClassifierConfig(backbone=backbone, pool=PoolConfig(kind="mean"), classes=1000),
        preprocess=_pictures(row.pixels, IMAGENET, 1.0 if row.pixels == 384 else 0.9),
        licence="mit",
        origins=(_timm(row.timm, "timm/swin"), *((_hf(row.hf, layout),) if row.hf else ())),
        also=("microsoft/swin", f"transformers/{layout}", f"transformers/{layout} bare"),
        labels="imagenet-1k",
    )


SWIN = [
    _Row(
        "swin_t.in1k", "t", 4, 224, "swin_tiny_patch4_window7_224.ms_in1k", "microsoft/swin-tiny-patch4-window7-224",
        81.388,
    ),
    _Row(
        "swin_s.in1k", "s", 4, 224, "swin_small_patch4_window7_224.ms_in1k", "microsoft/swin-small-patch4-window7-224",
        83.228,
    ),
    _Row("swin_b.in1k", "b", 4, 224, "swin_base_patch4_window7_224.ms_in1k", accuracy=83.604),
    _Row("swin_b_384.in1k", "b", 4, 384, "swin_base_patch4_window12_384.ms_in1k", accuracy=84.478),
    _Row("swin_t.in22k_ft", "t", 4, 224, "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k", accuracy=80.966),
    _Row("swin_s.in22k_ft", "s", 4, 224, "swin_small_patch4_window7_224.ms_in22k_ft_in1k", accuracy=83.330),
    _Row("swin_b.in22k_ft", "b", 4, 224, "swin_base_patch4_window7_224.ms_in22k_ft_in1k", accuracy=85.276),
    _Row("swin_b_384.in22k_ft", "b", 4, 384, "swin_base_patch4_window12_384.ms_in22k_ft_in1k", accuracy=86.442),
    _Row("swin_l.in22k_ft", "l", 4, 224, "swin_large_patch4_window7_224.ms_in22k_ft_in1k", accuracy=86.320),
    _Row("swin_l_384.in22k_ft", "l", 4, 384, "swin_large_patch4_window12_384.ms_in22k_ft_in1k", accuracy=87.142),
]  # fmt: skip
SWINV2 = [
    _Row(
        "swinv2_t_w8.in1k", "t", 4, 256, "swinv2_tiny_window8_256.ms_in1k",
        "microsoft/swinv2-tiny-patch4-window8-256", 81.824,
    ),
    _Row(
        "swinv2_t_w16.in1k", "t", 4, 256, "swinv2_tiny_window16_256.ms_in1k",
        "microsoft/swinv2-tiny-patch4-window16-256", 82.828,
    ),
    _Row(
        "swinv2_s_w8.in1k", "s", 4, 256, "swinv2_small_window8_256.ms_in1k",
        "microsoft/swinv2-small-patch4-window8-256", 83.844,
    ),
    _Row(
        "swinv2_s_w16.in1k", "s", 4, 256, "swinv2_small_window16_256.ms_in1k",
        "microsoft/swinv2-small-patch4-window16-256", 84.216,
    ),
    _Row(
        "swinv2_b_w8.in1k", "b", 4, 256, "swinv2_base_window8_256.ms_in1k",
        "microsoft/swinv2-base-patch4-window8-256", 84.246,
    ),
    _Row(
        "swinv2_b_w16.in1k", "b", 4, 256, "swinv2_base_window16_256.ms_in1k",
        "microsoft/swinv2-base-patch4-window16-256", 84.608,
    ),
    _Row(
        "swinv2_b.in22k_ft", "b", 4, 256, "swinv2_base_window12to16_192to256.ms_in22k_ft_in1k",
        "microsoft/swinv2-base-patch4-window12to16-192to256-22kto1k-ft", 86.270,
    ),
    _Row(
        "swinv2_b_384.in22k_ft", "b", 4, 384, "swinv2_base_window12to24_192to384.ms_in22k_ft_in1k",
        "microsoft/swinv2-base-patch4-window12to24-192to384-22kto1k-ft", 87.142,
    ),
    _Row(
        "swinv2_l.in22k_ft", "l", 4, 256, "swinv2_large_window12to16_192to256.ms_in22k_ft_in1k",
        "microsoft/swinv2-large-patch4-window12to16-192to256-22kto1k-ft", 86.934,
    ),
    _Row(
        "swinv2_l_384.in22k_ft", "l", 4, 384, "swinv2_large_window12to24_192to384.ms_in22k_ft_in1k",
        "microsoft/swinv2-large-patch4-window12to24-192to384-22kto1k-ft", 87.474,
    ),
]  # fmt: skip


def _cvt(row: _Row) -> Entry:
    """Wu 2021. Trained with x * sigmoid(1.702 x) in its MLPs, where transformers computes the exact GELU."""
    depths = {"13": (1, 2, 10), "21": (1, 4, 16)}[row.size]
    return Entry(
        name=row.name,
        accuracy=row.accuracy,
        family="cvt",
        architecture=ClassifierConfig(backbone=CvTConfig(image_size=row.pixels, depths=depths), classes=1000),
        preprocess=_pictures(row.pixels, IMAGENET, *((1.0, True) if row.pixels == 384 else (0.875, False))),
        licence="apache-2.0",
        origins=(_hf(row.hf, "cvt"),),
        also=("microsoft/cvt",),
        labels="imagenet-1k",
    )


CVT = [  # accuracies as its authors list them, in the README of microsoft/CvT
    _Row("cvt_13.in1k", "13", 4, 224, "", "microsoft/cvt-13", 81.6),
    _Row("cvt_13_384.in1k", "13", 4, 384, "", "microsoft/cvt-13-384", 83.0),
    _Row("cvt_13_384.in22k_ft", "13", 4, 384, "", "microsoft/cvt-13-384-22k", 83.3),
    _Row("cvt_21.in1k", "21", 4, 224, "", "microsoft/cvt-21", 82.5),
    _Row("cvt_21_384.in1k", "21", 4, 384, "", "microsoft/cvt-21-384", 83.3),
    _Row("cvt_21_384.in22k_ft", "21", 4, 384, "", "microsoft/cvt-21-384-22k", 84.9),
]

FAMILIES = (
    (AUGREG, _augreg), (DEIT, _deit), (DEIT3, _deit3), (MAE, _mae), (DINO, _dino), (DINOV2, _dinov2),
    (DINOV3, _dinov3), (CLIPS, _clip), (SIGLIP, _siglip), (PE, _pe), (BEIT, _beit), (EVA02, _eva02), (FLEXI, _flexi),
    (SBB, _sbb), (SWIN, _swin), (SWINV2, _swin), (HYBRID, _hybrid), (CVT, _cvt),
)  # fmt: skip
CATALOG: dict[str, Entry] = {row.name: make(row) for rows, make in FAMILIES for row in rows}
