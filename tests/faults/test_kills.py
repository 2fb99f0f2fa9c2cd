"""Killed at any moment, the same command finishes, and what it leaves is what it leaves undisturbed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from forkserver import ForkServer
from steps import STEPS, list_files

pytestmark = pytest.mark.long

Stages = dict[str, tuple[Path, Path, float]]
SOAK = int(os.environ.get("INTERLACE_KILLS", "18"))
"""Kills of each step under `soak`."""


def kill_often(server: ForkServer, stages: Stages, name: str, kills: int, space: Path) -> None:
    before, after, seconds = stages[name]
    shutil.copytree(before, space)
    whole, rng = list_files(after), random.Random(name)
    done = 0
    while done < kills:
        running = server.start(*STEPS[name], "-w", space, "-q")
        time.sleep(rng.uniform(0.01, 1.1 * seconds))
        running.kill(signal.SIGKILL)
        code, said = running.wait()
        assert code in (0, -signal.SIGKILL) or "exists already" in said, said
        done += 1
        left = {name: data for name, data in list_files(space).items() if "/." not in f"/{name}"}
        assert left.keys() <= {*whole, *UNFINISHED}
        assert all(data == whole[name] for name, data in left.items() if name not in (*CHANGING, *UNFINISHED))
        if code != -signal.SIGKILL and done < kills:
            # It was faster: begun again from the start.
            shutil.rmtree(space)
            shutil.copytree(before, space)
    code, said = server.run(*STEPS[name], "-w", space, "-q")
    assert code == 0 or "exists already" in said, said
    found = list_files(space)
    assert found.keys() == whole.keys(), "nothing more is left, hidden or not"
    assert not [name for name in whole if found[name] != whole[name]]


CHANGING = ("analysis.json", "analysis.safetensors")
"""What a step writes more than once, each time whole."""

UNFINISHED = ("analysis.search.json", "eval.answers.json", "eval.answers.0.jsonl")
"""What a step keeps to go on from, and removes at its end."""


@pytest.mark.parametrize("name", STEPS)
def test_two_kills_of_each_step(name: str, server: ForkServer, stages: Stages, space: Path) -> None:
    kill_often(server, stages, name, 2, space)


@pytest.mark.soak
@pytest.mark.parametrize("name", STEPS)
def test_many_kills_of_each_step(name: str, server: ForkServer, stages: Stages, space: Path) -> None:
    kill_often(server, stages, name, SOAK, space)


@pytest.mark.parametrize("name", STEPS)
def test_ctrl_c_ends_within_two_seconds_and_the_same_command_goes_on(
    name: str, server: ForkServer, stages: Stages, space: Path
) -> None:
    before, after, seconds = stages[name]
    rng = random.Random(name)
    shutil.copytree(before, space)
    running = server.start(*STEPS[name], "-w", space, "-q")
    time.sleep(rng.uniform(0.02, 0.9 * seconds))
    running.kill(signal.SIGINT)
    began = time.monotonic()
    code, said = running.wait()
    assert code in (0, 130) or "exists already" in said, said
    assert time.monotonic() - began < 2.5
    if code == 130:
        lines = said.strip().splitlines()
        assert len(lines) == 1, said
        assert lines[0].endswith("the same command goes on.")
    code, said = server.run(*STEPS[name], "-w", space, "-q")
    assert code == 0 or "exists already" in said, said
    assert list_files(space) == list_files(after)


RUN = ["run", "demo", "--max-samples", "120", "--epochs", "0.5", "--no-speed", "--save-every", "1"]


@pytest.fixture(scope="module")
def whole_run(
    server: ForkServer, place: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], float]:
    """What `run` leaves undisturbed, and the seconds that it took."""
    began = time.monotonic()
    code, said = server.run(*RUN, "-w", place, "-q")
    assert code == 0, said
    seconds, after = time.monotonic() - began, tmp_path_factory.mktemp("run") / "w"
    place.rename(after)
    return list_files(after), seconds


def kill_run_often(
    server: ForkServer, whole_run: tuple[dict[str, bytes], float], kills: int, space: Path, rng: random.Random
) -> None:
    """Each call goes on from what the one before has left."""
    whole, seconds = whole_run
    for number in range(kills):
        running = server.start(*RUN, "-w", space, "-q")
        time.sleep(rng.uniform(0.05, seconds))
        running.kill((signal.SIGKILL, signal.SIGINT)[number % 2])
        code, said = running.wait()
        assert code in (0, 130, -signal.SIGKILL), said
        left = {name: data for name, data in list_files(space).items() if "/." not in f"/{name}"}
        assert left.keys() <= {*whole, *UNFINISHED}
        changing = (*CHANGING, *UNFINISHED, "report.html")
        assert all(data == whole[name] for name, data in left.items() if name not in changing)
        if code == 0:
            shutil.rmtree(space)
    code, said = server.run(*RUN, "-w", space, "-q")
    assert code == 0, said
    found = list_files(space)
    assert found.keys() == whole.keys(), "nothing more is left, hidden or not"
    assert not [name for name in whole if found[name] != whole[name]]


def test_a_run_that_is_killed_goes_on(
    server: ForkServer, whole_run: tuple[dict[str, bytes], float], space: Path
) -> None:
    kill_run_often(server, whole_run, 4, space, random.Random("run"))


@pytest.mark.soak
def test_a_run_that_is_killed_many_times_goes_on(
    server: ForkServer, whole_run: tuple[dict[str, bytes], float], space: Path
) -> None:
    for number in range(SOAK):
        kill_run_often(server, whole_run, 6, space, random.Random(number))
        shutil.rmtree(space)
