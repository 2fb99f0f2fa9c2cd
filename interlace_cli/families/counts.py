"""How many parameters the tensors of a checkpoint stand for, and how many of them one token uses. Pure functions over
tensor headers and `config.json`.

Packed weights: a quantized checkpoint stores several values in one element, beside scales and zero points that stand
for no parameter. Example: GPTQ in 4 bits has `qweight` [512, 4096] of 32-bit integers, 8 values each: 16.8 million.

Mixtures of experts: a token uses the `top_k` best of the routed experts, and all of everything else. Example: 8 experts
of 100 parameters, the best 2, and 50 parameters of attention: 250 of 850.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from interlace_cli.families.stacks import Config
from interlace_cli.io.headers import DTYPE_BITS, TensorInfo

PACKED = ("I32", "U32", "I16", "U16", "U8")
"""Dtypes whose elements hold several values of a quantized weight. `I8` and the floats of 8 bits hold one."""
WHOLE = ("I8", "F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ")
LEAST_SHARE = 4
"""Beside a packed weight, an integer tensor of less than a fourth of its bytes holds scales, zero points or shapes."""
_SETTINGS = ("quantization_config", "compression_config")
_BITS = re.compile(r"(w_?|weight_?|num_|n)?bits?")
_TOP_K = re.compile(r"(?=.*expert).*(per_tok|top|select|active).*|(moe|router).*top_?k.*|moe_k")


@dataclass(frozen=True)
class Experts:
    """`counts` are the numbers of routed experts that layers may have, `top_k` how many of them a token uses; 0 if the
    config does not say."""

    counts: frozenset[int] = frozenset()
    top_k: int = 0


def find_experts(described: Config) -> Experts:
    """What a config says of its mixtures of experts."""
    counts: set[int] = set()
    chosen: list[int] = []
    for name, value in described.items():
        numbers = [item for item in (value if isinstance(value, list) else [value]) if type(item) is int and item > 0]
        if not numbers or "group" in name or "size" in name or "layer" in name:
            continue
        if _TOP_K.fullmatch(name):
            chosen.append(max(numbers))
        elif "expert" in name and "shared" not in name:
            counts.update(number for number in numbers if number > 1)
    return Experts(frozenset(counts), chosen[0] if chosen else 0)


def count_active(tensors: Sequence[TensorInfo], parameters: Mapping[str, int], experts: Experts) -> int:
    """How many parameters of a layer one token uses. `parameters` leads from tensor names to parameters."""
    numbered: dict[str, set[int]] = defaultdict(set)
    places = {tensor.name: _find_expert(tensor.name) for tensor in tensors}
    for place in places.values():
        if place is not None:
            numbered[place[0]].add(place[1])
    total = 0.0
    for tensor in tensors:
        place = places[tensor.name]
        count = 0
        if place is not None:
            count = len(numbered[place[0]])
        elif _is_fused(tensor, experts):
            count = tensor.shape[0]
        share = experts.top_k / count if count > experts.top_k > 0 else 1
        total += parameters[tensor.name] * share
    return round(total)


def _find_expert(name: str) -> tuple[str, int] | None:
    """Where a tensor lies among numbered experts. Example: `layers.3.mlp.experts.5.up_proj.weight` ->
    ("layers.3.mlp.experts", 5)."""
    found = re.fullmatch(r"(.*\.(\w*experts?))\.(\d+)\..*", name)
    return (found[1], int(found[3])) if found and "shared" not in found[2] else None


def _is_fused(tensor: TensorInfo, experts: Experts) -> bool:
    """Whether a tensor holds all routed experts one after another: [experts, ...]."""
    shape, name = tensor.shape, tensor.name
    if "shared" in name or len(shape) < 2 or shape[0] not in experts.counts:
        return False
    # A depthwise convolution has three axes too, [channels, 1, width].
    return re.search(r"\.\w*experts?\b", name) is not None or (len(shape) > 2 and shape[1] > 1)


def count_parameters(tensors: Sequence[TensorInfo], config: Config) -> dict[str, int]:
    """Tensor name -> how many parameters it stands for."""
    plain = {tensor.name: tensor.parameters for tensor in tensors}
    bits = _find_bits(config)
    if not bits:
        return plain
    modules: dict[str, list[TensorInfo]] = defaultdict(list)
    for tensor in tensors:
        # bitsandbytes keeps a weight's state under the weight's own name.
        module = tensor.name.partition(".weight.")[0] if ".weight." in tensor.name else tensor.name.rpartition(".")[0]
        modules[module].append(tensor)
    for module, members in modules.items():
        plain.update(_count_in_module(members, _choose_bits(bits, module)))
    return plain


def _count_in_module(members: Sequence[TensorInfo], bits: int) -> dict[str, int]:
    """What the tensors of one module stand for: its packed weights for as many values as they hold, biases for
    themselves, the rest for nothing. All for themselves where no weight is packed."""
    packed = [tensor for tensor in members if tensor.dtype in (*PACKED, *WHOLE) and len(tensor.shape) > 1]
    largest = max((tensor.bytes for tensor in packed), default=0)
    packed = [tensor for tensor in packed if tensor.bytes * LEAST_SHARE >= largest]
    if not packed:
        return {}
    found = {tensor.name: tensor.parameters if "bias" in tensor.name.rpartition(".")[2] else 0 for tensor in members}
    for tensor in packed:
        held = DTYPE_BITS[tensor.dtype] if tensor.dtype in PACKED else bits
        found[tensor.name] = tensor.parameters * held // bits
    return found


def _find_bits(config: Config) -> list[tuple[str, int]]:
    """Patterns of module names, and the bits of a weight in them; "" is for all modules. Inner settings come first."""
    found: list[tuple[str, int]] = []
    for owner in (config, *(value for value in config.values() if isinstance(value, dict))):
        for field in _SETTINGS:
            if isinstance(owner.get(field), dict):
                found += _iter_bits(owner[field], "")
    return sorted(found, key=lambda item: not item[0])


def _iter_bits(settings: Config, pattern: str) -> Iterator[tuple[str, int]]:
    targets = [target for target in settings.get("targets") or [] if isinstance(target, str)]
    patterns = [target[3:] if target.startswith("re:") else "" for target in targets] or [pattern]
    for name, value in settings.items():
        if "activation" in name or "cache" in name:
            continue
        if _BITS.fullmatch(name) and type(value) is int and value > 0:
            yield from ((one, value) for one in patterns)
        elif name.lstrip("_") in ("load_in_4bit", "load_in_8bit") and value is True:
            yield pattern, int(name[-4])
        elif name == "quant_method" and isinstance(value, str) and (digit := re.fullmatch(r".*fp(\d)", value)):
            yield pattern, int(digit[1])
        elif isinstance(value, dict):
            # GPTQModel writes "+:" before a pattern of its own settings.
            for one in [name[2:]] if name.startswith("+:") else patterns:
                yield from _iter_bits(value, one)


def _choose_bits(bits: Sequence[tuple[str, int]], module: str) -> int:
    for pattern, count in bits:
        try:
            if not pattern or re.match(pattern, module):
                return count
        except re.error:
            continue
    return bits[0][1]


def find_attention_width(layer: Sequence[TensorInfo], described: Config) -> int:
    """Query heads x head dimension: the rows of the query projection; where that is packed, or one matrix with others,
    as the config says; 0 if it does not."""
    for tensor in layer:
        if tensor.name.endswith("q_proj.weight") and tensor.dtype not in PACKED and len(tensor.shape) == 2:
            return tensor.shape[0]
    heads, size = described.get("num_attention_heads"), described.get("head_dim")
    width = heads * size if isinstance(heads, int) and isinstance(size, int) else described.get("hidden_size")
    return width if isinstance(width, int) else 0
