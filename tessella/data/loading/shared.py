"""Memory that a worker shares with the main process, so that a batch travels without being copied or pickled.

A worker writes the tensors of a batch into a slot; the main process maps the slot and hands out tensors that lie in it.
When the last of them is gone, the slot goes back to the worker, whose pages are then already there. A slot is a file
without a name (memfd): it takes no room in /dev/shm, and nothing is left of it however the processes end.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGN = 64  # bytes
SMALL = 2048  # bytes up to which a tensor goes through the pipe
SLACK = 64 << 10  # bytes beside the largest tensor, for labels and the like
MOST = 32  # slots of one worker: above it somebody keeps all batches, and each slot is an open file

Spans = list[tuple[int, int]]  # (offset in the slot, bytes) of every buffer, in order


class Packed(NamedTuple):
    """A batch on its way: its skeleton, and where its large parts lie."""

    body: bytes
    slot: int  # -1: all is in the body
    spans: Spans
    made: int  # bytes of the slot, where it is new: its file follows; 0: known already
    dropped: tuple[int, ...]  # slots that the worker has given up


@dataclass
class _Slot:
    number: int
    memory: mmap.mmap
    used: int = 0
    handle: int = -1  # of a new one

    @property
    def start(self) -> int:
        return _address(self.memory)


class Room:
    """The worker's side: slots to write to."""

    def __init__(self) -> None:
        self.possible = sys.platform == "linux"
        self.slots: dict[int, _Slot] = {}
        self.free: list[int] = []
        self.now: _Slot | None = None  # what the batch in work is written to
        self.made = 0
        self.wanted = 0  # bytes that the largest batch took
        self.dropped: list[int] = []

    def begin(self) -> None:
        """A new batch; what an unfinished one had written is forgotten."""
        if self.now is not None:
            self.now.used = 0

    def give_back(self, numbers: Sequence[int]) -> None:
        self.free += [n for n in numbers if n in self.slots]

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised, in the slot where there is room."""
        size = math.prod(shape) * dtype.itemsize
        start = self._reserve(size) if size > SMALL else -1
        if start < 0 or self.now is None:
            return torch.empty(shape, dtype=dtype)
        flat = np.frombuffer(self.now.memory, np.uint8, size, start)
        return torch.from_numpy(flat).view(dtype).view(shape)

    def pack(self, batch: Any) -> Packed:
        file, spans = io.BytesIO(), Spans()
        total = 0

        def out_of_band(buffer: Any) -> bool:
            nonlocal total
            view = buffer.raw()
            if view.nbytes <= SMALL or not self.possible:
                return True  # stays in the body
            total += view.nbytes + ALIGN
            start = self._place(view)
            if start >= 0:
                spans.append((start, view.nbytes))
            return start < 0

        _Packer(file, 5, False, out_of_band).dump(batch)
        self.wanted = max(self.wanted, total)
        slot, self.now = self.now, None
        if slot is not None and not spans:  # begun and not needed
            self.free.append(slot.number)
        dropped, self.dropped = tuple(self.dropped), []
        if slot is None or not spans:
            return Packed(file.getvalue(), -1, [], 0, dropped)
        return Packed(file.getvalue(), slot.number, spans, len(slot.memory) if slot.handle >= 0 else 0, dropped)

    def handle(self, number: int) -> int:
        """The open file of a new slot; once, the caller closes it."""
        slot = self.slots[number]
        handle, slot.handle = slot.handle, -1
        return handle

    def _place(self, view: memoryview) -> int:
        """Where these bytes lie in the slot: perhaps they were made there; else they are copied. -1: no room."""
        address = np.frombuffer(view, np.uint8).ctypes.data
        if self.now is not None and 0 <= address - self.now.start < len(self.now.memory):
            return address - self.now.start
        start = self._reserve(view.nbytes)
        if start >= 0 and self.now is not None:
            self.now.memory[start : start + view.nbytes] = view
        return start

    def _reserve(self, size: int) -> int:
        if self.now is None:
            self.now = self._open(max(size + SLACK, self.wanted))
        if self.now is None or self.now.used + size > len(self.now.memory):
            return -1
        start = self.now.used
        self.now.used += -(-size // ALIGN) * ALIGN
        return start

    def _open(self, size: int) -> _Slot | None:
        while self.free:
            slot = self.slots[self.free.pop()]
            if len(slot.memory) >= size:
                slot.used = 0
                return slot
            self._drop(slot)
        if not self.possible or len(self.slots) >= MOST:
            return None
        try:
            handle = os.memfd_create("tessella")
            os.ftruncate(handle, size)
            memory = mmap.mmap(handle, size)
        except OSError:  # too many open files, no memory: the pipe still works
            self.possible = False
            return None
        self.made += 1
        slot = self.slots[self.made] = _Slot(self.made, memory, 0, handle)
        return slot

    def _drop(self, slot: _Slot) -> None:
        if slot.handle >= 0:
            os.close(slot.handle)
        else:
            self.dropped.append(slot.number)
        del self.slots[slot.number]


class Mapped:
    """The main process's side: the slots of one worker, mapped."""

    def __init__(self) -> None:
        self.slots: dict[int, mmap.mmap] = {}
        self.returned: list[int] = []  # slots that nobody looks at any more

    def add(self, number: int, handle: int, size: int) -> None:
        """Takes the file over: closes it."""
        try:
            self.slots[number] = mmap.mmap(handle, size)
        finally:
            os.close(handle)

    def take_returned(self) -> list[int]:
        """Finalizers add to the list at any time, so it is emptied one by one."""
        out = []
        while self.returned:
            out.append(self.returned.pop())
        return out

    def unpack(self, packed: Packed) -> Any:
        for number in packed.dropped:
            self.slots.pop(number, None)
        if packed.slot < 0:
            return ForkingPickler.loads(packed.body)
        hold = np.frombuffer(self.slots[packed.slot], np.uint8)  # lives as long as any tensor of this batch
        weakref.finalize(hold, self.returned.append, packed.slot).atexit = False
        view = memoryview(hold.data)
        return ForkingPickler.loads(packed.body, buffers=[view[a : a + n] for a, n in packed.spans])


class _Packer(ForkingPickler):
    """Tensors as plain arrays, whose bytes the pickle protocol keeps apart from the rest."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.device.type == "cpu" and value.layout == torch.strided:
            order = tuple(np.argsort([-stride for stride in value.stride()], kind="stable").tolist())
            packed = value.detach().permute(order).contiguous()  # nothing to do where channels are last, say
            flat: NDArray[np.uint8] = packed.view(-1).view(torch.uint8).numpy()
            back = tuple(np.argsort(order).tolist())
            return _tensor, (flat, value.dtype, tuple(packed.shape), back)
        return NotImplemented


def _tensor(flat: NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...], back: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(flat).view(dtype).view(shape).permute(back)


def _address(memory: mmap.mmap) -> int:
    return np.frombuffer(memory, np.uint8).ctypes.data


# ---------------------------------------------------------------- what a collate asks for

_ROOM: list[Room] = []  # of this process, if it is a worker


def use(room: Room) -> None:
    _ROOM[:] = [room]


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Where a batch is put together: in a worker the memory that is shared, elsewhere any memory."""
    return _ROOM[0].empty(shape, dtype) if _ROOM else torch.empty(shape, dtype=dtype)
