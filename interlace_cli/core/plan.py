"""`plan`: scores -> one role for each layer, with the reasons and what it will save. No model, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from interlace_cli.domain.analysis import Analysis, Calibration
from interlace_cli.domain.layers import Role, count_drops, describe_layers, kept_layers
from interlace_cli.domain.model import Lock, ModelFacts
from interlace_cli.domain.plan import Pick, Plan, PlanSummary
from interlace_cli.domain.record import Settings
from interlace_cli.domain.scores import Assign, Rank, Scores, SelectionTask, Tune
from interlace_cli.errors import (
    ArtifactError,
    CheckpointError,
    InterlaceError,
    MissingInputError,
    PlanMismatchError,
    RatioError,
    UsageError,
)
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.io.artifacts import build_origin, load_artifact
from interlace_cli.io.checkpoints import is_local
from interlace_cli.io.files import hash_bytes, hash_file
from interlace_cli.io.score_files import load_scores
from interlace_cli.io.workspace import require
from interlace_cli.strategies import DROP_ONLY, NEEDS, STRATEGIES
from interlace_cli.strategies.interlace import find_pair_bar
from interlace_cli.strategies.reasons import build_notes
from interlace_cli.strategies.tuning import assign_tuned
from interlace_cli.strategies.weighting import MODALITIES, build_scores, weigh_scores


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


@dataclass(frozen=True)
class PlanOptions:
    """`ratio` or `drop` (a number of layers). `protect` None means the default: DeepStack layers and the last one.

    `paper`: the released rules to the letter, with nothing protected but what the scores leave out (the last layer).
    `rank`, `assign` and `threshold` (the S_2 that a pair needs; None: as high as the S_3 of every triplet taken) are
    `interlace`'s own. `tune` None leaves it to the strategy which layers are tuned, `nearest` where it does not say.
    `weights`: groups of samples or tokens to plan for, each with its weight; none means all alike.
    """

    ratio: float | None = None
    drop: int | None = None
    strategy: str = "interlace"
    protect: tuple[int, ...] | None = None
    paper: bool = False
    seed: int = 0
    rank: Rank = Rank.SIMILARITY
    assign: Assign = Assign.GREEDY
    tune: Tune | None = None
    threshold: float | None = None
    weights: tuple[tuple[str, float], ...] = ()


def build_settings(options: PlanOptions) -> Settings:
    """Everything the choice depends on beside the scores."""
    return {
        "ratio": options.ratio,
        "drop": options.drop,
        "strategy": options.strategy,
        "protect": None if options.protect is None else list(options.protect),
        "paper": options.paper,
        "seed": options.seed,
        "rank": options.rank.value,
        "assign": options.assign.value,
        "tune": options.tune.value if options.tune else None,
        "threshold": options.threshold,
        "weights": dict(options.weights),
    }


def find_importances(options: PlanOptions) -> set[str]:
    """What `analyze --importance` has to have measured for these options, beside similarity."""
    needed = {NEEDS.get(options.strategy)} | ({options.rank.value} if options.rank is not Rank.SIMILARITY else set())
    return {name for name in needed if name is not None}


def find_groupings(options: PlanOptions) -> set[str]:
    """What `analyze --by` has to have grouped the samples by, beside modality, for the weights."""
    return {"source", "kind"} if any(name not in MODALITIES for name, _ in options.weights) else set()


def plan_from_analysis(path: Path, options: PlanOptions, stack: str | None = None) -> Plan:
    """A plan for the model of the analysis at `path`. Raises PlanMismatchError if that is of another `stack`."""
    check_options(options)
    analysis = load_artifact(require(path), Analysis)
    if stack not in (None, analysis.model.stack):
        raise PlanMismatchError(
            f"{path} is of the {analysis.model.stack} stack, and --stack says {stack}.",
            f"Run `interlace analyze --stack {stack}`.",
        )
    missing = next((n for n in sorted(find_importances(options)) if getattr(analysis, n) is None), None)
    if missing is not None:
        raise MissingInputError(
            f"{path} has no importance by {missing}.",
            f"Run `interlace analyze --importance {missing}` on the same model and dataset: it adds that.",
        )
    scores = weigh_scores(analysis, dict(options.weights)) if options.weights else build_scores(analysis)
    inputs = {"analysis": hash_file(path), "model": analysis.model.fingerprint}
    made = build_plan(scores, options, ModelConstraints.by_facts(analysis.model), analysis.calibration, inputs)
    return made.model_copy(update={"correlation": analysis.correlation})


def plan_from_scores(paths: Sequence[Path], options: PlanOptions, known: ModelConstraints | None = None) -> Plan:
    """A plan from three released score files. The model need not be at hand; if `known`, its constraints hold."""
    check_options(options)
    inputs = {f"scores{p}": hash_file(require(path)) for p, path in enumerate(paths, start=1)}
    scores = load_scores(paths)
    if known is None:
        return build_plan(scores, options, ModelConstraints(), None, inputs)
    if known.num_layers != scores.num_layers:
        raise UsageError(
            f"the score files speak of {scores.num_layers} layers, and the model has {known.num_layers}.",
            "Give the files and the model that belong together.",
        )
    return build_plan(scores, options, known, None, {**inputs, **known.inputs})


def plan_without_scores(options: PlanOptions, known: ModelConstraints) -> Plan:
    """A plan from a model's config alone, which has no scores to choose by: for `random`."""
    check_options(options)
    if options.strategy != "random":
        raise UsageError(
            f"{options.strategy} chooses by scores, and there is neither an analysis nor --scores.",
            "Run `interlace analyze` first, or draw layers with --strategy random.",
        )
    # `random` drops layers that have a score, whatever it is.
    scores = Scores(known.num_layers, [0.0] * known.num_layers, [], [])
    return build_plan(scores, options, known, None, known.inputs, has_scores=False)


