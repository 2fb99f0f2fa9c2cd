"""Why each layer has its role: one line of text for each, which the plan shows."""

from __future__ import annotations

from collections.abc import Sequence

from interlace_cli.domain.layers import Role, describe_layers
from interlace_cli.domain.model import Lock, ModelFacts
from interlace_cli.domain.plan import LayerNote, Pick
from interlace_cli.domain.scores import Criterion, SelectionTask

SCORE_NAMES = {
    "triplet": "S3",
    "pair": "S2",
    "next": "S1",
    "block": "mean S1",
    "influence": "block influence",
    "angle": "angular distance",
    "taylor_weight": "|gradient x weight|",
}
"""Rule of a pick -> the name of its score."""
SPANS = ("triplet", "pair")
"""Rules whose picks are spans of neighbouring layers."""


def build_notes(
    task: SelectionTask, picks: Sequence[Pick], roles: Sequence[Role], locked: Sequence[Lock], model: ModelFacts | None
) -> list[LayerNote]:
    """One note for each layer, in their order: its scores (None if not measured), parameters and reason."""
    scores = task.scores
    why = {layer: f"protected: {lock.reason}" for lock in locked for layer in lock.layers}
    for rank, pick in enumerate(picks, start=1):
        for layer in pick.layers:
            why[layer] = _explain(layer, pick, rank, roles, task)
    notes = []
    for layer, role in enumerate(roles):
        default = "protected" if layer in task.protected else "in no span"
        assert role is Role.KEEP or layer in why
        notes.append(
            LayerNote(
                index=layer,
                s1=_get(scores.s1, layer),
                s2=_get(scores.s2, layer),
                s3=_get(scores.s3, layer),
                loss_increase=_get_finite(scores.loss_increase, layer),
                parameters=model.layer_parameters[layer] if model else None,
                why=why.get(layer, default),
            )
        )
    return notes


def _explain(layer: int, pick: Pick, rank: int, roles: Sequence[Role], task: SelectionTask) -> str:
    found = f"{pick.rule} {_name_span(pick)}, pick {rank}{_describe_score(pick, task.criterion)}"
    if roles[layer] is not Role.DROP or pick.rule not in SPANS or not pick.tune:
        return found
    if task.criterion == "similarity":
        own, other = _get(task.scores.s1, layer), _get(task.scores.s1, pick.tune[0])
        sign = ">" if (own or 0) > (other or 0) else "=" if own == other else "first, despite"
        return f"{found}; S1 {own:.4f} {sign} {other:.4f} of layer {pick.tune[0]}"
    return f"{found}; less than layer {pick.tune[0]} would"


def _name_span(pick: Pick) -> str:
    if pick.rule == "random" and pick.tune:
        return f"{pick.drop[0]} and {pick.tune[0]}"
    return describe_layers(pick.layers if pick.rule in (*SPANS, "next", "block") else pick.drop)


def _describe_score(pick: Pick, criterion: Criterion) -> str:
    if pick.score is None:
        return " of the greedy search by loss" if pick.rule == "loss" else ""
    if pick.rule in SPANS and criterion != "similarity":
        how = "the drop adds" if criterion == "loss" else "to first order the drop changes the loss by"
        return f": {how} {-pick.score:.4f}{' to the loss' if criterion == 'loss' else ''}"
    return f" by {SCORE_NAMES[pick.rule]} {pick.score:.4f}" if pick.rule in SCORE_NAMES else ""


def _get(values: Sequence[float], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _get_finite(values: Sequence[float], index: int) -> float | None:
    value = _get(values, index)
    return None if value is None or value == float("inf") else value
