"""Words on how answers were generated, and on those that came to nothing."""

from __future__ import annotations

from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.options.evaluate import MODEL


def describe_answers(evaluation: Evaluation) -> str:
    """How the answers were generated, for use before "in percent"."""
    ways = {result.generation.config for result in evaluation.results if result.generation}
    return "answers by each model's own generation config" if MODEL in ways else "greedy answers"


def describe_cuts(evaluation: Evaluation) -> list[str]:
    """Which checkpoints' answers were cut at the limit of tokens, or are empty, a sentence each."""
    count, lines = sum(evaluation.samples.values()), []
    for result in evaluation.results:
        found = {"were cut at the limit of tokens": result.cut, "are empty": result.empty}
        lines += [f"{n} of {count} answers of {result.name} {what}." for what, n in found.items() if n]
    return lines


def describe_stops(evaluation: Evaluation) -> str:
    """The tokens at which answers ended, as they are written; "" if no model generated any."""
    found = [token for result in evaluation.results if result.generation for token in result.generation.stop_tokens]
    return ", ".join(dict.fromkeys(found))
