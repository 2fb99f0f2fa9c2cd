"""No network at import, or without being asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from forkserver import ForkServer
from steps import STEPS

WATCH = """
import os, socket
connect = socket.socket.connect
def look(self, address):
    with open(os.environ["INTERLACE_NETWORK"], "a") as file:
        file.write(f"{address}\\n")
    raise OSError(101, "Network is unreachable")
socket.socket.connect = look
socket.socket.connect_ex = look
socket.getaddrinfo = lambda *address, **more: look(None, address)
"""


HOMES = ("HOME", "HF_HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which every attempt to reach another machine is written down, and fails; with homes of its own."""
    for name in ("site", *HOMES):
        (tmp_path / name).mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH)
    paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    return {
        **{name: str(tmp_path / name) for name in HOMES},
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "INTERLACE_NETWORK": str(tmp_path / "network"),
    }


def test_the_chain_on_local_files_asks_nobody_and_writes_nowhere_else(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with ForkServer(tmp_path / "logs", environment | {"HF_HUB_OFFLINE": "0"}) as server:
        made = {path for name in HOMES for path in (tmp_path / name).rglob("*")}
        for words in (["--help"], *STEPS.values(), ["report"]):
            more = [] if words == ["--help"] else ["-w", tmp_path / "w", "-q"]
            code, said = server.run(*words, *more)
            assert code == 0, said
        left = {path for name in HOMES for path in (tmp_path / name).rglob("*") if path.is_file()} - made
    assert not left
    assert {path.name for path in tmp_path.iterdir()} == {*HOMES, "site", "logs", "w"}, "no network"


@pytest.mark.parametrize("offline", ["1", "0"])
def test_the_hub_is_asked_only_if_it_may(offline: str, environment: dict[str, str], tmp_path: Path) -> None:
    """And that it cannot be reached is one sentence."""
    asked = tmp_path / "network"
    with ForkServer(tmp_path / "logs", environment | {"HF_HUB_OFFLINE": offline}) as server:
        for words in (["analyze", "owner/name"], ["prepare", "finevision", "--max-samples", "9"]):
            code, said = server.run(*words, "-w", tmp_path / "w", "-q")
            assert code == 1, said
            assert "Traceback" not in said
            assert said.count("Error: ") == 1, said
            assert asked.exists() is (offline == "0")
            asked.unlink(missing_ok=True)