def has_analysis_of(path: Path, known: ModelConstraints) -> bool:
    """Whether there is an analysis at `path`, of the very stack and model that is `known`."""
    if not path.exists() or known.model is None:
        return False
    found = load_artifact(path, Analysis).model
    return (found.fingerprint, found.stack) == (known.model.fingerprint, known.stack)


def load_constraints(location: str, stack: str | None) -> ModelConstraints:
    """What constrains a plan: from the config alone, and the tensors' sizes where the weights lie beside it."""
    from interlace_cli.families.model_files import open_config, open_model

    stack = stack or LANGUAGE
    understood = open_config(location, stack)
    try:
        facts = open_model(location, stack).facts if is_local(location) else None
    except CheckpointError:
        facts = None
    config = {"config": hash_bytes(repr(sorted(understood.config.items())).encode())}
    return ModelConstraints(
        stack=stack,
        num_layers=understood.num_layers,
        locked=understood.locked,
        deepstack=understood.deepstack,
        model=facts,
        inputs={"model": facts.fingerprint} if facts else config,
    )


def build_plan(
    scores: Scores,
    options: PlanOptions,
    known: ModelConstraints,
    calibration: Calibration | None,
    inputs: dict[str, str],
    has_scores: bool = True,
) -> Plan:
    """Chooses, explains and counts. Raises UsageError for senseless options, RatioError for too high a ratio."""
    check_options(options)
    _check_scores(scores, options)
    layers, model = scores.num_layers, known.model
    if options.paper:
        scores = scores.without_last()
    protected = _protected(options, layers, known) | {layer for lock in known.locked for layer in lock.layers}
    task = SelectionTask(scores, _count(options, layers), protected, options.seed, options.rank, options.assign)
    if options.strategy == "interlace" and not options.paper:
        task = replace(task, pair_bar=find_pair_bar(task) if options.threshold is None else options.threshold)
    picks = _select(task, options, known)
    tune = options.tune or (Tune.NEAREST if options.strategy in DROP_ONLY else None)
    if tune is not None:
        picks = assign_tuned(picks, scores, protected, tune)
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
        created_by=build_origin("plan", build_settings(options)),
        inputs=inputs,
        strategy=options.strategy,
        stack=known.stack,
        num_layers=layers,
        roles=roles,
        drop=by_role[Role.DROP],
        tune=by_role[Role.TUNE],
        anchor=by_role[Role.ANCHOR],
        protect=sorted(task.protected),
        locked=known.locked,
        pair_bar=task.pair_bar,
        picks=picks,
        layers=build_notes(
            task if has_scores else replace(task, scores=Scores(layers, [], [], [])), picks, roles, known.locked, model
        ),
        summary=_summarize(by_role[Role.DROP], layers, model, calibration),
        model=model,
    )


def estimate_prefill_flops(model: ModelFacts, kept: Sequence[int], calibration: Calibration) -> float:
    """FLOPs to prefill the calibration's mean prompt, counted: two for each parameter and token, in each layer the
    causal half of the attention's scores and sums (2 T^2 x width), the vision tower on its patches, and the head once.
    """
    tokens = calibration.tokens
    layers = sum(2 * model.layer_parameters[i] * tokens + 2 * tokens**2 * model.attention_width for i in kept)
    vision = 2 * model.rest_parameters * calibration.vision_patches
    head = 2 * (model.head_parameters or model.embedding_parameters)
    return layers + vision + head


