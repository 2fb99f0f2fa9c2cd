"""`interlace plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.plan import PlanOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from interlace_cli.domain.plan import Plan


def plan(options: PlanOptions) -> None:
    """Decide which layers go, which are tuned and which are anchors, and say why."""
    from interlace_cli.core.plan import plan as decide

    made = decide(options, BarProgress())
    if options.figure is not None:
        from interlace_cli.report.figure_file import save_figure
        from interlace_cli.report.strip import build_strip

        save_figure(build_strip(made), options.figure, options.force)
    path = options.out or Workspace(options.workspace).plan
    output.result(made, lambda: _show(made), "nothing was written" if options.dry_run else f"{path}")


def _show(plan: Plan) -> list[RenderableType]:
    from interlace_cli.cli.heat_strip import build_heat_strip
    from interlace_cli.cli.layer_table import build_layer_table, describe_plan
    from interlace_cli.report.heatmap import find_plan_rows

    rows = find_plan_rows(plan)
    strip = [build_heat_strip(rows, plan.num_layers)] if rows else []
    return [build_layer_table(plan), *strip, describe_plan(plan)]
