"""Planted faults in flowers128: copies across parts, corrupt files and flipped labels, and how many `check` finds.

4,317 photographs of 128 px in 5 classes, split into train and val here. The set has duplicates of its own: the pairs of
NATURAL (33 found by `check`, 3 more that connect them) were looked at one by one as pictures: each is the same
photograph (resized, trimmed, recoloured) or the next shot of the same flower. A reported pair that is neither planted
nor among them counts as false; pairs are all those within a reported set, as a person would read it.
Beside ours: the usual 64-bit hashes (dHash, pHash) at the Hamming distance that is best for them on these very plants.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import record
from PIL import Image
from torch import set_num_threads

from tessella.data.checks.noise import doubt
from tessella.data.origins.open import open_splits
from tessella.data.source import DataConfig
from tessella.runtime.load import load
from tessella.verbs.check import CheckConfig, check, embeddings

Pair = tuple[str, str]
KINDS = ("resized", "saved", "trimmed", "resized, saved", "trimmed, saved", "trimmed, resized", "all three")
SHARED = record.ROOT.parent / "shared" / "data"
SHARE, TRIM = 0.02, 0.05  # copies planted, of all pictures; what a trimmed copy loses of each side

NATURAL: tuple[Pair, ...] = (
    ("daisy/10466290366_cc72e33532.jpg", "daisy/10994032453_ac7f8d9e2e.jpg"),
    ("daisy/10993710036_2033222c91.jpg", "daisy/10993818044_4c19b86c82.jpg"),
    ("daisy/33885735373_444ba02d9c_n.jpg", "daisy/34310869690_56cdc84a17_n.jpg"),
    ("daisy/7630517248_98fb8bee1f_n.jpg", "daisy/9204730092_a7f2182347.jpg"),
    ("dandelion/17161833794_e1d92259d2_m.jpg", "dandelion/18304194360_2a4a0be631_m.jpg"),
    ("dandelion/284497199_93a01f48f6.jpg", "dandelion/284497233_c19801752c.jpg"),
    ("dandelion/4278757393_bca8415ed4_n.jpg", "dandelion/4654848357_9549351e0b_n.jpg"),
    ("dandelion/506659320_6fac46551e.jpg", "dandelion/506660896_c903cca1f0.jpg"),
    ("dandelion/8978962053_0727b41d26.jpg", "dandelion/8980145452_efbd6e3b04.jpg"),
    ("dandelion/8979062599_86cac547b8.jpg", "dandelion/8979087213_28f572174c.jpg"),
    ("rose/13279526615_a3b0059bec.jpg", "rose/13342823005_16d3df58df_n.jpg"),
    ("rose/15922772266_1167a06620.jpg", "tulip/15922772266_1167a06620.jpg"),
    ("rose/17104364030_ee31ee279b_n.jpg", "tulip/17104364030_ee31ee279b_n.jpg"),
    ("rose/17291451621_0e39f08b9e_n.jpg", "tulip/17291451621_0e39f08b9e_n.jpg"),
    ("rose/17291930305_79deae6a90_n.jpg", "tulip/17291930305_79deae6a90_n.jpg"),
    ("rose/1775233884_12ff5a124f.jpg", "rose/2093263381_afd51358a3.jpg"),
    ("rose/4608559939_3487bf3b62_n.jpg", "rose/4609166128_b7ed49b40b_m.jpg"),
    ("rose/4608559939_3487bf3b62_n.jpg", "rose/4609168052_3d4e1d3804_n.jpg"),
    ("sunflower/14741866338_bdc8bfc8d5_n.jpg", "sunflower/14925398301_55a180f919_n.jpg"),
    ("sunflower/14889392928_9742aed45b_m.jpg", "sunflower/15066430311_fb57fa92b0_m.jpg"),
    ("sunflower/15069459615_7e0fd61914_n.jpg", "sunflower/15072973261_73e2912ef2_n.jpg"),
    ("sunflower/17433282043_441b0a07f4_n.jpg", "sunflower/22429946721_e17a12cb39_n.jpg"),
    ("sunflower/2588234269_c4bfd0d8b9_n.jpg", "sunflower/2588453601_66f2a03cca_n.jpg"),
    ("sunflower/2823659190_afdabee45c.jpg", "sunflower/2979133707_84aab35b5d.jpg"),
    ("tulip/12916135413_dafcf3089e_n.jpg", "tulip/12916441224_2ed63596f8_n.jpg"),
    ("tulip/2333321040_3960b9d67e_n.jpg", "tulip/2344751399_71620039f2_n.jpg"),
    ("tulip/5635347336_bc1400e939_n.jpg", "tulip/5700394524_dc6f8fa9cd_n.jpg"),
    ("tulip/7166539842_43b7e02883.jpg", "tulip/7166539842_43b7e02883_n.jpg"),
    ("tulip/7166550328_de0d73cfa9.jpg", "tulip/7166550328_de0d73cfa9_n.jpg"),
    ("tulip/7166552648_28b6dce578.jpg", "tulip/7166552648_28b6dce578_n.jpg"),
    ("tulip/7166567320_0a2beb6d42.jpg", "tulip/7166567320_0a2beb6d42_n.jpg"),
    ("tulip/7166606598_5d2cd307c3.jpg", "tulip/7166606598_5d2cd307c3_n.jpg"),
    ("tulip/7166644048_b00a14f01b.jpg", "tulip/7166644048_b00a14f01b_n.jpg"),
    ("dandelion/8979062599_86cac547b8.jpg", "dandelion/8980273068_cf7e8b880a_n.jpg"),
    ("dandelion/8979087213_28f572174c.jpg", "dandelion/8980273068_cf7e8b880a_n.jpg"),
    ("rose/4609166128_b7ed49b40b_m.jpg", "rose/4609168052_3d4e1d3804_n.jpg"),
)  # fmt: skip


# ---------------------------------------------------------------- planting


def unpack(tar: Path, root: Path) -> list[str]:
    """root/train/CLASS/NAME and root/val/CLASS/NAME, a fifth in val, by the hash of the name; CLASS/NAME of each."""
    with tarfile.open(tar) as archive:
        archive.extractall(root / "all", filter="data")
    names = sorted(path.relative_to(root / "all").as_posix() for path in (root / "all").rglob("*.jpg"))
    for name in names:
        part = "val" if hashlib.sha256(name.encode()).digest()[0] < 51 else "train"
        at = root / "photos" / part / name
        at.parent.mkdir(parents=True, exist_ok=True)
        (root / "all" / name).rename(at)
    return names


def altered(data: bytes, kind: str, rng: random.Random) -> bytes:
    picture, quality = Image.open(io.BytesIO(data)).convert("RGB"), 95
    if "trimmed" in kind or kind == "all three":
        w, h = (round(side * (1 - TRIM)) for side in picture.size)
        left, top = rng.randint(0, picture.width - w), rng.randint(0, picture.height - h)
        picture = picture.crop((left, top, left + w, top + h))
    if "resized" in kind or kind == "all three":
        scale = rng.uniform(0.4, 2.0)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)
        picture = picture.resize(size, rng.choice(filters))
    if "saved" in kind or kind == "all three":
        quality = rng.randint(30, 90)
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=quality)
    return held.getvalue()


@contextmanager
def copies(photos: Path, seed: int) -> Iterator[dict[Pair, str]]:
    """Pictures of one part, altered, in the other part; taken away afterwards. (original, copy) -> kind."""
    rng = random.Random(seed)
    files = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    planted: dict[Pair, str] = {}
    try:
        for i, name in enumerate(rng.sample(files, round(SHARE * len(files)))):
            part, rest = name.split("/", 1)
            copy = f"{'val' if part == 'train' else 'train'}/{rest.removesuffix('.jpg')}-planted.jpg"
            kind = KINDS[i % len(KINDS)]
            (photos / copy).write_bytes(altered((photos / name).read_bytes(), kind, rng))
            planted[name, copy] = kind
        yield planted
    finally:
        for _, copy in planted:
            (photos / copy).unlink()


def corrupt(photos: Path, seed: int) -> dict[str, str]:
    """20 files, each broken in another way: name -> how."""
    rng = random.Random(seed)
    files = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    sample = iter(rng.sample(files, 40))
    out: dict[str, str] = {}

    def plant(how: str, change: Callable[[bytes], bytes]) -> None:
        name = next(sample)
        (photos / name).write_bytes(change((photos / name).read_bytes()))
        out[name] = how

    def noise(data: bytes, count: int) -> bytes:
        held, start = bytearray(data), data.index(b"\xff\xda") + 14
        for _ in range(count):
            held[rng.randrange(start, len(held) - 2)] = rng.randrange(255)
        return bytes(held)

    def png(data: bytes) -> bytes:
        held = io.BytesIO()
        Image.open(io.BytesIO(data)).save(held, "PNG")
        return held.getvalue()

    for share in (0.02, 0.3, 0.6, 0.9, 0.98):
        plant(f"cut at {share:.0%}", lambda data, share=share: data[: int(share * len(data))])
    plant("empty", lambda data: b"")
    plant("zeros", lambda data: bytes(len(data)))
    plant("second half zeros", lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    plant("HTML", lambda data: b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
    plant("text", lambda data: b"access denied\n" * 40)
    plant("random bytes", lambda data: rng.randbytes(len(data)))
    plant("Git LFS pointer", lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    plant("AppleDouble", lambda data: b"\0\5\x16\7" + bytes(200))
    plant("PDF", lambda data: b"%PDF-1.7\n" + rng.randbytes(500))
    plant("header overwritten", lambda data: rng.randbytes(40) + data[40:])
    plant("no tables", lambda data: data[:2] + data[data.index(b"\xff\xc0") :])
    for count in (20, 60):
        plant(f"{count} broken codes", lambda data, count=count: noise(data, count))
    plant("PNG with a wrong checksum", lambda data: png(data)[:200] + b"!!!!" + png(data)[204:])
    plant("PNG cut in half", lambda data: png(data)[: len(png(data)) // 2])
    return out


# ---------------------------------------------------------------- peers: hashes of 64 bits


def dhash(picture: Image.Image) -> np.ndarray[Any, Any]:
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS), np.int64)
    return (grey[:, 1:] > grey[:, :-1]).ravel()


def phash(picture: Image.Image) -> np.ndarray[Any, Any]:
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    waves = np.cos(np.pi * np.outer(np.arange(8), (np.arange(32) + 0.5) / 32))
    low = (waves @ grey @ waves.T).ravel()
    return low > np.median(low[1:])


def hashed(
    photos: Path, hasher: Callable[[Image.Image], np.ndarray[Any, Any]]
) -> tuple[list[str], np.ndarray[Any, Any]]:
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    bits = np.stack([hasher(Image.open(photos / name).convert("RGB")) for name in names]).astype(np.float32)
    distance = bits.sum(1)[:, None] + bits.sum(1)[None] - 2 * bits @ bits.T
    return names, np.triu(64 - distance, 1)  # agreement; 0 below the diagonal


# ---------------------------------------------------------------- counting


def bare(name: str) -> str:
    """CLASS/NAME of the photograph, whatever part it or its copy is in."""
    return name.split("/", 1)[1].replace("-planted", "")


def true(pair: Pair) -> bool:
    first, second = bare(pair[0]), bare(pair[1])
    return first == second or tuple(sorted((first, second))) in NATURAL


def score(reported: list[Pair], planted: dict[Pair, str]) -> dict[str, Any]:
    found = {tuple(sorted(pair)) for pair in reported}
    hit = {pair: tuple(sorted(pair)) in found for pair in planted}
    false = [pair for pair in reported if not true(pair)]
    return {
        "found": sum(hit.values()) / len(planted),
        "false": len(false) / max(1, len(reported)),
        "reported": len(reported),
        "natural": sum(true(p) and bare(p[0]) != bare(p[1]) for p in reported),
        "missed": [kind for pair, kind in planted.items() if not hit[pair]],
        "false pairs": false,
    }


def every_pair(plain: dict[str, Any]) -> list[Pair]:
    """All pairs within each set: what a person would read off the report."""
    out = []
    for same in plain["same"]:
        ids = sorted(p["id"] for p in same["pictures"])
        out += [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    return out


def best_hash(photos: Path, planted: dict[Pair, str], hasher: Callable[..., Any]) -> dict[str, Any]:
    """At the largest distance with at most 1 % false pairs, else at 0; and at the customary 10."""
    names, agreement = hashed(photos, hasher)
    out = {}
    for limit in range(17):
        first, second = np.nonzero(agreement >= 64 - limit)
        out[limit] = score([(names[a], names[b]) for a, b in zip(first, second, strict=True)], planted)
    clean = [limit for limit, s in out.items() if s["false"] <= 0.01]
    return {"limit": max(clean, default=0), "best": out[max(clean, default=0)], "at 10": out[10]}


def duplicates(photos: Path, seeds: int) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {
        "tessella": [],
        "dHash": [],
        "dHash <= 10": [],
        "pHash": [],
        "pHash <= 10": [],
    }
    for seed in range(seeds):
        with copies(photos, seed) as planted:
            began = time.perf_counter()
            plain = check(photos).plain
            rows["tessella"].append(score(every_pair(plain), planted) | {"seconds": time.perf_counter() - began})
            for name, hasher in (("dHash", dhash), ("pHash", phash)):
                began = time.perf_counter()
                found = best_hash(photos, planted, hasher)
                took = {"seconds": time.perf_counter() - began}
                rows[name].append(found["best"] | took | {"limit": found["limit"]})
                rows[f"{name} <= 10"].append(found["at 10"] | took)
    return rows


def labels(photos: Path, weights: Path, seeds: int) -> list[float]:
    """Share of the flipped labels in the worst tenth of the ranking. One pass of the model; labels flip in memory."""
    model = load(weights, like="vit_t16")
    sources, _, _ = open_splits(DataConfig(path=str(photos)))
    vectors, truth = [], []
    for source in sources.values():
        vectors.append(deep(model, source))
        truth.append(source.labels)
    held, known = np.concatenate(vectors), np.concatenate(truth)
    out = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(known), round(0.05 * len(known)), replace=False)
        given = known.copy()
        given[rows] = (given[rows] + rng.integers(1, 5, len(rows))) % 5
        worst = doubt(held, given).ranking[: round(0.1 * len(given))]
        out.append(float(np.isin(rows, worst).mean()))
    return out


def deep(model: Any, source: Any) -> Any:
    import torch

    from tessella.data.loading.loader import once
    from tessella.data.loading.pictures import Pictures

    out = []
    for batch in once(Pictures(source, model.preprocess), 64):
        with torch.no_grad():
            out.append(embeddings(model.network, model.finish({"image": batch["image"]})["image"])[1].numpy())
    return np.concatenate(out)


def broken(photos: Path) -> dict[str, Any]:
    planted = corrupt(photos, 0)
    plain = check(photos, CheckConfig(workers=2)).plain
    named = {bad["id"] for part in plain["parts"].values() for bad in part["unreadable"]}
    return {
        "planted": len(planted),
        "named": len(planted.keys() & named),
        "missed": sorted(how for name, how in planted.items() if name not in named),
        "others": sorted(named - planted.keys()),
    }


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--data", type=Path, default=SHARED / "flowers128" / "flowers128.tar")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights" / "deit_tiny_patch16_224_lnq8.safetensors")
    parser.add_argument("--no-labels", action="store_true", help="leave out what needs the weights and minutes")
    parser.add_argument("--seeds", type=int, default=5, help="of the copies; labels are flipped twice as often")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    set_num_threads(asked.threads)
    if not asked.data.is_file():
        raise SystemExit(f"{asked.data} is not there; give --data flowers128.tar")
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        names = unpack(asked.data, Path(folder))
        photos = Path(folder) / "photos"
        rows = duplicates(photos, asked.seeds)
        flipped = [] if asked.no_labels else labels(photos, asked.weights, 2 * asked.seeds)
        torn = broken(photos)
    figures = summed(rows, flipped, torn) | {"pictures": len(names), "threads": asked.threads}
    tell(figures)
    record.keep(asked, "planted", figures)


def summed(rows: dict[str, list[dict[str, Any]]], flipped: list[float], torn: dict[str, Any]) -> dict[str, Any]:
    told = {}
    for name, runs in rows.items():
        told[name] = {key: float(np.mean([r[key] for r in runs])) for key in ("found", "false", "reported", "seconds")}
        told[name]["found, worst"] = min(r["found"] for r in runs)
        told[name]["false, worst"] = max(r["false"] for r in runs)
        told[name]["limits"] = [r["limit"] for r in runs if "limit" in r]
    ours = rows["tessella"]
    verdicts = [
        record.verdict("planted copies found", told["tessella"]["found, worst"], 0.95, True),
        record.verdict("share of reported pairs that are false", told["tessella"]["false, worst"], 0.01, False),
        record.verdict("corrupt files named", torn["named"], torn["planted"], True),
        record.verdict("sound files named", len(torn["others"]), 0, False),
    ]
    if flipped:
        verdicts.append(record.verdict("flipped labels in the worst tenth", float(np.mean(flipped)), 0.8, True))
    return {
        "duplicates": told,
        "natural pairs": len(NATURAL),
        "missed": [kind for r in ours for kind in r["missed"]],
        "false pairs": [pair for r in ours for pair in r["false pairs"]],
        "corrupt": torn,
        "labels": flipped,
        "verdicts": verdicts,
    }


def tell(figures: dict[str, Any]) -> None:
    head = ["", "found", "worst", "false", "worst", "pairs", "seconds"]
    keys = ("found", "found, worst", "false", "false, worst", "reported", "seconds")
    record.table(head, [[name, *(row[key] for key in keys)] for name, row in figures["duplicates"].items()])
    print(f"\n{figures['natural pairs']} pairs of the data set's own; false: {figures['false pairs'] or 'none'}")
    torn = figures["corrupt"]
    print(f"corrupt: {torn['named']} of {torn['planted']} named; missed {torn['missed']}, others {torn['others']}")
    if figures["labels"]:
        print("flipped labels in the worst tenth: " + ", ".join(f"{share:.1%}" for share in sorted(figures["labels"])))
    record.show(figures["verdicts"])


if __name__ == "__main__":
    main()
