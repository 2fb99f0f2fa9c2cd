"""Scores, retention and its interval; batched answers against those of one sample at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.core.evaluate import EvaluateOptions, evaluate_checkpoints
from interlace_cli.data.batches import Batcher
from interlace_cli.demo import CHECKPOINT
from interlace_cli.domain.progress import Silent
from interlace_cli.evaluation.metrics import (
    is_exact_match,
    score_kinds,
    score_macro,
    score_retention,
)
from interlace_cli.evaluation.quality import compute_loss, generate_answers
from interlace_cli.evaluation.statistics import bootstrap_retention
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor


@pytest.mark.parametrize(
    ("prediction", "answer", "hit"),
    [
        ("Red ", "red", True),
        ("red.", "Red", True),
        ("red  circle", "red circle", True),
        ("reds", "red", False),
        ("", "0", False),
    ],
)
def test_exact_match(prediction: str, answer: str, hit: bool) -> None:
    assert is_exact_match(prediction, answer) is hit


def test_retention_is_the_mean_of_ratios_not_the_ratio_of_means() -> None:
    dense, other = {"a": 1.0, "b": 0.5, "c": 0.0}, {"a": 0.9, "b": 0.5, "c": 0.3}
    assert score_macro(dense) == 0.5
    assert score_retention(other, dense) == pytest.approx(95.0)
    assert score_retention(other, {"c": 0.0}) is None


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abc")), min_size=5, max_size=60),
    st.integers(0, 9),
)
def test_the_interval_holds_the_estimate_and_is_a_point_for_equals(
    rows: list[tuple[bool, bool, str]], seed: int
) -> None:
    correct, dense, kinds = (list(column) for column in zip(*rows, strict=True))
    if not any(dense):
        return
    estimate = score_retention(score_kinds(correct, kinds), score_kinds(dense, kinds))
    low, high = bootstrap_retention(np.array(correct), np.array(dense), kinds, seed, resamples=200)
    assert low <= high
    assert estimate is not None
    same = bootstrap_retention(np.array(dense), np.array(dense), kinds, seed, resamples=50)
    assert same == pytest.approx((100.0, 100.0))
    assert (low, high) == bootstrap_retention(np.array(correct), np.array(dense), kinds, seed, resamples=200)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    kinds = ["a"] * 100 + ["b"] * 100
    for trial in range(100):
        dense = rng.random(200) < 0.9
        correct = dense & (rng.random(200) < 0.8)
        low, high = bootstrap_retention(correct, dense, kinds, trial, resamples=300)
        hits += low <= 80 <= high
    assert 88 <= hits <= 100


def test_batched_answers_and_losses_equal_those_one_by_one(small_dataset: Path) -> None:
    samples = load_split(small_dataset, "heldout")[:12]
    model, batcher = load_model(CHECKPOINT), Batcher(load_processor(CHECKPOINT), small_dataset)
    together = generate_answers(model, batcher, samples, 8)
    assert together == [generate_answers(model, batcher, [sample], 8)[0] for sample in samples]
    loss, tokens = compute_loss(model, batcher, samples)
    single = [compute_loss(model, batcher, [sample]) for sample in samples]
    assert tokens == sum(count for _, count in single)
    assert loss == pytest.approx(sum(value * count for value, count in single) / tokens, rel=1e-3, abs=1e-4)


def test_the_dense_model_retains_itself(small_dataset: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(samples=22, repeats=1)
    pair = [("dense", "demo"), ("again", str(CHECKPOINT))]
    found = evaluate_checkpoints(pair, small_dataset, tmp_path / "eval.json", options, Silent())
    dense, again = found.results
    assert dense.retention is None
    assert again.retention == pytest.approx(100.0)
    assert again.retention_interval == pytest.approx((100.0, 100.0))
    assert (again.score, again.loss, again.layers) == (dense.score, dense.loss, dense.layers)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<tr>") == 3 + 1 + len(found.samples)
    assert "<td>again</td>" in page
    assert dense.speed is not None
    assert dense.speed.tokens_per_second > 0
    assert dense.speed.peak_memory_bytes is None or dense.speed.peak_memory_bytes >= 4 * dense.parameters
