"""interlace: shorter vision-language models. The version, and the Python API (`api.py`), loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:
    from interlace_cli import options
    from interlace_cli.api import analyze, compare, evaluate, export, finetune, plan, prepare, prune, run
    from interlace_cli.errors import InterlaceError

__all__ = [
    "InterlaceError",
    "__version__",
    "analyze",
    "compare",
    "evaluate",
    "export",
    "finetune",
    "options",
    "plan",
    "prepare",
    "prune",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name == "options":
        return import_module("interlace_cli.options")
    return getattr(import_module("interlace_cli.errors" if name == "InterlaceError" else "interlace_cli.api"), name)
