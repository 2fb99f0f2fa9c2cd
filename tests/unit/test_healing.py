"""Healing trains the tuned layers on the answers' tokens, and moves not one bit elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from making import make_cut, make_healed, make_planned_cut
from safetensors.torch import load_file
from tiny import TINY
from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.data.labels import answer_loss, keep_label_positions
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.plan import Plan
from interlace_cli.errors import PlanMismatchError, TrainableSetError, UsageError
from interlace_cli.families.modules import find_layers
from interlace_cli.healing.trainable import apply_trainable_set, check_trainable_set, hash_frozen
from interlace_cli.io.artifacts import build_origin, save_artifact
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor
from interlace_cli.io.sample_keys import SAMPLE_KEYS, build_keys, load_keys

RECIPE = {"lr": 1e-3, "batch_size": 16, "grad_accum": 2, "epochs": 1.0}
ROLES = ["keep", "keep", "drop", "tune", "anchor", "tune", "drop", "keep"]


@pytest.fixture(scope="module")
def pruned(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a plan that drops 2 and 6, tunes 3 and 5, and the checkpoint it cuts."""
    folder = tmp_path_factory.mktemp("healing")
    plan = Plan.model_validate(
        {
            "kind": Plan.KIND,
            "schema": 1,
            "created_by": build_origin("test", {}).model_dump(),
            "inputs": {},
            "strategy": "by hand",
            "num_layers": 8,
            "roles": ROLES,
        }
    )
    save_artifact(plan, folder / "plan.json")
    make_planned_cut(chain_model, folder / "plan.json", folder / "pruned")
    return folder


@pytest.fixture(scope="module")
def healed(pruned: Path, small_dataset: Path) -> Path:
    make_healed(pruned / "pruned", small_dataset, pruned / "healed", plan=pruned / "plan.json", **RECIPE)
    return pruned / "healed"


