"""How fast this device multiplies matrices, measured: the ceiling that shares of a training step are told against.

The sizes are those of a transformer's linear maps, not the one size that a library likes best; the best of them counts.
"""

from __future__ import annotations

import statistics
import time

import record
import torch

SIZES = {"cpu": ((1024, 1024, 1024), (3152, 384, 1536), (2048, 2048, 2048)), "cuda": ((8192,) * 3, (16384, 4096, 4096))}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def rate(device: str, precision: str, size: tuple[int, int, int], seconds: float = 1.0) -> float:
    """Multiply-adds x 2 a second: the median of repeats that fill `seconds`, at least five."""
    rows, inner, columns = size
    a = torch.randn(rows, inner, device=device).to(TYPES[precision])
    b = torch.randn(inner, columns, device=device).to(TYPES[precision])
    out = torch.empty(rows, columns, device=device, dtype=TYPES[precision])
    together = 10 if device.startswith("cuda") else 1
    took: list[float] = []
    for _ in range(3):
        torch.mm(a, b, out=out)
    while len(took) < 5 or sum(took) * together < seconds:
        finish(device)
        began = time.perf_counter()
        for _ in range(together):
            torch.mm(a, b, out=out)
        finish(device)
        took.append((time.perf_counter() - began) / together)
    return 2.0 * rows * inner * columns / statistics.median(took)


def finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def rates(device: str, seconds: float, sizes: tuple[tuple[int, int, int], ...] = ()) -> dict[str, dict[str, float]]:
    """precision -> size -> operations a second."""
    wanted = sizes or SIZES["cuda" if device.startswith("cuda") else "cpu"]
    return {p: {"x".join(map(str, s)): rate(device, p, s, seconds) for s in wanted} for p in TYPES}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each size")
    parser.add_argument("--side", type=int, default=None, help="this one square size instead")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    found = rates(asked.device, asked.seconds, ((asked.side,) * 3,) if asked.side else ())
    best = {precision: max(by_size.values()) for precision, by_size in found.items()}
    name = torch.cuda.get_device_name() if asked.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(f"{asked.device}: {name}; TFLOP/s\n")
    sizes = next(iter(found.values()))
    record.table(["size", *found], [[s, *(found[p][s] / 1e12 for p in found)] for s in sizes])
    figures = {"device": asked.device, "what": name, "best_flops": best, "flops": found}
    record.keep(asked, "matmul" if asked.device == "cpu" else f"matmul-{asked.device}", figures)


if __name__ == "__main__":
    main()
