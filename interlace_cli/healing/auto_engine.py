"""`--engine auto` on one GPU: the fastest way of healing that fits into its memory, or the one that a saved state was
made with. `ways.py` has the figures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.model import ModelFacts
from interlace_cli.domain.progress import Progress
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.healing.state import State
from interlace_cli.healing.ways import (
    Room,
    apply_way,
    bound_row,
    choose_way,
    describe_choice,
    find_sizes,
    list_needs,
    list_ways,
)
from interlace_cli.runtime.processes import find_processes

if TYPE_CHECKING:
    from interlace_cli.data.usable import Usable


def read_room(device: str) -> Room | None:
    """What is free on a CUDA device and on its host; None for other devices."""
    from interlace_cli.runtime.accelerator import is_cuda, read_free
    from interlace_cli.runtime.memory import read_available

    return Room(read_free(device), read_available()) if is_cuda(device) else None


def settle_engine(
    facts: ModelFacts,
    card: CheckpointCard,
    usable: Usable,
    recipe: Recipe,
    how: Execution,
    state: State,
    progress: Progress,
) -> Execution:
    """`how` with what `auto` is here: call it before the model takes memory. An engine that was named stays, and so
    does checkpointing. Healing that was interrupted goes on the way it began, whatever is free now."""
    room = read_room(how.device)
    if how.engine != "auto" or room is None or find_processes().size > 1:
        return how
    if saved := state.load_way():
        engine, is_checkpointed = saved
        with_it = " with gradient checkpointing" if is_checkpointed else ""
        progress.say(f"--engine auto: {engine}{with_it}, as the saved state has it")
        return replace(how, engine=engine, gradient_checkpointing=is_checkpointed or how.gradient_checkpointing)
    sizes = find_sizes(facts, card, recipe)
    if sizes is None:
        return how
    row = bound_row(usable, recipe)
    needs = list_needs(sizes, row, list_ways(recipe.optim, how.gradient_checkpointing), room)
    chosen = choose_way(needs, room)
    progress.say(describe_choice(chosen, needs, room, row.tokens))
    return apply_way(how, chosen)
