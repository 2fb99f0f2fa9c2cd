"""`interlace export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    ForceOption,
    JsonOption,
    OutOption,
    QuietOption,
    WorkspaceOption,
)
from interlace_cli.io.workspace import Workspace


def export(
    checkpoint: Annotated[Path | None, typer.Argument(help="A healed checkpoint. Default: the workspace's.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    evaluation: Annotated[
        Path | None, typer.Option("--evaluation", help="An eval.json, instead of the workspace's.")
    ] = None,
    out: OutOption = None,
    name: Annotated[str | None, typer.Option("--name", help="The model's name in its card.")] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Hub id of the dense model, for the card.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Default: the base model's, if its card is at hand.")
    ] = None,
    push_to_hub: Annotated[str | None, typer.Option("--push-to-hub", help="Also upload, to this repository.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="hf, which there always is, or gguf beside it, by the llama.cpp that $LLAMA_CPP names; repeatable.",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="For a new repository.")] = True,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """A folder for the Hub: weights, config, processor, generation config, model card."""
    from interlace_cli.core.export import ExportOptions, export_checkpoint

    space = Workspace(workspace)
    folder = out or space.export
    options = ExportOptions(name, base_model, licence, push_to_hub, private, tuple(formats or ()))
    card = export_checkpoint(
        checkpoint or space.healed,
        evaluation or space.evaluation,
        folder,
        options,
        BarProgress(),
        force,
        space.dataset,
    )
    output.result(card, f"{folder}")
