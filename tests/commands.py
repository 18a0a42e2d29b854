"""The command line run in a fork of this process: a second cheaper than a fresh Python, and it can be killed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tessella import cli
from tessella.data.loading import loader
from tessella.data.origins.scenes import SHAPES, ScenesConfig, scene

VERBS = tuple(
    f"tessella.verbs.{name}"
    for name in ("train", "evaluate", "predict", "listing", "doctor", "demo", "inspect", "convert")
)
for _name in (*VERBS, "torch._dynamo", "torchvision.transforms.v2"):
    importlib.import_module(_name)  # once, here, so that no child pays for it: three seconds


@dataclass(frozen=True)
class Done:
    """What a command left: exit code (minus the signal that killed it), and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Started:
    """A command that runs in a process group of its own."""

    pid: int
    files: tuple[Path, Path]

    def kill(self, number: int = signal.SIGKILL, group: bool = True) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def ended(self) -> bool:
        """Without reaping it."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> Done:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        out, err = (file.read_text(encoding="utf-8", errors="surrogateescape") for file in self.files)
        return Done(code, out, err)


def start(
    *words: str | Path, before: Callable[[], object] | None = None, place: Path | None = None, fresh: bool = False
) -> Started:
    """`tessella WORDS`; `before` runs first in the child (a test double, a strike). `fresh`: a Python of its own."""
    place = place or Path.cwd()
    number = sum(1 for _ in place.glob(".said-*"))
    files = (place / f".said-{number}-out", place / f".said-{number}-err")
    for file in files:
        file.touch()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # behind `&` of a script it would be ignored
            os.setsid()
            os.chdir(place)
            _redirect(files)
            if fresh:
                os.execv(sys.executable, [sys.executable, "-m", "tessella", *(str(w) for w in words)])
            torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
            code = _act([str(w) for w in words], before)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return Started(pid, files)


def run(
    *words: str | Path, before: Callable[[], object] | None = None, place: Path | None = None, fresh: bool = False
) -> Done:
    return start(*words, before=before, place=place, fresh=fresh).wait()


def _redirect(files: tuple[Path, Path]) -> None:
    for number, file in ((1, files[0]), (2, files[1])):
        handle = os.open(file, os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (open(n, "w", closefd=False, errors="surrogateescape") for n in (1, 2))


def _act(words: list[str], before: Callable[[], object] | None) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = ["tessella", *words]
    if before is not None:
        before()
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    finally:
        loader._close_streams()  # as at the exit of an interpreter
    return 0


# -- something to train on ---------------------------------------------------------------------------------------------


def photos(folder: Path, each: int = 14, size: int = 28, seed: int = 0, classes: tuple[str, ...] = SHAPES[:3]) -> Path:
    """One folder per class, each with `each` scenes that show one shape."""
    cfg = ScenesConfig(size=size, objects=(1, 1), radius=(0.24, 0.3))
    wanted = {name: each for name in classes}
    index = 0
    while any(wanted.values()):
        found = scene(seed, index, cfg)
        name = cfg.classes[int(found.label)]
        index += 1
        if wanted.get(name, 0):
            wanted[name] -= 1
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(found.image)).save(folder / name / f"{wanted[name]:02d}.png")
    return folder


TINY = {
    "size": 28,
    "train.batch": 8,
    "train.steps": 8,
    "train.precision": "fp32",
    "train.device": "cpu",
    "model.backbone.depth": 1,
    "model.backbone.width": 32,
    "model.backbone.heads": 2,
    "model.backbone.drop_path": 0.0,
}
DISTURBED = TINY | {
    "train.ema": 0.9,
    "train.accumulate": 2,
    "train.save_every": 2,
    "train.evaluate_every": 5,
    "train.log_every": 1,
    "model.backbone.mlp_dropout": 0.1,
    "data.workers": 2,
}


def words(settings: dict[str, object]) -> list[str]:
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


# -- what a folder holds ----------------------------------------------------------------------------------------------


def hash_of(folder: Path) -> str:
    """Names, kinds, permissions, modification times and every byte, of folders as well; not when a file was read."""
    digest = hashlib.sha256()
    for path in sorted([folder, *folder.rglob("*")]):
        found = path.lstat()
        digest.update(f"{path.relative_to(folder)}\0{found.st_mode}\0{found.st_mtime_ns}\0".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def files_of(folder: Path) -> dict[str, str]:
    """Name -> sha256 of what a run must end with: its weights, and all of its newest state."""
    states = sorted((folder / "state").glob("step-*"))
    found = [folder / "model" / "model.safetensors", *sorted(states[-1].iterdir())]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@contextlib.contextmanager
def temporary_files_in(folder: str) -> Iterator[None]:
    """TMPDIR for the children: another file system than that of the run."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"], tempfile.tempdir = folder, None
    try:
        yield
    finally:
        tempfile.tempdir = None
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def wait_for(happened: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it happened in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened():
            return True
        time.sleep(0.001)
    return False


@dataclass(frozen=True)
class World:
    """A folder with pictures and a finished run."""

    place: Path
    photos: Path
    run: Path


def world(place: Path) -> World:
    place.mkdir(parents=True, exist_ok=True)
    pictures = photos(place / "photos")
    done = run("train", "photos", *words(TINY), place=place)
    assert done.code == 0, done.err
    return World(place, pictures, place / "runs" / "photos-1")
