"""JSON files of a model's folder, read and written as transformers does it: with Python's `json`.

It knows `Infinity`, `-Infinity`, `NaN`, whole numbers of any length and lone surrogates. All of them stand in published
files; stricter parsers refuse them or, as `null`, lose them without a word.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson


def parse_model_json(data: bytes) -> Any:
    """The parsed value. Raises ValueError, which says what is wrong, for what is no JSON in UTF-8."""
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it has too many objects and lists in each other") from None


def to_model_json(value: Any) -> bytes:
    """Indented text that reads as the same value again, fields in their order, with a final newline."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(value, indent=2)}\n".encode("ascii")


def to_canonical_json(value: Any) -> bytes:
    """One line with sorted keys, to be hashed. Values that strict JSON has, get the bytes that orjson gives them."""
    if _is_strict(value):
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _is_strict(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_strict(name) and _is_strict(inner) for name, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_strict, value))
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    return not isinstance(value, int) or -(2**63) <= value < 2**64
