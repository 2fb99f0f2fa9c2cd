"""Options from a file: YAML or TOML, with the names of the options."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from interlace_cli.errors import UsageError
from interlace_cli.io.config_files import parse_config


def load_config(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Option -> value; dashes and underscores are alike. Raises UsageError for a file that is none, and for a name that
    is no option."""
    data = parse_config(path)
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no options.", "Write lines such as `ratios: [0.1, 0.25]`.")
    found = {str(name).replace("-", "_"): value for name, value in data.items()}
    wrong = next((name for name in found if name not in known), None)
    if wrong is not None:
        raise UsageError(f"{path}: there is no option {wrong!r}.", f"There are {', '.join(sorted(known))}.")
    return found
