"""Units of work that several take at once: each is made once, and nobody waits while there is another to make."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from interlace_cli.core.cell_queue import Unit, make_units, name_lease, open_work, remove_abandoned_work
from interlace_cli.core.shared_cuts import Cut, SharedCuts
from interlace_cli.domain.progress import Silent
from interlace_cli.runtime import lease
from interlace_cli.runtime.lease import STALE, Lease, try_acquire


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def build(folder: Path, names: list[str], work: Callable[[str], None]) -> list[Unit[str]]:
    """Units whose files are in `folder`, made by `work`."""

    def find(path: Path) -> str | None:
        return path.read_text() if path.exists() else None

    def make(path: Path, held: Lease) -> str:
        work(path.name)
        path.write_text(path.name)
        return path.name

    def bind(path: Path) -> Unit[str]:
        return Unit(path.name, f"unit {path.name}", lambda: find(path), lambda held: make(path, held))

    return [bind(folder / name) for name in names]


def ignore(*words: Any) -> None:
    pass


def test_each_unit_is_made_once_by_many(tmp_path: Path) -> None:
    names, made, results = [f"u{number}" for number in range(12)], list[str](), list[dict[str, str]]()

    def work(name: str) -> None:
        made.append(name)
        time.sleep(0.01)

    def run() -> None:
        results.append(make_units(build(tmp_path, names, work), tmp_path, Silent(), ignore))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(made) == sorted(names)
    assert results == [{name: name for name in names}] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_nobody_waits_while_there_is_another_to_make(tmp_path: Path) -> None:
    """The first is another's, and its end comes when all others are made."""
    held, made, told = try_acquire(name_lease(tmp_path, "a"), "compare"), list[str](), Told()
    assert held is not None

    def finish() -> None:
        while made != ["b", "c"]:
            time.sleep(0.01)
        (tmp_path / "a").write_text("of another")
        held.release()

    thread = threading.Thread(target=finish)
    thread.start()
    numbers: list[tuple[int, int]] = []
    found = make_units(
        build(tmp_path, ["a", "b", "c"], made.append),
        tmp_path,
        told,
        lambda unit, there, number, total: numbers.append((number, total)),
    )
    thread.join(timeout=20)
    assert found == {"a": "of another", "b": "b", "c": "c"}
    assert numbers == [(1, 3), (2, 3)]
    start = "waiting for 1 cell that is being made by `interlace compare`"
    assert all(line.startswith(start) for line in told.said)


def test_what_a_dead_one_leaves_is_made_by_the_next(tmp_path: Path) -> None:
    held = try_acquire(name_lease(tmp_path, "a"), "compare")
    assert held is not None
    held._ended.set()
    then = time.time() - STALE - 30
    os.utime(held.file, (then, then))
    assert make_units(build(tmp_path, ["a"], ignore), tmp_path, Silent(), ignore) == {"a": "a"}


def test_an_error_ends_the_call_and_gives_the_unit_back(tmp_path: Path) -> None:
    def fail(name: str) -> None:
        raise ValueError(name)

    with pytest.raises(ValueError, match="a"):
        make_units(build(tmp_path, ["a", "b"], fail), tmp_path, Silent(), ignore)
    assert list(tmp_path.iterdir()) == []


def test_who_was_overtaken_leaves_the_unit_to_the_other(tmp_path: Path) -> None:
    """It stood still for long; when it goes on its files are gone."""
    told, others = Told(), list[Lease]()

    def stand_still(name: str) -> None:
        if others:
            return
        path = name_lease(tmp_path, name)
        then = time.time() - STALE - 30
        os.utime(path, (then, then))
        other = try_acquire(path, "compare")
        assert other is not None
        others.append(other)
        (tmp_path / name).write_text("of the other")
        other.release()
        raise FileNotFoundError(name)

    found = make_units(build(tmp_path, ["a"], stand_still), tmp_path, told, ignore)
    assert found == {"a": "of the other"}
    assert told.said[0] == "unit a: another process has taken it over, as this one stood still for too long"


def test_a_work_folder_goes_to_the_next_holder_under_another_name(tmp_path: Path) -> None:
    first = open_work(tmp_path, "cell", Lease(tmp_path, tmp_path, "a" * 32, ""), is_fresh=False)
    (first / "half").write_text("done")
    longer = open_work(tmp_path, "cell-longer", Lease(tmp_path, tmp_path, "c" * 32, ""), is_fresh=False)
    second = open_work(tmp_path, "cell", Lease(tmp_path, tmp_path, "b" * 32, ""), is_fresh=False)
    assert not first.exists()
    assert (second / "half").read_text() == "done"
    third = open_work(tmp_path, "cell", Lease(tmp_path, tmp_path, "d" * 32, ""), is_fresh=True)
    assert list(third.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == sorted([longer, third])


def test_work_that_nobody_goes_on_with_is_removed(tmp_path: Path) -> None:
    held = try_acquire(name_lease(tmp_path, "a.json"), "compare")
    assert held is not None
    kept, left = (open_work(tmp_path / "work", stem, held, is_fresh=False) for stem in "ab")
    remove_abandoned_work(tmp_path / "work", tmp_path, ".json")
    assert (kept.exists(), left.exists()) == (True, False)


def test_a_shared_cut_is_made_once_and_stays_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def build_step(folder: Path, cut: Cut) -> Any:
        def make(progress: Any, may_replace: bool) -> None:
            made.append(folder)
            folder.mkdir()

        return SimpleNamespace(find_state=lambda: SimpleNamespace(is_current=folder.exists()), make=make)

    cuts, cut = SharedCuts(tmp_path / "shared", build_step, Silent()), Cut((1, 2), "none", "k")
    dead: set[str] = set()
    monkeypatch.setattr(lease.Holder, "is_dead", property(lambda self: self.token in dead))
    with cuts.borrow(cut) as first:
        with cuts.borrow(cut) as second:
            assert first == second
        cuts.remove(cut)
        cuts.remove_all()
        assert first.exists(), "it is in use"
    assert made == [first]
    cuts.remove(cut)
    assert list(cuts.root.iterdir()) == []
    # Of a user that was killed.
    borrowed = cuts.borrow(cut)
    borrowed.__enter__()
    dead |= {holder.token for use in cuts.root.glob(".*.use-*") if (holder := lease.find_holder(use))}
    cuts.remove_all()
    assert not cuts.root.exists()
    borrowed.__exit__(None, None, None)
