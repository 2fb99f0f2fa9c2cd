"""Which files of a folder, or of a repository on the Hub, hold a model's weights: those that transformers would load,
chosen as it chooses them (`_get_resolved_checkpoint_files` in its `modeling_utils.py`).

1. The file, or the index, that config.json names as `transformers_weights`.
2. `model.safetensors`, even where an index lies beside it.
3. The files that `model.safetensors.index.json` names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from interlace_cli.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
NAMED_WEIGHTS = "transformers_weights"
"""Field of config.json that names the weights."""
ADAPTER_CONFIG = "adapter_config.json"
_FORMS = (".safetensors", ".safetensors.index.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
WEIGHTS = (".safetensors", *PICKLES, ".gguf")
_FETCH = "Fetch the file again."
_CONVERT = "Convert them once: load the model with transformers' from_pretrained, and save_pretrained it elsewhere."
_NOT_WEIGHTS = re.compile(r"^(training_args|optimizer|scheduler|rng_state|scaler|random_states)\b.*")
"""Files that training leaves, in the same forms as weights."""


@dataclass(frozen=True)
class WeightFiles:
    """`names` in order, the `index` that named them, and safetensors files beside them that are not read."""

    names: list[str]
    index: str | None
    left: list[str]

    @property
    def remark(self) -> str:
        """A sentence, where other weights lie beside those that are read."""
        if not self.left:
            return ""
        shown = [*self.left[:4], *([f"{len(self.left) - 4} more"] if len(self.left) > 4 else [])]
        read = self.index or self.names[0]
        return f"The weights are those of {read}, which transformers reads; not read: {', '.join(shown)}."


def choose_weights(
    where: str,
    present: Collection[str],
    below: Iterable[str],
    config: dict[str, Any],
    read_index: Callable[[str], Any],
) -> WeightFiles:
    """`present`: names of the files in the folder `where`, `below`: paths of those in its folders, which are looked at
    where there is nothing to read. `read_index` returns the JSON value of a file of that name.
    Raises CheckpointError, which says what is there instead of weights that can be cut."""
    named = config.get(NAMED_WEIGHTS)
    if named is not None and not (isinstance(named, str) and named.endswith(_FORMS)):
        raise CheckpointError(
            f"{where}: config.json names {named!r} as {NAMED_WEIGHTS}.", "It names a safetensors file."
        )
    chosen = named or next((name for name in (SINGLE_FILE, INDEX_FILE) if name in present), None)
    if chosen is None:
        raise _describe_others(where, {*present, *below})
    index = chosen if chosen.endswith(".index.json") else None
    names = _read_names(where, chosen, read_index(chosen)) if index else [chosen]
    others = {name for name in present if _is_other(name) and name not in names and name != index}
    return WeightFiles(names, index, sorted(others))


def check_no_adapter(where: str, present: Collection[str]) -> None:
    """Raises CheckpointError where a LoRA adapter lies in the folder: transformers applies it when it loads the model,
    and what is cut would be without it."""
    if ADAPTER_CONFIG in present:
        raise CheckpointError(
            f"{where} has a PEFT adapter ({ADAPTER_CONFIG}), which is no part of the weights that are cut.",
            "Merge it first (peft's merge_and_unload, then save_pretrained), or take the adapter's files away.",
        )


def _is_other(name: str) -> bool:
    """Weights, or an index of such, that transformers could be thought to read."""
    return name.endswith(_FORMS) and not name.startswith(("consolidated", "adapter_"))


def _read_names(where: str, index: str, value: Any) -> list[str]:
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{where}/{index} has no weight_map.", _FETCH)
    names = sorted(set(weight_map.values()))
    strange = next((name for name in names if not name.endswith(".safetensors")), None)
    if strange is not None:
        raise CheckpointError(f"{where}/{index} names {strange}, which is no safetensors file.", _FETCH)
    return names


def _describe_others(where: str, present: Collection[str]) -> CheckpointError:
    """What is there instead, and what to do with it."""

    def find(*suffixes: str) -> str | None:
        found = sorted(name for name in present if name.endswith(suffixes) and not _NOT_WEIGHTS.match(name))
        return min(found, key=lambda name: (name.count("/"), name), default=None)

    variant = next((name for name in sorted(present) if re.fullmatch(r"model\.\w+\.safetensors", name)), None)
    if variant is not None:
        return CheckpointError(
            f"{where} has no {SINGLE_FILE}, but {variant}, which transformers loads only as a variant.",
            f"Rename it to {SINGLE_FILE}.",
        )
    if pickled := find(*PICKLES):
        return CheckpointError(
            f"{where} has its weights in {pickled}, and only safetensors files can be cut.", _CONVERT
        )
    if gguf := find(".gguf"):
        return CheckpointError(
            f"{where} has its weights in {gguf}, and only safetensors files can be cut.",
            "Take the model that the GGUF file was made of, and convert it to GGUF after the cut.",
        )
    if other := find(".h5", ".msgpack", ".onnx", ".ckpt.index", ".tflite", ".mlmodel", ".nemo"):
        return CheckpointError(
            f"{where} has its weights in {other}, and only safetensors files can be cut.",
            "Take the model in PyTorch's form, as transformers saves it.",
        )
    if "model_index.json" in present:
        return CheckpointError(f"{where} is a pipeline of several models.", "Give the folder of one of them.")
    stray = find(".safetensors")
    beside = f" It has {stray}, which transformers does not look for." if stray else ""
    return CheckpointError(
        f"{where} has no {SINGLE_FILE} and no {INDEX_FILE}.{beside}", "Give the folder of a whole checkpoint."
    )
