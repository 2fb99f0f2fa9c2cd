"""Each metric against the published function, on some hundred everyday replies (`tests/metric_replies.py`). The
published verdicts are in `golden/published_metrics.json`; where lmms-eval is installed, they are made again."""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from typing import Any

import pytest
from metric_replies import CHOICES, build_answers, build_captions, build_choices, build_yes_no
from published_metrics import GOLDEN, PUBLISHED

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import DatasetError
from interlace_cli.evaluation.metrics import METRICS, check_samples, score_answers
from interlace_cli.evaluation.metrics.multiple_choice import find_choice
from interlace_cli.evaluation.metrics.yes_no import find_yes_no
from interlace_cli.evaluation.thoughts import find_open_mark, is_thought_mark, strip_thoughts

VERDICTS: dict[str, list[Any]] = json.loads(GOLDEN.read_text())["verdicts"]
MAY_DIFFER = {
    # RealWorldQA leaves a space before the full stop.
    "exact_match": {"a full stop at the end", "spaces inside", "thoughts"},
    "relaxed_accuracy": {"a full stop at the end", "spaces at the ends", "thoughts"},
    # Its length is that of the text with its spaces.
    "anls": {"spaces inside", "thoughts"},
    "vqa_accuracy": {"thoughts"},
}
"""Metric -> why a verdict of ours may be another one."""


def build_sample(metric: str, answers: list[str]) -> Sample:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": answers[0]}]
    fields = {"id": "1", "image": [], "conversations": turns, "source": "s", "kind": "all", "metric": metric}
    return Sample.model_validate({**fields, "answers": answers})


def score(metric: str, items: list[dict[str, Any]], answers: list[list[str]]) -> list[float]:
    samples = [build_sample(metric, right) for right in answers]
    return [value for value, _ in score_answers([item["reply"] for item in items], samples).pairs()]


def test_every_metric_is_compared() -> None:
    assert METRICS.keys() - VERDICTS.keys() == {"yes_no_f1"}, "made of the same words as the accuracy"
    assert all(len(verdicts) >= 50 for verdicts in VERDICTS.values())


def test_choices_are_those_that_a_reply_names_and_mmmu_finds() -> None:
    """Ours are right everywhere; MMMU's parser is, unless there is a reason, which some reply shows."""
    shown: dict[str, bool] = defaultdict(bool)
    items = build_choices()
    assert len(items) == len(VERDICTS["multiple_choice"])
    for item, published in zip(items, VERDICTS["multiple_choice"], strict=True):
        assert find_choice(item["reply"], item["choices"]) == item["right"], item
        if not item["why"]:
            assert published == item["right"], item
        elif published != item["right"]:
            shown[item["why"]] = True
    assert {item["why"] for item in items if item["why"]} == set(shown)


@pytest.mark.parametrize("metric", MAY_DIFFER)
def test_answers_are_scored_as_published(metric: str) -> None:
    """By the published function on the bare answer, where the reply is the answer and something that says nothing."""
    items = build_answers()
    several = metric in ("anls", "vqa_accuracy")
    found = score(metric, items, [item["answers"] if several else [item["answer"]] for item in items])
    published = VERDICTS[metric]
    bare = {item["answer"]: published[i] for i, item in enumerate(items) if item["reply"] == item["answer"]}
    shown = set()
    for item, own, other in zip(items, found, published, strict=True):
        if own == pytest.approx(other, abs=1e-8):
            continue
        assert item["why"] in MAY_DIFFER[metric], (item, own, other)
        if not several:
            is_empty = item["reply"].startswith("<think>") and "</think>" not in item["reply"]
            assert own == (0 if is_empty else bare[item["answer"]]), item
        shown.add(item["why"])
    assert shown == MAY_DIFFER[metric]
    assert 0 < sum(found) < len(found)


def test_yes_and_no_are_said_as_in_pope_or_with_more_words() -> None:
    items, differ = build_yes_no(), 0
    found = score("yes_no_accuracy", items, [[item["answer"]] for item in items])
    for item, own, published in zip(items, found, VERDICTS["yes_no_accuracy"], strict=True):
        assert own == (item["said"] == item["answer"]), item
        if own != published:
            differ += 1
            assert item["reply"].strip().lower() not in ("yes", "no"), item
    assert differ


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("There is not a dog.", "no"),
        ("There isn’t one.", "no"),
        ("There are two dogs here", "yes"),
        ("I am not sure", None),
        ("A dog.", None),
    ],
)
def test_there_is_says_yes(text: str, said: str | None) -> None:
    assert find_yes_no(text) == said


def test_captions_are_scored_as_pycocoevalcap_does() -> None:
    items = build_captions()
    found = score("cider", items, [item["references"] for item in items])
    assert found == pytest.approx(VERDICTS["cider"], abs=1e-8)
    assert max(found) > 1


