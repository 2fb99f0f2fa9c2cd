"""What can be asked of each step: one frozen record a step, in which each option stands once.

`option.py` says what an option is and how a value is read, `build.py` makes records from the command line, files and
presets, `shared.py` holds the options that mean the same wherever they stand, and each step has a file of its name.
The command line, `run`, `compare`, config files, recorded settings and the Python API are derived from these records.
Standard library alone.

To add an option: a line in its step's record. To change a default: `default` there, or `presets.py` for the demo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlace_cli.options.analyze import AnalyzeOptions
    from interlace_cli.options.bench import BenchOptions
    from interlace_cli.options.build import build_options
    from interlace_cli.options.compare import CompareOptions
    from interlace_cli.options.evaluate import EvaluateOptions
    from interlace_cli.options.export import ExportOptions
    from interlace_cli.options.finetune import FinetuneOptions
    from interlace_cli.options.option import Options
    from interlace_cli.options.plan import PlanOptions
    from interlace_cli.options.prepare import PrepareOptions
    from interlace_cli.options.prune import PruneOptions
    from interlace_cli.options.report import EnvOptions, ReportOptions, SchemaOptions, StatusOptions
    from interlace_cli.options.run import RunOptions

__all__ = [
    "AnalyzeOptions",
    "BenchOptions",
    "CompareOptions",
    "EnvOptions",
    "EvaluateOptions",
    "ExportOptions",
    "FinetuneOptions",
    "Options",
    "PlanOptions",
    "PrepareOptions",
    "PruneOptions",
    "ReportOptions",
    "RunOptions",
    "SchemaOptions",
    "StatusOptions",
    "build_options",
]
_HOMES = {
    "AnalyzeOptions": "analyze",
    "BenchOptions": "bench",
    "CompareOptions": "compare",
    "EnvOptions": "report",
    "EvaluateOptions": "evaluate",
    "ExportOptions": "export",
    "FinetuneOptions": "finetune",
    "Options": "option",
    "PlanOptions": "plan",
    "PrepareOptions": "prepare",
    "PruneOptions": "prune",
    "ReportOptions": "report",
    "RunOptions": "run",
    "SchemaOptions": "report",
    "StatusOptions": "report",
    "build_options": "build",
}
"""Name -> its module here. A command loads its own record, and no other."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
