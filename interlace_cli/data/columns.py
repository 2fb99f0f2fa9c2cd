"""One row of a dataset -> a conversation, by the columns it has. Pure.

| columns | whose |
|---|---|
| `texts`: `[{user, assistant}]`, `images` | FineVision, The Cauldron |
| `messages`: `[{role, content}]`, `images` | TRL, LLaMA-Factory; content is text, or a list of text and image parts |
| `conversations`: `[{from, value}]`, `image` | LLaVA, the released format |
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from interlace_cli.domain.dataset import Turn
from interlace_cli.errors import UnusableRecordError

SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
IMAGE_COLUMNS = ("images", "image")


def build_turns(row: dict[str, Any]) -> tuple[Turn, ...]:
    """The conversation, human first after at most one system turn. Raises UnusableRecordError."""
    if row.get("conversations") is not None:
        turns = [_read_turn(item, "from", "value") for item in _read_list(row, "conversations")]
    elif row.get("messages") is not None:
        turns = [_read_turn(item, "role", "content") for item in _read_list(row, "messages")]
    elif row.get("texts") is not None:
        turns = [turn for item in _read_list(row, "texts") for turn in _read_exchange(item)]
    else:
        raise UnusableRecordError("field conversations is missing or empty")
    check_turns(turns)
    return tuple(turns)


def check_turns(turns: Sequence[Turn]) -> None:
    """Raises UnusableRecordError unless human and gpt alternate, human first, after at most one system turn."""
    spoken = [turn.speaker for turn in turns if turn.speaker != "system"]
    if spoken[:2] != ["human", "gpt"] or any(a == b for a, b in pairwise(spoken)):
        raise UnusableRecordError("turns do not alternate, human first")
    if any(turn.speaker == "system" for turn in turns[1:]):
        raise UnusableRecordError("a system turn is not the first")


def find_images(row: dict[str, Any]) -> list[Any]:
    """The entries of the image column (bytes, paths, or dictionaries of both); empty if there is none."""
    found = next((row[name] for name in IMAGE_COLUMNS if row.get(name) is not None), None)
    return [] if found is None else list(found) if isinstance(found, (list, tuple)) else [found]


def read_texts(row: dict[str, Any], name: str) -> tuple[str, ...]:
    """The texts in column `name`, where one text counts as a list; empty if there are none. Raises UnusableRecordError
    for anything else."""
    value = row.get(name)
    value = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise UnusableRecordError(f"field {name} is not a list of texts")
    return tuple(value)


def read_text(row: dict[str, Any], name: str, default: str) -> str:
    """The text in column `name`, or `default` if there is none. Raises UnusableRecordError for anything else."""
    value = row.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise UnusableRecordError(f"field {name} is not text")
    return value


def make_turn(speaker: str, value: str) -> Turn:
    """A turn of `speaker`: system, human or gpt."""
    return Turn.model_validate({"from": speaker, "value": value})


def _read_list(row: dict[str, Any], name: str) -> list[Any]:
    value = row[name]
    if not isinstance(value, list) or not value:
        raise UnusableRecordError(f"field {name} is missing or empty")
    return value


def _read_turn(item: Any, who: str, what: str) -> Turn:
    speaker = SPEAKERS.get(str(item.get(who)).lower()) if isinstance(item, dict) else None
    if speaker is None:
        raise UnusableRecordError(f"a turn's {who} is not human, gpt or system")
    return _build_turn(speaker, _join_content(item.get(what)))


def _read_exchange(item: Any) -> list[Turn]:
    """The turns of system, user and assistant, in this order, of those that are there. The order of the fields
    themselves differs between subsets of FineVision."""
    if not isinstance(item, dict):
        raise UnusableRecordError("an entry of texts is not {user, assistant}")
    names = [name for name in ("system", "user", "assistant") if item.get(name) is not None]
    return [_build_turn(SPEAKERS[name], item[name]) for name in names]


def _build_turn(speaker: str, value: Any) -> Turn:
    if not isinstance(value, str) or not value.strip():
        raise UnusableRecordError("a turn has no text")
    return make_turn(speaker, value)


def _join_content(content: Any) -> Any:
    """Text, or the text parts of a list; image parts are in the image column."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str))