def test_only_the_tuned_layers_change_on_disk(pruned: Path, healed: Path) -> None:
    before, after = load_file(pruned / "pruned/model.safetensors"), load_file(healed / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {name.split(".layers.")[1].split(".")[0] for name in changed if ".layers." in name}
    assert layers == {"2", "4"}, "dense layers 3 and 5 stand at positions 2 and 4"
    assert all(".language_model.layers." in name for name in changed)
    assert len([name for name in changed if ".layers.2." in name]) == 11, "every tensor of a tuned layer has moved"


def test_dense_ft_trains_the_plans_layers_and_drops_none(pruned: Path, small_dataset: Path, chain_model: Path) -> None:
    words = ["finetune", "--dense", "--dataset", small_dataset, "-w", pruned, "--lr", "1e-3", "--out", pruned / "ft"]
    done = CliRunner().invoke(app, [*map(str, words), str(chain_model)])
    assert done.exit_code == 0, done.stderr
    before, after = load_file(chain_model / "model.safetensors"), load_file(pruned / "ft/model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert {name.split(".layers.")[1].split(".")[0] for name in changed} == {"3", "5"}, (
        "as many as are tuned when healed"
    )
    card = json.loads((pruned / "ft/interlace.json").read_text())
    assert (card["stage"], card["dropped"], card["tune"]) == ("dense-ft", [], [3, 5])
    words[-1] = pruned / "none"
    done = CliRunner().invoke(app, [*map(str, words), str(chain_model), "--tune-layers", "9"])
    assert done.exit_code == 2
    assert "there is no layer 9 to tune" in done.stderr


def test_the_metadata_says_what_was_done(healed: Path) -> None:
    card = json.loads((healed / "interlace.json").read_text())
    assert card["stage"] == "healed"
    assert card["tune"] == [2, 4]
    assert card["dense_index"] == [0, 1, 3, 4, 5, 7]
    assert card["healing"]["last_loss"] < card["healing"]["first_loss"]
    assert card["healing"]["recipe"]["dtype"] == "float32"


def test_all_side_files_travel_and_plain_transformers_loads_the_folder(pruned: Path, healed: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    names = {path.name for path in healed.iterdir()}
    assert names - {path.name for path in (pruned / "pruned").iterdir()} == {SAMPLE_KEYS}
    assert {path.name for path in (pruned / "pruned").iterdir()} < names
    assert {"tokenizer.json", "processor_config.json", "chat_template.jinja", "generation_config.json"} <= names
    AutoProcessor.from_pretrained(healed)
    _, report = AutoModelForImageTextToText.from_pretrained(healed, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_the_samples_that_it_was_trained_on_are_known_beside_it(healed: Path, small_dataset: Path) -> None:
    keys = load_keys(healed)
    assert keys.keys() == {"trained"}, "nobody says what a plan by hand was calibrated on"
    assert keys["trained"].tolist() == build_keys(load_split(small_dataset, "train")).tolist()


def test_same_seed_same_bytes(pruned: Path, healed: Path, small_dataset: Path, tmp_path: Path) -> None:
    make_healed(pruned / "pruned", small_dataset, tmp_path / "again", plan=pruned / "plan.json", **RECIPE)
    for path in healed.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_another_seed_heals_differently(pruned: Path, healed: Path, small_dataset: Path, tmp_path: Path) -> None:
    make_healed(pruned / "pruned", small_dataset, tmp_path / "other", seed=1, **RECIPE)
    assert (healed / "model.safetensors").read_bytes() != (tmp_path / "other/model.safetensors").read_bytes()


@pytest.mark.parametrize("change", [{}, {"batch_size": 32, "grad_accum": 1}, {"max_length": 100}])
def test_checkpointing_accumulation_and_row_length_do_not_change_the_result(
    change: dict[str, int], pruned: Path, healed: Path, small_dataset: Path, tmp_path: Path
) -> None:
    options = {**RECIPE, **change, "gradient_checkpointing": not change}
    make_healed(pruned / "pruned", small_dataset, tmp_path / "out", **options)
    ours, other = load_file(healed / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(other[name], tensor, atol=2e-4, rtol=0)


def test_bf16_compute_keeps_the_frozen_tensors_too(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    card = make_healed(pruned / "pruned", small_dataset, tmp_path / "bf16", dtype="bfloat16", **RECIPE)
    before, after = load_file(pruned / "pruned/model.safetensors"), load_file(tmp_path / "bf16/model.safetensors")
    changed = {name.split(".layers.")[1][0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"2", "4"}
    assert card.healing is not None
    assert card.healing.last_loss < card.healing.first_loss


def test_tune_layers_overrides_the_plan(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    card = make_healed(pruned / "pruned", small_dataset, tmp_path / "out", tune_layers=(7,), **RECIPE)
    assert card.tune == [5]
    with pytest.raises(UsageError, match="--tune-layers names 6"):
        make_healed(pruned / "pruned", small_dataset, tmp_path / "no", tune_layers=(6,), **RECIPE)


def test_a_plan_that_cuts_other_layers_is_refused(
    pruned: Path, chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    make_cut(chain_model, [1], tmp_path / "other")
    with pytest.raises(PlanMismatchError, match="drops layers 2, 6"):
        make_healed(tmp_path / "other", small_dataset, tmp_path / "out", plan=pruned / "plan.json", **RECIPE)
    with pytest.raises(TrainableSetError, match="no layer is to be tuned"):
        make_healed(tmp_path / "other", small_dataset, tmp_path / "out", **RECIPE)
    assert not (tmp_path / "out").exists()


def test_a_wrong_trainable_set_is_caught_head_and_embedding_included() -> None:
    for tied in (False, True):
        model = TINY["qwen3_vl"].build_model(tied=tied)
        layers = find_layers(model)
        apply_trainable_set(model, layers, [3])
        check_trainable_set(model, layers, [3])
        model.lm_head.weight.requires_grad_(True)
        with pytest.raises(TrainableSetError, match=r"embed_tokens|lm_head"):
            check_trainable_set(model, layers, [3])
        apply_trainable_set(model, layers, [3])
        layers[3].mlp.up_proj.weight.requires_grad_(False)
        with pytest.raises(TrainableSetError, match="should train and does not"):
            check_trainable_set(model, layers, [3])


def test_the_frozen_hash_sees_a_single_bit() -> None:
    model = TINY["llava"].build_model()
    apply_trainable_set(model, find_layers(model), [3])
    before = hash_frozen(model)
    find_layers(model)[3].mlp.up_proj.weight.data[0, 0] += 1
    assert hash_frozen(model) == before
    model.get_input_embeddings().weight.data[0, 0] += 1e-6
    assert hash_frozen(model) != before


def test_nothing_is_recorded_below_the_first_tuned_layer(chain_model: Path, small_dataset: Path) -> None:
    model = load_model(chain_model)
    layers = find_layers(model)
    apply_trainable_set(model, layers, [5])
    recorded = {}
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda _, args, out, index=index: recorded.update({index: out.requires_grad}))
    batcher = Batcher(load_processor(chain_model), small_dataset)
    batch = keep_label_positions(batcher.build_conversations(load_split(small_dataset, "train")[:4]))
    labels = batch.pop("labels")
    answer_loss(model.train()(**batch), labels).backward()
    assert recorded == {index: index >= 5 for index in range(8)}


def test_loss_at_the_labels_equals_the_loss_of_all_logits(chain_model: Path, small_dataset: Path) -> None:
    model = load_model(chain_model)
    batch = Batcher(load_processor(chain_model), small_dataset).build_conversations(
        load_split(small_dataset, "train")[:6]
    )
    kept = keep_label_positions(batch)
    labels = kept.pop("labels")
    with torch.inference_mode():
        ours = model(**kept)
        whole = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    wanted = torch.nn.functional.cross_entropy(
        whole[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE
    )
    assert ours.logits.shape[1] < 6 < whole.shape[1]
    torch.testing.assert_close(answer_loss(ours, labels), wanted)


def test_labels_are_the_answers_of_every_turn_and_nothing_else(chain_model: Path, small_dataset: Path) -> None:
    sample = load_split(small_dataset, "train")[0]
    turns = [{"from": "human", "value": "What shape is at a1?"}, {"from": "gpt", "value": "red circle"}] * 2
    turns[3] = {"from": "gpt", "value": "17"}
    talk = Sample.model_validate({**sample.model_dump(by_alias=True), "conversations": turns})
    processor = load_processor(chain_model)
    batch = Batcher(processor, small_dataset).build_conversations([sample, talk])
    for row, answers in ((0, [sample.answer]), (1, ["red circle", "17"])):
        labels = batch["labels"][row]
        text = processor.tokenizer.decode(labels[labels != IGNORE])
        assert text == "".join(f"{answer}<|im_end|>" for answer in answers)
        assert torch.equal(labels[labels != IGNORE], batch["input_ids"][row][labels != IGNORE])
    plain = processor.apply_chat_template(Batcher(processor, small_dataset)._to_messages(talk), tokenize=False)
    plain = plain.replace("<|image_pad|>", "<|image_pad|>" * 16)
    assert processor.tokenizer.decode(batch["input_ids"][1]) == plain


def test_max_length_cuts_the_end_and_never_the_image(chain_model: Path, small_dataset: Path) -> None:
    sample = load_split(small_dataset, "train")[0]
    whole = Batcher(load_processor(chain_model), small_dataset).build_conversations([sample])
    length = whole["input_ids"].shape[1]
    short = Batcher(load_processor(chain_model), small_dataset, length - 2).build_conversations([sample])
    assert torch.equal(short["input_ids"], whole["input_ids"][:, : length - 2])
    tiny = Batcher(load_processor(chain_model), small_dataset, 4).build_conversations([sample])
    assert (tiny["input_ids"] == 5).sum() == 16
    assert (tiny["labels"] == IGNORE).all()
