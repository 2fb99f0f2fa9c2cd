"""The tuned tensors on their way to disk: one by one, and whole on the first process alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from interlace_cli.families.model_files import OpenedModel
from interlace_cli.families.modules import find_prefix
from interlace_cli.healing.sharding import describe
from interlace_cli.healing.tensor_files import BY_NAME, view_bytes
from interlace_cli.healing.whole import fetch
from interlace_cli.io.models import to_stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def iter_tuned(
    opened: OpenedModel, model: PreTrainedModel, layers: nn.ModuleList, positions: Sequence[int]
) -> Iterator[tuple[str, memoryview]]:
    """Name on disk and bytes, in the dtype that the checkpoint has there, of the tensors of `layers[positions]`. All
    processes iterate together; the others get nothing. `collect_stored` has found that the checkpoint stores them as
    the model holds them."""
    prefix = find_prefix(model, layers)
    for position in positions:
        held = {f"{prefix}.{position}.{name}": p for name, p in layers[position].named_parameters()}
        for names in divide_names(model, held):
            whole = {name: fetch(held[name]) for name in names}
            found = {name: value.to("cpu") for name, value in whole.items() if value is not None}
            for name, value in to_stored_tensors(model, found).items() if found else ():
                yield name, view_bytes(value.to(BY_NAME[opened.checkpoint.tensors[name].dtype]))


def divide_names(model: PreTrainedModel, held: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of those that go to disk together. Each alone, unless transformers makes one tensor on disk of several
    of the model's, or takes several to know what to do."""
    described = {name: describe(tensor) for name, tensor in held.items()}
    together = {name: value.shape for name, value in to_stored_tensors(model, dict(described)).items()}
    alone = {}
    try:
        for name, tensor in described.items():
            alone.update({made: value.shape for made, value in to_stored_tensors(model, {name: tensor}).items()})
    except Exception:
        # transformers raises whatever its conversion does where a part is missing.
        return [list(held)]
    return [[name] for name in held] if alone == together else [list(held)]
