"""What `accelerate launch` has been configured for, beside the options of a healing. accelerate reads it from the
environment whatever the Trainer's arguments say; so what contradicts them is refused, and what they leave open is
taken. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from interlace_cli.errors import UsageError
from interlace_cli.healing.recipe import Execution, Recipe

LAUNCHED = "ACCELERATE_DYNAMO_MODE"
"""Set by `accelerate launch` whatever it starts, and by nothing else."""
PRECISION = "ACCELERATE_MIXED_PRECISION"
DTYPES = {"fp16": "float16", "bf16": "bfloat16"}
USED, ON_CPU = "ACCELERATE_USE_", "ACCELERATE_USE_CPU"
ACCUMULATED = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
COMPILER = "ACCELERATE_DYNAMO_BACKEND"
YES = ("true", "1", "yes", "on")


def apply_accelerate(recipe: Recipe, how: Execution, environ: Mapping[str, str]) -> tuple[Recipe, Execution]:
    """Both with what `environ` says where they say `auto`. Raises UsageError for what contradicts them."""
    if LAUNCHED not in environ:
        return recipe, how
    _check_engine(environ, how)
    _check_accumulation(environ, recipe)
    return _apply_precision(environ, recipe), _apply_device(environ, how)


def describe_accelerate(environ: Mapping[str, str]) -> str:
    """What processes have to agree on, in one line; "none" where accelerate has not started this one."""
    if LAUNCHED not in environ:
        return "none"
    names = [name for name in environ if name in (PRECISION, ACCUMULATED, COMPILER) or name.startswith(USED)]
    return ", ".join(f"{name}={environ[name]}" for name in sorted(names))


def _apply_precision(environ: Mapping[str, str], recipe: Recipe) -> Recipe:
    said = environ.get(PRECISION, "no").lower()
    if said == "no":
        return recipe
    dtype = DTYPES.get(said)
    if dtype is None:
        raise UsageError(
            f"`accelerate launch` is configured for the mixed precision {said}, in which healing cannot be done.",
            "Give it --mixed_precision no, and the dtype by --dtype.",
        )
    if recipe.dtype not in ("auto", dtype):
        raise UsageError(
            f"`accelerate launch` is configured for the mixed precision {said}, and --dtype is {recipe.dtype}.",
            f"Give --dtype {dtype} here, or --mixed_precision no there.",
        )
    return replace(recipe, dtype=dtype)


def _apply_device(environ: Mapping[str, str], how: Execution) -> Execution:
    if environ.get(ON_CPU, "").lower() not in YES or how.device == "cpu":
        return how
    if how.device != "auto":
        raise UsageError(
            f"`accelerate launch` is configured for CPUs, and --device is {how.device}.",
            "Leave out --cpu there, or give --device cpu here.",
        )
    return replace(how, device="cpu")


def _check_engine(environ: Mapping[str, str], how: Execution) -> None:
    """interlace sets up each engine itself, from `--engine` alone: accelerate's settings of one would not be used."""
    for name, value in sorted(environ.items()):
        if name.startswith(USED) and name != ON_CPU and value.lower() in YES:
            raise UsageError(
                f"`accelerate launch` is configured for {name.removeprefix(USED)}, whose settings healing does not"
                f" read: it sets up its engine by --engine, which is {how.engine}.",
                "Leave it out of accelerate's configuration (--multi_gpu starts processes alone), and give --engine.",
            )
    compiler = environ.get(COMPILER, "no")
    if compiler.lower() != "no":
        raise UsageError(
            f"`accelerate launch` is configured to compile by {compiler}, and healing compiles no model.",
            "Give it --dynamo_backend no.",
        )


def _check_accumulation(environ: Mapping[str, str], recipe: Recipe) -> None:
    said = environ.get(ACCUMULATED, "1")
    if said not in ("1", str(recipe.grad_accum)):
        raise UsageError(
            f"`accelerate launch` is configured for {said} steps of gradient accumulation, and --grad-accum is"
            f" {recipe.grad_accum}.",
            "Give both the same, or accelerate none.",
        )
