"""`bench`: what a step costs our way and another, on the machine at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.core.opened import open_model
from interlace_cli.core.prepare import prepare_dataset
from interlace_cli.data.source import Selection
from interlace_cli.domain.benchmark import Benchmark, Case
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.errors import UsageError
from interlace_cli.io.artifacts import build_origin

if TYPE_CHECKING:
    from interlace_cli.bench.shapes import Shape

PARTS = ("startup", "analyze", "prune", "heal", "serve")
SIDES = (512, 1024, 2048)
"""Square images of 0.25, 1 and 4 megapixels."""


@dataclass(frozen=True)
class BenchOptions:
    """`shape` is of `bench/shapes.py`; `model`, for an analysis, a checkpoint in its place. `tokens` of a step of
    healing, in batches of `batch_size` samples where they are padded; `samples` of an analysis; `sides` of square
    images in pixels; `gigabytes` of the checkpoint that is cut."""

    shape: str = "tiny"
    model: str | None = None
    tokens: int = 2048
    samples: int = 32
    batch_size: int = 8
    sides: tuple[int, ...] = (224,)
    new_tokens: int = 32
    gigabytes: float = 1.0
    repeats: int = 5
    optim: str = "adamw_torch"
    gradient_checkpointing: bool = False
    device: str = "auto"


def run_benchmark(part: str, options: BenchOptions, progress: Progress) -> Benchmark:
    """One part, on this machine. Raises UsageError for a shape that there is not."""
    if options.tokens < 128:
        raise UsageError(f"--tokens {options.tokens} is less than one sample.", "Give at least 128.")
    if any(side < 64 for side in options.sides):
        raise UsageError("--side takes at least 64 pixels.")
    with progress.task(f"bench {part}", _count(part, options), "runs") as advance:
        device, cases = _measure(part, options, lambda: advance(1))
    from interlace_cli.bench.machine import describe_machine, find_versions

    return Benchmark(
        kind=Benchmark.KIND,
        schema_version=Benchmark.SCHEMA,
        created_by=build_origin(f"bench {part}", {**asdict(options), "sides": list(options.sides)}),
        inputs={},
        part=part,
        shape="" if part in ("startup", "prune") else options.model or options.shape,
        machine=describe_machine(device),
        versions=find_versions(),
        date=date.today().isoformat(),
        cases=cases,
    )


def append_benchmark(found: Benchmark, path: Path) -> None:
    """Adds its Markdown table to the file, which may be there already."""
    from interlace_cli.io.files import write_atomically
    from interlace_cli.report.benchmark import build_markdown

    before = path.read_text(encoding="utf-8").rstrip() + "\n\n" if path.exists() else ""
    write_atomically(path, (before + build_markdown(found)).encode())


def _measure(part: str, o: BenchOptions, advance: Callable[[], None]) -> tuple[str, list[Case]]:
    if part == "startup":
        from interlace_cli.bench.startup import measure_startup

        return "cpu", measure_startup(o.repeats, advance)
    if part == "prune":
        from interlace_cli.bench.prune import measure_pruning

        return "cpu", measure_pruning(o.gigabytes, o.repeats, None, advance)
    from interlace_cli.bench.heal import measure_healing
    from interlace_cli.bench.serve import measure_serving
    from interlace_cli.bench.shapes import SHAPES
    from interlace_cli.io.models import choose_device

    if o.shape not in SHAPES:
        raise UsageError(f"--shape does not take {o.shape!r}.", f"It takes {', '.join(SHAPES)}.")
    shape, device = SHAPES[o.shape], choose_device(o.device)
    if part == "heal":
        made = measure_healing(
            shape, o.tokens, o.batch_size, o.repeats, o.optim, o.gradient_checkpointing, device, advance
        )
        return device, [made]
    if part == "analyze":
        return device, _measure_analysis(shape, o, device, advance)
    return device, measure_serving(shape, o.sides, (1, o.batch_size), o.new_tokens, o.repeats, device, advance)


def _measure_analysis(shape: Shape, o: BenchOptions, device: str, advance: Callable[[], None]) -> list[Case]:
    from interlace_cli.bench.analyze import load_material, make_random, measure_analysis

    if o.model is None:
        sides = (make_random(shape, o.samples, o.batch_size, side, device) for side in o.sides)
        return [case for material in sides for case in measure_analysis(material, o.repeats, device, advance)]
    opened = open_model(o.model)
    with tempfile.TemporaryDirectory() as name:
        dataset = Path(name) / "dataset"
        prepare_dataset("demo", dataset, Selection(max_samples=4 * o.samples, calibration=0.8), Silent())
        deepstack, path = opened.facts.deepstack_layers, opened.checkpoint.path
        material = load_material(path, deepstack, dataset, o.samples, o.batch_size, device)
        return measure_analysis(material, o.repeats, device, advance)


def _count(part: str, o: BenchOptions) -> int:
    """Runs, warm-ups among them."""
    turns = 2 * (o.repeats + 1)
    return {
        "startup": 2 * turns,
        "prune": 2 * o.repeats,
        "heal": turns,
        "analyze": 2 * turns * len(o.sides),
        "serve": 4 * turns * len(o.sides),
    }[part]
