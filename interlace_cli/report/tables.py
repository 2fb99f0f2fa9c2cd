"""The tables of the page, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from interlace_cli.domain.evaluation import BenchmarkRow, Benchmarks, Evaluation, Result
from interlace_cli.report.card import describe_retention

COLORS = 4


def build_tiles(evaluation: Evaluation) -> str:
    """What the last checkpoint is against the first, at a glance."""
    first, last = evaluation.results[0], evaluation.results[-1]
    tiles = [
        (f"{last.layers} of {first.layers}", "layers"),
        (f"{100 * last.parameters / first.parameters:.0f}%", "of the parameters"),
        (f"{last.bytes / 1e9:.2f} GB" if last.bytes >= 1e8 else f"{last.bytes / 1e6:.1f} MB", "on disk"),
    ]
    if last.retention is not None:
        tiles.append((f"{last.retention:.1f}%", "retention"))
    if first.speed and last.speed:
        tiles.append((f"{first.speed.ttft_ms / last.speed.ttft_ms:.2f} ×", "to the first token"))
        tiles.append((f"{last.speed.tokens_per_second / first.speed.tokens_per_second:.2f} ×", "tokens a second"))
    boxes = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in tiles)
    return f"<div class='tiles'>{boxes}</div>"


def build_results(evaluation: Evaluation) -> str:
    """A row for each checkpoint."""
    names = ("", "layers", "parameters", "MB", "score", "loss", "retention", "TTFT ms", "tokens/s", "memory MB")
    return _table(names, map(_result, evaluation.results))


def build_kinds(evaluation: Evaluation) -> str:
    """A row for each kind, with bars; then one for each category."""
    names = ["kind", "metric", "samples", *(result.name for result in evaluation.results), ""]
    rows = []
    most = max((max(r.kinds.values()) for r in evaluation.results), default=1.0)
    for kind, samples in evaluation.samples.items():
        values = [100 * result.kinds[kind] for result in evaluation.results]
        bars = "".join(
            f"<div class='c{i % COLORS}' style='width:{value / max(most, 1.0):.1f}%'></div>"
            for i, value in enumerate(values)
        )
        metric = evaluation.metrics.get(kind, "exact_match")
        cells = [escape(kind), escape(metric), str(samples), *(f"{value:.1f}" for value in values)]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells) + f"<td class='bar'>{bars}</td>")
    for category, kinds in evaluation.categories.items():
        means = [sum(result.kinds[kind] for kind in kinds) / len(kinds) for result in evaluation.results]
        cells = [f"<b>{escape(category)}</b>", "mean", "", *(f"<b>{100 * mean:.1f}</b>" for mean in means), ""]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    return _table(names, rows)


def build_benchmarks(found: Benchmarks) -> str:
    """The paper's table: benchmarks by category, a column for each checkpoint, retention in brackets."""
    rows = []
    for category, names in found.categories.items():
        cells = [f"<b>{escape(category)}</b>"] + [_category(row, category) for row in found.rows]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
        for name in names:
            cells = [f"&emsp;{escape(name)}"] + [_score(row, name, found) for row in found.rows]
            rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    totals = [_relate(row.average, row.relative) for row in found.rows]
    rows.append("".join(f"<td><b>{cell}</b></td>" for cell in ["average", *totals]))
    return _table(["benchmark", *(row.name for row in found.rows)], rows)


def _score(row: BenchmarkRow, name: str, found: Benchmarks) -> str:
    if name not in row.scores:
        return f"<span title='{escape(found.not_run.get(name, ''), quote=True)}'>not run</span>"
    error = f" ± {row.errors[name]:.1f}" if name in row.errors else ""
    return _relate(row.scores[name], row.retention.get(name), error)


def _category(row: BenchmarkRow, category: str) -> str:
    return f"<b>{_relate(row.categories.get(category), row.category_retention.get(category))}</b>"


def _relate(value: float | None, retention: float | None, error: str = "") -> str:
    if value is None:
        return ""
    return f"{value:.1f}{error}" + (f" ({retention:.1f}%)" if retention is not None else "")


def _result(result: Result) -> str:
    speed = result.speed
    memory = speed.peak_memory_bytes if speed else None
    cells = [
        escape(result.name),
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
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _table(names: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
