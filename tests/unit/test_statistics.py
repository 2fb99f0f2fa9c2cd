"""The bootstrap: its percentiles by known answers, and its draws against a plain implementation."""

from __future__ import annotations

import statistics
from math import comb

import numpy as np
import pytest

from interlace_cli.evaluation.statistics import (
    bootstrap_retention,
    find_deviation,
    find_interval,
    resample_retentions,
)


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_the_interval_is_from_the_2_5th_to_the_97_5th_percentile(order: str) -> None:
    """Of 0, 1, ..., 1000, the q-th percentile is 10 q."""
    values = np.arange(1001.0)
    if order == "descending":
        values = values[::-1]
    if order == "shuffled":
        values = np.random.default_rng(0).permutation(values)
    assert find_interval(values) == (25.0, 975.0)


def test_the_interval_interpolates_between_values() -> None:
    """Of 41 values the 2.5th percentile is the second; of 2 values it is 2.5% of the way."""
    assert find_interval(np.arange(41.0)) == pytest.approx((1.0, 39.0))
    assert find_interval(np.array([0.0, 100.0])) == pytest.approx((2.5, 97.5))
    assert find_interval(np.array([7.0])) == (7.0, 7.0)


def binomial_quantile(share: float, trials: int, probability: float) -> int:
    """The least k with P(X <= k) >= share, for X binomial."""
    total = 0.0
    for k in range(trials + 1):
        total += comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        if total >= share:
            return k
    raise AssertionError(share)


def test_the_interval_of_one_kind_is_that_of_the_binomial_distribution() -> None:
    """If the dense model is always right, the right answers in a resample of 40 are Binomial(40, 0.7)."""
    dense, correct = np.ones(40), np.array([1.0] * 28 + [0.0] * 12)
    exact = tuple(100 * binomial_quantile(share, 40, 0.7) / 40 for share in (0.025, 0.975))
    assert exact == (55.0, 82.5)
    # 2.5 is one answer of 40. Percentiles 5 and 95 would be 57.5 and 80.
    found = bootstrap_retention(correct, dense, ["k"] * 40, seed=0, resamples=40_000)
    assert found == pytest.approx(exact)


def test_two_samples_have_the_three_retentions_that_they_can_have() -> None:
    """One of two right: 0, 50 and 100 percent with probability 1/4, 1/2, 1/4."""
    draws = resample_retentions([np.array([[1.0, 0.0]])], np.ones(2), ["k", "k"], seed=0, resamples=20_000)[:, 0]
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0.0, 50.0, 100.0]
    assert counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)
    assert find_interval(draws) == (0.0, 100.0)


def plain_percentile(values: list[float], share: float) -> float:
    """Linear between the two nearest order statistics (Hyndman and Fan 1996, definition 7)."""
    ordered, position = sorted(values), share * (len(values) - 1)
    low = int(position)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def plain_retentions(
    row: list[list[tuple[float, float]]],
    dense: list[tuple[float, float]],
    kinds: list[str],
    seed: int,
    resamples: int,
) -> list[float]:
    """The definition in loops, one resample at a time, with the same random numbers."""
    seed_draws = np.random.default_rng([seed, 1]).integers(len(row), size=(resamples, len(row))).tolist()
    rng = np.random.default_rng(seed)
    ratios: list[list[float]] = [[] for _ in range(resamples)]

    def score(sample_scores: list[tuple[float, float]], drawn: list[int]) -> float:
        weight = sum(sample_scores[i][1] for i in drawn)
        return sum(sample_scores[i][0] for i in drawn) / weight if weight else 0.0

    for kind in sorted(set(kinds)):
        members = [index for index, name in enumerate(kinds) if name == kind]
        if not any(dense[i][0] for i in members):
            continue
        sample_draws = rng.integers(len(members), size=(resamples, len(members))).tolist()
        for resample in range(resamples):
            drawn = [members[i] for i in sample_draws[resample]]
            below = score(dense, drawn)
            if below == 0:
                whole = statistics.mean(score(one, members) for one in row)
                ratios[resample].append(whole / score(dense, members))
                continue
            above = statistics.mean(score(row[s], drawn) for s in seed_draws[resample])
            ratios[resample].append(above / below)
    return [100 * statistics.mean(one) for one in ratios]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_draws_and_percentiles_equal_those_of_plain_loops(seed: int) -> None:
    """Two healing seeds, weights as in F1, a rare kind, and a kind without a dense score."""
    rng = np.random.default_rng(100 + seed)
    kinds = ["a"] * 12 + ["b"] * 7 + ["rare"] * 5 + ["none"] * 4
    weights = rng.integers(0, 3, size=len(kinds)).astype(float)
    weights[12:] = 1.0
    dense = np.stack([weights * (rng.random(len(kinds)) < 0.8), weights], axis=-1)
    dense[19:24, 0], dense[24:, 0] = [1, 0, 0, 0, 0], 0
    row = np.stack(
        [np.stack([weights * (rng.random(len(kinds)) < 0.6), weights], axis=-1) for _ in range(2)],
    )
    own = resample_retentions([dense[None]], dense, kinds, seed, resamples=300)[:, 0]
    np.testing.assert_allclose(own, 100.0)
    alone = resample_retentions([row], dense, kinds, seed, resamples=300)[:, 0]
    plain = plain_retentions(
        [[(p, w) for p, w in one] for one in row.tolist()], [(p, w) for p, w in dense.tolist()], kinds, seed, 300
    )
    np.testing.assert_allclose(alone, plain)
    exact = plain_percentile(plain, 0.025), plain_percentile(plain, 0.975)
    assert find_interval(alone) == pytest.approx(exact)
    assert exact[0] < plain_percentile(plain, 0.05) < plain_percentile(plain, 0.95) < exact[1]


def test_the_deviation_divides_by_n_minus_1() -> None:
    assert find_deviation([1.0, 3.0]) == pytest.approx(2**0.5)
    assert find_deviation([5.0]) is None
    assert find_deviation([]) is None
