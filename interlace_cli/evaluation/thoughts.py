"""The thoughts of reasoning models: where they begin and end, and a reply without them. Pure."""

from __future__ import annotations

import re

_NAME = r"(?i:(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?))"
# `<think>`, `<seed:think>`, `<|START_THINKING|>`, Kimi's `◁think▷`, Mistral's `[THINK]`.
_OPEN = re.compile(rf"[<◁]\|?(?i:(?:begin|start)_)?{_NAME}\|?[>▷]|\[THINK\]")
_CLOSE = re.compile(rf"[<◁](?:\|?/|\|?(?i:end)_){_NAME}\|?[>▷]|\[/THINK\]")


def is_thought_mark(token: str) -> bool:
    """Whether a token opens or closes thoughts."""
    return bool(_OPEN.fullmatch(token.strip()) or _CLOSE.fullmatch(token.strip()))


def find_open_mark(prompt: str) -> str:
    """The mark by which a prompt ends inside of thoughts, as templates of reasoning models end theirs; else ""."""
    marks = list(_OPEN.finditer(prompt.rstrip()))
    return marks[-1].group() if marks and marks[-1].end() == len(prompt.rstrip()) else ""


def strip_thoughts(reply: str) -> str:
    """The reply without its thoughts, and without spaces at its ends.

    All that stands before the last closing mark goes. Thoughts that are not closed hold no answer: they go to the end
    of the reply. Example: "<think>B or A?</think> A" -> "A"; "so </think>A" -> "A"; "<think>B or" -> "".
    """
    closed = list(_CLOSE.finditer(reply))
    rest = reply[closed[-1].end() :] if closed else reply
    opened = _OPEN.search(rest)
    return (rest[: opened.start()] if opened else rest).strip()
