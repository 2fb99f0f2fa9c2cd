"""Answers of a model, and its loss on the right answers, in batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from interlace_cli.data.batches import IGNORE, Batcher, Inputs, order_by_length, to_model
from interlace_cli.data.labels import answer_loss, keep_label_positions
from interlace_cli.data.oom import Halving
from interlace_cli.data.padding import Padding, choose_trial, find_padding
from interlace_cli.data.prefetch import cut, read_ahead
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Advance
from interlace_cli.evaluation.generation import Generator, Reply, generates_alike
from interlace_cli.families.finite import explain_not_finite
from interlace_cli.families.modules import find_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class BatchResult:
    """What came of a batch of the samples with the indices `samples`: the reply to each (none without a generator), and
    the `(mean loss, tokens)` of each part that the batch was run in."""

    samples: tuple[int, ...]
    replies: tuple[Reply, ...]
    losses: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Quality:
    """`answers[i]` is the answer to sample i, and `cut` of them came to the limit of tokens. `loss` is the mean
    cross-entropy in nats per answer token, over `tokens` tokens of all answers, each behind the prompt that its own
    generation would have."""

    answers: list[str]
    loss: float
    tokens: int
    cut: int


def measure_quality(
    model: PreTrainedModel,
    batcher: Batcher,
    samples: Sequence[Sample],
    batch_size: int,
    max_new_tokens: int,
    advance: Advance,
    say: Callable[[str], None],
    generator: Generator | None = None,
) -> Quality:
    """Generates an answer to every sample and computes the loss of its right answer, longest samples first.

    Answers are greedy if there is no `generator`. `advance` gets the number of samples after each batch. A batch that
    runs out of memory is split in half, and `say` gets one line about it.
    """
    batches, padding = plan_batches(model, batcher, samples, batch_size, say)
    asked = generator or Generator(model, batcher)
    results = []
    for result in run_batches(model, batcher, samples, batches, padding, max_new_tokens, say, asked):
        advance(len(result.samples))
        results.append(result)
    return join_results(results)


def plan_batches(
    model: PreTrainedModel,
    batcher: Batcher,
    samples: Sequence[Sample],
    batch_size: int,
    say: Callable[[str], None],
) -> tuple[list[list[int]], Padding]:
    """The batches, as indices of the samples, longest samples first; and how the model's rows are padded in them. They
    depend on nothing else, so that several processes plan the same ones."""
    padding = _find_padding(model, batcher, samples, say) if batch_size > 1 else Padding()
    return cut(order_by_length(samples), padding.limit(batch_size)), padding


def run_batches(
    model: PreTrainedModel,
    batcher: Batcher,
    samples: Sequence[Sample],
    batches: Sequence[Sequence[int]],
    padding: Padding,
    max_new_tokens: int,
    say: Callable[[str], None],
    generator: Generator | None,
) -> Iterator[BatchResult]:
    """Replies and losses of the `batches`, one after another; losses alone without a `generator`."""

    def make(own: Batcher, chosen: Sequence[int]) -> tuple[Inputs, ...]:
        prompts, *conversations = own.build_both([samples[i] for i in chosen])
        return prompts, *(keep_label_positions(padding.complete(batch)) for batch in conversations)

    def work(chosen: Sequence[int], made: tuple[Inputs, ...]) -> BatchResult:
        replies = () if generator is None else tuple(generator.reply(made[0], max_new_tokens))
        return BatchResult(tuple(chosen), replies, tuple(compute_loss(model, batch) for batch in made[1:]))

    halving = Halving(batcher, make, say)
    with closing(read_ahead(batches, make, batcher, model)) as made:
        for chosen, inputs in zip(batches, made, strict=True):
            parts = halving.run(chosen, inputs, work)
            replies = tuple(reply for part in parts for reply in part.replies)
            yield BatchResult(tuple(chosen), replies, tuple(loss for part in parts for loss in part.losses))


def join_results(results: Sequence[BatchResult]) -> Quality:
    """What the batches come to, in their order: sums of floating-point numbers depend on it."""
    replies: dict[int, Reply] = {}
    total, tokens = 0.0, 0
    for result in results:
        replies.update(zip(result.samples, result.replies, strict=True))
        for loss, count in result.losses:
            total, tokens = total + loss * count, tokens + count
    answers = [replies[index].text for index in range(len(replies))]
    return Quality(answers, total / max(tokens, 1), tokens, sum(reply.is_cut for reply in replies.values()))


def _find_padding(
    model: PreTrainedModel, batcher: Batcher, samples: Sequence[Sample], say: Callable[[str], None]
) -> Padding:
    """`find_padding`, and that `generate` gets it right too, of models that need something for their padding."""
    padding = find_padding(model, batcher, samples, say)
    if not (padding.needs_positions and padding.is_harmless):
        return padding
    chosen = [samples[i] for i in choose_trial(samples)]
    if generates_alike(model, [batcher.build_prompts([one]) for one in chosen], batcher.build_prompts(chosen)):
        return padding
    say(f"{type(model).__name__} generates something else in a batch than alone: samples are run one by one")
    return replace(padding, is_harmless=False)


@torch.inference_mode()
def compute_loss(model: PreTrainedModel, conversations: Inputs) -> tuple[float, int]:
    """`(mean cross-entropy in nats per answer token, answer tokens)` of a batch from `keep_label_positions`."""
    batch = to_model(conversations, model)
    labels = batch.pop("labels")
    loss = float(answer_loss(model(**batch, use_cache=False), labels, batch["logits_to_keep"]))
    if not math.isfinite(loss):
        raise explain_not_finite(model, find_layers(model), batch, "the loss")
    return loss, int((conversations["labels"] != IGNORE).sum())
