"""Our loader beside the webdataset package's own pipeline on the same tar shards, until normalised floats are there.

One alternating run, as in bench/loader.py: in every round each contender opens its pipeline anew, lets the first
batches pass and is timed over the next ones, in an order that moves by one place a round. Speed is the median over
rounds, a ratio the median of the ratios within a round. Opening, which for ours is the index, is timed apart.

All read 100 shards of photos of ImageNet, 500 x 375 at quality 90, crop the same shares of the area at the same
aspects, mirror half of them, and resize by the same filter. `webdataset` is the package's own way: decode("pil"),
torchvision's classic transforms, WebLoader. `webdataset_v2` decodes and crops bytes and normalises whole batches in
the main process, the fastest that torchvision's own pages lead to. `ours` is a training run's loader.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import loader
import record
from loader import MEAN, SIDE, STD

BAR = 1.5  # times as fast as webdataset's own pipeline
SIZE = (500, 375)
SHUFFLED = 1000  # samples in webdataset's buffer


@dataclass(frozen=True)
class Shards:
    """What all contenders are given."""

    pattern: str
    batch: int
    workers: int
    filter: str


def write(photos: Path, folder: Path, shards: int, each: int) -> str:
    """Members KEY.jpg and KEY.cls; the photos come again and again. The pattern that names the shards."""
    made = loader.write(loader.Photos("photos", SIZE, 10**6, 0, 0), photos, folder)
    pictures = [path.read_bytes() for path in sorted(made.rglob("*.jpg"))]
    count = itertools.count()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as tar:
            for number in itertools.islice(count, each):
                label = str(number % len(pictures)).encode()
                for suffix, data in (("cls", label), ("jpg", pictures[number % len(pictures)])):
                    info = tarfile.TarInfo(f"{number:06}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return f"{folder}/{{000..{shards - 1:03}}}.tar"


# ---------------------------------------------------------------- contenders: shards -> batches without end


def loaded(given: Shards, steps: Callable[[Any], Any]) -> Iterator[Any]:
    """The pipeline of webdataset's own pages."""
    import webdataset

    data = webdataset.WebDataset(given.pattern, shardshuffle=100, empty_check=False).repeat().shuffle(SHUFFLED)
    data = steps(data).batched(given.batch, partial=False)
    for images, _ in webdataset.WebLoader(data, batch_size=None, num_workers=given.workers):
        yield images


def webdataset(given: Shards) -> Iterator[Any]:
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    from tessella.data.pixels.augment import AugmentConfig

    same = AugmentConfig()
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE, same.scale, same.ratio, InterpolationMode(given.filter)),
            transforms.RandomHorizontalFlip(same.flip),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return loaded(given, lambda data: data.decode("pil").to_tuple("jpg", "cls").map_tuple(view, int))


def webdataset_v2(given: Shards) -> Iterator[Any]:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import v2 as transforms

    from tessella.data.pixels.augment import AugmentConfig

    same = AugmentConfig()
    crop = transforms.RandomResizedCrop(SIDE, same.scale, same.ratio, InterpolationMode(given.filter), antialias=True)
    flip = transforms.RandomHorizontalFlip(same.flip)

    def view(data: bytes) -> Any:
        return flip(crop(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)))

    finish = transforms.Compose([transforms.ToDtype(torch.float32, scale=True), transforms.Normalize(MEAN, STD)])
    return map(finish, loaded(given, lambda data: data.to_tuple("jpg", "cls").map_tuple(view, int)))


def ours(given: Shards) -> Iterator[Any]:
    from tessella.card import Preprocess
    from tessella.data.loading.loader import Loader, LoaderConfig
    from tessella.data.loading.pictures import Pictures
    from tessella.data.origins.open import open_data
    from tessella.data.pixels.augment import AugmentConfig
    from tessella.data.pixels.finish import Finish
    from tessella.data.source import DataConfig

    card: Any = {"interpolation": given.filter}
    preprocess = Preprocess(size=(SIDE, SIDE), crop=0.875, mean=MEAN, std=STD, **card)
    dataset = Pictures(open_data(DataConfig(path=given.pattern, val_share=0)).train, preprocess, AugmentConfig())
    finish = Finish(preprocess)
    stream = Loader(dataset, LoaderConfig(batch=given.batch, workers=given.workers)).batches()
    try:
        for one in stream:
            yield finish(one)["image"]
    finally:
        stream.close()


