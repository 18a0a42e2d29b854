"""What every test starts from: one thread a worker, fixed seeds, and a working folder of its own."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # read when torch is imported, here and in every process that a test starts


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs land in the test's own folder: no test writes into the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def seeds() -> None:
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Larger data that the repository does not carry: $TESSELLA_SHARED_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("TESSELLA_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no shared data: set TESSELLA_SHARED_DATA, or put it in shared/data beside the repository")
    return folder
