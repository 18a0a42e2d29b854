"""Shards hold what webdataset yields from them, near and far; a connection that breaks costs time, never a sample."""

from __future__ import annotations

import http.server
import io
import itertools
import json
import multiprocessing
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import braceexpand
import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.card import Preprocess
from tessella.data.loading.loader import Loader, LoaderConfig
from tessella.data.loading.pictures import Pictures
from tessella.data.origins import fetched, members, shards
from tessella.data.origins.archive import open_archive
from tessella.data.origins.fetched import Cache
from tessella.data.origins.listing import Listing, settle
from tessella.data.origins.shards import addresses, braces, open_shards
from tessella.data.pixels.augment import AugmentConfig
from tessella.data.source import DataConfig
from tessella.errors import BadInput


def write(path: Path, files: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(files))
    return path


def packed(files: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def samples(shard: int, n: int = 4, classes: int = 3) -> list[tuple[str, bytes]]:
    out = []
    for i in range(n):
        key = f"{shard:03d}{i:02d}"
        out += [(f"{key}.jpg", f"\xff\xd8\xff picture {key}".encode("latin-1") * (i + 1))]
        out += [(f"{key}.cls", str((shard + i) % classes).encode())]
    return out


def folder_of(root: Path, n: int = 3) -> str:
    for i in range(n):
        write(root / f"{i:03d}.tar", samples(i))
    return f"{root}/{{000..{n - 1:03d}}}.tar"


def opened(address: str, **options: Any) -> Listing:
    return open_shards(address, DataConfig(path=address, **options))


def rows(listing: Listing) -> list[tuple[str, bytes, str | None]]:
    """(id, picture, class) of each sample."""
    label = listing.label.tolist() if listing.label is not None else [-1] * len(listing.ids)
    named = [listing.names[i] if i >= 0 else None for i in label]
    return [(name, listing.reader.read(i), named[i]) for i, name in enumerate(listing.ids)]


def said(notes: list[str], *words: str) -> bool:
    return any(all(w in note for w in words) for note in notes)


# ---------------------------------------------------------------- addresses

PIECE = st.sampled_from(["a", "/", ".tar", "{0..3}", "{08..11}", "{a,b}", "{x,y{1..2}}", "{b..d}", "{5..1..2}", "{q}"])


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECE, max_size=5).map("".join))
def test_braces_as_the_braceexpand_package(pattern: str) -> None:
    assert braces(pattern) == list(braceexpand.braceexpand(pattern))


def test_addresses(tmp_path: Path) -> None:
    pattern = folder_of(tmp_path / "a b")
    want = [str(tmp_path / "a b" / f"{i:03d}.tar") for i in range(3)]
    assert addresses(pattern) == (want, [])  # a blank in the path
    assert addresses(str(tmp_path / "a b" / "*.tar")) == (want, [])
    assert addresses(f"file://{pattern}")[0] == want
    found, notes = addresses(f"{pattern}::{want[1]}")
    assert found == want and said(notes, "1 shards are named twice")
    folder_of(tmp_path / "c")
    both = f"{tmp_path}/c/000.tar {tmp_path}/c/{{001,002}}.tar"
    assert len(addresses(both)[0]) == 3
    assert addresses("http://host/{00..01}.tar?x=*")[0] == ["http://host/00.tar?x=*", "http://host/01.tar?x=*"]
    for bad, words in (
        (f"{tmp_path}/c/{{000..009}}.tar", r"no shard .*003.tar \(7 of 10"),
        (f"{tmp_path}/d/*.tar", "no shard"),
        (f"{tmp_path}/c/000.tar {tmp_path}/c/9.tar", "no shard .*9.tar"),
        ("pipe:cat x.tar", "not run"),
        ("{0..99999999}.tar", "100,000,000 shards"),
        ("{0..9999}{0..9999}.tar", "100,000,000 shards"),
        ("https://host/*.tar", "lists no files"),
    ):
        with pytest.raises(BadInput, match=words):
            addresses(bad)


# ---------------------------------------------------------------- as webdataset reads them


