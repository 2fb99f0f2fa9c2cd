"""A DeepSpeed config of the user's own (`--engine FILE`): what is wrong with it is found before the model is read, and
said with the file, the field, and all that DeepSpeed says.

DeepSpeed's own parser is what finds the faults. Its sentences seldom name the field, so that is found by trying: it is
the one without which the parser has nothing to say.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.healing.recipe import Recipe
from interlace_cli.runtime.memory import is_out_of_memory
from interlace_cli.runtime.processes import is_connection_lost

Config = dict[str, Any]
ZERO = "zero_optimization"
AUTO = "auto"
PARSED_BATCH = {"train_micro_batch_size_per_gpu": 1}
"""Batches are compared with the recipe, not parsed: DeepSpeed does not know yet how many processes there are."""


def check_file(name: str, config: Config, recipe: Recipe, size: int) -> Config:
    """The config as DeepSpeed is to have it, with what the recipe says where the file says nothing. Raises UsageError
    for one that DeepSpeed does not take, or that contradicts the recipe, which alone decides the weights; `size` is the
    number of processes."""
    _check_stage(name, config)
    _check_agrees(name, config, recipe, size)
    _check_parsed(name, config)
    batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    # The optimizer is the recipe's, which DeepSpeed refuses on the host unless it is told.
    told = {"gradient_clipping": AUTO, "zero_force_ds_cpu_optimizer": False, **config, **dict.fromkeys(batch, AUTO)}
    return {**told, **{name: {"enabled": AUTO, **config.get(name, {})} for name in ("bf16", "fp16")}}


@contextmanager
def quoted(name: str, is_own_file: bool) -> Iterator[None]:
    """Says of an error within whose words are DeepSpeed's that they are."""
    try:
        yield
    except InterlaceError:
        raise
    except Exception as error:
        if not is_own_file or is_out_of_memory(error) or is_connection_lost(error):
            raise
        raise UsageError(
            f"--engine {name}: DeepSpeed does not take it: {quote(error)}.", "Correct the file."
        ) from error


def quote(error: BaseException) -> str:
    """All words of an error, on one line."""
    words = " ".join(str(error).split()).rstrip(".")
    is_said = isinstance(error, (AssertionError, ValueError)) and words
    return words if is_said else f"{type(error).__name__}: {words}".rstrip(": ")


def find_fields(config: Config, parse: Callable[[Config], object]) -> list[str]:
    """The fields, with dots, without any one of which `parse` does not raise; of several that contradict each other all
    of them."""
    found = []
    for name, value in config.items():
        if _raises(parse, {key: kept for key, kept in config.items() if key != name}):
            continue

        def parse_inner(section: Config, name: str = name) -> None:
            parse({**config, name: section})

        inner = find_fields(value, parse_inner) if isinstance(value, dict) else []
        found += [f"{name}.{field}" for field in inner] or [name]
    return found


class Watched(dict[str, Any]):
    """A config that knows which of its fields were asked for."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.seen: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """As a dict's."""
        self.seen.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.seen.add(str(key))
        return super().__contains__(key)


def strip_auto(config: Config) -> Config:
    """The config without the values that are filled in later."""
    return {
        name: strip_auto(value) if isinstance(value, dict) else value for name, value in config.items() if value != AUTO
    }


def _parse(config: Config) -> set[str]:
    """Lets DeepSpeed parse it. Returns the fields that it did not ask for."""
    from deepspeed.runtime.config import DeepSpeedConfig

    watched = Watched({**strip_auto(copy.deepcopy(config)), **PARSED_BATCH})
    # Of some faults it prints what should stand there.
    with redirect_stdout(StringIO()):
        DeepSpeedConfig(watched)
    return set(watched) - watched.seen


def _raises(parse: Callable[[Config], object], config: Config) -> bool:
    try:
        parse(config)
    except Exception:
        # Whatever it is: it is asked for because one was raised before.
        return True
    return False


def _check_stage(name: str, config: Config) -> None:
    section = config[ZERO]
    if not isinstance(section, dict):
        raise UsageError(
            f"--engine {name}: {ZERO} is {section!r}, and has to be an object with a stage.", "Correct it."
        )
    stage = section.get("stage", 0)
    if type(stage) is int and stage == 0:
        said = "is 0" if "stage" in section else "is missing, which means 0"
        raise UsageError(
            f"--engine {name}: {ZERO}.stage {said}, and divides nothing.", "Give 1, 2 or 3; or take --engine ddp."
        )
    offload = section.get("offload_optimizer")
    if isinstance(offload, dict) and offload.get("device") == "nvme":
        raise UsageError(
            f"--engine {name}: {ZERO}.offload_optimizer.device is nvme, and from there no state of healing can be"
            " saved.",
            'Write "cpu": the optimizer has a state of the tuned layers alone.',
        )


def _check_agrees(name: str, config: Config, recipe: Recipe, size: int) -> None:
    """Whether the file leaves to the recipe what the recipe decides."""
    for section in ("optimizer", "scheduler"):
        if section in config:
            options = "--optim and --lr" if section == "optimizer" else "--lr and --warmup"
            raise UsageError(
                f"--engine {name} has a field {section}, and {options} decide that.",
                f"Leave {section} out of the file.",
            )
    wanted = {
        "train_batch_size": (
            recipe.step_samples,
            f"--batch-size {recipe.batch_size} × --grad-accum {recipe.grad_accum}",
        ),
        "train_micro_batch_size_per_gpu": (
            recipe.batch_size / size,
            f"--batch-size {recipe.batch_size} over {size} processes",
        ),
        "gradient_accumulation_steps": (recipe.grad_accum, f"--grad-accum {recipe.grad_accum}"),
        "gradient_clipping": (1.0, "the recipe's norm"),
    }
    for field, (value, source) in wanted.items():
        given = config.get(field, AUTO)
        if given not in (AUTO, value) or isinstance(given, bool):
            raise UsageError(
                f"--engine {name}: {field} is {given!r}, and {source} is {value:g}.",
                f'Write "{AUTO}", or leave it out.',
            )
    for field, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        half = config.get(field)
        enabled = half.get("enabled", AUTO) if isinstance(half, dict) else AUTO
        if isinstance(enabled, bool) and enabled != (recipe.dtype == dtype) and not _are_both(config):
            raise UsageError(
                f"--engine {name}: {field}.enabled is {str(enabled).lower()}, and healing computes in {recipe.dtype}.",
                f'Write "{AUTO}", or give --dtype.',
            )


def _are_both(config: Config) -> bool:
    """Whether both halves are enabled, which DeepSpeed itself refuses."""
    return all(isinstance(config.get(n), dict) and config[n].get("enabled") is True for n in ("bf16", "fp16"))


def _check_parsed(name: str, config: Config) -> None:
    try:
        unread = _parse(config)
    except Exception as error:
        # Its parser raises whatever comes of a value that it did not expect.
        fields = find_fields(config, _parse)
        at = f"{' and '.join(fields)}: " if fields else ""
        raise UsageError(f"--engine {name}: {at}DeepSpeed says: {quote(error)}.", "Correct the file.") from error
    unknown = sorted(unread)
    if unknown:
        raise UsageError(
            f"--engine {name}: DeepSpeed knows no field {', '.join(unknown)}.", "Correct its name, or leave it out."
        )
