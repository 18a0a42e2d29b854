"""The card of a model folder: comes back as written, and every fault names file and key."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tessella import card as cards
from tessella.card import Card, Head, Preprocess
from tessella.durable import sha256_file
from tessella.errors import BadInput

IMAGE = Preprocess(size=(224, 192), crop=0.9, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
CARD = Card(
    architecture={"type": "ClassifierConfig", "backbone": {"type": "ViTConfig", "size": [1, 2]}, "classes": 3},
    heads=(Head(name="classes", task="classify", classes=("a", "b \u2013 ü", "c\udcff")),),
    preprocess={"image": IMAGE},
    licence="Apache-2.0",
    metrics={"top1": 0.1 + 0.2},
    provenance={"command": ["train", "x"], "commit": None, "seeds": {"a": 1}},
)


def test_a_card_comes_back_as_written(tmp_path: Path) -> None:
    cards.write(tmp_path, CARD)
    assert cards.read(tmp_path) == CARD and cards.read(str(tmp_path)) == CARD
    engine = replace(CARD, kind="engine", tokeniser={"kind": "bpe"}, files={"a.onnx": "0" * 64})
    cards.write(tmp_path, engine)
    assert cards.read(tmp_path) == engine
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"]
    plain = json.loads((tmp_path / "model.json").read_text(encoding="ascii"))
    assert plain["format_version"] == 1 and plain["preprocess"]["image"]["size"] == [224, 192]


def changed(path: str, value: Any) -> dict[str, Any]:
    """CARD as plain data with one dotted key set."""
    import dataclasses

    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(CARD)))
    *parents, last = path.split("/")
    place: Any = plain
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    return plain


FAULTS = [
    ("archtecture", {}, "'archtecture' is known here; did you mean 'architecture'"),
    ("format_version", 2, "made by a newer tessella"),
    ("format_version", 0, "format_version is 0"),
    ("format_version", True, "format_version is True"),
    ("format_version", "1", "format_version is '1'"),
    ("kind", "netwrk", "kind is 'netwrk'"),
    ("architecture", [], r"architecture is \[\]"),
    ("architecture", {}, "architecture has no 'type'"),
    ("heads", {"a": 1}, "heads"),
    ("heads/0/clases", [], "'clases'; did you mean 'classes'"),
    ("heads/0/classes", ["a", "b", "a"], "'a' twice"),
    ("heads/0/classes", [1], r"heads\[0\].classes\[0\] is 1"),
    ("heads/0/task", "sing", r"heads\[0\].task is 'sing'"),
    ("heads/0/temperature", 0, "temperature 0.0; give a number above 0"),
    ("preprocess/image/crop", 1.5, "crop is 1.5"),
    ("preprocess/image/crop", float("nan"), "preprocess.image.crop is nan"),
    ("preprocess/image/size", [224], r"preprocess.image.size is \[224\]"),
    ("preprocess/image/size", [0, 3], r"size is \[0, 3\]"),
    ("preprocess/image/mean", [0.5], "mean has 1 numbers; channels says 3"),
    ("preprocess/image/std", [0.5, 0.5, 0], "std is .*above 0"),
    ("preprocess/image/channels", 0, "channels is 0"),
    ("preprocess/image/decode", "half", "preprocess.image.decode is 'half'"),
    ("preprocess/image/resize", "letterbox", "crop is 0.9, and resize 'letterbox' has nothing to crop"),
    ("preprocess/image/resize", "fit", "preprocess.image.resize is 'fit'"),
    ("preprocess/image/fill", [1, 2], r"fill is \[1.0, 2.0\]; give one number or 3"),
    ("preprocess/image/fill", [256], r"fill is \[256.0\].*0 to 255"),
    ("preprocess/image/limits", [1, 1], r"limits is \[1.0, 1.0\]"),
    ("preprocess/image/limits", [0], "preprocess.image.limits"),
    ("preprocess/image/depth", "uint12", "preprocess.image.depth is 'uint12'"),
    ("metrics/top1", "good", "metrics.top1 is 'good'"),
    ("files", {"../model.safetensors": "0" * 64}, r"files has the key '../model.safetensors'"),
    ("files", {"/model.safetensors": "0" * 64}, "files has the key"),
    ("files", {"model.json": "0" * 64}, "files has the key"),
    ("files", {"a": "xyz"}, "files.a is 'xyz'"),
    ("licence", 3, "licence is 3"),
]


def test_cards_from_before_a_key_was_added_still_load(tmp_path: Path) -> None:
    """What they did not say is what was done then: every pixel decoded, 8 bits, no borders."""
    plain = changed("licence", "Apache-2.0")
    for key in ("depth", "limits", "fill"):
        del plain["preprocess"]["image"][key]
    del plain["heads"][0]["temperature"]
    (tmp_path / "model.json").write_text(json.dumps(plain))
    seen = cards.read(tmp_path).preprocess["image"]
    assert seen == IMAGE and (seen.depth, seen.limits, seen.fill, seen.decode) == ("uint8", None, None, "full")
    deep = replace(IMAGE, crop=1.0, resize="pad", depth="float32", limits=(-5.0, 9.0), fill=(0.0,), decode="scaled")
    cards.write(tmp_path, replace(CARD, preprocess={"image": deep}))
    assert cards.read(tmp_path).preprocess["image"] == deep


@pytest.mark.parametrize(("key", "value", "words"), FAULTS, ids=[f"{k}={str(v)[:20]}" for k, v, _ in FAULTS])
def test_every_fault_names_file_and_key(key: str, value: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(changed("licence", "Apache-2.0")))
    assert cards.read(tmp_path) == CARD
    (tmp_path / "model.json").write_text(json.dumps(changed(key, value)))
    with pytest.raises(BadInput, match=words) as caught:
        cards.read(tmp_path)
    text = str(caught.value)
    assert text.count(str(tmp_path / "model.json")) == 1 and "\n" not in text


def test_only_classes_have_a_temperature() -> None:
    assert Head(name="a", task="classify", classes=("x", "y"), temperature=2).temperature == 2
    with pytest.raises(BadInput, match=r"temperature 2; .* 1 unless it is of classes"):
        Head(name="price", task="number", temperature=2)


def test_what_is_no_card_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    with pytest.raises(BadInput, match=r"has no model\.json"):
        cards.read(tmp_path)
    plain = changed("licence", None)
    del plain["architecture"]
    for data in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000, json.dumps(plain).encode()):
        path.write_bytes(data)
        with pytest.raises(BadInput, match=r"model\.json") as caught:
            cards.read(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_card_that_is_no_json_is_not_written(tmp_path: Path) -> None:
    cards.write(tmp_path, CARD)
    for provenance in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(BadInput, match="cannot be written as JSON"):
            cards.write(tmp_path, replace(CARD, provenance=provenance))
    assert cards.read(tmp_path) == CARD


def test_listed_files_are_verified(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    card = replace(CARD, files={file.name: sha256_file(file)})
    cards.verify(tmp_path, card)
    file.write_bytes(b"weighty")
    with pytest.raises(BadInput, match=r"model\.safetensors is damaged"):
        cards.verify(tmp_path, card)
    file.unlink()
    with pytest.raises(BadInput, match=r"model\.safetensors is missing"):
        cards.verify(tmp_path, card)


def test_the_card_needs_no_torch(repository: Path) -> None:
    code = "import sys, tessella.card, tessella.durable; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"classes": ("a",)}, "says a number and has 1 classes"),
        ({"scale": 0.0}, "scale above 0"),
        ({"mean": float("nan")}, "finite numbers"),
    ],
)
def test_a_number_has_a_unit_and_no_classes(given: dict[str, object], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        Head(name="price", task="number", **given)  # type: ignore[arg-type]
    assert Head(name="price", task="number", mean=3.0, scale=2.0).outputs == 1
    assert Head(name="tags", task="tags", classes=("a", "b")).outputs == 2
