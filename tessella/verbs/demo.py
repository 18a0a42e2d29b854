"""`demo`: the whole way in a few minutes, on bundled pictures: train, evaluate, predict, and where everything lies."""

from __future__ import annotations

import time
from pathlib import Path

from ..data.origins.demo import unpack


def demo(folder: str | Path = "demo", *, only_unpack: bool = False) -> None:
    """Fashion-MNIST, 10,000 pictures to learn from and 2,000 to be tested on. Nothing is downloaded."""
    place = Path(folder)
    pictures = unpack(place / "fashion")
    print(f"pictures  {pictures}")
    if only_unpack:
        return
    from .evaluate import evaluate
    from .predict import predict
    from .train import train

    began = time.monotonic()
    run = train(pictures, recipe="compact", settings={"folder": str(place / "runs")})
    seconds = time.monotonic() - began
    found = evaluate(run.folder, pictures)
    print(f"\ntrained in {seconds:.0f} s; on the 2,000 test pictures:")
    found.tell()
    some = sorted((pictures / "test").glob("*/*.png"))[::400]
    print("\nfive of them:")
    for prediction in predict(run.folder, some, top=3):
        print(f"  {prediction}")
    print(f"\nrun       {run.folder}")
    run.tell()
