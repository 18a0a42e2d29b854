"""Local copies of remote shards: each fetched once for all processes, whole or not at all, oldest ones dropped first.

A copy is a folder: the shard, its index, and what its origin said of it. The index outlives the shard, so a second
opening asks the origin only whether it is still the same. http and https need nothing but Python; other schemes fsspec.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ...durable import SLACK, free_space, pour, require_space, write_folder
from ...errors import BadInput
from .members import Member, members_of
from .pinned import Handle, Pinned, forget, read_whole

LIMIT = 100 << 30  # bytes of all copies; what is in use may go beyond
MOST_HELD = 32  # copies that a process keeps from being dropped
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each new attempt
TIMEOUT = 30.0  # seconds without a byte
PATIENCE = 3600.0  # seconds that another process may take to fetch one shard
PIECE = 1 << 20  # bytes
USE, FETCH = (
    "use",
    "fetch",
)  # locks: shared by those who read a copy, of the one who makes it; neither waits for the other
VERSION = 1  # of the index
GONE, AGAIN = (401, 404, 410), (408, 425, 429)  # answers that no further attempt changes, and those that it may


T = TypeVar("T")


class Facts(NamedTuple):
    """What an origin says of a file."""

    size: int | None
    mark: str  # changes when the file does; "": the origin says nothing


class _Broken(Exception):
    """An attempt that another one may mend."""


@dataclass(frozen=True)
class Copy:
    """What is known of a fetched shard."""

    address: str
    size: int
    sha256: str
    mark: str
    version: int = VERSION


@dataclass(frozen=True)
class Cache:
    """A folder of copies, shared by all processes of this user."""

    folder: str
    limit: int  # bytes of all copies

    @classmethod
    def of(cls, folder: str | None) -> Cache:
        place = os.path.join(os.path.abspath(os.path.expanduser(folder)) if folder else user_cache(), "shards")
        try:
            os.makedirs(place, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{place} cannot be made ({error.strerror}); name another cache with --data.cache") from None
        return cls(place, LIMIT)

    def home(self, address: str) -> Path:
        """The folder of an address."""
        last = address.split("?", 1)[0].rstrip("/").rsplit("/", 1)[-1]
        readable = "".join(c if c.isalnum() or c in "._-" else "_" for c in last)[-80:]
        return Path(self.folder) / f"{hashlib.sha256(address.encode()).hexdigest()[:24]}-{readable}"

    def make_room(self, needed: int) -> None:
        """Drops the copies that were not used for longest, but none that a process holds."""
        copies = []
        for data in Path(self.folder).glob("*/shard.tar"):
            with contextlib.suppress(OSError):  # dropped meanwhile
                copies.append((_lock_file(data.parent, USE).stat().st_mtime, data, data.stat().st_size))
        total = sum(size for _, _, size in copies)
        for _, data, size in sorted(copies):
            if total + needed <= self.limit and free_space(self.folder) >= needed + SLACK:
                break
            with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(data.parent, USE, 0.0):
                data.unlink()
                total -= size
        require_space(self.folder, needed)


class Origin(NamedTuple):
    """A remote shard, opened."""

    place: Fetched
    members: list[Member]
    notes: list[str]

    @classmethod
    def of(cls, address: str, cache: Cache) -> Origin:
        """Asks the origin whether the copy is still right, and fetches where there is none."""
        notes: list[str] = []
        home = cache.home(address)
        known = _known(home)
        try:
            facts = _patient(address, lambda: _facts(address), () if known else PAUSES)
        except _Unreachable as error:
            if known is None:
                raise
            facts = Facts(known.size, known.mark)
            notes.append(f"not compared with its origin, the copy counts: {error}")
        if known is not None and not _same(known, facts):
            notes.append(f"{address} changed at its origin and is fetched anew")
        index = _index(home, facts)
        if index is None:
            with _locked(home, FETCH):
                index = _index(home, facts)  # fetched by another process, meanwhile
                if index is None:
                    _fetch(address, home, cache, facts)
                    index = _index(home, Facts(None, ""))
        if index is None:
            raise BadInput(f"{home} does not keep what is written; name another cache with --data.cache")
        known, members, said = index
        return cls(Fetched(address, known.size, known.sha256, cache), members, notes + said)


@dataclass(frozen=True)
class Fetched:
    """A place whose bytes are fetched where they are not here (any more)."""

    name: str  # the address
    size: int
    sha256: str  # what was indexed: other bytes are refused
    cache: Cache

    def pread(self, count: int, offset: int) -> bytes:
        held = _HELD.pop(self.name, None)
        if held is None or held.sha256 != self.sha256:
            held = self._hold()
        _HELD[self.name] = held
        while len(_HELD) > MOST_HELD:
            with contextlib.suppress(StopIteration, RuntimeError):  # another thread was at it
                _HELD.pop(next(iter(_HELD)), None)
        try:
            return read_whole(held.data.number, count, offset, self.name)
        except OSError as error:
            raise BadInput(f"the copy of {self.name} cannot be read ({error.strerror}); start again") from None

    def _hold(self) -> _Held:
        home = self.cache.home(self.name)
        while True:
            lock = _Lock(home, USE, fcntl.LOCK_SH)
            known, path = _known(home), home / "shard.tar"
            if known is not None and known.sha256 != self.sha256:
                raise _changed(self.name)
            with contextlib.suppress(FileNotFoundError):
                if known is not None and path.stat().st_size == known.size:
                    return _Held(lock, Handle(str(path)), self.sha256)
            del lock
            with _locked(home, FETCH):
                if not path.is_file() or path.stat().st_size != self.size:
                    _fetch(self.name, home, self.cache, Facts(self.size, ""), self.sha256)


class _Held(NamedTuple):
    lock: _Lock
    data: Handle
    sha256: str


_HELD: dict[str, _Held] = {}  # of this process; a fork shares the locks, and pread needs no position of its own


def user_cache() -> str:
    """Where this system keeps what programs can make again."""
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        top = os.path.join(home, "Library", "Caches")
    elif sys.platform == "win32":
        top = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    else:
        top = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return os.path.join(top, "tessella")


def glob_remote(pattern: str) -> list[str]:
    """All shards that an address with stars names."""
    scheme = pattern.split("://", 1)[0]
    if scheme in ("http", "https"):
        raise BadInput(f"{pattern}: a web server lists no files; name the shards with a range, such as {{000..099}}")

    def look() -> list[str]:
        files, path = _system(pattern)
        return sorted(str(files.unstrip_protocol(found)) for found in files.glob(path))

    found = _patient(pattern, lambda: _asked(pattern, look), PAUSES)
    if not found:
        raise BadInput(f"there is no shard {pattern}; check the address")
    return found


# ---------------------------------------------------------------- copies


def _known(home: Path) -> Copy | None:
    try:
        told = json.loads((home / "copy.json").read_text(encoding="utf-8"))
        return Copy(**told) if told.get("version") == VERSION else None
    except (OSError, ValueError, TypeError, AttributeError):  # none, or an older one
        return None


def _same(known: Copy, facts: Facts) -> bool:
    return facts.size in (None, known.size) and facts.mark in ("", known.mark)


def _index(home: Path, facts: Facts) -> tuple[Copy, list[Member], list[str]] | None:
    """What was read from the copy when it was fetched; None: there is none of this state of the origin."""
    known = _known(home)
    if known is None or not _same(known, facts):
        return None
    try:
        sha256, rows, notes = json.loads((home / "members.json").read_text(encoding="utf-8"))
        if sha256 != known.sha256:
            return None  # replaced between the two looks
        return known, [(name, start, size, words) for name, start, size, words in rows], notes
    except (OSError, ValueError, TypeError):
        return None


def _fetch(address: str, home: Path, cache: Cache, told: Facts, sha256: str | None = None) -> Copy:
    """The caller holds the lock. `told` is what the origin said when it was asked, `sha256` of what was indexed."""
    return _patient(address, lambda: _fetch_once(address, home, cache, told, sha256), PAUSES)


def _fetch_once(address: str, home: Path, cache: Cache, told: Facts, sha256: str | None) -> Copy:
    with _opened(address) as (facts, pieces):
        size = told.size if facts.size is None else facts.size
        cache.make_room(size or 0)
        copies: list[Copy] = []

        def write(folder: Path) -> None:
            path = folder / "shard.tar"
            written = pour(path, pieces)
            if size is not None and written.size != size:
                raise _Broken(f"the connection ended after {written.size:,} of {size:,} bytes")
            if sha256 is not None and written.sha256 != sha256:
                raise _changed(address)
            try:
                index = members_of(replace(Pinned.of(str(path)), name=address))
            finally:
                forget(str(path))  # it is renamed now
            copy = Copy(address, written.size, written.sha256, facts.mark)
            (folder / "members.json").write_text(json.dumps([written.sha256, *index]), encoding="utf-8")
            (folder / "copy.json").write_text(json.dumps(asdict(copy)), encoding="utf-8")
            copies.append(copy)

        _lock_file(home, USE).touch()  # may be dropped from here on, also if nobody reads it
        write_folder(home, write)
        return copies[0]


def _changed(address: str) -> BadInput:
    return BadInput(f"{address} changed at its origin after it was indexed; start again to read it anew")


# ---------------------------------------------------------------- locks


def _lock_file(home: Path, what: str) -> Path:
    return home.with_name(f"{home.name}.{what}")


class _Lock:
    """Held until nobody refers to it; of the open file, so that forked workers share it and threads do not."""

    def __init__(self, home: Path, what: str, kind: int, patience: float = PATIENCE) -> None:
        path = _lock_file(home, what)
        try:
            path.touch()  # its time is that of the last use
            self.handle = Handle(str(path))
        except OSError as error:
            raise BadInput(
                f"{path} cannot be written ({error.strerror}); name another cache with --data.cache"
            ) from None
        until = time.monotonic() + patience
        pause = 0.01
        while True:
            try:
                fcntl.flock(self.handle.number, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if patience == 0:
                    raise
            except OSError:
                return  # this file system has no locks: copies are whole or absent all the same
            if time.monotonic() > until:
                raise BadInput(
                    f"{home} was locked by another process for {patience:.0f} s; end it, or use another cache"
                )
            time.sleep(pause)
            pause = min(0.5, 2 * pause)


@contextmanager
def _locked(home: Path, what: str, patience: float = PATIENCE) -> Iterator[None]:
    lock = _Lock(home, what, fcntl.LOCK_EX, patience)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(lock.handle.number, fcntl.LOCK_UN)


# ---------------------------------------------------------------- origins


class _Unreachable(BadInput):
    """No attempt reached the origin."""


def _patient(address: str, attempt: Callable[[], T], pauses: Sequence[float]) -> T:
    """The result of the first attempt that is not broken off."""
    began = time.monotonic()
    for pause in (*pauses, None):
        try:
            return attempt()
        except _Broken as error:
            last = error
        if pause is not None:
            time.sleep(pause)
    tried = f"{len(pauses) + 1} attempts in {time.monotonic() - began:.0f} s" if pauses else "1 attempt"
    raise _Unreachable(
        f"{address} cannot be reached ({tried}, {last}); check the connection, or copy the shards and give their folder"
    )


def _facts(address: str) -> Facts:
    if not address.startswith(("http://", "https://")):
        files, path = _system(address)
        return _asked(address, lambda: _described(files.info(path)))
    try:
        with _answer(address, "HEAD") as answer:
            return _stated(answer)
    except _Refused:  # some servers, and signed addresses, know GET only
        with _answer(address, "GET") as answer:
            return _stated(answer)


@contextmanager
def _opened(address: str) -> Iterator[tuple[Facts, Iterator[bytes]]]:
    """(what its origin says, its bytes)."""
    if address.startswith(("http://", "https://")):
        with _answer(address, "GET") as answer:
            yield _stated(answer), _pieces(answer.read)
    else:
        files, path = _system(address)
        facts = _asked(address, lambda: _described(files.info(path)))
        with _asked(address, lambda: files.open(path, "rb")) as file:
            yield facts, _pieces(file.read)


def _pieces(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Errors of the connection must not look like errors of the disk that the bytes are written to."""
    while True:
        try:
            piece = read(PIECE)
        except TRANSIENT as error:
            raise _Broken(_short(error)) from None
        if not piece:
            return
        yield piece


