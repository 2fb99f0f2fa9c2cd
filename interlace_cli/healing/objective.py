"""What healing minimises, in words: `--objective local,distill+anchor` are two stages, the second with two terms.

- `ce`: cross-entropy of the answers' tokens (the paper's).
- `distill`: that, mixed with the KL divergence from the dense model's distribution (Hinton et al. 2015,
  arXiv 1503.02531; for pruned language models Muralidharan et al. 2024, arXiv 2407.14679).
- `anchor`: the hidden state that leaves each anchor is to be the dense model's (hint layers: Romero et al. 2015, arXiv
  1412.6550; the anchors are this method's own meeting points).
- `local`: each tuned layer alone learns what it and its dropped neighbours do to the dense model's hidden states
  (block-wise distillation: Li et al. 2020, arXiv 1911.13053). A first stage, or the only one.
"""

from __future__ import annotations

from dataclasses import dataclass

from interlace_cli.errors import UsageError

TERMS = ("ce", "distill", "anchor", "local")


@dataclass(frozen=True)
class Stage:
    """Terms whose sum is minimised."""

    terms: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """Whether each tuned layer learns by itself."""
        return "local" in self.terms

    @property
    def needs_head(self) -> bool:
        """Whether the loss is one of the answers' tokens."""
        return "ce" in self.terms or "distill" in self.terms

    @property
    def needs_teacher(self) -> bool:
        """Whether the dense model is needed."""
        return self.terms != ("ce",)


def parse_objective(text: str) -> tuple[Stage, ...]:
    """Raises UsageError with what is wrong."""
    stages = tuple(Stage(tuple(word.strip() for word in part.split("+"))) for part in text.split(","))
    for term in (term for stage in stages for term in stage.terms):
        if term not in TERMS:
            raise UsageError(f"--objective does not take {term!r}.", f"It takes {', '.join(TERMS)}.")
    for place, stage in enumerate(stages):
        if stage.is_local and (len(stage.terms) > 1 or place):
            raise UsageError("--objective: local is a stage of its own, and the first.", "Such as local,distill.")
    if len(stages) > 2 or (len(stages) == 2 and not stages[0].is_local):
        raise UsageError(f"--objective {text}: only local goes before another stage.", "Join terms with +.")
    return stages
