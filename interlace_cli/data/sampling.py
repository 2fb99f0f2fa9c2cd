"""Which rows of a part of a source are taken. Pure: sizes of row groups in, row numbers out.

A Parquet file is read by whole row groups, of about 10 MB where they hold images; so a choice of rows is also a choice
of how much has to be read. What each way cost, on 3200 rows of which 32 were taken, is in the README.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

CLUSTERS, UNIFORM, HEAD = "clusters", "uniform", "head"
METHODS = (CLUSTERS, UNIFORM, HEAD)
FEWEST_ROWS, MOST_RUNS = 16, 64
"""A run has at least so many rows, and a part is drawn in at most so many runs."""


def draw_rows(sizes: Sequence[int], count: int, method: str, seed: str) -> dict[int, list[int]]:
    """Row group -> the rows taken from it, ascending; `count` rows in all, or all that there are.

    `sizes` are the rows of each group. `head`: the first rows. `uniform`: every set of `count` rows is equally likely.
    `clusters`: every row is equally likely, but rows come in runs from few groups.
    """
    total = sum(sizes)
    count = min(count, total)
    rng = random.Random(f"rows/{seed}")
    if method == HEAD:
        places: Sequence[int] = range(count)
    elif method == UNIFORM or count == total:
        places = rng.sample(range(total), count)
    else:
        return _draw_clusters(sizes, count, rng, seed)
    return _locate(sizes, places)


def _draw_clusters(sizes: Sequence[int], count: int, rng: random.Random, seed: str) -> dict[int, list[int]]:
    """Groups are put in a random order, rows within each in another; that line, bent to a circle that begins at a
    random place, is cut into runs of equal length, of which some are taken. Turning the circle makes all rows alike:
    also those in small groups, and in the shorter run at the end."""
    order = rng.sample(range(len(sizes)), len(sizes))
    total, turn = sum(sizes), rng.randrange(sum(sizes))
    length = max(FEWEST_ROWS, -(-count // MOST_RUNS))
    runs = rng.sample(range(-(-total // length)), -(-total // length))
    places: list[int] = []
    for run in runs:
        if len(places) >= count:
            break
        places += range(run * length, min((run + 1) * length, total))
    places = rng.sample(places, count)
    found = _locate([sizes[group] for group in order], [(place + turn) % total for place in places])
    result = {}
    for place, rows in found.items():
        group = order[place]
        shuffled = random.Random(f"group/{seed}/{group}").sample(range(sizes[group]), sizes[group])
        result[group] = sorted(shuffled[row] for row in rows)
    return dict(sorted(result.items()))


def _locate(sizes: Sequence[int], places: Sequence[int]) -> dict[int, list[int]]:
    """Places on the line of all rows -> group -> rows."""
    ends = list(accumulate(sizes))
    result: dict[int, list[int]] = {}
    for place in sorted(places):
        group = bisect_right(ends, place)
        result.setdefault(group, []).append(place - ends[group] + sizes[group])
    return result


def allot_samples(available: dict[str, int], portion: float, at_most: int | None, is_head: bool) -> dict[str, int]:
    """Part -> how many of its records are wanted: `portion` of each, one at least (rounded down for `head`, as the
    released script does), and `at_most` in all, shared out in proportion by largest remainder."""
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
