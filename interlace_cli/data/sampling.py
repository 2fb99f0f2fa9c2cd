"""Which rows of a part of a source are taken. Pure: sizes of row groups in, row numbers out.

A Parquet file is read by whole row groups, of about 10 MB where they hold images; so a choice of rows is also a choice
of how much has to be read. What each way cost, on 3200 rows of which 32 were taken, is in the README.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

CLUSTERS, UNIFORM, HEAD = "clusters", "uniform", "head"
METHODS = (CLUSTERS, UNIFORM, HEAD)
FEWEST_ROWS, MOST_RUNS = 16, 64
"""The fewest rows of a run, and the most runs of a part."""


def draw_rows(sizes: Sequence[int], count: int, method: str, seed: str) -> Mapping[int, Sequence[int]]:
    """Row group -> the rows taken from it, ascending; `count` rows in all, or all that there are.

    `sizes` are the rows of each group. `head`: the first rows. `uniform`: every set of `count` rows is equally likely.
    `clusters`: every row is equally likely, but rows come in runs from few groups.
    """
    total = sum(sizes)
    if count >= total:
        return {group: range(size) for group, size in enumerate(sizes) if size}
    rng = random.Random(f"rows/{seed}")
    if method == HEAD:
        positions: Sequence[int] = range(count)
    elif method == UNIFORM:
        positions = rng.sample(range(total), count)
    else:
        return _draw_clusters(sizes, count, rng, seed)
    return _locate(sizes, positions)


def _draw_clusters(sizes: Sequence[int], count: int, rng: random.Random, seed: str) -> dict[int, list[int]]:
    """Groups are shuffled, and the rows in each. The resulting line of rows is closed to a circle, rotated by a random
    offset and cut into runs of equal length, of which some are taken. By the rotation every row is equally likely, also
    those in small groups and in the shorter last run."""
    order = rng.sample(range(len(sizes)), len(sizes))
    total, offset = sum(sizes), rng.randrange(sum(sizes))
    length = max(FEWEST_ROWS, -(-count // MOST_RUNS))
    runs = rng.sample(range(-(-total // length)), -(-total // length))
    positions: list[int] = []
    for run in runs:
        if len(positions) >= count:
            break
        positions += range(run * length, min((run + 1) * length, total))
    positions = rng.sample(positions, count)
    found = _locate([sizes[group] for group in order], [(position + offset) % total for position in positions])
    result = {}
    for index, rows in found.items():
        group = order[index]
        shuffled = random.Random(f"group/{seed}/{group}").sample(range(sizes[group]), sizes[group])
        result[group] = sorted(shuffled[row] for row in rows)
    return dict(sorted(result.items()))


def _locate(sizes: Sequence[int], positions: Sequence[int]) -> dict[int, list[int]]:
    """Group -> its rows, ascending, of the `positions` in the concatenation of all groups."""
    ends = list(accumulate(sizes))
    result: dict[int, list[int]] = {}
    for position in sorted(positions):
        group = bisect_right(ends, position)
        result.setdefault(group, []).append(position - ends[group] + sizes[group])
    return result


def allot_samples(available: dict[str, int], portion: float, at_most: int | None, is_head: bool) -> dict[str, int]:
    """Part -> how many of its `available` records are wanted: `portion` of them, at least one (rounded down for `head`,
    as in the released script). If that is more than `at_most` in all, those are shared out in proportion, by largest
    remainder."""
    wanted = {}
    for part, count in available.items():
        share = portion * count
        wanted[part] = min(max(1, int(share) if is_head else round(share)), count) if portion > 0 else 0
    total = sum(wanted.values())
    if at_most is None or total <= at_most:
        return wanted
    exact = {part: count * at_most / total for part, count in wanted.items()}
    result = {part: int(value) for part, value in exact.items()}
    by_remainder = sorted(exact, key=lambda part: (result[part] - exact[part], part))
    for part in by_remainder[: at_most - sum(result.values())]:
        result[part] += 1
    return result
