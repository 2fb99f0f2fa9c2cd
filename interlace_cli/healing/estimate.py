"""Estimate of the time and memory that healing needs on this device, from a trial of a few real steps. The formula in
`step.py` gives the FLOPs; only a trial shows how fast a device computes them and what its kernels keep in memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from interlace_cli.data.batches import IGNORE
from interlace_cli.data.rows import CACHE, count_bytes
from interlace_cli.domain.checkpoint import HealingEstimate
from interlace_cli.domain.progress import Advance, Progress
from interlace_cli.healing.cost import Workload
from interlace_cli.healing.heal import Healer
from interlace_cli.healing.memory_need import RowSizes
from interlace_cli.healing.state import State
from interlace_cli.io.samples import measure_texts

WARM_UP = 2
"""Steps of the trial before the clock counts."""
TIMED = 6
"""Steps of the trial that are timed."""


@dataclass
class _Clock:
    """The progress display of a trial: `times[i]` is when step i was done, in seconds of `perf_counter`. `follow` is
    told of each call too."""

    follow: Advance
    times: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def say(self, line: str) -> None:
        """Ignores the line: a trial prints nothing."""
        del line

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Advance]:
        """Yields a callback that notes the time of each whole step."""
        del description, total, unit
        total_done = 0.0

        def advance(done: float = 1, note: str = "") -> None:
            nonlocal total_done
            self.follow(done, note)
            total_done += done
            now = time.perf_counter()
            while len(self.times) - 1 < round(total_done, 6) // 1:
                self.times.append(now)

        yield advance


def estimate(healer: Healer, loading: float, progress: Progress) -> HealingEstimate:
    """Runs a few steps of each stage, the one with the most text first, and saves once. Returns seconds, bytes and
    FLOPs of the whole healing; `loading`, the seconds that loading took, is part of it. The trial trains the model: do
    not use it afterwards."""
    plan, how, seconds, saving, encoded = healer.plan, healer.how, loading, 0.0, 0
    each: list[float] = []
    trials = [
        (stage, steps, [_find_heaviest(healer, steps), *steps[: WARM_UP - 1 + TIMED]]) for stage, steps in plan if steps
    ]
    total = sum(len(trial) for _, _, trial in trials)
    with (
        TemporaryDirectory(prefix="interlace-") as folder,
        progress.task("estimate", total, "trial steps") as advance,
    ):
        for number, (stage, steps, trial) in enumerate(trials):
            clock = _Clock(advance)
            healer.plan, healer.progress, healer.is_trial = [(stage, trial)], clock, True
            healer.how = replace(how, save_every=1 if stage.is_local else len(trial))
            healer.state = State(Path(folder) / f"{number}", "trial")
            healer.heal()
            saving = time.perf_counter() - clock.times[-1]
            timed = clock.times[min(WARM_UP, len(clock.times) - 2) :]
            each.append((timed[-1] - timed[0]) / (len(timed) - 1))
            repeated, held = _count_repeated(healer, len(steps))
            seconds += each[-1] * len(steps) - repeated * _time_encoding(healer, steps[:TIMED])
            encoded = max(encoded, held)
            seconds += saving * (1 if stage.is_local else len(steps) // how.choose_save_every(len(steps)))
    work = _count_work(healer, plan[0][1][:TIMED])
    return HealingEstimate(
        steps=sum(len(steps) for _, steps in plan),
        seconds=seconds,
        seconds_per_step=each,
        seconds_per_save=saving,
        peak_memory_bytes=_read_peak(healer.device) + encoded,
        device=healer.device.type,
        layout=healer.layout.attention,
        tokens_per_step=work.tokens,
        labels_per_step=work.labels,
        flops_per_step=work.flops,
        released_flops_per_step=work.released_flops,
    )


def _find_heaviest(healer: Healer, steps: Sequence[Sequence[int]]) -> list[int]:
    """The step (indices of its samples) with the most characters of text."""
    length = measure_texts(healer.samples)
    return list(max(steps, key=lambda step: int(length[list(step)].sum())))


def measure_row(healer: Healer) -> RowSizes:
    """The largest row of the step with the most text. Any of its tokens may be a picture's."""
    _, steps = healer.plan[-1]
    samples = healer.source(steps=[_find_heaviest(healer, steps)])[0]
    rows = healer.build_rows(samples, healer.recipe.max_length)
    largest = max(rows, key=lambda row: row.padded_tokens)
    # transformers' own sdpa takes one mask over the whole row, in the dtype of the activations.
    mask = 2 if healer.layout.attention == "sdpa" else 0
    labels, tokens = int(largest.is_label_BK.sum()), largest.padded_tokens
    return RowSizes(tokens, labels, tokens, is_alone=len(rows) == 1, mask=mask)


def _count_repeated(healer: Healer, steps: int) -> tuple[int, int]:
    """Of a stage of `steps` steps: how many find their samples in the cache of encoded samples (those of later
    epochs), and the cache's bytes. (0, 0) on GPUs, which do not wait for encoding, and if it would be larger than
    CACHE."""
    repeated = max(steps - len(healer.samples) // healer.recipe.step_samples, 0)
    held = count_bytes(healer.source(steps=[[0]])[0]) * min(repeated * healer.recipe.step_samples, len(healer.samples))
    return (repeated, held) if healer.device.type == "cpu" and held < CACHE else (0, 0)


def _count_work(healer: Healer, steps: Sequence[Sequence[int]]) -> Workload:
    """The size of an optimizer step, averaged over `steps`. The vision tower is not counted."""
    source = healer.source(steps=steps)
    samples = [sample for i in range(len(source)) for sample in source[i] if sample.length]
    text = healer.student.model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    layers, tuned = healer.student.layers, set(healer.student.tuned)
    sizes = [sum(p.numel() for p in layer.parameters() if p.ndim == 2) for layer in layers]
    first = min(tuned)
    head = healer.student.model.get_output_embeddings()
    return Workload(
        below=sum(sizes[:first]),
        frozen=sum(size for position, size in enumerate(sizes) if position > first and position not in tuned),
        tuned=sum(sizes[position] for position in tuned),
        head=head.weight.numel() if head is not None else 0,
        tokens=sum(sample.length for sample in samples) // len(steps),
        labels=sum(int((sample.targets_T != IGNORE).sum()) for sample in samples) // len(steps),
        pairs=sum(sample.length**2 for sample in samples) // len(steps),
        width=text.num_attention_heads * head_dim,
        layers_below=first,
        layers_above=len(layers) - first,
    )


def _time_encoding(healer: Healer, steps: Sequence[Sequence[int]]) -> float:
    """Seconds that encoding a step's samples takes. Later epochs find them in the cache."""
    source = healer.source(steps=steps)
    began = time.perf_counter()
    for index in range(len(source)):
        source[index]
    return (time.perf_counter() - began) / len(source)


def _read_peak(device: torch.device) -> int:
    """Peak memory in bytes: that of the CUDA device, or of the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
