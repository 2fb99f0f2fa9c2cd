"""Models whose weights DeepSpeed divides between processes (`--engine zero3`, `zero3-offload`), by transformers' own
way with it: the first process reads the file. torch's way, `--engine fsdp`, is in `io/shards.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.io.placement import Loading
from interlace_cli.io.shards import Divided, list_units
from interlace_cli.runtime.divided import is_partitioned


@dataclass(frozen=True)
class Zero3(Divided):
    """The Trainer's arguments with the engine's config have to live while a model is loaded: transformers finds the
    config through them."""

    @contextmanager
    def loading(self, device: str) -> Iterator[Loading]:
        """What `from_pretrained` is given beside the rest: nothing, DeepSpeed knows its device."""
        import deepspeed

        del device
        # On a CPU the Trainer makes the process group itself, of which DeepSpeed has not heard yet.
        deepspeed.init_distributed(auto_mpi_discovery=False)
        loading = Loading({})
        yield loading
        # transformers keeps here, as elsewhere it does not, conversions of names that the file did not need, and would
        # give them names that other readers do not know. `collect_stored` refuses the model if this is not done.
        found = getattr(loading.model, "_weight_conversions", None) or []
        loading.model._weight_conversions = [conversion for conversion in found if conversion.was_used()]


def describe(tensor: Tensor) -> Tensor:
    """The whole tensor's shape and dtype, without data."""
    return torch.empty(getattr(tensor, "ds_shape", tensor.shape), dtype=tensor.dtype, device="meta")


def find_device(model: Any) -> torch.device:
    """Where the model computes: where its weights are, but for those that DeepSpeed keeps on the host meanwhile."""
    if not any(map(is_partitioned, model.parameters())):
        device: torch.device = model.device
        return device
    import deepspeed

    return torch.device(deepspeed.get_accelerator().current_device_name())


class Gathering:
    """Lets a model whose weights DeepSpeed has divided run outside of its engine: before training, or as the teacher. A
    layer's weights are gathered while it runs, all others while the model does."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module] | nn.ModuleList) -> None:
        self.model, self.units = model, list_units(model, layers)
        self._open: dict[int, ExitStack] = {}
        self._handles: list[Any] = []

    def install(self) -> Gathering:
        """Hooks the model; `remove` undoes it."""
        inner = {id(parameter) for unit in self.units for parameter in unit.parameters()}
        rest = [parameter for parameter in self.model.parameters() if id(parameter) not in inner]
        for module, parameters in [(self.model, rest), *((unit, list(unit.parameters())) for unit in self.units)]:
            self._handles += [
                module.register_forward_pre_hook(self._enter(parameters), prepend=True),
                module.register_forward_hook(self._leave, always_call=True),
            ]
        return self

    def remove(self) -> None:
        """Takes the hooks away again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Gathering:
        return self.install()

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _enter(self, parameters: Sequence[Tensor]) -> Callable[..., None]:
        import deepspeed

        def hook(module: nn.Module, args: Any) -> None:
            del args
            stack = self._open[id(module)] = ExitStack()
            stack.enter_context(deepspeed.zero.GatheredParameters(parameters))

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        del args, output
        stack = self._open.pop(id(module), None)
        if stack is not None:
            stack.close()
