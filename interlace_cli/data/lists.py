"""A list in a column, in the forms in which tables and other tools store one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.any_json import parse_any_json


def to_list(name: str, value: Any) -> list[Any]:
    """A list, which may be a JSON text, or an object of lists as long as each other: a column of a table. An object
    of anything else is the only one. Raises UnusableRecordError."""
    if isinstance(value, str) and value.strip():
        value = parse_any_json(value.encode("utf-8", "surrogatepass"))
        if isinstance(value, ValueError):
            raise UnusableRecordError(f"field {name} is text, and not JSON")
    if isinstance(value, Mapping):
        lists = [item for item in value.values() if item is not None]
        if lists and all(isinstance(item, list) and len(item) == len(lists[0]) for item in lists):
            filled = {key: item for key, item in value.items() if item is not None}
            value = [dict(zip(filled, items, strict=True)) for items in zip(*filled.values(), strict=True)]
        elif not any(isinstance(item, list) for item in lists):
            value = [value]
    if not isinstance(value, (list, tuple)) or not value:
        raise UnusableRecordError(f"field {name} is missing or empty")
    return list(value)


def to_images(value: Any) -> list[Any]:
    """The entries of an image column, in which one image counts as a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        parsed = parse_any_json(value.encode("utf-8", "surrogatepass"))
        value = parsed if isinstance(parsed, list) else value
    return list(value) if isinstance(value, (list, tuple)) else [value]
