"""Whether every layer that is kept would be the same in the pruned model, found without weights: both models are built
on the meta device and compared layer by layer.

Compared are the classes of modules, names, shapes and dtypes of parameters and buffers, whatever plain values the
modules hold, and the lists with one entry per layer in the modules around the layers and in their config. Numbers that
name layers have to follow them. So a rule that a config class derives from a layer's number ("every fourth", "the
last two") shows, whatever its name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interlace_cli.errors import CheckpointError, InterlaceError
from interlace_cli.families.edit import NOT_PER_LAYER
from interlace_cli.families.modules import find_layers, find_prefix
from interlace_cli.families.stacks import Config, find_stack
from interlace_cli.families.tensors import CROSS_ATTENTION, DEEPSTACK, find_stacked
from interlace_cli.io.models import choose_auto_class, import_transformers, load_config
from interlace_cli.io.surgery import write_config

_ABSENT = "<none>"
Value = Any
"""A value made plain: None, bool, int, float, str, or tuples of such."""


@dataclass(frozen=True)
class Built:
    """A model on the meta device and the layers of one stack in it."""

    model: nn.Module
    layers: nn.ModuleList
    fields: Config

    @property
    def around(self) -> list[tuple[str, nn.Module]]:
        """The modules around the layers, outermost first."""
        words = find_prefix(self.model, self.layers).split(".")[:-1]
        names = [".".join(words[:count]) for count in range(len(words) + 1)]
        return [(name, self.model.get_submodule(name)) for name in names]


def find_unlike(
    folder: str, configs: Sequence[Config], stack: str, kept: Sequence[int], num_layers: int
) -> list[str | None] | str:
    """For each of `configs`, up to the first that is right: the first difference between its layers and those `kept` of
    the `num_layers` of the dense model in `folder`, in words; None if it is right. A text says why the models cannot be
    built."""
    answers: list[str | None] = []
    try:
        dense = build(load_config(Path(folder)), stack)
    except InterlaceError as error:
        return error.what.removesuffix(".")
    if len(dense.layers) != num_layers:
        return [f"transformers reads {len(dense.layers)} layers from config.json, and not {num_layers}"]
    for config in configs:
        with tempfile.TemporaryDirectory() as scratch:
            write_config(config, Path(scratch))
            try:
                answers.append(compare(dense, build(load_config(Path(scratch)), stack), kept))
            except InterlaceError as error:
                answers.append(error.what.removesuffix("."))
        if answers[-1] is None:
            break
    return answers


def build(config: Any, stack: str) -> Built:
    """The model of a transformers config; the language model alone where the whole cannot be built, for lack of a
    package, say. Raises CheckpointError if neither can be."""
    transformers = import_transformers()
    whole, inner = config, config.get_text_config(decoder=True)
    reason = ""
    for part in (whole, inner) if inner is not whole and stack != "vision" else (whole,):
        try:
            with torch.device("meta"):
                model = getattr(transformers, choose_auto_class(part.model_type)).from_config(part)
            name = stack if part is whole else "language"
            layers = find_layers(model, name)
        # As with configs: what classes of all makers raise.
        except Exception as error:
            reason = reason or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        fields = model.config.to_dict()
        return Built(model, layers, find_stack(fields, name).describe_in(fields))
    raise CheckpointError(f"transformers cannot build the model: {reason}")


def compare(dense: Built, pruned: Built, kept: Sequence[int]) -> str | None:
    """The first difference in words."""
    if len(pruned.layers) != len(kept):
        return f"the pruned model has {len(pruned.layers)} layers instead of {len(kept)}"
    position = {layer: index for index, layer in enumerate(kept)}
    was, now = describe_layers(dense), describe_layers(pruned)
    own = _find_own_numbers(was)
    for new, old in enumerate(kept):
        for name in [*was[old], *(name for name in now[new] if name not in was[old])]:
            before, after = was[old].get(name, _ABSENT), now[new].get(name, _ABSENT)
            if name in own and type(before) is int and type(after) is int and before - old == after - new:
                continue
            if before != after and not _follows(name, before, after, position, len(was)):
                return f"{name} of layer {old} is {_shorten(before)}, and would become {_shorten(after)}"
            if before == after and _is_index(name) and _move(before, position) != after:
                return f"{name} of layer {old} names layer {before!r}, which will have another number"
    return _compare_lists(dense, pruned, kept) or _compare_outside(dense, pruned)


def _follows(name: str, before: Value, after: Value, position: Mapping[int, int], total: int) -> bool:
    """Whether a value that has changed names the same layers by their new numbers: one of them, all of them one by one,
    or pairs of a layer and something."""
    if isinstance(before, tuple) and len(before) == total:
        sliced = tuple(before[layer] for layer in position)
        return after == sliced or (_are_ints(before) and after == _move(before, position))
    if isinstance(before, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in before):
        return after == tuple((position[layer], rest) for layer, rest in before if layer in position)
    return _may_be_index(name) and _move(before, position) == after


def _compare_outside(dense: Built, pruned: Built) -> str | None:
    """The first parameter outside the layers that has another shape, or is in one of the models alone, in words. Those
    that hold a slice for each layer, and side modules of layers, follow by rules of their own."""
    was, now = _find_outside(dense), _find_outside(pruned)
    for name in [*was, *(name for name in now if name not in was)]:
        before, after = was.get(name, _ABSENT), now.get(name, _ABSENT)
        is_side = any(f"{word}." in name for word in (*DEEPSTACK, CROSS_ATTENTION))
        if before != after and not is_side and not find_stacked([name]):
            return f"{name}, outside the layers, is {_shorten(before)}, and would become {_shorten(after)}"
    return None


def _find_outside(built: Built) -> dict[str, Value]:
    inside = f"{find_prefix(built.model, built.layers)}."
    return {
        name: tuple(parameter.shape)
        for name, parameter in built.model.named_parameters()
        if not name.startswith(inside)
    }


def describe_layers(built: Built) -> list[dict[str, Value]]:
    """Of each layer, name -> value of what it is: classes, parameters, buffers, plain attributes."""
    owner: Any = built.model
    configs = {id(config): config.to_dict() for config in _iter_configs(owner.config)}
    return [_describe(layer, configs) for layer in built.layers]


def _describe(layer: nn.Module, configs: Mapping[int, Config]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for path, module in layer.named_modules():
        where = f"{path}." if path else ""
        found[f"{where}class"] = type(module).__name__
        for kind in ("_parameters", "_buffers"):
            for name, tensor in vars(module)[kind].items():
                found[where + name] = None if tensor is None else (tuple(tensor.shape), str(tensor.dtype))
        for name, value in vars(module).items():
            if name.startswith("_") or name == "training":
                continue
            if not hasattr(value, "model_type"):
                found[where + name] = _to_plain(value)
            elif id(value) not in configs:
                found.update(_describe_own(f"{where}{name}.", value, configs))
    return found


def _describe_own(where: str, config: Any, configs: Mapping[int, Config]) -> dict[str, Value]:
    """What a layer's own config says that the model's config of its type does not."""
    same = next((fields for fields in configs.values() if fields.get("model_type") == config.model_type), {})
    return {
        where + name: _to_plain(value)
        for name, value in config.to_dict().items()
        if name not in same or _to_plain(same[name]) != _to_plain(value)
    }


def _iter_configs(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(config, "sub_configs", {}):
        inner = getattr(config, name, None)
        if inner is not None and hasattr(inner, "to_dict"):
            yield from _iter_configs(inner)


def _find_own_numbers(layers: Sequence[Mapping[str, Value]]) -> set[str]:
    """Names of attributes that hold the layer's own number, or it and a constant, in every layer that has them."""
    found = set()
    for name in {name for layer in layers for name in layer}:
        values = [(index, layer[name]) for index, layer in enumerate(layers) if name in layer]
        if any(type(value) is not int for _, value in values):
            continue
        offsets = {value - index for index, value in values}
        if len(offsets) == 1 and (len(values) > 1 or (_is_index(name) and offsets == {0})):
            found.add(name)
    return found


