"""`interlace prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.prune import PruneOptions

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.checkpoint import CheckpointCard, PruneDraft


def prune(options: PruneOptions) -> None:
    """Write a new checkpoint without the dropped layers, by surgery on disk: the model is never built."""
    from interlace_cli.core.prune import draft
    from interlace_cli.core.prune import prune as cut

    if options.dry_run:
        found = draft(options)
        output.result(found, _build_draft_table(found), _describe_draft(found))
        return
    outcome = cut(options, BarProgress())
    space = Workspace(options.workspace)
    folder = options.out or (space.root / options.method if options.method else space.pruned)
    about = outcome.checkpoint.notes if options.method else [_describe(outcome.checkpoint)]
    verified = outcome.fidelity.describe() if outcome.fidelity else []
    output.result(outcome, *about, *verified, f"{folder}")


def _describe(card: CheckpointCard) -> str:
    from interlace_cli.domain.layers import describe_layers

    left = len(card.dense_index)
    whose = "" if card.stack == "language" else f"{card.stack} "
    return (
        f"{card.base.name}: dropped {whose}layers {describe_layers(card.dropped)}; {left} of {card.base.num_layers}"
        f" stay, now 0-{left - 1}"
    )


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
    if draft.left:
        lines.append(f"no part of the model, and left behind: {', '.join(draft.left)}")
    return "\n".join([*draft.notes, *lines])
