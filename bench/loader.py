"""Our loader beside torchvision's ImageFolder, one worker each, until a batch of normalised floats is there.

One alternating run: in every round each contender opens its loader anew, lets the first batches pass (a worker that
starts, a queue that fills) and is timed over the next ones, in an order that moves by one place a round; the others
have no process then. Speed is the median over rounds, a ratio the median of the ratios within a round.

All read the same files, photos of ImageNet resized to two sizes, crop the same shares of the area at the same aspects,
mirror half of them, and resize by the same filter. `v1` is the classic pipeline on Pillow pictures; `v2` keeps bytes
and normalises whole batches in the main process, the fastest that torchvision's own pages lead to; `ours` is a training
run's loader with the card's scaled decoding, `ours_full` the same with every pixel decoded. The worker has a core of
its own: the main process computes on the others, for all contenders (two threads on two cores take a fifth from it).

`--feed`: a ViT-T/16 looks at the pictures as in evaluation, two workers decode; the share of time spent waiting.
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
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BARS = {("500x375", "v1"): 2.0, ("500x375", "v2"): 1.0, ("4032x3024", "v1"): 4.5, ("4032x3024", "v2"): 2.0}
WAITING = 0.03  # share of the time that a network may wait for pictures
PASSED = 4  # batches that are not timed: more than the queue of one worker holds


@dataclass(frozen=True)
class Photos:
    """Files of one size, and how many pictures make a turn."""

    name: str
    size: tuple[int, int]  # width, height
    count: int
    batch: int
    steps: int


KINDS = (Photos("500x375", (500, 375), 250, 32, 8), Photos("4032x3024", (4032, 3024), 32, 8, 4))


def write(photos: Photos, archive: Path, folder: Path) -> Path:
    """Below ten class folders, as ImageFolder wants it. Quality 90."""
    from PIL import Image

    place = folder / photos.name
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if m.name.lower().endswith((".jpg", ".jpeg"))]
        for number, member in enumerate(members[: photos.count]):
            file = tar.extractfile(member)
            assert file is not None
            image = Image.open(io.BytesIO(file.read())).convert("RGB").resize(photos.size, Image.Resampling.BICUBIC)
            path = place / f"class{number % 10}" / f"{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=90)
    return place


# ---------------------------------------------------------------- contenders: folder, batch -> batches without end


class Endless:
    """A sampler: one shuffled pass after the other."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        import torch

        while True:
            yield from torch.randperm(self.n).tolist()


def loaded(dataset: Any, batch: int) -> Iterator[Any]:
    import torch
    from torch.utils.data import DataLoader

    torch.manual_seed(0)
    loader: Any = DataLoader(dataset, batch, sampler=Endless(len(dataset)), num_workers=1)  # type: ignore[arg-type]
    for images, _ in loader:
        yield images