def by_webdataset(pattern: str) -> list[tuple[str, bytes, str | None]]:
    found = webdataset.WebDataset(pattern, shardshuffle=False, empty_check=False)
    return [(s["__key__"], s["jpg"], s["cls"].decode().strip() if "cls" in s else None) for s in found if "jpg" in s]


KEY = st.text("abc/é1-", min_size=1, max_size=6).filter(lambda k: k.strip("/") == k and "//" not in k)
SHARD = st.dictionaries(KEY, st.tuples(st.binary(max_size=40), st.integers(0, 20), st.booleans()), max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.lists(SHARD, min_size=1, max_size=3))
def test_every_sample_is_that_of_webdataset(tmp_path_factory: pytest.TempPathFactory, content: list[Any]) -> None:
    root = tmp_path_factory.mktemp("shards")
    for i, shard in enumerate(content):
        files = []
        for key, (data, label, more) in shard.items():
            files += [(f"{key}.jpg", data), (f"{key}.cls", str(label).encode())]
            files += [(f"{key}.seg.txt", b"x"), ("__meta__", b"m")] * more
        write(root / f"{i}.tar", files)
    pattern = f"{root}/{{0..{len(content) - 1}}}.tar"
    want = by_webdataset(pattern)
    if not want:
        with pytest.raises(BadInput, match="no pictures"):
            opened(pattern)
        return
    listing = opened(pattern)
    got = [(name.split("/", 1)[1].removesuffix(".jpg"), d, c) for name, d, c in rows(listing)]
    assert got == want
    assert len(set(listing.ids)) == len(listing.ids) and listing.sizes.tolist() == [len(d) for _, d, _ in got]
    assert listing.chunks is not None and np.all(np.diff(listing.chunks) >= 0)


def test_the_oracle_sees_a_shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = folder_of(tmp_path)
    want = [(d, c) for _, d, c in by_webdataset(pattern)]
    assert [(d, c) for _, d, c in rows(opened(pattern))] == want
    original = members.members_of

    def shifted(place: Any) -> Any:
        found, notes = original(place)
        words = [m[3] for m in found if m[3] is not None]
        turned = iter(words[1:] + words[:1])
        return [(*m[:3], None if m[3] is None else next(turned)) for m in found], notes

    monkeypatch.setattr(shards, "members_of", shifted)
    assert [(d, c) for _, d, c in rows(opened(pattern))] != want


# ---------------------------------------------------------------- labels


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", [(f"{i}.{s}", d) for i in range(12) for s, d in (("jpg", b"x"), ("cls", b"%d\n" % i))])
    splits = settle(opened(f"{tmp_path}/*.tar"), DataConfig(path="x", val_share=0))
    assert splits.classes == tuple(map(str, range(12))) and splits.train.labels.tolist() == list(range(12))
    (tmp_path / "classes.txt").write_text("".join(f"name {i}\n" for i in range(12)))
    assert opened(f"{tmp_path}/*.tar").names == tuple(f"name {i}" for i in range(12))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(BadInput, match=r"2 lines .* 0 to 11"):
        opened(f"{tmp_path}/*.tar")


