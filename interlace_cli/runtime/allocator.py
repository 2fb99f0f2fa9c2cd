"""How torch hands out a GPU's memory while a model is trained. Rows differ in length from step to step, and in blocks
of fixed size gaps are left that nothing fits into; expandable segments leave fewer. Loads no torch."""

from __future__ import annotations

import os
import platform
import sys

from interlace_cli.runtime.accelerator import is_cuda

NAME, SETTING = "PYTORCH_ALLOC_CONF", "expandable_segments:True"
OTHERS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Other names that torch reads."""
OURS = "INTERLACE_ALLOC"
"""Says to this process, and to those that it starts, that the setting is ours."""


def expand_segments() -> None:
    """Sets torch's environment variable, if nobody has said anything about the allocator. It counts where no GPU has
    been used before. Only on Linux itself: elsewhere torch cannot, and warns."""
    torch = sys.modules.get("torch")
    is_late = torch is not None and torch.cuda.is_initialized()
    is_said = any(name in os.environ for name in (NAME, *OTHERS))
    if is_late or is_said or not sys.platform.startswith("linux") or "microsoft" in platform.release().lower():
        return
    os.environ[NAME] = SETTING
    os.environ[OURS] = SETTING


def describe_segments(device: str) -> str:
    """A line to show; empty if the device is no GPU of torch's allocator, or the setting is not ours."""
    is_ours = OURS in os.environ and os.environ.get(NAME) == os.environ[OURS]
    if not is_ours or not is_cuda(device):
        return ""
    return f"memory of the GPU is given in expandable segments; set {NAME} to have it otherwise"
