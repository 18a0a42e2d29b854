"""Advice fits what was measured, and is honest where nothing but another machine helps."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from numbered import Numbers

from tessella.data.loading import loader as loader_file
from tessella.data.loading.advice import Situation, advice
from tessella.data.loading.loader import Loader, LoaderConfig
from tessella.data.loading.workers import Measures


def told(waiting: float, workers: int, cores: int, cpu: float = 1.0, megapixels: float | None = 0.2) -> str:
    measures = Measures(1000, 10.0, 10.0 * cpu)
    return advice(
        Situation(waiting=waiting, workers=workers, cores=cores, measures=measures, megapixels=megapixels)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("situation", "says"),
    [
        (told(0.09, 2, 8), ""),
        (told(0.12, 3, 8), "12% of the time went to waiting for pictures: --workers 4 of 8 cores"),
        (told(0.75, 2, 8), "--workers 8 of 8 cores"),
        (told(0.95, 2, 8), "--workers 8 of 8 cores"),  # never more than there are
        (told(0.12, 7, 8), "--workers 8 of 8 cores"),
        (told(0.5, 0, 8), "--workers 4 of 8 cores would decode beside"),
        (told(0.5, 8, 8), "all 8 cores are taken by 8 workers already, of 100 pictures a second each; only more cores"),
        (told(0.5, 1, 1), "there is no other"),
        (told(0.5, 2, 8, cpu=0.2), "wait for the disk or the network 80% of their time: --workers 4"),
        (told(0.5, 8, 8, cpu=0.2), "all 8 cores are taken"),  # it may be cores that they wait for
        (told(0.5, 3, 8, megapixels=12.2), "pictures of 12 megapixels: a resized copy of the data helps"),
    ],
)
def test_a_sentence_for_each_situation(situation: str, says: str) -> None:
    assert (says in situation and "\n" not in situation) if says else situation == ""


def test_large_pictures_are_not_mentioned_where_they_are_small() -> None:
    assert "megapixels" not in told(0.5, 3, 8) and "megapixels" not in told(0.5, 3, 8, megapixels=None)


def test_it_is_said_once_and_from_what_the_workers_did(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(Numbers):
        def megapixels(self) -> float:
            return 12.0

    monkeypatch.setattr(loader_file, "cores_here", lambda ranks=1: 8)
    loader = Loader(Large({i: lambda: time.sleep(0.01) for i in range(1000)}), LoaderConfig(batch=4, workers=2))
    batches: Any = loader.batches(0)
    list(itertools.islice(batches, 5))
    assert loader.remarks(0.05) == []
    said = loader.remarks(0.4)
    assert (
        len(said) == 1 and "disk or the network" in said[0] and "12 megapixels" in said[0]
    )  # sleeping is no computing
    assert loader.remarks(0.9) == []
    measures = loader.stream.workers.measures  # type: ignore[union-attr]
    assert measures.samples >= 20 and measures.cpu < 0.5 * measures.wall