def test_names_json_and_folders(tmp_path: Path) -> None:
    facts = {"label": "cat", "info": {"kind": 3}, "caption": "a cat"}
    path = write(tmp_path / "x.tar", [("a/1.jpg", b"1"), ("a/1.json", json.dumps(facts).encode()), ("b/2.PNG", b"2")])
    listing = opened(str(path))
    assert [c for *_, c in rows(listing)] == ["cat", None] and said(listing.notes, "'label' of .json")
    assert listing.targets["caption"][0] == ("a cat",) and listing.targets["caption"][1] == ()
    assert opened(str(path), label="info.kind").names == ("3",)
    with pytest.raises(BadInput, match=r"no member .genus and no such key .* are png, json, jpg"):
        opened(str(path), label="genus")
    plain = write(tmp_path / "y.tar", [("a/1.jpg", b"1"), ("b/2.jpg", b"2"), ("b/2.txt", b"two")])
    assert [c for *_, c in rows(opened(str(plain)))] == ["a", "b"]
    assert [c for *_, c in rows(opened(str(plain), label="txt"))] == [None, "two"]
    parts = write(tmp_path / "z.tar", [(f"{p}/{c}/1.jpg", b"1") for p in ("train", "val") for c in "ab"])
    assert settle(opened(str(parts)), DataConfig(path="x")).val.ids == ["z/val/a/1.jpg", "z/val/b/1.jpg"]
    mixed = write(tmp_path / "m.tar", [("1.jpg", b""), ("1.json", b'{"label": 1}'), ("2.jpg", b""),
                                       ("2.json", b'{"class": 2}'), ("3.jpg", b""), ("3.json", b"{oops")])  # fmt: skip
    with pytest.raises(BadInput, match=r"class, label; choose with --data.label"):
        opened(str(mixed))
    assert said(opened(str(mixed), label="class").notes, "1 .json", "no JSON object")


