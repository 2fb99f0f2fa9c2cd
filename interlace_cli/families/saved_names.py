"""Whether a checkpoint's tensors were saved as transformers would load them: found from their names and shapes, before
anything is made of them.

Training tools wrap a model, and a state that is saved from outside the wrapper has its name in front of every tensor
(`module.` of DDP and DeepSpeed, `base_model.model.` of PEFT). ZeRO-3 leaves empty tensors where no process gathered
them. transformers loads neither; only who saved it can mend it, so it is refused, and not renamed: what was saved from
a wrapper may be unmerged or partial too, and the dense model could not be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from interlace_cli.errors import CheckpointError
from interlace_cli.families.stacks import Config, Stack
from interlace_cli.families.towers import is_tower
from interlace_cli.io.expected_tensors import Comparison
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


def check_saved_names(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises CheckpointError for what training tools leave, as the names and shapes alone say."""
    _check_no_empty(tensors)
    _check_no_wrapper(path, tensors)


def check_expected(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    config: Config,
    stack: Stack,
    compare: Callable[[Path], Comparison | None],
) -> None:
    """Raises CheckpointError where transformers would not find these tensors. `compare` asks it, which takes seconds:
    only where something about the names or shapes is out of the ordinary."""
    # Quantized modules have names of their own, which only the quantizer knows.
    if "quantization_config" in config or not is_suspicious(tensors, config, stack):
        return
    found = compare(path)
    if found is not None and (found.missing or found.mismatched):
        raise _describe(path, found)


def is_suspicious(tensors: Mapping[str, TensorInfo], config: Config, stack: Stack) -> bool:
    """Whether transformers is to be asked: all names have another beginning in common than `model.`, or even the head
    lies under it; what an adapter wraps is among them; a config with a vision tower has none; the input embedding is of
    another size than the config says."""
    beginnings = {name.partition(".")[0] for name in tensors}
    parts = {part for name in tensors for part in name.split(".")}
    common = len(beginnings) == 1
    has_inner_head = common and any(name.split(".")[1:2] == ["lm_head"] for name in tensors)
    lacks_tower = isinstance(config.get("vision_config"), dict) and not any(map(is_tower, tensors))
    return (
        (common and beginnings != {"model"})
        or has_inner_head
        or "base_layer" in parts
        or lacks_tower
        or find_common(tensors).startswith("model.model.")
        or _has_other_embedding(tensors, stack.describe_in(config))
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


def _has_other_embedding(tensors: Mapping[str, TensorInfo], inner: Config) -> bool:
    rows = inner.get("vocab_size")
    shapes = [
        tensor.shape for name, tensor in tensors.items() if name.endswith("embed_tokens.weight") and not is_tower(name)
    ]
    return isinstance(rows, int) and len(shapes) == 1 and shapes[0][:1] != (rows,)


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


def _describe(path: Path, found: Comparison) -> CheckpointError:
    """What is missing, and whether a beginning of all names is to blame."""
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
            _WHOLE,
        )
    name, stored, wanted = found.mismatched[0]
    return CheckpointError(
        f"{path}: tensor {name} has the shape {stored}, and by config.json it would have {wanted}.",
        "Take the config.json that was saved with the weights.",
    )


def _describe_prefix(path: Path, common: str, example: str, fix: str) -> CheckpointError:
    names = f"the tensors' names begin with `{_shorten(common)}` ({_shorten(example)})"
    return CheckpointError(f"{path}: {names}, where transformers would not find them.", fix)


def _shorten(name: str) -> str:
    return name if len(name) <= _MOST_SHOWN else f"{name[: _MOST_SHOWN - 4]} ..."
