"""Which layers cannot be dropped, and why: a drop is refused if no config of the architecture can express it exactly.
`plan` protects these layers by itself; `prune` refuses to drop them. Pure functions over `config.json`.

To add a limit of an architecture, write a function that yields a `Limit`, and add it to `_iter_limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial

from interlace_cli.domain.layers import describe_layers, kept_layers
from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.edit import PERIODS
from interlace_cli.families.feature_layers import VISION_FEATURES, as_list, iter_feature_fields, move_output
from interlace_cli.families.stacks import Config, Stack

Drop = Set[int]


def _never(drop: Drop) -> bool:
    del drop
    return False


@dataclass(frozen=True)
class Limit:
    """`layers` must stay, for `reason` (in error messages it follows "cannot be dropped exactly:"). `permits` is called
    with the whole set of dropped layers and returns True for the sets that are possible after all."""

    layers: frozenset[int]
    reason: str
    permits: Callable[[Drop], bool] = _never


def find_locked(config: Config, stack: Stack, num_layers: int) -> dict[int, str]:
    """Layer index -> the reason why it must stay. Any set of the other layers can be dropped."""
    locked: dict[int, str] = {}
    for limit in _iter_limits(config, stack, num_layers):
        for layer in limit.layers:
            locked.setdefault(layer, limit.reason)
    return dict(sorted(locked.items()))


def check_drop(config: Config, stack: Stack, num_layers: int, drop: Sequence[int]) -> None:
    """Raises UnsupportedModelError if the layers `drop` cannot be dropped together. Its message gives the reason and
    the layers that could be dropped instead."""
    dropped = frozenset(drop)
    for limit in _iter_limits(config, stack, num_layers):
        if dropped & limit.layers and not limit.permits(dropped):
            free = sorted(set(range(num_layers)) - find_locked(config, stack, num_layers).keys())
            raise UnsupportedModelError(
                f"layers {describe_layers(dropped & limit.layers)} of this {config.get('model_type')} model cannot be"
                f" dropped exactly: {limit.reason}.",
                f"Layers that could be dropped instead: {describe_layers(free)}.",
            )


def _iter_limits(config: Config, stack: Stack, layers: int) -> Iterator[Limit]:
    inner = stack.describe_in(config)
    if stack.name == "vision":
        yield from _vision_limits(config, inner, layers)
        return
    for rule in (
        _one_attention_layer,
        _key_value_stores,
        _last_layer_attends_fully,
        _relative_position_bias,
        _cross_attention_groups,
        _residual_blocks,
        _reused_sources,
        _ordinal_embeddings,
        _periods,
        _scaled_by_number,
        _one_layer_up_to_the_last_sparse,
    ):
        yield from rule(inner, layers)
    yield from _injections(config, layers)


def _one_attention_layer(inner: Config, layers: int) -> Iterator[Limit]:
    """transformers' cache takes its length from an attention layer, so models that also have linear attention or
    convolutions must keep one attention layer. The last one is locked."""
    kinds = inner.get("layer_types") or inner.get("layers_block_type")
    if not isinstance(kinds, list) or len(kinds) != layers:
        return
    attention = [layer for layer, kind in enumerate(kinds) if "attention" in str(kind) and "linear" not in str(kind)]
    if attention and len(attention) < layers:
        yield Limit(
            frozenset(attention[-1:]),
            "generation with a cache needs one attention layer, and this is the last",
            lambda drop: not drop >= set(attention),
        )


def _key_value_stores(inner: Config, layers: int) -> Iterator[Limit]:
    """Gemma 3n and 4: the last `num_kv_shared_layers` layers reuse the keys and values of the last layer of their kind
    before them, which therefore stays."""
    shared, kinds = inner.get("num_kv_shared_layers"), inner.get("layer_types")
    if not isinstance(shared, int) or not 0 < shared < layers or not isinstance(kinds, list):
        return
    stores = {kinds[layer]: layer for layer in range(layers - shared)}
    yield Limit(frozenset(stores.values()), "later layers use its keys and values")


def _last_layer_attends_fully(inner: Config, layers: int) -> Iterator[Limit]:
    """Gemma 4's config class makes the last layer one of full attention, whatever `layer_types` says."""
    kinds = inner.get("layer_types")
    if str(inner.get("model_type")).startswith("gemma4") and isinstance(kinds, list):
        yield Limit(
            frozenset({layers - 1}),
            "the last layer has to be one of full attention",
            lambda drop: kinds[kept_layers(drop, layers)[-1]] == "full_attention",
        )


