"""Devices by their number, as accelerate and transformers name them where a model is on several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode


class _Numbers(TorchFunctionMode):
    """`torch.device(0)` is cuda:0; a build without CUDA knows no device of that number."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device and args and type(args[0]) is int:
            return torch.device("cuda", args[0])
        if type(kwargs.get("device")) is int:
            kwargs["device"] = f"cuda:{kwargs['device']}"
        return func(*args, **kwargs)


@contextmanager
def numbered() -> Iterator[None]:
    """Inside of Pretend: a number names a device, and nothing is taken in advance for weights, from which transformers
    keeps 1.2 GiB back: more than a small pretended device has."""
    with _Numbers(), mock.patch("transformers.modeling_utils.caching_allocator_warmup"):
        yield
