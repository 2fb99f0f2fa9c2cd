"""Scores of several checkpoints -> rows with retention, benchmark by benchmark and by category. Pure.

As in the paper's table: a category is the mean of its benchmarks, the average is over benchmarks; what a benchmark
keeps is the ratio of its scores, and `relative` the mean of these. A benchmark that one checkpoint lacks counts for
none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from interlace_cli.domain.evaluation import BenchmarkRow


@dataclass(frozen=True)
class Found:
    """What a harness found of one checkpoint, in percent: scores and standard errors by benchmark, and what was not
    run, with the reason."""

    scores: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


def build_rows(
    named: Sequence[tuple[str, str | None, Found]], categories: Mapping[str, Sequence[str]]
) -> list[BenchmarkRow]:
    """A row for each `(name, fingerprint, found)`; the first is what the others are compared with."""
    order = [benchmark for benchmarks in categories.values() for benchmark in benchmarks]
    shared = [name for name in order if all(name in found.scores for _, _, found in named)]
    base = named[0][2].scores
    rows = []
    for place, (name, fingerprint, found) in enumerate(named):
        ratios = {key: 100 * found.scores[key] / base[key] for key in shared if place and base[key] > 0}
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
    means = {category: _mean([values[n] for n in names if n in counted]) for category, names in categories.items()}
    return {category: mean for category, mean in means.items() if mean is not None}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
