"""A chain of commands on the demo, and what each of its steps leaves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forkserver import ForkServer
from steps import STEPS


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("logs")) as made:
        yield made


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every workspace of these tests lies in its turn: an evaluation names the checkpoints by their paths."""
    return tmp_path_factory.mktemp("place") / "w"


@pytest.fixture
def space(place: Path) -> Iterator[Path]:
    """The place, free."""
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def stages(
    server: ForkServer, place: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path, float]]:
    """Step -> the workspace in front of it and behind it, undisturbed, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("stages")
    before = folder / "empty"
    before.mkdir()
    found = {}
    for name, words in STEPS.items():
        after = folder / name
        shutil.copytree(before, place)
        began = time.monotonic()
        code, said = server.run(*words, "-w", place, "-q")
        assert code == 0, said
        place.rename(after)
        found[name] = (before, after, time.monotonic() - began)
        before = after
    return found
