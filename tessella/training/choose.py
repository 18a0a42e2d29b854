"""What `auto` becomes on this machine, each with its reason. The only place that decides; the run keeps it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Literal

import torch

from ..errors import BadInput

Choice = tuple[str, str]  # value, why


def device(asked: str) -> Choice:
    if asked != "auto":
        try:
            kind = torch.device(asked).type
        except RuntimeError:
            raise BadInput(f"device {asked!r} is unknown; use auto, cpu, cuda, cuda:0 or mps") from None
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(kind, False):
            raise BadInput(f"device {asked!r} is not there; use --train.device cpu, or see `tessella doctor`")
        return asked, "asked for"
    if torch.cuda.is_available():
        return "cuda", "a CUDA device is there"
    if torch.backends.mps.is_available():
        return "mps", "an Apple GPU is there"
    return "cpu", "no accelerator is there"


def cpu_has_bf16() -> bool:
    """bf16 dot products in hardware; without them bf16 is emulated, and slower than fp32."""
    ask: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)  # an old torch may lack it
    return any(bool(ask().get(k)) for k in ("avx512_bf16", "amx_bf16", "bf16"))


def precision(asked: Literal["auto", "fp32", "bf16"], kind: str) -> Choice:
    if asked != "auto":
        return asked, "asked for"
    if kind == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU multiplies bf16") if has else ("fp32", "the GPU has no bf16")
    if kind == "cpu" and cpu_has_bf16():
        return "bf16", "the processor multiplies bf16"
    return "fp32", "no bf16 in this hardware"


def compiling(asked: Literal["auto", "on", "off"], kind: str, work: float) -> Choice:
    """`work`: multiply-adds of the whole run. Compiling costs a minute and gains a tenth: it pays in long runs."""
    if asked != "auto":
        return asked, "asked for"
    if kind == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None:
        return "off", "no C++ compiler is there"
    rate = {"cuda": 1e14, "cpu": 1e11}.get(kind, 0.0)  # multiply-adds/s, a careful guess
    seconds = work / rate if rate else 0.0
    if seconds * 0.1 > 120:
        return "on", f"about {seconds / 60:.0f} minutes of arithmetic: it pays"
    return "off", "the run is too short to gain from it"
