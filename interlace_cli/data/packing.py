"""Which samples share a row of a training step: a decision about lengths alone.

A packed row holds its samples end to end, so that nothing is padded. Models that cannot be packed take padded batches
of samples that are alike in length.
"""

from __future__ import annotations

from collections.abc import Sequence

PADDING = 0.05
"""The largest share of a padded batch that may be padding."""


def pack_rows(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of the samples in each row, of at most `max_tokens` tokens together: best fit, longest first, which takes
    at most 1.22 times as many rows as needed (Johnson 1973). A longer sample has a row for itself. Inside a row the
    longest come first, so that samples of one length are neighbours; empty samples are left out."""
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not lengths[index]:
            continue
        fitting = [row for row, room in enumerate(free) if room >= lengths[index]]
        if fitting:
            best = min(fitting, key=lambda row: free[row])
        else:
            best = len(rows)
            rows.append([])
            free.append(max_tokens)
        rows[best].append(index)
        free[best] -= lengths[index]
    return rows


def group_alike(lengths: Sequence[int], max_tokens: int, max_samples: int) -> list[list[int]]:
    """Indices of the samples in each padded batch: longest first, a new batch where the next sample would make more
    than PADDING of it padding, or more than `max_tokens` places or `max_samples` samples."""
    groups: list[list[int]] = []
    real = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if not length:
            continue
        if groups:
            places = lengths[groups[-1][0]] * (len(groups[-1]) + 1)
            is_full = len(groups[-1]) == max_samples or places > max_tokens
        if not groups or is_full or places - real - length > PADDING * places:
            groups.append([])
            real = 0
        groups[-1].append(index)
        real += length
    return groups
