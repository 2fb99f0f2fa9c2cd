"""Which tensors transformers would look for, and not find, in a checkpoint: its own loading, on the device `meta`, from
the headers alone. It knows the older names of each architecture, and how tensors are joined and split on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interlace_cli.errors import InterlaceError
from interlace_cli.io.checkpoints import Checkpoint, open_checkpoint
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
    """None where transformers does not know the architecture, or cannot build it here. In a process of its own, unless
    transformers is loaded already: it takes hundreds of MB."""
    if "transformers" in sys.modules:
        return _compare(open_checkpoint(path))
    code = (
        "import sys; from pathlib import Path; from interlace_cli.io.expected_tensors import print_comparison\n"
        "print_comparison(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return None if found is None else Comparison(**found)


def print_comparison(path: Path) -> None:
    """As JSON, for the process that asks."""
    found = _compare(open_checkpoint(path))
    print(json.dumps(None if found is None else asdict(found)))


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
