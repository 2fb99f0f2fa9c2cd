"""Benchmark scores of several checkpoints -> table rows with retention. Pure.

Computed as in the main results table of INTERLACE (arXiv 2511.19676): the score of a category is the mean over its
benchmarks, the average is the mean over all benchmarks. The retention of a benchmark is score / dense score in percent;
`relative` is the mean of these over benchmarks. A benchmark that any checkpoint lacks is left out of every mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from interlace_cli.domain.evaluation import BenchmarkRow


@dataclass(frozen=True)
class Found:
    """One checkpoint's results from a harness.

    `scores` and `errors` (standard errors) are benchmark -> percent; `not_run` is benchmark -> the reason it has no
    score.
    """

    scores: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


def build_rows(
    named: Sequence[tuple[str, str | None, Found]], categories: Mapping[str, Sequence[str]]
) -> list[BenchmarkRow]:
    """One row per `(name, fingerprint, found)`, in the same order. Retention is relative to the first.

    `categories` is category -> its benchmarks.
    """
    order = [benchmark for benchmarks in categories.values() for benchmark in benchmarks]
    shared = [name for name in order if all(name in found.scores for _, _, found in named)]
    base = named[0][2].scores
    rows = []
    for index, (name, fingerprint, found) in enumerate(named):
        ratios = {key: 100 * found.scores[key] / base[key] for key in shared if index and base[key] > 0}
        rows.append(
            BenchmarkRow(
                name=name,
                fingerprint=fingerprint,
                scores={key: found.scores[key] for key in order if key in found.scores},
                errors={key: found.errors[key] for key in order if key in found.errors},
                categories=_mean_by_category(found.scores, categories, shared),
                average=_mean([found.scores[key] for key in shared]),
                retention=ratios,
                category_retention=_mean_by_category(ratios, categories, list(ratios)),
                relative=_mean(list(ratios.values())),
            )
        )
    return rows


def _mean_by_category(
    values: Mapping[str, float], categories: Mapping[str, Sequence[str]], counted: Sequence[str]
) -> dict[str, float]:
    """Category -> mean of `values` over those of its benchmarks that are in `counted`; without any, left out."""
    means = {category: _mean([values[n] for n in names if n in counted]) for category, names in categories.items()}
    return {category: mean for category, mean in means.items() if mean is not None}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
