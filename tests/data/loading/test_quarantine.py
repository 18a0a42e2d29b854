"""What cannot be read is written down once, whoever found it; too much of it stops the run; all is accounted for."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tessella.data.loading.ledger import Account, Ledger
from tessella.data.loading.order import Key
from tessella.data.loading.quarantine import Bad, Quarantine
from tessella.data.loading.samples import Made, Task
from tessella.errors import BadInput, TessellaError

ODD = os.fsdecode(b"caf\xe9/\xff.jpg")  # no UTF-8


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines() if line]


def test_each_file_is_recorded_once_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run" / "quarantine.jsonl"
    one = Quarantine(path, 1000, 0.01, "train")
    for bad in (Bad("a.jpg", "a.jpg is empty"), Bad(ODD, "holds HTML"), Bad("a.jpg", "a.jpg is empty")):
        one.add(bad)
    assert records(path) == [
        {"split": "train", "id": "a.jpg", "reason": "a.jpg is empty"},
        {"split": "train", "id": ODD, "reason": "holds HTML"},
    ]
    assert len(one) == 2 and str(one) == "2 of 1,000 train pictures cannot be read"
    err = capsys.readouterr().err.splitlines()
    assert err == ["quarantined (train): a.jpg is empty", r"quarantined (train): caf\udce9/\udcff.jpg: holds HTML"]
    again = Quarantine(path, 1000, 0.01, "train")  # resumed
    assert again.reasons == one.reasons
    again.add(Bad(ODD, "holds HTML"))
    assert len(records(path)) == 2 and capsys.readouterr().err == ""


def test_parts_share_a_list_and_count_apart(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    train, val = Quarantine(path, 100, 0.05, "train"), Quarantine(path, 10, 0.5, "val")
    train.add(Bad("a", "x"))
    val.add(Bad("b", "y"))
    train.refresh()
    val.refresh()
    assert list(train.reasons) == ["a"] and list(val.reasons) == ["b"]


def test_too_many_stop_the_run_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    some = Quarantine(path, 200, 0.02)
    for i in range(4):  # exactly the share is allowed
        some.add(Bad(f"{i}.jpg", f"{i}.jpg is empty"))
    with pytest.raises(BadInput) as caught:
        some.add(Bad("4.jpg", "is cut off"))
    text = str(caught.value)
    assert "5 of 200 train pictures" in text and "--max-bad 0.02" in text and "--max-bad 0.025" in text
    assert "0.jpg is empty; 1.jpg is empty; 2.jpg is empty; and 2 more" in text
    assert str(path) in text and "\n" not in text
    with pytest.raises(BadInput):  # also where it is opened again
        Quarantine(path, 200, 0.02).check()
    Quarantine(path, 200, 0.025).check()


def test_none_is_allowed_where_the_share_is_zero_and_all_where_it_is_one() -> None:
    with pytest.raises(BadInput, match="1 of 7"):
        Quarantine(None, 7, 0.0).add(Bad("a", "x"))
    everything = Quarantine(None, 2, 1.0)
    everything.add(Bad("a", "x"))
    everything.add(Bad("b", "x"))


def test_ranks_see_what_the_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    ranks = [Quarantine(path, 100, 0.03) for _ in range(2)]
    for i, rank in enumerate((*ranks, *ranks)):
        rank.add(Bad(f"{i}.jpg", "x"))
    ranks[0].refresh()
    assert len(ranks[0]) == 4
    with pytest.raises(BadInput, match="4 of 100"):
        ranks[0].check()
    ranks[0].refresh()  # its own lines and those it knows do not count again
    assert len(ranks[0]) == 4 and len(records(path)) == 4


def test_lines_of_many_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    reason = "x" * 9000

    def write(who: int) -> None:
        mine = Quarantine(path, 10**6, 1.0)
        for i in range(20):
            mine.add(Bad(f"{who}-{i}", reason))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert {r["id"] for r in records(path)} == {f"{w}-{i}" for w in range(4) for i in range(20)}


def test_a_list_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    Quarantine(path, 100, 1.0).add(Bad("a", "x"))
    with path.open("ab") as file:
        file.write(b'{"split": "train", "id": "b", "rea')  # a crash
    some = Quarantine(path, 100, 1.0)
    assert list(some.reasons) == ["a"]
    some.add(Bad("b", "y"))
    assert Quarantine(path, 100, 1.0).reasons == {"a": "x", "b": "y"}
    path.write_text('nonsense\n[1]\n{"split": "train"}\n{"split": "train", "id": "c", "reason": "z"}\n')
    assert Quarantine(path, 100, 1.0).reasons == {"c": "z"}


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "q.jsonl"  # cannot be made
    some = Quarantine(path, 100, 1.0)
    some.add(Bad("a", "x"))
    assert "cannot be written" in capsys.readouterr().err and len(some) == 1
    (tmp_path / "file").unlink()
    some.add(Bad("b", "y"))
    assert [r["id"] for r in records(path)] == ["a", "b"]


def test_what_kills_is_remembered_as_such(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    Quarantine(path, 100, 1.0).add(Bad("a", "kills", deadly=True))
    Quarantine(path, 100, 1.0).add(Bad("b", "is empty"))
    assert Quarantine(path, 100, 1.0).deadly == {"a": "kills"}


# ---------------------------------------------------------------- the ledger


def made(keys: Sequence[Key], bad: Sequence[int] = (), ends: tuple[tuple[int, int], ...] = (), **batch: Any) -> Made:
    ids = [str(k.sample) for place, k in enumerate(keys) if place not in bad]
    return Made(Task(0, list(keys), ends), {"ids": ids} | batch, {p: Bad(str(keys[p].sample), "x") for p in bad})


def test_used_and_quarantined_are_all_positions() -> None:
    book = Ledger(5)
    assert book.add(made([Key(0, i) for i in (3, 1, 4)], [1]), str) == []
    keys = [Key(0, 0), Key(0, 2), Key(1, 1)]
    assert book.add(made(keys, [0, 2], ((0, 5),)), str) == [Account(0, 3, 2, True)]
    assert str(book.last) == "epoch 1: 3 used + 2 quarantined = 5 files"
    assert (book.used, book.quarantined) == (3, 3)
    book.add(made([Key(1, i) for i in (0, 2)], [], ((1, 3),)), str)
    assert book.last == Account(1, 2, 1, False) and "of this process's part" in str(book.last)


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        (made([Key(0, 1), Key(0, 2)], ids=["1", "1"]), "1, 1"),  # a neighbour in place of what could not be read
        (made([Key(0, 1), Key(0, 2)], ids=["2", "1"]), "2, 1"),  # another order
        (made([Key(0, 1), Key(0, 2)], ids=["1"]), "1 samples"),  # one lost
        (made([Key(0, 1), Key(0, 2)], ends=((0, 3),)), "2 used . 0 quarantined is not 3"),  # one never asked for
        (made([Key(0, 1), Key(1, 2)], ends=((0, 2),)), "1 used"),  # counted in another epoch
    ],
)
def test_what_does_not_add_up_is_an_error(fault: Made, match: str) -> None:
    with pytest.raises(TessellaError, match=match):
        Ledger(3).add(fault, str)
