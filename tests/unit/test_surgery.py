"""Surgery against plain transformers: a pruned checkpoint computes what the dense model with bypassed layers does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from making import make_cut
from safetensors.torch import load_file, save_file
from tiny import TINY, bypass

from interlace_cli.errors import CheckpointError, InterlaceError, UsageError
from interlace_cli.families.modules import bypassed
from interlace_cli.io.checkpoints import fingerprint, open_checkpoint
from interlace_cli.io.models import import_transformers

DROP = [3, 6]


def load_plainly(folder: Path) -> Any:
    return import_transformers().AutoModelForImageTextToText.from_pretrained(folder).eval()


def cut(folder: Path, out: Path, drop: list[int]) -> Any:
    make_cut(folder, drop, out)
    return load_plainly(out)


@torch.inference_mode()
def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("shard", ["50GB", "60KB"], ids=["one-file", "sharded"])
@pytest.mark.parametrize("name", TINY)
def test_pruned_logits_equal_the_dense_model_with_layers_bypassed(
    name: str, shard: str, tied: bool, tmp_path: Path
) -> None:
    tiny = TINY[name]
    dense = tiny.save(tmp_path / "dense", tied=tied, shard=shard)
    inputs = tiny.build_inputs()
    whole = logits(dense, inputs)
    bypass(dense, DROP)
    wanted = logits(dense, inputs)
    pruned = cut(tmp_path / "dense", tmp_path / "pruned", DROP)
    found = logits(pruned, inputs)
    assert (wanted - whole).abs().max() > 1e-2, "the bypass must matter"
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_cached_generation_equals_uncached(name: str, tmp_path: Path) -> None:
    tiny = TINY[name]
    tiny.save(tmp_path / "dense")
    pruned = cut(tmp_path / "dense", tmp_path / "pruned", DROP)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    cached = pruned.generate(**tiny.build_inputs(), **options, use_cache=True)
    uncached = pruned.generate(**tiny.build_inputs(), **options, use_cache=False)
    assert torch.equal(cached, uncached)


def test_a_dropped_deepstack_layer_takes_its_features_along(tmp_path: Path) -> None:
    tiny = TINY["qwen3_vl"]
    dense = tiny.save(tmp_path / "dense")
    pruned = cut(tmp_path / "dense", tmp_path / "pruned", [1, 4])
    bypass(dense, [1, 4])
    text = dense.model.language_model
    add, calls = text._deepstack_process, []

    def add_but_after_layer_1(hidden: Any, mask: Any, features: Any) -> Any:
        calls.append(None)
        return hidden if len(calls) == 2 else add(hidden, mask, features)

    text._deepstack_process = add_but_after_layer_1
    inputs = tiny.build_inputs()
    torch.testing.assert_close(logits(pruned, inputs), logits(dense, inputs), atol=1e-5, rtol=0)
    assert pruned.config.vision_config.deepstack_visual_indexes == [0]


def test_kept_tensors_are_copied_bit_by_bit_under_new_numbers(tmp_path: Path) -> None:
    TINY["llava"].save(tmp_path / "dense")
    make_cut(tmp_path / "dense", [0, 7], tmp_path / "pruned")
    old, new = load_file(tmp_path / "dense/model.safetensors"), load_file(tmp_path / "pruned/model.safetensors")
    prefix = "language_model.model.layers"
    assert torch.equal(new[f"{prefix}.0.mlp.up_proj.weight"], old[f"{prefix}.1.mlp.up_proj.weight"])
    assert torch.equal(new[f"{prefix}.5.mlp.up_proj.weight"], old[f"{prefix}.6.mlp.up_proj.weight"])
    assert f"{prefix}.6.mlp.up_proj.weight" not in new
    outside = [name for name in old if not name.startswith(prefix)]
    assert outside
    assert all(torch.equal(old[name], new[name]) for name in outside)


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    TINY["qwen3_vl"].save(tmp_path / "dense", shard="60KB")
    for out in ("a", "b"):
        make_cut(tmp_path / "dense", DROP, tmp_path / out)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_vision_tower_as_deep_as_the_language_model_is_told_apart(tmp_path: Path) -> None:
    tiny = TINY["llava"]
    dense = tiny.save(tmp_path / "dense", layers=3)
    pruned = cut(tmp_path / "dense", tmp_path / "pruned", [1])
    bypass(dense, [1])
    inputs = tiny.build_inputs()
    torch.testing.assert_close(logits(pruned, inputs), logits(dense, inputs), atol=1e-5, rtol=0)
    assert (
        len(
            pruned.model.vision_tower.encoder.layers
            if hasattr(pruned.model.vision_tower, "encoder")
            else pruned.model.vision_tower.vision_model.encoder.layers
        )
        == 3
    )


def test_layer_count_that_only_the_config_class_knows(tmp_path: Path) -> None:
    """The Hub's LLaVA configs leave num_hidden_layers out; the class's default, 32, holds."""
    TINY["llava"].save(tmp_path / "dense", layers=32)
    config = json.loads((tmp_path / "dense/config.json").read_text())
    del config["text_config"]["num_hidden_layers"]
    (tmp_path / "dense/config.json").write_text(json.dumps(config))
    pruned = cut(tmp_path / "dense", tmp_path / "pruned", [5])
    assert pruned.config.text_config.num_hidden_layers == 31


def test_flat_config_as_the_hub_has_it_for_qwen2_vl(tmp_path: Path) -> None:
    tiny = TINY["qwen2_vl"]
    dense = tiny.save(tmp_path / "dense")
    config = json.loads((tmp_path / "dense/config.json").read_text())
    text = config.pop("text_config")
    text.pop("model_type")
    (tmp_path / "dense/config.json").write_text(json.dumps({**text, **config}))
    pruned = cut(tmp_path / "dense", tmp_path / "pruned", DROP)
    bypass(dense, DROP)
    inputs = tiny.build_inputs()
    torch.testing.assert_close(logits(pruned, inputs), logits(dense, inputs), atol=1e-5, rtol=0)


def test_fingerprint_tells_weights_apart(tmp_path: Path) -> None:
    for seed in (0, 0, 1):
        TINY["qwen2_vl"].save(tmp_path / str(len(list(tmp_path.iterdir()))), seed=seed)
    first, again, other = (fingerprint(open_checkpoint(tmp_path / name)) for name in "012")
    assert first == again != other


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot read"),
        (lambda folder: next(folder.glob("model-00002*")).unlink(), "lacks model-00002"),
        (lambda folder: next(folder.glob("model-00002*")).write_bytes(b"short"), "is not a whole safetensors file"),
        (
            lambda folder: next(folder.glob("model-00002*")).write_bytes(b"\2" + b"\0" * 7 + b"[]"),
            "is not a JSON object",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'),
            "no weight_map",
        ),
        (lambda folder: _shorten(next(folder.glob("model-00002*"))), "is cut off"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "has no model.safetensors"),
        (lambda folder: _set_layers(folder, 9), "no language tensors numbered 0 to 8"),
    ],
)
def test_a_broken_checkpoint_is_one_sentence_and_leaves_nothing(damage: Any, sentence: str, tmp_path: Path) -> None:
    TINY["qwen3_vl"].save(tmp_path / "dense", shard="60KB")
    damage(tmp_path / "dense")
    with pytest.raises(CheckpointError, match=sentence):
        make_cut(tmp_path / "dense", DROP, tmp_path / "pruned")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _set_layers(folder: Path, layers: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(config))


def test_an_architecture_that_is_not_tested_is_cut_and_said_to_be_so(tmp_path: Path) -> None:
    dense = TINY["llava"].save(tmp_path / "dense")
    config = json.loads((tmp_path / "dense/config.json").read_text())
    (tmp_path / "dense/config.json").write_text(json.dumps({**config, "model_type": "llava_of_tomorrow"}))
    card = make_cut(tmp_path / "dense", DROP, tmp_path / "pruned")
    assert "transformers does not know llava_of_tomorrow models of this layout" in card.notes[0]
    config = json.loads((tmp_path / "pruned/config.json").read_text())
    (tmp_path / "pruned/config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    inputs = TINY["llava"].build_inputs()
    bypass(dense, DROP)
    torch.testing.assert_close(logits(load_plainly(tmp_path / "pruned"), inputs), logits(dense, inputs))


def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    TINY["llava"].save(tmp_path / "dense")
    (tmp_path / "dense/model.safetensors").rename(tmp_path / "dense/pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.bin, and only safetensors .* save_pretrained it elsewhere"):
        make_cut(tmp_path / "dense", DROP, tmp_path / "pruned")


def test_shards_stay_even_when_neighbours_go(tmp_path: Path) -> None:
    """A shard that held nothing but dropped layers would be missing; those that stay are filled evenly instead."""
    TINY["qwen3_vl"].save(tmp_path / "dense", layers=12, shard="60KB")
    make_cut(tmp_path / "dense", [4, 5, 6, 7, 8], tmp_path / "pruned")
    index = json.loads((tmp_path / "pruned/model.safetensors.index.json").read_text())
    dense = open_checkpoint(tmp_path / "dense")
    sizes = [sum(t.bytes for t in dense.tensors.values() if t.file == shard) for shard in dense.shards]
    pruned = open_checkpoint(tmp_path / "pruned")
    assert index["metadata"]["total_size"] == pruned.total_bytes
    assert index["metadata"]["total_parameters"] == pruned.total_parameters
    found = [sum(t.bytes for t in pruned.tensors.values() if t.file == shard) for shard in pruned.shards]
    largest = max(tensor.bytes for tensor in pruned.tensors.values())
    assert len(found) == -(-pruned.total_bytes // max(sizes))
    assert max(found) - min(found) <= 2 * largest
    assert [path.name for path in pruned.shards] == [
        f"model-{n:05d}-of-{len(found):05d}.safetensors" for n in range(1, len(found) + 1)
    ]


@pytest.mark.parametrize("in_kernel", [True, False])
def test_bytes_are_copied_with_and_without_the_kernels_help(
    in_kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_kernel:
        monkeypatch.delattr("os.copy_file_range", raising=False)
    monkeypatch.setattr("interlace_cli.io.surgery.BLOCK", 1000)
    monkeypatch.setattr("interlace_cli.io.surgery.PIECE", 300)
    TINY["llava"].save(tmp_path / "dense")
    make_cut(tmp_path / "dense", [0, 7], tmp_path / "pruned")
    old, new = load_file(tmp_path / "dense/model.safetensors"), load_file(tmp_path / "pruned/model.safetensors")
    prefix = "language_model.model.layers"
    assert all(
        torch.equal(tensor, old[name if prefix not in name else name.replace(f".{n}.", f".{int(n) + 1}.", 1)])
        for name, tensor in new.items()
        for n in [name.removeprefix(prefix + ".").split(".")[0]]
    )


def test_any_dtype_is_copied_with_its_scales_and_its_own_lists_are_renumbered(tmp_path: Path) -> None:
    """fp8 with scales, integers that hold packed weights; a list of what is not quantized, a setting by module."""
    TINY["llava"].save(tmp_path / "dense")
    path = tmp_path / "dense/model.safetensors"
    tensors = load_file(path)
    for layer in range(8):
        name = f"language_model.model.layers.{layer}.mlp.up_proj.weight"
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.full((1, 1), float(layer))
        packed = f"language_model.model.layers.{layer}.mlp.down_proj.qweight"
        tensors[packed] = torch.arange(6, dtype=torch.int32) + layer
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "dense/config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "modules_to_not_convert": ["lm_head", "vision_tower.encoder.layers.3.fc1"]
        + [f"model.language_model.layers.{layer}.self_attn" for layer in (2, 3, 7)],
    }
    (tmp_path / "dense/config.json").write_text(json.dumps(config))
    make_cut(tmp_path / "dense", DROP, tmp_path / "pruned")
    pruned = load_file(tmp_path / "pruned/model.safetensors")
    for position, layer in enumerate([0, 1, 2, 4, 5, 7]):
        name = f"language_model.model.layers.{position}.mlp.up_proj.weight"
        assert pruned[name].dtype == torch.float8_e4m3fn
        assert pruned[f"{name}_scale_inv"].item() == layer
        assert pruned[f"language_model.model.layers.{position}.mlp.down_proj.qweight"][0] == layer
    config = json.loads((tmp_path / "pruned/config.json").read_text())
    assert config["quantization_config"]["modules_to_not_convert"] == [
        "lm_head",
        "vision_tower.encoder.layers.3.fc1",
        "model.language_model.layers.2.self_attn",
        "model.language_model.layers.5.self_attn",
    ]


def test_layers_for_multi_token_prediction_stay_behind_the_others(tmp_path: Path) -> None:
    TINY["llava"].save(tmp_path / "dense")
    path = tmp_path / "dense/model.safetensors"
    tensors = load_file(path)
    tensors["language_model.model.layers.8.eh_proj.weight"] = torch.ones(3)
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "dense/config.json").read_text())
    config["text_config"]["num_nextn_predict_layers"] = 1
    (tmp_path / "dense/config.json").write_text(json.dumps(config))
    make_cut(tmp_path / "dense", DROP, tmp_path / "pruned")
    names = open_checkpoint(tmp_path / "pruned").tensors
    assert "language_model.model.layers.6.eh_proj.weight" in names
    assert not [name for name in names if ".layers.7." in name or ".layers.8." in name]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gemma3", ["layer_types"]),
        ("llama4", ["layer_types", "no_rope_layers"]),
        ("glm5_next", ["layer_types", "mlp_layer_types", "indexer_types"]),
        ("qwen2_5_vl", ["layer_types"]),
        ("qwen3_5", ["layer_types"]),
    ],
)
def test_a_config_that_leaves_the_kinds_of_layers_to_a_pattern_says_them_afterwards(
    name: str, fields: list[str], tmp_path: Path
) -> None:
    """As Gemma 3's on the Hub: every sixth layer attends fully, which is no longer true after a drop."""
    if name not in import_transformers().CONFIG_MAPPING:
        pytest.skip("this transformers does not have it")
    config = zoo.build_config(name)
    zoo.build_model(config).save_pretrained(tmp_path / "dense")
    stored = json.loads((tmp_path / "dense/config.json").read_text())
    for field in fields:
        del stored["text_config"][field]
    (tmp_path / "dense/config.json").write_text(json.dumps(stored))
    dense = load_plainly(tmp_path / "dense")
    pruned = cut(tmp_path / "dense", tmp_path / "pruned", [1, 2])
    kinds = dense.config.text_config.layer_types
    assert pruned.config.text_config.layer_types == [kind for i, kind in enumerate(kinds) if i not in (1, 2)]
    inputs = zoo.build_inputs(name, config)
    with bypassed(dense, [1, 2]):
        wanted = logits(dense, inputs)
    torch.testing.assert_close(logits(pruned, inputs), wanted, atol=1e-5, rtol=0)


