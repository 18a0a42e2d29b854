"""How long a file that means harm is looked at, and how much memory that takes: each kind in a process of its own.

Memory is counted above an interpreter that has imported torch and nothing else, so tessella's own imports are in it;
time is that of the refusal. A file that is not refused, or that runs anything, is a failure whatever it takes.
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record

TIME_BAR, MEMORY_BAR = 1.0, 200.0  # seconds, MB
TOUCHED = "touched"  # what a trap leaves in the folder where it is sprung
TRAP = b"cposix\nsystem\n(S'touch %s'\ntR." % TOUCHED.encode()  # the pickle of os.system("touch touched")

CHILD = """
import json, sys, time
import torch
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1000
bare = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is counted from here
from tessella.errors import BadInput
from tessella.weights.opened import open_weights
began = time.perf_counter()
try:
    open_weights(sys.argv[1])
    said = ""
except BadInput as error:
    said = str(error)
print(json.dumps({"s": time.perf_counter() - began, "mb": status("VmHWM") - bare, "said": said}))
"""


def header(text: bytes, size: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def entry(shape: str, offsets: str, dtype: str = "F32", name: str = "a") -> bytes:
    return f'{{"{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{offsets}]}}}}'.encode()


def many(count: int) -> bytes:
    one = '"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return ("{" + ",".join(one % i for i in range(count)) + "}").encode()


def archive(path: Path, members: dict[str, bytes], pack: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", pack) as file:
        for name, data in members.items():
            file.writestr(name, data)


def bomb(path: Path, member: str, megabytes: int, start: bytes = b"") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file, file.open(member, "w") as out:
        out.write(start)
        for _ in range(megabytes):
            out.write(bytes(1 << 20))


def truncated(path: Path) -> None:
    """200 MB were announced, and half of them are there."""
    size = 200 << 20
    path.write_bytes(header(entry(str(size // 4), f"0,{size}")))
    os.truncate(path, path.stat().st_size + size // 2)


def array(shape: str) -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape},), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


def distributed(folder: Path) -> None:
    folder.mkdir()
    (folder / ".metadata").write_bytes(TRAP)
    (folder / "__0_0.distcp").write_bytes(bytes(1000))


KINDS: dict[str, Callable[[Path], Any]] = {
    "pickle with code.pth": lambda p: archive(p, {"x/data.pkl": TRAP, "x/version": b"3\n", "x/byteorder": b"little"}),
    "old pickle with code.bin": lambda p: p.write_bytes(TRAP),
    "pickle with code.npz": lambda p: archive(p, {"a.npy": TRAP, "b": TRAP}),
    "header longer than the file.safetensors": lambda p: p.write_bytes(header(b"{}", 2**62)),
    "no JSON.safetensors": lambda p: p.write_bytes(header(b"{{{")),
    "nested 100,000 deep.safetensors": lambda p: p.write_bytes(header(b"[" * 100_000)),
    "tensor beyond the end.safetensors": lambda p: p.write_bytes(header(entry("4", "0,16"))),
    "product that overflows.safetensors": lambda p: p.write_bytes(
        header(entry("4611686018427387904,4611686018427387904", "0,16"), body=bytes(16))
    ),
    "negative size.safetensors": lambda p: p.write_bytes(header(entry("-1", "0,4"), body=bytes(4))),
    "hole between tensors.safetensors": lambda p: p.write_bytes(header(entry("1", "4,8"), body=bytes(8))),
    "unknown type.safetensors": lambda p: p.write_bytes(header(entry("1", "0,4", "F99"), body=bytes(4))),
    "header of 90 MB of names.safetensors": lambda p: p.write_bytes(header(many(1_600_000))),
    "header of 1 MB of names.safetensors": lambda p: p.write_bytes(header(many(17_500))),
    "header of 90 MB of blanks.safetensors": lambda p: p.write_bytes(header(b"{}" + b" " * (90 << 20))),
    "bomb of 1 GB.npz": lambda p: bomb(p, "a.npy", 1024),
    "bomb of 1 GB.pth": lambda p: bomb(p, "x/data.pkl", 1024),
    "bomb of 120 MB, below what is let pass.npz": lambda p: bomb(p, "a.npy", 120, array(str(30 << 20))),
    "bomb of 120 MB, below what is let pass.pth": lambda p: bomb(p, "x/data.pkl", 120),
    "array of 4 TB in 1 kB.npz": lambda p: archive(p, {"a.npy": array("1000000000000")}),
    "truncated.safetensors": truncated,
    "truncated.pth": lambda p: p.write_bytes(b"PK\x03\x04" + bytes(1 << 20)),
    "truncated.npz": lambda p: p.write_bytes(b"PK\x03\x04" + bytes(1 << 20)),
    "DCP folder": distributed,
    "DCP metadata/.metadata": lambda p: (p.parent.mkdir(), p.write_bytes(TRAP)),
    "index that names other folders/model.safetensors.index.json": lambda p: (
        p.parent.mkdir(),
        p.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}})),
    ),
    "config of 50 MB/config.json": lambda p: (
        p.parent.mkdir(),
        p.write_text(json.dumps({"model_type": "vit", "id2label": {str(i): "x" * 20 for i in range(1_500_000)}})),
        (p.parent / "model.safetensors").write_bytes(header(b"{}")),
    ),
}


def measured(path: Path, runs: int) -> dict[str, Any]:
    folder = {"PYTHONPATH": os.pathsep.join([str(record.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    found = []
    for _ in range(runs):
        words = [sys.executable, "-c", CHILD, str(path)]
        done = subprocess.run(words, env=os.environ | folder, cwd=path.parent, capture_output=True, text=True)
        if done.returncode:
            return {"s": float("inf"), "mb": float("inf"), "said": f"died ({done.returncode}): {done.stderr[-300:]}"}
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "s": statistics.median(f["s"] for f in found),
        "mb": max(f["mb"] for f in found),
        "said": found[0]["said"].replace(str(path), path.name).replace(str(path.parent), "."),
    }


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each file; the median counts (default %(default)s)")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    asked = parser.parse_args()
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as place:
        for number, (name, make) in enumerate((k, m) for k, m in KINDS.items() if asked.only in k):
            folder = Path(place) / str(number)
            folder.mkdir()
            path = folder / name
            make(path)
            target = path.parent if path.name == "config.json" else path
            told = measured(target, asked.runs)
            sprung = any(folder.rglob(TOUCHED))
            found[name] = told | {"refused": bool(told["said"]) and not told["said"].startswith("died"), "ran": sprung}
            rows.append([name, told["s"], told["mb"], "RAN" if sprung else "refused" if told["said"] else "TAKEN"])
            print(f"{name}: {told['said'][:160]}", flush=True)
    print()
    record.table(["file", "median s", "largest MB", "what became of it"], rows)
    failed = float(sum(f["ran"] or not f["refused"] for f in found.values()))
    judged = [
        record.verdict("files that were not refused, or ran something", failed, 0.0, False),
        record.verdict("slowest refusal, seconds", max(f["s"] for f in found.values()), TIME_BAR, False),
        record.verdict("most memory above torch, MB", max(f["mb"] for f in found.values()), MEMORY_BAR, False),
    ]
    record.show(judged)
    record.keep(asked, "hostile", {"files": found, "runs": asked.runs, "verdicts": judged})


if __name__ == "__main__":
    main()
