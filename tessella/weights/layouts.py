"""All layouts by name: LIBRARY/KIND. What each table says stands in the file of its library."""

from __future__ import annotations

from collections.abc import Sequence

from . import big_vision, meta, microsoft, open_clip, timm, transformers
from .table import Rule, Table

OLD, NEW = "", " in memory"  # transformers: the names of its files, and those that version 5 has in memory


def _transformers() -> dict[str, Sequence[Rule]]:
    out: dict[str, Sequence[Rule]] = {}
    for new, tail in ((False, OLD), (True, NEW)):
        out[f"vit{tail}"] = transformers.vit("vit.", new)
        out[f"deit{tail}"] = transformers.vit("deit.", new)
        out[f"deit distilled{tail}"] = transformers.vit("deit.", new, distilled=True)
        out[f"deit one head{tail}"] = transformers.one_head(new)
        out[f"vit bare{tail}"] = transformers.vit("", new)
        out[f"mae{tail}"] = transformers.mae(new)
        out[f"beit{tail}"] = transformers.beit("beit.", new)
        out[f"swin{tail}"], out[f"swin bare{tail}"] = transformers.swin("swin.", new), transformers.swin("", new)
        for registers in (False, True):
            for gated in (False, True):
                kind = "dinov2" + " registers" * registers + " gated" * gated
                out[kind + tail] = transformers.dinov2("", new, registers, gated)
    for gated in (False, True):
        for biases, biased in (("none", ""), ("no keys", " biases")):
            kind = "dinov3" + " gated" * gated + biased
            out[kind] = transformers.dinov3("layer.{i}", gated, biases)
            out[kind + NEW] = transformers.dinov3("model.layer.{i}", gated, biases)
    out["swinv2"], out["swinv2 bare"] = transformers.swinv2("swinv2."), transformers.swinv2("")
    out["mae decoder"] = transformers.autoencoder(False, "decoder.decoder_layers.{i}")
    out["mae decoder of version 5"] = transformers.autoencoder(False, "decoder.decoder_encoder.layer.{i}")
    out[f"mae decoder{NEW}"] = transformers.autoencoder(True, "decoder.decoder_layers.{i}")
    out["clip"], out["clip bare"] = transformers.clip("vision_model."), transformers.clip("")
    out["cvt"] = transformers.cvt()
    out["siglip"], out["siglip bare"] = transformers.siglip("vision_model."), transformers.siglip("")
    return out


def _meta() -> dict[str, Sequence[Rule]]:
    out: dict[str, Sequence[Rule]] = {
        "vit": meta.plain(),
        "mae": meta.mae(),
        "mae decoder": meta.autoencoder(),
        "deit3": meta.deit3(),
        "beit": meta.beit(),
    }
    for gated in (False, True):
        out["dinov3" + " gated" * gated] = meta.dinov3(gated)
        for registers in (False, True):
            out["dinov2" + " registers" * registers + " gated" * gated] = meta.dinov2(registers, gated)
    return out


def _big_vision() -> dict[str, Sequence[Rule]]:
    hybrids = {"hybrid": big_vision.hybrid(stages=True), "hybrid stem": big_vision.hybrid(stages=False)}
    return {"vit": big_vision.vit(), **hybrids}


LAYOUTS: dict[str, Table] = {
    f"{library}/{kind}": Table(rules)
    for library, kinds in (
        ("timm", timm.RULES),
        ("transformers", _transformers()),
        ("meta", _meta()),
        ("open_clip", {"clip": open_clip.clip(), **{f"timm {k}": open_clip.trunk(r) for k, r in timm.RULES.items()}}),
        ("big_vision", _big_vision()),
        ("microsoft", {"swin": microsoft.swin(), "cvt": microsoft.cvt()}),
    )
    for kind, rules in kinds.items()
}
