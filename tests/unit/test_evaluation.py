"""Scores, retention and its interval; batched answers against those of one sample at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import save_clip

from interlace_cli.core.evaluate import evaluate
from interlace_cli.core.tasks import load_tasks, read_specs
from interlace_cli.data.batches import Batcher
from interlace_cli.data.labels import keep_label_positions
from interlace_cli.demo import CHECKPOINT
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import UsageError
from interlace_cli.evaluation.aggregation import Points, score_kinds, score_macro, score_retention
from interlace_cli.evaluation.generation import Generator
from interlace_cli.evaluation.metrics.exact_match import is_exact_match
from interlace_cli.evaluation.quality import compute_loss
from interlace_cli.evaluation.statistics import bootstrap_retention
from interlace_cli.io.datasets import load_split, open_reader
from interlace_cli.io.models import load_model, load_processor
from interlace_cli.options import EvaluateOptions


def compare(folder: Path, dataset: Path, *checkpoints: Path | str, **options: Any) -> Evaluation:
    """`interlace eval CHECKPOINTS --dataset DATASET` in a workspace."""
    given = tuple(map(str, checkpoints))
    return evaluate(EvaluateOptions(checkpoints=given, dataset=dataset, workspace=folder, **options), Silent())


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
    estimate = score_retention(score_kinds(Points(correct), kinds), score_kinds(Points(dense), kinds))
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

    def answer(asked: list[Sample]) -> list[str]:
        return [reply.text for reply in Generator(model, batcher).reply(batcher.build_prompts(asked), 8)]

    def measure(asked: list[Sample]) -> tuple[float, int]:
        return compute_loss(model, keep_label_positions(batcher.build_conversations(asked)))

    assert answer(samples) == [answer([sample])[0] for sample in samples]
    loss, tokens = measure(samples)
    single = [measure([sample]) for sample in samples]
    assert tokens == sum(count for _, count in single)
    assert loss == pytest.approx(sum(value * count for value, count in single) / tokens, rel=1e-3, abs=1e-4)


def test_the_dense_model_retains_itself(small_dataset: Path, tmp_path: Path) -> None:
    found = compare(tmp_path, small_dataset, "demo", CHECKPOINT, samples=22, repeats=1)
    dense, again = found.results
    assert (dense.name, again.name) == ("demo", CHECKPOINT.name)
    assert dense.retention is None
    assert again.retention == pytest.approx(100.0)
    assert again.retention_interval == pytest.approx((100.0, 100.0))
    assert (again.score, again.loss, again.layers) == (dense.score, dense.loss, dense.layers)
    assert sum(found.samples.values()) == 22
    assert set(found.metrics.values()) == {"exact_match"}
    assert dense.speed is not None
    assert dense.speed.tokens_per_second > 0
    assert dense.speed.peak_memory_bytes is None or dense.speed.peak_memory_bytes >= 4 * dense.parameters


CHARTS = """
tasks:
  - {name: numbers, source: numbers.jsonl, metric: relaxed_accuracy, category: Charts, suffix: ""}
  - {name: letters, source: letters.jsonl, samples: 6, max_new_tokens: 2}
"""


def write_tasks(folder: Path, dataset: Path) -> Path:
    """Two local tasks of the demo's own pictures; numbers may be 5% off, letters are of two kinds."""
    reader = open_reader(dataset)
    for name, kinds in {"numbers": ("bar_value", "total"), "letters": ("color_at", "shape_at")}.items():
        lines = []
        for number, sample in enumerate(s for s in load_split(dataset, "train") if s.kind in kinds):
            (folder / f"{name}{number}.png").write_bytes(reader.load_image(sample.image[0]))
            talk = [turn.model_dump(by_alias=True) for turn in sample.conversations]
            line = {"image": f"{name}{number}.png", "conversations": talk, "kind": sample.kind}
            lines.append(json.dumps(line if name == "letters" else {**line, "kind": "all"}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines[:12]))
    (folder / "tasks.yaml").write_text(CHARTS)
    return folder / "tasks.yaml"


def test_tasks_of_a_file(small_dataset: Path, tmp_path: Path) -> None:
    path = write_tasks(tmp_path, small_dataset)
    found = compare(tmp_path, small_dataset, "demo", tasks=str(path), speed=False)
    assert found.samples["numbers"] == 12
    assert sum(count for kind, count in found.samples.items() if kind.startswith("letters: ")) == 6
    assert found.metrics["numbers"] == "relaxed_accuracy"
    assert found.categories == {"Charts": ["numbers"]}
    assert found.results[0].kinds["numbers"] > 0.6
    made = (tmp_path / "tasks/numbers/manifest.json").stat().st_mtime_ns
    load_tasks(path, tmp_path / "tasks", None, Silent())
    assert (tmp_path / "tasks/numbers/manifest.json").stat().st_mtime_ns == made, "prepared once"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tasks: 3", "holds no list of tasks"),
        ("- {name: a b, source: x}", "task a b: name is 'a b', and has to be letters, digits"),
        ("- {name: a}", "task a: source is missing"),
        ("- {name: a, source: x, metric: bleu}", r"task a: there is no metric bleu\. There are exact_match"),
        ("- {name: a, source: x}\n- {name: a, source: y}", "has two tasks called a"),
        ("- {name: a, source: x, sample: 3}", r"task a: there is no field 'sample' \(did you mean 'samples'\?\)\."),
    ],
)
def test_a_broken_file_of_tasks_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_specs(tmp_path / "tasks.yaml")


def test_a_model_that_matches_images_with_texts_is_scored_by_recall(small_dataset: Path, tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    shutil.copytree(tmp_path / "clip", tmp_path / "again")
    found = compare(tmp_path, small_dataset, tmp_path / "clip", tmp_path / "again", samples=12, batch_size=5)
    kinds = {f"{way} R@{k}" for way in ("image to text", "text to image") for k in (1, 5, 10)}
    assert found.metrics == dict.fromkeys(sorted(kinds), "recall")
    dense, again = found.results
    assert (dense.loss, dense.speed) == (None, None)
    assert dense.kinds["image to text R@1"] <= dense.kinds["image to text R@5"] <= dense.kinds["image to text R@10"]
    assert again.kinds == dense.kinds
