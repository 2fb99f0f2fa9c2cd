"""Options from a file: YAML or TOML, with the names of the options."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from interlace_cli.errors import UsageError


def load_config(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Option -> value; dashes and underscores are alike. Raises UsageError for a file that is none, and for a name that
    is no option."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}.", "Give a YAML or TOML file.") from error
    data = _parse_toml(text, path) if path.suffix == ".toml" else _parse_yaml(text, path)
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no options.", "Write lines such as `ratios: [0.1, 0.25]`.")
    found = {str(name).replace("-", "_"): value for name, value in data.items()}
    wrong = next((name for name in found if name not in known), None)
    if wrong is not None:
        raise UsageError(f"{path}: there is no option {wrong!r}.", f"There are {', '.join(sorted(known))}.")
    return found


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error


def _parse_toml(text: str, path: Path) -> Any:
    try:
        import tomllib
    except ImportError:
        raise UsageError(f"{path}: TOML needs Python 3.11.", "Write it as YAML.") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
