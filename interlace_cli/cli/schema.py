"""`interlace schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from interlace_cli.cli.console import output
from interlace_cli.cli.options import DebugOption


def schema(
    artifact: Annotated[str, typer.Argument(help="dataset, analysis, plan, checkpoint, evaluation or comparison.")],
    debug: DebugOption = False,
) -> None:
    """The JSON Schema of an artifact, for programs that read or write it."""
    import json

    from interlace_cli.domain.analysis import Analysis
    from interlace_cli.domain.checkpoint import CheckpointCard
    from interlace_cli.domain.comparison import Comparison
    from interlace_cli.domain.dataset import Manifest
    from interlace_cli.domain.evaluation import Evaluation
    from interlace_cli.domain.plan import Plan
    from interlace_cli.errors import UsageError

    kinds = {cls.KIND.split(".")[1]: cls for cls in (Manifest, Analysis, Plan, CheckpointCard, Evaluation, Comparison)}
    if artifact not in kinds:
        raise UsageError(f"there is no artifact {artifact!r}.", f"There are {', '.join(kinds)}.")
    output.write(json.dumps(kinds[artifact].model_json_schema(), indent=2) + "\n")
