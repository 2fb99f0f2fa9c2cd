"""The JSON Schema of a command's options: what a file of `--config` may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interlace_cli.options.analyze import AnalyzeOptions
from interlace_cli.options.bench import BenchOptions
from interlace_cli.options.build import Entry, list_entries
from interlace_cli.options.compare import CompareOptions
from interlace_cli.options.evaluate import EvaluateOptions
from interlace_cli.options.export import ExportOptions
from interlace_cli.options.finetune import FinetuneOptions
from interlace_cli.options.option import Options, to_plain
from interlace_cli.options.plan import PlanOptions
from interlace_cli.options.prepare import PrepareOptions
from interlace_cli.options.prune import PruneOptions
from interlace_cli.options.report import ReportOptions
from interlace_cli.options.run import RunOptions

RECORDS: dict[str, type[Options]] = {
    "run": RunOptions,
    "prepare": PrepareOptions,
    "analyze": AnalyzeOptions,
    "plan": PlanOptions,
    "prune": PruneOptions,
    "finetune": FinetuneOptions,
    "eval": EvaluateOptions,
    "export": ExportOptions,
    "compare": CompareOptions,
    "report": ReportOptions,
    "bench": BenchOptions,
}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}


def build_schema(record: type[Options]) -> dict[str, Any]:
    """JSON Schema (2020-12) of an object with the options as properties."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": record.__name__,
        "type": "object",
        "additionalProperties": False,
        "properties": {entry.name: _describe(entry) for entry in list_entries(record)},
    }


def _describe(entry: Entry) -> dict[str, Any]:
    slot, o = entry.slot, entry.slot.option
    one: dict[str, Any] = {"type": TYPES.get(slot.kind, "string")}
    if o.choices:
        one["enum"] = list(o.choices)
    if o.low is not None:
        one["exclusiveMinimum" if o.is_open else "minimum"] = o.low
    if o.high is not None:
        one["exclusiveMaximum" if o.is_open else "maximum"] = o.high
    if o.parse is not None:
        one = {"type": ["string", "array"]}
    elif slot.count != 1:
        size = {"minItems": slot.count, "maxItems": slot.count} if slot.count > 0 else {}
        one = {"type": ["array", "string"], "items": one, **size}
    found = {**one, "description": o.help}
    return found if o.default is None else {**found, "default": to_plain(o.default)}
