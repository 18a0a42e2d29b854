"""All parts of a data set side by side: which pictures are the same, which of those leak, which contradict each other.

Five degrees, surest first: one file under two names, the same bytes, the same pixels, the same photograph, its mirror
image. Each degree is sought among one representative of every set found so far, so a thousand copies cost no more
than one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .duplicates import MatchConfig, clusters, groups, prove, same_photograph
from .inspection import Inspection
from .inspection import Rows as Table

KINDS = ("file", "bytes", "pixels", "photograph", "mirrored")
Index = NDArray[np.int64]


class Match(NamedTuple):
    """Two pictures that are the same."""

    first: int
    second: int
    kind: int  # index into KINDS
    score: float  # 1 where nothing was estimated


@dataclass(frozen=True, eq=False)
class Whole:
    """The pictures of all parts, numbered through."""

    parts: Mapping[str, Inspection]
    rows: Table  # of all parts, one after the other
    labels: Index  # -1: none
    starts: Index  # of each part
    classes: tuple[str, ...]

    @classmethod
    def of(cls, parts: Mapping[str, Inspection], rows: Table, classes: tuple[str, ...]) -> Whole:
        ends = np.cumsum([len(part) for part in parts.values()], dtype=np.int64)
        labels = [
            np.full(len(p), -1, dtype=np.int64) if p.source.labels is None else p.source.labels for p in parts.values()
        ]
        return cls(parts, rows, np.concatenate(labels), np.r_[0, ends[:-1]].astype(np.int64), classes)

    def part_of(self, rows: Index) -> Index:
        """Numbers of their parts."""
        return np.searchsorted(self.starts, rows, side="right").astype(np.int64) - 1

    def place(self, row: int) -> tuple[str, int]:
        """(part, row in it)."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return list(self.parts)[part], row - int(self.starts[part])

    def named(self, row: int) -> dict[str, Any]:
        part, i = self.place(row)
        label = int(self.labels[row])
        return {
            "part": part,
            "id": self.parts[part].source.ids[i],
            "class": self.classes[label] if label >= 0 else None,
        }


def matches(whole: Whole, files: Index | None, cfg: MatchConfig, candidates: Index | None = None) -> list[Match]:
    """Pairs that connect each set of same pictures; not every pair of a set.

    `files`: (N, 2) device and inode where the pictures are files, 0 where not. `candidates`: (P, 2) more pairs to lay
    over each other, as by the embeddings of a model.
    """
    alive = np.flatnonzero(whole.rows["good"]).astype(np.int64)
    out: list[Match] = []
    digests: list[NDArray[Any] | None] = [files, whole.rows["file"], whole.rows["pixels"]]
    stands_for = np.arange(len(whole.rows), dtype=np.int64)
    for kind, digest in enumerate(digests):
        if digest is None:
            continue
        held = np.ascontiguousarray(digest[alive]).view(np.uint8).reshape(len(alive), -1)
        dropped = []
        for same in groups(held):
            if not held[same[0]].any():
                continue  # no file
            first, others = int(alive[same[0]]), alive[same[1:]]
            out += [Match(first, int(other), kind, 1.0) for other in others]
            stands_for[others] = first
            dropped.append(same[1:])
        if dropped:
            alive = np.delete(alive, np.concatenate(dropped))
    more = np.zeros((0, 2), dtype=np.int64) if candidates is None else candidates
    return out + _photographs(whole, alive, cfg, _resolved(more, stands_for, whole.rows["good"]))


def _photographs(whole: Whole, alive: Index, cfg: MatchConfig, candidates: Index) -> list[Match]:
    thumbs = np.ascontiguousarray(whole.rows["thumb"][alive]) if len(alive) < len(whole.rows) else whole.rows["thumb"]
    found = same_photograph(thumbs, cfg)
    parts = [(alive[found.first], alive[found.second], found)]
    for mirrored in (False, True) if cfg.mirrored else (False,):
        more = prove(whole.rows["thumb"], candidates, cfg, mirrored=mirrored)
        parts.append((more.first, more.second, more))
    out: dict[tuple[int, int], Match] = {}
    for first, second, pairs in parts:
        for a, b, score, turned in zip(
            first.tolist(), second.tolist(), pairs.score.tolist(), pairs.mirrored.tolist(), strict=True
        ):
            kind = KINDS.index("mirrored" if turned else "photograph")
            out.setdefault((a, b), Match(a, b, kind, round(score, 4)))
    return [out[key] for key in sorted(out)]


def _resolved(candidates: Index, stands_for: Index, good: NDArray[np.bool_]) -> Index:
    """By their representatives; what became one picture needs no proof."""
    if not len(candidates):
        return candidates
    while (stands_for[stands_for] != stands_for).any():
        stands_for = stands_for[stands_for]
    pairs = np.sort(stands_for[candidates], axis=1)
    return np.unique(pairs[(pairs[:, 0] != pairs[:, 1]) & good[pairs].all(axis=1)], axis=0)


def sets_of(whole: Whole, found: list[Match]) -> list[Index]:
    """Rows that are the same picture, directly or through others."""
    ends = np.array([(m.first, m.second) for m in found], dtype=np.int64).reshape(-1, 2)
    return clusters(len(whole.rows), ends[:, 0], ends[:, 1])


def described(whole: Whole, found: list[Match], sets: list[Index]) -> Iterator[dict[str, Any]]:
    """One plain dict a set: how sure, in which parts, under which labels; leaks and contradictions first."""
    number = {int(row): k for k, rows in enumerate(sets) for row in rows}
    kind, score = [0] * len(sets), [1.0] * len(sets)
    for match in found:
        k = number[match.first]
        kind[k], score[k] = max(kind[k], match.kind), min(score[k], match.score)
    out = []
    for k, rows in enumerate(sets):
        pictures = [whole.named(int(row)) for row in rows]
        parts = list(dict.fromkeys(p["part"] for p in pictures))
        names = sorted({p["class"] for p in pictures if p["class"] is not None})
        told = {"kind": KINDS[kind[k]], "score": score[k], "leak": len(parts) > 1, "conflict": len(names) > 1}
        out.append({**told, "parts": parts, "classes": names, "pictures": pictures})
    yield from sorted(out, key=lambda s: (not s["leak"], not s["conflict"]))


def shared(whole: Whole, sets: list[Index]) -> list[dict[str, Any]]:
    """For each two parts: how many pictures of the later one are in the earlier one as well."""
    names, n = list(whole.parts), len(whole.parts)
    count = np.zeros((n, n), dtype=np.int64)
    for rows in sets:
        held = np.bincount(whole.part_of(rows), minlength=n)
        count += np.outer(held, held > 0)
    return [
        {"part": names[b], "with": names[a], "pictures": int(count[b, a]), "of": len(whole.parts[names[b]])}
        for a in range(n)
        for b in range(a + 1, n)
    ]


def files_of(whole: Whole, root: str) -> Index | None:
    """(N, 2) device and inode of each picture below `root`; None where they are no files of their own."""
    out = np.zeros((len(whole.rows), 2), dtype=np.int64)
    row = 0
    for part in whole.parts.values():
        for name in part.source.ids:
            try:
                found = os.stat(os.path.join(root, name))
            except (OSError, ValueError):
                return None
            out[row] = found.st_dev, found.st_ino
            row += 1
    return out
