"""The chain on a vision tower, and what `plan` and `prune` say before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import zoo
from tiny import save_chain_model
from typer.testing import CliRunner

from interlace_cli.cli.app import app


def call(*words: str | Path) -> Any:
    """The record that the command prints."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def refuse(code: int, sentence: str, *words: str | Path) -> None:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert (done.exit_code, sentence in " ".join(done.stderr.split())) == (code, True), done.stderr


@pytest.mark.long
def test_the_chain_on_a_vision_tower(small_dataset: Path, tmp_path: Path) -> None:
    save_chain_model(tmp_path / "dense", layers=4, tower=8)
    space = ["-w", tmp_path / "w"]
    analysis = call("analyze", tmp_path / "dense", "--stack", "vision", "--dataset", small_dataset, *space)
    assert [len(analysis["similarity"][name]) for name in ("s1", "s2", "s3")] == [8, 7, 6]
    assert analysis["similarity"] == analysis["image"]
    assert analysis["text"] is None
    plan = call("plan", "--ratio", "0.25", *space)
    assert (plan["stack"], len(plan["drop"]), plan["protect"]) == ("vision", 2, [0, 7])
    assert plan["locked"] == [{"layers": [0], "reason": "features are taken from it (deepstack_visual_indexes)"}]
    pruned = call("prune", "--verify", *space)
    assert pruned["fidelity"]["difference"] <= 1e-5 < pruned["fidelity"]["effect"]
    assert pruned["fidelity"]["generates_alike"] is True
    assert "picture" in pruned["fidelity"]["inputs"]
    healed = call("finetune", "--dataset", small_dataset, "--lr", "1e-3", "--batch-size", "32", *space)
    assert healed["healing"]["trained_parameters"] == sum(
        analysis["model"]["layer_parameters"][layer] for layer in plan["tune"]
    )
    result = call("eval", "--dataset", small_dataset, "--samples", "8", "--no-speed", *space)
    assert [row["layers"] for row in result["results"]] == [8, 6, 6]
    refuse(1, "is of the vision stack, and --stack says language", "plan", "--drop", "1", "--stack", "language", *space)


def test_a_plan_knows_what_cannot_go_from_the_config_alone(tmp_path: Path) -> None:
    config = zoo.build_config("gemma4")
    config.save_pretrained(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]
    kinds = config.text_config.layer_types
    stores = {kinds[layer]: layer for layer in range(6)}
    plan = call("plan", "--model", tmp_path / "model", "--drop", "2", "-w", tmp_path / "w")
    locked = sorted({*stores.values(), 7})
    assert sorted(layer for lock in plan["locked"] for layer in lock["layers"]) == locked
    assert set(locked) <= set(plan["protect"])
    assert plan["strategy"] == "random"
    assert not set(plan["drop"]) & set(locked)
    words = ["plan", "--model", tmp_path / "model", "-w", tmp_path / "w"]
    refuse(2, "cannot go: later layers use its keys and values", *words, "--drop", "6")
    refuse(2, "interlace chooses by scores", *words, "--drop", "2", "--strategy", "interlace")


def test_score_files_are_bound_by_the_models_limits(tmp_path: Path) -> None:
    zoo.build_config("gemma4").save_pretrained(tmp_path / "model")
    files = []
    for p in (1, 2, 3):
        files.append(tmp_path / f"{p}.json")
        files[-1].write_text(json.dumps({str(i): [0.5 + i / 100] for i in range(8 - p)}))
    words = ["plan", "--drop", "1", "--scores", *files, "-w", tmp_path / "w"]
    free = call(*words, "--protect", "")
    refuse(1, "made without what the model's config allows", *words, "--protect", "", "--model", tmp_path / "model")
    bound = call(*words, "--protect", "", "--model", tmp_path / "model", "--force")
    assert free["locked"] == [] != bound["locked"]
    assert not set(bound["drop"]) & {layer for lock in bound["locked"] for layer in lock["layers"]}


def test_a_refused_drop_says_why_and_what_could_go_and_writes_nothing(tmp_path: Path) -> None:
    zoo.build_model(zoo.build_config("gemma4")).save_pretrained(tmp_path / "model")
    words = ["prune", tmp_path / "model", "--drop-layers", "4,5", "--out", tmp_path / "out"]
    refuse(1, "cannot be dropped exactly: later layers use its keys and values. Layers that could be", *words)
    refuse(1, "cannot be dropped exactly", *words, "--dry-run")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_dry_run_says_what_a_run_then_writes(tmp_path: Path) -> None:
    zoo.build_model(zoo.build_config("llama4")).save_pretrained(tmp_path / "model", max_shard_size="100KB")
    words = ["prune", tmp_path / "model", "--drop-layers", "1,6", "--out", tmp_path / "out"]
    draft = call(*words, "--dry-run")
    assert not (tmp_path / "out").exists()
    call(*words)
    written = {path.name: path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")}
    assert written.keys() == draft["files"].keys()
    assert all(0 < written[name] - draft["files"][name] < 20_000 for name in written), "beside the header"
    config = json.loads((tmp_path / "out/config.json").read_text())["text_config"]
    assert draft["config"]["text_config.num_hidden_layers"] == ["8", "6"]
    for field in ("layer_types", "no_rope_layers", "moe_layers"):
        assert json.loads(draft["config"][f"text_config.{field}"][1]) == config[field]


def test_a_cut_that_is_not_what_it_should_be_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if one layer had taken the place of another."""
    save_chain_model(tmp_path / "dense", layers=4)
    monkeypatch.setattr(
        "interlace_cli.families.cut.build_numbering",
        lambda kept, *_: {layer: len(kept) - 1 - i for i, layer in enumerate(kept)},
    )
    words = ["prune", tmp_path / "dense", "--drop-layers", "2", "--verify", "--out", tmp_path / "out"]
    refuse(1, "does not compute what it should", *words)


def test_a_wrong_call_writes_nothing(chain_model: Path, tmp_path: Path) -> None:
    words = ["prune", chain_model, "--drop-layers", "3", "--out", tmp_path / "deep/out"]
    refuse(2, "--stack does not take 'nonsense'. It takes language, vision", *words, "--stack", "nonsense")
    refuse(2, "--device gpu9 cannot be used here", *words, "--verify", "--device", "gpu9")
    refuse(1, "has no encoder stack that could be cut", *words, "--stack", "encoder")
    assert not list(tmp_path.iterdir())


def test_a_config_that_its_class_refuses_is_named(chain_model: Path, tmp_path: Path) -> None:
    shutil.copytree(chain_model, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["text_config"]["num_hidden_layers"] = "8"
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    refuse(1, "transformers cannot read", "prune", tmp_path / "model", "--drop-layers", "3", "--out", tmp_path / "out")
