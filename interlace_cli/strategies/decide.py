"""Scores and options -> a plan: a role for each layer, the reason for it, and what the cut saves. Pure.

`strategies/<name>.py` selects the layers. Here is what holds for every strategy: how many layers are dropped, which are
protected, which are tuned, and the error message if not that many can be dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from interlace_cli.domain.analysis import Calibration
from interlace_cli.domain.layers import Role, count_drops, describe_layers, kept_layers
from interlace_cli.domain.model import Lock, ModelFacts
from interlace_cli.domain.plan import Pick, Plan, PlanSummary
from interlace_cli.domain.record import Origin
from interlace_cli.domain.scores import Criterion, Scores, Search, SelectionTask, TuneRule
from interlace_cli.errors import RatioError, UsageError
from interlace_cli.options.plan import PlanOptions
from interlace_cli.strategies import DROP_ONLY, STRATEGIES
from interlace_cli.strategies.interlace import find_pair_bar
from interlace_cli.strategies.reasons import build_notes
from interlace_cli.strategies.tuning import assign_tuned

LANGUAGE = "language"


@dataclass(frozen=True)
class ModelConstraints:
    """What is known of the model a plan is for, as much as there is: with score files alone, nothing.

    `deepstack`: after how many of the first layers vision features are added; `inputs`: what it was read from.
    """

    stack: str = LANGUAGE
    num_layers: int = 0
    locked: list[Lock] = field(default_factory=list)
    deepstack: int = 0
    model: ModelFacts | None = None
    inputs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def by_facts(cls, model: ModelFacts) -> ModelConstraints:
        """All that an analysed model's facts say."""
        return cls(model.stack, model.num_layers, model.locked, model.deepstack_layers, model)


def decide_plan(
    scores: Scores,
    options: PlanOptions,
    constraints: ModelConstraints,
    calibration: Calibration | None,
    origin: Origin,
    inputs: dict[str, str],
    has_scores: bool = True,
) -> Plan:
    """Selects layers by the strategy of `options`, gives each its role and reason, and counts what is saved.

    `has_scores` False: the scores are placeholders, and the reasons show none. Raises UsageError for options that make
    no sense for these scores, RatioError if so many layers cannot be dropped.
    """
    check_amount(options)
    _check_scores(scores, options)
    layers, model = scores.num_layers, constraints.model
    if options.paper:
        scores = scores.without_last()
    locked = {layer for lock in constraints.locked for layer in lock.layers}
    # The record of options holds only values of these types (`options/plan.py`).
    task = SelectionTask(
        scores,
        count=_count_drops(options, layers),
        protected=_find_protected(options, layers, constraints) | locked,
        seed=options.seed,
        criterion=cast(Criterion, options.criterion),
        search=cast(Search, options.selection),
    )
    if options.chosen_strategy == "interlace" and not options.paper:
        task = replace(task, pair_bar=find_pair_bar(task) if options.threshold is None else options.threshold)
    picks = _select(task, options, constraints)
    rule = options.tune or ("nearest" if options.chosen_strategy in DROP_ONLY else None)
    if rule is not None:
        picks = assign_tuned(picks, scores, task.protected, cast(TuneRule, rule))
    roles = [Role.KEEP] * layers
    for pick in picks:
        for role, members in ((Role.DROP, pick.drop), (Role.TUNE, pick.tune), (Role.ANCHOR, pick.anchor)):
            for layer in members:
                assert roles[layer] is Role.KEEP, f"layer {layer} was chosen twice"
                roles[layer] = role
    by_role = {role: [layer for layer in range(layers) if roles[layer] is role] for role in Role}
    return Plan(
        kind=Plan.KIND,
        schema_version=Plan.SCHEMA,
        created_by=origin,
        inputs=inputs,
        strategy=options.chosen_strategy,
        stack=constraints.stack,
        num_layers=layers,
        roles=roles,
        drop=by_role[Role.DROP],
        tune=by_role[Role.TUNE],
        anchor=by_role[Role.ANCHOR],
        protect=sorted(task.protected),
        locked=constraints.locked,
        pair_bar=task.pair_bar,
        picks=picks,
        layers=build_notes(
            task if has_scores else replace(task, scores=Scores(layers, [], [], [])),
            picks,
            roles,
            constraints.locked,
            model,
        ),
        summary=_summarize(by_role[Role.DROP], layers, model, calibration),
        model=model,
    )


