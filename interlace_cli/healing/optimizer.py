"""Which form of AdamW runs, and that it stays what it is when a state is loaded. The forms give the same weights to
rounding, and their states are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlace_cli.options.finetune import TORCH_ENGINES
from interlace_cli.runtime.accelerator import is_cuda

if TYPE_CHECKING:
    import torch

PLAIN, FUSED = "adamw_torch", "adamw_torch_fused"
FORMS = ("fused", "foreach")
"""Fields of an optimizer's groups that say which kernels do the work."""


def choose_optim(optim: str, device: str, engine: str) -> str:
    """`--optim`, for a device and an engine. torch's AdamW is the fused one on a GPU: the other makes temporary tensors
    as large as all tuned weights. It is also what `offload` runs on the host. On a CPU, and where DeepSpeed has its own
    way, nothing changes."""
    is_fused = engine == "offload" or (is_cuda(device) and engine in TORCH_ENGINES)
    return FUSED if optim == PLAIN and is_fused else optim


def keep_form(optimizer: torch.optim.Optimizer) -> None:
    """Lets the optimizer keep its own form when it loads a state, also one that another form has saved. A fused one on
    a GPU then has its step counters there, as its kernels need."""

    def put_in(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        own = {name: optimizer.defaults[name] for name in FORMS if name in optimizer.defaults}
        return {**state, "param_groups": [{**group, **own} for group in state["param_groups"]]}

    optimizer.register_load_state_dict_pre_hook(put_in)
