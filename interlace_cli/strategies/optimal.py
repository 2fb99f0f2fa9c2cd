"""The best set of spans that do not overlap, by dynamic programming over the layers (weighted interval scheduling;
Kleinberg and Tardos 2006, section 6.1, with the number of spans fixed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A span `start ... start + length - 1` that may be taken; a higher `value` is better."""

    start: int
    length: int
    value: float


Worth = tuple[int, float]
"""`(number of triplets, sum of values)`, compared in this order: a pair leaves no anchor, and its S_2 is not comparable
with a triplet's S_3."""


def find_best_set(candidates: Sequence[Candidate], count: int, num_layers: int) -> list[Candidate]:
    """The best `count` candidates without overlap: with the most triplets, and of such sets the one with the highest
    sum of values. If fewer than `count` fit, as many as fit. From first layer to last. O(layers x count)."""
    ending: list[list[Candidate]] = [[] for _ in range(num_layers + 1)]
    for candidate in candidates:
        ending[candidate.start + candidate.length].append(candidate)
    best: list[list[Worth | None]] = [[(0, 0.0)] + [None] * count]
    taken: list[list[Candidate | None]] = [[None] * (count + 1)]
    for end in range(1, num_layers + 1):
        worths = list(best[-1])
        choices: list[Candidate | None] = [None] * (count + 1)
        for candidate in ending[end]:
            for spans in range(1, count + 1):
                before = best[candidate.start][spans - 1]
                if before is None:
                    continue
                worth = (before[0] + (candidate.length == 3), before[1] + candidate.value)
                so_far = worths[spans]
                if so_far is None or worth > so_far:
                    worths[spans], choices[spans] = worth, candidate
        best.append(worths)
        taken.append(choices)
    spans = max(number for number in range(count + 1) if best[-1][number] is not None)
    return _walk_back(taken, spans)


def _walk_back(taken: list[list[Candidate | None]], spans: int) -> list[Candidate]:
    chosen: list[Candidate] = []
    end = len(taken) - 1
    while spans:
        candidate = taken[end][spans]
        if candidate is None:
            end -= 1
            continue
        chosen.append(candidate)
        end, spans = candidate.start, spans - 1
    return chosen
