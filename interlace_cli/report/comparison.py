"""A comparison as the paper's table: Markdown for a page, CSV for a program."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from interlace_cli.domain.comparison import Comparison, ComparisonRow

NOISE = "≈"


def build_columns(comparison: Comparison) -> list[str]:
    """The table's head."""
    families = list(comparison.rows[0].families)
    return [
        *("method", "layers", "sparsity", "healed", "TTFT"),
        *families,
        *("average", "of dense", "of dense-FT", "vs best"),
    ]


def build_cells(row: ComparisonRow, num_layers: int) -> list[str]:
    """A row as words, in the order of the columns; percent throughout."""
    return [
        row.method,
        str(num_layers - len(row.dropped)),
        f"{100 * row.sparsity:.1f}%",
        "yes" if row.is_healed else "no",
        "" if row.ttft_speedup is None else f"{row.ttft_speedup:.2f} ×",
        *(f"{100 * value:.1f}" for value in row.families.values()),
        f"{100 * row.score:.1f}{_deviate(row.score_deviation, 100)}",
        _describe_retention(row),
        "" if row.relative_dense_ft is None else f"{row.relative_dense_ft:.1f}%",
        describe_margin(row),
    ]


def describe_margin(row: ComparisonRow) -> str:
    """How far behind the best of its ratio, and `≈` if that is within the noise."""
    if row.margin is None:
        return ""
    if row.margin == 0:
        return "best"
    return f"{row.margin:+.1f}{f' {NOISE}' if row.is_within_noise else ''}"


def describe_reading(comparison: Comparison) -> list[str]:
    """What the table says, a sentence for each ratio: the best healed method, and what it cannot be told from."""
    lines = []
    ratios = sorted({row.ratio for row in comparison.rows if row.ratio is not None})
    for ratio in ratios:
        rows = [row for row in comparison.rows if row.ratio == ratio and row.is_healed]
        rows = rows or [row for row in comparison.rows if row.ratio == ratio]
        best = next((row for row in rows if row.margin == 0), None)
        if best is None or best.retention is None:
            continue
        alike = [row.method for row in rows if row is not best and row.is_within_noise]
        noise = f"; within the noise of it: {', '.join(alike)}" if alike else "; ahead of all others beyond the noise"
        lines.append(f"at {ratio:.1%}: {best.method} keeps the most, {best.retention:.1f}% of dense{noise}")
    lines += [f"{one.method} at {one.ratio:.1%} was left out: {one.reason}" for one in comparison.unreached]
    return lines


def build_markdown(comparison: Comparison) -> str:
    """The table, what it was measured on, and how to read it."""
    head = build_columns(comparison)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(build_cells(row, comparison.num_layers))} |" for row in comparison.rows]
    reading = "\n".join(f"- {line}" for line in describe_reading(comparison))
    return "\n".join(
        [
            f"# {comparison.model}: methods compared",
            "",
            *lines,
            "",
            f"{describe_setting(comparison)} {EXPLANATION}",
            "",
            reading,
            "",
        ]
    )


EXPLANATION = (
    "Scores: exact match in percent, macro mean over kinds of question; ± standard deviation over healing seeds."
    " `of dense`: mean over kinds of the ratio to the dense model, with its 95% interval (paired bootstrap over samples"
    " and seeds). `vs best`: difference in it from the best of the same sparsity, healed alike; ≈ within the noise."
)


def describe_setting(comparison: Comparison) -> str:
    """What was measured, on what."""
    return f"{comparison.samples} held-out samples; {comparison.device}, {comparison.dtype}."


def build_csv(comparison: Comparison) -> str:
    """One line a row, numbers unrounded; empty where something was not measured."""
    families = list(comparison.rows[0].families)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("method", "ratio", "sparsity", "dropped", "tuned", "healed", "seeds", "ttft_speedup")
    rest = (
        *("score", "score_deviation", "loss", "retention", "retention_deviation", "retention_low", "retention_high"),
        *("relative_dense_ft", "margin", "margin_low", "margin_high", "within_noise"),
    )
    writer.writerow([*names, *families, *rest])
    for row in comparison.rows:
        writer.writerow(
            [
                *(row.method, row.ratio, row.sparsity, _join(row.dropped), _join(row.tuned)),
                *(int(row.is_healed), _join(row.seeds), row.ttft_speedup),
                *row.families.values(),
                *(row.score, row.score_deviation, row.loss, row.retention, row.retention_deviation),
                *(row.retention_interval or (None, None)),
                *(row.relative_dense_ft, row.margin, *(row.margin_interval or (None, None)), int(row.is_within_noise)),
            ]
        )
    return buffer.getvalue()


def _describe_retention(row: ComparisonRow) -> str:
    if row.retention is None:
        return ""
    if row.retention_interval is None:
        return f"{row.retention:.1f}%"
    low, high = row.retention_interval
    return f"{row.retention:.1f}%{_deviate(row.retention_deviation, 1)} ({low:.1f} to {high:.1f})"


def _deviate(deviation: float | None, scale: float) -> str:
    return "" if deviation is None else f" ± {scale * deviation:.1f}"


def _join(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
