"""Runs one checkpoint on all tasks and scores its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interlace_cli.data.batches import Batcher
from interlace_cli.domain.evaluation import Generation
from interlace_cli.domain.progress import Advance
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.evaluation.generation import Generator
from interlace_cli.evaluation.metrics import check_samples, score_answers
from interlace_cli.evaluation.quality import measure_quality
from interlace_cli.evaluation.retrieval import is_dual_encoder, measure_recall
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.evaluation.thoughts import strip_thoughts
from interlace_cli.options.evaluate import GREEDY

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Answered:
    """The scored entries of one checkpoint.

    `kinds[i]` is the kind of entry i of `scored`. A generative model has one entry per sample, task after task. A dual
    encoder (CLIP, SigLIP) has one entry per query and recall rank (`retrieval.py`). `loss` is the mean cross-entropy in
    nats per answer token over all tasks; None for a dual encoder, as is `generation`, how answers were generated. `cut`
    of them came to the limit of tokens, and `empty` hold no text but thoughts.
    """

    kinds: list[str]
    scored: Points
    loss: float | None
    cut: int = 0
    empty: int = 0
    generation: Generation | None = None

    def describe_losses(self) -> list[str]:
        """What a reader of the score has to know of the answers, a clause each."""
        lines = []
        if self.cut:
            lines.append(f"{self.cut} of {len(self.kinds)} answers were cut at the limit of tokens (--max-new-tokens)")
        if self.empty:
            lines.append(f"{self.empty} of {len(self.kinds)} answers are empty")
        return lines


def answer_tasks(
    model: PreTrainedModel,
    processor: Any,
    tasks: Sequence[EvalTask],
    batch_size: int,
    max_new_tokens: int,
    advance: Advance,
    say: Callable[[str], None],
    way: str = GREEDY,
    seed: int = 0,
) -> Answered:
    """Generates an answer to every sample and scores it by the sample's metric; a dual encoder gets recall at K.

    `way` and `seed`: see `Generator`. `max_new_tokens` holds for tasks that set none of their own. `advance` is told of
    each finished sample, `say` gets one line when a batch has to be halved for lack of memory. Raises DatasetError for
    samples that cannot be scored, before the first is answered.
    """
    if not is_dual_encoder(model):
        check_samples([sample for task in tasks for sample in task.samples])
    kinds: list[str] = []
    pairs: list[tuple[float, float]] = []
    losses: list[tuple[float, int]] = []
    cut, empty, generation = 0, 0, None
    for task in tasks:
        if is_dual_encoder(model):
            found, scored = measure_recall(model, processor, task.folder, task.samples, batch_size, advance)
            kinds += found if len(tasks) == 1 else [f"{task.name}: {kind}" for kind in found]
            pairs += scored.pairs()
            continue
        batcher = Batcher(processor, task.folder)
        tokens = task.max_new_tokens or max_new_tokens
        generator = Generator(model, batcher, way, seed)
        quality = measure_quality(model, batcher, task.samples, batch_size, tokens, advance, say, generator)
        kinds += [sample.kind for sample in task.samples]
        pairs += score_answers(quality.answers, task.samples).pairs()
        losses.append((quality.loss, quality.tokens))
        cut, generation = cut + quality.cut, generator.describe()
        empty += sum(not strip_thoughts(answer) for answer in quality.answers)
    weights = [weight for _, weight in pairs]
    points = Points([value for value, _ in pairs], None if set(weights) <= {1.0} else weights)
    total = sum(count for _, count in losses)
    loss = sum(value * count for value, count in losses) / total if total else None
    return Answered(kinds, points, loss, cut, empty, generation)
