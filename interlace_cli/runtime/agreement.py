"""Whether the processes of one command agree on what they are about to do, and the sentence if they do not. Pure; how
they tell each other is in `exchange.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("interlace-cli", "torch", "transformers", "accelerate", "deepspeed")
"""What has to be of one version everywhere."""
NONE = "none"
SHOWN = 60
"""Most characters of a value in a sentence."""


def name_process(rank: int, size: int, host: str) -> str:
    """As sentences name a process: counted from 1, with its rank as launchers count."""
    return f"process {rank + 1} of {size} (rank {rank} on {host})"


def find_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Name -> version of what is installed, "none" for what is not. Loads none of them."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = NONE
    return found


def find_difference(facts: Sequence[Mapping[str, str]]) -> tuple[str, int] | None:
    """The first fact, in the order of rank 0's and then of the others' own, that is not the same for all ranks, and the
    first rank that has another one than rank 0. None if all agree. `facts[rank]` is name -> value; a fact that a rank
    does not have is another one than any."""
    for name in dict.fromkeys(name for own in facts for name in own):
        for rank, own in enumerate(facts):
            if own.get(name) != facts[0].get(name):
                return name, rank
    return None


def describe_difference(facts: Sequence[Mapping[str, str]], hosts: Sequence[str]) -> str | None:
    """One sentence on the first difference, with both values and who has them; the same wherever it is made of the same
    facts. None if all agree."""
    found = find_difference(facts)
    if found is None:
        return None
    name, rank = found
    size = len(facts)
    first, other = (_show(facts[one].get(name)) for one in (0, rank))
    more = sum(own.get(name) != facts[0].get(name) for own in facts) - 1
    also = f" ({more} more have not that of the first)" if more else ""
    return (
        f"the processes do not agree on {name}: {first} on {name_process(0, size, hosts[0])}, and {other} on"
        f" {name_process(rank, size, hosts[rank])}{also}."
    )


def _show(value: str | None) -> str:
    if not value:
        return NONE
    is_digest = len(value) == 64 and not value.strip("0123456789abcdef")
    return value[:12] if is_digest else value if len(value) <= SHOWN else f"{value[: SHOWN - 3]}..."
