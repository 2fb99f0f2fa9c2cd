"""FLOPs of an optimizer step, by the formula in `step.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """The size of one optimizer step.

    Numbers of weights that a token is multiplied with: `below` the first tuned layer; `frozen` and `tuned` from it on;
    `head` (V x H). `vision` is that of the vision tower with its merger, for each of `patches`. `tokens` and `labels`
    are summed over the step's samples, `pairs` is the sum of the squares of their lengths in tokens. `width` is query
    heads x head dimension. `layers_below` and `layers_above` are numbers of language layers below the first tuned one,
    and from it on."""

    below: int
    frozen: int
    tuned: int
    head: int
    tokens: int
    labels: int
    vision: int = 0
    patches: int = 0
    pairs: int = 0
    width: int = 0
    layers_below: int = 0
    layers_above: int = 0

    @property
    def flops(self) -> int:
        """FLOPs of a step with the objective `ce`, a multiplication and an addition being 2. Attention is counted over
        all pairs of a sample's tokens, and its backward as twice its forward."""
        forward = 2 * self.tokens * (self.below + self.frozen + self.tuned) + 2 * self.patches * self.vision
        backward = 2 * self.tokens * (self.frozen + self.tuned) + 2 * self.tokens * self.tuned
        attention = 4 * self.pairs * self.width * (self.layers_below + 3 * self.layers_above)
        return forward + backward + 4 * self.labels * self.head + attention

    @property
    def released_flops(self) -> int:
        """FLOPs of the same step in the scripts that the paper released: gradients of activations down to the
        embeddings, every layer's forward twice (gradient checkpointing), and logits of all tokens."""
        layers = self.below + self.frozen + self.tuned
        attention = 4 * self.pairs * self.width * 4 * (self.layers_below + self.layers_above)
        passes = 2 * self.tokens * (3 * layers + self.tuned) + 2 * self.patches * self.vision
        return passes + 6 * self.tokens * self.head + attention
