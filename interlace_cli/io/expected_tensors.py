"""Which tensors transformers would look for, and not find, in a checkpoint: its own loading, on the device `meta`, from
the headers alone. It knows the older names of each architecture, and how tensors are joined and split on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from interlace_cli.errors import InterlaceError
from interlace_cli.io.child import ask
from interlace_cli.io.models import choose_auto_class, import_transformers, load_config
from interlace_cli.io.saved_names import Comparison, read_failure, read_report

_QUANTIZATION = "quantization_config"
Headers = Mapping[str, tuple[str, Sequence[int]]]
"""Name -> dtype as safetensors has it, and shape."""


def compare_with_class(path: Path, headers: Headers) -> Comparison | None:
    """What the config in the folder `path` makes transformers look for, beside the tensors of `headers`. None where it
    does not know the architecture, or cannot build it here."""
    found = ask("interlace_cli.io.expected_tensors:describe_comparison", str(path), headers)
    if found is None:
        return None
    mismatched = [(name, stored, wanted) for name, stored, wanted in found.pop("mismatched")]
    return Comparison(**found, mismatched=mismatched)


def describe_comparison(path: str, headers: Headers) -> dict[str, Any] | None:
    """The fields of the comparison, for who asks through `io/child.py`."""
    import torch

    try:
        config = load_config(Path(path))
    except InterlaceError:
        return None
    is_quantized = hasattr(config, _QUANTIZATION)
    if is_quantized:
        # Its modules are made by the quantizer's own package.
        delattr(config, _QUANTIZATION)
    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    held = {
        name: torch.empty(tuple(shape), dtype=dtypes.get(dtype, torch.float32), device="meta")
        for name, (dtype, shape) in headers.items()
    }
    try:
        model, report = _choose_class(config).from_pretrained(
            None,
            config=config,
            state_dict=held,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    # What the classes of all makers raise, for want of a package among others, is told when the model is loaded.
    except Exception as error:
        failure = read_failure(error, headers)
        return asdict(failure) if failure else None
    found = read_report(len(model.state_dict()), report)
    return asdict(_without_quantized(found, headers) if is_quantized else found)


def _choose_class(config: Any) -> Any:
    """The class that config.json names; of a name that is not transformers' own, for a head of another kind, the model
    without a head. Without a name the one that loads it here."""
    transformers = import_transformers()
    names = config.architectures or []
    named = getattr(transformers, names[0], None) if names else None
    own = getattr(named, "config_class", None)
    if own is not None and isinstance(config, own):
        return named
    bare = transformers.AutoModel._model_mapping
    if names and type(config) in bare:
        return bare[type(config)]
    return getattr(transformers, choose_auto_class(config.model_type))._model_mapping[type(config)]


def _without_quantized(found: Comparison, headers: Headers) -> Comparison:
    """Without the modules that are in the files in another form (`qweight` and `scales` in place of `weight`)."""
    floats = {name for name, (dtype, _) in headers.items() if dtype in ("F32", "BF16", "F16")}
    modules = {name[:end] for name in found.unexpected for end, letter in enumerate(name) if letter == "."}
    missing = [name for name in found.missing if name.rpartition(".")[0] not in modules]
    mismatched = [entry for entry in found.mismatched if entry[0] in floats]
    return Comparison(found.expected, missing, found.unexpected, mismatched)
