"""No network at import, or without being asked; nothing written but in the workspace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from forkserver import ForkServer
from steps import list_files

pytestmark = pytest.mark.long

Stages = dict[str, tuple[Path, Path, float]]


def test_the_chain_on_local_files_asks_nobody_and_writes_nowhere_else(
    server: ForkServer, stages: Stages, surroundings: Path, outside: set[str], space: Path
) -> None:
    """Home, caches, temporary files. The chain ran when `stages` was made."""
    earlier = set(list_files(surroundings))
    shutil.copytree(stages["export"][1], space)
    for words in (["--help"], ["report", "-w", space], ["status", "-w", space], ["env"], ["schema", "options.run"]):
        code, said = server.run(*words)
        assert code == 0, said
    assert outside == set()
    assert set(list_files(surroundings)) == earlier


@pytest.mark.parametrize("offline", ["1", "0"])
def test_the_hub_is_asked_only_if_it_may(
    offline: str, environment: dict[str, str], surroundings: Path, stages: Stages, tmp_path: Path
) -> None:
    """And that it cannot be reached is one sentence."""
    asked = surroundings / "network"
    asking: list[list[str | Path]] = [
        ["analyze", "owner/name", "--dataset", stages["prepare"][1] / "dataset"],
        ["plan", "--ratio", "0.25", "--model", "owner/name"],
        ["prune", "owner/name", "--drop-layers", "3"],
        ["run", "owner/name", "--data", "demo"],
        ["prepare", "finevision", "--max-samples", "9"],
    ]
    with ForkServer(tmp_path / "logs", environment | {"HF_HUB_OFFLINE": offline}) as server:
        for words in asking:
            code, said = server.run(*words, "-w", tmp_path / "w", "-q")
            assert code == 1, said
            assert "Traceback" not in said
            assert said.count("Error: ") == 1, said
            assert asked.exists() is (offline == "0")
            asked.unlink(missing_ok=True)
        assert not (tmp_path / "w").exists()
        # What can be refused without the Hub is: there is no dataset.
        assert server.run("analyze", "owner/name", "-w", tmp_path / "w")[0] == 1
        assert not asked.exists()
