"""The chat template of one model: the processor's own, else its tokenizer's.

A fault of the model's files is a CheckpointError that names them. What the template cannot do with one conversation is
a RenderingError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interlace_cli.data.rendering import (
    Message,
    RenderingError,
    TextSequence,
    get_text,
    has_picture,
    has_texts,
    prints_parts,
    render_prompt,
    render_sequences,
)
from interlace_cli.errors import CheckpointError, first_line

FILES = "chat_template.jinja, chat_template.json, processor_config.json and tokenizer_config.json"


class ChatTemplate:
    """The template of `processor`. It is given lists of parts; a language model's `TextProcessor` joins them."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.takes_pictures = hasattr(processor, "image_processor")
        self.template = getattr(processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)
        self._tried: set[bool] = set()

    @property
    def folder(self) -> str:
        """Where the model's files are."""
        return str(getattr(self.tokenizer, "name_or_path", "")) or type(self.processor).__name__

    def render_prompt(self, messages: Sequence[Message]) -> TextSequence:
        """`rendering.render_prompt`. Raises CheckpointError for a template that is not one for this model."""
        self._check_parts(messages)
        return render_prompt(messages, self.render)

    def render_sequences(self, messages: Sequence[Message]) -> list[TextSequence]:
        """`rendering.render_sequences`. Raises CheckpointError for a template that is not one for this model."""
        self._check_parts(messages)
        return render_sequences(messages, self.render)

    def render(self, messages: Sequence[Message], is_prompt: bool) -> str:
        """The text of the messages. Raises RenderingError for what the template raises, and CheckpointError if there is
        no template."""
        if not self.template:
            raise CheckpointError(
                f"{self.folder} has no chat template, so conversations cannot be given to this model.",
                f"Copy the chat template of the model that it was made from into the folder (it is in one of {FILES}).",
            )
        options = {"tokenize": False, "add_generation_prompt": is_prompt}
        # The processor's own may be several by name; which one is its own choice.
        if not getattr(self.processor, "chat_template", None):
            options["chat_template"] = self.template
        try:
            return str(self.processor.apply_chat_template(list(messages), **options))
        # Templates are programs of their own.
        except Exception as error:
            raise RenderingError(f"the chat template fails: {first_line(error).rstrip('.')}") from error

    def _check_parts(self, messages: Sequence[Message]) -> None:
        """Raises CheckpointError if the template of a model that sees is one for texts alone. It is tried on the first
        conversation, and on the first one with pictures."""
        if not self.takes_pictures:
            return
        number = next((i for i, message in enumerate(messages) if has_picture(message)), None)
        kind = number is not None
        if kind in self._tried:
            return
        if number is None:
            number = next(i for i, message in enumerate(messages) if message["role"] == "user")
        turn, text = messages[number], self.render(messages[: number + 1], True)
        if prints_parts(turn, text):
            self._refuse("prints the list of a turn's parts")
        words = [part for part in turn["content"] if part["type"] != "image"]
        if kind and self._render_alone(turn, words) == self._render_alone(turn, turn["content"]):
            self._refuse("leaves out pictures")
        own = get_text(turn).strip()
        if not has_texts(turn, text) and own in self._render_alone(turn, own):
            self._refuse("leaves out a turn that is a list of parts")
        self._tried.add(kind)

    def _render_alone(self, message: Message, content: str | list[dict[str, Any]]) -> str:
        return self.render([{**message, "content": content}], True)

    def _refuse(self, what: str) -> None:
        raise CheckpointError(
            f"the chat template in {self.folder} is one for texts alone: it {what}.",
            f"Copy that of the vision-language model itself into the folder (it is in one of {FILES}).",
        )
