"""Which tensors transformers would look for, and not find, in a checkpoint: its own loading, on the device `meta`, from
the headers alone. It knows the older names of each architecture, and how tensors are joined and split on the way."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interlace_cli.errors import InterlaceError
from interlace_cli.io.checkpoints import Checkpoint, open_checkpoint
from interlace_cli.io.child import ask
from interlace_cli.io.models import choose_auto_class, import_transformers, load_config


@dataclass(frozen=True)
class Comparison:
    """`expected`: how many tensors the model has. `missing`: those that the files do not have; `unexpected`: those of
    the files that it does not have, both by name. `mismatched`: name, shape in the files, shape by the config."""

    expected: int
    missing: list[str]
    unexpected: list[str]
    mismatched: list[tuple[str, list[int], list[int]]]


def compare_with_class(path: Path) -> Comparison | None:
    """None where transformers does not know the architecture, or cannot build it here."""
    found = ask("interlace_cli.io.expected_tensors:describe_comparison", str(path))
    if found is None:
        return None
    mismatched = [(name, stored, wanted) for name, stored, wanted in found.pop("mismatched")]
    return Comparison(**found, mismatched=mismatched)


def describe_comparison(path: str) -> dict[str, Any] | None:
    """The fields of the comparison, for who asks through `io/child.py`."""
    found = _compare(open_checkpoint(path))
    return None if found is None else asdict(found)


def _compare(checkpoint: Checkpoint) -> Comparison | None:
    transformers = import_transformers()
    import torch

    try:
        config = load_config(checkpoint.path)
        known = getattr(transformers, choose_auto_class(config.model_type))._model_mapping
        model_class = known[type(config)]
    except (InterlaceError, KeyError):
        return None
    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    held = {
        name: torch.empty(tensor.shape, dtype=dtypes.get(tensor.dtype, torch.float32), device="meta")
        for name, tensor in checkpoint.tensors.items()
    }
    try:
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=held,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    # What the classes of all makers raise, for want of a package among others, is told when the model is loaded.
    except Exception:
        return None
    return Comparison(
        expected=len(model.state_dict()),
        missing=sorted(report["missing_keys"]),
        unexpected=sorted(report["unexpected_keys"]),
        mismatched=sorted(_read_mismatch(entry) for entry in report["mismatched_keys"]),
    )


def _read_mismatch(entry: Any) -> tuple[str, list[int], list[int]]:
    name, stored, wanted = entry
    return name, list(stored), list(wanted)
