"""Runs one checkpoint on all tasks and scores its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interlace_cli.data.batches import Batcher
from interlace_cli.domain.evaluation import Generation
from interlace_cli.domain.progress import Advance
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.evaluation.batch_answers import BatchAnswers
from interlace_cli.evaluation.generation import Generator
from interlace_cli.evaluation.metrics import check_samples, score_answers
from interlace_cli.evaluation.quality import BatchResult, join_results, plan_batches, run_batches
from interlace_cli.evaluation.retrieval import is_dual_encoder, measure_recall
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.evaluation.thoughts import strip_thoughts
from interlace_cli.options.evaluate import GREEDY

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from interlace_cli.evaluation.vllm_replies import Replies


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
    batches: BatchAnswers | None = None,
    replies: Replies | None = None,
) -> Answered:
    """Generates an answer to every sample and scores it by the sample's metric; a dual encoder gets recall at K.

    `way` and `seed`: see `Generator`. `max_new_tokens` holds for tasks that set none of their own. `advance` is told of
    each finished sample, `say` gets one line when a batch has to be halved for lack of memory. Several processes share
    the batches; what is in `batches` already is not run again. Where there are `replies` of another engine, the model
    computes the loss alone. Raises DatasetError for samples that cannot be scored,
    before the first is answered.
    """
    if is_dual_encoder(model):
        return _recall_tasks(model, processor, tasks, batch_size, advance)
    check_samples([sample for task in tasks for sample in task.samples])
    batches = batches or BatchAnswers()
    planned, generation = [], None
    for number, task in enumerate(tasks):
        batcher = Batcher(processor, task.folder)
        tokens = task.max_new_tokens or max_new_tokens
        generator = Generator(model, batcher, way, seed)
        generation = generator.describe() if replies is None else replies.generation
        plan, padding = plan_batches(model, batcher, task.samples, batch_size, say)
        mine, finish = batches.deal(number, plan, advance)
        asked = generator if replies is None else None
        for result in run_batches(model, batcher, task.samples, mine, padding, tokens, say, asked):
            finish(result)
        planned.append(plan)
    results = batches.collect(planned)
    return _score(tasks, results if replies is None else replies.join(results), generation)


def _score(
    tasks: Sequence[EvalTask], results: Sequence[Sequence[BatchResult]], generation: Generation | None
) -> Answered:
    kinds: list[str] = []
    pairs: list[tuple[float, float]] = []
    total, count, cut, empty = 0.0, 0, 0, 0
    for task, found in zip(tasks, results, strict=True):
        quality = join_results(found)
        kinds += [sample.kind for sample in task.samples]
        pairs += score_answers(quality.answers, task.samples).pairs()
        total, count = total + quality.loss * quality.tokens, count + quality.tokens
        cut += quality.cut
        empty += sum(not strip_thoughts(answer) for answer in quality.answers)
    return Answered(kinds, _to_points(pairs), total / count if count else None, cut, empty, generation)


def _recall_tasks(
    model: PreTrainedModel, processor: Any, tasks: Sequence[EvalTask], batch_size: int, advance: Advance
) -> Answered:
    kinds: list[str] = []
    pairs: list[tuple[float, float]] = []
    for task in tasks:
        found, scored = measure_recall(model, processor, task.folder, task.samples, batch_size, advance)
        kinds += found if len(tasks) == 1 else [f"{task.name}: {kind}" for kind in found]
        pairs += scored.pairs()
    return Answered(kinds, _to_points(pairs), None)


def _to_points(pairs: Sequence[tuple[float, float]]) -> Points:
    weights = [weight for _, weight in pairs]
    return Points([value for value, _ in pairs], None if set(weights) <= {1.0} else weights)
