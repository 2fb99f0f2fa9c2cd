"""What a plan needs to be measured: importances, groups of samples, and the scores that a choice is made by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from interlace_cli.domain.scores import Scores
from interlace_cli.options.analyze import AnalyzeOptions
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


def complete_analysis(
    analyze: AnalyzeOptions, plans: Sequence[PlanOptions], count_layers: Callable[[], int]
) -> AnalyzeOptions:
    """The options of an analysis that measures all that these plans choose by. The greedy search by loss goes as deep
    as the deepest plan that follows it, and leaves alone what that plan protects. `count_layers` says how many layers
    the model has; called only where a plan asks for a number of layers."""
    importances = {name for plan in plans for name in find_importances(plan)}
    groups = {name for plan in plans for name in find_groupings(plan)}
    changes: dict[str, object] = {
        "importance": (*analyze.importance, *sorted(importances - set(analyze.importance))),
        "by": (*analyze.by, *sorted(groups - set(analyze.by))),
        "stack": analyze.stack or next((plan.stack for plan in plans if plan.stack), None),
    }
    following = [plan for plan in plans if plan.chosen_strategy == "sleb"]
    if following:
        changes["search_ratio"] = max(analyze.search_ratio, *(_find_share(plan, count_layers) for plan in following))
        if analyze.protect is None:
            changes["protect"] = () if following[0].paper else following[0].protect
    return replace(analyze, **changes)  # type: ignore[arg-type]


def _find_share(plan: PlanOptions, count_layers: Callable[[], int]) -> float:
    """The share of the layers that the plan drops; of a number of layers half a layer more, as shares are rounded
    down."""
    if plan.drop is None:
        return plan.ratio or 0.0
    return min((plan.drop + 0.5) / count_layers(), 1.0)


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
