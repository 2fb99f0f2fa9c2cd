"""Healing by one process on one GPU that has no room for the training state (`--engine offload`): it lies on the host.

What is held where, with P parameters in the tuned layers, P_l in the largest of them, and D bytes of the compute dtype
(2; 4 for `--dtype float32`). Norms and biases, a few thousandths of P, are float32 everywhere.

    device  D P       weights, in the compute dtype; frozen ones and activations as with other engines
            D P_l     gradients: at most those of one layer, on their way to the host
            nothing   of master weights, moments, summed gradients, autocast's casts, and of the optimizer's step
    host    4 P       master weights, float32
            4 P       gradients, summed over the rows of a step in float32
            8 P       AdamW's moments
            3 D P_l   pinned: one layer's gradients on their way out, two layers' weights on their way back (torch
                      rounds each tensor up to a power of two)

The weights are those of other engines to rounding: autocast would give the same casts of the master weights to the same
kernels, gradients are summed in float32, and clipping and AdamW are torch's. What is saved is what other engines save,
so that a run of one of them goes on as a run of this one.

This file has the optimizer, `offload_trainer.py` its place in the Trainer, `side_stream.py` the copies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.healing.side_stream import Copy, SideStream

MASTER = "interlace_master"
"""Attribute of a tuned weight that leads to its float32 master on the host."""
AHEAD = 2
"""Layers whose new weights may be on their way to the device."""


def keep_masters(layer: nn.Module) -> None:
    """Gives each weight of the layer a float32 master on the host, of the same value. What the device holds of matrices
    keeps its dtype; norms, biases and buffers become float32, as with other engines."""
    for parameter in layer.parameters():
        setattr(parameter, MASTER, parameter.detach().to("cpu", torch.float32, copy=True))
        parameter.data = parameter.data.to(choose_dtype(parameter, parameter.dtype))
    for buffer in layer.buffers():
        buffer.data = buffer.data.float() if buffer.is_floating_point() else buffer.data


def find_master(parameter: Tensor) -> Tensor | None:
    """The weight's float32 master on the host; None if it has none."""
    master: Tensor | None = getattr(parameter, MASTER, None)
    return master


def lend_masters(layer: nn.Module) -> None:
    """Makes the masters the layer's own weights, for a stage that trains layers one by one on the device."""
    for parameter in layer.parameters():
        parameter.data = _get_master(parameter)


def take_masters_back(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Ends `lend_masters`: what the layer has learnt goes to the masters, and what it computes with to `device`."""
    for parameter in layer.parameters():
        master = parameter.data.to("cpu")
        parameter.data = master.to(device, choose_dtype(parameter, dtype), copy=True)
        setattr(parameter, MASTER, master)


def choose_dtype(parameter: Tensor, dtype: torch.dtype) -> torch.dtype:
    """What a tuned weight is held in on the device where others are held in `dtype`. autocast casts matrices alone: a
    norm multiplies in float32."""
    return dtype if parameter.ndim > 1 else torch.float32


class HostAdamW(torch.optim.AdamW):
    """AdamW for weights on a device, whose `groups` are given as for other optimizers. It works on their masters (see
    `keep_masters`), in torch's fused form for CPUs; its state is that of torch's AdamW.

    Each gradient leaves the device as soon as it is made. `land` waits for the last of them; `clip` and `step` follow.
    `step` sends one layer's weights to the device while the next layer's are computed on the host; each of `layers`,
    in whose order it goes, waits for its own weights in its next forward pass. `close` has to be called at the end.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], layers: Sequence[nn.Module], **options: Any) -> None:
        groups = [dict(group) for group in groups]
        tuned = [parameter for group in groups for parameter in group["params"]]
        self._weight = {_get_master(parameter): parameter for parameter in tuned}
        self._layers = [(layer, [_get_master(p) for p in layer.parameters()]) for layer in layers]
        for group in groups:
            group["params"] = [_get_master(parameter) for parameter in group["params"]]
        super().__init__(groups, **{**options, "fused": True})
        # A GradScaler then looks for infinite gradients itself, and leaves out the step.
        self._step_supports_amp_scaling = False
        self.grad_norm = 0.0
        self._side = SideStream(tuned[0].device)
        self._sums: dict[Tensor, Tensor] = {}
        self._leaving: deque[tuple[Tensor, Copy]] = deque()
        # Another gradient comes before one is asked to have left.
        self._room = max(sum(sizes) - max(sizes) for sizes in ([p.nbytes for p in x.parameters()] for x in layers))
        self._coming: dict[nn.Module, Copy] = {}
        self._handles = [p.register_post_accumulate_grad_hook(self._take) for p in tuned]
        self._handles += [layer.register_forward_pre_hook(self._wait) for layer in layers]

    def forget(self) -> None:
        """Drops all gradients."""
        for _, copy in self._leaving:
            copy.wait()
        self._leaving.clear()
        for master in self._weight:
            master.grad = None

    def land(self) -> None:
        """Waits until all gradients are on the host, in `grad` of the masters."""
        while self._leaving:
            self._land_one()

    @torch.no_grad()
    def clip(self, max_norm: float) -> None:
        """Clips the gradients to the norm `max_norm`; `grad_norm` becomes what it was before."""
        # In the order in which other engines sum them.
        masters = [master for _, masters in self._layers for master in masters if master.grad is not None]
        norm = torch.nn.utils.get_total_norm([master.grad for master in masters if master.grad is not None])
        self.grad_norm = float(norm)
        # Also where it is no number: the weights are to become none either.
        if not self.grad_norm <= max_norm:
            torch.nn.utils.clip_grads_with_norm_(masters, max_norm, norm)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of AdamW, layer by layer. Gradients are dropped."""
        assert closure is None
        self.land()
        gradients = {master: master.grad for master in self._weight}
        self.forget()
        sent: deque[Copy] = deque()
        for layer, masters in self._layers:
            for master in masters:
                master.grad = gradients[master]
            super().step()
            while len(sent) >= AHEAD:
                sent.popleft().wait()
            for master in masters:
                if master.grad is not None:
                    self._coming[layer] = self._send(master)
                master.grad = None
            if layer in self._coming:
                sent.append(self._coming[layer])

    def finish(self) -> None:
        """What runs on the device from now on sees all new weights."""
        for layer in list(self._coming):
            self._wait(layer, ())

    def close(self) -> None:
        """Ends the work: gradients are no longer taken."""
        self.forget()
        self.finish()
        for handle in self._handles:
            handle.remove()

    def _take(self, parameter: Tensor) -> None:
        """Called when the weight's gradient of one row is made."""
        gradient = parameter.grad
        assert gradient is not None
        parameter.grad = None
        self._leaving.append((_get_master(parameter), self._side.send_out(gradient)))
        while sum(copy.source.nbytes for _, copy in self._leaving) > self._room:
            self._land_one()

    @torch.no_grad()
    def _land_one(self) -> None:
        master, copy = self._leaving.popleft()
        copy.wait()
        if master.grad is None:
            if master not in self._sums:
                self._sums[master] = torch.empty_like(master)
            master.grad = self._sums[master].copy_(copy.target)
        else:
            master.grad.add_(copy.target)

    def _send(self, master: Tensor) -> Copy:
        weight = self._weight[master]
        return self._side.send_in(master, weight.data)

    def _wait(self, layer: nn.Module, args: Any) -> None:
        del args
        copy = self._coming.pop(layer, None)
        if copy is not None:
            copy.precede()


def _get_master(parameter: Tensor) -> Tensor:
    master = find_master(parameter)
    assert master is not None, "keep_masters comes first"
    return master
