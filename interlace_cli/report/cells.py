"""Figures as text: the same in the terminal, in `report.html` and in the model card."""

from __future__ import annotations

from collections.abc import Callable

from interlace_cli.domain.evaluation import BenchmarkRow, Benchmarks, Result

RESULT_COLUMNS = ("layers", "parameters", "MB", "score", "loss", "retention (95%)", "TTFT ms", "tokens/s", "memory MB")
NOT_RUN = "not run"


def build_result_cells(result: Result) -> list[str]:
    """One table row of a checkpoint, in the order of `RESULT_COLUMNS`; "" for what was not measured."""
    speed = result.speed
    memory = speed.peak_memory_bytes if speed else None
    return [
        str(result.layers),
        f"{result.parameters:,}",
        f"{result.bytes / 1e6:,.2f}",
        f"{100 * result.score:.1f}",
        f"{result.loss:.3f}" if result.loss is not None else "",
        describe_retention(result),
        f"{speed.ttft_ms:.1f}" if speed else "",
        f"{speed.tokens_per_second:.0f}" if speed else "",
        f"{memory / 1e6:,.0f}" if memory else "",
    ]


def describe_retention(result: Result) -> str:
    """Retention with its 95% interval, `98.4% (97.1 to 99.2)`; "" for the reference checkpoint."""
    if result.retention is None or result.retention_interval is None:
        return ""
    low, high = result.retention_interval
    return f"{result.retention:.1f}% ({low:.1f} to {high:.1f})"


def build_benchmark_lines(found: Benchmarks) -> list[tuple[str, bool, list[str]]]:
    """The table of benchmarks as `(name, is_mean, one cell per checkpoint)`, laid out as in the INTERLACE paper.

    Each category comes before its benchmarks, the average last. A cell is `78.0 (97.5%)`: the score, and in brackets
    its retention, in percent of the first checkpoint's.
    """

    def line(name: str, is_mean: bool, cell: Callable[[BenchmarkRow], str]) -> tuple[str, bool, list[str]]:
        return name, is_mean, [cell(row) for row in found.rows]

    lines = []
    for category, names in found.categories.items():
        lines.append(line(category, True, lambda row, c=category: _describe_category(row, c)))  # type: ignore[misc]
        lines += [line(name, False, lambda row, n=name: _describe_score(row, n)) for name in names]  # type: ignore[misc]
    return [*lines, line("average", True, lambda row: _relate(row.average, row.relative))]


def _describe_category(row: BenchmarkRow, category: str) -> str:
    return _relate(row.categories.get(category), row.category_retention.get(category))


def _describe_score(row: BenchmarkRow, name: str) -> str:
    error = f" ± {row.errors[name]:.1f}" if name in row.errors else ""
    return _relate(row.scores.get(name), row.retention.get(name), error) or NOT_RUN


def _relate(value: float | None, retention: float | None, error: str = "") -> str:
    """`78.0 ± 1.2 (97.5%)`; "" without a value."""
    if value is None:
        return ""
    return f"{value:.1f}{error}" + (f" ({retention:.1f}%)" if retention is not None else "")
