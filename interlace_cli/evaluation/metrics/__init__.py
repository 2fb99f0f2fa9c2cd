"""The metrics, one file each. Pure. Each names its source, and in what it differs from it and why.

A metric is a function of N answers and their N samples that returns the points of each (`Points`). To add one, write a
file with its function and add a line to `METRICS`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import DatasetError
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.evaluation.metrics.anls import score_anls
from interlace_cli.evaluation.metrics.cider import score_cider
from interlace_cli.evaluation.metrics.exact_match import score_exact_match
from interlace_cli.evaluation.metrics.multiple_choice import check_choices, score_multiple_choice
from interlace_cli.evaluation.metrics.relaxed_accuracy import score_relaxed_accuracy
from interlace_cli.evaluation.metrics.vqa_accuracy import score_vqa_accuracy
from interlace_cli.evaluation.metrics.yes_no import check_yes_no, score_yes_no_accuracy, score_yes_no_f1
from interlace_cli.evaluation.thoughts import strip_thoughts

Metric = Callable[[Sequence[str], Sequence[Sample]], Points]
METRICS: dict[str, Metric] = {
    "exact_match": score_exact_match,
    "multiple_choice": score_multiple_choice,
    "relaxed_accuracy": score_relaxed_accuracy,
    "anls": score_anls,
    "vqa_accuracy": score_vqa_accuracy,
    "yes_no_accuracy": score_yes_no_accuracy,
    "yes_no_f1": score_yes_no_f1,
    "cider": score_cider,
}
CHECKS: dict[str, Callable[[Sample], str | None]] = {
    "multiple_choice": check_choices,
    "yes_no_accuracy": check_yes_no,
    "yes_no_f1": check_yes_no,
}
"""Metric -> why no answer to a sample could be right by it; None if one could."""


def check_samples(samples: Sequence[Sample]) -> None:
    """Raises DatasetError if samples cannot be scored: a metric does not exist, the samples of one kind name two
    metrics, or no answer to a sample could be right by its metric."""
    for kind, (metric, members) in _group(samples).items():
        _find_metric(kind, metric)
        check = CHECKS.get(metric)
        if check is None:
            continue
        wrong = [(samples[i].id, why) for i in members if (why := check(_clean_sample(samples[i])))]
        if wrong:
            raise DatasetError(
                f"{len(wrong)} of {len(members)} samples of kind {kind} cannot be scored by {metric}; of {wrong[0][0]},"
                f" {wrong[0][1]}.",
                "Correct the records, or give them another metric.",
            )


def score_answers(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """The points of each answer by the metric of its sample, in the order of `samples`.

    Thoughts are taken off first (`strip_thoughts`), also off right answers. Letters are compared as Unicode means them:
    an accent is the same whether it is a part of its letter or stands behind it (NFC).

    Raises DatasetError if a metric does not exist, or if the samples of one kind name two metrics.
    """
    points, weights = [0.0] * len(samples), [1.0] * len(samples)
    for kind, (metric, members) in _group(samples).items():
        score = _find_metric(kind, metric)
        replies = [_clean(strip_thoughts(answers[i])) for i in members]
        scored = score(replies, [_clean_sample(samples[i]) for i in members])
        for index, (value, weight) in zip(members, scored.pairs(), strict=True):
            points[index], weights[index] = value, weight
    return Points(points, None if set(weights) == {1.0} else weights)


def _clean(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _clean_sample(sample: Sample) -> Sample:
    """The sample with its right answers as they are compared. One that is thoughts alone stays as it is."""
    right = [_clean(strip_thoughts(text) or text) for text in sample.references]
    choices = [_clean(choice) for choice in sample.choices]
    return sample.model_copy(update={"answers": right, "choices": choices})


def find_metrics(samples: Sequence[Sample]) -> dict[str, str]:
    """Kind -> name of its metric, kinds in alphabetical order. Raises DatasetError if a kind has two metrics."""
    return {kind: metric for kind, (metric, _) in sorted(_group(samples).items())}


def _find_metric(kind: str, metric: str) -> Metric:
    if metric not in METRICS:
        raise DatasetError(f"the samples of kind {kind} ask for a metric {metric}.", f"There are {', '.join(METRICS)}.")
    return METRICS[metric]


def _group(samples: Sequence[Sample]) -> dict[str, tuple[str, list[int]]]:
    """Kind -> (metric, indices of its samples)."""
    groups: dict[str, tuple[str, list[int]]] = {}
    for index, sample in enumerate(samples):
        metric, members = groups.setdefault(sample.kind, (sample.metric, []))
        if metric != sample.metric:
            raise DatasetError(f"the kind {sample.kind} has samples of two metrics, {metric} and {sample.metric}.")
        members.append(index)
    return groups
