"""How training is spread over processes (`--engine`). All differences between engines are in this file.

- `ddp`: every process holds the whole model; gradients of the tuned layers are averaged.
- `fsdp`: torch's `fully_shard`, layer by layer; all tensors are sharded, frozen ones too. This file does it and not
  accelerate, which silently runs DDP instead on CPUs.
- `offload`: one process whose device holds no training state; it lies on the host (`offload.py`).
- `zero2`, `zero3`, `zero3-offload`: DeepSpeed with the configs in `engines/`, or with the user's config FILE.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.families.modules import find_layers
from interlace_cli.healing.deepspeed_file import check_file
from interlace_cli.healing.recipe import Recipe
from interlace_cli.healing.sharding import Gathering, Zero3
from interlace_cli.io.placement import Placement
from interlace_cli.io.shards import FullyShard
from interlace_cli.options.finetune import DEEPSPEED_ENGINES, TORCH_ENGINES

ENGINES = (*TORCH_ENGINES, *DEEPSPEED_ENGINES)
CONFIGS = Path(__file__).parent / "engines"


class Engine:
    """The engine `name` (one of ENGINES, or the path of a DeepSpeed config) for `size` processes. Raises UsageError for
    an unknown name or a config that is none, and InterlaceError if DeepSpeed is needed and not installed."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self.config = self._load_config()
        if self.config is not None and find_spec("deepspeed") is None:
            raise InterlaceError(
                f"--engine {name} needs DeepSpeed, which is not installed.", 'pip install "interlace-cli[deepspeed]".'
            )
        if name == "fsdp" and size == 1:
            raise UsageError("--engine fsdp is for several processes.", "Add --processes N, or leave it out.")
        if name == "offload" and size > 1:
            raise UsageError("--engine offload is for one process.", "Take --engine zero3-offload for several.")

    def _load_config(self) -> dict[str, Any] | None:
        if self.name in TORCH_ENGINES:
            return None
        path = CONFIGS / f"{self.name}.json" if self.name in ENGINES else Path(self.name)
        try:
            config = json.loads(path.read_text())
        except OSError as error:
            raise UsageError(
                f"--engine does not take {self.name!r}.", f"It takes {', '.join(ENGINES)}, or a DeepSpeed config."
            ) from error
        except ValueError as error:
            raise UsageError(f"--engine {path} is no JSON: {error}.") from error
        if not isinstance(config, dict) or "zero_optimization" not in config:
            raise UsageError(f"--engine {path} has no zero_optimization.", "Give a DeepSpeed config.")
        return config

    @property
    def stage(self) -> int:
        """DeepSpeed's ZeRO stage, 0 to 3; 0 for other engines."""
        if self.config is None or not isinstance(self.config["zero_optimization"], dict):
            return 0
        stage = self.config["zero_optimization"].get("stage", 0)
        return stage if isinstance(stage, int) else 0

    @property
    def is_on_host(self) -> bool:
        """Whether the training state lies on the host, and the device has weights in the compute dtype alone."""
        return self.name == "offload"

    @property
    def shards_weights(self) -> bool:
        """Whether a process holds only a shard of each weight."""
        return self.name == "fsdp" or self.stage == 3

    @property
    def is_own_file(self) -> bool:
        """Whether the config is the user's."""
        return self.config is not None and self.name not in ENGINES

    def check(self, recipe: Recipe) -> None:
        """Raises UsageError for a recipe that the engine cannot carry out, or that a config of the user's forbids."""
        stages = recipe.stages
        if self.is_own_file:
            self.config = check_file(self.name, self.config or {}, recipe, self.size)
        if self.shards_weights and any(stage.is_local for stage in stages):
            raise UsageError(
                f"--engine {self.name} divides each weight between processes, and the stage local trains whole layers"
                " alone.",
                "Take --engine ddp for it, or an objective without local.",
            )

    def place(self, device: str, stack: str) -> str | Placement:
        """Where `load_model` puts a model of which the layers of `stack` train: on `device`, whole, or this process's
        part of it. The Trainer's arguments have to be made before, and to be kept while it loads."""
        if self.name == "fsdp":
            return FullyShard(device, size=self.size, find_layers=partial(find_layers, stack_name=stack))
        return Zero3(device) if self.stage == 3 else device

    def running(self, model: nn.Module, layers: nn.ModuleList) -> AbstractContextManager[Any]:
        """The context of a forward outside of training, which only DeepSpeed's own engine could run otherwise."""
        return Gathering(model, layers) if self.stage == 3 else nullcontext()
