"""Surgery against plain transformers: a pruned checkpoint computes what the dense model with bypassed layers does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY, bypass

from interlace_cli.core.prune import prune_layers
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import CheckpointError, InterlaceError, UnsupportedModelError, UsageError
from interlace_cli.io.checkpoints import fingerprint, open_checkpoint
from interlace_cli.io.models import import_transformers

DROP = [3, 6]


def load_plainly(folder: Path) -> Any:
    return import_transformers().AutoModelForImageTextToText.from_pretrained(folder).eval()


def cut(folder: Path, out: Path, drop: list[int]) -> Any:
    prune_layers(str(folder), drop, out, Silent(), force=False)
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
    prune_layers(str(tmp_path / "dense"), [0, 7], tmp_path / "pruned", Silent(), force=False)
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
        prune_layers(str(tmp_path / "dense"), DROP, tmp_path / out, Silent(), force=False)
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
            "has a broken header",
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
        prune_layers(str(tmp_path / "dense"), DROP, tmp_path / "pruned", Silent(), force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _set_layers(folder: Path, layers: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(config))


def test_an_architecture_that_was_not_shown_exact_is_refused(tmp_path: Path) -> None:
    TINY["llava"].save(tmp_path / "dense")
    config = json.loads((tmp_path / "dense/config.json").read_text())
    (tmp_path / "dense/config.json").write_text(json.dumps({**config, "model_type": "idefics"}))
    with pytest.raises(UnsupportedModelError, match="idefics"):
        prune_layers(str(tmp_path / "dense"), DROP, tmp_path / "pruned", Silent(), force=False)


@pytest.mark.parametrize("drop", [[], [8], list(range(8))])
def test_drop_layers_that_do_not_fit_are_refused(drop: list[int], tmp_path: Path) -> None:
    TINY["llava"].save(tmp_path / "dense")
    with pytest.raises(UsageError):
        prune_layers(str(tmp_path / "dense"), drop, tmp_path / "pruned", Silent(), force=False)


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    TINY["llava"].save(tmp_path / "dense")
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned/mine.txt").write_text("mine")
    with pytest.raises(InterlaceError, match="exists already"):
        prune_layers(str(tmp_path / "dense"), DROP, tmp_path / "pruned", Silent(), force=False)
    assert (tmp_path / "pruned/mine.txt").read_text() == "mine"
