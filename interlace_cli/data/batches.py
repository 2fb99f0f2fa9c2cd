"""Conversations -> the tensors a model takes.

Answers are tokenized apart from their prompts, so that training sees exactly the tokens that generation sees. A
conversation is one sequence, or several where its template renders earlier turns otherwise as history
(`data/rendering.py`). Shape legend: B samples, T tokens of the longest sample.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interlace_cli.data.end_of_turn import close_answer, count_answer_tokens, find_stop_ids
from interlace_cli.data.rendering import Message, RenderingError, TextPart, TextSequence
from interlace_cli.data.templates import ChatTemplate
from interlace_cli.data.token_fields import TokenFields, stack_left
from interlace_cli.data.transfer import prepare, send
from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import CheckpointError, UnsupportedModelError, UnusableSampleError, first_line
from interlace_cli.io.datasets import load_images
from interlace_cli.io.missing_packages import advise
from interlace_cli.io.samples import measure_texts
from interlace_cli.runtime.dispatch import HOST_INPUTS, find_input_device, is_dispatched
from interlace_cli.runtime.memory import is_out_of_memory

IGNORE = -100
Inputs = dict[str, Tensor]
_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
MORE_TEXT = " and so on"
"""What is added to a prompt to see which fields of its encoding grow with it."""


RENDERED = 1 << 27
"""Characters of rendered conversations that are kept."""


class Batcher:
    """Builds batches with one model's processor. Rows are padded on the left, so that all
    of them end at the same position. `max_length`: the most tokens of a conversation; None: no bound."""

    def __init__(self, processor: Any, folder: Path, max_length: int | None = None) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.template = ChatTemplate(processor)
        self.folder = folder
        self.max_length = max_length
        self.stop_ids = find_stop_ids(self.template)
        self._stops = [str(token) for token in self.tokenizer.convert_ids_to_tokens(list(self.stop_ids))]
        self.token_fields = TokenFields(type(processor).__name__)
        added = self.tokenizer.added_tokens_decoder.values()
        own = [getattr(processor, name, None) for name in ("image_token", "video_token", "audio_token")]
        marks = {*(token.content for token in added if token.special), *(mark for mark in own if isinstance(mark, str))}
        self._marks = sorted(mark for mark in marks if len(mark) > 1)
        self._rendered: dict[tuple[str, ...], list[TextSequence]] = {}
        self._room = RENDERED

    def build_prompts(self, samples: Sequence[Sample]) -> Inputs:
        """The model's inputs for `generate`: the conversation up to its first answer, with the generation prompt."""
        return self._encode_prompts(samples, [self._render_first(sample) for sample in samples])

    def build_conversations(self, samples: Sequence[Sample]) -> Inputs:
        """The model's inputs for whole conversations, with `labels` [B, T]: token ids of the answers, IGNORE elsewhere.
        Of a conversation that is several sequences it is the last one, which holds all of its turns.

        A conversation longer than `max_length` loses its end; one whose prompt alone is longer loses its labels.
        """
        return self._build(samples, [self.render(sample)[-1] for sample in samples])

    def build_both(self, samples: Sequence[Sample]) -> tuple[Inputs, ...]:
        """`build_prompts` of the samples, and batches of at most as many rows with `labels`: all of their training
        sequences, so that each answer is labelled once. The first of these batches shares the prompts' images."""
        rendered = [self.render(sample) for sample in samples]
        firsts = [sequences[0] for sequences in rendered]
        prompts = self._encode_prompts(samples, firsts)
        rest = [(sample, one) for sample, own in zip(samples, rendered, strict=True) for one in own[1:]]
        pieces = [rest[start : start + len(samples)] for start in range(0, len(rest), len(samples))]
        later = [self._build([sample for sample, _ in piece], [one for _, one in piece]) for piece in pieces]
        return (prompts, self._append_answers(samples, prompts, firsts), *later)

    def build_sequences(self, sample: Sample) -> list[Inputs]:
        """The training sequences of one sample: for each of them what `build_conversations` returns."""
        return [self._build([sample], [sequence]) for sequence in self.render(sample)]

    def render(self, sample: Sample) -> list[TextSequence]:
        """The sample's sequences as texts; kept, so that each is rendered once. Raises DatasetError if the template
        cannot render the sample, and CheckpointError for a fault of the model's files."""
        key = (sample.id, *(turn.value for turn in sample.conversations), *sample.image)
        found = self._rendered.get(key)
        if found is None:
            rendered = self._render(sample, self.template.render_sequences)
            found = [close_answer(sequence, self._stops) for sequence in rendered]
            self._room -= sum(len(part.text) for sequence in found for part in sequence.parts)
            if self._room > 0:
                self._rendered[key] = found
        return found

    def tokenize(self, piece: TextPart) -> tuple[list[int], int]:
        """The tokens of a piece behind a prompt, and how many of the first ones are labels."""
        tokens: list[int] = self.tokenizer.encode(piece.text, add_special_tokens=False)
        if not piece.is_answer:
            return tokens, 0
        return tokens, count_answer_tokens(tokens, self.stop_ids)

    def count_text(self, prompt: str) -> int:
        """Tokens of a prompt as the tokenizer alone has them: a picture is its mark."""
        return len(self.tokenize_prompt(prompt))

    def tokenize_prompt(self, prompt: str) -> list[int]:
        """The tokens of a prompt as the tokenizer alone has them, in front of which it may put some of its own."""
        tokens: list[int] = self.tokenizer.encode(prompt, add_special_tokens=not self._has_bos(prompt))
        return tokens

    def count_prompt(self, sample: Sample, sequence: TextSequence) -> int:
        """Tokens of a sequence's first prompt, pictures included. Raises UnusableSampleError if the processor cannot
        take it."""
        return int(self._encode_prompts([sample], [sequence])["input_ids"].shape[1])

    def copy(self) -> Batcher:
        """A batcher for another thread, with a tokenizer of its own. What is rendered is shared."""
        other = Batcher(copy.deepcopy(self.processor), self.folder, self.max_length)
        other.token_fields, other._rendered = self.token_fields, self._rendered
        return other

    def _render_first(self, sample: Sample) -> TextSequence:
        return self._render(sample, lambda messages: [self.template.render_prompt(messages)])[0]

    def _render(self, sample: Sample, render: Callable[[list[Message]], list[TextSequence]]) -> list[TextSequence]:
        try:
            return render(self._to_messages(sample))
        except RenderingError as error:
            raise UnusableSampleError(sample.id, str(error)) from error

    def _build(self, samples: Sequence[Sample], sequences: Sequence[TextSequence]) -> Inputs:
        return self._append_answers(samples, self._encode_prompts(samples, sequences), sequences)

    def _append_answers(self, samples: Sequence[Sample], prompts: Inputs, sequences: Sequence[TextSequence]) -> Inputs:
        """The batch of the prompts, each with what follows it."""
        self.token_fields.learn(prompts, lambda row, longer: self._encode_alone(samples[row], sequences[row], longer))
        names = self.token_fields.names(prompts)
        rows: list[Inputs] = []
        for row, sequence in enumerate(sequences):
            is_real = prompts["attention_mask"][row].bool()
            fields = {name: prompts[name][row][is_real] for name in names}
            fields["labels"] = torch.full_like(fields["input_ids"], IGNORE)
            for piece in sequence.parts[1:]:
                self._append(fields, piece)
            rows.append(fields)
        batch = {name: value for name, value in prompts.items() if name not in names}
        padding = {"input_ids": self.tokenizer.pad_token_id, "labels": IGNORE}
        for name in rows[0]:
            batch[name] = stack_left([fields[name] for fields in rows], padding.get(name, 0))
        return batch

    def _encode_alone(self, sample: Sample, sequence: TextSequence, is_longer: bool) -> Inputs:
        """The encoding of one prompt, with more text at its end if `is_longer`."""
        inputs = self._encode_prompts([sample], [sequence])
        if not is_longer:
            return inputs
        # Words of the sample's own, for a tokenizer that does not know MORE_TEXT.
        for more in (MORE_TEXT, *(f" {part}" for parts in sample.parts for part in parts if part)):
            parts = (TextPart(sequence.prompt + more, False),)
            longer = self._encode_prompts([sample], [replace(sequence, parts=parts)])
            if longer["input_ids"].shape[1] > inputs["input_ids"].shape[1]:
                break
        return longer

    def _append(self, fields: Inputs, piece: TextPart) -> None:
        tokens, count = self.tokenize(piece)
        if self.max_length is not None:
            tokens = tokens[: max(self.max_length - len(fields["input_ids"]), 0)]
        labels = [*tokens[:count], *[IGNORE] * max(len(tokens) - count, 0)]
        new = {"input_ids": tokens, "labels": labels, "attention_mask": [1] * len(tokens)}
        for name, values in fields.items():
            if name in new:
                fields[name] = torch.cat([values, torch.tensor(new[name], dtype=values.dtype)])
            else:
                fields[name] = self.token_fields.extend(name, values, len(tokens))

    def _encode_prompts(self, samples: Sequence[Sample], sequences: Sequence[TextSequence]) -> Inputs:
        """Each sequence's first prompt, with the pictures that stand in it."""
        texts = [sequence.prompt for sequence in sequences]
        images = [
            load_images(self.folder, sample, sequence.pictures)
            for sample, sequence in zip(samples, sequences, strict=True)
        ]
        try:
            encoded = self.processor(
                text=texts,
                images=images if any(images) else None,
                padding=True,
                padding_side="left",
                add_special_tokens=not self._has_bos(texts[0]),
                return_tensors="pt",
            )
        # Processors raise whatever they happen to raise on a picture or a text that they cannot take.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if advice := advise(error):
                raise CheckpointError(
                    f"{type(self.processor).__name__} of {self.template.folder} cannot work here: {first_line(error)}",
                    advice,
                ) from error
            if len(samples) > 1:
                for sample, sequence in zip(samples, sequences, strict=True):
                    self._encode_prompts([sample], [sequence])
            raise UnusableSampleError(
                samples[0].id, f"{type(self.processor).__name__} cannot encode it: {first_line(error).rstrip('.')}"
            ) from error
        if "input_ids" not in encoded:
            raise UnsupportedModelError(
                f"{type(self.processor).__name__} makes no input_ids of a prompt: its model does not read text.",
                "It can be pruned with layers that are named (--drop-layers).",
            )
        return {name: value for name, value in encoded.items() if isinstance(value, Tensor)}

    def _has_bos(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return bos is not None and text.startswith(bos)

    def _to_messages(self, sample: Sample) -> list[Message]:
        """The turns in the chat template's form, with an image part wherever an image stands."""
        return [
            {"role": _ROLES[turn.speaker], "content": [self._to_part(part) for part in parts]}
            for turn, parts in zip(sample.conversations, sample.parts, strict=True)
        ]

    def _to_part(self, text: str | None) -> dict[str, str]:
        """Special tokens that a text contains are broken up with a space, so that they are read as text."""
        if text is None:
            return {"type": "image"}
        for mark in self._marks:
            if mark in text:
                text = text.replace(mark, f"{mark[:1]} {mark[1:]}")
        return {"type": "text", "text": text}


def to_device(inputs: Inputs, device: torch.device | str, dtype: torch.dtype | None = None) -> Inputs:
    """The batch on `device`; floating-point tensors (pixels) in `dtype`."""
    return {name: send(value, device, dtype) for name, value in inputs.items()}


def to_model(inputs: Inputs, model: Any) -> Inputs:
    """The batch where the model takes its inputs, in its dtype."""
    moved = to_device(inputs, find_input_device(model), model.dtype)
    if not is_dispatched(model):
        return moved
    kept = {name: inputs[name] for name in HOST_INPUTS if name in inputs}
    # At the end: the output goes to the device of the first input.
    return {name: value for name, value in moved.items() if name not in kept} | kept


def cast_on_host(batches: tuple[Inputs, ...], model: Any) -> tuple[Inputs, ...]:
    """The batches with floating-point tensors (pixels) in the model's dtype, in pinned memory if the model is on a GPU.
    A tensor that several batches share is converted once."""
    device = find_input_device(model)
    cast: dict[int, Tensor] = {}

    def convert(value: Tensor) -> Tensor:
        if id(value) not in cast:
            cast[id(value)] = prepare(value, device, model.dtype)
        return cast[id(value)]

    return tuple({name: convert(value) for name, value in batch.items()} for batch in batches)


def order_by_length(samples: Sequence[Sample]) -> list[int]:
    """Indices of the samples by the length of their text in characters, longest first, so that batches need little
    padding."""
    order: list[int] = (-measure_texts(samples)).argsort(kind="stable").tolist()
    return order
