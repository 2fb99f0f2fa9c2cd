"""Leases: never two holders, and no name that stays with the dead."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlace_cli.errors import InterlaceError
from interlace_cli.runtime import lease
from interlace_cli.runtime.lease import STALE, Lease, find_holder, leased, try_acquire

HOLD = """
import sys, time
from pathlib import Path
from interlace_cli.runtime.lease import try_acquire
held = try_acquire(Path(sys.argv[1]), "compare")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cell.lease"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process of this machine, which holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def take(path: Path) -> Lease:
    held = try_acquire(path, "compare")
    assert held is not None
    return held


def move(file: Path, **words: object) -> None:
    """As if it had been written elsewhere, or by another."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **words}))


def age(file: Path, seconds: float) -> None:
    """As if it had not been touched for so long."""
    then = time.time() - seconds
    os.utime(file, (then, then))


def test_one_holds_and_leaves_nothing_behind(path: Path) -> None:
    first = take(path)
    assert try_acquire(path, "compare") is None
    holder = find_holder(path)
    assert holder is not None
    assert holder.process == os.getpid()
    assert f"`interlace compare` (process {os.getpid()}, since 20" in holder.describe()
    first.release()
    assert list(path.parent.iterdir()) == []
    take(path).release()


def test_who_was_killed_holds_nobody_up(path: Path, other: subprocess.Popen[str]) -> None:
    assert try_acquire(path, "compare") is None
    other.send_signal(signal.SIGKILL)
    while "Z" not in Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2]:
        time.sleep(0.01)
    # Nobody has waited for it yet: it is a zombie.
    held = take(path)
    assert held.is_held
    held.release()
    assert list(path.parent.iterdir()) == []


def test_who_stands_still_is_not_taken_for_dead_before_its_time(path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGSTOP)
    age(path, STALE - 30)
    assert try_acquire(path, "compare") is None
    age(path, STALE + 30)
    assert take(path).is_held


def test_another_process_of_the_same_id_is_not_the_holder(path: Path) -> None:
    take(path)
    move(path, started=1.0)
    assert take(path).is_held


@pytest.mark.parametrize("words", [{"machine": "there"}, {"machine": "there", "process": 999_999_999}])
def test_of_another_host_only_the_time_counts(path: Path, words: dict[str, object]) -> None:
    """A process with the same id, or with one that nobody has here."""
    take(path)
    move(path, host="node7", **words)
    assert try_acquire(path, "compare") is None
    holder = find_holder(path)
    assert holder is not None
    assert " on node7, since" in holder.describe()
    age(path, STALE + 30)
    assert find_holder(path) is None
    assert take(path).is_held


def test_who_wakes_up_has_lost_it_and_takes_nothing_away(path: Path) -> None:
    first = take(path)
    age(path, STALE + 30)
    second = take(path)
    assert (first.is_held, second.is_held) == (False, True)
    first.release()
    assert second.is_held
    assert try_acquire(path, "compare") is None
    age(second.file, STALE + 30)
    third = take(path)
    assert (second.is_held, third.is_held) == (False, True)
    second.release()
    third.release()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("left", ["", "{", "[]", '{"token": "x"}'])
def test_a_file_that_was_not_written_to_its_end_is_held_for_a_time(path: Path, left: str) -> None:
    path.write_text(left)
    assert try_acquire(path, "compare") is None
    assert find_holder(path) is None
    age(path, STALE + 30)
    held = take(path)
    held.release()
    assert list(path.parent.iterdir()) == []


def test_who_died_over_its_release_holds_nobody_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = take(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *words, **more: (_ for _ in ()).throw(OSError("cut off")))
        held.release()
    end = path.with_name(f"{path.name}.{held.token}")
    assert try_acquire(path, "compare") is None
    move(end, started=1.0)
    second = take(path)
    assert (held.is_held, second.is_held) == (False, True)
    second.release()
    assert list(path.parent.iterdir()) == []


def test_it_is_touched_for_as_long_as_it_is_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.01)
    held = take(path)
    age(path, 1000)
    deadline = time.monotonic() + 20
    while time.time() - path.stat().st_mtime > 100:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    held.release()
    assert not path.exists()


def test_the_next_waits_and_says_for_whom(path: Path) -> None:
    first, said = take(path), list[str]()

    def wait() -> None:
        with leased(path, "prepare", said.append, "making the dataset"):
            said.append("inside")

    thread = threading.Thread(target=wait)
    thread.start()
    while not said:
        time.sleep(0.01)
    first.release()
    thread.join(timeout=20)
    assert said[1:] == ["inside"]
    assert said[0].startswith("waiting for `interlace compare` (process ")
    assert said[0].endswith(", which is making the dataset")


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InterlaceError, match=r"cannot write .*gone/a: No such file or directory"):
        try_acquire(tmp_path / "gone" / "a", "compare")


def test_of_many_at_once_that_die_now_and_then_one_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads take turns between any two calls to the file system, and die by a list of tokens."""
    dead: set[str] = set()
    inside: list[str] = []
    seen: list[int] = []
    monkeypatch.setattr(lease.Holder, "is_dead", property(lambda self: self.token in dead))

    def work(number: int) -> None:
        drawn = random.Random(number)
        for _ in range(40):
            while (held := try_acquire(path, "compare")) is None:
                time.sleep(0.0002 * drawn.random())
            inside.append(held.token)
            time.sleep(0.0005 * drawn.random())
            seen.append(len(inside))
            inside.remove(held.token)
            if drawn.random() < 0.4:
                held._ended.set()
                dead.add(held.token)
            else:
                held.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert seen == [1] * 320
    assert 40 < len(dead) < 280
