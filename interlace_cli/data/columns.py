"""One row of a dataset -> a conversation and its images, by the columns it has. Pure.

| columns | whose |
|---|---|
| `messages` or `conversations`: `[{role, content}]` or `[{from, value}]` | TRL, ms-swift, LLaMA-Factory, LLaVA |
| `texts`: `[{user, assistant}]` | FineVision, The Cauldron |
| `query`, `response`, `history`; `instruction`, `input`, `output` | ms-swift; Alpaca |
| `question`, `answer`; `prompt`, `completion` | sets of questions; TRL |

Beside them `system`, and the images in `images` or `image`. A list may also be a JSON text, or an object of lists.
Content is text or a list of parts (`data/content.py`). Of everything else in the row `data/unread.py` says whether it
may be left behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from interlace_cli.data.content import NEXT, Content, read_content
from interlace_cli.data.lists import to_images, to_list
from interlace_cli.data.unread import check_record, check_turn, is_nothing, show
from interlace_cli.domain.dataset import Turn
from interlace_cli.domain.image_marks import IMAGE_MARK
from interlace_cli.errors import UnusableRecordError

SPEAKERS = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "system": "system",
    "developer": "system",
}
IMAGE_COLUMNS = ("images", "image")
TURN_COLUMNS = ("conversations", "messages", "texts")
ASKED, ANSWERED = ("question", "query", "instruction", "prompt"), ("answer", "response", "output", "completion")
NO_TALK = f"there is none of {', '.join(TURN_COLUMNS)}, no question with its answer, and no image with a caption"
BESIDE_QUESTION = ("choices", "context", "hint", "options", "passage")
"""Columns that a question cannot be answered without."""
READ = (*TURN_COLUMNS, *IMAGE_COLUMNS, "system", "answers", "choices", "id", "kind", "metric")
_OTHER_MARK = re.compile(r"<img>(?=[^<]*</img>)|<\|?(?:image|img[\w-])[\w -]{0,30}\|?>", re.IGNORECASE)
_MEDIA_MARK = re.compile(r"<\|?(?:video|audio)(?:[_-]\w{1,20})?\|?>", re.IGNORECASE)
_CHOICE = re.compile("[A-H]")
"""Columns of choices, as VLMEvalKit has them."""
WHO, WHAT = ("role", "from"), ("content", "value")


def has_conversation(row: Mapping[str, Any]) -> bool:
    """Whether one of the columns that a conversation may be in is filled."""
    is_pair = find_filled(row, ASKED) and (find_filled(row, ANSWERED) or not is_nothing(row.get("answers")))
    return bool(is_pair or find_filled(row, TURN_COLUMNS))


def build_conversation(row: Mapping[str, Any], column: Sequence[Any]) -> tuple[tuple[Turn, ...], tuple[Any, ...]]:
    """`(turns, images)`: marks stand in the turns for the images, in their order; without any mark the images stand
    before the first human turn. `column`: the images that lie beside the text. Raises UnusableRecordError if the row is
    not a conversation, or has something that is not read."""
    read, said = _read_columns(row)
    said = _join_images(_add_system(row, said))
    check_turns([turn for turn, _ in said])
    check_marks([turn.value for turn, _ in said if turn.speaker == "human"])
    images = pair_images([image for _, own in said for image in own], column)
    check_record(row, (*READ, *read), bool(images))
    return tuple(turn for turn, _ in said), images


def pair_images(places: Sequence[Any], column: Sequence[Any]) -> tuple[Any, ...]:
    """The images in the order of their places, each of which holds one or is NEXT. If there are places and each is
    NEXT, or none, the column is all: `domain/image_marks.py` counts. Raises UnusableRecordError if places with an image
    of their own are not all that there is."""
    own = [place for place in places if place is not NEXT]
    if not own:
        return tuple(column)
    if len(own) == len(places) and (not column or list(column) == own):
        # Some libraries leave the column where it was when they put its images into the parts.
        return tuple(own)
    if len(places) - len(own) != len(column):
        raise UnusableRecordError(f"{len(places)} places for images, {len(own) + len(column)} images")
    rest = iter(column)
    return tuple(next(rest) if place is NEXT else place for place in places)


def check_turns(turns: Sequence[Turn]) -> None:
    """Raises UnusableRecordError unless human and gpt alternate, human first and gpt last, after at most one system
    turn."""
    spoken = [turn.speaker for turn in turns if turn.speaker != "system"]
    if spoken[:2] != ["human", "gpt"] or any(a == b for a, b in pairwise(spoken)):
        raise UnusableRecordError("turns do not alternate, human first")
    if spoken[-1] != "gpt":
        raise UnusableRecordError("the last turn is a question without an answer")
    if any(turn.speaker == "system" for turn in turns[1:]):
        raise UnusableRecordError("a system turn is not the first")


def check_marks(questions: Sequence[str]) -> None:
    """Raises UnusableRecordError for the image marks of other tools (`<|image_1|>`, `<image 1>`, Qwen-VL's
    `<img>a.png</img>`), whose images are not found, and for marks of films and sounds."""
    found = next((mark for text in questions for mark in _OTHER_MARK.findall(text) if mark != IMAGE_MARK), None)
    if found is not None:
        raise UnusableRecordError(f"an image mark of another form than {IMAGE_MARK}: {show(found)}")
    found = next((mark[0] for text in questions if (mark := _MEDIA_MARK.search(text))), None)
    if found is not None:
        raise UnusableRecordError(f"a mark of a kind that is not read: {show(found)}")


def find_images(row: Mapping[str, Any]) -> list[Any]:
    """The entries of the image column (bytes, paths, or dictionaries of both); empty if there is none. Raises
    UnusableRecordError if there are two, and they differ."""
    found = [value for name in IMAGE_COLUMNS if not is_nothing(value := row.get(name))]
    lists = [to_images(value) for value in found]
    if len(lists) == 2 and lists[0] != lists[1]:
        raise UnusableRecordError("fields images and image differ")
    return lists[0] if lists else []


def read_references(row: Mapping[str, Any]) -> tuple[str, ...]:
    """All answers that count as right: those of `answers`, or of an answer column that is a list."""
    lists = [name for name in ANSWERED if isinstance(row.get(name), (list, tuple)) and not _is_list(row[name])]
    return read_texts(row, "answers") or (read_texts(row, lists[0]) if lists else ())


def read_texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The texts in column `name`, where one text counts as a list; empty if there are none. Raises UnusableRecordError
    for anything else."""
    value = row.get(name)
    value = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise UnusableRecordError(f"field {name} is not a list of texts")
    return tuple(value)


