"""The parts of tests/gpu.sh that are no tests: `python tests/gpu/parts.py PART ...`. Ends with 77, and a word, where a
part cannot be had. With INTERLACE_PRETEND they run on the pretend GPU."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))
IS_PRETENDED = bool(os.environ.get("INTERLACE_PRETEND"))
NEEDED = ("pydantic", "orjson", "xxhash", "typer", "rich")
"""What every command needs beside torch and transformers."""
PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "typer", "rich", "pydantic", "orjson", "datasets")
PACKAGES += ("deepspeed", "bitsandbytes", "flash_attn", "flash_attn_interface")
ENGINES = ("ddp", "fsdp", "zero2", "zero3")
GIB = 2**30


def skip(why: str) -> NoReturn:
    print(f"skipped: {why}")
    sys.exit(77)


def need(*packages: str) -> None:
    """Skips the part if one is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        skip(f"needs {', '.join(missing)}")


def show_machine() -> None:
    """The card, and which packages there are."""
    import torch
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    for name in PACKAGES:
        found = importlib.util.find_spec(name) is not None
        version = getattr(sys.modules.get(name), "__version__", "there") if found else "missing"
        print(f"{name} {version}")
    print(f"python {platform.python_version()}, CUDA {torch.version.cuda}")
    print(f"flash-attn 2: {is_flash_attn_2_available()}, 3: {is_flash_attn_3_available()}")
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    total = torch.cuda.get_device_properties(0).total_memory
    print(f"{len(names)} x {names[0]}, {total / GIB:.0f} GiB, capability {torch.cuda.get_device_capability(0)}")


def run_cli(*words: str) -> None:
    """A command of interlace, in this process."""
    need(*NEEDED)
    from interlace_cli.cli.app import main

    sys.argv = ["interlace", *words]
    main()


class RealGpu:
    """What `simulated_step` asks of a pretend GPU, of the real one."""

    def __init__(self, **options: Any) -> None:
        del options
        self.peak = self.now = self

    def __enter__(self) -> RealGpu:
        return self

    def __exit__(self, *error: object) -> None:
        import gc

        import torch

        gc.collect()
        torch.cuda.empty_cache()

    def __setitem__(self, index: int, value: Any) -> None:
        import torch

        torch.cuda.reset_peak_memory_stats(index)

    def __getitem__(self, index: int) -> int:
        import torch

        return torch.cuda.max_memory_allocated(index)


def show_memory(*shapes: str) -> None:
    """The peak of a healing step for each way of training, and what the formula says; it may be off by a tenth."""
    need(*NEEDED, "simulated_step")
    import simulated_step
    import torch

    from interlace_cli.bench.shapes import SHAPES
    from interlace_cli.healing.memory_need import Way

    fused, ways = "adamw_torch_fused", []
    ways += [Way("ddp", False, fused), Way("ddp", True, "adamw_torch"), Way("ddp", True, fused)]
    ways += [Way("ddp", True, "adamw_8bit"), Way("offload", True, fused)]
    if IS_PRETENDED:
        shapes, ways = ("4b",), ways[2:3]
    else:
        simulated_step.Pretend = RealGpu
        if importlib.util.find_spec("bitsandbytes") is not None:
            from bitsandbytes.optim import AdamW8bit

            simulated_step.EightBits = AdamW8bit
    wrong = 0
    for name in dict.fromkeys(shapes):
        for way in ways:
            shape, more = SHAPES[name], {}
            if IS_PRETENDED:
                shape, more = simulated_step.shrink(shape, 4, vocabulary=32_000), {"tokens": 2048, "tuned": [2]}
            label = f"{name} {way.engine}{' checkpointed' * way.is_checkpointed} {way.optim}"
            try:
                found = simulated_step.simulate(shape, way, **more)
            except torch.OutOfMemoryError as error:
                print(f"{label}: does not fit; {str(error).splitlines()[0]}")
                continue
            wrong += abs(found.error) > 0.1
            print(f"{label}: {found}")
    print(f"{wrong} of them differ by more than 10%")
    sys.exit(bool(wrong))


def try_two_gpus() -> None:
    """Heals the demo with each engine of several processes, on two GPUs."""
    need(*NEEDED)
    import torch

    if IS_PRETENDED:
        skip("the pretend GPU has no NCCL")
    if torch.cuda.device_count() < 2:
        skip("needs two GPUs")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        start = [sys.executable, "-m", "interlace_cli"]
        for words in (
            ["prepare", "demo", "--max-samples", "48", "--holdout", "0.2", "--calibration", "0.34"],
            ["analyze", "demo", "--device", "cuda"],
            ["plan", "--ratio", "0.25"],
            ["prune"],
        ):
            subprocess.run([*start, *words, "-w", folder], check=True)
        for engine in ENGINES:
            if engine.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
                print(f"{engine}: needs deepspeed")
                continue
            options = ["--engine", engine, "--processes", "2", "--device", "cuda", "--epochs", "1", "--force"]
            if subprocess.run([*start, "finetune", "-w", folder, *options]).returncode:
                failed.append(engine)
    print(f"failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


@contextmanager
def on_gpu() -> Iterator[None]:
    """The pretend GPU, if it was asked for. `simulated_step` has its own."""
    if not IS_PRETENDED:
        yield
        return
    from pretend import Pretend

    with Pretend() if sys.argv[1] != "memory" else nullcontext():
        yield


def main() -> None:
    part, *rest = sys.argv[1:]
    if part == "needs":
        need(rest[0])
        part, *rest = rest[1:]
    parts = {"machine": show_machine, "cli": run_cli, "memory": show_memory, "two-gpus": try_two_gpus}
    with on_gpu():
        parts[part](*rest)


if __name__ == "__main__":
    main()
