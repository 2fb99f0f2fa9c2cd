"""`bench`: what a step costs our way and another, on the machine at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.core.prepare import prepare
from interlace_cli.domain.benchmark import Benchmark, Case
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.errors import UsageError
from interlace_cli.families.model_files import open_model
from interlace_cli.io.artifacts import build_origin
from interlace_cli.options.bench import BenchOptions
from interlace_cli.options.prepare import PrepareOptions
from interlace_cli.runtime.allocator import expand_segments

if TYPE_CHECKING:
    from interlace_cli.bench.heal import Patient


def run_benchmark(options: BenchOptions, progress: Progress) -> Benchmark:
    """One part, on this machine. Raises UsageError for a shape that there is not."""
    part = options.part
    if part == "heal":
        expand_segments()
    with progress.task(f"bench {part}", _count(part, options), "runs") as advance:
        device, cases = _measure(part, options, lambda: advance(1))
    from interlace_cli.bench.machine import describe_machine, find_versions

    return Benchmark(
        kind=Benchmark.KIND,
        schema_version=Benchmark.SCHEMA,
        created_by=build_origin(f"bench {part}", options.build_settings()),
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
    from interlace_cli.runtime.device import use_device

    device = use_device(o.device)
    if part == "heal" and o.model is None:
        from interlace_cli.bench.heal import make_random
        from interlace_cli.bench.shapes import find_shape

        return device, [_measure_healing(make_random(find_shape(o.shape), o.tokens, device), o, device, advance)]
    return device, _measure_on_pictures(part, o, device, advance)


def _measure_on_pictures(part: str, o: BenchOptions, device: str, advance: Callable[[], None]) -> list[Case]:
    from interlace_cli.bench.analyze import build_material, measure_analysis
    from interlace_cli.bench.heal import load_patient
    from interlace_cli.bench.pictures import draw_pictures
    from interlace_cli.bench.serve import measure_serving
    from interlace_cli.bench.shapes import build_dense, build_processor, find_shape
    from interlace_cli.data.batches import Batcher
    from interlace_cli.io.models import is_text_only, load_model, load_processor

    opened = None if o.model is None else open_model(o.model)
    if opened is not None and is_text_only(opened.facts.model_type):
        raise UsageError(
            f"bench {part} shows pictures, and {opened.facts.name} is a {opened.facts.model_type} model, which reads"
            " text alone.",
            "`interlace eval` times its checkpoints, and `interlace finetune --estimate` its healing.",
        )
    if opened is None:
        shape = find_shape(o.shape)
        model, deepstack = build_dense(shape, device), len(shape.deepstack)
    else:
        model, deepstack = load_model(opened.checkpoint.path, device=device), opened.facts.deepstack_layers
    cases: list[Case] = []
    for side in o.side:
        with tempfile.TemporaryDirectory() as name:
            dataset = Path(name) / "dataset"
            records = draw_pictures(Path(name), 2 * max(o.samples, o.batch_size), side)
            prepare(PrepareOptions(source=str(records), out=dataset, calibration=0.8, holdout=0.1), Silent())
            area = side * side
            path = None if opened is None else opened.checkpoint.path
            processor = build_processor(side) if path is None else load_processor(path, area, area)
            batcher = Batcher(processor, dataset)
            if part == "analyze":
                about = f"{side} x {side} pixels"
                material = build_material(model, batcher, o.samples, o.batch_size, deepstack, about)
                cases += measure_analysis(material, o.repeats, device, advance)
            elif part == "serve":
                about = f"{area / 1e6:.2f} MP"
                sizes = (1, o.batch_size)
                cases += measure_serving(model, batcher, about, sizes, o.new_tokens, o.repeats, device, advance)
            else:
                patient = load_patient(model, batcher, o.tokens, deepstack)
                return [_measure_healing(patient, o, device, advance)]
    return cases


def _measure_healing(patient: Patient, o: BenchOptions, device: str, advance: Callable[[], None]) -> Case:
    from interlace_cli.bench.heal import measure_healing

    return measure_healing(patient, o.batch_size, o.repeats, o.optim, o.gradient_checkpointing, device, advance)


def _count(part: str, o: BenchOptions) -> int:
    """Runs, warm-ups among them."""
    turns = 2 * (o.repeats + 1)
    return {
        "startup": 2 * turns,
        "prune": 2 * o.repeats,
        "heal": turns,
        "analyze": 3 * turns * len(o.side),
        "serve": 4 * turns * len(o.side),
    }[part]
