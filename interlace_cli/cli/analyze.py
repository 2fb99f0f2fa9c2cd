"""`interlace analyze`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    AttentionOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    OutOption,
    QuietOption,
    StackOption,
    WorkspaceOption,
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
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    attention: AttentionOption = None,
    write_scores: Annotated[
        Path | None, typer.Option("--write-scores", help="Also write the three released score files here.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """One pass over the calibration split: how similar hidden states are across one, two and three layers."""
    from interlace_cli.core.analyze import AnalyzeOptions, analyze_model
    from interlace_cli.io.files import check_free

    space = Workspace(workspace)
    path = out or space.analysis
    check_free(path, force)
    options = AnalyzeOptions(samples, batch_size, text.value, dtype, device, attention, stack or "language")
    found = analyze_model(model, dataset or space.dataset, path, options, BarProgress(), write_scores)
    output.result(found, _build_table(found), f"{path}")


def _build_table(analysis: Analysis) -> Table:
    from rich.table import Table

    facts, calibration = analysis.model, analysis.calibration
    title = (
        f"{facts.name}: similarity of hidden states, {calibration.samples} samples of {calibration.tokens:.0f} tokens,"
        f" {calibration.image_tokens:.0f} of them image"
    )
    table = Table("layer", title=title, title_justify="left")
    for column in ("S1", "S2", "S3", "S1 image", "S1 text"):
        table.add_column(column, justify="right")
    spans, image, text = analysis.similarity, analysis.image, analysis.text
    for layer in range(facts.num_layers):
        row = [spans.s1, spans.s2, spans.s3, image.s1 if image else [], text.s1 if text else []]
        table.add_row(str(layer), *(f"{values[layer]:.4f}" if layer < len(values) else "" for values in row))
    return table
