"""A plan as people see it: one row a layer, the spans drawn, the roles in colour, and a summary below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.way_table import describe_ways
from interlace_cli.domain.layers import Role, describe_layers

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.plan import Plan

TRUSTED, WEAK = 0.7, 0.3
"""Spearman correlations, by the usual words: strong, moderate."""
STYLES = {Role.DROP: "bold red", Role.TUNE: "bold green", Role.ANCHOR: "cyan", Role.KEEP: "dim"}


def build_layer_table(plan: Plan) -> Table:
    """Works for an edited plan too, of which only the roles are sure to be there."""
    from rich.table import Table
    from rich.text import Text

    name = plan.model.name if plan.model else "score files" if "scores1" in plan.inputs else "a config alone"
    whose = "" if plan.stack == "language" else f"{plan.stack} "
    title = f"{name}: {plan.strategy}, {len(plan.drop)} of {plan.num_layers} {whose}layers dropped"
    table = Table("layer", "new", "span", "role", title=title, title_justify="left")
    has_damage = any(note.loss_increase is not None for note in plan.layers)
    for column in ("S1", "S2", "S3", *(["loss increase"] if has_damage else []), "parameters"):
        table.add_column(column, justify="right")
    table.add_column("why")
    drawing = _draw_spans(plan)
    position = {layer: new for new, layer in enumerate(plan.kept)}
    notes = {note.index: note for note in plan.layers}
    for layer, role in enumerate(plan.roles):
        note = notes.get(layer)
        scores = [note.s1, note.s2, note.s3] if note else [None] * 3
        scores += [note.loss_increase if note else None] if has_damage else []
        size = f"{note.parameters:,}" if note and note.parameters is not None else ""
        table.add_row(
            str(layer),
            str(position.get(layer, "")),
            drawing.get(layer, ""),
            Text(role.value, style=STYLES[role]),
            *("" if score is None else f"{score:.4f}" for score in scores),
            size,
            Text(note.why if note else "", style="dim"),
        )
    return table


def describe_plan(plan: Plan) -> str:
    """What is protected and what the plan saves, a line each."""
    lines = [f"protected: {describe_layers(plan.protect)}"]
    lines += [f"{describe_layers(lock.layers)} cannot go: {lock.reason}" for lock in plan.locked]
    if any(pick.rule == "pair" for pick in plan.picks) and plan.pair_bar is not None:
        lines.append(f"pairs: those with an S2 of at least {plan.pair_bar:.4f}")
    if plan.correlation is not None:
        lines.append(describe_correlation(plan.correlation))
    summary = plan.summary
    if summary:
        lines.append(f"layers: {summary.layers} → {summary.layers_left}")
        if summary.parameters and summary.parameters_left:
            lines.append(f"parameters: {_compare(summary.parameters, summary.parameters_left)}")
        if summary.bytes and summary.bytes_left:
            lines.append(f"bytes: {_compare(summary.bytes, summary.bytes_left)}")
        if summary.healing and summary.healing_tokens:
            lines.append(describe_ways(summary.healing, summary.healing_tokens))
        if summary.prefill_speedup:
            lines.append(f"prefill: {summary.prefill_speedup:.2f} × expected, from counted FLOPs of the mean prompt")
    return "\n".join(lines)


def describe_correlation(correlation: float) -> str:
    """Whether similarity can be trusted on this model."""
    verdict = "can be trusted" if correlation >= TRUSTED else "is a weak guide" if correlation >= WEAK else "misleads"
    return (
        f"Spearman correlation of 1 - S1 with the loss increase of dropping that layer: {correlation:+.2f};"
        f" similarity {verdict} on this model"
    )


def _compare(before: int, after: int) -> str:
    return f"{before:,} → {after:,} ({after / before - 1:+.1%})"


def _draw_spans(plan: Plan) -> dict[int, str]:
    """Layer -> a piece of a bracket with the pick's number, so that a triplet is seen as one thing."""
    drawing = {}
    for number, pick in enumerate(plan.picks, start=1):
        if pick.rule == "random":
            continue
        for layer in pick.layers:
            piece = "╭" if layer == pick.layers[0] else "╰" if layer == pick.layers[-1] else "├"
            drawing[layer] = f"{piece} {number}"
    return drawing
