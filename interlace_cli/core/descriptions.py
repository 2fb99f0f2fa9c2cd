"""What an artifact is, in a few words: of which model or dataset, made by which settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interlace_cli.core.step import join_values, show_value
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.record import Artifact
from interlace_cli.options.option import describe, to_plain
from interlace_cli.options.schema import RECORDS

MOST_SETTINGS = 6
"""How many settings are named."""


def describe_artifact(artifact: Artifact) -> str:
    """Of which model or dataset it is, and by which settings, in a few words."""
    of, origin = _name_origin(artifact), artifact.created_by
    defaults = _list_defaults(origin.command)
    said = [
        f"{name} {show_value(value)}" for name, value in origin.settings.items() if _is_telling(name, value, defaults)
    ]
    edited = ["edited by hand"] if artifact.is_edited else []
    return ", ".join([*([of] if of else []), *edited, *said[:MOST_SETTINGS]])


def _name_origin(artifact: Artifact) -> str:
    if isinstance(artifact, Manifest):
        return f"from {artifact.source}"
    if isinstance(artifact, CheckpointCard):
        return f"{artifact.stage}, from {artifact.base.name} without layers {join_values(artifact.dropped)}"
    if isinstance(artifact, Evaluation):
        return f"of {', '.join(result.name for result in artifact.results) or 'benchmarks'}"
    model = getattr(artifact, "model", None)
    return f"of {getattr(model, 'name', model)}" if model is not None else ""


def _list_defaults(command: str) -> dict[str, Any]:
    """Option -> default of the command, as plain values."""
    record = RECORDS.get(command)
    return {} if record is None else {slot.name: to_plain(slot.option.default) for slot in describe(record)}


def _is_telling(name: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    """Whether it is not what everybody has."""
    is_usual = value == defaults.get(name) or value in (None, [], {}, "language", "interlace")
    return not is_usual and name != "source"