def _is_index(name: str) -> bool:
    """Whether an attribute holds the number of a layer, by its name."""
    last = name.rpartition(".")[2]
    return "layer" in last and last.rpartition("_")[2] in ("idx", "index", "indices", "idxs")


def _may_be_index(name: str) -> bool:
    return any(word in name.rpartition(".")[2] for word in ("layer", "idx", "index", "source"))


def _move(value: Value, position: Mapping[int, int]) -> Value:
    """A layer's new number; layers' new numbers, without those that go."""
    if isinstance(value, tuple) and _are_ints(value):
        return tuple(position[item] for item in value if item in position)
    return position.get(value, value) if type(value) is int else value


def _are_ints(value: Value) -> bool:
    return all(type(item) is int for item in value)


def _compare_lists(dense: Built, pruned: Built, kept: Sequence[int]) -> str | None:
    """The first list with one entry per layer that does not follow the layers, in words."""
    total, position = len(dense.layers), {layer: index for index, layer in enumerate(kept)}
    owners: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [("config.", dense.fields, pruned.fields)]
    owners += [(f"{name}.", vars(a), vars(b)) for (name, a), (_, b) in zip(dense.around, pruned.around, strict=True)]
    for where, was, now in owners:
        for name, value in was.items():
            before, after = _to_plain(value), _to_plain(now.get(name))
            if name.startswith("_") or name in NOT_PER_LAYER or "token_id" in name:
                continue
            # A mapping with as many names as there are layers is no list of theirs: rope_parameters of four.
            if isinstance(value, Mapping) or not isinstance(before, tuple) or len(before) != total:
                continue
            sliced = tuple(before[layer] for layer in kept)
            right = [sliced]
            if _are_ints(before):
                right += [_move(before, position), tuple(position.get(item, item) for item in sliced)]
            if after not in right:
                return f"{where}{name} would be {_shorten(after)} instead of {_shorten(sliced)}"
    return None


def _shorten(value: Value) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _to_plain(value: Any) -> Value:
    if value is None or isinstance(value, (bool, int, float, str)):
        # NaN is not equal to itself.
        return value if value == value else "NaN"
    if isinstance(value, (list, tuple)):
        return tuple(_to_plain(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return tuple(sorted((_to_plain(item) for item in value), key=repr))
    if isinstance(value, Mapping):
        return tuple((_to_plain(name), _to_plain(item)) for name, item in value.items())
    if isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return str(value)
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), str(value.dtype)
    return getattr(value, "__qualname__", type(value).__qualname__)
