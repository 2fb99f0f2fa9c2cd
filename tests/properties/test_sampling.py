"""Which rows are drawn: as many as asked, every row equally often over seeds, few row groups."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.data.filters import cut_turns, find_low_rating
from interlace_cli.data.sampling import CLUSTERS, HEAD, METHODS, UNIFORM, allot_samples, draw_rows
from interlace_cli.domain.dataset import Turn

groups = st.lists(st.integers(0, 60), min_size=1, max_size=30)


@given(groups, st.integers(0, 900), st.sampled_from(METHODS), st.integers(0, 99))
def test_as_many_rows_as_asked_each_once_and_inside_its_group(
    sizes: list[int], count: int, method: str, seed: int
) -> None:
    drawn = draw_rows(sizes, count, method, str(seed))
    assert sum(map(len, drawn.values())) == min(count, sum(sizes))
    assert list(drawn) == sorted(drawn)
    for group, rows in drawn.items():
        assert list(rows) == sorted(set(rows))
        assert rows, "a group without a row would be read for nothing"
        assert 0 <= rows[0] <= rows[-1] < sizes[group]
    assert draw_rows(sizes, count, method, str(seed)) == drawn


@given(groups, st.integers(0, 900))
def test_head_is_the_first_rows(sizes: list[int], count: int) -> None:
    line = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
    drawn = draw_rows(sizes, count, HEAD, "any")
    assert [(group, row) for group, rows in drawn.items() for row in rows] == line[:count]


@pytest.mark.parametrize("method", [CLUSTERS, UNIFORM])
@pytest.mark.parametrize(
    ("sizes", "count"), [([10] * 20, 30), ([1, 50, 3, 100, 7, 39], 40), ([90, 10], 17), ([1, 16], 16)]
)
def test_over_seeds_every_row_is_drawn_equally_often(method: str, sizes: list[int], count: int) -> None:
    """Chi-square over rows would not hold for clusters, whose rows come together: so the deviation of each row, and of
    each group, from what is expected, in standard errors of a share."""
    trials, total = 3000, sum(sizes)
    hits: Counter[tuple[int, int]] = Counter()
    for seed in range(trials):
        for group, rows in draw_rows(sizes, count, method, str(seed)).items():
            hits.update((group, row) for row in rows)
    share = count / total
    error = (share * (1 - share) / trials) ** 0.5
    worst = max(abs(hits[group, row] / trials - share) for group, size in enumerate(sizes) for row in range(size))
    assert worst < 4.5 * error
    for group, size in enumerate(sizes):
        mean = sum(hits[group, row] for row in range(size)) / size / trials
        assert abs(mean - share) < 4.5 * error


def test_clusters_read_few_groups_and_uniform_reads_most() -> None:
    sizes = [100] * 32
    clusters = [len(draw_rows(sizes, 32, CLUSTERS, str(seed))) for seed in range(50)]
    uniform = [len(draw_rows(sizes, 32, UNIFORM, str(seed))) for seed in range(50)]
    assert max(clusters) <= 4
    assert min(uniform) >= 15
    many = draw_rows([100] * 3200, 3200, CLUSTERS, "0")
    assert len(many) <= 130, "a large part is read in runs of half a group"


def test_rows_inside_a_group_are_drawn_too_and_not_its_neighbours() -> None:
    (rows,) = (rows for rows in draw_rows([1000], 16, CLUSTERS, "0").values())
    gaps = [b - a for a, b in pairwise(rows)]
    assert sum(gap > 1 for gap in gaps) > 12


def test_one_seed_draws_other_rows_than_another_and_other_parts_differ() -> None:
    draws = {str(draw_rows([10] * 9, 12, CLUSTERS, seed)) for seed in ("0/a", "1/a", "0/b")}
    assert len(draws) == 3


counts = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 5000), min_size=1)


@given(counts, st.floats(0, 1), st.none() | st.integers(1, 3000), st.booleans())
def test_each_part_gets_its_portion_and_all_together_no_more_than_allowed(
    available: dict[str, int], portion: float, most: int | None, is_head: bool
) -> None:
    wanted = allot_samples(available, portion, most, is_head)
    assert wanted.keys() == available.keys()
    assert all(0 <= wanted[part] <= available[part] for part in available)
    free = allot_samples(available, portion, None, is_head)
    if most is None or sum(free.values()) <= most:
        assert wanted == free
        assert portion == 0 or min(wanted.values()) >= 1, "no subset is left out"
    else:
        assert sum(wanted.values()) == most
        scale = most / sum(free.values())
        assert all(abs(wanted[part] - free[part] * scale) < 1 for part in available)


def test_the_released_counts_give_the_released_number_of_samples() -> None:
    """`max(1, int(count * 0.01))` of each subset (dataset_prep.py)."""
    from interlace_cli.data.known import load_known_counts

    known = load_known_counts("finevision")
    assert (len(known), sum(known.values()), list(known)[-1]) == (185, 24_243_243, "yesbut")
    wanted = allot_samples(known, 0.01, None, is_head=True)
    assert wanted == {part: max(1, int(count * 0.01)) for part, count in known.items()}


speakers = st.lists(st.sampled_from(["human", "gpt", "system"]), max_size=20)


@given(speakers, st.integers(2, 9))
def test_turns_are_cut_as_the_release_cuts_them(names: list[str], most: int) -> None:
    turns = [Turn.model_validate({"from": name, "value": str(i)}) for i, name in enumerate(names)]
    kept: list[Turn] = []
    for turn in turns:
        kept.append(turn)
        if turn.speaker == "gpt" and len(kept) >= most:
            break
    assert list(cut_turns(turns, most)) == kept


def test_a_rating_that_is_missing_is_not_passed() -> None:
    row = {"relevance_min": 3, "formatting_min": None}
    assert find_low_rating(row, [("relevance", 3)]) is None
    assert find_low_rating(row, [("relevance", 4)]) == "relevance below 4"
    assert find_low_rating(row, [("relevance", 1), ("formatting", 1)]) == "no rating of formatting"
