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


class Compensate(str, Enum):
    """How dropped layers are made up for."""

    LINEAR = "linear"


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
    compensate: Annotated[
        Compensate | None,
        typer.Option("--compensate", help="Fold a least-squares map into the layer in front of each gap."),
    ] = None,
    method: Annotated[
        Method | None, typer.Option("--method", help="Drop weights instead of layers, by --sparsity: a baseline.")
    ] = None,
    sparsity: Annotated[
        str, typer.Option("--sparsity", help="Of how many weights how many stay, for --method.")
    ] = "2:4",
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Calibrates --compensate and wanda, instead of the workspace's.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Calibrate on this many.")] = 128,
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
        Compensation,
        draft_by_plan,
        draft_cut,
        prune_by_plan,
        prune_layers,
        verify_cut,
    )
    from interlace_cli.domain.checkpoint import PruneOutcome
    from interlace_cli.domain.layers import parse_layers
    from interlace_cli.errors import CheckpointError, UsageError
    from interlace_cli.io.models import choose_device
    from interlace_cli.io.workspace import require

    space = Workspace(workspace)
    folder, progress = out or space.pruned, BarProgress()
    if method is not None:
        if any((plan, drop_layers, stack, verify, dry_run, compensate)):
            raise UsageError(
                "--method drops weights, and --plan, --drop-layers, --stack, --verify, --dry-run and --compensate are"
                " about layers.",
                "Give one or the other.",
            )
        source = None if method is Method.MAGNITUDE else require(dataset or space.dataset)
        folder = out or space.root / method.value
        _prune_weights(model or "demo", method, sparsity, folder, source, samples, device, force)
        return
    compensation = None
    if compensate is not None:
        if verify or dry_run:
            raise UsageError(
                "--compensate changes weights, and --verify and --dry-run are about a plain cut.", "Leave one out."
            )
        compensation = Compensation(require(dataset or space.dataset), samples, device=device)
    if verify:
        # Before anything is written.
        choose_device(device)
    if drop_layers is None:
        if stack is not None:
            raise UsageError("--stack belongs to --drop-layers; a plan says its stack itself.", "Leave it out.")
        if dry_run:
            _show_draft(draft_by_plan(model, plan or space.plan, force))
            return
        card = prune_by_plan(model, plan or space.plan, folder, progress, force, compensation)
    else:
        if plan is not None:
            raise UsageError("--plan and --drop-layers both say what to drop.", "Give one of them.")
        if model is None:
            raise UsageError("--drop-layers needs a MODEL.", "Such as `interlace prune demo --drop-layers 3,6`.")
        layers = parse_layers(drop_layers, "--drop-layers")
        if dry_run:
            _show_draft(draft_cut(model, layers, stack or "language"))
            return
        card = prune_layers(model, layers, folder, progress, force, stack or "language", compensation)
    fidelity = verify_cut(card, model or card.base.pinned, folder, progress, device) if verify else None
    outcome = PruneOutcome(checkpoint=card, fidelity=fidelity)
    output.result(outcome, _describe(card), *_describe_fidelity(fidelity), f"{folder}")
    if fidelity is not None and not fidelity.is_exact:
        raise CheckpointError(f"{folder} does not compute what it should.", "Please report the model's architecture.")


def _prune_weights(
    model: str,
    method: Method,
    sparsity: str,
    folder: Path,
    dataset: Path | None,
    samples: int,
    device: str,
    force: bool,
) -> None:
    from interlace_cli.core.prune_weights import prune_weights
    from interlace_cli.domain.checkpoint import PruneOutcome
    from interlace_cli.sparsity.pattern import Pattern

    card = prune_weights(
        model,
        method.value,
        Pattern.parse(sparsity),
        folder,
        BarProgress(),
        dataset,
        samples,
        device=device,
        force=force,
    )
    output.result(PruneOutcome(checkpoint=card, fidelity=None), *card.notes, f"{folder}")


def _show_draft(draft: PruneDraft) -> None:
    output.result(draft, _build_draft_table(draft), _describe_draft(draft))


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