def v1(folder: Path, batch: int, filter: str) -> Iterator[Any]:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import InterpolationMode

    from tessella.data.pixels.augment import AugmentConfig

    same = AugmentConfig()
    steps = [
        transforms.RandomResizedCrop(SIDE, same.scale, same.ratio, InterpolationMode(filter)),
        transforms.RandomHorizontalFlip(same.flip),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    return loaded(ImageFolder(str(folder), transforms.Compose(steps)), batch)


def bytes_of(path: str) -> Any:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    warnings.simplefilter("ignore", DeprecationWarning)
    return decode_jpeg(read_file(path), mode=ImageReadMode.RGB)


def v2(folder: Path, batch: int, filter: str) -> Iterator[Any]:
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import v2 as transforms

    from tessella.data.pixels.augment import AugmentConfig

    same = AugmentConfig()
    crop = transforms.RandomResizedCrop(SIDE, same.scale, same.ratio, InterpolationMode(filter), antialias=True)
    view = transforms.Compose([crop, transforms.RandomHorizontalFlip(same.flip)])
    finish = transforms.Compose([transforms.ToDtype(torch.float32, scale=True), transforms.Normalize(MEAN, STD)])
    return map(finish, loaded(ImageFolder(str(folder), view, loader=bytes_of), batch))


def pictures(folder: Path, filter: str, decode: str, augmented: bool) -> Any:
    from tessella.card import Preprocess
    from tessella.data.loading.pictures import Pictures
    from tessella.data.origins.folder import open_pictures
    from tessella.data.pixels.augment import AugmentConfig

    card: Any = {"interpolation": filter, "decode": decode}
    preprocess = Preprocess(size=(SIDE, SIDE), crop=1.0 if augmented else 0.9, mean=MEAN, std=STD, **card)
    return Pictures(open_pictures([folder]).source, preprocess, AugmentConfig() if augmented else None)


def ours(folder: Path, batch: int, filter: str, decode: str = "scaled") -> Iterator[Any]:
    from tessella.data.loading.loader import Loader, LoaderConfig
    from tessella.data.pixels.finish import Finish

    dataset = pictures(folder, filter, decode, True)
    finish = Finish(dataset.preprocess)
    stream = Loader(dataset, LoaderConfig(batch=batch, workers=1)).batches()
    try:
        for one in stream:
            yield finish(one)["image"]
    finally:
        stream.close()


def ours_full(folder: Path, batch: int, filter: str) -> Iterator[Any]:
    return ours(folder, batch, filter, "full")


CONTENDERS: dict[str, Callable[[Path, int, str], Iterator[Any]]] = {
    "ours": ours,
    "ours_full": ours_full,
    "v1": v1,
    "v2": v2,
}


# ---------------------------------------------------------------- measuring


def turn(name: str, folder: Path, photos: Photos, filter: str) -> float:
    """Milliseconds a picture."""
    import torch

    batches = CONTENDERS[name](folder, photos.batch, filter)
    for images in itertools.islice(batches, PASSED):
        assert images.shape == (photos.batch, 3, SIDE, SIDE) and images.dtype == torch.float32
    began = time.perf_counter()
    for _ in itertools.islice(batches, photos.steps):
        pass
    seconds = time.perf_counter() - began
    del batches, images  # ends the worker
    return 1000 * seconds / (photos.steps * photos.batch)


def race(folder: Path, photos: Photos, rounds: int, filter: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    names = list(found)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(turn(name, folder, photos, filter))
        print(f"{photos.name}: round {number + 1}/{rounds}", flush=True)
    return found


def ratios(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """ours -> peer -> how many times as fast, within the same round."""
    return {
        mine: {
            peer: statistics.median(b / a for a, b in zip(found[mine], found[peer], strict=True))
            for peer in ("v1", "v2")
        }
        for mine in ("ours", "ours_full")
    }


def feed(folder: Path, photos: Photos, seconds: float, workers: int) -> dict[str, float]:
    """A network that takes one batch after the other, as `evaluate` does."""
    import torch

    from tessella.config import encode
    from tessella.data.loading.loader import Loader, LoaderConfig
    from tessella.data.pixels.finish import Finish
    from tessella.models.build import network
    from tessella.models.presets import classifier

    model = network(encode(classifier("vit_t16", 1000))).eval()
    dataset = pictures(folder, "bicubic", "scaled", False)
    finish = Finish(dataset.preprocess)
    stream = Loader(dataset, LoaderConfig(batch=photos.batch, workers=workers)).batches()
    waited = worked = seen = 0.0
    with torch.inference_mode():
        for number in itertools.count():
            asked = time.perf_counter()
            batch = next(stream)
            given = time.perf_counter()
            model(finish(batch)["image"])
            if number >= PASSED:
                waited += given - asked
                worked += time.perf_counter() - given
                seen += photos.batch
            if waited + worked >= seconds and seen:
                break
    stream.close()
    return {"waiting_share": waited / (waited + worked), "images_per_s": seen / (waited + worked), "images": seen}


def parse() -> argparse.Namespace:
    parser = record.parser(__doc__)
    shared = Path(os.environ.get("TESSELLA_SHARED_DATA", record.ROOT.parent / "shared" / "data"))
    photos = shared / "imagenet250" / "imagenet-sample-250.tar"
    parser.add_argument("--photos", type=Path, default=photos, metavar="TAR", help="a tar file of photos")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--filter", default="bilinear", choices=("bilinear", "bicubic"), help="(default %(default)s)")
    parser.add_argument("--count", type=int, default=None, help="photos of each size, at most (default: 250 and 32)")
    parser.add_argument("--steps", type=int, default=None, help="batches a turn (default: 8 and 4)")
    parser.add_argument("--sizes", default=",".join(k.name for k in KINDS), help="(default %(default)s)")
    parser.add_argument("--feed", action="store_true", help="the share of waiting of a ViT-T/16 instead")
    parser.add_argument("--seconds", type=float, default=30.0, help="of --feed (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of --feed (default %(default)s)")
    asked = parser.parse_args()
    if not asked.photos.is_file():
        raise SystemExit(f"no photos at {asked.photos.name}; give a tar file of photos with --photos")
    return asked


def kinds(asked: argparse.Namespace) -> list[Photos]:
    out = []
    for kind in KINDS:
        if kind.name in asked.sizes.split(","):
            count = min(kind.count, asked.count or kind.count)
            out.append(Photos(kind.name, kind.size, count, min(kind.batch, count), asked.steps or kind.steps))
    return out


def main() -> None:
    asked = parse()
    import torch

    cores = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    torch.set_num_threads(cores if asked.feed else max(1, cores - 1))
    told: dict[str, Any] = {"filter": asked.filter, "simplejpeg": record.version("simplejpeg")}
    judged = []
    with tempfile.TemporaryDirectory() as place:
        for kind in kinds(asked):
            folder = write(kind, asked.photos, Path(place))
            if asked.feed:
                fed = feed(folder, kind, asked.seconds, asked.workers)
                told[kind.name] = fed | {"workers": asked.workers, "threads": torch.get_num_threads()}
                record.table(
                    ["photos", "images/s", "waiting"], [[kind.name, fed["images_per_s"], fed["waiting_share"]]]
                )
                judged.append(record.verdict(f"{kind.name}: share of waiting", fed["waiting_share"], WAITING, False))
                continue
            found = race(folder, kind, asked.rounds, asked.filter)
            speed = ratios(found)
            rows = [[n, statistics.median(ms), min(ms), max(ms)] for n, ms in found.items()]
            record.table([kind.name, "ms/picture", "lowest", "highest"], rows)
            told[kind.name] = {"ms": found, "ratios": speed, "batch": kind.batch, "photos": kind.count}
            for peer in ("v1", "v2"):
                what = f"{kind.name}: ours against {peer}, times as fast"
                judged.append(record.verdict(what, speed["ours"][peer], BARS[kind.name, peer], True))
    record.show(judged)
    record.keep(asked, "feed" if asked.feed else "loader", told | {"verdicts": judged})


if __name__ == "__main__":
    main()
