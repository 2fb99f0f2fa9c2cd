"""Where a figure says less than it seems to, that is said, and kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from making import make_cut
from safetensors.torch import load_file
from test_usable import FAILS
from workspaces import succeed, write_source

from interlace_cli.data.batches import Batcher
from interlace_cli.data.labels import keep_label_positions
from interlace_cli.domain.cautions import (
    FEW_CALIBRATION,
    FEW_HELDOUT,
    check_calibration,
    check_compensation,
    check_evaluation,
    check_healing,
)
from interlace_cli.evaluation.quality import compute_loss
from interlace_cli.healing.probe_loss import SAMPLES, choose_probes
from interlace_cli.healing.recipe import Recipe
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor


def test_few_samples_are_said_to_be_few() -> None:
    assert check_calibration(FEW_CALIBRATION) == []
    (line,) = check_calibration(4)
    assert "4 calibration samples" in line
    assert "--calibration" in line
    assert check_evaluation({"a": FEW_HELDOUT - 9, "b": 9}, "dense", {"a": 0.5, "b": 0.1}) == []
    (line,) = check_evaluation({"a": 6, "b": 6}, "dense", {"a": 0.5, "b": 0.1})
    assert "12 samples" in line
    assert "--holdout" in line


def test_there_is_nothing_to_retain_of_a_score_of_zero() -> None:
    (line,) = check_evaluation({"a": 40, "b": 40}, "dense", {"a": 0.5, "b": 0.0})
    assert line.startswith("dense scores 0 on b,")
    (line,) = check_evaluation({"a": 40, "b": 40}, "dense", {"a": 0.0, "b": 0.0})
    assert line.startswith("dense scores 0 on every kind,")


@pytest.fixture(scope="module")
def odd(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, some of whose samples the template of `model` refuses, and `pruned`, whose template takes all."""
    folder = tmp_path_factory.mktemp("odd")
    source = write_source(folder / "in", count=16)
    records = json.loads(source.read_text())
    for record in records[::2]:
        record["conversations"][0]["value"] += " WRONG"
    source.write_text(json.dumps(records))
    succeed("prepare", source, "--out", folder / "dataset", "--holdout", 0.5, "--calibration", 0.3)
    make_cut(chain_model, [2, 6], folder / "pruned")
    shutil.copytree(chain_model, folder / "model")
    template = (folder / "model/chat_template.jinja").read_text()
    (folder / "model/chat_template.jinja").write_text(f"{FAILS}{{% endfor %}}{template}")
    return folder


def test_all_checkpoints_are_judged_on_the_samples_that_each_can_be_given(odd: Path, tmp_path: Path) -> None:
    words = ["eval", odd / "model", odd / "pruned", "--dataset", odd / "dataset", "--out", tmp_path / "eval.json"]
    done = succeed(*words, "--no-speed", "--max-new-tokens", 2, "--allow-mismatch", "--json")
    asked = load_split(odd / "dataset", "heldout")
    wrong = sum("WRONG" in sample.question for sample in asked)
    assert wrong > 0
    assert list(done.json["left_out"].values()) == [wrong]
    assert sum(done.json["samples"].values()) == len(asked) - wrong
    assert f"{wrong} of {len(asked)} samples of heldout are left out" in done.said
    assert any("too few to tell checkpoints apart" in line for line in done.json["cautions"])
    assert "Careful: the scores rest on" in done.said


def test_an_analysis_of_a_handful_says_so(odd: Path, tmp_path: Path) -> None:
    done = succeed("analyze", odd / "pruned", "--dataset", odd / "dataset", "--out", tmp_path / "a.json", "--json")
    count = done.json["calibration"]["samples"]
    assert done.json["calibration"]["cautions"] == check_calibration(count) != []
    assert f"Careful: the analysis rests on {count} calibration samples" in done.said


def test_a_compensation_and_a_healing_that_change_nothing_say_so() -> None:
    assert check_compensation(2, 1) == check_healing(True, 1e-5, 9) == []
    assert "no dropped layer has a layer in front of it" in check_compensation(0, 0)[0]
    assert "for none of the 2 gaps" in check_compensation(2, 0)[0]
    assert "9 steps at a learning rate of 1e-05" in check_healing(False, 1e-5, 9)[0]


def test_one_step_of_healing_changes_the_tuned_layers(odd: Path, small_dataset: Path, tmp_path: Path) -> None:
    """transformers' warm-up begins at a learning rate of 0, and a run of one step had no other."""
    words = ["finetune", odd / "pruned", "--dataset", small_dataset, "--tune-layers", "3,5", "--device", "cpu"]
    one = [*words, "--batch-size", 4, "--grad-accum", 1, "--epochs", 0.001, "--json"]
    done = succeed(*one, "--lr", 1e-3, "--out", tmp_path / "one")
    healing = done.json["healing"]
    assert (healing["steps"], healing["cautions"]) == (1, [])
    before, after = (load_file(folder / "model.safetensors") for folder in (odd / "pruned", tmp_path / "one"))
    changed = {name.split(".layers.")[1][0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"2", "4"}
    assert healing["loss_after"] < healing["loss_before"]
    done = succeed(*one, "--lr", 0, "--out", tmp_path / "none")
    assert "Careful: healing has changed no weight: 1 steps at a learning rate of 0" in done.said
    assert done.json["healing"]["cautions"]
    assert done.json["healing"]["loss_after"] == done.json["healing"]["loss_before"] == healing["loss_before"]


@pytest.mark.parametrize("objective", ["ce", "local", "local,distill"])
def test_the_loss_before_and_after_is_that_of_the_same_samples(
    objective: str, odd: Path, small_dataset: Path, tmp_path: Path
) -> None:
    """The truth is the loss that `eval` measures, on these samples of the training split."""
    words = ["finetune", odd / "pruned", "--dataset", small_dataset, "--tune-layers", "3,5", "--device", "cpu"]
    words += ["--batch-size", 32, "--grad-accum", 1, "--lr", 1e-3, "--objective", objective, "--epochs", 0.6]
    healing = succeed(*words, "--out", tmp_path / "out", "--json").json["healing"]
    samples = load_split(small_dataset, "train")
    chosen = [samples[index] for index in choose_probes(len(samples))]
    assert len(chosen) == SAMPLES
    for folder, found in ((odd / "pruned", healing["loss_before"]), (tmp_path / "out", healing["loss_after"])):
        batcher = Batcher(load_processor(folder, 784, 50176), small_dataset)
        loss, _ = compute_loss(load_model(folder), keep_label_positions(batcher.build_conversations(chosen)))
        assert found == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(("share", "steps"), [(0.03, 2), (0.03, 33), (0.03, 34), (0.03, 1000), (0.125, 40), (0.0, 9)])
def test_the_warm_up_is_transformers_own_but_for_a_single_step(share: float, steps: int) -> None:
    from transformers import TrainingArguments

    assert Recipe(warmup=share).count_warmup(steps) == TrainingArguments(warmup_steps=share).get_warmup_steps(steps)
    assert Recipe(warmup=share).count_warmup(1) == 0