def test_parts_by_the_names_of_shards(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for i in range(2):
            write(tmp_path / f"set-{part}-{i:03d}.tar", samples(i + 2 * (part == "val")))
    splits = settle(opened(f"{tmp_path}/set-{{train,val}}-{{000..001}}.tar"), DataConfig(path="x"))
    assert len(splits.train) == len(splits.val) == 8 and all(name.startswith("set-val") for name in splits.val.ids)
    only = opened(f"{tmp_path}/set-val-{{000..001}}.tar")
    assert only.splits == () and settle(only, DataConfig(path="x")).val is not None  # a share of them
    assert open_archive(str(tmp_path / "set-val-000.tar"), DataConfig(path="x")).ids[0] == "set-val-000/00200.jpg"


def test_several_pictures_in_a_sample(tmp_path: Path) -> None:
    path = str(write(tmp_path / "x.tar", [("1.jpg", b"j"), ("1.seg.png", b"p"), ("1.cls", b"0"), ("1.npy", b"n")]))
    with pytest.raises(BadInput, match=r"1 in .*x.tar has pictures jpg, seg.png; choose one with --data.image"):
        opened(path)
    assert rows(opened(path, image="seg.png"))[0] == ("x/1.seg.png", b"p", "0")
    assert rows(opened(path, image=".NPY"))[0][1] == b"n"
    with pytest.raises(BadInput, match=r"no pictures .members are"):
        opened(path, image="tif")


def test_disorder_is_counted(tmp_path: Path) -> None:
    files = [("1.jpg", b"1"), ("2.jpg", b"2"), ("1.cls", b"0"), ("2.cls", b"1"), ("3.cls", b"1"), ("4.jpg", b"4"),
             ("1.jpg", b"again"), ("1.cls", b"1"), (".x.jpg", b""), ("readme", b""), ("5.jpg", b"o"), ("5.jpg", b"n"),
             ("5.cls", b"0")]  # fmt: skip
    listing = opened(str(write(tmp_path / "x.tar", files)))
    assert rows(listing) == [("x/1.jpg", b"1", "0"), ("x/2.jpg", b"2", "1"), ("x/4.jpg", b"4", None),
                             ("x/1#2.jpg", b"again", "1"), ("x/5.jpg", b"n", "0")]  # fmt: skip
    for words in (
        ("1 samples without a picture",), ("2 members stand apart",), ("1 keys come a second time",),
        ("2 members that belong to no sample",), ("1 members come twice",),
    ):  # fmt: skip
        assert said(listing.notes, *words), (words, listing.notes)
    assert said(settle(listing, DataConfig(path="x")).notes, "1 pictures without a label")


def test_links_in_a_shard(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", samples(0, 2))
    with tarfile.open(path, "a") as file:
        for name, target, kind in (("9.jpg", "00001.jpg", tarfile.LNKTYPE), ("8.jpg", "absent", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info)
    listing = opened(str(path))
    assert rows(listing)[2][:2] == ("x/9.jpg", rows(listing)[1][1]) and said(listing.notes, "1 links")


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    pattern = folder_of(tmp_path)
    whole = (tmp_path / "001.tar").read_bytes()
    for data in (
        whole[:700],
        b"<html>not found</html>".ljust(600),
        whole[:1024] + b"x" + whole[1025:],
        b"\x1f\x8b" * 300,
    ):
        (tmp_path / "001.tar").write_bytes(data)
        with pytest.raises(BadInput, match=r"001.tar (is cut off|is no tar|is damaged|is compressed)") as caught:
            opened(pattern)
        assert "\n" not in str(caught.value)


def test_indexing_in_processes_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = folder_of(tmp_path, 5)
    one = opened(pattern)
    monkeypatch.setattr(shards, "POOL_FROM", 0)
    many = opened(pattern)
    assert rows(one) == rows(many) and one.notes == many.notes and one.chunks.tolist() == many.chunks.tolist()
    (tmp_path / "003.tar").write_bytes(b"x" * 600)
    with pytest.raises(BadInput, match=r"003.tar is no tar"):
        opened(pattern)


def test_a_long_json_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", [("1.jpg", b"1"), ("1.json", b"{" + b" " * 70_000 + b"}"), ("2.cls", b"x")])
    assert said(opened(str(path)).notes, "1 members", "not read")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_in_the_middle_of_a_shard(tmp_path: Path, workers: int) -> None:
    from PIL import Image

    for shard in range(4):
        files = []
        for i in range(7):
            file = io.BytesIO()
            Image.new("RGB", (9 + i, 8), (30 * i, 60 * shard, 7)).save(file, "jpeg")
            files += [(f"{i}.jpg", file.getvalue()), (f"{i}.cls", b"%d" % (i % 2))]
        write(tmp_path / f"{shard}.tar", files)
    train = settle(opened(f"{tmp_path}/{{0..3}}.tar"), DataConfig(path="x", val_share=0)).train
    seen = Preprocess(size=(8, 8), crop=0.9, mean=(0.5,) * 3, std=(0.5,) * 3)
    loader = Loader(Pictures(train, seen, AugmentConfig(), seed=3), LoaderConfig(batch=5, window=2, workers=workers))

    def steps(start: int, n: int) -> list[Any]:
        stream = loader.batches(start)
        try:
            return list(itertools.islice(stream, n))
        finally:
            stream.close()

    whole = steps(0, 8)
    assert sorted([name for batch in whole for name in batch["ids"]][:28]) == sorted(train.ids)
    for start in (1, 3, 6):
        for want, got in zip(whole[start:], steps(start, 8 - start), strict=True):
            assert got["ids"] == want["ids"] and torch.equal(got["image"], want["image"])
            assert torch.equal(got["label"], want["label"])


# ---------------------------------------------------------------- far away


class Server(http.server.ThreadingHTTPServer):
    """Files from memory; `failures` holds, path by path, what goes wrong with the next GETs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.failures: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.slow = threading.Event()

    def fetched(self) -> list[str]:
        return sorted(line[4:] for line in self.asked if line.startswith("GET "))


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        failures = self.server.failures.get(self.path, [])
        failure = failures.pop(0) if body and failures else ""
        if not body and "no HEAD" in failures:
            self.send_error(405)
            return
        if failure.isdigit():
            self.send_error(int(failure))
            return
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        if "no length" not in failure:
            self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if failure.startswith("cut") else data)
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetched, "PAUSES", (0.01, 0.02, 0.03))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Server()
    for i in range(3):
        found.files[f"/{i:03d}.tar"] = packed(samples(i))
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()
    fetched._HELD.clear()


def pattern_of(server: Server) -> str:
    return f"{server.url}/{{000..002}}.tar"


def test_remote_shards_are_those_next_door(server: Server, tmp_path: Path) -> None:
    here = opened(folder_of(tmp_path / "here"))
    there = opened(pattern_of(server), cache=str(tmp_path / "cache"))
    assert rows(there) == rows(here) and there.names == here.names and there.notes == here.notes
    assert server.fetched() == ["/000.tar", "/001.tar", "/002.tar"]
    again = opened(pattern_of(server), cache=str(tmp_path / "cache"))
    assert rows(again) == rows(here) and len(server.fetched()) == 3  # asked with HEAD only
    assert rows(again) == [
        (name, pickle.loads(pickle.dumps(again.reader)).read(i), c) for i, (name, _, c) in enumerate(rows(here))
    ]
    left = [path for path in (tmp_path / "cache").rglob("*") if "tessella-new" in path.name]
    assert not left


@pytest.mark.parametrize(
    "failures", [["503"], ["cut", "500", "cut"], ["429"], ["no length"], ["cut, no length"], ["", "no HEAD"]]
)
def test_a_failing_server_is_asked_again(server: Server, tmp_path: Path, failures: list[str]) -> None:
    server.failures["/001.tar"] = list(failures)
    there = opened(pattern_of(server), cache=str(tmp_path / "cache"))
    assert [d for _, d, _ in rows(there)] == [d for _, d, _ in rows(opened(folder_of(tmp_path / "here")))]


def test_it_is_the_size_that_tells_half_a_shard(server: Server, tmp_path: Path, monkeypatch: Any) -> None:
    """Without it a half that ends between two members is taken for all there is."""
    server.failures["/001.tar"] = ["cut"]
    monkeypatch.setattr(fetched, "_stated", lambda answer: fetched.Facts(None, ""))
    half = opened(pattern_of(server), cache=str(tmp_path / "cache"))
    assert len(half.ids) < 12 and said(half.notes, "001.tar has no end mark")


def test_what_no_attempt_mends(server: Server, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    for failures, words in ((["cut"] * 9, r"4 attempts .*ended after"), (["503"] * 9, "4 attempts .*503")):
        server.failures["/001.tar"] = failures
        with pytest.raises(BadInput, match=words) as caught:
            opened(pattern_of(server), cache=cache)
        assert "\n" not in str(caught.value) and "001.tar" in str(caught.value)
    server.failures.clear()
    with pytest.raises(BadInput, match="404"):
        opened(f"{server.url}/absent.tar", cache=cache)
    assert server.asked.count("HEAD /absent.tar") == 1
    server.files["/001.tar"] = b"<html>Sign in</html>".ljust(800)
    with pytest.raises(BadInput, match=r"001.tar is no tar"):
        opened(pattern_of(server), cache=cache)
    assert len(list((tmp_path / "cache").rglob("shard.tar"))) == 2  # what is no shard is not kept


def test_without_a_connection(server: Server, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    first = opened(pattern_of(server), cache=cache)
    server.shutdown()
    server.server_close()
    offline = opened(pattern_of(server), cache=cache)
    assert rows(offline) == rows(first)
    assert said(offline.notes, "not compared with its origin", "1 attempt", "and 2 more shards")
    with pytest.raises(BadInput, match=r"cannot be reached .*attempts.*check the connection, or copy the shards"):
        opened(pattern_of(server), cache=str(tmp_path / "other"))


def test_a_shard_that_changes_at_its_origin(server: Server, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    first = opened(pattern_of(server), cache=cache)
    server.files["/001.tar"] = packed(samples(7))
    changed = opened(pattern_of(server), cache=cache)
    assert said(changed.notes, "001.tar changed") and "001/00700.jpg" in changed.ids
    assert rows(changed)[4][1] == samples(7)[0][1]
    fetched._HELD.clear()
    with pytest.raises(BadInput, match=r"001.tar changed at its origin after it was indexed"):
        first.reader.read(4)
    home = Cache.of(cache).home(f"{server.url}/001.tar")
    fetched._HELD.clear()
    (home / "shard.tar").unlink()
    server.files["/001.tar"] = packed(samples(8))
    with pytest.raises(BadInput, match="changed at its origin"):  # found while it is fetched again
        changed.reader.read(4)


def test_the_oldest_copies_go_first_and_none_in_use(server: Server, tmp_path: Path, monkeypatch: Any) -> None:
    size = max(map(len, server.files.values()))
    monkeypatch.setattr(fetched, "LIMIT", 0)
    monkeypatch.setattr(shards, "THREADS", 1)
    there = opened(pattern_of(server), cache=str(tmp_path / "cache"))
    place = there.reader.places[0]
    small = Cache(place.cache.folder, limit=2 * size)
    reader = shards.ShardReader(
        tuple(fetched.Fetched(p.name, p.size, p.sha256, small) for p in there.reader.places), there.reader.table
    )
    here = rows(opened(folder_of(tmp_path / "here")))

    def kept() -> list[str]:
        return sorted(p.parent.name[-7:-4] for p in Path(small.folder).glob("*/shard.tar"))

    assert len(kept()) < 3  # dropped as soon as they were indexed
    for i in (0, 4, 8):
        assert reader.read(i) == here[i][1]
    assert kept() == ["000", "001", "002"]  # all are in use: beyond the limit rather than failing
    small.make_room(size)
    assert kept() == ["000", "001", "002"]
    with monkeypatch.context() as blind:
        blind.setattr(fetched.fcntl, "flock", lambda *_: None)
        small.make_room(size)
    assert len(kept()) == 1, "it is the lock that keeps them"
    fetched._HELD.clear()
    for i in (0, 4, 8):
        assert reader.read(i) == here[i][1]
    fetched._HELD.clear()
    for age, number in ((300, "001"), (200, "002"), (100, "000")):
        lock = next(p for p in Path(small.folder).glob("*.use") if f"-{number}." in p.name)
        os.utime(lock, (lock.stat().st_mtime - age,) * 2)
    small.make_room(size)
    assert kept() == ["000"]
    assert [reader.read(i) for i in range(12)] == [d for _, d, _ in here]  # fetched again where it is missed


def read_all(job: tuple[Any, list[int]]) -> list[bytes]:
    reader, order = job
    return [reader.read(i) for i in order]


def test_processes_fetch_each_shard_once(server: Server, tmp_path: Path) -> None:
    there = opened(pattern_of(server), cache=str(tmp_path / "cache"))
    want = rows(opened(folder_of(tmp_path / "here")))
    for path in (tmp_path / "cache").rglob("shard.tar"):
        path.unlink()
    server.asked.clear()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.map(read_all, [(there.reader, list(np.random.default_rng(i).permutation(12))) for i in range(3)])
    for i, data in enumerate(found):
        assert data == [want[k][1] for k in np.random.default_rng(i).permutation(12)]
    assert server.fetched() == ["/000.tar", "/001.tar", "/002.tar"]


def test_memory_by_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setattr(fetched, "PAUSES", ())
    files = fsspec.filesystem("memory")
    for i in range(3):
        files.pipe(f"/box/{i:03d}.tar", packed(samples(i)))
    here = rows(opened(folder_of(tmp_path / "here")))
    for pattern in ("memory://box/{000..002}.tar", "memory://box/*.tar"):
        assert rows(opened(pattern, cache=str(tmp_path / "cache"))) == here
    files.pipe("/box/001.tar", packed(samples(5)))
    assert said(opened("memory://box/*.tar", cache=str(tmp_path / "cache")).notes, "001.tar changed")
    for bad, words in (
        ("memory://box/9.tar", "there is no"),
        ("memory://bin/*.tar", "no shard"),
        ("nosuch://x/1.tar", "nosuch"),
    ):
        with pytest.raises(BadInput, match=words):
            opened(bad, cache=str(tmp_path / "cache"))
    fetched._HELD.clear()


def test_a_missing_fsspec_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(BadInput, match=r'pip install "tessella\[remote\]"'):
        opened("s3://bucket/{0..9}.tar", cache=str(tmp_path / "cache"))


def test_the_cache_folder_of_each_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for system, want in (("linux", "/h/.cache/tessella"), ("darwin", "/h/Library/Caches/tessella")):
        monkeypatch.setattr(fetched.sys, "platform", system)
        assert fetched.user_cache() == want
    monkeypatch.setattr(fetched.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert fetched.user_cache() == "/c/tessella"
