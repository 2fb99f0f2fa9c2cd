"""Which samples share a row of a training step, decided by their lengths alone.

A packed row holds its samples end to end, without padding. Models that cannot be packed take padded batches of samples
of similar length.
"""

from __future__ import annotations

from collections.abc import Sequence

PADDING = 0.05
"""The largest share of a padded batch that may be padding."""


def pack_rows(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of the samples in each row of at most `max_tokens` tokens, by best-fit decreasing, which needs at most
    1.22 times as many rows as the optimum (Johnson 1973). A sample that is longer has a row of its own; samples of
    length 0 are left out. In a row the longest sample comes first, so that samples of equal length are neighbours."""
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
    """Indices of the samples in each padded batch, longest first. A new batch begins if the next sample would make more
    than PADDING of the batch padding, or bring it above `max_tokens`, padding included, or `max_samples`."""
    groups: list[list[int]] = []
    real = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if not length:
            continue
        if groups:
            padded = lengths[groups[-1][0]] * (len(groups[-1]) + 1)
            is_full = len(groups[-1]) == max_samples or padded > max_tokens
        if not groups or is_full or padded - real - length > PADDING * padded:
            groups.append([])
            real = 0
        groups[-1].append(index)
        real += length
    return groups
