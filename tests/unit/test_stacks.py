"""Cuts of other stacks than the language model's: vision towers, encoders, decoders, the sides of a dual encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from making import make_cut
from tiny import TINY

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.modules import bypassed, find_layers
from interlace_cli.io.models import import_transformers, load_model


def cut_and_compare(model: Any, inputs: dict[str, torch.Tensor], stack: str, drop: list[int], folder: Path) -> Any:
    """Cuts the saved model, loads what is left, and compares all outputs with those of the bypassed model."""
    model.save_pretrained(folder / "dense")
    make_cut(folder / "dense", drop, folder / "pruned", stack=stack)
    pruned = load_model(folder / "pruned")
    with torch.inference_mode():
        whole = run(model, inputs)
        with bypassed(model, drop, stack):
            wanted = run(model, inputs)
        found = run(pruned, inputs)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(whole, wanted, strict=True)), "the bypass must matter"
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    return pruned


def run(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    output = model(**inputs)
    if getattr(output, "logits", None) is not None:
        return [output.logits]
    return [value for value in output.values() if isinstance(value, torch.Tensor)]


def build_with_tower(name: str, layers: int, **more: Any) -> Any:
    """The tiny model of a family with a vision tower of `layers` layers."""
    tiny = TINY[name]
    config = tiny.build_config(4, False)
    count = "depth" if hasattr(config.vision_config, "depth") else "num_hidden_layers"
    setattr(config.vision_config, count, layers)
    for field, value in more.items():
        owner = config if hasattr(config, field) else config.vision_config
        setattr(owner, field, value)
    return zoo.build_model(config)


@pytest.mark.parametrize(("name", "more", "drop", "expected"), zoo.TOWERS)
def test_a_vision_tower_is_cut_exactly(
    name: str, more: dict[str, Any], drop: list[int], expected: dict[str, Any], tmp_path: Path
) -> None:
    pruned = cut_and_compare(build_with_tower(name, 6, **more), TINY[name].build_inputs(), "vision", drop, tmp_path)
    assert len(find_layers(pruned, "vision")) == 6 - len(drop)
    assert len(find_layers(pruned)) == 4, "the language model keeps its layers"
    for field, value in expected.items():
        owner = pruned.config if hasattr(pruned.config, field) else pruned.config.vision_config
        assert getattr(owner, field) == value


@pytest.mark.parametrize(
    ("name", "more", "drop", "reason"),
    [
        ("qwen3_vl", {"deepstack_visual_indexes": [1, 2]}, [2], "features are taken from it"),
        ("qwen3_vl", {"deepstack_visual_indexes": [0, 3]}, [0], "features are taken from it"),
        ("llava", {"vision_feature_layer": -2}, [5], "must not become the last hidden state"),
    ],
)
def test_features_of_inner_vision_layers_that_cannot_be_renumbered_are_refused(
    name: str, more: dict[str, Any], drop: list[int], reason: str, tmp_path: Path
) -> None:
    build_with_tower(name, 6, **more).save_pretrained(tmp_path / "dense")
    with pytest.raises(UnsupportedModelError, match=reason):
        make_cut(tmp_path / "dense", drop, tmp_path / "pruned", stack="vision")
    assert not (tmp_path / "pruned").exists()


def test_the_tower_of_llama_3_2_keeps_its_intermediate_states(tmp_path: Path) -> None:
    """Its features are layers' outputs by number, those of a dropped layer its input. The tower behind the tower stays
    whole."""

    def deepen(fields: dict[str, Any]) -> None:
        fields["vision_config"].update(
            num_hidden_layers=6, intermediate_layers_indices=[1, 3, 4], vision_output_dim=128
        )

    config = zoo.build_config("mllama", deepen)
    inputs = zoo.build_inputs("mllama", config)
    pruned = cut_and_compare(zoo.build_model(config), inputs, "vision", [0, 2, 4], tmp_path)
    assert pruned.config.vision_config.intermediate_layers_indices == [0, 1, 1]
    assert pruned.config.vision_config.num_global_layers == 1


@pytest.mark.parametrize(("stack", "drop", "layers"), [("encoder", [1, 2], 2), ("decoder", [0, 5], 6)])
def test_both_halves_of_an_encoder_decoder_are_cut_exactly(
    stack: str, drop: list[int], layers: int, tmp_path: Path
) -> None:
    config = zoo.build_config("florence2")
    ids = torch.arange(20, 32).repeat(2, 1)
    inputs = {"input_ids": ids, "decoder_input_ids": ids[:, :5]}
    pruned = cut_and_compare(zoo.build_model(config), inputs, stack, drop, tmp_path)
    assert len(find_layers(pruned, stack)) == layers


@pytest.mark.parametrize(("stack", "drop"), [("text", [0, 3]), ("vision", [1, 4])])
@pytest.mark.parametrize("name", [name for (name,) in zoo.DUAL])
def test_both_sides_of_a_dual_encoder_are_cut_exactly(name: str, stack: str, drop: list[int], tmp_path: Path) -> None:
    side = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
    transformers = import_transformers()
    config = transformers.AutoConfig.for_model(
        name,
        text_config={**side, "vocab_size": 96, "max_position_embeddings": 32, "projection_size": 32},
        vision_config={**side, "image_size": 8, "patch_size": 4},
    )
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = {"input_ids": torch.arange(10, 22).repeat(2, 1), "pixel_values": torch.randn(2, 3, 8, 8)}
    cut_and_compare(model, inputs, stack, drop, tmp_path)


def test_a_stack_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    TINY["llava"].save(tmp_path / "dense")
    with pytest.raises(UnsupportedModelError, match=r"no encoder stack .* Its stacks are language, vision, text"):
        make_cut(tmp_path / "dense", [1], tmp_path / "pruned", stack="encoder")
