"""Models whose weights are divided between processes from the moment they are read: no process ever holds a whole one.

The model is built without weights (device `meta`) and divided; transformers then reads, of each tensor, this process's
part from the file, straight to its device. This is what `load_model` takes for a device.

- `FullyShard` (`finetune --engine fsdp`): by torch's `fully_shard`; all processes run each forward together.
- `Shards` (`--device-map fsdp`): no gradients, and the processes need not do the same (`runtime/lending.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.errors import CheckpointError, UnsupportedModelError, UsageError
from interlace_cli.io.checkpoints import fingerprint, open_checkpoint
from interlace_cli.io.placement import Loading, Placement
from interlace_cli.io.row_reading import find_mixed_rows, shapes_of_parts
from interlace_cli.runtime.accelerator import is_cuda, read_free
from interlace_cli.runtime.borrowing import borrow
from interlace_cli.runtime.device import choose_device
from interlace_cli.runtime.lending import Lending, open_lending, slice_rows
from interlace_cli.runtime.memory import read_available, trim_host
from interlace_cli.runtime.processes import find_processes

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

    def advise(self, used: str) -> str:
        """What to do where a part does not fit."""
        return "Take more --processes, each with a GPU or a machine of its own."


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

        with _once_built(lambda model: self._shard(model, torch.device(device)), device), shapes_of_parts():
            yield Loading({"distributed_config": DistributedConfig(fsdp_size=1)})

    def _shard(self, model: Any, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        is_mixed = find_mixed_rows(model)
        mixed = next((name for name, _ in model.named_parameters() if is_mixed(name)), None)
        if mixed is not None:
            raise UnsupportedModelError(
                f"--engine fsdp reads parts of tensors, and {mixed} is made of others as it is read.",
                "Take --engine ddp, zero2 or zero3.",
            )
        mesh = init_device_mesh(device.type, (self.size,))
        for layer in list_units(model, self.find_layers(model)):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        # Nothing of ours is transformers' to know.
        vars(model.config).pop("distributed_config", None)
        # accelerate's own mark; without it, it would wrap the shards in DDP. tests/chain/test_engines.py looks at them.
        model._is_accelerate_prepared = True


@dataclass(frozen=True)
class Order:
    """What a process that only lends its part is told: the arguments of `load_model`."""

    path: Path
    fingerprint: str
    dtype: str
    attention: str | None
    device: str

    @property
    def key(self) -> tuple[str | None, ...]:
        """The same wherever the files lie."""
        return self.fingerprint, self.dtype, self.attention, self.device

    def load(self) -> None:
        """Loads this process's part of the model. Raises CheckpointError where another one lies at the path here."""
        from interlace_cli.io.models import load_model

        found = fingerprint(open_checkpoint(self.path))
        if found != self.fingerprint:
            raise CheckpointError(
                f"{self.path} is not the same model for all processes.", "Give all of them the same files."
            )
        load_model(self.path, self.dtype, Shards(self.device), self.attention)


@dataclass(frozen=True)
class Shards(Divided):
    """Divides each matrix by its rows; norms and biases are whole everywhere. A layer's weights are gathered while it
    runs, in the processes that run it."""

    def count_gpus(self) -> int:
        """GPUs that hold the model."""
        return find_processes().size

    def count_bytes(self) -> int:
        """Bytes that weights may take of all processes together."""
        device, here = choose_device(self.device), find_processes()
        if is_cuda(device):
            return here.size * read_free(device)
        return here.size * read_available() // here.on_machine

    @contextmanager
    def loading(self, device: str) -> Iterator[Loading]:
        """What `from_pretrained` is given beside the rest."""
        import torch
        from transformers.distributed import DistributedConfig

        lending, where = open_lending(), torch.device(device)

        def divide(model: Any) -> None:
            # Nothing of ours is transformers' to know.
            vars(model.config).pop("distributed_config", None)
            self._divide(model, lending, where, find_mixed_rows(model))

        with _once_built(divide, device), shapes_of_parts():
            loading = Loading({"distributed_config": DistributedConfig(fsdp_size=1)})
            yield loading
        self._divide(loading.model, lending, where)
        trim_host()
        borrow(loading.model, _find_blocks(loading.model), _find_tables(loading.model), lending)

    def announce(self, path: Path, dtype: str, attention: str | None) -> None:
        """Waits until all processes are to load this model. Raises UsageError where this process is alone."""
        if find_processes().size == 1:
            raise UsageError("--device-map fsdp is for several processes.", "Add --processes N, or leave it out.")
        device = choose_device(self.device)
        order = Order(path, fingerprint(open_checkpoint(path)), dtype, attention, device.partition(":")[0])
        open_lending().begin_load(order)

    def _divide(
        self, model: Any, lending: Lending, device: torch.device, is_left: Callable[[str], bool] = lambda name: False
    ) -> None:
        """Matrices become DTensors. Of those that have no data yet transformers reads this process's rows; those of
        which it cannot (`is_left`) are divided behind that, in a second call."""
        from torch import nn
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor import DTensor, Shard

        if hasattr(model.config, "quantization_config"):
            raise UnsupportedModelError(
                "the weights of a quantized model cannot be divided between processes.", "Take the original model."
            )
        mesh = DeviceMesh.from_group(lending.weights, device.type)
        divided: dict[int, nn.Parameter] = {}
        for prefix, module in model.named_modules():
            for name, whole in module._parameters.items():
                if whole is None or isinstance(whole, DTensor) or whole.ndim < 2 or len(whole) < lending.size:
                    continue
                if is_left(f"{prefix}.{name}"):
                    continue
                if id(whole) not in divided:
                    rows = slice_rows(whole.shape, lending.rank, lending.size)
                    # A copy: the rest is to go.
                    local = whole.detach()[rows].clone()
                    part = DTensor.from_local(
                        local, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
                    )
                    divided[id(whole)] = nn.Parameter(part, requires_grad=False)
                module._parameters[name] = divided[id(whole)]


def _find_blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of all stacks: what transformers knows as such, and elsewhere the members of lists; of those inside
    each other the outermost."""
    from torch import nn
    from transformers.modeling_layers import GradientCheckpointingLayer

    def find(module: nn.Module, is_member: bool) -> list[nn.Module]:
        is_block = is_member and not any(isinstance(part, GradientCheckpointingLayer) for part in module.modules())
        if isinstance(module, GradientCheckpointingLayer) or (is_block and _has_forward(module)):
            return [module]
        inside = isinstance(module, nn.ModuleList)
        return [found for child in module.children() for found in find(child, inside)]

    return find(model, False)


def _has_forward(module: nn.Module) -> bool:
    from torch import nn

    return type(module).forward is not nn.Module.forward


def _find_tables(model: Any) -> list[nn.Module]:
    """Embeddings and the head: as large as several layers, and each used once in a forward."""
    from torch import nn

    known = [model.get_output_embeddings()] if model.can_generate() else []
    return [*(module for module in model.modules() if isinstance(module, nn.Embedding)), *filter(None, known)]


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
