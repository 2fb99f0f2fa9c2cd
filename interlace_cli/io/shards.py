"""Models whose weights are divided between processes from the moment they are read: no process ever holds a whole one.

The model is built without weights (device `meta`) and divided by torch's `fully_shard`; transformers then reads, of
each tensor, this process's part from the file, straight to its device. This is what `load_model` takes for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interlace_cli.io.placement import Loading, Placement

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Divided(Placement):
    """Each process holds its part of every weight."""

    @property
    def is_dispatched(self) -> bool:
        """The model is where it should be once it is loaded."""
        return True


def _find_none(model: nn.Module) -> Sequence[nn.Module]:
    del model
    return []


@dataclass(frozen=True)
class FullyShard(Divided):
    """Divides the model between `size` processes, layer by layer, frozen tensors too. `find_layers` says which modules
    are gathered alone beside those that transformers knows as layers."""

    size: int = 1
    find_layers: Callable[[nn.Module], Iterable[nn.Module]] = _find_none

    @contextmanager
    def loading(self, device: str) -> Iterator[Loading]:
        """What `from_pretrained` is given beside the rest."""
        import torch
        from transformers.distributed import DistributedConfig

        with _once_built(lambda model: self._shard(model, torch.device(device)), device):
            yield Loading({"distributed_config": DistributedConfig(fsdp_size=1)})

    def _shard(self, model: Any, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (self.size,))
        for layer in list_units(model, self.find_layers(model)):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        # Nothing of ours is transformers' to know.
        vars(model.config).pop("distributed_config", None)
        # accelerate's own mark; without it, it would wrap the shards in DDP. tests/chain/test_engines.py looks at them.
        model._is_accelerate_prepared = True


def list_units(model: nn.Module, layers: Iterable[nn.Module]) -> list[nn.Module]:
    """What is gathered at a time: each of `layers`, and each of transformers' layers elsewhere (the tower's)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = list(layers)
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