def check_options(options: PlanOptions) -> None:
    """Raises UsageError for what is wrong whatever the model: said before anything else is looked at."""
    if (options.ratio is None) == (options.drop is None):
        raise UsageError("plan needs either --ratio or --drop.", "Such as --ratio 0.25.")
    if options.strategy not in STRATEGIES:
        raise UsageError(f"there is no strategy {options.strategy!r}.", f"There are {', '.join(STRATEGIES)}.")
    if options.ratio is not None and not 0 < options.ratio < 1:
        raise UsageError(f"--ratio {options.ratio:g} is not between 0 and 1.", "Such as --ratio 0.25.")
    if options.paper and options.protect:
        raise UsageError("--paper protects nothing, and --protect does.", "Give one of them.")
    if options.strategy != "interlace":
        own = {
            "--rank": options.rank is not Rank.SIMILARITY,
            "--assign": options.assign is not Assign.GREEDY,
            "--threshold": options.threshold is not None,
        }
        wrong = next((option for option, is_given in own.items() if is_given), None)
        if wrong is not None:
            raise UsageError(f"{wrong} belongs to the strategy interlace, not to {options.strategy}.", "Leave it out.")


def _count(options: PlanOptions, layers: int) -> int:
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


def _protected(options: PlanOptions, layers: int, known: ModelConstraints) -> frozenset[int]:
    if options.paper:
        return frozenset()
    if options.protect is None:
        return frozenset([*range(known.deepstack), layers - 1])
    outside = [layer for layer in options.protect if layer >= layers]
    if outside:
        raise UsageError(f"--protect names layer {outside[0]}, and the layers are 0 to {layers - 1}.")
    return frozenset(options.protect)


def _select(task: SelectionTask, options: PlanOptions, known: ModelConstraints) -> list[Pick]:
    """The strategy's picks. Raises RatioError that names the largest ratio and what stands in its way."""
    select = STRATEGIES[options.strategy]
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
    because = "".join(f" Layers {describe_layers(lock.layers)} cannot go: {lock.reason}." for lock in known.locked)
    if options.strategy == "sleb":
        because += f" The greedy search by loss dropped layers {describe_layers(task.scores.path)}."
    if len(select(replace(task, count=layers, pair_bar=None))) > reach:
        because += f" Pairs of an S2 below {task.pair_bar:.4f} are not taken; --threshold lowers that."
    raise RatioError(
        f"{options.strategy} can drop {reach} of {layers} layers (ratio {reach / layers:.4g}), not {task.count}:"
        f" protected are {describe_layers(task.protected)}{lonely}.{because}",
        f"Ask for --drop {reach} or less, protect fewer layers, {_advise(options)}." if reach else "",
    )


def _advise(options: PlanOptions) -> str:
    if options.strategy == "sleb":
        return "or search further: `interlace analyze --importance loss --search-ratio`"
    if options.strategy == "interlace" and options.assign is Assign.GREEDY:
        return "add --assign optimal, or take another strategy"
    return "or take another strategy"


def _check_scores(scores: Scores, options: PlanOptions) -> None:
    """Raises UsageError if what the strategy chooses by was not measured, or not in the groups that are asked for."""
    by_rank = {Rank.LOSS: scores.loss_increase, Rank.TAYLOR: scores.taylor_activation}
    by_strategy = {"angular": scores.angular, "sleb": scores.path, "taylor": scores.taylor_weight}
    chosen: Sequence[object] = by_strategy.get(options.strategy, by_rank.get(options.rank, [None]))
    if chosen:
        return
    what = options.strategy if options.strategy in by_strategy else f"--rank {options.rank.value}"
    if options.weights:
        raise UsageError(
            f"{what} cannot be weighed by {', '.join(name for name, _ in options.weights)}: what it chooses by was not"
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


def check_replaceable(path: Path, force: bool) -> None:
    """A plan may be made anew as often as one likes, unless somebody edited the one that is there: then InterlaceError
    without `force`."""
    if force or not path.exists():
        return
    try:
        is_edited = load_artifact(path, Plan).is_edited
    except ArtifactError:
        is_edited = True
    if is_edited:
        raise InterlaceError(
            f"{path} was edited by hand.", "Add --force to replace it, or write the new plan elsewhere with --out."
        )
