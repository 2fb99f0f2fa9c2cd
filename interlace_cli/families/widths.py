"""The widths of a language layer, which its activations are made of: from `config.json`, and from tensor headers where
a config leaves them to its class. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from interlace_cli.domain.model import LayerWidths
from interlace_cli.families.counts import PACKED, Experts
from interlace_cli.families.stacks import Config
from interlace_cli.io.headers import TensorInfo

HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
KEY_HEADS = ("num_key_value_heads", "multi_query_group_num", "n_head_kv", "num_kv_heads")
INNER = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "decoder_ffn_dim", "n_inner", "d_ff")
EXPERT_INNER = ("moe_intermediate_size", *INNER)
SHARED_INNER = ("shared_expert_intermediate_size", "shared_intermediate_size")
SCALES = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")
"""Names of a config's fields. To add one of an architecture, add it here."""


def find_widths(layer: Sequence[TensorInfo], described: Config, experts: Experts, query: int) -> LayerWidths | None:
    """The widths of a layer with the tensors `layer`, its queries being `query` wide. None where neither the config nor
    the headers say one that is needed."""
    vocabulary, heads = _read(described, ("vocab_size",)), _read(described, HEADS)
    hidden = _read(described, HIDDEN) or _find_size(layer, "q_proj.weight", 1)
    if not (hidden and vocabulary and heads and query):
        return None
    is_mixed = experts.top_k > 0 and any("expert" in tensor.name for tensor in layer)
    inner = _read(described, EXPERT_INNER) if is_mixed else _find_size(layer, "down_proj.weight", 1)
    inner = inner or _read(described, INNER) or 4 * hidden
    met = experts.top_k * inner + _read(described, SHARED_INNER) if is_mixed else inner
    return LayerWidths(
        hidden=hidden,
        query=query,
        key_value=_find_size(layer, "k_proj.weight", 0) or query * (_read(described, KEY_HEADS) or heads) // heads,
        heads=heads,
        intermediate=met,
        vocabulary=vocabulary,
        is_gated=_is_gated(layer, hidden, inner),
        scales_logits=any(described.get(name) not in (None, 0, 1) for name in SCALES),
        has_query_norm=any(re.search(r"\.(q|query)_(layer)?norm\b", tensor.name) for tensor in layer),
    )


def _is_gated(layer: Sequence[TensorInfo], hidden: int, inner: int) -> bool:
    """Whether an MLP has three matrices, or one of them is two in one. Numbered experts are alike."""
    names = set()
    for tensor in layer:
        if {hidden, 2 * inner} <= set(tensor.shape) and hidden != 2 * inner:
            return True
        if {hidden, inner} <= set(tensor.shape) and tensor.name.endswith("weight"):
            names.add(re.sub(r"\.\d+\.", ".", tensor.name))
    return len({name for name in names if "shared" not in name and "attn" not in name}) > 2


def _read(described: Config, names: Sequence[str]) -> int:
    """The first of the fields that holds a number; 0 if none does."""
    found = (described.get(name) for name in names)
    return next((value for value in found if type(value) is int and value > 0), 0)


def _find_size(layer: Sequence[TensorInfo], ending: str, axis: int) -> int:
    """The size of the matrix with that name along `axis`; 0 if there is none, or it is packed."""
    fitting = (t for t in layer if t.name.endswith(ending) and len(t.shape) == 2 and t.dtype not in PACKED)
    return next((tensor.shape[axis] for tensor in fitting), 0)
