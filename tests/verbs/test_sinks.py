"""`train --sinks`: what is missing is said before anything is written; and a training asks no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import TINY, World, words

from tessella.errors import BadInput
from tessella.training import sinks
from tessella.training.sinks import refuse_missing

WATCH = """
import os, sys
def watch(event, args):
    outside = event == "socket.__new__" and args[1] in (2, 10)  # AF_INET, AF_INET6
    if outside or event in ("socket.getaddrinfo", "socket.gethostbyname"):
        with open({record!r}, "a") as file:
            file.write(event + chr(10))
sys.addaudithook(watch)
"""


def test_what_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world: World) -> None:
    monkeypatch.setitem(sinks.PACKAGES, "wandb", "tessella_no_such_package")
    (tmp_path / "tessella_no_such_package").mkdir()  # a folder is no package: W&B makes one of its own name
    monkeypatch.syspath_prepend(tmp_path)
    refuse_missing(("tensorboard", "trackio"))
    with pytest.raises(BadInput, match=r"names wandb, which is not installed; pip install 'tessella\[wandb\]'"):
        refuse_missing(("wandb",))
    before = sorted(world.place.glob("runs/*"))
    done = commands.run("train", "photos", *words(TINY), "--sinks", "tensorboard,wandb", place=world.place)
    assert done.code == 2 and "not installed" in done.err and done.err.count("\n") == 1
    done = commands.run("train", "--resume", world.run, "--sinks", "wandb", place=world.place)
    assert done.code == 2 and sorted(world.place.glob("runs/*")) == before
    done = commands.run("train", "photos", "--sinks", "tensorbord", place=world.place)
    assert done.code == 2 and "expected one of 'tensorboard', 'wandb', 'trackio'" in done.err


def test_a_resumed_run_may_be_watched_elsewhere(world: World, tmp_path: Path) -> None:
    """`--sinks` with `--resume` changes nothing that counts, and is what the run has from then on."""
    run = shutil.copytree(world.run, tmp_path / "photos-1")
    done = commands.run("train", "--resume", run, "--sinks", "tensorboard", place=world.place)
    assert done.code == 0, done.err
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert json.loads((run / "run.json").read_text())["run"]["train"]["sinks"] == ["tensorboard"]


def test_no_socket_is_opened(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By any process of a training, its workers and TensorBoard's writer included."""
    record = tmp_path / "sockets.txt"
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(record=str(record)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    settings: dict[str, Any] = TINY | {"data.workers": 1, "folder": tmp_path, "name": "quiet"}
    done = commands.run("train", "photos", *words(settings), "--sinks", "tensorboard", place=world.place, fresh=True)
    assert done.code == 0 and list(tmp_path.glob("quiet/tensorboard/events.*")), done.err
    assert not record.exists(), record.read_text()
    ask = "import socket\ntry: socket.create_connection(('localhost', 9))\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", ask], check=True)  # the mutation: the watch sees one
    assert "socket.getaddrinfo" in record.read_text()
