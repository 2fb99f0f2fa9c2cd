"""Where a figure says less than it seems to, that is said, and kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from making import make_cut
from test_usable import FAILS
from workspaces import succeed, write_source

from interlace_cli.domain.cautions import FEW_CALIBRATION, FEW_HELDOUT, check_calibration, check_evaluation
from interlace_cli.io.datasets import load_split


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
