"""`plan`: scores -> one role for each layer, with the reasons and what it will save. No model, no torch.

What is decided is in `strategies/decide.py`; here is where the scores come from: an analysis, the released score files,
or a model's config alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from interlace_cli.core.step import Step
from interlace_cli.domain.analysis import Analysis, Calibration
from interlace_cli.domain.plan import Plan, PlanSummary
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.domain.scores import Scores
from interlace_cli.errors import CheckpointError, MissingInputError, PlanMismatchError, UsageError
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.healing.memory_need import RowSizes, build_sizes
from interlace_cli.healing.ways import CAUSAL, list_needs, list_ways
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact, to_json_text
from interlace_cli.io.checkpoints import is_local
from interlace_cli.io.files import check_free, hash_bytes, hash_file
from interlace_cli.io.score_files import load_scores
from interlace_cli.io.workspace import Workspace, require
from interlace_cli.options.finetune import RecipeOptions
from interlace_cli.options.plan import PlanOptions
from interlace_cli.strategies.decide import ModelConstraints, check_amount, decide_plan
from interlace_cli.strategies.needs import find_importances, find_scores_used
from interlace_cli.strategies.weighting import build_scores, weigh_scores

CHOICE = (
    *("ratio", "drop", "strategy", "criterion", "selection", "tune", "threshold", "weight", "protect", "paper", "seed"),
)
"""The options that the choice depends on."""


@dataclass(frozen=True)
class Basis:
    """What is chosen by. `inputs` name it by content; `has_scores` is False where only a config is at hand."""

    scores: Scores
    constraints: ModelConstraints
    inputs: dict[str, str]
    calibration: Calibration | None = None
    correlation: float | None = None
    has_scores: bool = True


def plan(options: PlanOptions, progress: Progress) -> Plan:
    """Decides, and writes plan.json. Raises ExistsError if a plan of other settings is there, or one that was edited;
    the same plan is left as it is."""
    options = settle(options, progress)
    step = build_step(options)
    if options.dry_run:
        return _decide(options, find_basis(options))
    state = step.find_state()
    if state.is_current and not options.force and isinstance(state.artifact, Plan) and not state.artifact.is_edited:
        return state.artifact
    if state.is_stale and not options.force:
        # What cannot be decided is said first: --force would be of no use.
        _decide(options, find_basis(options))
    return step.run(progress, options.force)


def settle(options: PlanOptions, progress: Progress) -> PlanOptions:
    """With a model whose layers nobody has scored, and no strategy named, layers are drawn at random: said once."""
    check_amount(options)
    is_from_config = options.model is not None and not options.scores and options.analysis is None
    if not is_from_config or _has_analysis(options) or options.strategy is not None:
        return options
    progress.say(f"There are no scores for {options.model}: layers are drawn at random. `interlace analyze` measures.")
    return replace(options, strategy="random")


def build_step(options: PlanOptions) -> Step[Plan]:
    """The plan depends on the scores that its strategy looks at, and on what the model's config allows."""
    check_amount(options)
    out, basis = options.out or Workspace(options.workspace).plan, find_basis(options)

    def make(progress: Progress, may_replace: bool) -> Plan:
        del progress
        check_free(out, may_replace)
        made = _decide(options, basis)
        save_artifact(made, out)
        return made

    return Step(name="plan", settings=build_settings(options), inputs=basis.inputs, out=out, record=Plan, make=make)


def build_settings(options: PlanOptions) -> Settings:
    """Everything the choice depends on beside the scores."""
    return {**options.build_settings(*CHOICE), "strategy": options.chosen_strategy, "weight": dict(options.weight)}


def find_basis(options: PlanOptions) -> Basis:
    """The score files, the analysis, or the config alone: what was named, else what is there. Raises UsageError,
    MissingInputError or PlanMismatchError."""
    if options.scores:
        constraints = load_constraints(options.model, options.stack) if options.model else None
        return _from_score_files(options.scores, constraints)
    if options.model is None or options.analysis is not None or _has_analysis(options):
        path = options.analysis or Workspace(options.workspace).analysis
        return _from_analysis(path, options)
    if options.chosen_strategy != "random":
        raise UsageError(
            f"{options.chosen_strategy} chooses by scores, and there is neither an analysis nor --scores.",
            "Run `interlace analyze` first, or draw layers with --strategy random.",
        )
    constraints = load_constraints(options.model, options.stack)
    # `random` drops layers that have a score, whatever it is.
    scores = Scores(constraints.num_layers, [0.0] * constraints.num_layers, [], [])
    return Basis(scores, constraints, constraints.inputs, has_scores=False)


