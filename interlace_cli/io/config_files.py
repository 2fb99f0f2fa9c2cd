"""YAML and TOML files that users write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interlace_cli.errors import UsageError
from interlace_cli.io.text import decode_text


def parse_config(path: Path) -> Any:
    """What the file holds; TOML by its suffix, else YAML, of which JSON is a part. Raises UsageError."""
    try:
        text = decode_text(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}.", "Give a YAML or TOML file.") from error
    # Not UTF-8, or a path that no file can have.
    except ValueError as error:
        raise UsageError(f"cannot read {path}: {error}.", "Give a YAML or TOML file.") from error
    return _parse_toml(text, path) if path.suffix == ".toml" else _parse_yaml(text, path)


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    # A value that cannot be what it looks like, such as the date 2024-13-01, fails in any of these ways.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error


def _parse_toml(text: str, path: Path) -> Any:
    try:
        import tomllib
    except ImportError:
        raise UsageError(f"{path}: TOML needs Python 3.11.", "Write it as YAML.") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
