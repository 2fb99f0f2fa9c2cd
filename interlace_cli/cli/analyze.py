"""`interlace analyze`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.layer_table import describe_correlation
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    AttentionOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    FigureOption,
    ForceOption,
    ImportanceOption,
    JsonOption,
    OutOption,
    ProcessesOption,
    ProtectOption,
    QuietOption,
    StackOption,
    WorkspaceOption,
    split_names,
    spread,
)
from interlace_cli.io.workspace import Workspace

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.analysis import Analysis


class CalibrationText(str, Enum):
    """What of a conversation is measured."""

    PROMPT = "prompt"
    CONVERSATION = "conversation"


def analyze(
    model: Annotated[str, typer.Argument(help="`demo`, a checkpoint folder, or a Hub id.")] = "demo",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="A prepared dataset, instead of the workspace's.")
    ] = None,
    out: OutOption = None,
    stack: StackOption = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Calibrate on at most this many.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 8,
    text: Annotated[
        CalibrationText, typer.Option("--text", help="First user turn with the generation prompt, or everything.")
    ] = CalibrationText.PROMPT,
    importance: ImportanceOption = "similarity",
    by: Annotated[
        str, typer.Option("--by", help="Also for groups of samples: source, kind; with commas between.")
    ] = "modality",
    loss_samples: Annotated[
        int, typer.Option("--loss-samples", min=1, help="Measure loss and gradients on at most this many.")
    ] = 256,
    search_ratio: Annotated[
        float, typer.Option("--search-ratio", help="How far the greedy search by loss goes; 0 for each layer alone.")
    ] = 0.5,
    protect: ProtectOption = None,
    processes: ProcessesOption = 1,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    attention: AttentionOption = None,
    write_scores: Annotated[
        Path | None, typer.Option("--write-scores", help="Also write the three released score files here.")
    ] = None,
    figure: FigureOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """How much each layer matters: how similar hidden states are across one, two and three layers, in one pass over the
    calibration split; and, on request, what dropping layers does to the loss. What is there already is kept."""
    from interlace_cli.cli.heat_strip import build_heat_strip
    from interlace_cli.core.analyze import AnalyzeOptions, analyze_model
    from interlace_cli.core.figure import check_figure, save_figure
    from interlace_cli.domain.layers import parse_layers
    from interlace_cli.report.heatmap import build_heatmap, find_rows

    check_figure(figure)
    spread(processes)
    space = Workspace(workspace)
    path = out or space.analysis
    options = AnalyzeOptions(
        samples,
        batch_size,
        text.value,
        dtype,
        device,
        attention,
        stack or "language",
        split_names(importance),
        split_names(by),
        loss_samples,
        search_ratio,
        None if protect is None else tuple(parse_layers(protect, "--protect")),
    )
    found = analyze_model(
        model, dataset or space.dataset, path, options, BarProgress(), write_scores, force, anew=force
    )
    rows, layers = find_rows(found), found.model.num_layers
    if figure is not None:
        save_figure(build_heatmap(rows, layers, f"{found.model.name}: similarity of hidden states"), figure)
    strip = build_heat_strip(rows, layers)
    output.result(found, _build_table(found), strip, *_describe_loss(found), f"{path}")


def _build_table(analysis: Analysis) -> Table:
    from rich.table import Table

    facts, calibration = analysis.model, analysis.calibration
    title = (
        f"{facts.name}: similarity of hidden states, {calibration.samples} samples of {calibration.tokens:.0f} tokens,"
        f" {calibration.image_tokens:.0f} of them image"
    )
    table = Table("layer", title=title, title_justify="left")
    spans, image, text = analysis.similarity, analysis.image, analysis.text
    loss, taylor = analysis.loss, analysis.taylor
    columns = {"S1": spans.s1, "S2": spans.s2, "S3": spans.s3}
    columns |= {"S1 image": image.s1 if image else [], "S1 text": text.s1 if text else []}
    columns |= {"loss_increase": loss.loss_increase} if loss else {}
    columns |= {"first order": taylor.taylor_activation, "taylor_weight": taylor.taylor_weight} if taylor else {}
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
        f"loss {loss.dense:.4f} per answer token, {loss.samples} samples; loss increase: what dropping a layer alone adds",
        f"greedy search by loss: {path or 'none'}",
        f"layers were run {loss.layer_runs:,} times; every candidate by itself would take {loss.naive_layer_runs:,}"
        f" ({share:.0%})",
    ]
    return [*lines, *([describe_correlation(analysis.correlation)] if analysis.correlation is not None else [])]
