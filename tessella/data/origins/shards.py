"""WebDataset shards: many tars whose members of one key are one sample, indexed once and then read in any order.

Because any sample can be read at any time, no shard is streamed: the order stays a pure function of (seed, step), and a
run goes on in the middle of a shard exactly. `chunks` tells the loader which samples lie beside each other.
"""

from __future__ import annotations

import glob
import itertools
import json
import multiprocessing
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..names import Names
from ..source import Column, DataConfig
from .columns import ROLES, Numbered, text
from .fetched import Cache, Origin, glob_remote
from .folder import SUFFIXES, TRAIN, VALIDATION
from .listing import Listing, by_path
from .members import Member, members_of
from .pinned import Pinned, Place
from .targets import CaptionColumn

CLASS_SUFFIXES = ("cls", "class", "label")  # members that hold a class
CLASS_KEYS = ("cls", *ROLES["label"])  # of a .json member; the first that is there
MOST_SHARDS = 1_000_000  # more is a slip of the pen in a range
POOL_FROM = 1 << 30  # bytes of local shards from which indexing is worth processes of its own
THREADS = 8  # shards fetched at one time


def open_shards(address: str, cfg: DataConfig) -> Listing:
    """All samples of "dir/{000..099}.tar", "dir/*.tar", "s3://bucket/{a,b}.tar", or several such, `::` between them."""
    shards, notes = addresses(address)
    places, parts = _indexed(shards, cfg)
    found = _Found(address, cfg)
    for number, (name, part) in enumerate(zip(_short(shards), parts, strict=True)):
        found.add(number, name, part)
    return found.listing(places, shards, notes)


@dataclass(frozen=True, eq=False)
class ShardReader:
    """Pictures by shard, start and size."""

    places: tuple[Place, ...]
    table: NDArray[np.int64]  # (n, 3)

    def read(self, row: int) -> bytes:
        shard, start, size = self.table[row].tolist()
        place: Place = self.places[shard]
        return place.pread(size, start)


# ---------------------------------------------------------------- addresses


def addresses(pattern: str) -> tuple[list[str], list[str]]:
    """(every shard once, in the order of the patterns; notes). Braces are expanded, stars are looked up."""
    pieces = [piece for piece in pattern.split("::") if piece.strip()]
    if len(pieces) == 1 and len(pattern.split()) > 1 and not _expand(pattern, miss=True):
        pieces = pattern.split()  # a path may hold blanks, so that is tried first
    found = list(itertools.chain.from_iterable(_expand(piece.strip()) for piece in pieces))
    once = list(dict.fromkeys(found))
    twice = len(found) - len(once)
    return once, [f"{twice:,} shards are named twice and read once"] if twice else []


def _expand(pattern: str, miss: bool = False) -> list[str]:
    """The shards of one pattern; `miss`: [] where there are none, instead of an error."""
    if pattern.startswith("pipe:"):
        raise BadInput(f"{pattern}: commands are not run; fetch the shards, or give their address with its scheme")
    out: list[str] = []
    absent: list[str] = []
    for one in braces(pattern):
        path = one.removeprefix("file://")
        if "://" in path:
            out += glob_remote(path) if glob.has_magic(path.split("://", 1)[1].split("?", 1)[0]) else [path]
        elif os.path.isfile(path):
            out.append(path)
        else:
            matches = sorted(glob.glob(path)) if glob.has_magic(path) else []
            out += matches
            absent += [] if matches else [path]
    if absent and not miss:
        more = f" ({len(absent):,} of {len(absent) + len(out):,} are missing)" if len(absent) + len(out) > 1 else ""
        raise BadInput(f"there is no shard {absent[0]}{more}; check the address, or its range")
    return [] if absent else out


def braces(pattern: str) -> list[str]:
    """As a shell expands: {000..099} (zeros kept), {9..1}, {0..9..3}, {a..c}, {a,b{1,2}}."""
    start = pattern.find("{")
    while start >= 0:
        end = _closing(pattern, start)
        options = _options(pattern[start + 1 : end]) if end else None
        if options is not None:
            tails = braces(pattern[end + 1 :])
            heads = [pattern[:start] + one for option in options for one in braces(option)]
            if len(heads) * len(tails) > MOST_SHARDS:
                raise BadInput(f"{pattern} names {len(heads) * len(tails):,} shards; check its ranges")
            return [head + tail for head in heads for tail in tails]
        start = pattern.find("{", start + 1)
    return [pattern]


