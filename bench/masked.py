"""One training step of MAE (ViT-B/16, three quarters hidden) beside transformers' ViTMAEForPreTraining.

One alternating run, as bench/step.py does it: each contender is a process that is kept alive, and they take turns.
transformers runs twice: as it comes (fp32, eager), and at the precision of ours (bf16 autocast, fused AdamW, its fused
attention). Both draw the hidden patches inside the step; ours get them with the batch, as the loader brings them.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import record
from contenders import BATCHES, Gate, Options
from contenders import main as child
from step import race, start

ASKED = Options(model="vit_b16", size=224, batch=16)
BARS = {"transformers_bf16": 1.0, "transformers": 2.4}
SHARE = 0.75


def ours(options: Options, gate: Gate) -> None:
    import torch

    from tessella.models.architecture import MAEConfig
    from tessella.models.mae import MaskedAutoencoder
    from tessella.models.presets import preset
    from tessella.objectives.mae import MAE, MaskedConfig
    from tessella.training import Job, TrainConfig, train

    encoder = replace(preset(options.model), image_size=options.size)
    objective = MAE(MaskedConfig(), MaskedAutoencoder(MAEConfig(encoder=encoder)))  # type: ignore[arg-type]
    gate.parameters = sum(p.numel() for p in objective.parameters())
    images = torch.randn(BATCHES, options.batch, 3, options.size, options.size)
    side = options.size // encoder.least
    order = torch.rand(BATCHES, options.batch, side * side).argsort(-1).argsort(-1)
    masks = (order < round(SHARE * side * side)).view(BATCHES, options.batch, side, side)
    names = [str(i) for i in range(options.batch)]

    def batches(start: int) -> Iterator[dict[str, Any]]:
        step = start
        while True:
            gate.before()
            yield {"ids": names, "image": images[step % BATCHES], "mask": masks[step % BATCHES]}
            gate.after()
            step += 1

    train(TrainConfig(steps=10**6, batch=options.batch, device=options.device), objective, batches, Job(quiet=True))


def theirs(options: Options, gate: Gate, half: bool) -> None:
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    kind = {} if half else {"attn_implementation": "eager"}
    model = ViTMAEForPreTraining(ViTMAEConfig(image_size=options.size, norm_pix_loss=True, mask_ratio=SHARE, **kind))
    model.train()
    gate.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=half)
    images = torch.randn(BATCHES, options.batch, 3, options.size, options.size)
    step = 0
    while True:
        gate.before()
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=half):
            loss = model(images[step % BATCHES]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        gate.after()
        step += 1


def transformers(options: Options, gate: Gate) -> None:
    theirs(options, gate, half=False)


def transformers_bf16(options: Options, gate: Gate) -> None:
    theirs(options, gate, half=True)


CONTENDERS = {"ours": ours, "transformers_bf16": transformers_bf16, "transformers": transformers}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="in a row, of each, each round (default %(default)s)")
    parser.add_argument("--size", type=int, default=ASKED.size)
    parser.add_argument("--batch", type=int, default=ASKED.batch)
    asked = parser.parse_args()
    options = replace(ASKED, size=asked.size, batch=asked.batch, threads=os.cpu_count() or 1)
    ready, absent = start(list(CONTENDERS), options, "masked.py")
    try:
        found = race(ready, asked.rounds, asked.steps, options.batch)
    finally:
        for one in ready:
            one.leave()
    judged, rows = [], []
    for name, mine in found.items():
        pairs = zip(found["ours"]["images_per_s"], mine["images_per_s"], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        rows.append([name, mine["median"], round(mine["peak"] / 1e6), mine["parameters"], f"{ratio:.2f}x"])
        if name in BARS:
            memory = found["ours"]["peak"] / mine["peak"]
            judged.append(record.verdict(f"against {name}: times as fast", ratio, BARS[name], True))
            judged.append(record.verdict(f"against {name}: peak memory", memory, 1.0, False))
    record.table(["contender", "images/s", "peak MB", "parameters", "ours is"], rows)
    record.show(judged)
    told = {"options": asdict(options), "contenders": found, "absent": absent, "verdicts": judged}
    record.keep(asked, "masked", told)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in CONTENDERS:
        child(CONTENDERS)
    else:
        main()
