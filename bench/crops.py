"""One step of DINO with 2 large and 6 small crops: views of one size in one call, beside a plain loop over the views.

The same objective in the same trainer; the loop calls student and teacher once for each view, as a first version would.
One alternating run, as in bench/step.py. The default is what a laptop trains: small pictures, a compact network.
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

ASKED = Options(model="vit_n4", size=32, batch=64)
BAR = 1.3
LARGE, SMALL = 2, 6


def learn(options: Options, gate: Gate, looped: bool) -> None:
    import torch

    from tessella.models.classifier import Classifier
    from tessella.models.presets import classifier, preset
    from tessella.objectives.dino import DINO, Branch, DINOConfig, Said
    from tessella.training import Job, TrainConfig, train

    class Looped(DINO):
        """Asks a branch about one view of all samples after the other."""

        def __init__(self, cfg: DINOConfig, network: Classifier) -> None:
            super().__init__(cfg, network)
            for branch in (self.student, self.teacher):
                branch.forward = self._looped(branch)  # type: ignore[method-assign]

        @staticmethod
        def _looped(branch: Branch) -> Any:
            whole = branch.forward

            def forward(images: torch.Tensor, chosen: Any = None, token: Any = None) -> Said:
                views = images.unflatten(0, (options.batch, -1)).unbind(1)
                said = [whole(view.contiguous()) for view in views]
                pooled, scores = (torch.stack([s[i] for s in said], 1).flatten(0, 1) for i in (0, 1))
                return Said(pooled, scores, None)

            return forward

    backbone = replace(preset(options.model), image_size=options.size)
    objective = (Looped if looped else DINO)(DINOConfig(), Classifier(classifier(backbone, 0)))
    gate.parameters = sum(p.numel() for p in objective.parameters())
    side = max(backbone.least, round(options.size * 96 / 224 / backbone.least) * backbone.least)
    large = torch.randn(BATCHES, options.batch, LARGE, 3, options.size, options.size)
    small = torch.randn(BATCHES, options.batch, SMALL, 3, side, side)
    names = [str(i) for i in range(options.batch)]

    def batches(start: int) -> Iterator[dict[str, Any]]:
        step = start
        while True:
            gate.before()
            yield {"ids": names, "image": large[step % BATCHES], "local": small[step % BATCHES]}
            gate.after()
            step += 1

    train(TrainConfig(steps=10**6, batch=options.batch, device=options.device), objective, batches, Job(quiet=True))


def together(options: Options, gate: Gate) -> None:
    learn(options, gate, looped=False)


def loop(options: Options, gate: Gate) -> None:
    learn(options, gate, looped=True)


CONTENDERS = {"together": together, "loop": loop}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="in a row, of each, each round (default %(default)s)")
    parser.add_argument("--model", default=ASKED.model)
    parser.add_argument("--size", type=int, default=ASKED.size)
    parser.add_argument("--batch", type=int, default=ASKED.batch)
    asked = parser.parse_args()
    chosen = {"model": asked.model, "size": asked.size, "batch": asked.batch}
    options = replace(ASKED, **chosen, threads=os.cpu_count() or 1)
    ready, absent = start(list(CONTENDERS), options, "crops.py")
    try:
        found = race(ready, asked.rounds, asked.steps, options.batch)
    finally:
        for one in ready:
            one.leave()
    pairs = zip(found["together"]["images_per_s"], found["loop"]["images_per_s"], strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    rows = [[name, mine["median"], round(mine["peak"] / 1e6)] for name, mine in found.items()]
    record.table(["contender", "samples/s", "peak MB"], rows)
    judged = [record.verdict("together against a loop: times as fast", ratio, BAR, True)]
    record.show(judged)
    told = {"options": asdict(options), "contenders": found, "absent": absent, "verdicts": judged}
    record.keep(asked, "crops", told)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in CONTENDERS:
        child(CONTENDERS)
    else:
        main()
