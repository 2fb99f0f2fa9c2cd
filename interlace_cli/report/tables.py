"""The tables of `report.html`, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from interlace_cli.domain.evaluation import Benchmarks, Evaluation, Result
from interlace_cli.report.cells import NOT_RUN, RESULT_COLUMNS, build_benchmark_lines, build_result_cells

COLORS = 4


def build_tiles(evaluation: Evaluation) -> str:
    """Tiles that compare the last checkpoint with the first: layers, size, retention and speed."""
    first, last = evaluation.results[0], evaluation.results[-1]
    tiles = [
        (f"{last.layers} of {first.layers}", "layers"),
        (f"{100 * last.parameters / first.parameters:.0f}%", "of the parameters"),
        (f"{last.bytes / 1e9:.2f} GB" if last.bytes >= 1e8 else f"{last.bytes / 1e6:.1f} MB", "on disk"),
    ]
    if last.retention is not None:
        tiles.append((f"{last.retention:.1f}%", "retention"))
    if first.speed and last.speed:
        tiles.append((f"{first.speed.ttft_ms / last.speed.ttft_ms:.2f} ×", "as fast to the first token"))
        tiles.append((f"{last.speed.tokens_per_second / first.speed.tokens_per_second:.2f} ×", "as many tokens/s"))
    boxes = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in tiles)
    return f"<div class='tiles'>{boxes}</div>"


def build_results(evaluation: Evaluation) -> str:
    """The table of checkpoints, one row each."""
    return _table(("", *RESULT_COLUMNS), map(_result, evaluation.results))


def build_kinds(evaluation: Evaluation) -> str:
    """The table of scores in percent: one row per kind, with bars, then one per category (the mean of its kinds)."""
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
    """The table of benchmarks. The tooltip of "not run" says why."""
    rows = []
    for name, is_mean, cells in build_benchmark_lines(found):
        why = escape(found.not_run.get(name, ""), quote=True)
        words = [escape(name), *(f"<span title='{why}'>{cell}</span>" if cell == NOT_RUN else cell for cell in cells)]
        shown = [f"<b>{word}</b>" for word in words] if is_mean else [f"&emsp;{words[0]}", *words[1:]]
        rows.append("".join(f"<td>{cell}</td>" for cell in shown))
    return _table(["benchmark", *(row.name for row in found.rows)], rows)


def _result(result: Result) -> str:
    return "".join(f"<td>{cell}</td>" for cell in (escape(result.name), *build_result_cells(result)))


def _table(names: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
