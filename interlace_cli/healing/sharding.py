"""Models whose weights are divided between processes from the moment they are read: no process ever holds a whole one.

- `FullyShard` (`--engine fsdp`): the model is built without weights (device `meta`) and divided by torch's
  `fully_shard`; transformers then reads, of each tensor, this process's part from the file, straight to its device.
- `Zero3` (`--engine zero3`, `zero3-offload`): transformers' own way with DeepSpeed. The first process reads the file.

Both are what `load_model` takes for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.families.modules import find_layers
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.io.placement import Loading, Placement


@dataclass(frozen=True)
class Divided(Placement):
    """Each process holds its part of every weight."""

    @property
    def is_dispatched(self) -> bool:
        """The model is where it should be once it is loaded."""
        return True


@dataclass(frozen=True)
class FullyShard(Divided):
    """Divides the model between `size` processes, layer by layer, frozen tensors too. `stack` is that of the layers
    that train."""

    size: int = 1
    stack: str = LANGUAGE

    @contextmanager
    def loading(self, device: str) -> Iterator[Loading]:
        """What `from_pretrained` is given beside the rest."""
        from transformers.distributed import DistributedConfig

        with _once_built(lambda model: self._shard(model, torch.device(device)), device):
            yield Loading({"distributed_config": DistributedConfig(fsdp_size=1)})

    def _shard(self, model: Any, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (self.size,))
        for layer in list_units(model, find_layers(model, self.stack)):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        # Nothing of ours is transformers' to know.
        vars(model.config).pop("distributed_config", None)
        # accelerate's own mark; without it, it would wrap the shards in DDP. tests/chain/test_engines.py looks at them.
        model._is_accelerate_prepared = True


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


def list_units(model: nn.Module, layers: Sequence[nn.Module] | nn.ModuleList) -> list[nn.Module]:
    """What is gathered at a time: each layer of the stack, and each of transformers' layers elsewhere (the tower's)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    known = {id(layer) for layer in layers}
    return [*layers, *(module for module in found if id(module) not in known)]


@contextmanager
def _once_built(shard: Callable[[Any], None], device: str) -> Iterator[None]:
    """Inside the context, transformers calls `shard(model)` between building a model and reading its weights, and reads
    them to `device`. These two hooks are where its own `DistributedConfig(fsdp_size=...)` does the same; that needs a
    plan of the architecture, and takes its device and process group by rules of its own. The tests of fsdp fail where
    they are not called any more."""
    from transformers import PreTrainedModel

    def prepare(cls: Any, config: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, None]:
        del cls, args, kwargs
        return config, {"": device}, None

    def distribute(cls: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        del cls, args, kwargs
        shard(model)
        return model

    hooks: dict[str, Any] = {"prepare_distribute_model": prepare, "maybe_distribute_model": distribute}
    for name, hook in hooks.items():
        setattr(PreTrainedModel, name, classmethod(hook))
    try:
        yield
    finally:
        for name in hooks:
            delattr(PreTrainedModel, name)


def is_partitioned(tensor: Tensor) -> bool:
    """Whether DeepSpeed has divided the parameter: it is empty unless it is gathered."""
    return hasattr(tensor, "ds_id")


def is_divided(tensor: Tensor) -> bool:
    """Whether this process holds only a part of the tensor."""
    from torch.distributed.tensor import DTensor

    return is_partitioned(tensor) or isinstance(tensor, DTensor)


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
