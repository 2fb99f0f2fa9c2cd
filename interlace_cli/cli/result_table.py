"""An evaluation as people see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.report.caveats import describe_samples
from interlace_cli.report.cells import RESULT_COLUMNS, build_benchmark_lines, build_result_cells

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.evaluation import Benchmarks, Evaluation


def build_result_table(evaluation: Evaluation) -> Table:
    """One row a checkpoint."""
    from rich.table import Table

    count = sum(evaluation.samples.values())
    title = f"{count} {describe_samples(evaluation)}; {evaluation.device}, {evaluation.dtype}"
    table = Table("", title=title, title_justify="left")
    for column in RESULT_COLUMNS:
        table.add_column(column, justify="right")
    for result in evaluation.results:
        table.add_row(result.name, *build_result_cells(result))
    return table


def build_kind_table(evaluation: Evaluation) -> Table:
    """One row a kind: exact match in percent, or by the metric that is named; then the means of categories."""
    from rich.table import Table

    is_exact = evaluation.is_exact_match
    table = Table("kind", title="exact match, %" if is_exact else "score, %", title_justify="left")
    if not is_exact:
        table.add_column("metric")
    table.add_column("samples", justify="right")
    for result in evaluation.results:
        table.add_column(result.name, justify="right")
    for kind, samples in evaluation.samples.items():
        metric = [] if is_exact else [evaluation.metrics[kind]]
        scores = (f"{100 * result.kinds[kind]:.1f}" for result in evaluation.results)
        table.add_row(kind, *metric, str(samples), *scores)
    for category, kinds in evaluation.categories.items():
        means = (100 * sum(result.kinds[kind] for kind in kinds) / len(kinds) for result in evaluation.results)
        table.add_row(category, "mean", "", *(f"{mean:.1f}" for mean in means), style="bold")
    return table


def build_benchmark_table(found: Benchmarks) -> Table:
    """The paper's table: a row for each benchmark and category, percent of the first checkpoint in brackets."""
    from rich.table import Table

    version = f" {found.version}" if found.version else ""
    table = Table("benchmark", title=f"{found.harness}{version}", title_justify="left")
    for row in found.rows:
        table.add_column(row.name, justify="right")
    for name, is_mean, cells in build_benchmark_lines(found):
        table.add_row(name if is_mean else f"  {name}", *cells, style="bold" if is_mean else None)
    return table
