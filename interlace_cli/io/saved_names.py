"""Whether a checkpoint's tensors were saved as transformers would load them: found from their names and shapes, before
anything is made of them.

Training tools wrap a model, and a state that is saved from outside the wrapper has its name in front of every tensor
(`module.` of DDP and DeepSpeed, `base_model.model.` of PEFT). ZeRO-3 leaves empty tensors where no process gathered
them. transformers loads neither; only who saved it can mend it, so it is refused, and not renamed: what was saved from
a wrapper may be unmerged or partial too, and the dense model could not be measured.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace_cli.errors import CheckpointError
from interlace_cli.io.headers import TensorInfo

_UNWRAP = "Save the model itself, not its wrapper: accelerator.unwrap_model(model).save_pretrained(...)."
_MERGE = "Merge the adapter, and save what comes of it: model.merge_and_unload().save_pretrained(...)."
_GATHER = (
    "Save it again with stage3_gather_16bit_weights_on_model_save, or make whole weights of the training's checkpoint"
    " with DeepSpeed's zero_to_fp32.py."
)
_WHOLE = (
    "Save the whole model again with save_pretrained: unwrapped (accelerator.unwrap_model), and adapters merged"
    " (merge_and_unload)."
)
WRAPPERS = {
    "module": _UNWRAP,
    "_orig_mod": _UNWRAP,
    "_forward_module": _UNWRAP,
    "_fsdp_wrapped_module": _UNWRAP,
    "_checkpoint_wrapped_module": _UNWRAP,
    "base_model": _MERGE,
}
"""Part of a name that a training tool puts in front -> what to do."""
_FLOATING = ("F", "BF")
_MOST_SHOWN = 120
_LAST_NUMBER = re.compile(r"(?P<list>.*\.)(?P<number>\d+)(?P<rest>\..*)")


@dataclass(frozen=True)
class Comparison:
    """What transformers looks for, beside what the files hold. `expected`: how many tensors the model has. `missing`:
    those that the files do not have; `unexpected`: those of the files that it does not have, both by name.
    `mismatched`: name, shape in the files, shape by the config."""

    expected: int
    missing: list[str]
    unexpected: list[str]
    mismatched: list[tuple[str, list[int], list[int]]]

    @property
    def is_whole(self) -> bool:
        """Whether every tensor of the model is in the files, in its shape."""
        return not self.missing and not self.mismatched


def read_report(expected: int, report: Mapping[str, Any]) -> Comparison:
    """Of the report that `from_pretrained` gives of a model of `expected` tensors."""
    return Comparison(
        expected=expected,
        missing=sorted(report["missing_keys"]),
        unexpected=sorted(report["unexpected_keys"]),
        mismatched=sorted((name, list(stored), list(wanted)) for name, stored, wanted in report["mismatched_keys"]),
    )


def read_failure(error: Exception, names: Collection[str]) -> Comparison | None:
    """Of the error of `from_pretrained` where tensors cannot be joined, as an expert's is missing among those `names`;
    None if it is about something else, or all are there."""
    gaps = find_gaps(names) if "conversion of the weights" in str(error) else []
    return Comparison(len(names) + len(gaps), gaps, [], []) if gaps else None


def find_gaps(names: Iterable[str]) -> list[str]:
    """Names that modules of one list lack beside each other. Example: `experts.0.up`, `experts.0.down`, `experts.1.up`
    -> `experts.1.down`."""
    held: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        match = _LAST_NUMBER.fullmatch(name)
        if match:
            held[match["list"]][match["rest"]].add(match["number"])
    gaps = []
    for prefix, members in held.items():
        numbers = set().union(*members.values())
        gaps += [f"{prefix}{number}{rest}" for rest, found in members.items() for number in numbers - found]
    return sorted(gaps)


def check_saved_names(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises CheckpointError for what training tools leave, as the names and shapes alone say."""
    _check_no_empty(tensors)
    _check_no_wrapper(path, tensors)


def describe_lack(path: Path, found: Comparison) -> CheckpointError:
    """What is missing, or of another shape, and whether a beginning of all names is to blame."""
    common = find_common(found.unexpected)
    missing = set(found.missing)
    while common:
        if sum(name.removeprefix(common) in missing for name in found.unexpected) * 2 > len(found.unexpected):
            fix = WRAPPERS.get(common.split(".")[0], _WHOLE)
            return _describe_prefix(path, common, found.unexpected[0], fix)
        common = common[: common[:-1].rfind(".") + 1]
    if found.missing:
        beside = (
            f" The files have {_shorten(found.unexpected[0])}, which it does not look for." if found.unexpected else ""
        )
        return CheckpointError(
            f"{path} lacks {len(found.missing)} of the {found.expected} tensors that transformers looks for,"
            f" {found.missing[0]} for one.{beside}",
            _WHOLE if found.unexpected else "Its files have to be whole, and its weights and config.json of one model.",
        )
    name, stored, wanted = found.mismatched[0]
    return CheckpointError(
        f"{path}: tensor {name} has the shape {stored}, and by config.json it would have {wanted}.",
        "Take the config.json that was saved with the weights.",
    )


def find_common(names: Iterable[str]) -> str:
    """The parts that all names begin with, with a dot behind; none if they differ at once."""
    listed = list(names)
    if not listed:
        return ""
    # Of sorted texts, the first and the last share what all do.
    first, last = min(listed), max(listed)
    shared = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[: first.rfind(".", 0, shared) + 1]


def _check_no_empty(tensors: Mapping[str, TensorInfo]) -> None:
    empty = sorted(n for n, tensor in tensors.items() if not tensor.parameters and tensor.dtype.startswith(_FLOATING))
    if empty:
        tensor = tensors[empty[0]]
        raise CheckpointError(
            f"{tensor.file}: {len(empty)} of {len(tensors)} tensors are empty, {_shorten(empty[0])} (shape"
            f" {list(tensor.shape)}) for one, as ZeRO-3 leaves those that are not gathered.",
            _GATHER,
        )


def _check_no_wrapper(path: Path, tensors: Collection[str]) -> None:
    common = find_common(tensors)
    for wrapper, fix in WRAPPERS.items():
        leading = "base_model.model." if common.startswith("base_model.model.") else f"{wrapper}."
        inner = None if not wrapper.startswith("_") else next((n for n in tensors if f".{wrapper}." in n), None)
        if common.startswith(f"{wrapper}."):
            raise _describe_prefix(path, leading, min(tensors), fix)
        if inner is not None:
            raise CheckpointError(
                f"{path}: {_shorten(inner)} has `{wrapper}.` in its name, so that transformers would not find it.", fix
            )


def _describe_prefix(path: Path, common: str, example: str, fix: str) -> CheckpointError:
    names = f"the tensors' names begin with `{_shorten(common)}` ({_shorten(example)})"
    return CheckpointError(f"{path}: {names}, where transformers would not find them.", fix)


def _shorten(name: str) -> str:
    return name if len(name) <= _MOST_SHOWN else f"{name[: _MOST_SHOWN - 4]} ..."
