"""Each metric against a published implementation: `golden/metrics.json` holds what those gave for inputs drawn at
random (lmms-eval 0.7.3: EvalAI's answer processor, Qwen-VL's relaxed correctness and ANLS, MMMU's choice parser where
it does not guess, POPE's F1; pycocoevalcap 1.2: CIDEr-D)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import DatasetError
from interlace_cli.evaluation.aggregation import Points, score_kinds
from interlace_cli.evaluation.metrics import find_metrics, score_answers
from interlace_cli.evaluation.metrics.anls import compute_anls
from interlace_cli.evaluation.metrics.cider import compute_cider
from interlace_cli.evaluation.metrics.multiple_choice import find_choice
from interlace_cli.evaluation.metrics.relaxed_accuracy import is_relaxed_match
from interlace_cli.evaluation.metrics.vqa_accuracy import compute_vqa_accuracy, normalize_answer
from interlace_cli.evaluation.metrics.yes_no import find_yes_no
from interlace_cli.evaluation.retrieval import find_ranks
from interlace_cli.evaluation.statistics import bootstrap_retention, resample_retentions, to_array

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/metrics.json").read_text())


def sample(metric: str, *answers: str, choices: tuple[str, ...] = (), kind: str = "all") -> Sample:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": answers[0]}]
    fields = {"id": "1", "image": [], "conversations": turns, "source": "s", "kind": kind, "metric": metric}
    return Sample.model_validate({**fields, "answers": list(answers), "choices": list(choices)})


def test_vqa_answers_are_normalized_as_evalai_does() -> None:
    assert [[text, normalize_answer(text)] for text, _ in GOLDEN["vqa_normalized"]] == GOLDEN["vqa_normalized"]


def test_vqa_accuracy_over_ten_answers() -> None:
    for prediction, answers, score in GOLDEN["vqa_accuracy"]:
        assert compute_vqa_accuracy(prediction, answers) == pytest.approx(score)
    assert compute_vqa_accuracy("nokia", ["nokia"] * 3 + ["other"] * 7) == pytest.approx(0.9)


def test_relaxed_accuracy() -> None:
    for prediction, answer, is_right in GOLDEN["relaxed"]:
        assert is_relaxed_match(prediction, answer) is is_right, (prediction, answer)


def test_anls() -> None:
    for prediction, answers, score in GOLDEN["anls"]:
        assert compute_anls(prediction, answers) == pytest.approx(score, abs=1e-8)


def test_cider() -> None:
    for captions, references, scores in GOLDEN["cider"]:
        assert compute_cider(captions, references) == pytest.approx(scores, abs=1e-8)
    assert max(score for _, _, scores in GOLDEN["cider"] for score in scores) > 1


def test_choices_are_found_as_mmmu_finds_them() -> None:
    choices = ["cat", "dog", "blue whale", "bird"]
    for text, letter in GOLDEN["choices"]:
        assert find_choice(text, choices) == ord(letter) - 65, text


@pytest.mark.parametrize(
    ("text", "place"),
    [("xyz", None), ("", None), ("dog", 1), ("D) dog and cat", 3), ("a cat or a dog", None), ("b", 1), ("E", None)],
)
def test_no_choice_is_guessed(text: str, place: int | None) -> None:
    assert find_choice(text, ["cat", "dog", "fish", "bird"]) == place


def test_pope() -> None:
    for answers, truth, accuracy, f1 in GOLDEN["pope"]:
        for metric, wanted in (("yes_no_accuracy", accuracy), ("yes_no_f1", f1)):
            samples = [sample(metric, right) for right in truth]
            scored = score_answers(answers, samples)
            assert score_kinds(scored, ["all"] * len(samples))["all"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("text", "said"),
    [("Yes, there is.", "yes"), ("No", "no"), ("There is no dog", "no"), ("maybe", None), ("not yes nor no", None)],
)
def test_yes_and_no_are_words(text: str, said: str | None) -> None:
    assert find_yes_no(text) == said


@pytest.mark.parametrize(
    ("metric", "answer", "one", "points"),
    [
        ("exact_match", "Rot.", sample("exact_match", "red", "rot"), 1.0),
        ("multiple_choice", "B", sample("multiple_choice", "B) dog", choices=("cat", "dog")), 1.0),
        ("multiple_choice", "cat", sample("multiple_choice", "B) dog", choices=("cat", "dog")), 0.0),
        ("relaxed_accuracy", "10.4.", sample("relaxed_accuracy", "10"), 1.0),
        ("anls", "hallo", sample("anls", "hello", "bye"), 0.8),
        ("vqa_accuracy", "two", sample("vqa_accuracy", *["2"] * 10), 1.0),
    ],
)
def test_a_sample_is_scored_by_its_own_metric(metric: str, answer: str, one: Sample, points: float) -> None:
    assert score_answers([answer], [one]).pairs() == [(pytest.approx(points), 1.0)]


def test_kinds_have_metrics_of_their_own_and_no_two() -> None:
    mixed = [sample("anls", "hello", kind="a"), sample("exact_match", "hello", kind="b")]
    assert find_metrics(mixed) == {"a": "anls", "b": "exact_match"}
    assert score_answers(["hallo", "hallo"], mixed).points == [pytest.approx(0.8), 0.0]
    with pytest.raises(DatasetError, match="has samples of two metrics, anls and exact_match"):
        score_answers(["x", "x"], [sample("anls", "x"), sample("exact_match", "x")])
    with pytest.raises(DatasetError, match=r"ask for a metric bleu\. There are exact_match"):
        score_answers(["x"], [sample("bleu", "x")])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=40), st.integers(0, 9))
def test_f1_over_resamples_is_f1_and_not_a_mean(rows: list[tuple[bool, bool]], seed: int) -> None:
    samples = [sample("yes_no_f1", "yes" if right else "no") for right, _ in rows]
    scored = score_answers(["yes" if said else "no" for _, said in rows], samples)
    perfect = score_answers(["yes" if right else "no" for right, _ in rows], samples)
    hit, wrong = sum(r and s for r, s in rows), sum(r != s for r, s in rows)
    assert score_kinds(scored, ["k"] * len(rows))["k"] == pytest.approx(2 * hit / max(2 * hit + wrong, 1))
    if any(right for right, _ in rows):
        draws = resample_retentions([to_array(scored)[None]], to_array(perfect), ["k"] * len(rows), seed, 50)
        assert 0 <= draws.min() <= draws.max() <= 100 + 1e-9


def test_the_interval_of_f1_is_about_f1() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.random(500) < 0.2, rng.random(500) < 0.6
    samples = [sample("yes_no_f1", "yes" if right else "no") for right in truth]
    scored, perfect = (score_answers(["yes" if one else "no" for one in given], samples) for given in (said, truth))
    f1 = 2 * (truth & said).sum() / (truth.sum() + said.sum())
    low, high = bootstrap_retention(to_array(scored), to_array(perfect), ["k"] * 500, 0)
    assert low < 100 * f1 < high
    assert high - low < 25


def test_weights_of_one_change_nothing() -> None:
    rng = np.random.default_rng(0)
    dense, other, kinds = rng.random(60) < 0.8, rng.random(60) < 0.6, ["a"] * 30 + ["b"] * 30
    plain = bootstrap_retention(other, dense, kinds, 0, resamples=100)
    assert bootstrap_retention(to_array(Points(other)), to_array(Points(dense)), kinds, 0, resamples=100) == plain


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_ranks_are_those_of_a_sort(queries: int, each: int, seed: int) -> None:
    """Recall at K as it is defined: is one of a query's own among the K most similar?"""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(queries, queries * each, generator=generator)
    own = torch.arange(queries * each)[None] // each == torch.arange(queries)[:, None]
    ranks = find_ranks(scores, own)
    for query in range(queries):
        order = scores[query].argsort(descending=True).tolist()
        assert ranks[query] == next(place for place, candidate in enumerate(order) if own[query, candidate])