def read_text(row: Mapping[str, Any], name: str, default: str) -> str:
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


Said = tuple[Turn, tuple[Any, ...]]
"""A turn, and what its marks stand for."""


def _read_columns(row: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Said]]:
    """The columns that were read, and the turns in them."""
    found = {name: _read_turns(name, row[name]) for name in find_filled(row, TURN_COLUMNS)}
    if not found:
        return _read_pair(row)
    first = next(iter(found.values()))
    other = next((name for name, said in found.items() if said != first), None)
    if other is not None:
        raise UnusableRecordError(f"fields {next(iter(found))} and {other} are two conversations")
    return (), first


def _read_pair(row: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Said]]:
    """A question and its answer, in columns of their own, with what was said before."""
    asked, answered = find_filled(row, ASKED), find_filled(row, ANSWERED)
    if len(asked) > 1 or len(answered) > 1:
        several = asked if len(asked) > 1 else answered
        raise UnusableRecordError(f"fields {several[0]} and {several[1]} are both there")
    answers = read_texts(row, "answers")
    if not asked or not (answered or answers):
        check_record(row, (*READ, *ASKED), bool(find_images(row)))
        empty = next((name for name in TURN_COLUMNS if row.get(name) is not None), None)
        raise UnusableRecordError(NO_TALK if empty is None else f"field {empty} is missing or empty")
    question = row[asked[0]]
    beside = find_filled(row, (*BESIDE_QUESTION, *filter(_CHOICE.fullmatch, row)))
    missing = next((name for name in beside if not _is_said(row[name], question)), None)
    if missing is not None:
        raise UnusableRecordError(f"field {missing} belongs to the question and is not in it")
    answer = row[answered[0]] if answered else answers
    if isinstance(answer, int) and not isinstance(answer, bool):
        if beside:
            raise UnusableRecordError(f"a number is the answer beside field {beside[0]}: give the text of the choice")
        answer = str(answer)
    read = (asked[0], *answered, "input", "history")
    if _is_list(question) and _is_list(answer):
        return read, [*_read_turns(asked[0], question), *_read_turns(answered[0], answer)]
    # One text, or the texts that count as right, of which the first is learnt.
    answer = answer[0] if isinstance(answer, (list, tuple)) else answer
    if not all(isinstance(text, str) for text in (question, answer)):
        raise UnusableRecordError("a question or its answer is neither text nor a whole number")
    if not is_nothing(row.get("input")):
        question = f"{question}\n{read_text(row, 'input', '')}"
    said = [turn for pair in _read_history(row) for turn in pair]
    return (*read, *beside), [*said, _build_turn("human", question), _build_turn("gpt", answer)]


