"""An evaluation as people see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.report.card import describe_retention

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.evaluation import Evaluation


def build_result_table(evaluation: Evaluation) -> Table:
    """One row a checkpoint."""
    from rich.table import Table

    count = sum(evaluation.samples.values())
    title = f"{count} held-out samples; {evaluation.device}, {evaluation.dtype}"
    table = Table("", title=title, title_justify="left")
    for column in (
        "layers",
        "parameters",
        "MB",
        "score",
        "loss",
        "retention (95%)",
        "TTFT ms",
        "tokens/s",
        "memory MB",
    ):
        table.add_column(column, justify="right")
    for result in evaluation.results:
        speed = result.speed
        memory = speed.peak_memory_bytes if speed else None
        table.add_row(
            result.name,
            str(result.layers),
            f"{result.parameters:,}",
            f"{result.bytes / 1e6:,.2f}",
            f"{100 * result.score:.1f}",
            f"{result.loss:.3f}",
            describe_retention(result),
            f"{speed.ttft_ms:.1f}" if speed else "",
            f"{speed.tokens_per_second:.0f}" if speed else "",
            f"{memory / 1e6:,.0f}" if memory else "",
        )
    return table


def build_kind_table(evaluation: Evaluation) -> Table:
    """One row a kind, exact match in percent."""
    from rich.table import Table

    table = Table("kind", title="exact match, %", title_justify="left")
    table.add_column("samples", justify="right")
    for result in evaluation.results:
        table.add_column(result.name, justify="right")
    for kind, samples in evaluation.samples.items():
        table.add_row(kind, str(samples), *(f"{100 * result.kinds[kind]:.1f}" for result in evaluation.results))
    return table
