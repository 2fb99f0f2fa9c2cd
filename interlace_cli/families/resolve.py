"""What a config.json leaves to its class: the layer count, lists of kinds, counts and patterns that published files
give otherwise ("every sixth"), as an empty list, as null, or not at all. transformers' config class is asked for them.

Each field is filled by itself. A field of the file that says something stays as it is.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from interlace_cli.errors import CheckpointError, UnsupportedModelError
from interlace_cli.families.edit import depends_on_layers
from interlace_cli.families.feature_layers import FEATURE_LAYERS, FEATURE_OWNERS, VISION_FEATURES
from interlace_cli.families.stacks import COUNTS, DECODER_COUNTS, ENCODER_COUNTS, LANGUAGE, Config, Stack, find_stack
from interlace_cli.io.child import ask
from interlace_cli.io.surgery import write_config

UNIFORM = """
    llama mistral ministral3 gemma phi opt bloom cohere granite persimmon qwen3_vl_text cosmos3_edge_text glm4v_text
    glm_ocr_text aria_text hunyuan_vl_text hyperclovax paddleocr_vl_text emu3_text_model kosmos_2_text_model
    kosmos_2_5_text_model blip_text_model granite_docling_text chameleon git clip_text_model
"""
"""`model_type` of language models whose layers are all of one kind: config.json leaves nothing out. Asking takes
seconds, which these save. `tests/unit/test_resolution.py` compares the list with transformers."""
UNIFORM_UNLESS_SLIDING = "qwen2 qwen3 qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text qwen2_5_omni_text"
"""The same, as long as `use_sliding_window` is false."""
DEEPSTACK_BESIDE = "qwen3_vl_text granite_docling_text"
"""Of these, the ones whose vision config says how many layers have features added."""
OUTSIDE = ("deepstack_layer_map", "spatial_target_layers", *FEATURE_LAYERS)
"""Fields of the whole config that speak of layers."""


def needs_resolution(config: Config, stack: Stack) -> bool:
    """Whether transformers' config class has to be asked what config.json leaves out."""
    if stack.num_layers is None or stack.name == "vision":
        return True
    inner = stack.describe_in(config)
    kind = inner.get("model_type", config.get("model_type"))
    vision = config.get("vision_config")
    has_deepstack = isinstance(vision, dict) and vision.get("deepstack_visual_indexes")
    if kind in DEEPSTACK_BESIDE.split() and not has_deepstack:
        return True
    if kind in UNIFORM_UNLESS_SLIDING.split():
        return bool(inner.get("use_sliding_window"))
    return kind not in UNIFORM.split()


def resolve(config: Config, path: Path, stack_name: str) -> tuple[Config, Config]:
    """A copy of `config`, the config.json in the folder `path`, with what transformers completes it by, and all that
    transformers knows of the stack. Where it does not know the architecture, it is asked of the language model inside;
    what it does not know either is returned as it is. Raises CheckpointError if it cannot read the config of one that
    it knows."""
    resolved = ask("interlace_cli.io.models:resolve_config", str(path))
    if resolved is None:
        stack = find_stack(config, stack_name)
        inner = stack.describe_in(config)
        found = None
        # What transformers cannot read, the code of the whole may.
        with inner_folder(config, stack) as folder, suppress(CheckpointError):
            found = ask("interlace_cli.io.models:resolve_config", str(folder)) if folder else None
        if found is None:
            return config, inner
        return put_inner(config, stack, merge_resolved(inner, found, LANGUAGE)), found
    return merge_resolved(config, resolved, stack_name), find_stack(resolved, stack_name).describe_in(resolved)


@contextmanager
def inner_folder(config: Config, stack: Stack) -> Iterator[Path | None]:
    """A folder with the config of the language model inside another model; None where there is none that may be one of
    transformers' own."""
    inner = stack.describe_in(config)
    if not stack.path or stack.name != LANGUAGE or stack.is_half or "auto_map" in inner or "model_type" not in inner:
        yield None
        return
    with tempfile.TemporaryDirectory() as scratch:
        write_config(inner, Path(scratch))
        yield Path(scratch)


def put_inner(config: Config, stack: Stack, inner: Config) -> Config:
    """A copy of `config` with `inner` as its description of the stack."""
    new = copy.deepcopy(config)
    Stack(stack.name, stack.path[:-1], None, None).describe_in(new)[stack.path[-1]] = inner
    return new


def merge_resolved(config: Config, resolved: Config, stack_name: str) -> Config:
    """A copy of `config` with what it leaves out of the stack's layers, taken from `resolved` (the same config as
    transformers completes it). What is null or an empty list in `config` is left out too."""
    merged = copy.deepcopy(config)
    stack, full_stack = find_stack(config, stack_name), find_stack(resolved, stack_name)
    full = full_stack.describe_in(resolved)
    inner = stack.describe_in(merged)
    if stack.num_layers is None and len(full_stack.path) > len(stack.path):
        for key in full_stack.path:
            if not isinstance(inner.get(key), dict):
                inner[key] = {"model_type": full.get("model_type")}
            inner = inner[key]
    layers = stack.num_layers or full_stack.num_layers or 0
    counts = {*COUNTS, *DECODER_COUNTS, *ENCODER_COUNTS} if stack.num_layers is None or stack.is_half else set()
    if full_stack.is_half and not stack.is_half:
        counts = {full_stack.count_field or ""}
    for name, value in full.items():
        if depends_on_layers(name, value, layers) or (name in counts and isinstance(value, int)):
            _fill(inner, name, value)
    for name in OUTSIDE:
        _fill(merged, name, resolved.get(name))
    for path, names in (*((path, FEATURE_LAYERS) for path in FEATURE_OWNERS), (("vision_config",), VISION_FEATURES)):
        owner, source = _find(merged, path), _find(resolved, path)
        for name in names:
            if owner is not None and source is not None:
                _fill(owner, name, source.get(name))
    return merged


def take_out_filled(edited: Config, original: Config, merged: Config) -> Config:
    """A copy of `edited` in which what `merged` has beyond `original` is again as in `original`: left out, null or
    empty. Layer counts stay."""
    lean: Config = {}
    for name, value in edited.items():
        before = original.get(name)
        if isinstance(value, dict) and isinstance(merged.get(name), dict) and (before or name in original):
            lean[name] = take_out_filled(value, before or {}, merged[name])
        elif name in (*COUNTS, *DECODER_COUNTS, *ENCODER_COUNTS) or merged.get(name) == before or name not in merged:
            lean[name] = value
        elif name in original:
            lean[name] = before
    return lean


def check_cut(
    folder: Path, lean: Config, full: Config, stack: str, kept: Sequence[int], num_layers: int
) -> tuple[Config, str]:
    """The config that is to be written, `lean` if it does, and why it could not be checked, or nothing.

    Raises UnsupportedModelError, which names the layer, the property and both values, if neither does."""
    configs = [full] if lean == full else [lean, full]
    answers = ask("interlace_cli.families.conformance:find_unlike", str(folder), configs, stack, list(kept), num_layers)
    if isinstance(answers, str):
        return full, answers
    if answers[-1] is not None:
        raise UnsupportedModelError(
            f"the layers that stay would not be the same in the pruned model: {answers[-1]}.",
            "Keep the layers that it depends on, or report the architecture.",
        )
    return configs[len(answers) - 1], ""


def _fill(owner: Config, name: str, value: Any) -> None:
    is_missing = owner.get(name) is None or owner[name] in ([], {})
    if is_missing and value is not None and value not in ([], {}):
        owner[name] = value


def _find(config: Config, path: tuple[str, ...]) -> Config | None:
    found: Any = config
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None
