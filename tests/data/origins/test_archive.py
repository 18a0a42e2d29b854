"""Archives read in place give what Python's own zipfile and tarfile give, and damage is one line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tessella.data.origins import archive, pinned, tarindex
from tessella.data.origins.archive import open_archive
from tessella.data.origins.listing import Listing, settle
from tessella.data.source import DataConfig
from tessella.errors import BadInput

PICTURE = b"\xff\xd8\xff\xe0 not decoded here "
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def opened(path: Path) -> Listing:
    return open_archive(str(path), DataConfig(path=str(path)))


def contents(path: Path) -> dict[str, bytes]:
    listing = opened(path)
    assert listing.sizes.tolist() == [len(listing.reader.read(i)) for i in range(len(listing.ids))]
    return {name: listing.reader.read(i) for i, name in enumerate(listing.ids)}


def said(notes: list[str], *words: str) -> bool:
    return any(all(w in note for w in words) for note in notes)


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes], kind: str = "pax", mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=FORMATS[kind]) as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


FILES = {
    f"{part}/{c}/{i}.jpg": PICTURE + f"{part}{c}{i}".encode() for part in ("train", "val") for c in "ab" for i in (1, 2)
}


# ---------------------------------------------------------------- as the standard library reads them

LETTERS = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
PART = LETTERS.filter(lambda t: not t.startswith((".", "__MACOSX")))
LONG = st.integers(50, 130).map(lambda n: "long" * n)
NAME = st.builds(
    lambda parts, suffix: "/".join(parts) + suffix,
    st.lists(PART | LONG, min_size=1, max_size=4),
    st.sampled_from([".jpg", ".PNG", ".webp"]),
)
DATA = st.binary(max_size=2000) | st.integers(0, 60_000).map(lambda n: random.Random(n).randbytes(n))
MEMBERS = st.dictionaries(NAME, DATA, max_size=8)


@settings(max_examples=60, deadline=None)
@given(MEMBERS, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), st.booleans())
def test_any_zip_is_read_as_zipfile_does(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], method: int, wide: bool
) -> None:
    path = tmp_path_factory.mktemp("zip") / "x.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in files.items():
            with file.open(name, "w", force_zip64=wide) as member:
                member.write(data)
        file.writestr("folder/", b"")
        file.comment = b"a comment"
    with zipfile.ZipFile(path) as file:
        want = {name: file.read(name) for name in file.namelist() if not name.endswith("/")}
    assert contents(path) == want


@settings(max_examples=80, deadline=None)
@given(MEMBERS, st.sampled_from(sorted(FORMATS)))
@example({"x" * 99 + "/" + "y" * 100 + ".jpg": b"1"}, "gnu")
@example({"p" * 120 + "/" + "n" * 90 + ".jpg": b"prefix"}, "ustar")
def test_any_tar_is_read_as_tarfile_does(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], kind: str
) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    with tarfile.open(path, "w", format=FORMATS[kind]) as file:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            try:
                file.addfile(info, io.BytesIO(data))
            except ValueError:  # a name that ustar cannot hold
                assert kind == "ustar"
    with tarfile.open(path) as file:
        want = {m.name: file.extractfile(m).read() for m in file if m.isfile()}  # type: ignore[union-attr]
    assert contents(path) == want


def test_sizes_and_names_of_members_that_only_pax_and_base_256_can_say(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all"}) as file:
        info = tarfile.TarInfo("a/1.jpg")
        info.size, info.pax_headers = 3, {"size": "3", "path": "a/é.jpg", "mtime": "1.5"}
        file.addfile(info, io.BytesIO(b"abc"))
    assert contents(path) == {"a/é.jpg": b"abc"}
    block = bytearray(tarfile.TarInfo("a/2.jpg").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + (5).to_bytes(11, "big")
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(bytes(block) + b"12345".ljust(512, b"\0") + bytes(1024))
    assert contents(path) == {"a/2.jpg": b"12345"}


def test_a_tar_of_the_systems_own_tool(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    tried = 0
    for kind in ("v7", "oldgnu", "gnu", "ustar", "posix"):
        done = subprocess.run(["tar", "-C", "in", f"--format={kind}", "-cf", f"{kind}.tar", "."], cwd=tmp_path)
        if done.returncode:  # not every tar knows every form
            continue
        tried += 1
        assert contents(tmp_path / f"{kind}.tar") == FILES  # ./train/a/1.jpg is train/a/1.jpg
    assert tried, "ustar at least"


@pytest.mark.parametrize("make", [write_zip, write_tar])
def test_parts_and_classes(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = make(
        tmp_path / "photos.bin", {f"photos/{name}": data for name, data in FILES.items()} | {"photos/x.txt": b"hi"}
    )
    listing = opened(path)  # the bytes say what it is
    assert listing.ids == [f"photos/{name}" for name in sorted(FILES)] and said(listing.notes, "1 files", ".txt 1")
    splits = settle(listing, DataConfig(path="x"))
    assert splits.classes == ("a", "b") and len(splits.train) == len(splits.val) == 4
    assert splits.val.read(3) == FILES["val/b/2.jpg"]


# ---------------------------------------------------------------- the rules of folders


@pytest.mark.parametrize("make", [write_zip, write_tar])
def test_what_is_left_out_is_counted(tmp_path: Path, make: Callable[..., Path]) -> None:
    odd = {
        "a/.hidden.jpg": b"", "a/._1.jpg": b"\0\5\x16\7", "__MACOSX/a/._1.jpg": b"", ".git/1.jpg": b"",
        "../../etc/1.jpg": PICTURE, "a/notes.md": b"x", "a/noise": b"\1\2\3", "a/without": PICTURE, "b//2.jpg": PICTURE,
        "/b/3.jpg": PICTURE, "a/../b/4.jpg": PICTURE,
    }  # fmt: skip
    path = make(tmp_path / "x", {"a/1.jpg": PICTURE, "b/1.jpg": b""} | odd)
    listing = opened(path)
    assert listing.ids == ["a/1.jpg", "a/without", "b/1.jpg", "b/2.jpg", "b/3.jpg", "b/4.jpg"]
    for words in (("4 hidden",), ("1 ", "lead out"), ("2 files", ".md 1", "no suffix 1"), ("1 ", "hold pictures")):
        assert said(listing.notes, *words), (words, listing.notes)


@pytest.mark.parametrize("make", [write_zip, write_tar])
def test_the_last_of_two_counts(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = tmp_path / "x"
    if make is write_tar:
        write_tar(path, {"a/1.jpg": b"old", "b/1.jpg": b"b"})
        write_tar(path, {"./a/1.jpg": b"new"}, mode="a")
    else:
        with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
            for data in (b"old", b"new"):
                file.writestr("a/1.jpg", data)
            file.writestr("b/1.jpg", b"b")
    assert contents(path) == {"a/1.jpg": b"new", "b/1.jpg": b"b"} and said(opened(path).notes, "twice", "a/1.jpg")


def linked(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_in_a_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a/1.jpg": b"1", ".store/2": PICTURE, "b/1.jpg": b"b"})
    with tarfile.open(path, "a") as file:
        for name, target, kind in (
            ("b/same.jpg", "a/1.jpg", tarfile.LNKTYPE),
            ("b/again.jpg", "../a/1.jpg", tarfile.SYMTYPE),
            ("a/2.jpg", "../.store/2", tarfile.SYMTYPE),
            ("a/3.jpg", "/etc/passwd", tarfile.SYMTYPE),
            ("a/4.jpg", "../../x.jpg", tarfile.SYMTYPE),
            ("a/5.jpg", "6.jpg", tarfile.SYMTYPE),
            ("a/6.jpg", "5.jpg", tarfile.SYMTYPE),
            ("a/7.jpg", "../b", tarfile.SYMTYPE),
            ("a/pipe.jpg", "", tarfile.FIFOTYPE),
        ):
            file.addfile(linked(name, target, kind))
    assert contents(path) == {"a/1.jpg": b"1", "a/2.jpg": PICTURE, "b/1.jpg": b"b"}
    notes = opened(path).notes
    assert said(notes, "2 links", "listed already", "b/again.jpg is a/1.jpg") and said(notes, "5 links", "nothing")
    assert said(notes, "1 devices")


def test_links_in_a_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a/1.jpg": b"1", "b/1.jpg": b"b", ".store/2": PICTURE})
    with zipfile.ZipFile(path, "a") as file:
        for name, target in (("b/2.jpg", "../a/1.jpg"), ("b/3.jpg", "../.store/2"), ("b/4.jpg", "/etc/passwd")):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            file.writestr(info, target)
    assert contents(path) == {"a/1.jpg": b"1", "b/1.jpg": b"b", "b/3.jpg": PICTURE}


def test_names_of_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("a_b/Kxse.jpg", "train\\a\\1.jpg"):
            info = zipfile.ZipInfo(name)
            info.create_system = 0
            file.writestr(info, name)
    data = path.read_bytes().replace(b"train/a/1.jpg", b"train\\a\\1.jpg")
    path.write_bytes(data.replace(b"Kxse", "Käse".encode()[:4]))  # UTF-8 without the flag, as macOS writes
    assert [name.startswith("a_b/Kä") for name in opened(path).ids] == [True, False]
    path.write_bytes(data.replace(b"Kxse", b"K\x84se"))  # code page 437
    assert opened(path).ids == ["a_b/Käse.jpg", "train/a/1.jpg"] and said(opened(path).notes, "backslashes")
    tar = write_tar(tmp_path / "x.tar", {"a/\udcff\udcfe.jpg": b"x"}, "gnu")
    assert contents(tar) == {"a/\udcff\udcfe.jpg": b"x"}  # no UTF-8


# ---------------------------------------------------------------- compressed tars


@pytest.mark.parametrize(("mode", "name"), [("w:gz", "x.tgz"), ("w:bz2", "x.tar.bz2"), ("w:xz", "x.tar")])
def test_a_compressed_tar_is_held_in_memory(tmp_path: Path, mode: str, name: str) -> None:
    path = write_tar(tmp_path / name, FILES, mode=mode)
    assert contents(path) == FILES and said(opened(path).notes, "in memory")
    again = pickle.loads(pickle.dumps(opened(path).reader))
    assert again.read(0) == FILES["train/a/1.jpg"]


def test_a_compressed_tar_that_is_too_large_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        whole = pack(write_tar(tmp_path / "x.tar", FILES).read_bytes())
        for data in (whole[:-9], whole[: len(whole) // 2], whole[:20] + b"\0\0\0\0" + whole[24:]):
            (tmp_path / "y.tar.gz").write_bytes(data)
            refused(tmp_path / "y.tar.gz", "unpacked|cut off|no tar|damaged")
    monkeypatch.setattr(archive, "MOST_UNPACKED", 4000)
    (tmp_path / "y.tar.gz").write_bytes(whole)
    refused(tmp_path / "y.tar.gz", "repack it as .tar or .zip")


# ---------------------------------------------------------------- damage


def refused(path: Path, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        contents(path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


def test_no_archive(tmp_path: Path) -> None:
    for data, words in (
        (b"", "is empty"),
        (b"<html><body>404", "HTML page"),
        (PICTURE * 100, "JPEG picture"),
        (b"PK\3\4" + bytes(500), "no whole directory"),
    ):
        (tmp_path / "x.zip").write_bytes(data)
        refused(tmp_path / "x.zip", words)
    with pytest.raises(BadInput, match=r"absent.zip cannot be opened"):
        opened(tmp_path / "absent.zip")


def test_an_empty_archive_has_no_pictures(tmp_path: Path) -> None:
    for path in (write_zip(tmp_path / "x.zip", {}), write_tar(tmp_path / "x.tar", {})):
        assert len(opened(path).ids) == 0


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["zip", "gnu", "pax"]), st.data())
def test_any_damage_is_one_line_or_the_truth(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("bad") / "x"
    files = FILES | {"a/" + "n" * 150 + ".jpg": b"long", "a/é.jpg": b"e"}
    whole = (write_zip(path, files) if kind == "zip" else write_tar(path, files, kind)).read_bytes()
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        broken = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    path.write_bytes(broken)
    try:
        listing = opened(path)
    except BadInput as error:
        assert "\n" not in str(error)
        return
    for i in range(len(listing.ids)):
        try:
            listing.reader.read(i)
        except BadInput as error:
            assert "\n" not in str(error)


def test_a_flipped_bit_in_a_header_ends_no_archive_in_silence(tmp_path: Path) -> None:
    """tarfile stops at the first damaged header and lists what came before it, without a word."""
    whole = bytearray(write_tar(tmp_path / "x.tar", FILES, "ustar").read_bytes())
    whole[4 * 512 + 3] ^= 1  # in the third header
    (tmp_path / "x.tar").write_bytes(whole)
    with tarfile.open(tmp_path / "x.tar") as file:
        assert len(file.getnames()) == 2
    refused(tmp_path / "x.tar", "damaged at byte 2,048")


def test_wrong_bytes_of_a_zip_member_are_seen(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = write_zip(tmp_path / "x.zip", {"a/1.jpg": PICTURE, "b/2.jpg": PICTURE * 2}, method)
        data = bytearray(path.read_bytes())
        data[30 + len("a/1.jpg") + 2] ^= 4
        path.write_bytes(data)
        listing = opened(path)
        assert listing.reader.read(1) == PICTURE * 2
        with pytest.raises(BadInput, match=r"a/1.jpg in .*x.zip is damaged"):
            listing.reader.read(0)


def test_a_name_that_one_bit_made_another_is_seen(tmp_path: Path) -> None:
    data = bytearray(write_zip(tmp_path / "x.zip", {"a/1.jpg": PICTURE, "b/2.jpg": PICTURE}).read_bytes())
    data[data.index(b"PK\1\2") + 46] = ord("b")  # the class that the directory gives it
    (tmp_path / "x.zip").write_bytes(data)
    listing = opened(tmp_path / "x.zip")
    assert listing.ids == ["b/1.jpg", "b/2.jpg"]
    with pytest.raises(BadInput, match=r"b/1.jpg in .* another name"):
        listing.reader.read(0)


def test_what_cannot_be_unpacked_is_refused_by_name(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a/1.jpg": b"1", "a/2.jpg": b"2", "read.me": b"3"})
    data = bytearray(path.read_bytes())
    for at in (i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"):
        data[at + 8] |= 1
    path.write_bytes(data)
    refused(path, r"a/1.jpg and 1 more in .*x.zip: encrypted")
    refused(write_zip(tmp_path / "x.zip", {"a/1.jpg": b"1"}, zipfile.ZIP_LZMA), "packed with LZMA")
    tar = tmp_path / "x.tar"
    with tarfile.open(tar, "w") as file:
        info = tarfile.TarInfo("a/1.jpg")
        info.pax_headers = {"GNU.sparse.major": "1"}
        file.addfile(info)
    refused(tar, "a/1.jpg as a sparse file")


@pytest.mark.parametrize("make", [write_zip, write_tar])
def test_an_archive_that_changes_under_way_is_refused(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = make(tmp_path / "x", FILES)
    listing = opened(path)
    assert listing.reader.read(0) == FILES["train/a/1.jpg"]
    reordered = dict(reversed(FILES.items()))
    pinned.forget(str(path))
    path.unlink()
    make(path, reordered)
    with pytest.raises(BadInput, match="changed on disk"):
        listing.reader.read(0)
    path.unlink()
    pinned.forget(str(path))
    with pytest.raises(BadInput, match=r"x cannot be read \(No such file"):
        listing.reader.read(0)


@pytest.mark.parametrize("make", [write_zip, write_tar])
def test_an_archive_made_again_can_be_opened_again(tmp_path: Path, make: Callable[..., Path]) -> None:
    """In one process: what is still open of the old one must not be taken for the new one, nor the other way."""
    path = make(tmp_path / "x", FILES)
    before = opened(path)
    assert before.reader.read(0) == FILES["train/a/1.jpg"]
    make(tmp_path / "y", {name: data[::-1] + b"!" for name, data in FILES.items()})
    os.replace(tmp_path / "y", path)
    after = opened(path)
    assert after.reader.read(0) == FILES["train/a/1.jpg"][::-1] + b"!"
    with pytest.raises(BadInput, match="changed on disk"):
        before.reader.read(0)


def test_a_name_much_longer_than_its_path(tmp_path: Path) -> None:
    for make in (write_zip, write_tar):
        assert contents(make(tmp_path / "x", {"./" * 900 + "a/1.jpg": b"1", "b/2.jpg": b"2"})) == {
            "a/1.jpg": b"1",
            "b/2.jpg": b"2",
        }


def test_a_program_before_the_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.exe", FILES)
    path.write_bytes(b"MZ" + bytes(700) + path.read_bytes())
    assert contents(path) == FILES


def test_a_comment_that_looks_like_the_end(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", FILES)
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"PK\5\6 is not the end, and this is longer than one"
    assert contents(path) == FILES
    path = write_zip(tmp_path / "y.zip", FILES)
    path.write_bytes(path.read_bytes() + b"\n")
    assert contents(path) == FILES


def test_what_follows_the_end_of_a_tar_is_said(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "x.tar", FILES).read_bytes()
    for gap in (0, 3 << 20):
        (tmp_path / "x.tar").write_bytes(one + bytes(gap) + one)
        assert said(opened(tmp_path / "x.tar").notes, "not read")
    (tmp_path / "x.tar").write_bytes(one + bytes(3 << 20))
    assert not opened(tmp_path / "x.tar").notes
    (tmp_path / "x.tar").write_bytes(one + one)
    assert said(opened(tmp_path / "x.tar").notes, "not read")
    cut = one[: one.rindex(b"ustar") - 257]
    (tmp_path / "x.tar").write_bytes(cut)
    assert len(opened(tmp_path / "x.tar").ids) == 7 and said(opened(tmp_path / "x.tar").notes, "no end mark")


# ---------------------------------------------------------------- processes


def test_a_reader_in_forks_and_fresh_processes(tmp_path: Path) -> None:
    for path in (write_zip(tmp_path / "x.zip", FILES), write_tar(tmp_path / "x.tar", FILES)):
        reader = opened(path).reader
        reader.read(0)  # the handle is open, and the child inherits it
        child = os.fork()
        if not child:
            os._exit(0 if all(reader.read(i) == FILES[n] for i, n in enumerate(sorted(FILES))) else 1)
        mine = [reader.read(i) for i in range(len(FILES))]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert mine == [FILES[n] for n in sorted(FILES)]
        (tmp_path / "reader").write_bytes(pickle.dumps(reader))
        code = "import pickle, sys; print(pickle.load(open('reader', 'rb')).read(5))"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                              env=os.environ | {"PYTHONPATH": str(Path(archive.__file__).parents[3])})  # fmt: skip
        assert done.stdout.strip() == repr(FILES["val/a/2.jpg"])


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "MOST_OPEN", 3)
    readers = [opened(write_tar(tmp_path / f"{i}.tar", {"a/1.jpg": b"%d" % i})).reader for i in range(9)]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(2):
        assert [reader.read(0) for reader in readers] == [b"%d" % i for i in range(9)]
    assert len(pinned._OPEN) == 3
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 1


# ---------------------------------------------------------------- mutations


def test_the_oracles_see_wrong_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = {"x" * 99 + "/" + "y" * 120 + ".jpg": b"1", "a/2.jpg": b"2"}
    path = write_tar(tmp_path / "x.tar", long, "pax")
    assert contents(path) == long
    monkeypatch.setattr(tarindex, "_records", lambda data, place, at: {})
    assert contents(path) != long


def test_numbers_of_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip beyond 4 GB or 65,535 members, made small: every number stands where the large ones do."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 5)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    path = write_zip(tmp_path / "x.zip", FILES)
    assert path.read_bytes().count(b"PK\6\6") == 1
    assert contents(path) == FILES
    path.write_bytes(b"#!" + bytes(99) + path.read_bytes())
    assert contents(path) == FILES  # behind a program
    monkeypatch.setattr(archive, "_wide", lambda fields, *values: list(values))
    refused(path, "no whole directory")
