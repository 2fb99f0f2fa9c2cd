"""Disks that are full, folders that cannot be written or that vanish, clocks that run backwards, two at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from forkserver import ForkServer
from steps import STEPS, list_files

pytestmark = pytest.mark.long

Stages = dict[str, tuple[Path, Path, float]]


def say_one_sentence(code: int, said: str) -> None:
    """On stderr, of a call that failed."""
    assert code == 1, said
    assert "Traceback" not in said
    assert "bug of interlace" not in said
    assert said.count("Error: ") == 1, said


@pytest.mark.parametrize("name", STEPS)
def test_a_disk_that_is_full_and_then_is_not(name: str, server: ForkServer, stages: Stages, space: Path) -> None:
    """By a limit on the size of files; a write beyond it fails as on a full disk."""
    before, after, _ = stages[name]
    shutil.copytree(before, space)
    whole = list_files(after)
    largest = max(len(data) for file, data in whole.items() if file not in list_files(before))
    failed = 0
    for limit in (0, largest - 1):
        code, said = server.run(*STEPS[name], "-w", space, "-q", files=limit)
        if code:
            say_one_sentence(code, said)
            failed += 1
        left = {file: data for file, data in list_files(space).items() if "/." not in f"/{file}"}
        assert left.keys() <= {*whole, "analysis.search.json", "eval.answers.json", "eval.answers.0.jsonl"}
    assert failed == 2
    code, said = server.run(*STEPS[name], "-w", space, "-q")
    if "eval.json exists already" in said:
        # The report behind it did not fit.
        code, said = server.run("report", "-w", space, "-q")
    assert code == 0, said
    assert list_files(space) == whole


@pytest.mark.parametrize("name", STEPS)
def test_a_workspace_that_is_read_only(name: str, server: ForkServer, stages: Stages, space: Path) -> None:
    before, _, _ = stages[name]
    shutil.copytree(before, space)
    for path in (space, *space.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    files = list_files(space)
    code, said = server.run(*STEPS[name], "-w", space, "-q", is_bound=True)
    say_one_sentence(code, said)
    assert str(space) in said
    assert list_files(space) == files
    for path in (space, *space.rglob("*")):
        path.chmod(0o755)


@pytest.mark.parametrize("name", ["prepare", "analyze", "prune", "finetune", "eval", "export"])
def test_a_workspace_that_is_removed_meanwhile(name: str, server: ForkServer, stages: Stages, space: Path) -> None:
    before, _, seconds = stages[name]
    shutil.copytree(before, space)
    running = server.start(*STEPS[name], "-w", space, "-q")
    time.sleep(random.Random(name).uniform(0.05, 0.95 * seconds))
    gone = space.with_name("gone")
    space.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    code, said = running.wait()
    if code:
        say_one_sentence(code, said)


@pytest.mark.parametrize("year", [1971, 2099])
def test_clocks_decide_nothing(year: int, server: ForkServer, stages: Stages, space: Path) -> None:
    """What is up to date is told by content: files may be as old, or as far in the future, as they like."""
    shutil.copytree(stages["prune"][1], space)
    then = (year - 1970) * 31_556_952
    for path in space.rglob("*"):
        os.utime(path, (then, then))
    files = list_files(space)
    code, said = server.run(*STEPS["analyze"], "-w", space, "-q")
    assert code == 0, said
    assert list_files(space) == files


def wait_for(log: Path, words: str, deadline: float) -> str:
    """What is said until `words` are, or until it is too late; the file may not be there yet."""
    while words not in (said := log.read_text() if log.exists() else "") and time.monotonic() < deadline:
        time.sleep(0.02)
    return said


def test_the_second_command_waits_and_says_for_whom(server: ForkServer, stages: Stages, space: Path) -> None:
    before, after, _ = stages["finetune"]
    shutil.copytree(before, space)
    first = server.start(*STEPS["finetune"], "-w", space, "-q")
    deadline = time.monotonic() + 40
    wait_for(space / ".lock", "}", deadline)
    first.kill(signal.SIGSTOP)
    with ForkServer(space.parent / "other") as other:
        try:
            second = other.start("export", space / "pruned", "-w", space)
            said = wait_for(second.log, "waiting for", deadline)
            assert f"waiting for `interlace finetune` (process {first.process}, since" in said
            assert not (space / "export").exists()
        finally:
            # One that stands still would hold up the second, and all tests behind.
            first.kill(signal.SIGCONT)
            code, said = first.wait()
        assert code == 0, said
        code, said = second.wait()
        assert code == 0, said
    assert not (space / ".lock").exists()
    shutil.rmtree(space / "export")
    assert list_files(space) == list_files(after)


def test_a_lock_of_the_dead_holds_nobody(server: ForkServer, stages: Stages, space: Path) -> None:
    shutil.copytree(stages["plan"][0], space)
    (space / ".lock").write_text('{"command": "finetune", "process": 1, "since": "yesterday"}')
    code, said = server.run(*STEPS["plan"], "-w", space)
    assert (code, "waiting" in said) == (0, False)
    assert not (space / ".lock").exists()


def test_many_at_once_take_turns(tmp_path: Path) -> None:
    """Also while the one before removes the folders that it had made."""
    from interlace_cli.runtime.lock import locked

    inside, seen, said = 0, [], list[str]()

    def work(number: int) -> None:
        nonlocal inside
        with locked(tmp_path / "a" / "b", f"command-{number}", said.append):
            inside += 1
            seen.append(inside)
            time.sleep(0.0005)
            inside -= 1

    for _ in range(100):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
    assert seen == [1] * 1200
    assert said


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_folder_that_is_removed_meanwhile_is_held_all_the_same(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interlace_cli.runtime import lock

    folder, left = tmp_path / "w", [True]
    folder.mkdir()

    def remove_first(path: str | Path, *rest: int) -> int | None:
        if left and Path(path).is_relative_to(folder):
            left.clear()
            if call == "open":
                folder.rmdir()
                return real(path, *rest)
            try:
                return real(path, *rest)
            finally:
                folder.rmdir()
        return real(path, *rest)

    real: Callable[..., int | None] = getattr(os, call)
    monkeypatch.setattr(os, call, remove_first)
    with lock.locked(folder, "plan", print):
        assert (folder / ".lock").exists()
        assert not left


def test_what_prepare_has_read_is_gone_on_from_only_as_it_was_written(small_dataset: Path, tmp_path: Path) -> None:
    """A piece with a flipped bit, or a mark that is broken, is read again."""
    from interlace_cli.data.source import Selection
    from interlace_cli.data.sources import SourceLocation, open_source
    from interlace_cli.data.staging import Staging, stage_units
    from interlace_cli.domain.progress import Silent

    selection = Selection(max_samples=60)
    source = open_source("demo", SourceLocation())
    draw, staging = source.draw(selection), Staging(tmp_path / "dataset", "key")
    stage_units(source, draw, selection, staging, Silent(), 2)
    units = range(len(draw.units))
    assert all(staging.find(number) is not None for number in units)
    rows = next(staging.folder.glob("unit-000000*.parquet"))
    mark = staging.folder / f"unit-{units[-1]:06d}.json"
    whole = rows.read_bytes(), mark.read_bytes()
    data = bytearray(whole[0])
    data[len(data) // 2] ^= 4
    rows.write_bytes(data)
    assert staging.find(0) is None
    rows.write_bytes(whole[0])
    assert staging.find(0) is not None
    mark.write_bytes(whole[1][:-9])
    assert staging.find(units[-1]) is None
    stage_units(source, draw, selection, staging, Silent(), 2)
    assert mark.read_bytes() == whole[1]


def test_drafts_that_the_dead_left_are_cleared_and_no_others(tmp_path: Path) -> None:
    """Of another machine, which may have this one's name, the processes are not known: its drafts stay for a month."""
    from interlace_cli.io.files import FORGOTTEN, _here, folder_being_made, write_atomically

    machines = {"here": _here(), "elsewhere": "0123456789ab"}
    dead, living = 999_999_999, os.getpid()
    kept, gone = [], []
    for target in ("plan.json", "eval.json", "pruned", "healed"):
        for process, machine, is_old in product((dead, living), machines, (False, True)):
            draft = tmp_path / f".{target}.{machines[machine]}.{process}.abc{is_old:d}efgh"
            if target in ("pruned", "healed"):
                draft.mkdir()
                (draft / "model.safetensors").write_text("half")
            else:
                draft.write_text("half")
            for path in (*draft.glob("*"), draft) if is_old else ():
                os.utime(path, (1, time.time() - FORGOTTEN - 9))
            is_gone = process == dead if machine == "here" else is_old
            (gone if is_gone and target in ("plan.json", "pruned") else kept).append(draft.name)
    write_atomically(tmp_path / "plan.json", b"whole")
    with folder_being_made(tmp_path / "pruned"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "pruned", *kept}
    assert len(gone) == 8


def test_a_draft_in_use_on_another_machine_is_not_forgotten_by_its_folder(tmp_path: Path) -> None:
    from interlace_cli.io.files import FORGOTTEN, folder_being_made

    draft = tmp_path / ".pruned.0123456789ab.7.abcdefgh"
    draft.mkdir()
    (draft / "model.safetensors").write_text("half")
    os.utime(draft, (1, time.time() - FORGOTTEN - 9))
    with folder_being_made(tmp_path / "pruned"):
        pass
    assert draft.exists()
