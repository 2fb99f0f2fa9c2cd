"""A step says by itself what lies there: every condition, what differs, and what is in the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_records import INPUTS, SETTINGS, build_card, build_evaluation, build_manifest

from interlace_cli import __version__
from interlace_cli.core.damage import find_damage
from interlace_cli.core.descriptions import describe_artifact
from interlace_cli.core.step import Condition, Step, describe_differences
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.errors import ExistsError
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.files import hash_file


class Maker:
    """Makes a card, and keeps how it was asked."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def __call__(self, progress: Progress, may_replace: bool) -> CheckpointCard:
        self.asked.append(may_replace)
        return build_card()


@pytest.fixture
def step(tmp_path: Path) -> Step[CheckpointCard]:
    return Step(
        name="prune",
        settings=SETTINGS,
        inputs=INPUTS,
        out=tmp_path / "pruned",
        file="interlace.json",
        record=CheckpointCard,
        make=Maker(),
    )


def put(step: Step[CheckpointCard], card: CheckpointCard | None = None) -> None:
    """What it makes, where it makes it."""
    save_artifact(card or build_card(files={"model.safetensors": "1", "config.json": "2"}), step.path)
    save_file({"weight": np.zeros(3)}, step.out / "model.safetensors")
    (step.out / "config.json").write_text("x")


# Conditions


def test_nothing_is_missing(step: Step[CheckpointCard]) -> None:
    state = step.find_state()
    assert (state.condition, state.reasons, state.artifact) == (Condition.MISSING, (), None)
    step.out.mkdir()
    assert step.find_state().condition is Condition.MISSING, "an empty folder is in nobody's way"


def test_its_own_result_is_current(step: Step[CheckpointCard]) -> None:
    put(step)
    state = step.find_state()
    assert state.is_current
    assert state.reasons == ()
    assert isinstance(state.artifact, CheckpointCard)
    assert state.artifact.dropped == [3, 5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"settings": {**SETTINGS, "ratio": 0.5}}, "ratio was 0.25, and is 0.5 now"),
        ({"settings": {**SETTINGS, "tune": "none"}}, "tune was not set, and is none now"),
        ({"settings": {**SETTINGS, "layers": [3]}}, "layers was 3,5, and is 3 now"),
        ({"settings": {**SETTINGS, "more": 1}}, "more was not set, and is 1 now"),
        ({"settings": {"ratio": 0.25, "layers": [3, 5]}}, None),
        ({"inputs": {**INPUTS, "model": "b" * 64}}, "the model changed"),
        ({"inputs": {**INPUTS, "drop": "3"}}, "the layers that the plan drops: 3, 5 then, 3 now"),
        ({"inputs": {**INPUTS, "train": "c" * 64}}, "it was made without the training samples"),
        ({"inputs": {"model": "a" * 64}}, "the layers that the plan drops: 3, 5 then, none now"),
    ],
)
def test_what_was_made_from_something_else_is_stale(
    change: dict[str, Any], reason: str | None, step: Step[CheckpointCard]
) -> None:
    put(step)
    state = replace(step, **change).find_state()
    assert state.reasons == (() if reason is None else (reason,))
    assert state.condition is (Condition.CURRENT if reason is None else Condition.STALE)
    assert state.artifact is not None


def test_all_reasons_are_named(step: Step[CheckpointCard]) -> None:
    put(step)
    state = replace(step, settings={"ratio": 0.5, "layers": [1], "tune": None}, inputs={"model": "b" * 64}).find_state()
    assert len(state.reasons) == 4
    assert state.is_stale


def test_another_version_of_interlace_is_a_reason(step: Step[CheckpointCard]) -> None:
    card = build_card()
    origin = card.created_by.model_copy(update={"interlace": "0.0.1"})
    put(step, card.model_copy(update={"created_by": origin}))
    assert step.find_state().reasons == (f"interlace 0.0.1 made it, and this is {__version__}",)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "interlace.plan"}'])
def test_what_is_no_artifact_is_stale_and_says_why(text: str, step: Step[CheckpointCard]) -> None:
    step.out.mkdir()
    step.path.write_text(text)
    state = step.find_state()
    assert state.is_stale
    assert state.artifact is None
    assert str(step.path) in state.reasons[0]
    assert not state.reasons[0].endswith(".")