CONTENDERS: dict[str, Callable[[Shards], Iterator[Any]]] = {
    "ours": ours,
    "webdataset": webdataset,
    "webdataset_v2": webdataset_v2,
}


# ---------------------------------------------------------------- measuring


def turn(name: str, given: Shards, steps: int) -> tuple[float, float]:
    """(images a second, seconds to the first batch)."""
    import torch

    began = time.perf_counter()
    batches = CONTENDERS[name](given)
    images = next(batches)
    first = time.perf_counter() - began
    assert images.shape == (given.batch, 3, SIDE, SIDE) and images.dtype == torch.float32
    for _ in itertools.islice(batches, loader.PASSED * given.workers - 1):
        pass
    began = time.perf_counter()
    for _ in itertools.islice(batches, steps):
        pass
    speed = steps * given.batch / (time.perf_counter() - began)
    del batches, images  # ends the workers
    return speed, first


def race(given: Shards, rounds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    names = list(CONTENDERS)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(turn(name, given, steps))
        print(f"round {number + 1}/{rounds}", flush=True)
    return found


def ratios(found: dict[str, list[float]]) -> dict[str, float]:
    """peer -> how many times as fast ours is, within the same round."""
    peers = [name for name in found if name != "ours"]
    return {p: statistics.median(a / b for a, b in zip(found["ours"], found[p], strict=True)) for p in peers}


def parse() -> argparse.Namespace:
    parser = record.parser(__doc__)
    shared = Path(os.environ.get("TESSELLA_SHARED_DATA", record.ROOT.parent / "shared" / "data"))
    photos = shared / "imagenet250" / "imagenet-sample-250.tar"
    parser.add_argument("--photos", type=Path, default=photos, metavar="TAR", help="a tar file of photos")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--shards", type=int, default=100, help="(default %(default)s)")
    parser.add_argument("--each", type=int, default=40, help="samples in a shard (default %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="(default %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="of every contender (default %(default)s)")
    parser.add_argument("--steps", type=int, default=16, help="batches a turn (default %(default)s)")
    parser.add_argument("--filter", default="bilinear", choices=("bilinear", "bicubic"), help="(default %(default)s)")
    asked = parser.parse_args()
    if not asked.photos.is_file():
        raise SystemExit(f"no photos at {asked.photos.name}; give a tar file of photos with --photos")
    return asked


def main() -> None:
    asked = parse()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    with tempfile.TemporaryDirectory() as place:
        pattern = write(asked.photos, Path(place), asked.shards, asked.each)
        given = Shards(pattern, asked.batch, asked.workers, asked.filter)
        found = race(given, asked.rounds, asked.steps)
    speed = {name: [one for one, _ in turns] for name, turns in found.items()}
    first = {name: [one for _, one in turns] for name, turns in found.items()}
    rows = [[n, statistics.median(s), min(s), max(s), statistics.median(first[n])] for n, s in speed.items()]
    record.table(["pipeline", "images/s", "lowest", "highest", "first batch s"], rows)
    ratio = ratios(speed)
    judged = [record.verdict("ours against webdataset, times as fast", ratio["webdataset"], BAR, True)]
    record.show(judged)
    told = {name: getattr(asked, name) for name in ("shards", "each", "batch", "workers", "steps", "filter")}
    told |= {"images_per_s": speed, "first_batch_s": first, "ratios": ratio, "verdicts": judged}
    record.keep(asked, "shards", told | {"webdataset": record.version("webdataset")})


if __name__ == "__main__":
    main()
