"""Options in a file: YAML or TOML, with the names of the options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interlace_cli.errors import UsageError
from interlace_cli.io.config_files import parse_config
from interlace_cli.io.files import write_named
from interlace_cli.io.paths import expand_home


def load_config(path: Path) -> dict[str, Any]:
    """Option -> value as it stands there. Raises UsageError for a file that holds no options."""
    data = parse_config(expand_home(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no options.", "Write lines such as `ratio: 0.25`.")
    found = {str(name): value for name, value in data.items() if value is not None}
    nested = next((name for name, value in found.items() if isinstance(value, dict)), None)
    if nested is not None:
        raise UsageError(f"{path}: {nested} holds further names.", "Options stand side by side: `lr: 1e-5`.")
    return found


def save_config(values: Mapping[str, Any], path: Path, force: bool = False) -> None:
    """Writes them so that `load_config` reads the same; TOML by the file's suffix, else YAML. Raises ExistsError where
    other options are and not `force`."""
    # JSON's notation of texts, numbers and lists is that of both.
    sign = " =" if path.suffix == ".toml" else ":"
    lines = [f"{name}{sign} {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items()]
    write_named(path, "".join(lines).encode(), force)
