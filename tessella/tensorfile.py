"""One safetensors file, written and read tensor by tensor and hashed on the way: no second copy of all, any name.

What a file says of itself is checked by the safetensors library; a file can never run code. Its bytes are then read
once, each tensor into its own memory: what is mapped instead changes, or dies, with whatever somebody does to the file.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from torch import Tensor

from . import durable
from .errors import BadInput, TessellaError

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
HEADER = 1 << 20  # bytes: some nine thousand tensors; a larger one is somebody's bomb
_METADATA = "__metadata__"  # the one name that the format keeps for itself


class Digest(Protocol):
    """Of hashlib, or `Crc`."""

    def update(self, data: Any, /) -> None: ...
    def hexdigest(self) -> str: ...


class Crc:
    """CRC-32: sees damage as a sha256 does, but for one case in four thousand million, in a third of its time. It says
    nothing of what somebody meant to change."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Any) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def write(
    path: Path, tensors: Mapping[str, Tensor], more: Mapping[str, str] | None = None, digest: Digest | None = None
) -> durable.Written:
    """A new file; the folder around it makes it durable (`durable.write_folder`). `more`: what else its header says;
    `digest` sees all that is written."""
    return durable.pour(path, _shown(_chunks(tensors, more or {}), digest))


def _shown(chunks: Iterator[bytes | memoryview], digest: Digest | None) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        if digest is not None:
            digest.update(chunk)
        yield chunk


def read(path: Path | str, digest: Digest | None = None) -> dict[str, Tensor]:
    """All tensors, on the CPU; what is not a whole safetensors file is a BadInput. `digest` sees the very bytes that
    are read."""
    try:
        _refuse_header(path)
        with open(path, "rb", buffering=0) as file, _Hashing(digest) as hashing:
            text = _exactly(file, struct.unpack("<Q", _exactly(file, 8, hashing))[0], hashing)
            header = json.loads(text)
            quoted = header.pop(_METADATA, {}).get("names") == "quoted"
            out, at = {}, 0
            for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
                if header[name]["data_offsets"][0] != at:
                    raise ValueError(f"bytes {at} to {header[name]['data_offsets'][0]} belong to no tensor")
                at = header[name]["data_offsets"][1]
                out[_plain_name(name) if quoted else name] = tensor = _empty(header[name])
                _fill(file, _bytes_of(tensor), hashing)
            return out
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None


def metadata(path: Path | str) -> dict[str, str]:
    """What the header says beside names and shapes."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path | str, error: Exception) -> BadInput:
    reason = " ".join(str(error).split())
    return BadInput(f"{path} is not a whole safetensors file ({reason}); copy or write it again")


def _refuse_header(path: Path | str) -> None:
    """Whatever in it does not agree with itself, or with the length of the file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > HEADER:
        raise ValueError(f"its header claims {size:,} bytes, and of weights {HEADER:,} are enough")
    with safetensors.safe_open(path, framework="pt"):
        pass


class _Hashing:
    """Hashes in a thread of its own, in order, while more is read; of nothing where no digest is wanted."""

    def __init__(self, digest: Digest | None) -> None:
        self._digest = digest
        self._pool = None if digest is None else ThreadPoolExecutor(1, thread_name_prefix="hash")

    def __enter__(self) -> _Hashing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def add(self, piece: memoryview) -> None:
        if self._pool is not None and self._digest is not None:
            self._pool.submit(self._digest.update, piece)


def _exactly(file: io.FileIO, size: int, hashing: _Hashing) -> bytes:
    held = bytearray(size)
    _fill(file, memoryview(held), hashing)
    return bytes(held)


def _fill(file: io.FileIO, whole: memoryview, hashing: _Hashing) -> None:
    for start in range(0, len(whole), durable.CHUNK):
        piece = left = whole[start : start + durable.CHUNK]
        while left:  # the kernel may give less than it was asked for
            got = file.readinto(left)
            if not got:
                raise OSError("it ends before its last tensor does")
            left = left[got:]
        hashing.add(piece)


def _empty(entry: dict[str, Any]) -> Tensor:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"numbers of type {entry['dtype']} are not known here")
    return torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the file, to within a page."""
    return sum(t.numel() * t.element_size() + len(name) + 128 for name, t in tensors.items()) + 4096


def refuse_shared(tensors: Mapping[str, Tensor]) -> None:
    """Memory under two names is a bug of whoever collected the tensors: it would be saved twice and come back untied.

    Partial overlap is seen between dense views only; views with gaps (columns of one matrix) may interleave harmlessly.
    """
    spans: list[tuple[int, int, str]] = []
    views: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        _check(name, tensor)
        if tensor.numel() == 0:
            continue
        reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        view = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        other = views.setdefault(view, name)
        if other != name:
            raise TessellaError(_shared(other, name))
        if reach == tensor.numel():  # dense: every byte between first and last is its own
            spans.append((tensor.data_ptr(), tensor.data_ptr() + reach * tensor.element_size(), name))
    spans.sort()
    for (_, end, one), (start, _, other) in itertools.pairwise(spans):
        if start < end:
            raise TessellaError(_shared(one, other))


def _shared(one: str, other: str) -> str:
    return f"{one!r} and {other!r} are the same memory and would be saved twice; register that tensor once"


def _check(name: str, tensor: Tensor) -> None:
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
        raise TessellaError(
            f"{name!r} is a {type(tensor).__name__} on {tensor.device}; gather it to a plain CPU tensor"
        )
    if tensor.dtype not in _CODES or tensor.layout != torch.strided:
        raise TessellaError(f"{name!r} is {tensor.dtype}, {tensor.layout}; a weights file cannot hold that")


def _chunks(tensors: Mapping[str, Tensor], more: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    # Wide elements first, so that each tensor starts at a multiple of its element's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    names = {"names": "quoted"} if any(_quoted(name) != name for name in tensors) else {}
    header: dict[str, object] = {_METADATA: {"format": "pt"} | names | dict(more)}
    start = 0
    for name in order:
        tensor = tensors[name]
        _check(name, tensor)
        end = start + tensor.numel() * tensor.element_size()
        entry = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        header[_quoted(name)] = entry
        start = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        if math.prod(tensors[name].shape):
            flat = tensors[name].detach().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data


def _quoted(name: str) -> str:
    """What the format cannot hold as a name: half characters (names of files that are not UTF-8), and its own key."""
    quoted = re.sub("[%\ud800-\udfff]", lambda m: f"%{ord(m[0]):04x}", name)
    return "%005f" + quoted[1:] if quoted == _METADATA else quoted


def _plain_name(quoted: str) -> str:
    return re.sub("%([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), quoted)
