"""What a plan needs to be measured: importances, groups of samples, and the scores that a choice is made by."""

from __future__ import annotations

from collections.abc import Sequence

from interlace_cli.domain.scores import Scores
from interlace_cli.options.plan import PlanOptions
from interlace_cli.strategies import NEEDS
from interlace_cli.strategies.weighting import MODALITIES


def find_importances(options: PlanOptions) -> set[str]:
    """What `analyze --importance` has to have measured for these options, beside similarity."""
    needed = {NEEDS.get(options.chosen_strategy), options.criterion if options.criterion != "similarity" else None}
    return {name for name in needed if name is not None}


def find_groupings(options: PlanOptions) -> set[str]:
    """What `analyze --by` has to have grouped the samples by, beside modality, for the weights."""
    return {"source", "kind"} if any(name not in MODALITIES for name, _ in options.weight) else set()


def find_scores_used(scores: Scores, options: PlanOptions) -> dict[str, Sequence[object]]:
    """Name -> values of the scores that the choice depends on. An importance that is measured later, and that the
    strategy does not look at, leaves them as they are."""
    names = ["s1", "s2", "s3"]
    if options.chosen_strategy == "angular":
        names.append("angular")
    importances = find_importances(options)
    if "loss" in importances:
        names += ["loss_increase", "path"]
    if "taylor" in importances:
        names += ["taylor_activation", "taylor_weight"]
    return {name: list(getattr(scores, name)) for name in names}