@pytest.mark.harness
@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed")
@pytest.mark.parametrize("metric", PUBLISHED)
def test_the_published_functions_say_so_today(metric: str) -> None:
    from interlace_cli.io.models import import_transformers

    # lmms-eval imports torchvision, whose build may not fit torch's.
    import_transformers()
    assert PUBLISHED[metric]() == VERDICTS[metric]


# --- right answers, thoughts, and letters


@pytest.mark.parametrize(
    "text", ["B", "B) not enough", "(b) Not enough.", "not enough", "B. not enough", "B: not enough"]
)
def test_a_right_answer_is_known_with_its_letter(text: str) -> None:
    assert find_choice(text, ["A plan", "not enough", "answer C", "enough"]) == 1


def test_letters_in_the_texts_of_choices_are_texts() -> None:
    choices = ["vitamin B", "vitamin A", "none"]
    assert find_choice("I am sure that it is vitamin A", choices) == 1
    assert find_choice("It is B, vitamin A", choices) == 1
    assert find_choice("It is A", choices) == 0


@pytest.mark.parametrize(
    ("metric", "answer", "choices", "why"),
    [
        ("multiple_choice", "a cat", [], "there are no choices"),
        ("multiple_choice", "a cat", ["dog", "bird"], "the right answer 'a cat' is none of the choices"),
        ("yes_no_f1", "maybe", [], "the right answer 'maybe' is neither yes nor no"),
        ("bleu", "x", [], r"ask for a metric bleu\. There are exact_match"),
    ],
)
def test_samples_that_nothing_scores_are_said_before_a_model_answers(
    metric: str, answer: str, choices: list[str], why: str
) -> None:
    good = build_sample("exact_match", ["x"])
    check_samples([good])
    bad = build_sample(metric, [answer]).model_copy(update={"choices": choices, "kind": "other"})
    with pytest.raises(DatasetError, match=why):
        check_samples([good, bad])


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("<think>B or A?</think> A", "A"),
        ("B or A?\n</think>\n\nA", "A"),
        ("<think>B or", ""),
        ("<think></think>A<think>or B", "A"),
        ("<think>x</think>y</think>A", "A"),
        ("[THINK]B[/THINK]A", "A"),
        ("◁think▷B◁/think▷A", "A"),
        ("<|START_THINKING|>B<|END_THINKING|>A", "A"),
        ("<seed:think>B</seed:think>A", "A"),
        ("<Thinking>B</Thinking> A ", "A"),
        ("I think it is A", "I think it is A"),
        ("<b>A</b> [think] thinking>", "<b>A</b> [think] thinking>"),
        ("", ""),
    ],
)
def test_a_reply_without_its_thoughts(reply: str, rest: str) -> None:
    assert strip_thoughts(reply) == rest
    assert strip_thoughts(strip_thoughts(reply)) == rest


def test_a_prompt_that_opens_thoughts() -> None:
    assert find_open_mark("<|im_start|>assistant\n<think>\n") == "<think>"
    assert find_open_mark("<think>\n\n</think>\n\n") == ""
    assert find_open_mark("What is <think> in a prompt?") == ""
    assert [is_thought_mark(token) for token in ("<think>", "</think>", "<|im_end|>", "think")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_thoughts_are_taken_off_for_every_metric(metric: str) -> None:
    right = "yes" if metric.startswith("yes_no") else "2 red cats run"
    choices = ["a", right] if metric == "multiple_choice" else []
    one = build_sample(metric, [right] * 10).model_copy(update={"choices": choices})
    other = build_sample(metric, ["no" if right == "yes" else "one blue dog"] * 10).model_copy(
        update={"choices": choices}
    )
    thought = f"Is it no, or one blue dog? Not {right}.</think>\n{right}"
    bare = score_answers([right, right], [one, other]).pairs()
    assert score_answers([thought, f"<think>{thought}"], [one, other]).pairs() == bare
    assert bare[0][0] > 0
    assert score_answers([f"<think>{right}"], [one]).points[0] == 0
    learnt = one.model_copy(update={"answers": [f"<think>so</think>{right}"] * 10})
    assert score_answers([right, right], [learnt, other]).pairs() == bare


def test_an_accent_is_one_however_it_is_written() -> None:
    assert score_answers(["Cafe\u0301"], [build_sample("exact_match", ["caf\u00e9"])]).points == [1.0]


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Option A: red car - no. Option B: blue car - yes.", 1),
        ("A. red car (incorrect)\nB. blue car (correct)", 1),
        ("A) red car ❌\nB) blue car ✅", 1),
        ("A. red car is wrong. B. blue car is the right one.", 1),
        ("A. red car\nB. blue car\nYes, that is a car. The answer is A.", 0),
        ("A: red car. B: blue car. Correct answer: A", 0),
        ("A. red car - yes.\nB. blue car - yes.", None),
        ("A. red car\nB. blue car", None),
    ],
)
def test_a_list_of_the_choices_names_the_one_that_it_calls_right(reply: str, right: int | None) -> None:
    assert find_choice(reply, CHOICES[0]) == right
