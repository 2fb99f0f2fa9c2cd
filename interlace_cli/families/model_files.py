"""A model as the steps before loading see it: its files, where the layers of one stack lie in them, counted facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.model import Lock, ModelFacts
from interlace_cli.errors import CheckpointError, UnsupportedModelError
from interlace_cli.families.architectures import is_tested
from interlace_cli.families.counts import (
    Experts,
    count_active,
    count_parameters,
    find_attention_width,
    find_experts,
)
from interlace_cli.families.edit import is_tied
from interlace_cli.families.feature_layers import count_deepstack
from interlace_cli.families.limits import find_locked
from interlace_cli.families.resolve import needs_resolution, resolve
from interlace_cli.families.stacks import LANGUAGE, Config, Stack, find_stack
from interlace_cli.families.tensors import find_fitting_prefixes, find_layer_prefix, find_numbered_groups, layer_of
from interlace_cli.families.validate import MOST_LAYERS, check_fields
from interlace_cli.families.widths import find_widths
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.checkpoints import Checkpoint, fingerprint, hash_processor, open_checkpoint, read_config
from interlace_cli.io.headers import TensorInfo
from interlace_cli.io.paths import expand_home
from interlace_cli.io.saved_names import check_saved_names
from interlace_cli.io.workspace import METADATA
from interlace_cli.runtime.dispatch import loaded

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class OpenedConfig:
    """`config` is config.json with what it left to its class; `stack` is the one that is to be cut; `experts` are those
    of its layers; `model_type` is that of custom code that names none, the name of its class."""

    model_type: str
    config: Config
    stack: Stack
    num_layers: int
    locked: list[Lock]
    deepstack: int
    experts: Experts


@dataclass(frozen=True)
class OpenedModel:
    """`layer_prefix` is what the layers' tensors are numbered under on disk; `extra` layers for multi-token prediction
    lie behind them."""

    checkpoint: Checkpoint
    config: Config
    stack: Stack
    layer_prefix: str
    extra: int
    facts: ModelFacts


def open_config(location: str | Path, stack_name: str = LANGUAGE) -> OpenedConfig:
    """What config.json alone says of the model; no weights are looked at, or downloaded."""
    return _understand(*read_config(str(location)), stack_name)


def open_model(location: str | Path, stack_name: str = LANGUAGE) -> OpenedModel:
    """Opens `demo`, a folder or a Hub id. Raises UnsupportedModelError or CheckpointError."""
    checkpoint = open_checkpoint(location)
    understood = _understand(checkpoint.config, checkpoint.path, stack_name)
    stack, layers = understood.stack, understood.num_layers
    check_saved_names(checkpoint.path, checkpoint.tensors)
    extra = stack.describe_in(understood.config).get("num_nextn_predict_layers") or 0
    sizes = {tensor.name: tensor.bytes for tensor in checkpoint.tensors.values()}
    prefix = find_layer_prefix(sizes, stack, layers, extra)
    if prefix is None:
        raise CheckpointError(
            f"{checkpoint.path} has no {stack.name} tensors numbered 0 to {layers - 1}, as its config says.",
            "Its files have to be whole, and its weights and config.json of one model.",
        )
    _check_choice(find_fitting_prefixes(sizes, stack, layers, extra), understood)
    extra = max(find_numbered_groups(sizes)[prefix]) + 1 - layers
    facts = _count_facts(checkpoint, understood, prefix)
    return OpenedModel(checkpoint, understood.config, stack, prefix, extra, facts)


def _check_choice(fitting: Sequence[str], understood: OpenedConfig) -> None:
    """Raises UnsupportedModelError if more than one list of layers may be meant. Of a tested architecture it is known
    which."""
    model_type, stack = understood.model_type, understood.stack.name
    if len(fitting) > 1 and not is_tested(model_type, stack):
        first, second, *_ = sorted(fitting)
        raise UnsupportedModelError(
            f"{first} and {second} both have {understood.num_layers} numbered layers, and nothing in this {model_type}"
            f" model says which is the {stack} stack, or whether they belong together.",
            "It cannot be cut by general rules.",
        )


def find_cut_stack(location: str | Path) -> str:
    """Which stack a folder says it was cut in, if it is one of ours; else the language model's."""
    metadata = expand_home(location) / METADATA
    return load_artifact(metadata, CheckpointCard).stack if metadata.exists() else LANGUAGE


