"""`doctor`: what this machine is and can do, measured in a few seconds."""

from __future__ import annotations

import importlib.metadata
import io
import json as _json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .. import __version__

NEEDED = ("torch", "torchvision", "numpy", "Pillow", "safetensors", "rich", "typer")
WELCOME = ("timm", "transformers", "onnxruntime", "openvino")  # used by tests and benchmarks only


def doctor() -> dict[str, Any]:
    """Plain data; nothing leaves the machine. Writes 32 MB to the working folder for a moment, to time it."""
    import torch

    from ..training import choose

    device, why_device = choose.device("auto")
    precision, why_precision = choose.precision("auto", torch.device(device).type)
    return {
        "tessella": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in (*NEEDED, *WELCOME)},
        "device": f"{device} ({why_device})",
        "precision": f"{precision} ({why_precision})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "compiler": shutil.which("g++") or shutil.which("clang++") or "none: torch.compile cannot be used on the CPU",
        "memory_gb": _memory_gb(),
        "shared_memory_gb": _free_gb(Path("/dev/shm")),
        "disk_free_gb": _free_gb(Path.cwd()),
        "write_mb_per_s": _write_speed(),
        "decode_per_s": _decode_speed(),
    }


def machine(device: str) -> dict[str, Any]:
    """The part of it that a run writes down: what its figures were measured with. Quick, and nothing is timed."""
    import torch

    graphics = device.startswith("cuda") and torch.cuda.get_device_name(device)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in NEEDED},
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "device": graphics or device,
    }


def _commit(root: Path) -> str | None:
    """Of a checkout of this program; installed, it lies in nobody's, or in that of another project."""
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty= with changes"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _processor() -> str | None:
    """The name that its maker gave it, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or None


def tell(found: dict[str, Any], json: bool) -> None:
    if json:
        print(_json.dumps(found, indent=1))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v or 'absent'}" for k, v in value.items())
        print(f"{key.replace('_', ' '):<18} {'unknown' if value is None else value}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _free_gb(path: Path) -> float | None:
    return round(shutil.disk_usage(path).free / 1e9, 1) if path.exists() else None


def _write_speed(megabytes: int = 32) -> float | None:
    """With fsync: how fast a state is saved here. None where the working folder cannot be written."""
    data = os.urandom(1_000_000)
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".doctor-") as file:
            began = time.perf_counter()
            for _ in range(megabytes):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            return round(megabytes / (time.perf_counter() - began), 1)
    except OSError:
        return None


def _decode_speed(seconds: float = 0.5) -> float:
    """500 x 375 JPEGs, decoded one after the other."""
    import numpy as np
    from PIL import Image

    from ..data.pixels.decode import decode

    ramp = np.linspace(0, 255, 500 * 375 * 3).reshape(375, 500, 3).astype(np.uint8)
    held = io.BytesIO()
    Image.fromarray(ramp).save(held, "JPEG", quality=90)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        decode(held.getvalue(), 3)
        done += 1
    return round(done / (time.perf_counter() - began), 1)
