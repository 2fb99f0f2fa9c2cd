"""The forms in which models were published, made from the config.json that today's transformers writes: lists of layers
left out, empty or null, older names of fields, text fields at the top level."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from interlace_cli.families.edit import depends_on_layers
from interlace_cli.families.stacks import find_stack

Fields = dict[str, Any]
OLDER = {"dtype": "torch_dtype", "num_experts_per_tok": None}


def iter_forms(config: Fields) -> Iterator[tuple[str, Fields]]:
    """Name and config of each form. What it leaves out is for the config class to fill in, so that some are another
    model than the one given; a few are no model at all."""
    stack = find_stack(config)
    inner = stack.describe_in(config)
    layers = stack.num_layers or 0
    fields = [name for name, value in inner.items() if value is not None and depends_on_layers(name, value, layers)]
    lists = [name for name in fields if isinstance(inner[name], (list, dict))]
    for name in fields:
        yield f"no {name}", _change(config, lambda text, name=name: text.pop(name))
        if isinstance(inner[name], list):
            yield f"empty {name}", _change(config, lambda text, name=name: text.update({name: []}))
            yield f"null {name}", _change(config, lambda text, name=name: text.update({name: None}))
    if len(lists) > 1:
        yield "no lists", _change(config, lambda text: [text.pop(name) for name in lists])
        yield "no lists or counts", _change(config, lambda text: [text.pop(name) for name in fields])
    yield "older", build_older(config)
    if stack.path == ("text_config",):
        yield "flat", build_flat(config)


def build_older(config: Fields) -> Fields:
    """With the names that fields had before transformers 5."""
    older: Fields = {}
    for name, value in config.items():
        if isinstance(value, dict) and name != "rope_parameters":
            older[name] = build_older(value)
        elif name == "dtype":
            older["torch_dtype"] = value
        elif name == "rope_parameters" and isinstance(value, dict) and "rope_type" in value:
            scaling = {key: item for key, item in value.items() if key not in ("rope_theta", "partial_rotary_factor")}
            older |= {key: value[key] for key in ("rope_theta", "partial_rotary_factor") if key in value}
            older["rope_scaling"] = None if scaling == {"rope_type": "default"} else scaling
        else:
            older[name] = value
    return older


def build_flat(config: Fields) -> Fields:
    """With the language model's fields beside the vision config, as Qwen2-VL has them."""
    text = {name: value for name, value in config["text_config"].items() if name != "model_type"}
    return {**text, **{name: value for name, value in config.items() if name != "text_config"}}


def _change(config: Fields, change: Callable[[Fields], Any]) -> Fields:
    changed = copy.deepcopy(config)
    change(find_stack(changed).describe_in(changed))
    return changed
