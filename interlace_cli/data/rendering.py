"""A conversation -> the texts that its answers are learnt from.

A model learns each answer from the prompt that it would have been given. That prompt is the chat template's rendering
of the messages before the answer, with the generation prompt. The answer is what the rendering with it adds to that.

- A template may render an answer otherwise than it would be generated: the generation prompt opens `<think>`, say, and
  the rendered answer has no thoughts. The answer is then its own text and the end of turn that the template puts behind
  an answer. A tag that the generation prompt has opened is closed first, unless the answer's text opens it too.
- A template may render earlier turns otherwise once they are history: it leaves out their thoughts, say. The next
  prompt is then no continuation of what stands before it, and begins a sequence of its own.
- A later turn with pictures begins a sequence too: only the processor knows which tokens a picture becomes, and it
  takes whole prompts.

Everything here is pure, given a function that renders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""In the chat template's form; `content` is a list of parts (`{"type": "text", "text": ...}`), or a string."""
Render = Callable[[Sequence[Message], bool], str]
"""`(messages, whether the generation prompt follows) -> text`."""
ANSWER = "interlace stands for the answer here"
"""The answer that shows where a template puts one."""
_OPENED = re.compile(r"<(\w+)>\s*$")


class RenderingError(Exception):
    """A conversation that a template does not render whole; the message is the reason, short enough to count by."""


@dataclass(frozen=True)
class TextPart:
    """A part of a conversation's text: an answer of the model, or what stands before one."""

    text: str
    is_answer: bool


@dataclass(frozen=True)
class TextSequence:
    """A prompt, an answer, and so on in turn; the first prompt begins with the conversation. `pictures`: how many of
    the conversation's pictures stand in it, all of them in its first prompt."""

    parts: tuple[TextPart, ...]
    pictures: int

    @property
    def prompt(self) -> str:
        """The text before the first answer."""
        return self.parts[0].text


def render_prompt(messages: Sequence[Message], render: Render) -> TextSequence:
    """The prompt of the first answer alone. Raises RenderingError."""
    first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    parts = (TextPart(_render_prompt(messages, 0, first, render), False),)
    return TextSequence(parts, count_pictures(messages[:first]))


def render_sequences(messages: Sequence[Message], render: Render) -> list[TextSequence]:
    """The training sequences of a conversation, in order; each answer is in one of them. Raises RenderingError."""
    sequences: list[TextSequence] = []
    parts: list[TextPart] = []
    text, pictures, before = "", 0, 0
    for index in (i for i, message in enumerate(messages) if message["role"] == "assistant"):
        prompt = _render_prompt(messages, before, index, render)
        continues = bool(parts) and prompt.startswith(text) and not any(map(has_picture, messages[before:index]))
        if not continues:
            if parts:
                sequences.append(TextSequence(tuple(parts), pictures))
            parts, text, pictures = [], "", count_pictures(messages[:index])
        answer = find_answer(messages, index, prompt, render)
        parts += [TextPart(prompt[len(text) :], False), TextPart(answer, True)]
        text, before = prompt + answer, index + 1
    return [*sequences, TextSequence(tuple(parts), pictures)]


def find_answer(messages: Sequence[Message], index: int, prompt: str, render: Render) -> str:
    """What the model generates behind `prompt`, to the end of its turn, where `messages[index]` is its answer. Raises
    RenderingError if the template has no place for answers."""
    text = get_text(messages[index])
    whole = render(messages[: index + 1], False)
    if whole.startswith(prompt) and _is_at_end(text, prompt, whole):
        return whole[len(prompt) :]
    probe = render([*messages[:index], {**messages[index], "content": replace_text(messages[index], ANSWER)}], False)
    header, found, end = probe.rpartition(ANSWER)
    if not found:
        raise RenderingError("the chat template leaves out answers")
    lead, own = "", text.strip()
    if header.startswith(prompt):
        lead = header[len(prompt) :]
    elif (opened := _OPENED.search(prompt)) and not header.rstrip().endswith(f"<{opened[1]}>"):
        tag = opened[1]
        if own.startswith(f"<{tag}>"):
            own = own.removeprefix(f"<{tag}>").lstrip("\n")
        elif f"</{tag}>" not in own:
            lead = f"\n</{tag}>\n\n"
    return f"{lead}{own}{end}"


def get_text(message: Message) -> str:
    """The text of a message, its parts one after the other."""
    return "".join(list_texts(message))


def list_texts(message: Message) -> list[str]:
    """The texts of a message, between which its pictures stand."""
    content = message["content"]
    return [content] if isinstance(content, str) else [part.get("text", "") for part in content]


def has_texts(message: Message, text: str) -> bool:
    """Whether the message's texts stand in `text` one after the other. Templates lay out white space as they like."""
    squeezed, end = _squeeze(text), 0
    for own in map(_squeeze, list_texts(message)):
        start = squeezed.find(own, end)
        if start < 0:
            return False
        end = start + len(own)
    return True


def replace_text(message: Message, text: str) -> str | list[dict[str, Any]]:
    """The message's content with another text."""
    return text if isinstance(message["content"], str) else [{"type": "text", "text": text}]


def has_picture(message: Message) -> bool:
    """Whether one of its parts is a picture."""
    return not isinstance(message["content"], str) and any(part["type"] == "image" for part in message["content"])


def count_pictures(messages: Sequence[Message]) -> int:
    """How many parts of the messages are pictures."""
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return sum(part["type"] == "image" for content in contents for part in content)


def _render_prompt(messages: Sequence[Message], start: int, index: int, render: Render) -> str:
    """The prompt before `messages[index]`. The turns from `start` on have to be in it."""
    prompt = render(messages[:index], True)
    for message in messages[start:index]:
        if prints_parts(message, prompt):
            raise RenderingError("the chat template prints the list of a turn's parts, not its text")
        if not has_texts(message, prompt):
            raise RenderingError(f"the chat template leaves out text of a {message['role']} turn")
    return prompt


def prints_parts(message: Message, text: str) -> bool:
    """Whether one of the message's parts stands in `text` as Python or JSON would print it."""
    parts = [] if isinstance(message["content"], str) else message["content"]
    return any(repr(part) in text or json.dumps(part, ensure_ascii=False) in text for part in parts)


def _is_at_end(text: str, prompt: str, whole: str) -> bool:
    """Whether the answer's text ends in what `whole` adds to `prompt`. It may begin in the prompt: with a tag that the
    generation prompt has opened. Templates lay out white space as they like."""
    squeezed, sought = _squeeze(prompt), _squeeze(text)
    return not sought or _squeeze(whole).find(sought, max(len(squeezed) - len(sought) + 1, 0)) >= 0


def _squeeze(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())
