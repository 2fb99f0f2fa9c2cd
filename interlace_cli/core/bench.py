"""`bench`: what a step costs our way and another, on the machine at hand."""

from __future__ import annotations

from dataclasses import dataclass

from interlace_cli.domain.benchmark import HealBenchmark
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import UsageError


@dataclass(frozen=True)
class BenchOptions:
    """`tokens` of a step, in batches of `batch_size` samples where they are padded."""

    shape: str = "tiny"
    tokens: int = 2048
    batch_size: int = 16
    repeats: int = 5
    optim: str = "adamw_torch"
    gradient_checkpointing: bool = False
    device: str = "auto"


def bench_healing(options: BenchOptions, progress: Progress) -> HealBenchmark:
    """A step of healing our way and the released recipe's, in turns."""
    from interlace_cli.healing.benchmark import SHAPES, measure
    from interlace_cli.io.models import choose_device

    if options.shape not in SHAPES:
        raise UsageError(f"--shape does not take {options.shape!r}.", f"It takes {', '.join(SHAPES)}.")
    if options.tokens < 128:
        raise UsageError(f"--tokens {options.tokens} is less than one sample.", "Give at least 128.")
    with progress.task("bench heal", 2 * (options.repeats + 1), "steps") as advance:
        return measure(
            SHAPES[options.shape],
            options.tokens,
            options.batch_size,
            options.repeats,
            options.optim,
            options.gradient_checkpointing,
            choose_device(options.device),
            lambda: advance(1),
        )
