"""Which layers are cut out of which model: those of a plan, or those named by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interlace_cli.core.inputs import hash_model
from interlace_cli.domain.layers import describe_layers
from interlace_cli.domain.plan import Plan
from interlace_cli.errors import PlanMismatchError, UsageError
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.workspace import Workspace, require
from interlace_cli.options.prune import PruneOptions


@dataclass(frozen=True)
class Cut:
    """What is cut of what: `drop` and `tune` are dense indices of layers that go and that are to be tuned, `strategy`
    says who chose them. `plan` None: they were named by hand."""

    opened: OpenedModel
    drop: tuple[int, ...]
    tune: tuple[int, ...]
    strategy: str
    plan: Plan | None = None


def find_cut(options: PruneOptions) -> Cut:
    """Of --drop-layers, or of the plan. Raises UsageError, MissingInputError or PlanMismatchError."""
    if options.drop_layers is not None:
        assert options.model is not None
        opened = open_model(options.model, options.stack or LANGUAGE)
        _check_layers(options.drop_layers, opened.facts.num_layers)
        return Cut(opened, options.drop_layers, (), "by hand")
    plan = load_artifact(require(options.plan or Workspace(options.workspace).plan), Plan)
    if options.model is None and plan.model is None:
        raise UsageError("the plan was made without a model's weights, and names no model.", "Give MODEL.")
    location = options.model or (plan.model.pinned if plan.model else "")
    opened = open_model(location, plan.stack)
    check_plan_fits(plan, opened, options.allow_mismatch)
    return Cut(opened, tuple(plan.drop), tuple(plan.tune), plan.strategy, plan)


def hash_cut(cut: Cut) -> dict[str, str]:
    """The model, and the layers by their dense indices."""
    return {
        **hash_model(cut.opened.facts),
        "drop": describe_layers(cut.drop),
        "tune": describe_layers(cut.tune),
    }


def check_plan_fits(plan: Plan, opened: OpenedModel, is_allowed: bool) -> None:
    """Raises PlanMismatchError unless the plan was made for this very model."""
    facts = opened.facts
    if plan.num_layers != facts.num_layers:
        raise PlanMismatchError(
            f"the plan is for a model of {plan.num_layers} layers, and {facts.name} has {facts.num_layers}.",
            "Run `interlace analyze` and `interlace plan` for this model.",
        )
    if plan.model is not None and plan.model.fingerprint != facts.fingerprint and not is_allowed:
        raise PlanMismatchError(
            f"the plan was made for {plan.model.name} ({plan.model.fingerprint[:12]}), and {facts.name} is another"
            f" model ({facts.fingerprint[:12]}).",
            "Run `interlace analyze` and `interlace plan` for this model, or add --allow-mismatch.",
        )


def _check_layers(drop: Sequence[int], layers: int) -> None:
    if not drop or len(drop) >= layers or drop[-1] >= layers:
        raise UsageError(
            f"--drop-layers {describe_layers(drop)} does not fit a model with layers 0 to {layers - 1}.",
            "Name at least one layer, and leave at least one.",
        )
