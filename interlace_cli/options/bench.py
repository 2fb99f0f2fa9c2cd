"""`bench`: what is timed, on which model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlace_cli.errors import UsageError
from interlace_cli.options.option import Options, option
from interlace_cli.options.shared import DEVICE

PARTS = ("startup", "analyze", "prune", "heal", "serve")


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """`shape` is of `bench/shapes.py`; `model` a checkpoint in its place."""

    part: str = option(
        None,
        "startup: the command line; analyze, heal: beside the released way; prune: beside cp; serve: dense beside"
        " pruned.",
        choices=PARTS,
        is_argument=True,
        decides=False,
    )
    shape: str = option("tiny", "Of a random Qwen3-VL: tiny, 4b or 8b.")
    model: str | None = option(None, "demo, a folder or a Hub id, in place of a random model.")
    tokens: int = option(2048, "Tokens in a step of healing.", low=128)
    samples: int = option(32, "Samples of an analysis.", low=1)
    batch_size: int = option(8, "Samples in a batch.", low=1)
    side: tuple[int, ...] = option(
        (224,),
        "Side of square images in pixels; may be repeated. 512, 1024, 2048 are 0.25, 1, 4 megapixels.",
        low=64,
    )
    new_tokens: int = option(32, "Tokens that serving generates.", low=2)
    gigabytes: float = option(1.0, "Size of the checkpoint that is cut.", low=0.01)
    repeats: int = option(5, "How many times each is timed.", low=1)
    optim: str = option("adamw_torch", "An optimizer of the Trainer.")
    gradient_checkpointing: bool = option(
        False, "Compute layers again in the backward pass, in our way too, from the first tuned layer on."
    )
    append: Path | None = option(None, "Also add the table to this Markdown file.", decides=False)
    device: str = DEVICE.field()

    def check(self) -> None:
        """Raises UsageError for no size of images."""
        if not self.side:
            raise UsageError("--side is empty.", "Such as --side 224.")
