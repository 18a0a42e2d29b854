"""Files and folders that are whole or not there, whatever kills the writer: a temporary sibling, fsync, one rename.

Temporary things always lie beside their target, because a rename is atomic only inside one file system. Their names
are `.NAME.tessella-new-PID-RANDOM`; their writer holds a lock on them, so a lock that is free tells the leftover of a
killed writer, also where process numbers mean nothing (containers).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import BadInput, DiskFull, TessellaError

CHUNK = 8 << 20  # bytes hashed and written at once: still in the processor's cache the second time
SLACK = 1 << 20  # bytes beside the announced ones: folders, block rounding, the journal
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.tessella-(?:new-(?P<pid>\d+)-[0-9a-f]{8}|old)", re.DOTALL)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


@dataclass(frozen=True)
class Written:
    """What a finished file holds."""

    sha256: str
    size: int


# -- space -----------------------------------------------------------------------------------------


def free_space(path: Path | str) -> int:
    """Bytes that we may still write where `path` is or will be."""
    place = Path(os.path.realpath(path))
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def require_space(folder: Path | str, size: int) -> None:
    """DiskFull before the first byte rather than in the middle."""
    free = free_space(folder)
    if free < size + SLACK:
        raise DiskFull(
            f"{folder} needs {(size + SLACK) / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free; make room or write "
            "elsewhere (what was there before is intact)"
        )


@contextmanager
def _readable_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"no room to write {target} ({error.strerror}); what was there before is intact") from None
        raise TessellaError(f"{target} cannot be written ({error.strerror or error})") from error


# -- one file --------------------------------------------------------------------------------------


def sha256_file(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pour(path: Path, chunks: Iterable[bytes | memoryview]) -> Written:
    """A new file, hashed while it is written. Not durable by itself: for use inside `write_folder`, which syncs all."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return _fill(handle, chunks)
    finally:
        os.close(handle)


def _fill(handle: int, chunks: Iterable[bytes | memoryview]) -> Written:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        whole = memoryview(chunk).cast("B")
        size += len(whole)
        for start in range(0, len(whole), CHUNK):
            piece = whole[start : start + CHUNK]
            digest.update(piece)
            while piece:  # the kernel may take less than it was given
                piece = piece[os.write(handle, piece) :]
    return Written(digest.hexdigest(), size)


def write_file(path: Path | str, data: bytes | str) -> None:
    """`path` holds either what it held or all of `data`, also after a power cut."""
    target = Path(os.path.realpath(path))  # a link keeps pointing where it points
    with _readable_errors(target):
        temporary, handle = _locked(target, lambda new: os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            _fill(handle, [data.encode("utf-8") if isinstance(data, str) else data])
            os.fsync(handle)
            os.rename(temporary, target)
        except BaseException:
            _erase(temporary)
            raise
        finally:
            os.close(handle)
        _sync(target.parent)


# -- one folder ------------------------------------------------------------------------------------


def write_folder(target: Path | str, write: Callable[[Path], None]) -> None:
    """`write(folder)` fills a temporary sibling; then `target` is that folder, or still what it was."""
    place = Path(os.path.realpath(target))
    if place.exists() and not place.is_dir():
        raise BadInput(f"{target} is a file; name a folder")
    with _readable_errors(place):
        _make_folder(place.parent)
        recover(place)
        sweep(place.parent, place.name)
        temporary, lock = _locked(place, _open_new_folder)
        try:
            write(temporary)
            _sync_tree(temporary)
            _put_in_place(temporary, place)
            _sync(place.parent)
        except BaseException:
            _erase(temporary)
            recover(place)
            raise
        finally:
            os.close(lock)
        for old in (temporary, _old_name(place)):  # what was there before, by way of exchange or of two renames
            _erase(old)


def _put_in_place(temporary: Path, target: Path) -> None:
    for _ in range(5):
        if os.path.lexists(target):
            if _exchange(temporary, target):
                return
            # Until the next rename the target is not there; whoever comes in between calls `recover`, and we try again.
            os.rename(target, _old_name(target))
        try:
            os.rename(temporary, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise TessellaError(f"{target} is written by two processes at once; let one of them write elsewhere")


def _exchange(one: Path, other: Path) -> bool:
    """Both names swap what they stand for, in one step; False where the kernel or the file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    if call(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), swap) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def recover(target: Path | str) -> None:
    """Finish what a writer without exchange left half done: the old folder comes back where no new one stands."""
    place = Path(os.path.realpath(target))
    old = _old_name(place)
    if not os.path.lexists(old):
        return
    if os.path.lexists(place):
        _erase(old)
        return
    try:
        os.rename(old, place)
        _sync(place.parent)
    except OSError:
        return  # another process was quicker, or the place can only be read


def remove_folder(path: Path | str) -> None:
    """First out of sight under a temporary name, then deleted: killed in between, nothing is left that looks whole."""
    place = Path(os.path.realpath(path))
    hidden = _new_name(place)
    os.rename(place, hidden)
    _sync(place.parent)
    _erase(hidden)


def sweep(parent: Path | str, only: str | None = None) -> list[str]:
    """Remove what killed writers (of `only`, or of anything) left in `parent`; the names. Spares living writers."""
    removed = []
    for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
        found = _LEFTOVER.fullmatch(name)
        if found is None or only not in (None, found["name"]):
            continue
        path = Path(parent) / name
        if found["pid"] is None:
            recover(path.parent / found["name"])
        elif _abandoned(path, int(found["pid"])):
            _erase(path)
        if not os.path.lexists(path):
            removed.append(name)
    return removed


# -- parts -----------------------------------------------------------------------------------------


def _new_name(target: Path) -> Path:
    return target.parent / f".{target.name}.tessella-new-{os.getpid()}-{secrets.token_hex(4)}"


def _old_name(target: Path) -> Path:
    return target.parent / f".{target.name}.tessella-old"


def _locked(target: Path, open_new: Callable[[Path], int]) -> tuple[Path, int]:
    """A new temporary sibling of `target`, and the open handle that locks it."""
    while True:
        path = _new_name(target)
        handle = open_new(path)
        _lock(handle)
        if path.exists():  # else swept by someone before it was locked
            return path, handle
        os.close(handle)


def _open_new_folder(path: Path) -> int:
    os.mkdir(path)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def _lock(handle: int) -> bool | None:
    """Whether the lock is ours now; None where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def hold(path: Path | str) -> int:
    """An open handle; until it is closed no other process can hold the same file. The lock is of the process, not of
    its children: a killed trainer frees it though its loaders still live."""
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(handle)
            raise BadInput(f"{Path(path).parent} is in use by another process; wait for it, or stop it") from None
    return handle


def _abandoned(path: Path, pid: int) -> bool:
    """No living writer holds it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False  # gone meanwhile, or not ours to open
    try:
        free = _lock(handle)
        return free if free is not None else not _alive(pid)
    finally:
        os.close(handle)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it lives, and is another user's
    return True


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        os.mkdir(folder)
    except FileExistsError:  # another process was quicker
        return
    _sync(folder.parent)


def _erase(path: Path) -> None:
    """As much as can be; what cannot be removed now is left to `sweep`."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    except OSError:
        pass


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        cannot = path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)  # folders, on some file systems
        if not cannot:
            raise
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    """Files before the folders that name them."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(place) / name)
        _sync(Path(place))
