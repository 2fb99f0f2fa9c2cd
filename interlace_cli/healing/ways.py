"""The ways of healing in order of speed, what each takes, and which one `--engine auto` chooses: on one GPU the fastest
that fits into its free memory and the host's. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.memory import WayNeed, describe_bytes
from interlace_cli.domain.model import ModelFacts
from interlace_cli.healing.layer_pairs import find_anchors
from interlace_cli.healing.memory_need import MARGIN, ModelSizes, RowSizes, Way, build_sizes, count_need, reserve
from interlace_cli.healing.optimizer import choose_optim
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.io.samples import find_pictured
from interlace_cli.options.finetune import HOST_OPTIMIZERS

if TYPE_CHECKING:
    from interlace_cli.data.usable import Usable

ELEMENT = {"float32": 4}
"""Bytes of an element by dtype; 2 for others."""
SMALL = "adamw_8bit"
CAUSAL = ("language", "text", "decoder")
"""Stacks whose layers the formula knows."""


@dataclass(frozen=True)
class Room:
    """Bytes that are free on the device and on the host; None where that is not known."""

    device: int | None = None
    host: int | None = None


def find_sizes(facts: ModelFacts, card: CheckpointCard, recipe: Recipe) -> ModelSizes | None:
    """The sizes of the model `facts` that `card` says is to be healed, with its teacher where the objective needs one.
    None where the formula does not apply: another stack, or a stage `local` alone."""
    stages = [stage for stage in recipe.stages if not stage.is_local]
    if card.stack not in CAUSAL or not stages:
        return None
    sizes = build_sizes(facts, range(facts.num_layers), card.tune, ELEMENT.get(recipe.dtype, 2))
    if sizes is None or not any(stage.needs_teacher for stage in recipe.stages):
        return sizes
    tuned = [card.dense_index[position] for position in card.tune]
    anchors = find_anchors(card.dense_index, tuned) if any("anchor" in stage.terms for stage in stages) else []
    dropped = sum(card.base.layer_parameters[index] for index in card.dropped)
    return sizes.add_teacher(dropped, len(anchors), any("distill" in stage.terms for stage in stages))


def bound_row(usable: Usable, recipe: Recipe) -> RowSizes:
    """At least the largest row of all steps. All of its tokens may be a picture's."""
    longest = labels = 0
    for step in recipe.plan_steps(len(usable.samples)):
        longest = max(longest, int(usable.tokens[step].sum()))
        labels = max(labels, int(usable.labels[step].sum()))
    tokens = min(longest, recipe.max_length)
    labels = min(labels, tokens)
    # Samples with pictures and samples without never share a row.
    is_pictured = find_pictured(usable.samples)
    are_alike = bool(is_pictured.all() or not is_pictured.any())
    return RowSizes(tokens, labels, tokens, is_alone=are_alike and longest <= recipe.max_length)


def list_needs(sizes: ModelSizes, row: RowSizes, ways: Sequence[Way], room: Room | None) -> list[WayNeed]:
    """What each way takes, and whether it fits into `room`."""
    needs = []
    for way in ways:
        need = count_need(sizes, row, way)
        fits = None if room is None else need.fits(room.device, room.host)
        needs.append(
            WayNeed(
                engine=way.engine,
                gradient_checkpointing=way.is_checkpointed,
                optim=way.optim,
                device_bytes=need.device,
                host_bytes=need.host,
                fits=fits,
            )
        )
    return needs


def list_ways(optim: str, is_checkpointed: bool = False) -> list[Way]:
    """Those that `auto` chooses from, the fastest first; with `is_checkpointed` those that are. The training state of
    an optimizer that is not torch's AdamW does not leave the device."""
    optim = choose_optim(optim, "cuda", "auto")
    engines = ("ddp", "offload") if optim in HOST_OPTIMIZERS else ("ddp",)
    ways = [Way(engine, checkpointed, optim) for engine in engines for checkpointed in (False, True)]
    return [way for way in ways if way.is_checkpointed or not is_checkpointed]


def list_all_ways(optim: str) -> list[Way]:
    """Those that a table shows: those of `list_ways`, and 8-bit moments."""
    first, second, *offloaded = list_ways(optim)
    small = [replace(second, optim=SMALL)] if offloaded else []
    return [first, second, *small, *offloaded]


def choose_way(needs: Sequence[WayNeed], room: Room) -> WayNeed:
    """The first that fits. Where none does, the last, which takes the least of the device; but not more than the host
    has: a process that does so is killed without a word, and a shortage on the device is one that can be explained."""
    tried = [need for need in needs if room.host is None or need.host_bytes <= room.host]
    return next((need for need in needs if need.fits), tried[-1])


def apply_way(how: Execution, need: WayNeed) -> Execution:
    """`how` with the engine and the checkpointing of a way."""
    return replace(how, engine=need.engine, gradient_checkpointing=need.gradient_checkpointing)


def describe_choice(chosen: WayNeed, needs: Sequence[WayNeed], room: Room, tokens: int) -> str:
    """One line with the figures that a choice was made by."""
    figures = [_describe_share(chosen.device_bytes, room.device, "free on the GPU")]
    if chosen.host_bytes:
        figures.append(_describe_share(chosen.host_bytes, room.host, "on the host"))
    others = [f"{_describe(need)} {describe_bytes(need.device_bytes)}" for need in needs if need is not chosen]
    beside = f"; {', '.join(others)}" if others else ""
    more = "" if room.device is None else f" and {describe_bytes(int(reserve(room.device)))}"
    kept = f"{MARGIN:.0%}{more} beside it stay free"
    line = f"--engine auto: {_describe(chosen)}, {' and '.join(figures)} at rows of {tokens:,} tokens, {kept}{beside}"
    if chosen.fits:
        return line
    return f"{line}. No way is sure to fit: rows are halved on out-of-memory; a smaller --max-length needs less"


def _describe(need: WayNeed) -> str:
    return f"{need.engine}{' with gradient checkpointing' if need.gradient_checkpointing else ''}"


def _describe_share(needed: int, free: int | None, where: str) -> str:
    return f"{describe_bytes(needed)} of {'?' if free is None else describe_bytes(free)} {where}"
