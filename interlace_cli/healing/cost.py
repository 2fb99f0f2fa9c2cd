"""What a step costs, counted: see the formula in `step.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """Of one optimizer step. Parameters that a token is multiplied with: `below` the first tuned layer, `frozen` and
    `tuned` from it on, `vision` of the tower (with its merger), whose `patches` they meet; `head` is V x H. `pairs` is
    the sum over samples of the square of their length, `width` query heads x head dimension, `layers_below` and
    `layers_above` count language layers on both sides of the first tuned one."""

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
        """Multiplications and additions of a step with the objective `ce`. Attention is counted over all pairs of a
        sample's tokens, and its backward as twice its forward."""
        forward = 2 * self.tokens * (self.below + self.frozen + self.tuned) + 2 * self.patches * self.vision
        backward = 2 * self.tokens * (self.frozen + self.tuned) + 2 * self.tokens * self.tuned
        attention = 4 * self.pairs * self.width * (self.layers_below + 3 * self.layers_above)
        return forward + backward + 4 * self.labels * self.head + attention

    @property
    def released_flops(self) -> int:
        """Of the released recipe's way: gradients of activations from the embeddings up, every layer's forward twice
        for its checkpoint, logits of all tokens."""
        layers = self.below + self.frozen + self.tuned
        attention = 4 * self.pairs * self.width * 4 * (self.layers_below + self.layers_above)
        passes = 2 * self.tokens * (3 * layers + self.tuned) + 2 * self.patches * self.vision
        return passes + 6 * self.tokens * self.head + attention
