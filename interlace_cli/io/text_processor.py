"""A language model's tokenizer with the face of a processor, so that every step treats both alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ (message['role'] | capitalize) + ': ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
"""How the turns of a conversation are written for a base model, whose tokenizer has no chat template: `User: ...` and
`Assistant: ...`, a line each, with the end-of-sequence token behind each answer. It is never saved."""
PLAIN_NOTE = (
    "The tokenizer has no chat template, as those of base models: turns are written as lines `User: ...` and"
    " `Assistant: ...`, each answer with the end-of-sequence token behind it."
)


def tell_format(processor: Any, say: Callable[[str], None]) -> None:
    """Says how turns are written where that is not a template of the model's."""
    if isinstance(processor, TextProcessor) and processor.is_plain:
        say(PLAIN_NOTE)


class TextProcessor:
    """Calls and renders as a `ProcessorMixin` does, for text alone."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.is_plain = not tokenizer.chat_template
        self.chat_template = PLAIN_TEMPLATE if self.is_plain else tokenizer.chat_template

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], chat_template: str | None = None, **options: Any
    ) -> Any:
        """As the tokenizer does. The text parts of a message are joined: templates of language models print a list as
        Python does. Raises ValueError for an image."""
        plain = [{**message, "content": _join_text(message["content"])} for message in messages]
        if self.is_plain and chat_template is None:
            chat_template = PLAIN_TEMPLATE
            # The tokenizer hands its own on only if it has one.
            options["eos_token"] = self.tokenizer.eos_token or ""
        return self.tokenizer.apply_chat_template(plain, chat_template=chat_template, **options)

    def __call__(self, text: Sequence[str], images: Any = None, **options: Any) -> Any:
        """`input_ids` and `attention_mask`. Token types are left out: they are a default of fast tokenizers that no
        language model reads. Raises ValueError for images."""
        if images is not None:
            raise ValueError("a language model reads no images")
        return self.tokenizer(list(text), return_token_type_ids=False, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """The tokenizer's files."""
        self.tokenizer.save_pretrained(folder)


def _join_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if any(part.get("type") != "text" for part in content):
        raise ValueError("a language model reads text alone")
    return "".join(part["text"] for part in content)