def _relative_position_bias(inner: Config, layers: int) -> Iterator[Limit]:
    """T5's layer 0 holds the relative position bias that all layers use."""
    del layers
    if inner.get("model_type") in ("t5", "mt5", "longt5", "udop", "pix2struct_text_model"):
        yield Limit(frozenset({0}), "it holds the position bias that all layers use")


def _cross_attention_groups(inner: Config, layers: int) -> Iterator[Limit]:
    """IDEFICS puts a cross-attention block before every n-th layer, so whole groups of n layers go together with
    theirs. Example: n = 2: layers 2 and 3 may be dropped together; layers 3 and 4 may not."""
    interval = inner.get("cross_layer_interval")
    if inner.get("model_type") != "idefics" or not isinstance(interval, int) or interval < 2:
        return

    def are_whole_groups(drop: Drop) -> bool:
        return all(set(range(g, min(g + interval, layers))) <= drop for g in {i - i % interval for i in drop})

    reason = f"cross-attention stands before one layer in {interval}, so only whole groups of {interval} can go"
    yield Limit(frozenset(range(layers)), reason, are_whole_groups)


def _residual_blocks(inner: Config, layers: int) -> Iterator[Limit]:
    """Inkling 2 begins a block of residuals at every n-th layer. None of its layers can be dropped."""
    size = inner.get("n_layers_per_attn_res_block")
    if isinstance(size, int) and size > 1:
        yield Limit(frozenset(range(layers)), f"residuals attend to each other across blocks of {size} layers")


