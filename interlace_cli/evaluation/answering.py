"""A checkpoint's answers to all tasks, and what they scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interlace_cli.data.batches import Batcher
from interlace_cli.domain.progress import Advance
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.evaluation.metrics import score_answers
from interlace_cli.evaluation.quality import measure_quality
from interlace_cli.evaluation.retrieval import is_dual_encoder, measure_recall
from interlace_cli.evaluation.tasks import EvalTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Answered:
    """`kinds[i]` is the kind of what `scored` has in place i: the samples task by task; of a model that embeds, its
    recalls. `loss` is the mean cross-entropy over all answer tokens, None where nothing is generated."""

    kinds: list[str]
    scored: Points
    loss: float | None


def answer_tasks(
    model: PreTrainedModel,
    processor: Any,
    tasks: Sequence[EvalTask],
    batch_size: int,
    max_new_tokens: int,
    advance: Advance,
    say: Callable[[str], None],
) -> Answered:
    """Generates greedily for every sample of every task and scores it by its metric; or embeds."""
    kinds: list[str] = []
    pairs: list[tuple[float, float]] = []
    losses: list[tuple[float, int]] = []
    for task in tasks:
        if is_dual_encoder(model):
            found, scored = measure_recall(model, processor, task.folder, task.samples, batch_size, advance)
            kinds += found if len(tasks) == 1 else [f"{task.name}: {kind}" for kind in found]
            pairs += scored.pairs()
            continue
        batcher = Batcher(processor, task.folder)
        tokens = task.max_new_tokens or max_new_tokens
        quality = measure_quality(model, batcher, task.samples, batch_size, tokens, advance, say)
        kinds += [sample.kind for sample in task.samples]
        pairs += score_answers(quality.answers, task.samples).pairs()
        losses.append((quality.loss, quality.tokens))
    weights = [weight for _, weight in pairs]
    points = Points([value for value, _ in pairs], None if set(weights) <= {1.0} else weights)
    total = sum(count for _, count in losses)
    loss = sum(value * count for value, count in losses) / total if total else None
    return Answered(kinds, points, loss)
