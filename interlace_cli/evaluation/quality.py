"""Greedy answers of a model, and its loss on the right answers, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from interlace_cli.data.batches import IGNORE, Batcher, Inputs, order_by_length, to_device
from interlace_cli.data.labels import answer_loss, keep_label_positions
from interlace_cli.data.oom import Halving
from interlace_cli.data.prefetch import cut, read_ahead
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Advance

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Quality:
    """`answers[i]` is the greedy answer to sample i. `loss` is the mean cross-entropy in nats per answer token, over
    `tokens` answer tokens."""

    answers: list[str]
    loss: float
    tokens: int


def measure_quality(
    model: PreTrainedModel,
    batcher: Batcher,
    samples: Sequence[Sample],
    batch_size: int,
    max_new_tokens: int,
    advance: Advance,
    say: Callable[[str], None],
) -> Quality:
    """Generates an answer to every sample and computes the loss of its right answer, longest samples first.

    `advance` gets the number of samples after each batch. A batch that runs out of memory is split in half, and `say`
    gets one line about it.
    """
    answers: dict[int, str] = {}
    total, tokens = 0.0, 0
    batches = cut(order_by_length(samples), batch_size)

    def make(own: Batcher, chosen: Sequence[int]) -> tuple[Inputs, Inputs]:
        prompts, conversations = own.build_both([samples[i] for i in chosen])
        return prompts, keep_label_positions(conversations)

    def work(chosen: Sequence[int], pair: tuple[Inputs, Inputs]) -> tuple[dict[int, str], float, int]:
        found = generate_answers(model, batcher.tokenizer, pair[0], max_new_tokens)
        return dict(zip(chosen, found, strict=True)), *compute_loss(model, pair[1])

    halving = Halving(batcher, make, say)
    with closing(read_ahead(batches, make, batcher, model)) as made:
        for chosen, pair in zip(batches, made, strict=True):
            for found, loss, count in halving.run(chosen, pair, work):
                answers.update(found)
                total, tokens = total + loss * count, tokens + count
            advance(len(chosen))
    return Quality([answers[index] for index in range(len(samples))], total / max(tokens, 1), tokens)


@torch.inference_mode()
def generate_answers(model: PreTrainedModel, tokenizer: Any, prompts: Inputs, max_new_tokens: int) -> list[str]:
    """The greedy answer to each prompt of a batch from `Batcher.build_prompts`, without spaces at its ends."""
    inputs = to_device(prompts, model.device, model.dtype)
    # A checkpoint without a generation config would run on after its answer.
    stop = model.generation_config.eos_token_id or tokenizer.eos_token_id
    generated = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id,
    )
    new = generated[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


@torch.inference_mode()
def compute_loss(model: PreTrainedModel, conversations: Inputs) -> tuple[float, int]:
    """`(mean cross-entropy in nats per answer token, answer tokens)` of a batch from `keep_label_positions`."""
    batch = to_device(conversations, model.device, model.dtype)
    labels = batch.pop("labels")
    loss = answer_loss(model(**batch, use_cache=False), labels)
    return float(loss), int((labels != IGNORE).sum())
