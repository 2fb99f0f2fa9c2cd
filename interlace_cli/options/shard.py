"""A share of work that many processes do: `--shard 2/8`, or a task of a Slurm job array."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from interlace_cli.errors import UsageError
from interlace_cli.options.option import Option

T = TypeVar("T")
ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP")
"""Variables of a task of a job array."""
MOST = 99_999
SHARD = Option(
    help="Do only one of several shares, such as 2/8 for the second of eight, in each of many jobs.",
    shown_default="all; in a Slurm job array the task's",
    metavar="I/N",
    group="Cluster",
    decides=False,
)


@dataclass(frozen=True)
class Shard:
    """Share number `index` (from 1) of `count`. `is_given`: it was asked for, and not found in the environment."""

    index: int
    count: int
    is_given: bool = True

    def choose(self, items: Sequence[T]) -> list[T]:
        """Every `count`-th item, from the `index`-th on."""
        return list(items[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """`"2/8"` -> Shard(2, 8). Raises UsageError for anything else."""
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text.strip(), re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard does not take {text!r}.", "Give a share from 1 on and how many there are, as 2/8.")
    return Shard(int(match[1]), int(match[2]))


def find_shard(given: str | None, environment: Mapping[str, str] = os.environ) -> Shard | None:
    """The share that is `given`; else that of this task of a Slurm job array; None for all of the work. Raises
    UsageError for an array whose tasks are not numbered evenly."""
    if given is not None:
        return parse_shard(given)
    number, count, first, step = (environment.get(name, "") for name in ARRAY)
    if not (number.isdecimal() and count.isdecimal() and int(count) > 1):
        return None
    index, rest = divmod(int(number) - int(first or 0), int(step or 1))
    if rest or not 0 <= index < int(count) <= MOST:
        raise UsageError(
            f"the job array's task {number} is not one of {count} that are numbered evenly from {first or 0} on.",
            "Number them 1, 2, 3 ..., or name the share with --shard.",
        )
    return Shard(index + 1, int(count), is_given=False)
