"""A small world that the tests of the verbs share: pictures and a finished run, never changed."""

from __future__ import annotations

import commands
import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> commands.World:
    return commands.world(tmp_path_factory.mktemp("world"))