def _reused_sources(inner: Config, layers: int) -> Iterator[Limit]:
    """A layer whose keys and values, or whose indexer's choice of tokens, a later layer reuses can be dropped only
    together with all layers that reuse them."""
    sources = inner.get("kv_source_layers")
    if isinstance(sources, list) and len(sources) == layers:
        users = {layer: {i for i, source in enumerate(sources) if source == layer != i} for layer in range(layers)}
        for layer, those in users.items():
            if those:
                yield Limit(frozenset({layer}), "later layers use its keys and values", partial(_all_gone, those))
    kinds = inner.get("indexer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        for layer in range(layers):
            following = []
            for other in range(layer + 1, layers):
                if kinds[other] != "shared":
                    break
                following.append(other)
            if kinds[layer] != "shared" and following:
                reason = "later layers use its indexer's choice"
                yield Limit(frozenset({layer}), reason, partial(_all_gone, set(following)))


def _ordinal_embeddings(inner: Config, layers: int) -> Iterator[Limit]:
    """Qwen 4's per-layer embeddings belong to the first, second, ... layer that has one. So of these layers only the
    last ones can be dropped."""
    del layers
    ids = inner.get("ple_layer_ids")
    if isinstance(ids, list) and ids:
        having = sorted(layer - 1 for layer in ids)

        def is_tail(drop: Drop) -> bool:
            gone = [layer in drop for layer in having]
            return gone == sorted(gone)

        yield Limit(frozenset(having), "its embeddings are made for its rank among the layers that have some", is_tail)


def _periods(inner: Config, layers: int) -> Iterator[Limit]:
    """The kinds of layers are given by a period, not by a list: the new index of each kept layer must equal its old one
    modulo the period. Example: period 2 of 8 layers: {2, 3} can be dropped, {2} cannot."""
    kinds = inner.get("layer_types") or inner.get("layers_block_type")
    has_list = isinstance(kinds, list) and len(kinds) == layers
    # A list of each layer's kind counts for attention; the fields about experts are about something else.
    periods = {field: inner.get(field) for field in PERIODS if not has_list or "expert" in field or "moe" in field}
    blocks = inner.get("block_types")
    if isinstance(blocks, list) and len(blocks) != layers:
        # RecurrentGemma's is the period itself.
        periods["block_types"] = len(blocks)
    for field, period in periods.items():
        if isinstance(period, int) and period > 1:
            reason = f"{field} says the kinds of layers, every {period}"
            yield Limit(frozenset(range(layers)), reason, partial(_keep_residues, layers, period))


def _scaled_by_number(inner: Config, layers: int) -> Iterator[Limit]:
    """GPT-2's family can scale attention by the layer's index, so only the last layers can be dropped: all others keep
    theirs. MiniMax's linear attention decays by the index and the number of layers: none can be dropped."""
    if inner.get("scale_attn_by_inverse_layer_idx"):
        reason = "each layer's attention is scaled by its number"
        yield Limit(frozenset(range(layers)), reason, partial(_keep_residues, layers, layers))
    kinds = inner.get("layer_types") or inner.get("attn_type_list")
    if inner.get("model_type") == "minimax" and isinstance(kinds, list):
        # The slope of linear attention is that of the layer's share of all layers.
        yield Limit(
            frozenset(range(layers)), "the decay of its linear attention follows from how many layers there are"
        )


def _one_layer_up_to_the_last_sparse(inner: Config, layers: int) -> Iterator[Limit]:
    """ERNIE 4.5: `moe_layer_end_index` is the last layer with experts. One layer up to it must stay, since the index
    that would be left otherwise, -1, means the last layer of all."""
    end = inner.get("moe_layer_end_index")
    if isinstance(end, int) and 0 <= end < layers - 1:
        yield Limit(
            frozenset({end}),
            "a layer has to stay for moe_layer_end_index to name",
            lambda drop: not drop >= set(range(end + 1)),
        )


def _all_gone(users: Drop, drop: Drop) -> bool:
    return users <= drop


def _keep_residues(layers: int, period: int, drop: Drop) -> bool:
    return all(index % period == layer % period for index, layer in enumerate(kept_layers(drop, layers)))


def _injections(config: Config, layers: int) -> Iterator[Limit]:
    """Granite 4 Vision adds features before some layers. Two of them cannot enter before the same layer, and each needs
    a kept layer to enter before."""
    targets = [pair[1] for pair in config.get("deepstack_layer_map") or []] + list(
        config.get("spatial_target_layers") or []
    )
    if not targets:
        return

    def stay_apart(drop: Drop) -> bool:
        kept = kept_layers(drop, layers)
        positions = [sum(other < layer for other in kept) for layer in targets]
        return len(set(positions)) == len(targets) and max(positions) < len(kept)

    yield Limit(frozenset(targets), "image features are added before it", stay_apart)


def _vision_limits(config: Config, vision: Config, layers: int) -> Iterator[Limit]:
    """Layers of the vision tower whose output is used, and those behind the last hidden state that is."""
    for field, is_distinct in VISION_FEATURES.items():
        sources = vision.get(field)
        if isinstance(sources, list) and sources:
            permits = partial(_have_replacements, sources, is_distinct, layers)
            yield Limit(frozenset(sources), f"features are taken from it ({field})", permits)
    states = [index for owner, field in iter_feature_fields(config) for index in as_list(owner[field])]
    inner_states = [index if index >= 0 else layers + 1 + index for index in states]
    if inner_states and max(inner_states) < layers:
        # transformers may norm the last hidden state, and no other.
        behind = frozenset(range(max(inner_states), layers))
        yield Limit(
            behind,
            "features are taken before it, and must not become the last hidden state",
            lambda drop: not behind <= drop,
        )


def _have_replacements(sources: list[int], is_distinct: bool, layers: int, drop: Drop) -> bool:
    """Whether there is a kept layer whose output replaces that of each of `sources`, if needed a different one each."""
    moved = [move_output(layer, kept_layers(drop, layers)) for layer in sources]
    return min(moved) >= 0 and (not is_distinct or len(set(moved)) == len(sources))
