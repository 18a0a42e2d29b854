"""`convert --push`: onto a hub that stands on this machine and keeps what it is sent, as the real one is spoken to."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from redrawn import redraw

from tessella import tensorfile
from tessella.card import Card, Head, Preprocess
from tessella.config import encode
from tessella.models.architecture import ClassifierConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.weights.io import write_model

pytest.importorskip("huggingface_hub")
TOKEN = "hf_secret"
PLACE = "me/photos"


class Hub(http.server.ThreadingHTTPServer):
    """Takes one repository: large files by their sha256, small ones inside the commit."""

    def __init__(self, rights: int = 200, refuses: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.rights, self.refuses = rights, refuses
        self.made: list[str] = []
        self.large: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            out = b""
            while size := int(self.rfile.readline(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _say(self, told: Any, status: int = 200) -> None:
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        self.server.large[self.path.rpartition("/")[2]] = self._body()
        self._say({})

    def do_POST(self) -> None:
        held, path = self._body(), self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or self.server.rights != 200:
            return self._say({"error": "no rights"}, self.server.rights if self.server.rights != 200 else 401)
        if self.server.refuses and path.endswith(self.server.refuses):
            return self._say({"error": "the disk is full"}, 507)
        match path:
            case "/api/repos/create":
                self.server.made.append("{organization}/{name}".format(**json.loads(held)))
                self._say({"url": f"{self.server.address}/{PLACE}", "name": PLACE, "id": "1"})
            case "/api/validate-yaml":
                good = json.loads(held)["content"].startswith("---\nlibrary_name: ")
                self._say(
                    {"errors": [] if good else [{"message": "no metadata"}], "warnings": []}, 200 if good else 400
                )
            case path if path.endswith("/preupload/main"):
                files = [file["path"] for file in json.loads(held)["files"]]
                modes = ((f, "lfs" if f.endswith((".safetensors", ".pth", ".npz")) else "regular") for f in files)
                self._say({"files": [{"path": f, "uploadMode": mode, "shouldIgnore": False} for f, mode in modes]})
            case path if path.endswith("/info/lfs/objects/batch"):
                asked = json.loads(held)["objects"]
                where = f"{self.server.address}/large"
                told = [{**o, "actions": {"upload": {"href": f"{where}/{o['oid']}"}}} for o in asked]
                self._say({"transfer": "basic", "objects": told})
            case path if path.endswith("/commit/main"):
                self._commit([json.loads(line) for line in held.splitlines()])
            case _:
                self._say({"error": path}, 404)

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        out: dict[str, bytes] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                out[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                out[value["path"]] = self.server.large[value["oid"]]
        self.server.commits.append(out)
        self._say({"commitUrl": f"{self.server.address}/{PLACE}/commit/{'c' * 40}", "commitOid": "c" * 40})


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    cfg = ClassifierConfig(backbone=ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3), classes=3)
    net = Classifier(cfg)
    redraw(net)
    head = Head(name="label", task="classify", classes=("ant", "bee", "fly"))
    image = Preprocess(size=(32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    card = Card(
        architecture=encode(cfg), heads=(head,), preprocess={"image": image}, licence="mit", metrics={"top1": 0.9}
    )
    write_model(tmp_path / "model", net.state_dict(), card)
    return tmp_path / "model"


def convert(hub: str, home: Path, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    told = {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    told |= {"HF_TOKEN": token} if token else {}
    kept = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
    command = [sys.executable, "-m", "tessella", "convert", *words]
    return subprocess.run(command, env=kept | told, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("to", ["tessella", "timm"])
def test_it_arrives_in_one_commit_with_its_page(hub: Hub, model: Path, tmp_path: Path, to: str) -> None:
    done = convert(hub.address, tmp_path / "home", str(model), str(tmp_path / "out"), "--to", to, "--push", PLACE)
    assert done.returncode == 0, done.stderr
    assert f"pushed to {hub.address}/{PLACE}" in done.stdout and hub.made == [PLACE] and len(hub.commits) == 1
    there = hub.commits[0]
    here = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.name != "README.md"}
    assert {name: data for name, data in there.items() if name != "README.md"} == here
    assert set(there) == {"README.md", "model.safetensors", "model.json" if to == "tessella" else "config.json"}
    page = there["README.md"].decode()
    assert f"library_name: {to}\nlicense: mit\n" in page and "ant, bee, fly" in page and "| top1 | 0.9 |" in page
    assert TOKEN not in page + done.stdout + done.stderr
    digest = hashlib.sha256(there["model.safetensors"]).hexdigest()
    assert digest in hub.large, "the mutation: what was sent is what was committed"
    held = tensorfile.read(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(held[name], tensor) for name, tensor in tensorfile.read(model / "model.safetensors").items())


def test_what_is_in_the_way_is_one_line_and_nothing_is_lost(hub: Hub, model: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")

    def fails(
        says: str, *more: str, address: str = hub.address, token: str | None = TOKEN, written: bool = False
    ) -> None:
        words = more or ("--push", PLACE)
        done = convert(address, tmp_path / "home", str(model), out, *words, token=token)
        assert done.returncode == 2 and says in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and not hub.commits
        assert Path(out).exists() == written

    fails("is no OWNER/NAME of a hub", "--push", "photos")
    fails("takes nothing from strangers: log in with `hf auth login`", token=None)
    fails("cannot be reached, so nothing can be pushed", address="http://127.0.0.1:9")
    hub.rights = 403
    fails("does not let you write me/photos", written=True)
    hub.rights, hub.refuses = 200, "/commit/main"
    (tmp_path / "out").rename(tmp_path / "kept")
    fails("was not taken", written=True)
