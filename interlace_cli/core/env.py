"""`env`: what is installed here, and what this machine has; for bug reports."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from interlace_cli import __version__
from interlace_cli.domain.status import Environment

PROGRAMS = (
    *("torch", "transformers", "accelerate", "datasets", "huggingface-hub", "safetensors", "numpy", "pillow"),
    *("pyarrow", "pydantic", "orjson", "xxhash", "typer", "rich"),
)
OPTIONAL = ("deepspeed", "flash-attn", "torchvision", "lmms-eval", "decord", "wandb", "tensorboard", "bitsandbytes")
VARIABLES = (
    *("INTERLACE_WORKSPACE", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
    *("WORLD_SIZE", "VLMEVALKIT", "LLAMA_CPP"),
)
"""No variable that may hold a secret."""


def describe_environment() -> Environment:
    """Asks every package and torch."""
    import torch

    # The build too, such as +cu130, which the package's version leaves out.
    programs = {**_find_versions(PROGRAMS), "torch": torch.__version__}
    return Environment(
        programs={"interlace": __version__, "python": platform.python_version(), **programs},
        machine={**_describe_machine(), **{name: os.environ[name] for name in VARIABLES if name in os.environ}},
        optional={**_find_versions(OPTIONAL), "engines": ", ".join(_list_engines())},
    )


def _find_versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _describe_machine() -> dict[str, str]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = {"system": platform.platform(), "processor": f"{platform.machine()}, {cores} cores"}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    found["torch threads"] = str(torch.get_num_threads())
    found["cuda"] = str(torch.version.cuda or "torch is built without it")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{facts.name}, {facts.total_memory / 2**30:.1f} GiB, sm_{facts.major}{facts.minor}"
    if torch.cuda.device_count() == 0:
        found["gpu"] = "none"
    found["stdout"] = "a terminal" if sys.stdout.isatty() else "not a terminal"
    return found


def _list_engines() -> list[str]:
    from importlib.util import find_spec

    from interlace_cli.options.finetune import DEEPSPEED_ENGINES, TORCH_ENGINES

    return [*TORCH_ENGINES, *(DEEPSPEED_ENGINES if find_spec("deepspeed") else ())]
