"""Out of memory: recognised on every device, and answered by smaller micro-batches of the same global batch."""

from __future__ import annotations

import errno
import gc
import resource
import sys
import traceback

import torch

SAID = (  # by everybody who allocates, in errors of no class of their own
    "can't allocate memory",  # torch's allocator for processors
    "not enough memory: you tried to allocate",  # the same, on Windows
    "out of memory",  # CUDA, MPS, NCCL
    "ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER: their workspaces
    "bad_alloc",  # C++
    "Cannot allocate memory",  # the system: mmap, fork
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
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
