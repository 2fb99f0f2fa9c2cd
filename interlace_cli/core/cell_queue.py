"""Units of work that any number of processes share, on any number of hosts: each is made once, under a lease.

A unit is there when its file is. Who finds it held by another goes on with the next; only where nothing else is left to
make does it wait, to take over what a dead holder leaves.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from interlace_cli.domain.progress import Progress
from interlace_cli.runtime.lease import Lease, find_holder, try_acquire

A = TypeVar("A")
COMMAND = "compare"
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two looks at what others make."""


@dataclass(frozen=True)
class Unit(Generic[A]):
    """`name` is that of its file in the folder of all, `label` says in words what it is. `find` loads it, if it is
    there; `make` makes it and writes the file."""

    name: str
    label: str
    find: Callable[[], A | None]
    make: Callable[[Lease], A]


def make_units(
    units: Sequence[Unit[A]], folder: Path, progress: Progress, tell: Callable[[Unit[A], A, int, int], None]
) -> dict[str, A]:
    """All units by name: those that are there, those that are made here and those that others make meanwhile. `tell` is
    called with each that was made here, its number and how many lacked at the beginning."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {unit.name: there for unit in units if (there := unit.find()) is not None}
    total, pause, is_told = len(units) - len(found), FIRST_PAUSE, False
    while True:
        made = 0
        for unit in (unit for unit in units if unit.name not in found):
            result = _try(unit, folder, progress)
            if result is None:
                continue
            found[unit.name], is_own = result
            made += 1
            if is_own:
                tell(unit, found[unit.name], total - (len(units) - len(found)), total)
        if len(found) == len(units):
            return found
        if made:
            pause = FIRST_PAUSE
            continue
        if not is_told:
            progress.say(_describe_waiting([unit for unit in units if unit.name not in found], folder))
            is_told = True
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def name_lease(folder: Path, name: str) -> Path:
    """The lease on a unit lies beside its file: a client of NFS that has made one there looks anew whether the other is
    there."""
    return folder / f".{name}.lease"


def list_holders(units: Sequence[Unit[A]], folder: Path) -> dict[str, str]:
    """Unit -> who is making it, in words, as far as somebody is."""
    holders = {unit.name: find_holder(name_lease(folder, unit.name)) for unit in units}
    return {name: holder.describe() for name, holder in holders.items() if holder is not None}


def open_work(root: Path, stem: str, lease: Lease, is_fresh: bool) -> Path:
    """A folder for what a unit needs on the way. What a dead holder left of it is gone on from, unless `is_fresh`: it
    gets another name, so that a holder that only stood still finds its files no longer."""
    own = root / f"{stem}.{lease.token[:12]}"
    root.mkdir(parents=True, exist_ok=True)
    for left in sorted(root.glob(f"{stem}.*")):
        try:
            os.replace(left, own)
        except OSError:
            # Of two, the second; or one that is gone.
            shutil.rmtree(left, ignore_errors=True)
    if is_fresh:
        shutil.rmtree(own, ignore_errors=True)
    own.mkdir(exist_ok=True)
    return own


def remove_abandoned_work(root: Path, folder: Path, suffix: str) -> None:
    """Removes the folders of units that nobody is making: another call's, which was killed."""
    for left in sorted(root.glob("*.*")):
        lease = try_acquire(name_lease(folder, left.name.rpartition(".")[0] + suffix), COMMAND)
        if lease is not None:
            shutil.rmtree(left, ignore_errors=True)
            lease.release()


def _try(unit: Unit[A], folder: Path, progress: Progress) -> tuple[A, bool] | None:
    """The unit and whether it was made here; None while another makes it."""
    lease = try_acquire(name_lease(folder, unit.name), COMMAND)
    if lease is None:
        return None
    try:
        # Another may have finished it just before.
        there = unit.find()
        return (there, False) if there is not None else (unit.make(lease), True)
    except Exception:
        if lease.is_held:
            raise
        progress.say(f"{unit.label}: another process has taken it over, as this one stood still for too long")
        return None
    finally:
        lease.release()


def _describe_waiting(lacking: Sequence[Unit[A]], folder: Path) -> str:
    holders = sorted(set(list_holders(lacking, folder).values()))
    by = f" by {', '.join(holders)}" if holders else ""
    return f"waiting for {len(lacking)} {'cell that is' if len(lacking) == 1 else 'cells that are'} being made{by}"
