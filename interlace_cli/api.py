"""The Python API: each step of the command line as a function, with the same options and the same artifacts.

    import interlace_cli as interlace

    interlace.prepare(source="demo", max_samples=300, workspace="w")
    interlace.analyze(workspace="w")
    plan = interlace.plan(ratio=0.25, workspace="w")
    print(plan.drop)

Options are given by the names of the command line (`heal_batch_size=8` for `--heal-batch-size`), or as a record of
`interlace_cli.options`; what is given beside a record changes it. Progress goes to any object like
`domain.progress.Progress`. An InterlaceError says what is wrong and what to do. torch is loaded by the steps that need
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.options import (
    AnalyzeOptions,
    CompareOptions,
    EvaluateOptions,
    ExportOptions,
    FinetuneOptions,
    Options,
    PlanOptions,
    PrepareOptions,
    PruneOptions,
    RunOptions,
)
from interlace_cli.options.build import build_options, check_agreement, dump_options

if TYPE_CHECKING:
    from interlace_cli.domain.analysis import Analysis
    from interlace_cli.domain.checkpoint import CheckpointCard, PruneOutcome
    from interlace_cli.domain.comparison import Comparison, GridState, Submission
    from interlace_cli.domain.dataset import Manifest, StagedShare
    from interlace_cli.domain.evaluation import Evaluation
    from interlace_cli.domain.plan import Plan
    from interlace_cli.domain.run import RunRecord

O = TypeVar("O", bound=Options)  # noqa: E741 - the usual name
StepCallback = Callable[[str, str, float], None]


def prepare(
    options: PrepareOptions | None = None, /, *, progress: Progress | None = None, **given: Any
) -> Manifest | StagedShare:
    """Draws a sample of a source and writes the dataset; see `PrepareOptions`. A StagedShare comes of a `shard` that is
    not the last."""
    from interlace_cli.core.prepare import prepare as step

    with _opened("prepare", PrepareOptions, options, given, progress) as (made, told):
        return step(made, told)


def analyze(options: AnalyzeOptions | None = None, /, *, progress: Progress | None = None, **given: Any) -> Analysis:
    """Measures how much each layer matters and writes the analysis; see `AnalyzeOptions`."""
    from interlace_cli.core.analyze import analyze as step

    with _opened("analyze", AnalyzeOptions, options, given, progress) as (made, told):
        return step(made, told)


def plan(options: PlanOptions | None = None, /, *, progress: Progress | None = None, **given: Any) -> Plan:
    """Decides a role for each layer and writes the plan; see `PlanOptions`."""
    from interlace_cli.core.plan import plan as step

    with _opened("plan", PlanOptions, options, given, progress) as (made, told):
        return step(made, told)


def prune(options: PruneOptions | None = None, /, *, progress: Progress | None = None, **given: Any) -> PruneOutcome:
    """Writes a checkpoint without the dropped layers; see `PruneOptions`."""
    from interlace_cli.core.prune import prune as step

    with _opened("prune", PruneOptions, options, given, progress) as (made, told):
        return step(made, told)


def finetune(
    options: FinetuneOptions | None = None, /, *, progress: Progress | None = None, **given: Any
) -> CheckpointCard:
    """Heals the tuned layers of a pruned checkpoint; see `FinetuneOptions`."""
    from interlace_cli.core.finetune import finetune as step

    with _opened("finetune", FinetuneOptions, options, given, progress) as (made, told):
        return step(made, told)


def evaluate(
    options: EvaluateOptions | None = None, /, *, progress: Progress | None = None, **given: Any
) -> Evaluation:
    """Puts checkpoints side by side and writes the evaluation; see `EvaluateOptions`."""
    from interlace_cli.core.evaluate import evaluate as step

    with _opened("eval", EvaluateOptions, options, given, progress) as (made, told):
        return step(made, told)


def export(
    options: ExportOptions | None = None, /, *, progress: Progress | None = None, **given: Any
) -> CheckpointCard:
    """Writes a folder for the Hub, with a model card; see `ExportOptions`."""
    from interlace_cli.core.export import export as step

    with _opened("export", ExportOptions, options, given, progress) as (made, told):
        return step(made, told)


def run(
    options: RunOptions | None = None,
    /,
    *,
    progress: Progress | None = None,
    on_step: StepCallback | None = None,
    **given: Any,
) -> RunRecord:
    """The whole chain; what is up to date is skipped. `on_step` is called with `(step, state, seconds)`, where state is
    running, done or skipped."""
    from interlace_cli.core.run import compose_options, ignore_step
    from interlace_cli.core.run import run as chain

    with _opened("run", RunOptions, options, given, progress, compose_options) as (made, told):
        return chain(made, told, on_step or ignore_step)


def compare(
    options: CompareOptions | None = None,
    /,
    *,
    progress: Progress | None = None,
    on_step: StepCallback | None = None,
    **given: Any,
) -> Comparison | GridState | Submission:
    """Strategies, ratios and healing seeds beside the baselines, in one table; see `CompareOptions`. With `shard` or
    `submit` the table is not there yet: what lacks of it is returned."""
    from interlace_cli.core.compare import compare as grid
    from interlace_cli.core.run import compose_options, ignore_step

    with _opened("compare", CompareOptions, options, given, progress, compose_options) as (made, told):
        return grid(made, told, on_step or ignore_step)


@contextmanager
def _opened(
    command: str,
    record: type[O],
    options: O | None,
    given: Mapping[str, Any],
    progress: Progress | None,
    compose: Callable[[type[Any], Mapping[str, Any]], Any] = build_options,
) -> Iterator[tuple[O, Progress]]:
    """The record of what is given, while its workspace is held: one command at a time works in it, but for those that
    many processes work on at once."""
    from interlace_cli.runtime.lock import locked

    if options is not None:
        check_agreement(options, given)
    base = {} if options is None else dump_options(options, with_defaults=False)
    made, told = compose(record, {**base, **given}), progress or Silent()
    with locked(made.workspace, command, told.say) if made.locks_workspace else nullcontext():
        yield made, told