def collect_stored(
    opened: OpenedModel,
    model: PreTrainedModel,
    layers: nn.ModuleList,
    positions: Sequence[int],
    device: str,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Name on disk -> the layers' tensors as the model holds them now, in the dtype that the checkpoint has there;
    `gather` makes a whole of those that are divided between processes.

    Raises CheckpointError if it does not store one as the model holds it; on the device `meta` that is found out before
    training, for nothing."""
    import torch

    from interlace_cli.families.modules import find_prefix
    from interlace_cli.io.models import to_stored_tensors

    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    prefix = find_prefix(model, layers)
    held = {}
    for position in positions:
        with nullcontext() if device == "meta" else loaded(layers[position]):
            for name, parameter in layers[position].named_parameters():
                held[f"{prefix}.{position}.{name}"] = (gather(parameter) if gather else parameter.detach()).to(device)
    result = {}
    for name, value in to_stored_tensors(model, held).items():
        stored = opened.checkpoint.tensors.get(name)
        if stored is None or stored.shape != tuple(value.shape) or stored.dtype not in dtypes:
            raise CheckpointError(
                f"{opened.checkpoint.path} does not store {name} as the model holds it.",
                "Layers of a quantized checkpoint cannot be changed; take the original, and quantize it afterwards.",
            )
        result[name] = value.to(dtypes[stored.dtype])
    return result


def _understand(config: Config, path: Path, stack_name: str) -> OpenedConfig:
    model_type = _find_type(config)
    if not model_type:
        raise CheckpointError(f"{path / 'config.json'} names no model_type.", "Fetch the checkpoint again.")
    check_fields(config, str(path / "config.json"))
    stack = find_stack(config, stack_name)
    experts = find_experts(stack.describe_in(config))
    if needs_resolution(config, stack):
        config, described = resolve(config, path, stack_name)
        experts = find_experts(described)
        check_fields(config, str(path / "config.json"))
        stack = find_stack(config, stack_name)
    if not stack.num_layers or not 2 <= stack.num_layers <= MOST_LAYERS:
        raise CheckpointError(f"{path / 'config.json'} has no {stack_name} layers to choose from.")
    locked = find_locked(config, stack, stack.num_layers)
    by_reason = groupby(sorted(locked, key=lambda layer: (locked[layer], layer)), key=locked.__getitem__)
    locks = [Lock(layers=list(layers), reason=reason) for reason, layers in by_reason]
    deepstack = count_deepstack(config) if stack.name in (LANGUAGE, "text") else 0
    return OpenedConfig(model_type, config, stack, stack.num_layers, locks, deepstack, experts)


def _find_type(config: Config) -> str | None:
    """Custom code may go without a type (CogVLM 2); its class stands for it."""
    names = config.get("architectures") if "auto_map" in config else None
    model_type = config.get("model_type") or (names[0] if isinstance(names, list) and names else None)
    return model_type if isinstance(model_type, str) else None


def _count_facts(checkpoint: Checkpoint, understood: OpenedConfig, prefix: str) -> ModelFacts:
    by_layer: list[list[TensorInfo]] = [[] for _ in range(understood.num_layers)]
    outside: list[TensorInfo] = []
    for tensor in checkpoint.tensors.values():
        layer = layer_of(tensor.name, prefix)
        is_inside = layer is not None and layer < understood.num_layers
        (by_layer[layer] if is_inside and layer is not None else outside).append(tensor)
    stands_for = count_parameters(list(checkpoint.tensors.values()), understood.config)
    described = understood.stack.describe_in(understood.config)
    outer = dict.fromkeys(("embedding", "head", "rest"), 0)
    for tensor in outside:
        outer[_find_kind(tensor, described.get("vocab_size"))] += stands_for[tensor.name]
    layer_parameters = [sum(stands_for[tensor.name] for tensor in tensors) for tensors in by_layer]
    active = [count_active(tensors, stands_for, understood.experts) for tensors in by_layer]
    is_vision = understood.stack.name == "vision"
    query = find_attention_width(by_layer[0], {} if is_vision else described)
    return ModelFacts(
        name=checkpoint.name,
        location=checkpoint.location,
        revision=checkpoint.revision,
        fingerprint=fingerprint(checkpoint),
        processor=hash_processor(checkpoint.path),
        model_type=understood.model_type,
        layer_parameters=layer_parameters,
        layer_active=active if active != layer_parameters else None,
        layer_bytes=[sum(tensor.bytes for tensor in tensors) for tensors in by_layer],
        embedding_parameters=outer["embedding"],
        head_parameters=outer["head"],
        rest_parameters=outer["rest"],
        total_bytes=checkpoint.total_bytes,
        attention_width=query,
        deepstack_layers=understood.deepstack,
        is_tied=is_tied(understood.config),
        widths=None if is_vision else find_widths(by_layer[-1], described, understood.experts, query),
        stack=understood.stack.name,
        locked=understood.locked,
    )


def _find_kind(tensor: TensorInfo, vocabulary: object) -> str:
    """Of a tensor outside the layers: `embedding`, `head` or `rest`, by its name, or by a row for each word (`wte` in
    GPT-2, `embed_out` in GPT-NeoX)."""
    if "embed_tokens" in tensor.name:
        return "embedding"
    has_words = len(tensor.shape) == 2 and tensor.shape[0] == vocabulary
    if "lm_head" in tensor.name or (has_words and "out" in tensor.name):
        return "head"
    return "embedding" if has_words else "rest"
