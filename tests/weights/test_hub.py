"""Weights by name, from a hub that stands on this machine: cache, checksum, resuming, one line for what is wrong."""

from __future__ import annotations

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

import commands
import pytest
import torch

from tessella import tensorfile
from tessella.weights.catalog import CATALOG
from tessella.weights.guess import shapes_of

pytest.importorskip("huggingface_hub")
COMMIT = "c" * 40
REPO = CATALOG["deit_t16"].origins[0].id


class Hub(http.server.ThreadingHTTPServer):
    """Answers as the hub does, out of a folder OWNER/NAME/FILE."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.asked, self.gated, self.damaged, self.breaks = folder, list[str](), False, False, 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        where, _, name = self.path.partition("/resolve/main/")
        repo, path = self.server.folder / where[1:], self.server.folder / where[1:] / name
        if self.server.gated:
            return self._refuse(403, "GatedRepo")
        if not repo.is_dir():
            return self._refuse(404, "RepoNotFound")
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        data = data[::-1] if self.server.damaged else data
        first = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0] or 0)
        self.send_response(206 if first else 200)
        for key, value in (("ETag", f'"{digest}"'), ("X-Linked-ETag", f'"{digest}"'), ("X-Repo-Commit", COMMIT)):
            self.send_header(key, value)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if body and self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(data[first : first + len(data) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(data[first:])

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "hub").mkdir()
    server = Hub(tmp_path / "hub")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def deit(server: Hub, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = shapes_of(CATALOG["deit_t16"].architecture)
    tensors = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
    (server.folder / REPO).mkdir(parents=True)
    if not file.endswith(".index.json"):
        tensorfile.write(server.folder / REPO / file, tensors)
        return tensors
    parts = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for part in set(parts.values()):
        tensorfile.write(server.folder / REPO / part, {n: t for n, t in tensors.items() if parts[n] == part})
    (server.folder / REPO / file).write_text(json.dumps({"weight_map": parts}))
    return tensors


def ask(server: Hub, home: Path, *words: str, address: str | None = None) -> subprocess.CompletedProcess[str]:
    """`open_weights(word)` in a process of its own: where the hub lies is settled when its library is imported."""
    code = "import sys; from tessella.cli import main; main()"
    if words[0] == "open":
        code = (
            "import sys\nfrom tessella.errors import BadInput\nfrom tessella.weights.opened import open_weights\n"
            "try:\n    w = open_weights(*sys.argv[2:])\n    print(w.entry.name, len(w.tensors), w.sha256)\n"
            "except BadInput as error:\n    sys.exit(f'line: {error}')\n"
        )
    told = {"HF_ENDPOINT": address or server.address, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    told |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=os.environ | told, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json"])
def test_a_name_is_fetched_once_and_kept(hub: Hub, file: str, tmp_path: Path) -> None:
    tensors = deit(hub, file)
    first = ask(hub, tmp_path / "home", "open", "deit_t16")
    assert first.stdout.startswith(f"deit_t16 {len(tensors)} "), first.stderr
    loaded = [line for line in hub.asked if line.startswith("GET") and "safetensors" in line]
    again = ask(hub, tmp_path / "home", "open", REPO)  # its id on the hub is the same thing
    assert again.stdout == first.stdout, again.stderr
    assert loaded == [line for line in hub.asked if line.startswith("GET") and "safetensors" in line]
    offline = ask(hub, tmp_path / "home", "open", "deit_t16", address="http://127.0.0.1:9")
    assert offline.stdout == first.stdout, offline.stderr


def test_an_id_that_nobody_knows_says_itself_what_it_is(hub: Hub, tmp_path: Path) -> None:
    """Its configs are fetched beside the weights, and kept with them."""
    transformers = pytest.importorskip("transformers")
    folder = hub.folder / "someone" / "pets"
    names = {0: "cat", 1: "dog"}
    told = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**told, image_size=32, id2label=names, label2id={n: i for i, n in names.items()})
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    pictures = {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures | {"resample": 3}))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    picture = tmp_path / "a.png"
    from PIL import Image

    Image.effect_noise((50, 40), 50).convert("RGB").save(picture)
    for address in (None, "http://127.0.0.1:9"):
        done = ask(hub, tmp_path / "home", "predict", "someone/pets", str(picture), "--json", address=address)
        assert done.returncode == 0, done.stderr
        assert "read as config.json of transformers says: 32 x 32 px, squash, crop 1, bicubic" in done.stderr
        assert '"cat"' in done.stdout and '"dog"' in done.stdout
    asked = [line.split()[1].rpartition("/")[2] for line in hub.asked if line.startswith("GET")]
    assert sorted(asked) == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"vit"', '"resnet"'))
    done = ask(hub, tmp_path / "other home", "predict", "someone/pets", str(picture))
    assert done.returncode != 0 and "model_type is 'resnet', which is not known here" in done.stderr


def test_what_broke_off_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    deit(hub)
    hub.breaks = 1
    done = ask(hub, tmp_path / "home", "open", "deit_t16")
    if done.returncode:  # the library gave up: the next call goes on
        assert "did not arrive" in done.stderr and "try again" in done.stderr
        done = ask(hub, tmp_path / "home", "open", "deit_t16")
    assert done.stdout.startswith("deit_t16 "), done.stderr
    assert any("bytes=" in line and "bytes=0-" not in line for line in hub.asked), "nothing was sent twice"


def test_what_arrived_damaged_is_not_used(hub: Hub, tmp_path: Path) -> None:
    deit(hub)
    hub.damaged = True
    done = ask(hub, tmp_path / "home", "open", "deit_t16")
    assert done.returncode == 1 and "arrived damaged and was removed; try again" in done.stderr
    hub.damaged = False
    assert ask(hub, tmp_path / "home", "open", "deit_t16").stdout.startswith("deit_t16 ")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("offline", "cannot be reached"),
        ("gated", "wants its terms accepted"),
        ("unknown", "there is no timm/deit_tiny_patch16_224.fb_in1k on"),
        ("empty", "holds none of model.safetensors"),
    ],
)
def test_one_line_says_what_is_in_the_way(hub: Hub, what: str, says: str, tmp_path: Path) -> None:
    hub.gated = what == "gated"
    if what != "unknown":
        (hub.folder / REPO).mkdir(parents=True)
    address = "http://127.0.0.1:9" if what == "offline" else None
    done = ask(hub, tmp_path / "home", "open", "deit_t16", address=address)
    assert done.returncode == 1 and done.stderr.startswith("line: ") and says in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_name_that_is_none(tmp_path: Path, hub: Hub) -> None:
    done = ask(hub, tmp_path / "home", "open", "deit_t17")
    assert "is no model folder, run folder or weights file" in done.stderr and "did you mean 'deit_t16'" in done.stderr
    assert not hub.asked


def test_a_mistyped_path_is_no_name_of_a_hub(tmp_path: Path, hub: Hub) -> None:
    for wrong in ("photos/model.safetensors", "/nowhere/photos-1", "./photos-1"):
        done = ask(hub, tmp_path / "home", "open", wrong)
        assert f"{wrong} is no model folder, run folder or weights file" in done.stderr and not hub.asked
    done = ask(hub, tmp_path / "home", "open", "rusn/photos-1")
    assert "rusn/photos-1 is no folder or file here; as an id of a hub: there is no rusn/photos-1" in done.stderr


def test_training_starts_from_a_name_and_is_repeated_from_its_settings(hub: Hub, tmp_path: Path) -> None:
    deit(hub)
    photos = commands.photos(tmp_path / "photos")
    words = ["--size", "64", "--train.steps", "2", "--folder", str(tmp_path / "runs"), "--data.workers", "0"]
    done = ask(hub, tmp_path / "home", "train", str(photos), "--model", "deit_t16", "--name", "a", *words)
    assert done.returncode == 0 and "deit_t16: loaded 149 tensors; resized positions 14x14 to 4x4" in done.stderr
    run = json.loads((tmp_path / "runs/a/run.json").read_text())["run"]
    assert (run["weights"], run["weights_like"], run["licence"]) == ("deit_t16", "deit_t16", "apache-2.0")
    again = ask(hub, tmp_path / "home", "train", str(photos), "--weights", "deit_t16", "--name", "b", *words)
    assert again.returncode == 0, again.stderr
    a, b = (tensorfile.read(tmp_path / f"runs/{name}/model/model.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_real_weights_by_name_on_a_real_picture(hub: Hub, shared_data: Path, tmp_path: Path) -> None:
    (hub.folder / REPO).mkdir(parents=True)
    real = shared_data / "weights" / "deit_tiny_patch16_224_lnq8.safetensors"
    (hub.folder / REPO / "model.safetensors").symlink_to(real)
    flower = tmp_path / "a.png"
    from PIL import Image

    Image.effect_noise((300, 200), 50).convert("RGB").save(flower)
    done = ask(hub, tmp_path / "home", "predict", "deit_t16", str(flower), "--json")
    assert done.returncode == 0, done.stderr
    assert "read as deit_t16: 224 x 224 px" in done.stderr and len(json.loads(done.stdout)) == 1
