"""What each way of healing takes of a GPU, as people see it: a table, and one line in a plan's summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interlace_cli.domain.memory import WayNeed, describe_bytes

if TYPE_CHECKING:
    from rich.table import Table


def build_way_table(ways: Sequence[WayNeed], tokens: int) -> Table:
    """A row for each way; whether it fits, where there is a GPU."""
    from rich.table import Table

    title = f"memory of a step on a GPU, computed, at rows of {tokens:,} tokens"
    table = Table("way", title=title, title_justify="left")
    table.add_column("GPU", justify="right")
    table.add_column("host", justify="right")
    is_known = any(way.fits is not None for way in ways)
    if is_known:
        table.add_column("fits here")
    for way in ways:
        host = describe_bytes(way.host_bytes) if way.host_bytes else ""
        table.add_row(way.flags, describe_bytes(way.device_bytes), host, *(["yes" if way.fits else "no"] * is_known))
    return table


def describe_ways(ways: Sequence[WayNeed], tokens: int) -> str:
    """One line. `ways`: the fastest first."""
    fastest, *others = ways
    parts = [f"{describe_bytes(fastest.device_bytes)} of a GPU"]
    for way in others:
        host = f" and {describe_bytes(way.host_bytes)} of the host" if way.host_bytes else ""
        flags = [f"--engine {way.engine}"] * bool(way.host_bytes) + [
            "--gradient-checkpointing"
        ] * way.gradient_checkpointing
        parts.append(f"{describe_bytes(way.device_bytes)}{host} with {' '.join(flags)}")
    return f"healing: {', '.join(parts)}; computed, at rows of {tokens:,} tokens"
