"""Which tensors belong to which layer, and what each tensor is called after a drop. Both follow from the tensors'
names, so no table of architectures is needed.

Example: layer 1 of 3 is dropped.

    model.language_model.layers.0.mlp.up_proj.weight    stays as it is
    model.language_model.layers.1.mlp.up_proj.weight    is left out
    model.language_model.layers.2.mlp.up_proj.weight    becomes model.language_model.layers.1.mlp.up_proj.weight
    lm_head.weight                                      stays as it is
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from interlace_cli.families.feature_layers import count_deepstack
from interlace_cli.families.stacks import Config, Stack
from interlace_cli.families.towers import LANGUAGE_WORDS, is_tower, split_words

DEEPSTACK = ("merger_list", "deepstack_mergers")
"""Endings of the names of DeepStack's side modules: `deepstack_merger_list` in Qwen3-VL, `merger_list` in Qwen3-Omni,
`deepstack_mergers` in Granite Docling."""
CROSS_ATTENTION = "gated_cross_attn_layers"
"""Name of IDEFICS' side modules, one for each group of layers."""
MOST_DIGITS = 6
"""A part of a name with more digits than this is no layer number."""
COLUMNS, ROWS = "columns", "rows"
STACKED = {"embed_tokens_per_layer.weight": COLUMNS, "per_layer_model_projection.weight": ROWS}
"""Ending of a tensor's name -> where it holds one slice for each layer, side by side: embeddings [V, L x p] in columns,
projections [L x p, H] in rows, p rows or columns for each of L layers (Gemma 3n and 4)."""


def find_numbered_groups(names: Iterable[str]) -> dict[str, set[int]]:
    """Prefix -> the numbers that follow it in the names. Only the first number in a name counts, so that experts inside
    a layer form no group of their own.

    Example: `model.layers.0.mlp.experts.5.weight` and `model.layers.1.norm.weight` -> {"model.layers": {0, 1}}.
    """
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        index = next((i for i, part in enumerate(parts) if _is_number(part)), None)
        if index is not None:
            numbers[".".join(parts[:index])].add(int(parts[index]))
    return dict(numbers)


def find_layer_prefix(sizes: Mapping[str, int], stack: Stack, num_layers: int, extra: int = 0) -> str | None:
    """The part of the tensors' names before the number of the stack's layers; None if nothing fits. `sizes` leads from
    tensor names to sizes in bytes.

    A prefix fits if the numbers after it are 0 ... num_layers - 1, or `extra` more (layers for multi-token prediction,
    which come after the others). Side modules never do. If several fit, those on the wrong side of the model (vision
    tower or language model) are left out, then those of the other half of an encoder-decoder. Of the rest, the one with
    the most bytes wins.

    Example, with 2 language layers:

        model.visual.blocks.0.attn.qkv.weight               a tower's
        model.visual.blocks.1.attn.qkv.weight
        model.language_model.layers.0.mlp.up_proj.weight
        model.language_model.layers.1.mlp.up_proj.weight    -> "model.language_model.layers"
    """
    fitting = find_fitting_prefixes(sizes, stack, num_layers, extra)
    weights = {prefix: sum(size for name, size in sizes.items() if name.startswith(prefix + ".")) for prefix in fitting}
    return max(sorted(fitting), key=lambda prefix: weights[prefix], default=None)


def find_fitting_prefixes(sizes: Iterable[str], stack: Stack, num_layers: int, extra: int = 0) -> list[str]:
    """All prefixes that `find_layer_prefix` chooses from by their bytes."""
    groups = find_numbered_groups(sizes)
    layers = set(range(num_layers))
    fitting = [prefix for prefix, found in groups.items() if found in (layers, set(range(num_layers + extra)))]
    fitting = [prefix for prefix in fitting if not prefix.endswith((*DEEPSTACK, CROSS_ATTENTION))]
    if stack.name == "vision":
        fitting = [prefix for prefix in fitting if is_tower(prefix)]
    else:
        fitting = [prefix for prefix in fitting if not is_tower(prefix)] or fitting
    half = {"encoder": "encoder", "decoder": "decoder"}.get(stack.name) if stack.is_half else None
    if half:
        fitting = [prefix for prefix in fitting if half in prefix.split(".")] or fitting
    elif stack.name != "vision":
        fitting = [prefix for prefix in fitting if LANGUAGE_WORDS & split_words(prefix)] or fitting
    return fitting