def test_a_list_that_a_pattern_leaves_out_beside_others_is_asked_for(tmp_path: Path) -> None:
    config = zoo.build_config("llama4", lambda f: f["text_config"].update(moe_layers=None, interleave_moe_layer_step=2))
    zoo.build_model(config).save_pretrained(tmp_path / "dense")
    stored = json.loads((tmp_path / "dense/config.json").read_text())
    assert stored["text_config"].pop("moe_layers") == [1, 3, 5, 7]
    (tmp_path / "dense/config.json").write_text(json.dumps(stored))
    pruned = cut(tmp_path / "dense", tmp_path / "pruned", [2, 3])
    assert pruned.config.text_config.moe_layers == [1, 3, 5]


@pytest.mark.parametrize("drop", [[], [8], list(range(8))])
def test_drop_layers_that_do_not_fit_are_refused(drop: list[int], tmp_path: Path) -> None:
    TINY["llava"].save(tmp_path / "dense")
    with pytest.raises(UsageError, match=r"--drop-layers .* does not fit a model with layers 0 to 7"):
        make_cut(tmp_path / "dense", drop, tmp_path / "pruned")


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    TINY["llava"].save(tmp_path / "dense")
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned/mine.txt").write_text("mine")
    with pytest.raises(InterlaceError, match="exists already"):
        make_cut(tmp_path / "dense", DROP, tmp_path / "pruned")
    assert (tmp_path / "pruned/mine.txt").read_text() == "mine"
