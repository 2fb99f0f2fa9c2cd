"""A step that several processes make together: before they begin they agree on what is made of what, and see the same
files; and the first of them alone looks what is there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from interlace_cli.core.step import INPUTS, State, Step, show_value
from interlace_cli.domain.record import Artifact
from interlace_cli.errors import DisagreementError, UsageError
from interlace_cli.options.build import list_entries
from interlace_cli.options.option import Options, to_plain
from interlace_cli.runtime.agreement import find_versions, name_process
from interlace_cli.runtime.exchange import (
    find_hosts,
    gather_values,
    refuse_difference,
    take_from_main,
)
from interlace_cli.runtime.processes import find_processes

A = TypeVar("A", bound=Artifact)
PATIENCE = 10.0
"""Seconds for a file to appear on another host: network file systems show new ones late."""


def begin_together(step: Step[A]) -> State:
    """What the first process finds at the step's path, on all of them. Raises DisagreementError, with the same sentence
    on each, if they would make different things, or if they do not see the first one's files and the step has not been
    told that they need not."""
    with _marked(step) as marker:
        sees = marker is None or _is_seen(marker)
        said = gather_values(step.name, {"facts": {**find_versions(), **describe_step(step)}, "sees": sees})
    hosts = find_hosts()
    # First, since other inputs are often what comes of it.
    blind = next((rank for rank, one in enumerate(said) if not one["sees"]), None)
    if blind is not None:
        raise DisagreementError(
            f"the workspace is not shared: what {name_process(0, len(said), hosts[0])} writes in"
            f" {step.out.absolute().parent} is not there on {name_process(blind, len(said), hosts[blind])}.",
            "Give all of them one folder of a shared file system, or --local-workspaces where that can be given: then"
            " each host has its own.",
        )
    refuse_difference([one["facts"] for one in said], hosts)
    return take_from_main("what is there", step.find_state)


def describe_step(step: Step[Any]) -> dict[str, str]:
    """All that the processes have to agree on, name as in a sentence -> value; the most telling first."""
    settings = {f"the setting {name}": show_value(value) for name, value in step.settings.items()}
    inputs = {INPUTS.get(name, name): value for name, value in step.inputs.items()}
    return {**inputs, **step.find_facts(), **settings}


def describe_call(options: Options, device: str, dtype: str) -> dict[str, str]:
    """What each process was told, but where things lie, which hosts may have in other places; and what `device` and
    `dtype` are there."""
    from interlace_cli.runtime.device import choose_device, choose_dtype

    told = {
        entry.flag: show_value(to_plain(getattr(options, entry.name)))
        for entry in list_entries(type(options))
        if entry.slot.kind is not Path and not entry.slot.option.is_argument
    }
    try:
        here = choose_device(device)
        found = {"the device": here.partition(":")[0], "the dtype": str(choose_dtype(dtype, here))}
    except UsageError as error:
        found = {"the device": f"none ({error.what.rstrip('.')})"}
    return {**told, **found}


@contextmanager
def _marked(step: Step[Any]) -> Iterator[Path | None]:
    """A file that the first process writes beside the step's output, as each process would find it; None where it need
    not be found."""
    if step.is_local:
        yield None
        return
    folder = step.out.absolute().parent
    made: list[Path] = []

    def write() -> str:
        made.extend(path for path in (folder, *folder.parents) if not path.exists())
        folder.mkdir(parents=True, exist_ok=True)
        name = f".{step.out.name}.{os.urandom(8).hex()}.marker"
        (folder / name).touch()
        return name

    marker = folder / take_from_main("a marker", write)
    try:
        yield marker
    finally:
        if find_processes().is_main:
            with suppress(OSError):
                marker.unlink()
                for path in made:
                    path.rmdir()


def _is_seen(path: Path) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        with suppress(OSError):
            os.listdir(path.parent)
        time.sleep(0.1)
    return True
