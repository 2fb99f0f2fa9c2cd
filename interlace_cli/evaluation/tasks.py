"""What checkpoints are asked: samples of a prepared dataset, with what a task says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interlace_cli.domain.dataset import Sample


@dataclass(frozen=True)
class EvalTask:
    """`folder` is the dataset of the samples. `max_new_tokens` None: as the call says."""

    name: str
    folder: Path
    samples: Sequence[Sample]
    max_new_tokens: int | None = None
    category: str | None = None


def shape_samples(samples: Sequence[Sample], kind: str | None, metric: str | None, suffix: str) -> list[Sample]:
    """The samples as a task asks them: of one kind, scored by one metric, `suffix` behind each question."""
    shaped = []
    for sample in samples:
        update: dict[str, object] = {}
        if kind is not None:
            update["kind"] = kind
        if metric is not None:
            update["metric"] = metric
        if suffix:
            turns = list(sample.conversations)
            place = next(i for i, turn in enumerate(turns) if turn.speaker == "human")
            turns[place] = turns[place].model_copy(update={"value": turns[place].value + suffix})
            update["conversations"] = turns
        shaped.append(sample.model_copy(update=update))
    return shaped
