"""Which tokens end an answer: one rule for the labels of healing and loss, and for generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from interlace_cli.data.rendering import Message, RenderingError, TextSequence
from interlace_cli.data.templates import ChatTemplate
from interlace_cli.errors import CheckpointError

_QUESTION, _ANSWER, _NEXT = "Which word stands here", "wordalpha", "wordbeta"
"""Texts of a conversation that stand in no chat template."""


def find_stop_ids(template: ChatTemplate) -> tuple[int, ...]:
    """Ids of the tokens that end an answer: what the chat template puts after one, then the tokenizer's eos.

    The two differ where a model was tuned for chats and its tokenizer was not, such as `<end_of_turn>` and `<eos>`.
    Empty if there is neither.
    """
    found = [find_template_stop(template), template.tokenizer.eos_token_id]
    return tuple(dict.fromkeys(token for token in found if token is not None))


def find_template_stop(template: ChatTemplate) -> int | None:
    """Id of the first special token after an answer, in a conversation that the chat template renders.

    Of a template that closes no turn, it is the token that opens the next one. None if there is no such token, or no
    template.
    """
    special = find_special_ids(template.tokenizer)
    for tail in _render_tails(template):
        tokens: list[int] = template.tokenizer.encode(tail, add_special_tokens=False)
        found = next((token for token in tokens if token in special), None)
        if found is not None:
            return found
    return None


def find_special_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that are no text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}


def count_answer_tokens(tokens: Sequence[int], stop_ids: Sequence[int]) -> int:
    """How many of an answer's tokens the model has to say: up to the first that ends it, and this one too.

    What the template puts after the end of the turn, such as a line break, is not the model's to say.
    """
    return next((index + 1 for index, token in enumerate(tokens) if token in stop_ids), len(tokens))


def close_answer(sequence: TextSequence, stops: Sequence[str]) -> TextSequence:
    """The sequence with the first of `stops` behind its last answer, if the template closes that by none of them.

    A model learns to end its answers that way, as it did in its own training: there the next turn, or the end of the
    text, stood behind them.
    """
    last = sequence.parts[-1]
    if not stops or not last.is_answer or any(stop in last.text for stop in stops):
        return sequence
    return replace(sequence, parts=(*sequence.parts[:-1], replace(last, text=last.text + stops[0])))


def _render_tails(template: ChatTemplate) -> list[str]:
    """What stands between an answer and the next question, or the end; content as parts, then as plain text."""
    tails = []
    for is_plain in (False, True):
        for texts in ((_QUESTION, _ANSWER, _NEXT), (_QUESTION, _ANSWER)):
            messages: list[Message] = [
                {"role": role, "content": text if is_plain else [{"type": "text", "text": text}]}
                for role, text in zip(("user", "assistant", "user"), texts, strict=False)
            ]
            try:
                text = template.render(messages, is_prompt=False)
            except (RenderingError, CheckpointError):
                continue
            _, mark, tail = text.partition(_ANSWER)
            if mark:
                tails.append(tail.split(_NEXT)[0])
    return tails