def load_constraints(location: str, stack: str | None) -> ModelConstraints:
    """What constrains a plan: from the config alone, and the tensors' sizes where the weights lie beside it."""
    from interlace_cli.families.model_files import open_config, open_model

    stack = stack or LANGUAGE
    understood = open_config(location, stack)
    try:
        facts = open_model(location, stack).facts if is_local(location) else None
    except CheckpointError:
        facts = None
    config = {"constraints": hash_bytes(repr(sorted(understood.config.items())).encode())}
    return ModelConstraints(
        stack=stack,
        num_layers=understood.num_layers,
        locked=understood.locked,
        deepstack=understood.deepstack,
        model=facts,
        inputs={"model": facts.fingerprint} if facts else config,
    )


def _decide(options: PlanOptions, basis: Basis) -> Plan:
    origin = build_origin("plan", build_settings(options))
    made = decide_plan(
        basis.scores, options, basis.constraints, basis.calibration, origin, basis.inputs, basis.has_scores
    )
    summary = _add_healing(made) if made.summary is not None else None
    return made.model_copy(update={"correlation": basis.correlation, "summary": summary})


def _add_healing(made: Plan) -> PlanSummary | None:
    """The summary with what healing takes by the paper's recipe, in rows as long as they may be."""
    sizes = build_sizes(made.model, made.kept, made.tune_positions) if made.model and made.stack in CAUSAL else None
    if sizes is None or made.summary is None:
        return made.summary
    recipe = RecipeOptions()
    # A third of them are labels, and as many a picture's.
    share = recipe.max_length // 3
    row = RowSizes(recipe.max_length, share, share)
    needs = list_needs(sizes, row, list_ways(recipe.optim), None)
    return made.summary.model_copy(update={"healing_tokens": row.tokens, "healing": needs})


def _from_analysis(path: Path, options: PlanOptions) -> Basis:
    analysis = load_artifact(require(path), Analysis)
    if options.stack not in (None, analysis.model.stack):
        raise PlanMismatchError(
            f"{path} is of the {analysis.model.stack} stack, and --stack says {options.stack}.",
            f"Run `interlace analyze --stack {options.stack}`.",
        )
    missing = next((n for n in sorted(find_importances(options)) if getattr(analysis, n) is None), None)
    if missing is not None:
        raise MissingInputError(
            f"{path} has no importance by {missing}.",
            f"Run `interlace analyze --importance {missing}` on the same model and dataset: it adds that.",
        )
    scores = weigh_scores(analysis, dict(options.weight)) if options.weight else build_scores(analysis)
    used = {**find_scores_used(scores, options), "calibration": analysis.calibration.model_dump()}
    inputs = {
        "model": analysis.model.fingerprint,
        "calibration": analysis.inputs.get("calibration", "none"),
        "scores": hash_bytes(to_json_text(_to_finite(used)).encode()),
    }
    constraints = ModelConstraints.by_facts(analysis.model)
    return Basis(scores, constraints, inputs, analysis.calibration, analysis.correlation)


def _to_finite(value: object) -> object:
    """With infinities as text: JSON has none."""
    if isinstance(value, dict):
        return {name: _to_finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_finite(one) for one in value]
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def _from_score_files(paths: Sequence[Path], constraints: ModelConstraints | None) -> Basis:
    """The model need not be at hand; if it is, its constraints hold."""
    inputs = {f"scores{p}": hash_file(require(path)) for p, path in enumerate(paths, start=1)}
    scores = load_scores(paths)
    if constraints is None:
        return Basis(scores, ModelConstraints(), inputs)
    if constraints.num_layers != scores.num_layers:
        raise UsageError(
            f"the score files speak of {scores.num_layers} layers, and the model has {constraints.num_layers}.",
            "Give the files and the model that belong together.",
        )
    return Basis(scores, constraints, {**inputs, **constraints.inputs})


def _has_analysis(options: PlanOptions) -> bool:
    """Whether the workspace has an analysis of the very model and stack that are named."""
    path = Workspace(options.workspace).analysis
    if options.model is None or not path.exists():
        return False
    constraints = load_constraints(options.model, options.stack)
    if constraints.model is None:
        return False
    found = load_artifact(path, Analysis).model
    return (found.fingerprint, found.stack) == (constraints.model.fingerprint, constraints.stack)
