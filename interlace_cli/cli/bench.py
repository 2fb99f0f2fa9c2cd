"""`interlace bench`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import DebugOption, DeviceOption, JsonOption, QuietOption

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.benchmark import Benchmark


class Bench(str, Enum):
    """What can be timed."""

    STARTUP = "startup"
    ANALYZE = "analyze"
    PRUNE = "prune"
    HEAL = "heal"
    SERVE = "serve"


def bench(
    what: Annotated[
        Bench,
        typer.Argument(
            help="startup: the command line; analyze, heal: beside the released way; prune: beside cp; serve: dense"
            " beside pruned."
        ),
    ],
    shape: Annotated[str, typer.Option("--shape", help="Of a random Qwen3-VL: tiny, 4b or 8b.")] = "tiny",
    model: Annotated[
        str | None, typer.Option("--model", help="`demo`, a folder or a Hub id, in place of a random model.")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", help="Of a step of healing.")] = 2048,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Of an analysis.")] = 32,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 8,
    side: Annotated[
        list[int] | None,
        typer.Option("--side", help="Of square images, in pixels; repeatable. 512, 1024, 2048: 0.25, 1, 4 megapixels."),
    ] = None,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=2, help="That serving generates.")] = 32,
    gigabytes: Annotated[float, typer.Option("--gigabytes", min=0.01, help="Of the checkpoint that is cut.")] = 1.0,
    repeats: Annotated[int, typer.Option("--repeats", min=1)] = 5,
    optim: Annotated[str, typer.Option("--optim", help="An optimizer of the Trainer.")] = "adamw_torch",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Our way too, from the first tuned layer on.")
    ] = False,
    append: Annotated[Path | None, typer.Option("--append", help="Also add the table to this Markdown file.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Times two ways to do the same in turns, in one run, on this machine."""
    from interlace_cli.core.bench import BenchOptions, append_benchmark, run_benchmark
    from interlace_cli.report.benchmark import describe_notes

    options = BenchOptions(
        shape,
        model,
        tokens,
        samples,
        batch_size,
        tuple(side or (224,)),
        new_tokens,
        gigabytes,
        repeats,
        optim,
        gradient_checkpointing,
        device,
    )
    found = run_benchmark(what.value, options, BarProgress())
    if append is not None:
        append_benchmark(found, append)
    notes = [f"{case.name}: {line}" for case in found.cases for line in describe_notes(case)]
    output.result(found, _build_table(found), *notes)


def _build_table(found: Benchmark) -> Table:
    from rich.table import Table

    from interlace_cli.report.benchmark import COLUMNS, build_cells

    versions = ", ".join(f"{name} {value}" for name, value in found.versions.items())
    table = Table(*COLUMNS, title=f"{found.part} {found.shape}; {found.machine}; {versions}", title_justify="left")
    for case in found.cases:
        table.add_row(*build_cells(case), style="red" if case.is_reached is False else None)
    return table
