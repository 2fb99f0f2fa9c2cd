"""Options from a file: YAML or TOML, with the names of the options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from interlace_cli.errors import UsageError
from interlace_cli.io.config_files import parse_config


def load_config(path: Path, known: Collection[str], numbers: Mapping[str, type[float]]) -> dict[str, Any]:
    """Option -> value, those of `numbers` of their type (YAML takes 1e-5 for a text); dashes and underscores are alike.
    Raises UsageError for a file that is none, for a name that is no option, and for a value of a wrong kind."""
    data = parse_config(path)
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no options.", "Write lines such as `ratios: [0.1, 0.25]`.")
    found = {str(name).replace("-", "_"): value for name, value in data.items()}
    wrong = next((name for name in found if name not in known), None)
    if wrong is not None:
        raise UsageError(f"{path}: there is no option {wrong!r}.", f"There are {', '.join(sorted(known))}.")
    return {name: _convert(path, name, value, numbers.get(name)) for name, value in found.items()}


def _convert(path: Path, name: str, value: Any, kind: type[float] | None) -> Any:
    if value is None:
        return None
    if kind is None:
        parts = value if isinstance(value, list) else [value]
        if all(isinstance(part, (str, int, float)) and not isinstance(part, bool) for part in parts):
            return value
        wanted = "a text or a number, or a list of such"
    else:
        try:
            made = kind(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
        except (ValueError, OverflowError):
            made = None
        if made is not None and (kind is float or made == float(value)):
            return made
        wanted = "a whole number" if kind is int else "a number"
    raise UsageError(f"{path}: {name} is {value!r}, and has to be {wanted}.")
