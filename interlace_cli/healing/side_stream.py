"""Copies between a GPU and the host beside the GPU's other work: on a stream of their own, through pinned memory.

Where there are no streams (a CPU; a torch that was built without CUDA), the copy is done when the call returns. Where
the host has no more memory to lock, it goes through pageable memory.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from interlace_cli.runtime.memory import is_out_of_memory


@dataclass(frozen=True)
class Copy:
    """A copy that is under way from `source` to `target`; `done` is None where it has ended. The source is kept until
    then, so that its memory is not given away. All copies of a `SideStream` end in their order."""

    source: Tensor
    target: Tensor
    done: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Blocks until the copy has ended."""
        if self.done is not None:
            self.done.synchronize()

    def precede(self) -> None:
        """What the device is given to do from now on waits for the copy; the host does not."""
        if self.done is not None:
            torch.cuda.current_stream(self.target.device).wait_event(self.done)


class SideStream:
    """Copies to and from `device`. A copy begins when the work is done that the device had been given before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            with suppress(RuntimeError):
                self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send_out(self, source: Tensor) -> Copy:
        """From the device to pinned memory of the host, in the same dtype."""
        if self.stream is None:
            return Copy(source, source.cpu())
        return self._start(source, self._pin(source, source.dtype))

    def send_in(self, source: Tensor, target: Tensor) -> Copy:
        """From the host to `target` on the device, in its dtype."""
        if self.stream is None:
            return Copy(source, target.copy_(source))
        return self._start(self._pin(source, target.dtype).copy_(source), target)

    @staticmethod
    def _pin(like: Tensor, dtype: torch.dtype) -> Tensor:
        # torch keeps such memory, and gives it away again as soon as the copies that were begun with it have ended.
        try:
            return torch.empty(like.shape, dtype=dtype, pin_memory=True)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return torch.empty(like.shape, dtype=dtype)

    def _start(self, source: Tensor, target: Tensor) -> Copy:
        assert self.stream is not None
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
        return Copy(source, target, self.stream.record_event())
