"""Devices by their number, as accelerate and transformers name them where a model is on several."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Numbered(TorchFunctionMode):
    """Inside of Pretend: `torch.device(0)` is cuda:0; a build without CUDA knows no device of that number."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device and args and type(args[0]) is int:
            return torch.device("cuda", args[0])
        if type(kwargs.get("device")) is int:
            kwargs["device"] = f"cuda:{kwargs['device']}"
        return func(*args, **kwargs)
