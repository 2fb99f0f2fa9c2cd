"""What `accelerate launch` is configured for is taken where the options leave it open, and refused where they say
something else: accelerate would train by its own words, and the options would stand in the record."""

from __future__ import annotations

import pytest

from interlace_cli.errors import UsageError
from interlace_cli.healing.accelerate_launch import apply_accelerate, describe_accelerate
from interlace_cli.healing.recipe import Execution, Recipe

PLAIN = {
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_USE_CPU": "False",
}
"""As accelerate 1.15 sets them where nothing is configured."""


def apply(dtype: str = "auto", device: str = "auto", engine: str = "auto", **said: str) -> tuple[str, str]:
    environ = {**PLAIN, **{f"ACCELERATE_{name}": value for name, value in said.items()}}
    recipe, how = apply_accelerate(Recipe(dtype=dtype), Execution(device=device, engine=engine), environ)
    return recipe.dtype, how.device


def test_what_is_left_open_is_taken() -> None:
    assert apply() == ("auto", "auto")
    assert apply("float32") == ("float32", "auto")
    assert apply(MIXED_PRECISION="bf16") == ("bfloat16", "auto")
    assert apply("bfloat16", MIXED_PRECISION="bf16") == ("bfloat16", "auto")
    assert apply(MIXED_PRECISION="fp16") == ("float16", "auto")
    assert apply(USE_CPU="True") == ("auto", "cpu")
    assert apply(GRADIENT_ACCUMULATION_STEPS="2") == ("auto", "auto"), "as --grad-accum"


@pytest.mark.parametrize(
    ("options", "said", "sentence"),
    [
        ({"dtype": "float32"}, {"MIXED_PRECISION": "bf16"}, "precision bf16, and --dtype is float32"),
        ({"dtype": "bfloat16"}, {"MIXED_PRECISION": "fp16"}, "precision fp16, and --dtype is bfloat16"),
        ({}, {"MIXED_PRECISION": "fp8"}, "precision fp8, in which healing cannot be done"),
        ({"device": "cuda"}, {"USE_CPU": "True"}, "for CPUs, and --device is cuda"),
        ({}, {"USE_DEEPSPEED": "true"}, "for DEEPSPEED, .* --engine, which is auto"),
        ({"engine": "fsdp"}, {"USE_FSDP": "true"}, "for FSDP, .* --engine, which is fsdp"),
        ({}, {"USE_PARALLELISM_CONFIG": "true"}, "for PARALLELISM_CONFIG"),
        ({}, {"GRADIENT_ACCUMULATION_STEPS": "4"}, "for 4 steps of gradient accumulation, and --grad-accum is 2"),
        ({}, {"DYNAMO_BACKEND": "INDUCTOR"}, "to compile by INDUCTOR"),
    ],
)
def test_what_contradicts_the_options_is_refused(options: dict[str, str], said: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        apply(**options, **said)


def test_without_accelerate_its_variables_mean_nothing() -> None:
    """transformers and accelerate set some of them themselves."""
    environ = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_DEEPSPEED": "true"}
    recipe, how = Recipe(dtype="float32"), Execution()
    assert apply_accelerate(recipe, how, environ) == (recipe, how)
    assert describe_accelerate(environ) == "none"
    assert "ACCELERATE_MIXED_PRECISION=no" in describe_accelerate(PLAIN)


def test_accelerate_launch_says_that_it_is_there() -> None:
    """By the variable that tells it from what accelerate sets in any process."""
    import argparse

    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    arguments: argparse.Namespace = launch_command_parser().parse_args(
        ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "bf16", "--dynamo_backend", "no", "x.py"]
    )
    arguments.use_cpu = False  # from its configuration's file
    _, environ = prepare_simple_launcher_cmd_env(arguments)
    recipe, _ = apply_accelerate(Recipe(), Execution(), environ)
    assert recipe.dtype == "bfloat16"
