"""The evaluation as one HTML file that needs nothing else: results, and each kind as bars."""

from __future__ import annotations

from html import escape

from interlace_cli.domain.evaluation import Evaluation, Result
from interlace_cli.report.card import describe_retention

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1a; --soft: #8a8a82; --line: #d8d8d0; --page: #fdfdfa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e2; --soft: #92928a; --line: #3a3a36; --page: #191917; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 3rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--page); }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); }
th:first-child, td:first-child { text-align: left; }
td.bar { width: 9rem; } .bar div { height: .6rem; border-radius: 2px; margin: 2px 0; }
.c0 { background: #8a8a82; } .c1 { background: #c8553d; } .c2 { background: #3d8b5f; } .c3 { background: #3d6fc8; }
p.note { color: var(--soft); }
"""
COLORS = 4


def build_report(evaluation: Evaluation) -> str:
    """The whole page. Names come from files and folders, so everything is escaped."""
    count = sum(evaluation.samples.values())
    first = escape(evaluation.results[0].name)
    return (
        f"<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>interlace: {first}</title>"
        f"<style>{STYLE}</style>\n<h1>What it cost</h1>\n"
        f"<p>{count} held-out samples of {len(evaluation.samples)} kinds; {escape(evaluation.device)},"
        f" {escape(evaluation.dtype)}.</p>\n{_results(evaluation)}\n<h2>Kind by kind</h2>\n{_kinds(evaluation)}\n"
        f"<p class='note'>Score: exact match of greedy answers, in percent, macro mean over kinds. Retention: mean over"
        f" kinds of the ratio to {first}, with a 95% paired bootstrap interval. Timings: medians, batch 1, the"
        f" checkpoints taking turns. Made by interlace {escape(evaluation.created_by.interlace)}.</p>\n</html>\n"
    )


def _results(evaluation: Evaluation) -> str:
    names = ("", "layers", "parameters", "MB", "score", "loss", "retention", "TTFT ms", "tokens/s", "memory MB")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><tr>{head}</tr>{''.join(map(_result, evaluation.results))}</table>"


def _result(result: Result) -> str:
    speed = result.speed
    memory = speed.peak_memory_bytes if speed else None
    cells = [
        escape(result.name),
        str(result.layers),
        f"{result.parameters:,}",
        f"{result.bytes / 1e6:,.2f}",
        f"{100 * result.score:.1f}",
        f"{result.loss:.3f}",
        describe_retention(result),
        f"{speed.ttft_ms:.1f}" if speed else "",
        f"{speed.tokens_per_second:.0f}" if speed else "",
        f"{memory / 1e6:,.0f}" if memory else "",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _kinds(evaluation: Evaluation) -> str:
    head = "".join(f"<th>{escape(result.name)}</th>" for result in evaluation.results)
    rows = []
    for kind, samples in evaluation.samples.items():
        values = [100 * result.kinds[kind] for result in evaluation.results]
        bars = "".join(
            f"<div class='c{i % COLORS}' style='width:{value:.1f}%'></div>" for i, value in enumerate(values)
        )
        cells = "".join(f"<td>{value:.1f}</td>" for value in values)
        rows.append(f"<tr><td>{escape(kind)}</td><td>{samples}</td>{cells}<td class='bar'>{bars}</td></tr>")
    return f"<table><tr><th>kind</th><th>samples</th>{head}<th></th></tr>{''.join(rows)}</table>"
