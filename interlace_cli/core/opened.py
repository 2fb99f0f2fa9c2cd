"""A model as several commands see it before any weight is loaded: its files, its layers, its counted facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interlace_cli.domain.model import ModelFacts
from interlace_cli.errors import CheckpointError
from interlace_cli.families.config import check_supported, count_deepstack, find_num_layers, is_tied
from interlace_cli.families.tensors import find_numbered_groups, layer_of
from interlace_cli.io.checkpoints import Checkpoint, TensorInfo, fingerprint, open_checkpoint


@dataclass(frozen=True)
class OpenedModel:
    """`layer_prefix` is what the decoder layers' tensors are numbered under on disk."""

    checkpoint: Checkpoint
    layer_prefix: str
    facts: ModelFacts


def open_model(location: str | Path) -> OpenedModel:
    """Opens `demo`, a folder or a Hub id. Raises UnsupportedModelError or CheckpointError."""
    checkpoint = open_checkpoint(location)
    check_supported(checkpoint.config)
    num_layers = find_num_layers(checkpoint.config) or _ask_transformers(checkpoint.path)
    prefix = _find_prefix(checkpoint, num_layers)
    return OpenedModel(checkpoint, prefix, _count_facts(checkpoint, prefix, num_layers))


def _ask_transformers(path: Path) -> int:
    """The layer count where config.json leaves it to the config class's default, as LLaVA's does."""
    from interlace_cli.io.models import load_config

    return int(load_config(path).get_text_config(decoder=True).num_hidden_layers)


def _find_prefix(checkpoint: Checkpoint, num_layers: int) -> str:
    groups = find_numbered_groups(checkpoint.tensors, num_layers)
    if not groups:
        raise CheckpointError(
            f"{checkpoint.path} has no tensors numbered 0 to {num_layers - 1}, as its config says.",
            "Fetch the checkpoint again.",
        )
    if len(groups) == 1:
        return next(iter(groups))
    # The vision tower is as deep as the language model: the module tree says which names a decoder layer has.
    from interlace_cli.families.modules import find_decoder_layers
    from interlace_cli.io.models import build_empty_model

    layers = find_decoder_layers(build_empty_model(checkpoint.path))
    wanted = {name for name, _ in layers[0].named_parameters()}
    return max(groups, key=lambda prefix: len(groups[prefix] & wanted))


def _count_facts(checkpoint: Checkpoint, prefix: str, num_layers: int) -> ModelFacts:
    by_layer: list[list[TensorInfo]] = [[] for _ in range(num_layers)]
    outside: list[TensorInfo] = []
    for tensor in checkpoint.tensors.values():
        layer = layer_of(tensor.name, prefix)
        (outside if layer is None else by_layer[layer]).append(tensor)
    embedding = [tensor for tensor in outside if "embed_tokens" in tensor.name]
    head = [tensor for tensor in outside if "lm_head" in tensor.name]
    rest = [tensor for tensor in outside if tensor not in embedding and tensor not in head]
    facts = ModelFacts(
        name=checkpoint.name,
        location=checkpoint.location,
        fingerprint=fingerprint(checkpoint),
        model_type=checkpoint.config["model_type"],
        layer_parameters=[_parameters(tensors) for tensors in by_layer],
        layer_bytes=[sum(tensor.bytes for tensor in tensors) for tensors in by_layer],
        embedding_parameters=_parameters(embedding),
        head_parameters=_parameters(head),
        rest_parameters=_parameters(rest),
        total_bytes=checkpoint.total_bytes,
        attention_width=_attention_width(by_layer[0]),
        deepstack_layers=count_deepstack(checkpoint.config),
        is_tied=is_tied(checkpoint.config),
    )
    assert facts.total_parameters == checkpoint.total_parameters
    return facts


def _parameters(tensors: Sequence[TensorInfo]) -> int:
    return sum(tensor.parameters for tensor in tensors)


def _attention_width(layer: Sequence[TensorInfo]) -> int:
    """Rows of the query projection: query heads x head dimension."""
    return next((tensor.shape[0] for tensor in layer if tensor.name.endswith("q_proj.weight")), 0)
