"""What qualifies the figures of an evaluation, in sentences; the page and the model card show them beside these."""

from __future__ import annotations

from interlace_cli.domain.evaluation import Evaluation


def describe_caveats(evaluation: Evaluation) -> list[str]:
    """All but `describe_overlap`, which the page says at its head; a sentence each."""
    left_out = [f"{count} samples are left out: {reason}." for reason, count in evaluation.left_out.items()]
    return [*_describe_cuts(evaluation), *left_out, *map(describe_caution, evaluation.cautions)]


def describe_caution(caution: str) -> str:
    """One of `domain/cautions.py`, as it is said where the figure is made."""
    return f"Careful: {caution}"


def describe_samples(evaluation: Evaluation) -> str:
    """`held-out samples`, if no checkpoint has seen one of them."""
    return "samples" if describe_overlap(evaluation) else "held-out samples"


def describe_overlap(evaluation: Evaluation) -> list[str]:
    """Which checkpoints had seen samples that they were judged on, a sentence each."""
    count, lines = sum(evaluation.samples.values()), []
    for result in evaluation.results:
        seen = {"trained": result.trained_on, "calibrated": result.calibrated_on}
        lines += [f"{result.name} was {how} on {n} of these {count} samples." for how, n in seen.items() if n]
    return lines


def _describe_cuts(evaluation: Evaluation) -> list[str]:
    """Which checkpoints' answers were cut at the limit of tokens, or are empty, a sentence each."""
    count, lines = sum(evaluation.samples.values()), []
    for result in evaluation.results:
        found = {"were cut at the limit of tokens": result.cut, "are empty": result.empty}
        lines += [f"{n} of {count} answers of {result.name} {what}." for what, n in found.items() if n]
    return lines
