"""`interlace run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.options.run import RunOptions

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.run import Outlook


def run(options: RunOptions) -> None:
    """Run the whole chain: prepare, analyze, plan, prune, finetune, eval, export. What is up to date is skipped; what
    was made from something else is replaced with --force alone."""
    from interlace_cli.cli.run_view import RunView
    from interlace_cli.core.run import look_ahead
    from interlace_cli.core.run import run as run_chain
    from interlace_cli.domain.run import Outlook

    if options.dry_run:
        outlook = Outlook(steps=look_ahead(options, BarProgress()))
        output.result(outlook, _build_outlook_table(outlook), "nothing was made")
        return
    has_children = options.finetune.processes > 1 or options.finetune.uses_deepspeed
    with RunView(BarProgress(), is_plain=has_children) as view:
        record = run_chain(options, view.progress, view.on_step)
    output.result(record, lambda: _show(options, record.recipe))


def _show(options: RunOptions, recipe: dict[str, Any]) -> list[Any]:
    from interlace_cli.cli.evaluate import build_evaluation_tables
    from interlace_cli.cli.layer_table import build_layer_table, describe_plan
    from interlace_cli.domain.evaluation import Evaluation
    from interlace_cli.domain.plan import Plan
    from interlace_cli.io.artifacts import load_artifact
    from interlace_cli.io.workspace import Workspace

    space = Workspace(options.workspace)
    plan, evaluation = load_artifact(space.plan, Plan), load_artifact(space.evaluation, Evaluation)
    return [
        build_layer_table(plan),
        describe_plan(plan),
        *build_evaluation_tables(evaluation),
        _describe_recipe(recipe, is_demo=options.model == "demo"),
        f"workspace: {space.root}\nreport: {space.report}\nready to load or publish: {space.export}",
    ]


def _build_outlook_table(outlook: Outlook) -> Table:
    from rich.table import Table

    table = Table("step", "would", "because", title="what run would do", title_justify="left")
    for one in outlook.steps:
        table.add_row(one.step, one.action, "; ".join(one.reasons))
    return table


def _describe_recipe(recipe: dict[str, Any], is_demo: bool) -> str:
    whose = "the demo's own, its model being so small" if is_demo else "the paper's unless said otherwise"
    names = ("objective", "lr", "epochs", "batch_size", "grad_accum", "dtype", "seed")
    return f"healing recipe ({whose}): " + ", ".join(f"{name} {recipe[name]}" for name in names if name in recipe)
