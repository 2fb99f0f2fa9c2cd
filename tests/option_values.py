"""A valid value that is not the default for every option, derived from the option; and records as flat tables."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from interlace_cli.options import (
    AnalyzeOptions,
    CompareOptions,
    EvaluateOptions,
    FinetuneOptions,
    Options,
    PruneOptions,
    RunOptions,
)
from interlace_cli.options.build import Entry
from interlace_cli.options.option import STEP, Slot, describe

WORDS: dict[str, Any] = {
    "figure": Path("picture.svg"),
    "objective": "distill",
    "backend": "vllm",
    "sparsity": "1:4",
    # Not what `run` takes where nothing is said.
    "ratio": 0.375,
    "strategies": ("shortgpt", "interlace/optimal"),
    "protect": (0, 1, 2, 5),
    "drop_layers": (3, 4, 6),
    "tune_layers": (3, 4, 6),
    "weight": (("chartqa", 1.0), ("text", 2.0)),
    "import_results": (("dense", Path("dense.json")), ("pruned", Path("pruned.json"))),
    "max_memory": ("20GiB", "cpu:60GiB"),
    "shard": "2/3",
    "sbatch": "--gpus=1",
}
"""Options whose values are more than a kind and bounds say."""
NOTATIONS = {
    "protect": ["0-2,5"],
    "drop_layers": ["3,4,6"],
    "tune_layers": ["3-4,6"],
    "weight": ["text=2,chartqa=1"],
    "import_results": ["dense=dense.json", "pruned=pruned.json"],
}
"""How values with a notation of their own are typed, one text an occurrence of the option."""


NEEDED: dict[tuple[type[Options], str], dict[str, Any]] = {
    (PruneOptions, "drop_layers"): {"model": "some-model"},
    (PruneOptions, "stack"): {"model": "some-model", "drop_layers": (1,)},
    (FinetuneOptions, "stack"): {"dense": True},
    (EvaluateOptions, "harness_model"): {"harness": "lmms-eval"},
    (EvaluateOptions, "harness_arg"): {"harness": "lmms-eval"},
    (CompareOptions, "sbatch"): {"submit": "slurm"},
    (CompareOptions, "hand_in"): {"submit": "slurm"},
    **{
        (record, name): {"device_map": "auto"}
        for record in (AnalyzeOptions, PruneOptions, EvaluateOptions, RunOptions, CompareOptions)
        for name in ("max_memory", "offload_folder")
    },
}
"""What else has to be given for an option to be allowed."""


def choose_value(slot: Slot) -> Any:
    """As the record holds it."""
    value = WORDS[slot.name] if slot.name in WORDS else _choose(slot)
    if slot.count == -1 and not isinstance(value, tuple):
        is_free = slot.kind is str and not slot.option.choices and slot.name not in WORDS
        value = (value, f"{value}-too") if is_free else (value,)
    assert value != slot.option.default, f"{slot.name} needs a word of its own in WORDS"
    return value


def _choose(slot: Slot) -> Any:
    o, default = slot.option, slot.option.default
    if slot.kind is bool:
        return not default
    if o.choices:
        used = default if isinstance(default, tuple) else (default,)
        others = [choice for choice in o.choices if choice not in used]
        # Where all are taken already, the first of them alone.
        return others[-1] if others else o.choices[0]
    if slot.kind in (int, float):
        one = _choose_number(slot)
        return one if slot.count == 1 else (one, _choose_number(slot, 2))
    if slot.kind is Path:
        return (
            tuple(Path(f"{slot.name}-{n}") for n in range(slot.count)) if slot.count > 1 else Path(f"some-{slot.name}")
        )
    return f"some-{slot.name}"


def _choose_number(slot: Slot, times: int = 1) -> Any:
    """A step above the default or the lowest value, or below where there is no room."""
    o = slot.option
    default = o.default[0] if isinstance(o.default, tuple) else o.default
    start = default if default is not None else o.low or 0
    room = (o.high - start if o.high is not None else 100.0) or -(start - (o.low or 0))
    if slot.kind is int:
        return int(start + times * (3 if abs(room) > 6 else 1 if room > 0 else -1))
    return round(start + times * room / 4, 9)


def type_words(entry: Entry, value: Any) -> list[str]:
    """The words that give the value on the command line."""
    slot = entry.slot
    if slot.kind is bool:
        return [entry.flag if value else slot.option.negative]
    if slot.name in NOTATIONS and value == WORDS[slot.name]:
        texts = NOTATIONS[slot.name]
    elif slot.count == 1:
        texts = [str(value)]
    elif slot.count > 1:
        texts = [str(part) for part in value]
    else:
        parts = [str(part) for part in value]
        texts = [slot.option.separator.join(parts)] if slot.option.separator else parts
    if slot.option.is_argument:
        return texts
    if slot.count > 1:
        return [entry.flag, *texts]
    return [word for text in texts for word in (entry.flag, text)]


def plain_value(slot: Slot, value: Any) -> Any:
    """As a file has it."""
    if slot.name in NOTATIONS and value == WORDS[slot.name]:
        texts = NOTATIONS[slot.name]
        return texts[0] if len(texts) == 1 else texts
    if isinstance(value, tuple):
        return [str(part) if isinstance(part, Path) else part for part in value]
    return str(value) if isinstance(value, Path) else value


def flatten(made: Any) -> dict[tuple[str, ...], Any]:
    """`("seed",)` or `("plan", "seed")` -> value of a record of options."""
    found = {(slot.name,): getattr(made, slot.name) for slot in describe(type(made))}
    for name in _list_steps(type(made)):
        found |= {(name, *path): value for path, value in flatten(getattr(made, name)).items()}
    return found


def list_defaults(record: type) -> dict[tuple[str, ...], Any]:
    """The same of a record that nothing was said for, from what is written in `options/`."""
    return dict(_find_defaults(record))


@cache
def _find_defaults(record: type) -> dict[tuple[str, ...], Any]:
    found = {(slot.name,): slot.option.default for slot in describe(record)}
    hints = get_type_hints(record)
    for name in _list_steps(record):
        found |= {(name, *path): value for path, value in _find_defaults(hints[name]).items()}
    return found


@cache
def _list_steps(record: type) -> list[str]:
    return [item.name for item in fields(record) if STEP in item.metadata]
