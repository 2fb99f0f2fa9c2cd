"""DeepSpeed files of the user's own: each mistake is one sentence with the file, the field and DeepSpeed's words."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from interlace_cli.errors import UsageError
from interlace_cli.healing.deepspeed_file import AUTO, check_file, find_fields, quote, strip_auto
from interlace_cli.healing.recipe import Recipe

RECIPE = Recipe(batch_size=16, grad_accum=2, dtype="bfloat16")
SOUND: dict[str, Any] = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": AUTO}, "train_batch_size": AUTO}
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"zero_optimization": {}}, "zero_optimization.stage is missing, which means 0, and divides nothing"),
        ({"zero_optimization": {"stage": 0}}, "zero_optimization.stage is 0, and divides nothing"),
        ({"zero_optimization": True}, "zero_optimization is True, and has to be an object with a stage"),
        ({"train_batch_size": 64}, r"train_batch_size is 64, and --batch-size 16 × --grad-accum 2 is 32"),
        (
            {"train_micro_batch_size_per_gpu": 3},
            r"train_micro_batch_size_per_gpu is 3, and --batch-size 16 over 2 .* is 8",
        ),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4, and --grad-accum 2 is 2"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, and the recipe's norm is 1"),
        ({"bf16": {"enabled": False}}, "bf16.enabled is false, and healing computes in bfloat16"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is true, and healing computes in bfloat16"),
        ({"optimizer": {"type": "Foo"}}, "has a field optimizer, and --optim and --lr decide that"),
        ({"scheduler": {"type": "WarmupLR"}}, "has a field scheduler, and --lr and --warmup decide that"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}},
            "offload_optimizer.device is nvme, and from there no state of healing can be saved",
        ),
    ],
)
def test_what_contradicts_the_recipe_is_named(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=rf"--engine own\.json.*{sentence}"):
        check_file("own.json", {**SOUND, **change}, RECIPE, 2)


@pytest.mark.engines
@needs_deepspeed
@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"zero_optimisation": {}}, "DeepSpeed knows no field zero_optimisation", ""),
        (
            {"zero_optimization": {"stage": 2, "bogus": 1}},
            "zero_optimization.bogus: ",
            "Extra inputs are not permitted",
        ),
        ({"zero_optimization": {"stage": 7}}, "zero_optimization.stage: ", "Input should be 0, 1, 2, 3"),
        ({"zero_optimization": {"stage": "two"}}, "zero_optimization.stage: ", "input_value='two'"),
        ({"bf16": True}, "bf16: ", "argument after ** must be a mapping, not bool"),
        (
            {"bf16": {"enabled": True}, "fp16": {"enabled": True}},
            "bf16.enabled and fp16.enabled: ",
            "bfloat16 and fp16 modes cannot be simultaneously enabled",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "gpu"}}},
            "zero_optimization.offload_optimizer.device: ",
            "Input should be 'none', 'cpu' or 'nvme'",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": 5}}},
            "zero_optimization.offload_param.nvme_path: ",
            "Input is not a valid path",
        ),
        ({"nebula": {}}, "nebula: ", "Nebula checkpointing has been removed"),
    ],
)
def test_deepspeeds_own_words_are_whole(change: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_file("own.json", {**SOUND, **change}, RECIPE, 2)
    assert caught.value.what.startswith("--engine own.json: ")
    assert field in caught.value.what
    assert words in caught.value.what
    assert "\n" not in caught.value.what


@pytest.mark.engines
@needs_deepspeed
def test_a_sound_file_is_taken_with_the_recipes_batches() -> None:
    whole = {**SOUND, "train_batch_size": 32, "gradient_clipping": 1.0, "steps_per_print": 10}
    whole["zero_optimization"] = {"stage": 3, "reduce_bucket_size": AUTO, "overlap_comm": True}
    taken = check_file("own.json", whole, RECIPE, 2)
    assert taken["train_batch_size"] == taken["gradient_accumulation_steps"] == AUTO
    assert taken["zero_optimization"] == whole["zero_optimization"]
    assert taken["bf16"] == taken["fp16"] == {"enabled": AUTO}, "or it would compute in float32"
    assert check_file("own.json", SOUND, RECIPE, 2)["gradient_clipping"] == AUTO, "or it would not clip"


def test_fields_are_found_by_leaving_them_out() -> None:
    def parse(config: dict[str, Any]) -> None:
        inner = config.get("b", {})
        if inner.get("x") == 1 and config.get("c") == 2:
            raise ValueError("two that contradict each other")

    assert find_fields({"a": 0, "b": {"x": 1, "y": 1}, "c": 2}, parse) == ["b.x", "c"]
    assert strip_auto({"a": AUTO, "b": {"c": AUTO, "d": 1}}) == {"b": {"d": 1}}
    assert quote(ValueError("one\n two.")) == "one two"
    assert quote(KeyError("x")) == "KeyError: 'x'"
