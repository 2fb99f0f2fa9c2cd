"""A step in several processes: its own command is started in each of them, with its options in a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from interlace_cli.errors import ChildError, UsageError
from interlace_cli.io.artifacts import to_json_text
from interlace_cli.options.build import dump_options
from interlace_cli.options.option import Options
from interlace_cli.options.shared import BETWEEN_PROCESSES
from interlace_cli.runtime.processes import find_processes


def has_to_spread(processes: int, is_needed: bool = False) -> bool:
    """Whether processes are to be started: several are asked for (or one `is_needed`), and this is none of them. Raises
    UsageError where a launcher has started another number."""
    here = find_processes()
    if here.is_launched and processes not in (1, here.size):
        raise UsageError(
            f"--processes is {processes}, and the launcher has started {here.size}.",
            "Leave out --processes: the launcher's number counts.",
        )
    return not here.is_launched and (processes > 1 or is_needed)


def is_divided(options: Any) -> bool:
    """Whether processes are to be started for a step of one process, each for a part of the model's weights."""
    return options.device_map == BETWEEN_PROCESSES and has_to_spread(options.processes)


def run_spread(command: str, options: Options, processes: int) -> bytes:
    """Runs `interlace COMMAND` with these options in `processes` processes, and returns the JSON that the first of them
    prints. Raises ChildError if one fails; it has said why."""
    from interlace_cli.runtime.launch import run_processes
    from interlace_cli.runtime.worker_pool import find_pool

    pool = find_pool()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as answer:
        if pool is not None:
            code = pool.run_everywhere(command, to_json_text(dump_options(options)), answer.fileno())
        else:
            config = Path(name) / "options.json"
            config.write_text(to_json_text(dump_options(options)))
            code = run_processes([command, "--config", os.fspath(config), "--json"], processes, answer.fileno())
        if code:
            raise ChildError(code)
        answer.seek(0)
        return answer.read()
