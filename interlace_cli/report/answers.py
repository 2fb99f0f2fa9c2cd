"""Words on how answers were generated."""

from __future__ import annotations

from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.options.evaluate import MODEL


def describe_answers(evaluation: Evaluation) -> str:
    """How the answers were generated, for use before "in percent"."""
    ways = {result.generation.config for result in evaluation.results if result.generation}
    return "answers by each model's own generation config" if MODEL in ways else "greedy answers"


def describe_stops(evaluation: Evaluation) -> str:
    """The tokens at which answers ended, as they are written; "" if no model generated any."""
    found = [token for result in evaluation.results if result.generation for token in result.generation.stop_tokens]
    return ", ".join(dict.fromkeys(found))
