"""The checkpoints that are put side by side: those named, or the workspace's; opened, and seen to belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interlace_cli.core.lineage import Member, check_mismatches, load_card
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import UsageError
from interlace_cli.families.model_files import OpenedModel, find_cut_stack, open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.checkpoints import is_local
from interlace_cli.io.workspace import METADATA, Workspace, require


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint under the name that it has in the table."""

    name: str
    opened: OpenedModel
    card: CheckpointCard | None


def find_checkpoints(given: Sequence[str], space: Workspace, dense: str | None = None) -> list[tuple[str, str]]:
    """`(name, location)`: those given, named by their folders or as `NAME=LOCATION`, or the workspace's dense, pruned
    and healed; `dense` where the dense model does not lie any more where it was.

    Raises MissingInputError if neither is there, UsageError if two have one name.
    """
    if given:
        named = [_split(text) for text in given]
        names = [name for name, _ in named]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"two checkpoints are called {twice}.", "Give names: NAME=CHECKPOINT.")
        return named
    card = load_artifact(require(require(space.pruned) / METADATA), CheckpointCard)
    base = card.base.pinned
    if dense is not None and card.base.location.startswith("/") and not is_local(base):
        base = dense
    found = [("dense", base), ("pruned", str(space.pruned)), ("healed", str(space.healed))]
    return [(name, location) for name, location in found if name != "healed" or space.healed.exists()]


def _split(given: str) -> tuple[str, str]:
    """`"short=/models/a"` -> `("short", "/models/a")`; a folder that has the sign in its own name is one."""
    name, sign, location = given.partition("=")
    if name and sign and location and not Path(given).exists():
        return name, location
    return Path(given).name or given, given


def open_family(checkpoints: Sequence[tuple[str, str]], is_allowed: bool, progress: Progress) -> list[NamedCheckpoint]:
    """Opens them, counted in the stack that they were cut in. Raises PlanMismatchError for two that do not belong
    together; if that `is_allowed` it is only said."""
    stacks = {find_cut_stack(location) for _, location in checkpoints} - {LANGUAGE}
    stack = stacks.pop() if len(stacks) == 1 else LANGUAGE
    found = []
    for name, location in checkpoints:
        opened = open_model(location, stack)
        found.append(NamedCheckpoint(name, opened, load_card(opened.checkpoint.path)))
    members = [Member(one.name, one.opened.facts.fingerprint, one.card) for one in found]
    for line in check_mismatches(members, is_allowed):
        progress.say(f"{line}.")
    return found
