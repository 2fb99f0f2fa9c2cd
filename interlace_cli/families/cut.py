"""What a cut of a checkpoint comes to, before anything is written: the new config, the tensors under their new names,
and what people should know of it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interlace_cli.domain.layers import describe_layers, kept_layers
from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.architectures import is_tested
from interlace_cli.families.edit import edit_config
from interlace_cli.families.general import check_general_rules
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.families.quantization import Renumbering
from interlace_cli.families.resolve import check_cut, inner_folder, put_inner, take_out_filled
from interlace_cli.families.stacks import Config, find_stack
from interlace_cli.families.tensors import COLUMNS, build_numbering, build_renaming, build_side_modules, find_stacked
from interlace_cli.io.child import ask
from interlace_cli.io.expected_tensors import compare_with_class
from interlace_cli.io.files import parse_json
from interlace_cli.io.links import find_inside
from interlace_cli.io.model_json import to_canonical_json
from interlace_cli.io.saved_names import describe_lack
from interlace_cli.io.side_files import is_processor_file
from interlace_cli.io.surgery import NewTensor, Slices, select_tensors, write_config


def select_cut(
    opened: OpenedModel, drop: Sequence[int], replaced: Mapping[str, bytes] | None = None
) -> list[NewTensor]:
    """The tensors that stay under their new names, some of them `replaced` (by old name)."""
    facts, stack = opened.facts, opened.stack
    kept = kept_layers(drop, facts.num_layers)
    numbering = build_numbering(kept, facts.num_layers, opened.extra)
    side_modules = build_side_modules(opened.config, stack, kept, facts.num_layers)
    names = build_renaming(opened.checkpoint.tensors, opened.layer_prefix, numbering, side_modules)
    stacked = find_stacked(opened.checkpoint.tensors) if stack.name != "vision" else {}
    slices = {name: Slices(axis == COLUMNS, kept, facts.num_layers) for name, axis in stacked.items()}
    return select_tensors(opened.checkpoint, names, replaced, slices)


def cut_config(opened: OpenedModel, drop: Sequence[int]) -> tuple[Config, list[str]]:
    """The new config, as close to config.json as it can be, and what people should know of the cut, a sentence each.

    Raises UnsupportedModelError if a layer that stays would be another one in the pruned model, and CheckpointError if
    tensors are missing."""
    stack, layers = opened.stack, opened.facts.num_layers
    kept, path = kept_layers(drop, layers), opened.checkpoint.path
    config = edit_config(opened.config, stack, kept, layers)
    numbering = build_numbering(kept, layers, opened.extra)
    config = _build_names(opened, numbering).edit_config(config)
    if not _is_known(opened):
        check_general_rules(opened.config, stack, kept, layers)
        config, notes = _check_inner(opened, config, kept)
        return config, describe_cut(opened, drop) + notes
    lean = take_out_filled(config, opened.checkpoint.config, opened.config)
    config, doubt = check_cut(path, lean, config, stack.name, kept, layers)
    if doubt and not is_tested(opened.facts.model_type, stack.name):
        check_general_rules(opened.config, stack, kept, layers)
    check_whole(opened, config, drop)
    notes = [f"The layers' properties could not be compared without weights: {doubt}."] if doubt else []
    return config, describe_cut(opened, drop) + notes


def _check_inner(opened: OpenedModel, config: Config, kept: Sequence[int]) -> tuple[Config, list[str]]:
    """Of a model that transformers does not know: the new config, and what came of comparing the language model inside,
    where transformers knows that. Custom code takes its classes."""
    stack, written = opened.stack, opened.checkpoint.config
    lean = take_out_filled(config, written, opened.config)
    # transformers may complete what it reads, so it is given what was published.
    with inner_folder(written, find_stack(written, stack.name)) as folder:
        if folder is None or not ask("interlace_cli.io.models:knows", str(folder)):
            return config, []
        inner, full = stack.describe_in(lean), stack.describe_in(config)
        chosen, doubt = check_cut(folder, inner, full, stack.name, kept, opened.facts.num_layers)
    kind = chosen.get("model_type")
    if doubt:
        return put_inner(config, stack, chosen), []
    notes = [f"Its language model's layers were compared as those of transformers' {kind}."]
    if chosen != inner:
        added = ", ".join(name for name in chosen if chosen[name] != inner.get(name))
        notes.append(f"Its config.json now has {added}: code that does not read that would make another model of it.")
    return put_inner(lean, stack, chosen), notes


def check_whole(opened: OpenedModel, config: Config, drop: Sequence[int]) -> None:
    """Raises CheckpointError where transformers would not find a tensor of the pruned model with the new `config`, nor
    of the dense one, and would fill it with random values; UnsupportedModelError where it is the cut that loses it."""
    new = {tensor.name: (tensor.source.dtype, tensor.shape) for tensor in select_cut(opened, drop)}
    with tempfile.TemporaryDirectory() as scratch:
        write_config(config, Path(scratch))
        found = compare_with_class(Path(scratch), new)
    if found is None or found.is_whole:
        return
    path, stored = opened.checkpoint.path, opened.checkpoint.tensors.values()
    dense = compare_with_class(path, {tensor.name: (tensor.dtype, tensor.shape) for tensor in stored})
    if dense is not None and not dense.is_whole:
        raise describe_lack(path, dense)
    lack = describe_lack(Path("the pruned checkpoint"), found)
    raise UnsupportedModelError(f"the cut would not be whole: {lack.what}", "Report the architecture.")


def edit_side_files(opened: OpenedModel, drop: Sequence[int]) -> dict[str, bytes]:
    """File -> new content, of those that go with the model and name layers by number: settings of a quantizer beside
    the config, for one. Raises UnsupportedModelError for a file of another form that does."""
    facts = opened.facts
    names = _build_names(opened, build_numbering(kept_layers(drop, facts.num_layers), facts.num_layers, opened.extra))
    edited = {}
    for file in opened.checkpoint.find_side_files().carried:
        if is_processor_file(file) or file.endswith((".py", ".jinja")):
            continue
        data = find_inside(opened.checkpoint.path, file).read_bytes()
        value = parse_json(data) if file.endswith(".json") else None
        if isinstance(value, dict | list):
            new = names.walk(value, file)
            if new != value:
                edited[file] = (json.dumps(new, indent=4) + "\n").encode()
        elif f"{opened.layer_prefix}.".encode() in data:
            raise UnsupportedModelError(
                f"{opened.checkpoint.path / file} names layers, which a cut renumbers, in a form that is not known.",
                "Take it away if nothing needs it.",
            )
    return edited


def _build_names(opened: OpenedModel, numbering: Mapping[int, int]) -> Renumbering:
    is_vision = opened.stack.name == "vision"
    return Renumbering(opened.checkpoint.tensors, opened.layer_prefix, is_vision, numbering)


def compare_configs(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> dict[str, tuple[str, str]]:
    """Field, with dots between names -> old and new value as JSON, of those that differ."""
    changes: dict[str, tuple[str, str]] = {}
    for field in [*old, *(field for field in new if field not in old)]:
        before, after = old.get(field), new.get(field)
        if isinstance(before, dict) and isinstance(after, dict):
            changes.update(compare_configs(before, after, f"{path}{field}."))
        elif before != after:
            changes[path + field] = (to_canonical_json(before).decode(), to_canonical_json(after).decode())
    return changes


def describe_cut(opened: OpenedModel, drop: Sequence[int]) -> list[str]:
    """What is not as somebody may think, a sentence each."""
    deepstack = _describe_deepstack(drop, opened.facts.deepstack_layers)
    return deepstack + _describe_untested(opened) + _describe_code(opened)


def _describe_code(opened: OpenedModel) -> list[str]:
    """Python that goes with the model is not edited."""
    layer = re.compile(rf"\b{re.escape(opened.layer_prefix.rpartition('.')[2])}\.\d+\b")
    notes = []
    for file in opened.checkpoint.find_side_files().carried:
        if file.endswith(".py"):
            found = layer.search(find_inside(opened.checkpoint.path, file).read_text(errors="replace"))
            if found:
                notes.append(f"{file} names a layer by its old number ({found[0]}): look whether it is right.")
    return notes


def _describe_untested(opened: OpenedModel) -> list[str]:
    kind, stack = opened.facts.model_type, opened.facts.stack
    if not _is_known(opened):
        return [
            f"transformers does not know {kind} models of this layout: the {stack} stack was cut by general rules, by"
            " its files alone, and its tensors were compared with nothing. Try it with its own code."
        ]
    if is_tested(kind, stack):
        return []
    return [
        f"The {stack} stack of {kind} is not among those that interlace is tested with: its layers were found by the"
        " general rules. --verify compares what came of it."
    ]


def _is_known(opened: OpenedModel) -> bool:
    """Whether transformers knows the architecture, in this layout."""
    return bool(ask("interlace_cli.io.models:knows", str(opened.checkpoint.path)))


def _describe_deepstack(drop: Sequence[int], deepstack: int) -> list[str]:
    lost = [layer for layer in drop if layer < deepstack]
    if not lost:
        return []
    return [
        f"The vision features that DeepStack adds after dropped layers ({describe_layers(lost)}) go with these layers:"
        " what is left equals the dense model with both bypassed."
    ]
