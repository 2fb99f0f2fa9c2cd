"""`interlace prune`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    DeviceOption,
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

    from interlace_cli.domain.checkpoint import CheckpointCard, Fidelity, PruneDraft


class Method(str, Enum):
    """How weights are dropped."""

    WANDA = "wanda"
    MAGNITUDE = "magnitude"


def prune(
    model: Annotated[
        str | None, typer.Argument(help="`demo`, a checkpoint folder, or a Hub id. Default: the plan's model.")
    ] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="A plan, instead of the workspace's.")] = None,
    drop_layers: Annotated[
        str | None, typer.Option("--drop-layers", help="Drop exactly these, such as 3,6, with no plan.")
    ] = None,
    stack: StackOption = None,
    method: Annotated[
        Method | None, typer.Option("--method", help="Drop weights instead of layers, by --sparsity: a baseline.")
    ] = None,
    sparsity: Annotated[
        str, typer.Option("--sparsity", help="Of how many weights how many stay, for --method.")
    ] = "2:4",
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Calibrates --method wanda, instead of the workspace's.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Calibrate --method wanda on this many.")] = 128,
    verify: Annotated[
        bool, typer.Option("--verify", help="Load both models and compare them, the dropped layers being bypassed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    out: OutOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """A new checkpoint without the dropped layers, by surgery on disk: the model is never built."""
    from interlace_cli.core.prune import (
        draft_by_plan,
        draft_cut,
        prune_by_plan,
        prune_layers,
        prune_weights,
        verify_cut,
    )
    from interlace_cli.domain.checkpoint import PruneOutcome
    from interlace_cli.domain.layers import parse_layers
    from interlace_cli.errors import CheckpointError, UsageError
    from interlace_cli.io.models import choose_device
    from interlace_cli.io.workspace import require
    from interlace_cli.sparsity.pattern import Pattern

    space = Workspace(workspace)
    folder, progress = out or space.pruned, BarProgress()
    if method is not None:
        if plan is not None or drop_layers is not None or stack is not None or verify or dry_run:
            raise UsageError(
                "--method drops weights, and --plan, --drop-layers, --stack, --verify and --dry-run are about layers.",
                "Give one or the other.",
            )
        pattern, folder = Pattern.parse(sparsity), out or space.root / method.value
        source = None if method is Method.MAGNITUDE else require(dataset or space.dataset)
        card = prune_weights(
            model or "demo", method.value, pattern, folder, progress, source, samples, device=device, force=force
        )
        output.result(PruneOutcome(checkpoint=card, fidelity=None), *card.notes, f"{folder}")
        return
    if verify:
        # Before anything is written.
        choose_device(device)
    if drop_layers is None:
        if stack is not None:
            raise UsageError("--stack belongs to --drop-layers; a plan says its stack itself.", "Leave it out.")
        if dry_run:
            draft = draft_by_plan(model, plan or space.plan, force)
            output.result(draft, _build_draft_table(draft), _describe_draft(draft))
            return
        card = prune_by_plan(model, plan or space.plan, folder, progress, force)
    else:
        if plan is not None:
            raise UsageError("--plan and --drop-layers both say what to drop.", "Give one of them.")
        if model is None:
            raise UsageError("--drop-layers needs a MODEL.", "Such as `interlace prune demo --drop-layers 3,6`.")
        layers = parse_layers(drop_layers, "--drop-layers")
        if dry_run:
            draft = draft_cut(model, layers, stack or "language")
            output.result(draft, _build_draft_table(draft), _describe_draft(draft))
            return
        card = prune_layers(model, layers, folder, progress, force, stack or "language")
    fidelity = verify_cut(card, model or card.base.location, folder, progress, device) if verify else None
    outcome = PruneOutcome(checkpoint=card, fidelity=fidelity)
    output.result(outcome, _describe(card), *_describe_fidelity(fidelity), f"{folder}")
    if fidelity is not None and not fidelity.is_exact:
        raise CheckpointError(f"{folder} does not compute what it should.", "Please report the model's architecture.")


def _describe(card: CheckpointCard) -> str:
    from interlace_cli.domain.layers import describe_layers

    left = len(card.dense_index)
    whose = "" if card.stack == "language" else f"{card.stack} "
    return (
        f"{card.base.name}: dropped {whose}layers {describe_layers(card.dropped)}; {left} of {card.base.num_layers}"
        f" stay, now 0-{left - 1}"
    )


def _describe_fidelity(fidelity: Fidelity | None) -> list[str]:
    if fidelity is None:
        return []
    words = {True: "the same with and without the cache", False: "NOT the same with and without the cache"}
    generation = words.get(fidelity.generates_alike) if fidelity.generates_alike is not None else "not compared"
    verdict = "equals" if fidelity.difference <= fidelity.tolerance else "DIFFERS FROM"
    return [
        f"verified: {verdict} the dense model with these layers bypassed, by at most {fidelity.difference:.1e}"
        f" (tolerance {fidelity.tolerance:.0e}; the bypass itself changes {fidelity.effect:.1e})",
        f"on {fidelity.inputs}; {fidelity.device}, {fidelity.dtype}; greedy generation {generation}",
    ]


def _build_draft_table(draft: PruneDraft) -> Table:
    from rich.table import Table

    table = Table("config.json", "old", "new", title=f"{draft.model}: what would change", title_justify="left")
    for field, (old, new) in draft.config.items():
        table.add_row(field, _shorten(old), _shorten(new))
    return table


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 4]} ..."


def _describe_draft(draft: PruneDraft) -> str:
    lines = [f"{name}: {size:,} bytes" for name, size in draft.files.items()]
    share = draft.bytes / draft.dense_bytes
    lines.append(f"{draft.bytes:,} of {draft.dense_bytes:,} bytes stay ({share:.1%}); nothing was written")
    return "\n".join([*draft.notes, *lines])
