"""`interlace analyze`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.layer_table import describe_correlation
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.analyze import AnalyzeOptions

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.analysis import Analysis


def analyze(options: AnalyzeOptions) -> None:
    """Measure how much each layer matters: how similar hidden states are across one, two and three layers, in one pass
    over the calibration split; and, on request, what dropping layers does to the loss. What is there is kept."""
    from interlace_cli.cli.heat_strip import build_heat_strip
    from interlace_cli.core.analyze import analyze as measure
    from interlace_cli.report.figure_file import save_figure
    from interlace_cli.report.heatmap import build_heatmap, find_rows

    found = measure(options, BarProgress())
    rows, layers = find_rows(found), found.model.num_layers
    if options.figure is not None:
        picture = build_heatmap(rows, layers, f"{found.model.name}: similarity of hidden states")
        save_figure(picture, options.figure, options.force)
    strip, path = build_heat_strip(rows, layers), options.out or Workspace(options.workspace).analysis
    output.result(found, _build_table(found), strip, *_describe_loss(found), f"{path}")


def _build_table(analysis: Analysis) -> Table:
    from rich.table import Table

    facts, calibration = analysis.model, analysis.calibration
    title = (
        f"{facts.name}: similarity of hidden states, {calibration.samples} samples of {calibration.tokens:.0f} tokens"
        + (f", {calibration.image_tokens:.0f} of them image" if calibration.image_tokens else "")
    )
    table = Table("layer", title=title, title_justify="left")
    spans, image, text = analysis.similarity, analysis.image, analysis.text
    loss, taylor = analysis.loss, analysis.taylor
    columns = {"S1": spans.s1, "S2": spans.s2, "S3": spans.s3}
    if image:
        columns |= {"S1 image": image.s1, "S1 text": text.s1 if text else []}
    columns |= {"loss increase": loss.loss_increase} if loss else {}
    columns |= {"taylor activation": taylor.taylor_activation, "taylor weight": taylor.taylor_weight} if taylor else {}
    for column in columns:
        table.add_column(column, justify="right")
    for layer in range(facts.num_layers):
        row = [values[layer] if layer < len(values) else None for values in columns.values()]
        table.add_row(str(layer), *("" if value is None else f"{value:.4f}" for value in row))
    return table


def _describe_loss(analysis: Analysis) -> list[str]:
    loss = analysis.loss
    if loss is None:
        return []
    share = loss.layer_runs / loss.naive_layer_runs
    path = ", ".join(f"{step.layer} ({step.loss:.3f})" for step in loss.path)
    lines = [
        f"loss {loss.dense:.4f} per answer token, {loss.samples} samples; loss increase: by dropping a layer alone",
        f"greedy search by loss: {path or 'none'}",
        f"layers were run {loss.layer_runs:,} times; every candidate by itself would take {loss.naive_layer_runs:,}"
        f" ({share:.0%})",
    ]
    return [*lines, *([describe_correlation(analysis.correlation)] if analysis.correlation is not None else [])]