def test_a_folder_of_somebody_else_is_in_the_way(step: Step[CheckpointCard]) -> None:
    step.out.mkdir()
    (step.out / "diary.txt").write_text("x")
    state = step.find_state()
    assert state.is_stale
    assert state.reasons == ("it has no interlace.json: interlace did not make it",)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_checkpoint_without_one_of_its_files_is_damaged(name: str, step: Step[CheckpointCard]) -> None:
    put(step)
    (step.out / name).unlink()
    state = step.find_state()
    assert (state.condition, state.reasons) == (Condition.DAMAGED, (f"{name} is gone",))
    other = replace(step, settings={}).find_state()
    assert other.is_stale, "of something else it is not to be made again as it was"


@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_a_checkpoint_whose_weights_were_cut_off_is_damaged(keep: int, step: Step[CheckpointCard]) -> None:
    put(step)
    weights = step.out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    state = step.find_state()
    assert state.condition is Condition.DAMAGED
    assert str(weights) in state.reasons[0]


def test_a_dataset_without_the_files_of_a_split_is_damaged(tmp_path: Path) -> None:
    manifest, data = build_manifest(schema=3), tmp_path / "data"
    data.mkdir()
    for split in ("train", "calibration"):
        (data / f"{split}-00000-of-00001.parquet").write_text("x")
    assert find_damage(tmp_path, manifest) is None, "there are no held-out samples"
    (data / "calibration-00000-of-00001.parquet").unlink()
    assert find_damage(tmp_path, manifest) == "the files of its calibration samples are gone"


def test_a_dataset_without_one_of_several_files_is_damaged(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train-00000-of-00003", "train-00002-of-00003", "calibration-00000-of-00001"):
        (data / f"{name}.parquet").write_text("x")
    assert find_damage(tmp_path, build_manifest(schema=3)) == "the files of its train samples are gone"
    (data / "train-00001-of-00003.parquet").write_text("x")
    assert find_damage(tmp_path, build_manifest(schema=3)) is None
    assert find_damage(tmp_path, build_manifest()) == "its index, which says what is of which split, is gone or broken"


def test_arrays_that_are_gone_or_of_another_analysis_are_damage(tmp_path: Path) -> None:
    beside = tmp_path / "analysis.safetensors"
    beside.write_text("x")
    analysis = Analysis.model_construct(arrays=hash_file(beside))
    assert find_damage(tmp_path / "analysis.json", analysis) is None
    beside.write_text("y")
    assert find_damage(tmp_path / "analysis.json", analysis) == "analysis.safetensors does not belong to it"
    beside.unlink()
    assert find_damage(tmp_path / "analysis.json", analysis) == "analysis.safetensors is gone"
    result = {"name": "a", "location": "", "fingerprint": "", "layers": 1, "parameters": 1, "bytes": 1}
    result |= {"score": 0.0, "loss": None, "kinds": {}}
    evaluation = build_evaluation(results=[result])
    assert find_damage(tmp_path / "eval.json", evaluation) == "eval.safetensors is gone"
    assert find_damage(tmp_path / "eval.json", build_evaluation()) is None, "benchmarks have none"


def test_what_lacks_a_part_is_incomplete_or_stale(step: Step[CheckpointCard]) -> None:
    put(step)
    lacking = replace(step, find_lacks=lambda card: ["the gradients were not measured"])
    state = lacking.find_state()
    assert (state.condition, state.reasons) == (Condition.STALE, ("the gradients were not measured",))
    completed = replace(lacking, is_completed=True).find_state()
    assert (completed.condition, completed.reasons) == (Condition.INCOMPLETE, state.reasons)
    (step.out / "config.json").unlink()
    assert replace(lacking, is_completed=True).find_state().condition is Condition.DAMAGED
    assert replace(lacking, is_completed=True, settings={}).find_state().condition is Condition.STALE


def test_a_step_may_compare_in_another_way(step: Step[CheckpointCard]) -> None:
    put(step)
    other = replace(step, settings={}, find_differences=lambda card, own: [f"{len(card.dropped)} of {own.name}"])
    assert other.find_state().reasons == ("2 of prune",)
    assert replace(other, find_differences=lambda card, own: []).find_state().is_current


# What is done about it


@pytest.mark.parametrize(
    ("prepare", "force", "asked"),
    [
        (lambda step: None, False, [False]),
        (lambda step: put(step), False, None),
        (lambda step: put(step), True, [True]),
        (lambda step: put(step, build_card(inputs={})), False, None),
        (lambda step: put(step, build_card(inputs={})), True, [True]),
        (lambda step: (put(step), (step.out / "config.json").unlink()), False, [True]),
    ],
    ids=["missing", "current", "current, force", "stale", "stale, force", "damaged"],
)
def test_what_is_there_is_replaced_only_where_that_is_said_or_it_is_damaged(
    prepare: Callable[[Step[CheckpointCard]], object],
    force: bool,
    asked: list[bool] | None,
    step: Step[CheckpointCard],
) -> None:
    prepare(step)
    assert isinstance(step.make, Maker)
    if asked is None:
        with pytest.raises(ExistsError):
            step.run(Silent(), force)
        assert step.make.asked == []
    else:
        step.run(Silent(), force)
        assert step.make.asked == asked


def test_what_is_incomplete_is_completed(step: Step[CheckpointCard]) -> None:
    put(step)
    lacking = replace(step, find_lacks=lambda card: ["a part"], is_completed=True)
    lacking.run(Silent(), False)
    assert isinstance(step.make, Maker)
    assert step.make.asked == [False], "what is there stays"


def test_a_refusal_says_what_is_there_whether_it_is_current_and_what_replaces_it(step: Step[CheckpointCard]) -> None:
    put(step)
    with pytest.raises(ExistsError) as current:
        step.run(Silent(), False)
    assert str(current.value) == (
        f"{step.out} exists already (pruned, from tiny without layers 3,5, layers 3,5, ratio 0.25): it is up to date."
        " `interlace prune --force` replaces it, or name another place."
    )
    with pytest.raises(ExistsError) as stale:
        replace(step, settings={**SETTINGS, "ratio": 0.5}, inputs={"model": "b" * 64, "drop": "3, 5"}).run(
            Silent(), False
        )
    assert "ratio was 0.25, and is 0.5 now; the model changed." in str(stale.value)
    step.path.write_text("{")
    with pytest.raises(ExistsError) as broken:
        step.run(Silent(), False)
    assert f"{step.out} exists already: {step.path}" in str(broken.value)
    assert ".." not in broken.value.what


def test_an_artifact_is_described_by_what_is_not_the_default() -> None:
    assert describe_artifact(build_manifest()) == "from vqa.json, holdout 0.3"
    settings = {"lr": 1e-5, "epochs": 2.0, "seed": 0}
    healed = build_card(stage="healed", created_by=build_origin("finetune", settings))
    assert describe_artifact(healed) == "healed, from tiny without layers 3,5, epochs 2"
    assert describe_artifact(build_evaluation()).startswith("of benchmarks")


# Names


def test_a_key_stands_for_all_that_the_result_depends_on(step: Step[CheckpointCard], tmp_path: Path) -> None:
    same = replace(step, settings=dict(reversed(SETTINGS.items())), inputs=dict(reversed(INPUTS.items())))
    assert same.key == step.key, "the order of the options does not count"
    elsewhere = replace(step, out=tmp_path / "elsewhere", make=Maker())
    assert elsewhere.key == step.key
    others = [
        replace(step, name="finetune"),
        replace(step, settings={**SETTINGS, "ratio": 0.26}),
        replace(step, settings={**SETTINGS, "layers": [5, 3]}),
        replace(step, settings={**SETTINGS, "more": None}),
        replace(step, inputs={**INPUTS, "model": "b" * 64}),
        replace(step, inputs={**INPUTS, "train": "a" * 64}),
    ]
    keys = [step.key, *(other.key for other in others)]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 10 and int(key, 16) >= 0 for key in keys)


