"""The table of `interlace compare`: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from interlace_cli.domain.comparison import Comparison, ComparisonRow

NOISE = "≈"


def build_columns(comparison: Comparison) -> list[str]:
    """The column names, in the order of `build_cells`."""
    families = list(comparison.rows[0].families)
    return [
        *("method", "layers", "sparsity", "healed", "TTFT"),
        *families,
        *("average", "of dense", "of dense-FT", "vs best"),
    ]


def build_cells(row: ComparisonRow, num_layers: int) -> list[str]:
    """One table row as text, in the order of `build_columns`. Scores, sparsity and retention are in percent."""
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
    """Retention minus that of the best rival, in points, `≈` if within the noise: `-1.3 ≈`; "best" for the best."""
    if row.margin is None:
        return ""
    if row.margin == 0:
        return "best"
    return f"{row.margin:+.1f}{f' {NOISE}' if row.is_within_noise else ''}"


def describe_reading(comparison: Comparison) -> list[str]:
    """What the table says, one sentence per ratio: the best method, and those whose gap to it is within the noise.

    If any method of a ratio was healed, only healed ones are compared. Methods that could not reach a ratio are named
    at the end.
    """
    lines = []
    ratios = sorted({row.ratio for row in comparison.rows if row.ratio is not None})
    for ratio in ratios:
        rows = [row for row in comparison.rows if row.ratio == ratio and row.is_healed]
        rows = rows or [row for row in comparison.rows if row.ratio == ratio]
        best = next((row for row in rows if row.margin == 0), None)
        if best is None or best.retention is None:
            continue
        alike = [row.method for row in rows if row is not best and row.is_within_noise]
        noise = f"; not significantly different: {', '.join(alike)}" if alike else "; all others significantly worse"
        lines.append(f"at {ratio:.1%}: {best.method} keeps the most, {best.retention:.1f}% of dense{noise}")
    lines += describe_machines(comparison)
    lines += [f"{one.method} at {one.ratio:.1%} was left out: {one.reason}" for one in comparison.unreached]
    return lines


def describe_machines(comparison: Comparison) -> list[str]:
    """Where cells are of several kinds of machine, how many are of which, and where speed-ups were measured."""
    if len({*comparison.devices, *comparison.timed_on}) < 2:
        return []
    shares = ", ".join(f"{count} on {device}" for device, count in comparison.devices.items())
    timed = f"; TTFT was measured on {', '.join(comparison.timed_on)}" if comparison.timed_on else ""
    return [f"the cells were made on different machines: {shares}{timed}; their figures differ by rounding"]


def build_markdown(comparison: Comparison) -> str:
    """A Markdown page: the table, what it was measured on, and how to read it."""
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
    " `of dense`: retention, the mean over kinds of score / dense score, with its 95% interval (paired bootstrap over"
    " samples and seeds). `vs best`: this retention minus that of the best method at the same sparsity (healed methods"
    " are compared with healed ones); ≈ means that the 95% interval of the difference holds 0."
)


def describe_setting(comparison: Comparison) -> str:
    """The number of samples, the device and the dtype, as a sentence."""
    return f"{comparison.samples} held-out samples; {comparison.device}, {comparison.dtype}."


def build_csv(comparison: Comparison) -> str:
    """The table as CSV, unrounded. Scores are in 0 ... 1, retention in percent; a cell is empty if not measured."""
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