def estimate_prefill_flops(model: ModelFacts, kept: Sequence[int], calibration: Calibration) -> float:
    """FLOPs to prefill the calibration's mean prompt, counted: two for each token and parameter that it uses, in each
    layer the causal half of the attention's scores and sums (2 T^2 x width), the vision tower on its patches, and the
    head once.
    """
    tokens = calibration.tokens
    used = model.layer_active or model.layer_parameters
    layers = sum(2 * used[i] * tokens + 2 * tokens**2 * model.attention_width for i in kept)
    vision = 2 * model.rest_parameters * calibration.vision_patches
    head = 2 * (model.head_parameters or model.embedding_parameters)
    return layers + vision + head


def check_amount(options: PlanOptions) -> None:
    """Raises UsageError if it is not said how many layers go."""
    if options.ratio is None and options.drop is None:
        raise UsageError("plan needs either --ratio or --drop.", "Such as --ratio 0.25.")


def check_reach(options: PlanOptions, constraints: ModelConstraints) -> None:
    """Raises UsageError or RatioError if so many layers cannot be dropped whatever the scores: of n free layers in a
    row, a strategy that tunes a neighbour of each dropped layer can drop n/2, others n."""
    check_amount(options)
    layers = constraints.num_layers
    count = _count_drops(options, layers)
    left_alone = {layer for lock in constraints.locked for layer in lock.layers}
    left_alone |= _find_protected(options, layers, constraints)
    if options.paper and options.chosen_strategy != "interlace_tn":
        # Nothing that holds it has a score (`Scores.without_last`); interlace_tn may tune it all the same.
        left_alone.add(layers - 1)
    share = 2 if options.chosen_strategy in ("interlace", "interlace_oa", "interlace_tn") else 1
    runs, length = [], 0
    for layer in range(layers + 1):
        is_free = layer < layers and layer not in left_alone
        if not is_free and length:
            runs.append(length)
        length = length + 1 if is_free else 0
    reach = sum(run // share for run in runs)
    if count > reach:
        raise RatioError(
            f"{options.chosen_strategy} can drop at most {reach} of {layers} layers (ratio {reach / layers:.4g}), not"
            f" {count}: {describe_layers(left_alone)} are left alone.",
            f"Ask for --drop {reach} or less, protect fewer layers, or take another strategy.",
        )


def _count_drops(options: PlanOptions, layers: int) -> int:
    if options.drop is not None:
        if not 0 < options.drop < layers:
            raise UsageError(
                f"--drop {options.drop} is not between 1 and {layers - 1}, for a model of {layers} layers."
            )
        return options.drop
    ratio = options.ratio or 0.0
    count = count_drops(ratio, layers)
    if count == 0:
        raise RatioError(f"--ratio {ratio:g} of {layers} layers is no whole layer.", f"The least is {1 / layers:.4g}.")
    return count


def _find_protected(options: PlanOptions, layers: int, constraints: ModelConstraints) -> frozenset[int]:
    if options.paper:
        return frozenset()
    if options.protect is None:
        return frozenset([*range(constraints.deepstack), layers - 1])
    outside = [layer for layer in options.protect if layer >= layers]
    if outside:
        raise UsageError(f"--protect names layer {outside[0]}, and the layers are 0 to {layers - 1}.")
    return frozenset(options.protect)


def _select(task: SelectionTask, options: PlanOptions, constraints: ModelConstraints) -> list[Pick]:
    """The strategy's picks. Raises RatioError that names the largest ratio and what stands in its way."""
    select = STRATEGIES[options.chosen_strategy]
    if options.chosen_strategy == "sleb":
        _check_search(task, options)
    picks = select(task)
    if sum(len(pick.drop) for pick in picks) == task.count:
        return picks
    layers = task.scores.num_layers
    picks = select(replace(task, count=layers))
    reach = sum(len(pick.drop) for pick in picks)
    left = set(range(layers)) - task.protected - {layer for pick in picks for layer in pick.layers}
    if options.paper:
        left -= {layers - 1}
    lonely = f", and {describe_layers(left)} have no free neighbours left" if options.strategy not in DROP_ONLY else ""
    because = "".join(
        f" Layers {describe_layers(lock.layers)} cannot go: {lock.reason}." for lock in constraints.locked
    )
    if options.chosen_strategy == "sleb":
        because += f" The greedy search by loss dropped layers {describe_layers(task.scores.path)}."
    if len(select(replace(task, count=layers, pair_bar=None))) > reach:
        because += f" Pairs of an S2 below {task.pair_bar:.4f} are not taken; --threshold lowers that."
    raise RatioError(
        f"{options.chosen_strategy} can drop {reach} of {layers} layers (ratio {reach / layers:.4g}), not {task.count}:"
        f" protected are {describe_layers(task.protected)}{lonely}.{because}",
        f"Ask for --drop {reach} or less, protect fewer layers, {_advise(options)}." if reach else "",
    )


def _check_search(task: SelectionTask, options: PlanOptions) -> None:
    """Raises UsageError if the greedy search left layers alone that the plan does not protect: it may have dropped
    others in their place. A layer that only the plan protects ends the path, which is right up to there."""
    unasked = task.scores.unsearched - task.protected
    if options.paper:
        unasked -= {task.scores.num_layers - 1}
    if unasked:
        words = f'--protect "{describe_layers(task.protected)}"' if task.protected else '--protect ""'
        raise UsageError(
            f"the greedy search by loss left layers {describe_layers(sorted(unasked))} alone, and this plan does not"
            " protect them.",
            f"Search again: `interlace analyze --importance loss {words}`.",
        )


def _advise(options: PlanOptions) -> str:
    if options.chosen_strategy == "sleb":
        return "or search further: `interlace analyze --importance loss --search-ratio`"
    if options.chosen_strategy == "interlace" and options.selection == "greedy":
        return "add --selection optimal, or take another strategy"
    return "or take another strategy"


def _check_scores(scores: Scores, options: PlanOptions) -> None:
    """Raises UsageError if what the strategy chooses by was not measured, or not in the groups that are asked for."""
    by_criterion = {"loss": scores.loss_increase, "taylor": scores.taylor_activation}
    by_strategy = {"angular": scores.angular, "sleb": scores.path, "taylor": scores.taylor_weight}
    chosen: Sequence[object] = by_strategy.get(options.chosen_strategy, by_criterion.get(options.criterion, [None]))
    if chosen:
        return
    what = options.chosen_strategy if options.chosen_strategy in by_strategy else f"--criterion {options.criterion}"
    if options.weight:
        raise UsageError(
            f"{what} cannot be weighed by {', '.join(name for name, _ in options.weight)}: what it chooses by was not"
            " measured for these alone.",
            "Leave out --weight, or choose by similarity.",
        )
    raise UsageError(f"{what} needs what only `interlace analyze` measures, on a language model.", "Run it first.")


def _summarize(drop: list[int], layers: int, model: ModelFacts | None, calibration: Calibration | None) -> PlanSummary:
    kept = kept_layers(drop, layers)
    if model is None:
        return PlanSummary(layers=layers, layers_left=len(kept))
    speedup = None
    if calibration is not None and model.stack in (LANGUAGE, "text", "decoder"):
        dense = estimate_prefill_flops(model, range(layers), calibration)
        speedup = round(dense / estimate_prefill_flops(model, kept, calibration), 4)
    return PlanSummary(
        layers=layers,
        layers_left=len(kept),
        parameters=model.total_parameters,
        parameters_left=model.total_parameters - sum(model.layer_parameters[i] for i in drop),
        bytes=model.total_bytes,
        bytes_left=model.total_bytes - sum(model.layer_bytes[i] for i in drop),
        prefill_speedup=speedup,
    )
