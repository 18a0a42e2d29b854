"""The bundled demo set: what it holds, and that it appears whole or not at all."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from tessella.data.origins import demo
from tessella.data.origins.folder import open_folder
from tessella.data.pixels.decode import decode
from tessella.errors import BadInput


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.unpack(tmp_path_factory.mktemp("demo") / "deeper" / "fashion")


def test_unpacked_set_is_the_bundled_pixels(unpacked: Path) -> None:
    data = open_folder(unpacked)
    assert data.classes == tuple(sorted(demo.CLASSES)) and not data.notes
    for split, source in (("train", data.train), ("test", data.val)):
        assert source is not None
        assert np.bincount(source.labels).tolist() == [demo.COUNTS[split]] * 10
        packed = demo.pixels()[split]
        for i in range(0, len(source), 97):
            folder, name, file = source.ids[i].split("/")
            assert folder == split and decode(source.read(i), 1).shape == (28, 28, 1)
            want = packed[demo.CLASSES.index(name), int(file.removesuffix(".png"))]
            assert np.array_equal(decode(source.read(i), 1)[:, :, 0], want)


def test_pictures_differ_and_splits_share_none() -> None:
    flat = {split: {p.tobytes() for p in x.reshape(-1, 28 * 28)} for split, x in demo.pixels().items()}
    assert len(flat["train"]) == 10_000 and len(flat["test"]) == 2_000 and not flat["train"] & flat["test"]


def test_second_time_writes_nothing(unpacked: Path) -> None:
    before = [(p, p.stat().st_mtime_ns) for p in sorted(unpacked.rglob("*"))]
    assert demo.unpack(unpacked) == unpacked
    assert [(p, p.stat().st_mtime_ns) for p in sorted(unpacked.rglob("*"))] == before
    assert [p.name for p in unpacked.parent.iterdir()] == ["fashion"]


def test_incomplete_or_foreign_folder_is_refused(unpacked: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(unpacked, tmp_path / "copy")
    (copy / "test/bag/0003.png").unlink()
    (tmp_path / "file").write_text("mine")
    for path in (copy, tmp_path, tmp_path / "file"):
        with pytest.raises(BadInput, match="not the complete demo set"):
            demo.unpack(path)


def test_death_in_the_middle_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(folder: Path) -> None:
        (folder / "train").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_write", half)
    with pytest.raises(KeyboardInterrupt):
        demo.unpack(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_damaged_bundle_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SHA256", "0" * 64)
    with pytest.raises(BadInput, match="damaged"):
        demo.pixels()


def test_bundle_is_small_and_its_licence_is_there() -> None:
    bundled = files("tessella.data").joinpath("bundled")
    assert sum(len(f.read_bytes()) for f in bundled.iterdir() if f.is_file()) <= 6_000_000
    notice = (Path(__file__).parents[3] / "NOTICE").read_text()
    assert "Copyright (c) 2017 Zalando SE" in notice and "Permission is hereby granted, free of charge" in notice
