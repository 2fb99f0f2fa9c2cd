"""What healing minimises (`--objective`): stages, separated by commas, each a sum of terms, joined by `+`. Example:
`local,distill+anchor` has two stages, the second with two terms.

- `ce`: cross-entropy of the answers' tokens (the paper's loss).
- `distill`: cross-entropy mixed with the KL divergence from the dense model's distribution (Hinton et al. 2015, arXiv
  1503.02531; for pruned language models Muralidharan et al. 2024, arXiv 2407.14679).
- `anchor`: relative squared error between the hidden state that leaves each anchor and the dense model's (hint layers:
  Romero et al. 2015, arXiv 1412.6550).
- `local`: each tuned layer alone learns what it and its dropped neighbours do to the dense model's hidden states
  (block-wise distillation: Li et al. 2020, arXiv 1911.13053). It is the first stage, or the only one.

The terms are computed in `loss.py` (ce, distill), `step.py` (anchor) and `local.py` (local).
"""

from __future__ import annotations

from dataclasses import dataclass

from interlace_cli.errors import UsageError

TERMS = ("ce", "distill", "anchor", "local")


@dataclass(frozen=True)
class Stage:
    """One stage of training: the terms whose weighted sum is minimised."""

    terms: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """Whether each tuned layer learns alone (`local.py`)."""
        return "local" in self.terms

    @property
    def needs_head(self) -> bool:
        """Whether a term is computed from logits, so that the head has to run: `ce` or `distill`."""
        return "ce" in self.terms or "distill" in self.terms

    @property
    def needs_teacher(self) -> bool:
        """Whether a term compares with the dense model: any but `ce`."""
        return self.terms != ("ce",)


def parse_objective(text: str) -> tuple[Stage, ...]:
    """The stages of `--objective`. Raises UsageError for an unknown term, or a `local` that is not a first stage of its
    own. Example: "local,ce" -> (Stage(("local",)), Stage(("ce",)))."""
    stages = tuple(Stage(tuple(word.strip() for word in part.split("+"))) for part in text.split(","))
    for term in (term for stage in stages for term in stage.terms):
        if term not in TERMS:
            raise UsageError(f"--objective does not take {term!r}.", f"It takes {', '.join(TERMS)}.")
    for index, stage in enumerate(stages):
        if stage.is_local and (len(stage.terms) > 1 or index):
            raise UsageError("--objective: local is a stage of its own, and the first.", "Such as local,distill.")
    if len(stages) > 2 or (len(stages) == 2 and not stages[0].is_local):
        raise UsageError(f"--objective {text}: only local goes before another stage.", "Join terms with +.")
    return stages
