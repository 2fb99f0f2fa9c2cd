"""`interlace schema`."""

from __future__ import annotations

from typing import Any

from interlace_cli.cli.console import output
from interlace_cli.options.report import ARTIFACTS, SchemaOptions


def schema(options: SchemaOptions) -> None:
    """Print the JSON Schema of an artifact, or of a command's options, for programs that read or write them."""
    import json

    output.write(json.dumps(_find_schema(options.artifact), indent=2) + "\n")


def _find_schema(name: str) -> dict[str, Any]:
    from interlace_cli.domain.analysis import Analysis
    from interlace_cli.domain.checkpoint import CheckpointCard
    from interlace_cli.domain.comparison import Comparison
    from interlace_cli.domain.dataset import Manifest
    from interlace_cli.domain.evaluation import Evaluation
    from interlace_cli.domain.plan import Plan
    from interlace_cli.errors import UsageError
    from interlace_cli.options.option import suggest
    from interlace_cli.options.schema import RECORDS, build_schema

    kinds = (Manifest, Analysis, Plan, CheckpointCard, Evaluation, Comparison)
    artifacts: dict[str, Any] = dict(zip(ARTIFACTS, kinds, strict=True))
    records = {f"options.{command}": record for command, record in RECORDS.items()}
    if name in artifacts:
        schema: dict[str, Any] = artifacts[name].model_json_schema()
        return schema
    if name in records:
        return build_schema(records[name])
    raise UsageError(f"there is no artifact {name!r}.", suggest(name, [*artifacts, *records]))
