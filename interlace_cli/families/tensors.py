"""Which tensors belong to which layer, found from the names themselves, and what each is called after a drop."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from interlace_cli.families.feature_layers import count_deepstack
from interlace_cli.families.stacks import Config, Stack

DEEPSTACK = ("merger_list", "deepstack_mergers")
"""`deepstack_merger_list` in Qwen3-VL, `merger_list` in Qwen3-Omni, `deepstack_mergers` in Granite Docling."""
CROSS_ATTENTION = "gated_cross_attn_layers"
TOWERS = """
    vision visual image img audio speech vq vqmodel sam qformer perceiver resampler projector projectors merger
    connector aligner mm talker token2wav code2wav vit
"""
"""Words in the names of what stands beside the language model."""
MOST_DIGITS = 6
COLUMNS, ROWS = "columns", "rows"
STACKED = {"embed_tokens_per_layer.weight": COLUMNS, "per_layer_model_projection.weight": ROWS}
"""Tensors that hold a slice for each layer side by side: embeddings [V, L x p] in columns, projections [L x p, H] in
rows (Gemma 3n and 4)."""


def find_numbered_groups(names: Iterable[str]) -> dict[str, set[int]]:
    """Prefix -> the numbers under it: `model.layers.3.mlp.up_proj.weight` is numbered under `model.layers`. A group
    inside another (experts) is left out."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if _is_number(part)), None)
        if place is not None:
            numbers[".".join(parts[:place])].add(int(parts[place]))
    return dict(numbers)


def find_layer_prefix(sizes: Mapping[str, int], stack: Stack, num_layers: int, extra: int = 0) -> str | None:
    """What the stack's layers are numbered under, from the tensors' names and sizes in bytes; None if nothing fits.

    A group fits if it has a member for each layer, or `extra` more (layers for multi-token prediction, which lie behind
    the others). Of several, the right side of the model decides, then the half of an encoder-decoder, then the size.
    """
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
    weights = {prefix: sum(size for name, size in sizes.items() if name.startswith(prefix + ".")) for prefix in fitting}
    return max(sorted(fitting), key=lambda prefix: weights[prefix], default=None)


def is_tower(prefix: str) -> bool:
    """Whether a name is one beside the language model: a vision or audio tower, a projector."""
    return not set(TOWERS.split()).isdisjoint(re.findall(r"[A-Za-z0-9]+", prefix))


def layer_of(name: str, prefix: str) -> int | None:
    """The layer that a tensor belongs to, or None if it is outside the group `prefix`."""
    if not name.startswith(prefix + "."):
        return None
    number = name[len(prefix) + 1 :].split(".", 1)[0]
    return int(number) if _is_number(number) else None


def _is_number(part: str) -> bool:
    """What counts layers, or experts: not every text of digits."""
    return part.isascii() and part.isdecimal() and len(part) <= MOST_DIGITS


def build_numbering(kept: Sequence[int], num_layers: int, extra: int = 0) -> dict[int, int]:
    """Old number -> new one, of layers that stay and of those for multi-token prediction behind them."""
    behind = range(num_layers, num_layers + extra)
    return {layer: place for place, layer in enumerate([*kept, *behind])}


def build_side_modules(config: Config, stack: Stack, kept: Sequence[int], num_layers: int) -> dict[str, dict[int, int]]:
    """Lists of modules that go with the layers: last part of their prefix -> numbering.

    A DeepStack merger goes with the layer after which it added its features, IDEFICS' cross-attention with its group,
    so that what is left computes the model with those layers and their additions bypassed.
    """
    if stack.name == "vision":
        return {}
    mergers = DEEPSTACK if count_deepstack(config) else ()
    side_modules = dict.fromkeys(mergers, build_numbering(kept, num_layers))
    interval = config.get("cross_layer_interval")
    if isinstance(interval, int):
        groups = sorted({layer // interval for layer in kept})
        side_modules[CROSS_ATTENTION] = {group: place for place, group in enumerate(groups)}
    return side_modules


def build_renaming(
    names: Iterable[str], prefix: str, numbering: Mapping[int, int], side_modules: Mapping[str, Mapping[int, int]]
) -> dict[str, str]:
    """Old name -> new name of each tensor that stays; layers are numbered anew from 0."""
    renaming = {}
    for name in names:
        group, numbers = prefix, numbering
        if layer_of(name, prefix) is None:
            found = next(((p, c) for c in side_modules if (p := _side_module_prefix(name, c))), None)
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
    """Name -> COLUMNS or ROWS of the tensors that hold a slice for each layer."""
    return {name: axis for name in names for suffix, axis in STACKED.items() if name.endswith(suffix)}


def _side_module_prefix(name: str, companion: str) -> str | None:
    head, found, _ = name.partition(companion + ".")
    return head + companion if found else None