def _closing(pattern: str, start: int) -> int:
    depth = 0
    for i in range(start, len(pattern)):
        depth += (pattern[i] == "{") - (pattern[i] == "}")
        if not depth:
            return i
    return 0


def _options(inside: str) -> list[str] | None:
    """What stands between two braces; None: no list and no range, so the braces are part of the name."""
    if found := re.fullmatch(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?", inside):
        first, last, step = int(found[1]), int(found[2]), abs(int(found[3] or 1)) or 1
        if abs(last - first) // step >= MOST_SHARDS:
            raise BadInput(f"{{{inside}}} names {abs(last - first) // step + 1:,} shards; check the range")
        padded = any(re.match(r"-?0\d", n) for n in found.group(1, 2))
        width = max(len(found[1]), len(found[2])) if padded else 0
        sign = 1 if last >= first else -1
        return [f"{n:0{width}d}" for n in range(first, last + sign, sign * step)]
    if found := re.fullmatch(r"([a-zA-Z])\.\.([a-zA-Z])", inside):
        first, last = ord(found[1]), ord(found[2])
        return [chr(n) for n in range(first, last + (1 if last >= first else -1), 1 if last >= first else -1)]
    pieces, depth = [""], 0
    for letter in inside:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces if len(pieces) > 1 else None


def _short(shards: Sequence[str]) -> list[str]:
    """Names that differ, without the folders that all share and without .tar."""
    split = [(shard.split("?", 1)[0] if "://" in shard else shard).split("/") for shard in shards]
    if len(set(map(tuple, split))) < len(split):
        return list(shards)
    if len(split) == 1:
        return [split[0][-1].removesuffix(".tar")]
    depth = next(i for i, parts in enumerate(zip(*split, strict=False)) if len(set(parts)) > 1)
    return ["/".join(parts[depth:]).removesuffix(".tar") for parts in split]


# ---------------------------------------------------------------- one shard


@dataclass
class Part:
    """The samples of one shard, column by column."""

    keys: list[str] = field(default_factory=list)
    suffixes: list[str] = field(default_factory=list)  # of the picture
    spans: array[int] = field(default_factory=lambda: array("q"))  # start, size, start, size, ...
    member: list[str] = field(default_factory=list)  # class by a member of its own, "" where there is none
    told: list[str] = field(default_factory=list)  # class by .json
    captions: list[str] = field(default_factory=list)
    json_keys: set[str] = field(default_factory=set)  # that classes were told by
    odd: Counter[str] = field(default_factory=Counter)  # reason -> how often
    seen: Counter[str] = field(default_factory=Counter)  # suffix -> members
    notes: list[str] = field(default_factory=list)


def part_of(members: Sequence[Member], cfg: DataConfig, name: str) -> Part:
    """Members grouped to samples, each with its picture, class and caption."""
    part = Part()
    image = cfg.image.lower().lstrip(".") if cfg.image else None
    for key, group in _grouped(members, part):
        part.seen.update(group)
        suffix = _picture(group, image, f"{key} in {name}")
        if suffix is None:
            part.odd["samples without a picture left out"] += 1
            continue
        _, start, size, _ = members[group[suffix]]
        part.keys.append(key)
        part.suffixes.append(suffix)
        part.spans.extend((start, size))
        texts = {suffix: members[i][3] for suffix, i in group.items() if members[i][3] is not None}
        wanted = (cfg.label.lower().lstrip("."),) if cfg.label else CLASS_SUFFIXES
        part.member.append(next(((texts[s] or "").strip() for s in wanted if s in texts), ""))
        facts = _facts(texts.get("json"), part)
        part.told.append(_class_of(facts, cfg.label, part, f"{key}.json in {name}"))
        caption = texts.get("txt")
        part.captions.append((caption if caption is not None else str(facts.get("caption") or "")).strip())
    return part


def _grouped(members: Sequence[Member], part: Part) -> Iterator[tuple[str, dict[str, int]]]:
    """(key, {suffix: member}) in the order of first members; the key is the path up to the first dot of its name."""
    groups: list[tuple[str, dict[str, int]]] = []
    latest: dict[str, int] = {}
    before = ""
    for i, (name, *_) in enumerate(members):
        folder = name.rfind("/") + 1
        dot = name.find(".", folder)
        if dot <= folder or name.startswith((".", "__")) or "/." in name:
            part.odd["members that belong to no sample left out (hidden, __meta__, or without a suffix)"] += 1
            continue
        key, suffix = name[:dot], name[dot + 1 :].lower()
        at = latest.get(key)
        if at is not None and key != before and suffix in groups[at][1]:
            part.odd["keys come a second time in their shard: samples of their own"] += 1
            at = None
        elif at is not None and key != before:
            part.odd["members stand apart from others of their key: joined"] += 1
        elif at is not None and suffix in groups[at][1]:
            part.odd["members come twice: the last one counts"] += 1
        if at is None:
            at = latest[key] = len(groups)
            groups.append((key, {}))
        groups[at][1][suffix] = i
        before = key
    yield from groups


def _picture(group: Iterable[str], image: str | None, where: str) -> str | None:
    """The suffix of a sample's picture."""
    if image is not None:
        return image if image in group else None
    found = [suffix for suffix in group if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
    if len(found) > 1:
        found = [suffix for suffix in found if not suffix.endswith("npy")] or found  # features beside their picture
    if len(found) > 1:
        raise BadInput(f"{where} has pictures {', '.join(found)}; choose one with --data.image {found[0]}")
    return found[0] if found else None


def _facts(content: str | None, part: Part) -> dict[str, Any]:
    if content is None:
        return {}
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        part.odd[".json members are no JSON object and not used"] += 1
        return {}
    return facts


def _class_of(facts: dict[str, Any], label: str | None, part: Part, where: str) -> str:
    """The class that a .json member tells; dots in `label` lead into objects."""
    for key in (label,) if label else CLASS_KEYS:
        value: Any = facts
        for step in [key] if key in facts else key.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            part.json_keys.add(key)
            return text(value[0] if isinstance(value, list) and len(value) == 1 else value, where)
    return ""


# ---------------------------------------------------------------- all shards


def _indexed(shards: list[str], cfg: DataConfig) -> tuple[tuple[Place, ...], list[Part]]:
    """The places of all shards and what each holds: fetched by threads, indexed by processes where that pays."""
    remote = [shard for shard in shards if "://" in shard]
    cache = Cache.of(cfg.cache) if remote else None

    def place(shard: str) -> tuple[Place, Callable[[], Part]]:
        if cache is None or "://" not in shard:
            pinned = Pinned.of(shard)
            return pinned, _Job(pinned, cfg)
        origin = Origin.of(shard, cache)
        part = part_of(origin.members, cfg, shard)
        part.notes += origin.notes
        return origin.place, lambda: part

    if remote:
        with ThreadPoolExecutor(THREADS) as pool:
            opened = list(pool.map(place, shards))
    else:
        opened = [place(shard) for shard in shards]
    places = tuple(one for one, _ in opened)
    jobs = [job for _, job in opened]
    workers = min(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1, len(jobs))
    if not remote and workers > 1 and sum(one.size for one in places) >= POOL_FROM:
        try:
            with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as processes:
                return places, list(processes.map(_run, jobs, chunksize=-(-len(jobs) // (4 * workers))))
        except BrokenProcessPool:  # no memory for them, say: one after the other needs less
            return places, [job() for job in jobs]
    return places, [job() for job in jobs]


@dataclass(frozen=True)
class _Job:
    """Indexing one local shard, to be done in any process."""

    place: Pinned
    cfg: DataConfig

    def __call__(self) -> Part:
        members, notes = members_of(self.place)
        part = part_of(members, self.cfg, self.place.name)
        part.notes += notes
        return part


def _run(job: Callable[[], Part]) -> Part:
    return job()


class _Found:
    """Gathers the parts to a listing."""

    def __init__(self, address: str, cfg: DataConfig) -> None:
        self.address, self.cfg = address, cfg
        self.parts: list[Part] = []
        self.ids: list[str] = []
        self.used: Counter[str] = Counter()

    def add(self, number: int, name: str, part: Part) -> None:
        self.parts.append(part)
        for key, suffix in zip(part.keys, part.suffixes, strict=True):
            one = f"{name}/{key}"
            self.used[one] += 1
            again = f"#{self.used[one]}" if self.used[one] > 1 else ""
            self.ids.append(f"{one}{again}.{suffix}")

    def listing(self, places: tuple[Place, ...], shards: list[str], notes: list[str]) -> Listing:
        if not self.ids:
            kinds = ", ".join(suffix for suffix, _ in self._sum("seen").most_common(8)) or "none at all"
            raise BadInput(f"{self.address} has no pictures (members are {kinds}); name them with --data.image SUFFIX")
        counts = [len(part.keys) for part in self.parts]
        chunks = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        spans = np.array([n for part in self.parts for n in part.spans], dtype=np.int64).reshape(-1, 2)
        notes = notes + _told_once(
            [(s, note) for s, part in zip(shards, self.parts, strict=True) for note in part.notes]
        )
        notes += [f"{n:,} {what}" for what, n in self._sum("odd").items()]
        notes += [f"shard {shard} has no samples" for shard, n in zip(shards, counts, strict=True) if not n]
        keys = Names.of(f"{key}.x" for part in self.parts for key in part.keys)
        label, names, ordered = self._labels(keys, shards, notes)
        split, splits = self._splits(keys, shards, counts)
        captions = [caption for part in self.parts for caption in part.captions]
        targets: dict[str, Column] = {"caption": CaptionColumn.of(captions)} if any(captions) else {}
        return Listing(
            where=self.address,
            reader=ShardReader(places, np.column_stack([chunks, spans])),
            ids=Names.of(self.ids),
            sizes=spans[:, 1].copy(),
            label=label,
            names=names,
            ordered=ordered,
            split=split,
            splits=splits,
            targets=targets,
            chunks=chunks,
            notes=notes,
        )

    def _sum(self, what: str) -> Counter[str]:
        out: Counter[str] = Counter()
        for part in self.parts:
            out.update(part.odd if what == "odd" else part.seen)
        return out

    def _labels(
        self, keys: Names, shards: list[str], notes: list[str]
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...], bool]:
        """By a member of its own, else by .json, else by the folders in the keys."""
        each = [one for part in self.parts for one in part.member]
        if any(each):
            notes.append(f"classes by members .{self.cfg.label or '/.'.join(CLASS_SUFFIXES)}")
        else:
            each = [one for part in self.parts for one in part.told]
            told = sorted(set().union(*(part.json_keys for part in self.parts)))
            if len(told) > 1:
                raise BadInput(f"{self.address}: .json has classes as {', '.join(told)}; choose with --data.label")
            if not told and self.cfg.label:
                kinds = ", ".join(suffix for suffix, _ in self._sum("seen").most_common(8))
                raise BadInput(
                    f"{self.address} has no member .{self.cfg.label} and no such key in .json; the members are {kinds}"
                )
            if not told:
                places = by_path(keys)
                return places.label, places.names, False
            notes.append(f"classes by {told[0]!r} of .json")
        numbered = Numbered()
        numbered.add([_number(one) for one in each])
        label, names, ordered = numbered.sorted()
        known = _known(shards)
        if ordered and known:
            return label, _named(names, known, self.address), True
        return label, names, ordered

    def _splits(
        self, keys: Names, shards: list[str], counts: list[int]
    ) -> tuple[NDArray[np.int8] | None, tuple[str, ...]]:
        """train-000.tar and val-000.tar, or train/000.tar; else by the folders in the keys."""
        words = [[w for w in re.split(r"[/_.\-]", name.lower()) if w in TRAIN + VALIDATION] for name in _short(shards)]
        found = [word[0] if word else "" for word in words]
        names = tuple(sorted(set(found) - {""}))
        if len(names) > 1 and set(names) & set(TRAIN):
            number = {name: i for i, name in enumerate(names)}
            return np.repeat(np.array([number.get(f, -1) for f in found], dtype=np.int8), counts), names
        places = by_path(keys)
        return places.split, places.splits


def _told_once(notes: list[tuple[str, str]]) -> list[str]:
    """What is true of many shards is said of the first."""
    kinds: dict[str, list[str]] = {}
    for shard, note in notes:
        kinds.setdefault(note.replace(shard, ""), []).append(note)
    return [said[0] + (f" (and {len(said) - 1:,} more shards)" if len(said) > 1 else "") for said in kinds.values()]


def _number(name: str) -> str:
    return str(int(name)) if re.fullmatch(r"[0-9]{1,18}", name) else name


def _known(shards: list[str]) -> list[str]:
    """Class names that lie beside the shards, a line each, in classes.txt."""
    for folder in dict.fromkeys(os.path.dirname(shard) for shard in shards if "://" not in shard):
        path = os.path.join(folder, "classes.txt")
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return [line.strip() for line in file if line.strip()]
    return []


def _named(numbers: tuple[str, ...], known: list[str], address: str) -> tuple[str, ...]:
    last = int(numbers[-1])
    if last >= len(known) or int(numbers[0]) < 0 or len(set(known)) < len(known):
        raise BadInput(
            f"{address}: classes.txt has {len(known)} lines ({len(set(known))} names), the numbers of classes go "
            f"from {numbers[0]} to {last}; give a line for each"
        )
    return tuple(known[int(number)] for number in numbers)
