"""Memory: how much this process may take, how much it has taken, and how it sounds when there is no more."""

from __future__ import annotations

import errno
import gc
import os
import re
import resource
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import BadInput

SAID = (  # by everybody who allocates, in errors of no class of their own
    "can't allocate memory",  # torch's allocator for processors
    "not enough memory: you tried to allocate",  # the same, on Windows
    "out of memory",  # CUDA, MPS, NCCL
    "ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER: their workspaces
    "bad_alloc",  # C++
    "Cannot allocate memory",  # the system: mmap, fork
    "could not create a primitive",  # oneDNN, under a limit of the process; it says no more
    "could not execute a primitive",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Most who run out of memory raise a plain RuntimeError, and say so in words."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


def release(device: torch.device, error: BaseException) -> None:
    """The frames that the error went through still hold the activations."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_bytes(device: torch.device) -> int:
    """The most this process has held: on the device, or of this machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # Linux: ru_maxrss would count what the program held that started this one
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# -- how much there is -----------------------------------------------------------------------------------------------


class Limit(NamedTuple):
    bytes: int
    why: str


UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


def read_size(text: str) -> int:
    """Bytes: "8GB", "8 GiB", "512M", "8e9"."""
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([KMGT]?I?)B?", text.strip().upper().replace("E", "e"))
    try:
        size = float(found[1]) * UNITS[found[2]] if found else 0.0
    except (KeyError, ValueError):
        size = 0.0
    if size < 1:
        raise BadInput(f"memory is {text!r}; give a size such as 8GB or 500MB, or auto")
    return int(size)


def show(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def available(device: torch.device) -> Limit:
    """What a run may take that starts now: the least of all limits that hold here."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return Limit(free, "free on the GPU")
    own = _status("RssAnon")  # given back or used by the run itself: this process becomes the run
    found = [Limit(free + own, why) for free, why in (_system(), _group())]
    found += [Limit(size, "the limit of this process") for size in _of_process()]
    return min(found)


def _of_process() -> list[int]:
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS)]
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]


def _system() -> Limit:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return Limit(int(line.split()[1]) << 10, "free on this machine")
    return Limit(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2, "half of this machine's memory")


def _group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Limit:
    """The tightest control group above this process, version 1 or 2. What files occupy in it can be taken."""
    tightest = Limit(1 << 62, "")
    for line in _read(own).splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        size, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        folder = top / place.lstrip("/")
        for here in (folder, *folder.parents):
            limit, taken = _read(here / size).strip(), _read(here / used).strip()
            if limit.isdigit() and taken.isdigit():
                stat = dict(row.split(" ", 1) for row in _read(here / "memory.stat").splitlines())
                files = sum(
                    int(stat.get(f"{prefix}{kind}_file", 0))
                    for prefix in ("total_",) * bool(controllers) or ("",)
                    for kind in ("active", "inactive")
                )
                tightest = min(tightest, Limit(int(limit) - int(taken) + files, "left in this control group"))
            if here == top:
                break
    return tightest


def _status(key: str) -> int:
    """Bytes of a line of /proc/self/status; 0 where there is none."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    return 0


def now() -> int:
    """Bytes of this machine's memory that the process holds at this moment; 0 where that cannot be known."""
    return _status("VmRSS")


def private(process: int) -> int:
    """Bytes that another process has for itself: of a worker, what its parent does not hold anyway."""
    lines = _read(Path(f"/proc/{process}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
