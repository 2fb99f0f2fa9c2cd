"""A step that is started as a child of each of a launcher's processes: here two threads that share a store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from interlace_cli.core.spread import has_to_spread
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.runtime import launch, worker_pool
from interlace_cli.runtime.processes import LOST, Processes, find_processes
from interlace_cli.runtime.worker_pool import WorkerPool

JOB = {"command": "analyze", "config": '{"samples": 3}', "port": 1234}
LIVE = "import os, time; file = int(os.environ['PULSE'])\nfor _ in range(600): os.write(file, b'.'); time.sleep(0.05)"


class Store(dict[str, str]):
    """As torch's."""

    def compare_set(self, name: str, expected: str, value: str) -> None:
        if self.get(name, "") == expected:
            self[name] = value

    def check(self, names: list[str]) -> bool:
        return all(name in self for name in names)


class Meeting:
    """An exchange between threads."""

    def __init__(self, size: int) -> None:
        self.store, self.barrier, self.said = Store(), Barrier(size, timeout=30), {}  # type: ignore[var-annotated]

    def of(self, rank: int) -> Any:
        meeting = self

        class Own:
            store = meeting.store

            def gather(self, topic: str, value: Any) -> list[Any]:
                meeting.said[rank] = (topic, value)
                meeting.barrier.wait()
                found = [meeting.said[one] for one in sorted(meeting.said)]
                meeting.barrier.wait()
                assert {name for name, _ in found} == {topic}
                return [one for _, one in found]

        return Own()


def run(scripts: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """How a job ends on each rank whose child runs this script: a code, or what was raised; and what was started."""
    started: list[Any] = []

    def start(words: Any, place: Any, on_machine: int, pulse: int, stdout: Any, stderr: Any) -> Any:
        given = Path(words[2]).read_text()
        started.append((int(place["RANK"]), words[0], given, place["MASTER_PORT"], stdout))
        command = [sys.executable, "-c", scripts[int(place["RANK"])]]
        environment = {**os.environ, "PULSE": str(pulse)}
        return subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr, pass_fds=(pulse,))

    monkeypatch.setattr(worker_pool, "start_process", start)
    meeting, size = Meeting(len(scripts)), len(scripts)

    def work(rank: int) -> Any:
        place = {"RANK": str(rank), "MASTER_ADDR": "somewhere", "MASTER_PORT": "1"}
        pool = WorkerPool(Processes(rank, size, rank), meeting.of(rank), place)
        try:
            return pool.run(JOB)
        except (InterlaceError, KeyboardInterrupt) as error:
            return error

    with ThreadPoolExecutor(size) as threads:
        ended = list(threads.map(work, range(size)))
    return ended, sorted(started)


def test_each_process_starts_its_child(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, started = run(["", "", ""], monkeypatch)
    assert ended == [0, 0, 0]
    config, quiet = '{"samples": 3}', subprocess.DEVNULL
    assert started == [(rank, "analyze", config, "1234", quiet) for rank in range(3)]


def test_the_words_of_the_child_that_failed_first_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other one, which waits for it, is ended after some time."""
    monkeypatch.setattr(worker_pool, "GRACE", 0.3)
    ended, _ = run([LIVE, "import sys; sys.exit('it is broken')"], monkeypatch)
    assert ended == [1, 1]
    assert capsys.readouterr().err.split() == ["it", "is", "broken"]


@pytest.mark.parametrize("first", ["", f"import sys; sys.exit({LOST})"])
def test_a_child_that_is_killed_is_named(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, _ = run([first, "import os; os.kill(os.getpid(), 9)"], monkeypatch)
    assert "process 2 of 2 was killed (SIGKILL)" in str(ended[0])
    assert ended[1] == -9


def test_a_child_that_is_interrupted_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, _ = run(["import sys; sys.exit(130)", f"import sys; sys.exit({LOST})"], monkeypatch)
    assert isinstance(ended[0], KeyboardInterrupt)


def test_a_child_that_hangs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SILENCE", 1.0)
    monkeypatch.setattr(worker_pool, "GRACE", 0.3)
    began = time.monotonic()
    ended, _ = run([LIVE, "import time; time.sleep(60)"], monkeypatch)
    assert "process 2 of 2 has not answered" in str(ended[0])
    assert ended[1] == 1
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (UsageError("no."), 2), (InterlaceError("no."), 1), (ValueError("no"), 1), (KeyboardInterrupt(), 130)],
    ids=str,
)
def test_the_others_go_when_the_first_does(
    error: BaseException | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it leads it counts as a process by itself, though the launcher's variables say otherwise."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    said: list[Any] = []

    class Alone:
        def gather(self, topic: str, value: Any) -> list[Any]:
            said.append(value)
            return [value]

    monkeypatch.setattr("interlace_cli.runtime.exchange.open_exchange", Alone)

    def lead() -> None:
        with worker_pool.leading() as pool:
            assert worker_pool.find_pool() is pool
            assert not find_processes().is_launched
            assert has_to_spread(2)
            assert "TORCHELASTIC_RUN_ID" not in os.environ
            assert pool.place == {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
            if error is not None:
                raise error

    if error is None:
        lead()
    else:
        with pytest.raises(type(error)):
            lead()
    assert said == [{"end": code}]
    assert worker_pool.find_pool() is None
    assert find_processes().size == 2


def test_the_others_start_what_is_said_and_end_with_the_code_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    said, ran = [JOB, JOB, {"end": 3}], []

    class Told:
        def gather(self, topic: str, value: Any) -> list[Any]:
            return [said.pop(0), None]

    monkeypatch.setattr("interlace_cli.runtime.exchange.open_exchange", Told)
    monkeypatch.setattr(WorkerPool, "run", lambda pool, job: ran.append(job))
    assert worker_pool.follow() == 3
    assert ran == [JOB, JOB]