class _Refused(BadInput):
    """The server answers, and says no."""


TRANSIENT = (OSError, http.client.HTTPException, EOFError)  # URLError and timeouts are OSErrors


def _answer(address: str, method: str) -> Any:
    request = urllib.request.Request(
        address, method=method, headers={"User-Agent": "tessella", "Accept-Encoding": "identity"}
    )
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code in AGAIN:
            raise _Broken(f"the server says {error.code} {error.reason}") from None
        cure = "check the address" if error.code in (404, 410) else "check the address and your access"
        kind = BadInput if error.code in GONE else _Refused
        raise kind(f"{address}: the server says {error.code} {error.reason}; {cure}") from None
    except TRANSIENT as error:
        raise _Broken(_short(error)) from None
    except ValueError as error:
        raise BadInput(f"{address} is no address ({error}); check it") from None


def _stated(answer: Any) -> Facts:
    length = answer.headers.get("Content-Length", "")
    mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    return Facts(int(length) if length.isdigit() else None, mark)


def _described(info: Mapping[str, Any]) -> Facts:
    names = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "created")
    mark = next((str(info[name]) for name in names if info.get(name)), "")
    return Facts(info.get("size"), mark)


def _system(address: str) -> tuple[Any, str]:
    """(the file system of an address, the path in it); not a cached one, which a fork or an old listing would spoil."""
    try:
        import fsspec
    except ImportError:
        raise BadInput(f'{address} needs fsspec: pip install "tessella[remote]"') from None
    scheme = address.split("://", 1)[0]
    try:
        files, path = fsspec.core.url_to_fs(address, skip_instance_cache=True)
    except ImportError as error:
        raise BadInput(f"{scheme}:// needs another package: {_short(error)}") from None
    except ValueError as error:
        raise BadInput(f"{address} cannot be opened ({_short(error)}); known are http, s3, gs and fsspec's") from None
    return files, path


def _asked(address: str, ask: Callable[[], T]) -> T:
    """An answer of fsspec, whose file systems raise errors of their own packages."""
    try:
        return ask()
    except FileNotFoundError:
        raise BadInput(f"there is no {address}; check the address") from None
    except PermissionError as error:
        raise BadInput(f"{address}: no access ({_short(error)}); check your keys") from None
    except Exception as error:
        raise _Broken(_short(error)) from None


def _short(error: BaseException) -> str:
    """One line."""
    reason = getattr(error, "reason", None) or error
    return " ".join(f"{type(error).__name__}: {reason}".split())[:200]