def test_a_file_is_its_own_artifact(tmp_path: Path) -> None:
    made = Step(
        name="eval",
        settings=SETTINGS,
        inputs=INPUTS,
        out=tmp_path / "eval.json",
        record=Evaluation,
        make=lambda progress, may_replace: build_evaluation(),
    )
    assert made.path == tmp_path / "eval.json"
    assert made.find_state().condition is Condition.MISSING
    save_artifact(build_evaluation(), made.path)
    assert made.find_state().is_current
    assert made.origin == load_artifact(made.path, Evaluation).created_by
    made.path.unlink()
    made.path.mkdir()
    assert made.find_state().condition in (Condition.STALE, Condition.MISSING)


def test_differences_are_between_what_was_and_what_would_be() -> None:
    card = build_card()
    assert describe_differences(card, SETTINGS, INPUTS) == []
    assert describe_differences(card, {}, {}) == [
        "layers was 3,5, and is not set now",
        "ratio was 0.25, and is not set now",
        "the layers that the plan drops: 3, 5 then, none now",
        "it was made from the model",
    ]
    more = {**INPUTS, "train": "c" * 64}
    assert describe_differences(card, SETTINGS, more) == ["it was made without the training samples"]
    assert json.loads(json.dumps(card.created_by.settings)) == SETTINGS
