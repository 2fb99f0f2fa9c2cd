"""JSON as programs write it, not only as the standard has it."""

from __future__ import annotations

import json
from typing import Any

import orjson


def parse_any_json(data: bytes, errors: str = "strict") -> Any:
    """The parsed value, or the ValueError that says what is wrong with it.

    What orjson refuses may be what Python's own json writes: NaN, Infinity, and halves of a character (`\\ud83d`). Who
    keeps a text has to look for these. `errors`: what becomes of bytes that are not UTF-8, as in `bytes.decode`.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(data.decode("utf-8", errors))
        except (ValueError, RecursionError):
            return error
