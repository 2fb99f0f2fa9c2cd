"""The Trainer's arguments, on the device that was asked for."""

from __future__ import annotations

import os
from functools import cached_property

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import patch_environment

from interlace_cli.io.models import import_transformers

transformers = import_transformers()


class Arguments(transformers.TrainingArguments):  # type: ignore[misc, name-defined]
    """One process trains on its current GPU (`runtime/device.py`). transformers takes the first one, and spreads over
    all that it sees by DataParallel; it has no option to avoid either. `tests/pretended/test_placement.py` fails when
    this is no longer needed."""

    @cached_property
    def _setup_devices(self) -> torch.device:
        if self.use_cpu or "LOCAL_RANK" in os.environ or not torch.cuda.is_available():
            usual: torch.device = super()._setup_devices
            return usual
        device = torch.device("cuda", torch.cuda.current_device())
        AcceleratorState._reset_state(reset_partial_state=True)
        with patch_environment(ACCELERATE_TORCH_DEVICE=str(device)):
            self.distributed_state = PartialState()
        self._n_gpu = 1
        return device
