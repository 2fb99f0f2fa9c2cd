"""Layers and their roles in a plan.

A layer is always named by its 0-based index in the dense model. A `position` is its 0-based index after pruning.
Example: if layers 1 and 2 of 5 are dropped, layer 3 has position 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from fractions import Fraction

from interlace_cli.errors import UsageError


class Role(str, Enum):
    """What a plan does with a layer.

    `drop`: it is removed. `tune`: it stays and is trained. `anchor`: the third layer of a triplet; it stays, frozen.
    `keep`: it is in no triplet; it stays, frozen.
    """

    DROP = "drop"
    TUNE = "tune"
    ANCHOR = "anchor"
    KEEP = "keep"

    def __str__(self) -> str:
        return self.value


def count_drops(ratio: float, num_layers: int) -> int:
    """floor(ratio * num_layers) layers to drop, in exact decimal arithmetic: 0.29 of 100 layers is 29, not 28."""
    return int(Fraction(str(ratio)) * num_layers)


def kept_layers(drop: Iterable[int], num_layers: int) -> list[int]:
    """The indices of the layers that stay, ascending. A layer's index in this list is its position."""
    dropped = set(drop)
    return [layer for layer in range(num_layers) if layer not in dropped]


def parse_layers(text: str, option: str) -> list[int]:
    """`"0-2,15"` -> [0, 1, 2, 15]. Raises UsageError, which names `option`, for anything else."""
    layers: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part, re.ASCII)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UsageError(
                f"{option} does not take {part!r}.", "Give 0-based layer indices and ranges, such as 3,6 or 0-2,15."
            )
        layers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(layers)


def describe_layers(layers: Iterable[int]) -> str:
    """[0, 1, 2, 15] -> "0-2, 15"; "none" for no layer."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "none"
