"""`interlace bench`."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import DebugOption, DeviceOption, JsonOption, QuietOption


class Bench(str, Enum):
    """What can be timed."""

    HEAL = "heal"


def bench(
    what: Annotated[Bench, typer.Argument(help="heal: a step of healing, beside the released recipe's way.")],
    shape: Annotated[
        str, typer.Option("--shape", help="Of a random Qwen3-VL with a quarter of its layers dropped: tiny, 4b or 8b.")
    ] = "tiny",
    tokens: Annotated[int, typer.Option("--tokens", help="Of a step.")] = 2048,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples where they are padded.")] = 16,
    repeats: Annotated[int, typer.Option("--repeats", min=1)] = 5,
    optim: Annotated[str, typer.Option("--optim", help="An optimizer of the Trainer.")] = "adamw_torch",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Our way too, from the first tuned layer on.")
    ] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Times two ways to do the same in turns, in one run, on this machine."""
    from interlace_cli.core.bench import BenchOptions, bench_healing

    del what
    options = BenchOptions(shape, tokens, batch_size, repeats, optim, gradient_checkpointing, device)
    found = bench_healing(options, BarProgress())
    lines = [
        f"{found.shape}: {found.layers} layers, {found.tuned} tuned; {found.tokens:,} tokens in {found.samples}"
        f" samples; {found.machine}, {found.dtype}, {found.optim}; rows: {found.layout}"
    ]
    for name, side in (("ours", found.ours), ("released", found.released)):
        peak = "" if side.peak_memory_bytes is None else f", peak {side.peak_memory_bytes / 2**30:.1f} GiB"
        lines.append(f"{name}: {side.tokens_per_second:,.0f} tokens/s{peak}")
    output.result(found, *lines, f"{found.speedup:.2f} times the released way's tokens per second")
