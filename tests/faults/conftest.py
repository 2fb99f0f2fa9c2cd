"""A chain of commands on the demo, and what each of its steps leaves."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forkserver import ForkServer
from steps import STEPS, list_files

WATCH = """
import os, socket
def look(self, address):
    with open(os.environ["INTERLACE_NETWORK"], "a") as file:
        file.write(f"{address}\\n")
    raise OSError(101, "Network is unreachable")
socket.socket.connect = look
socket.socket.connect_ex = look
socket.getaddrinfo = lambda *address, **more: look(None, address)
def import_program():
    from interlace_cli.cli import app
os.register_at_fork(before=import_program)
"""
"""What every Python of these tests begins with. The fork server imports the program before its first fork: in a fork of
so large a process that takes a second or more, in which Ctrl-C would meet an import and no command."""
HOMES = ("HOME", "HF_HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the homes of all that these tests start, and with `network` if one of it tried another machine."""
    folder = tmp_path_factory.mktemp("surroundings")
    for name in ("site", *HOMES):
        (folder / name).mkdir()
    (folder / "site" / "sitecustomize.py").write_text(WATCH)
    return folder


@pytest.fixture(scope="session")
def environment(surroundings: Path) -> dict[str, str]:
    """One in which every attempt to reach another machine is written down, and fails; with homes of its own."""
    paths = [str(surroundings / "site"), os.environ.get("PYTHONPATH", "")]
    return {
        **{name: str(surroundings / name) for name in HOMES},
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "INTERLACE_NETWORK": str(surroundings / "network"),
        "HF_HUB_OFFLINE": "0",
    }


@pytest.fixture(scope="session")
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("logs"), environment) as made:
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
def outside() -> set[str]:
    """What the undisturbed chain has left in its homes and caches and among the temporary files. One that is
    killed may leave some."""
    return set()


@pytest.fixture(scope="session")
def stages(
    server: ForkServer, place: Path, surroundings: Path, outside: set[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path, float]]:
    """Step -> the workspace in front of it and behind it, undisturbed, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("stages")
    before = folder / "empty"
    before.mkdir()
    found = {}
    for name, words in STEPS.items():
        after = folder / name
        shutil.copytree(before, place)
        earlier, began = set(list_files(surroundings)), time.monotonic()
        code, said = server.run(*words, "-w", place, "-q")
        assert code == 0, said
        outside |= set(list_files(surroundings)) - earlier
        place.rename(after)
        found[name] = (before, after, time.monotonic() - began)
        before = after
    return found