def _is_said(value: Any, question: Any) -> bool:
    """Whether the text, or each of the texts, stands in the question, and not only as a part of a word."""
    texts = value if isinstance(value, (list, tuple)) else [value]
    return isinstance(question, str) and all(
        isinstance(text, str) and re.search(rf"(?<!\w){re.escape(text.strip())}(?!\w)", question) for text in texts
    )


def _read_history(row: Mapping[str, Any]) -> list[tuple[Said, Said]]:
    history = [] if is_nothing(row.get("history")) else to_list("history", row["history"])
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history):
        raise UnusableRecordError("field history is not a list of questions with answers")
    return [(_build_turn("human", asked), _build_turn("gpt", answer)) for asked, answer in history]


def _read_turns(name: str, value: Any) -> list[Said]:
    return [turn for item in to_list(name, value) for turn in _read_item(item)]


def _add_system(row: Mapping[str, Any], said: list[Said]) -> list[Said]:
    """The turns with the column `system` before them. A system turn without text says nothing, and is left out."""
    value = row.get("system")
    if is_nothing(value):
        return said
    first = _build_turn("system", value)
    return said if said[:1] == [first] else [first, *said]


def _join_images(said: list[Said]) -> list[Said]:
    """The turns, human ones of images alone being part of the human turn beside them: OpenAI's files have the question
    and its image in two messages."""
    joined: list[Said] = []
    for turn, images in said:
        last, before = joined[-1] if joined else (turn, ())
        pair = (last.value, turn.value)
        is_apart = all(text.replace(IMAGE_MARK, "").strip() for text in pair)
        if joined and {last.speaker, turn.speaker} == {"human"} and not is_apart:
            joined[-1] = make_turn("human", "\n".join(pair)), (*before, *images)
        else:
            joined.append((turn, images))
    return joined


def _read_item(item: Any) -> list[Said]:
    if not isinstance(item, Mapping):
        raise UnusableRecordError("a turn is not an object")
    who, what = (next((n for n in names if not is_nothing(item.get(n))), None) for names in (WHO, WHAT))
    if who is None and any(not is_nothing(item.get(name)) for name in ("user", "assistant")):
        return _read_exchange(item)
    role = str(item.get(who)) if who else "nobody"
    speaker = SPEAKERS.get(role.lower())
    if speaker is None:
        raise UnusableRecordError(f"a turn is of {show(role)}, and not of user, assistant or system")
    check_turn(item, tuple(name for name in (who, what) if name))
    content = item.get(what) if what else None
    return [] if speaker == "system" and _says_nothing(content) else [_build_turn(speaker, content)]


def _read_exchange(item: Mapping[str, Any]) -> list[Said]:
    """The turns of system, user and assistant, in this order, of those that are there. The order of the fields
    themselves differs between subsets of FineVision."""
    names = [name for name in ("system", "user", "assistant") if item.get(name) is not None]
    check_turn(item, names)
    return [
        _build_turn(SPEAKERS[name], item[name]) for name in names if name != "system" or not _says_nothing(item[name])
    ]


def _says_nothing(content: Any) -> bool:
    """Whether a system turn has no text: that is as good as no turn."""
    return is_nothing(content) or read_content(content) == Content("")


def _build_turn(speaker: str, value: Any) -> Said:
    content = Content("") if value is None else read_content(value)
    if not content.text.strip():
        raise UnusableRecordError("a turn has no text")
    return make_turn(speaker, content.text), content.images


def find_filled(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Those of the columns `names` that are not empty."""
    return [name for name in names if not is_nothing(row.get(name))]


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