def layer_of(name: str, prefix: str) -> int | None:
    """The index of the layer that a tensor belongs to; None if it is not under `prefix`. Example:
    `model.layers.3.norm.weight` with prefix `model.layers` -> 3."""
    if not name.startswith(prefix + "."):
        return None
    number = name[len(prefix) + 1 :].split(".", 1)[0]
    return int(number) if _is_number(number) else None


def _is_number(part: str) -> bool:
    """Whether this part of a name is the number of a layer or an expert: one to MOST_DIGITS ASCII digits."""
    return part.isascii() and part.isdecimal() and len(part) <= MOST_DIGITS


def build_numbering(kept: Sequence[int], num_layers: int, extra: int = 0) -> dict[int, int]:
    """Old layer index -> new one, for the `kept` layers and for the `extra` ones (multi-token prediction) after them,
    which all stay. Example: kept [0, 2] of 3 layers, 1 extra -> {0: 0, 2: 1, 3: 2}."""
    after = range(num_layers, num_layers + extra)
    return {layer: index for index, layer in enumerate([*kept, *after])}


def build_side_modules(config: Config, stack: Stack, kept: Sequence[int], num_layers: int) -> dict[str, dict[int, int]]:
    """Side modules are lists of modules beside the layer list that have one entry for each layer, or for each group of
    layers. An entry is dropped together with its layer, so that the pruned model is the dense one with the layer and
    what its side module adds bypassed. Returns: ending of the list's name -> old index -> new one.

    DeepStack's merger k belongs to layer k, which its features are added after; there are fewer mergers than layers.
    IDEFICS has one cross-attention for each group of `cross_layer_interval` layers.

    Example: kept [0, 2, 3] of 4 layers. DeepStack: {"merger_list": {0: 0, 2: 1, 3: 2}, ...}: merger 1 goes with layer
    1. IDEFICS with interval 2 and kept [0, 1]: {"gated_cross_attn_layers": {0: 0}}: the second group is gone.
    """
    if stack.name == "vision":
        return {}
    mergers = DEEPSTACK if count_deepstack(config) else ()
    side_modules = dict.fromkeys(mergers, build_numbering(kept, num_layers))
    interval = config.get("cross_layer_interval")
    if isinstance(interval, int):
        groups = sorted({layer // interval for layer in kept})
        side_modules[CROSS_ATTENTION] = {group: index for index, group in enumerate(groups)}
    return side_modules


def build_renaming(
    names: Iterable[str], prefix: str, numbering: Mapping[int, int], side_modules: Mapping[str, Mapping[int, int]]
) -> dict[str, str]:
    """Old name -> new name of each tensor that stays. Names under `prefix` get the layer index of `numbering`, those of
    side modules that of `side_modules`; tensors of an index that is missing there are left out.

    Example: prefix `model.layers`, numbering {0: 0, 2: 1}: `model.layers.2.norm.weight` ->
    `model.layers.1.norm.weight`, `model.layers.1.norm.weight` has no entry, `lm_head.weight` -> `lm_head.weight`.
    """
    renaming = {}
    for name in names:
        group, numbers = prefix, numbering
        if layer_of(name, prefix) is None:
            found = next(((p, ending) for ending in side_modules if (p := _find_side_prefix(name, ending))), None)
            if found is None:
                renaming[name] = name
                continue
            group, numbers = found[0], side_modules[found[1]]
        layer = layer_of(name, group)
        if layer is not None and layer in numbers:
            number, _, rest = name[len(group) + 1 :].partition(".")
            del number
            renaming[name] = f"{group}.{numbers[layer]}.{rest}"
    return renaming


def find_stacked(names: Iterable[str]) -> dict[str, str]:
    """Tensor name -> COLUMNS or ROWS, for the tensors that hold a slice for each layer (STACKED)."""
    return {name: axis for name in names for suffix, axis in STACKED.items() if name.endswith(suffix)}


def _find_side_prefix(name: str, ending: str) -> str | None:
    """`model.visual.deepstack_merger_list` for `model.visual.deepstack_merger_list.0.norm.weight` and `merger_list`."""
    head, found, _ = name.partition(ending + ".")
    return head + ending if found else None
