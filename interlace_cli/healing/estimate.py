"""What healing will need on this device, from a few steps of the real thing: the formula in `step.py` says how much is
to be done, only a trial how fast a device does it and what its kernels keep."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from interlace_cli.domain.checkpoint import HealingEstimate
from interlace_cli.domain.progress import Advance
from interlace_cli.healing.heal import Healer
from interlace_cli.healing.state import State

WARM_UP = 2
TIMED = 6


@dataclass
class _Clock:
    """Listens to a trial: when each step was done."""

    times: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def say(self, line: str) -> None:
        """Nothing."""
        del line

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Advance]:
        """Notes the time of each whole step."""
        del description, total, unit
        total_done = 0.0

        def advance(done: float = 1, note: str = "") -> None:
            nonlocal total_done
            del note
            total_done += done
            now = time.perf_counter()
            while len(self.times) - 1 < round(total_done, 6) // 1:
                self.times.append(now)

        yield advance


def estimate(healer: Healer, loading: float) -> HealingEstimate:
    """Takes a few steps of each stage, the one with the most text first, and saves once; the model is spoilt then.
    `loading` seconds were spent before."""
    plan, how, seconds, saving, encoded = healer.plan, healer.how, loading, 0.0, 0
    each: list[float] = []
    with TemporaryDirectory(prefix="interlace-") as folder:
        for number, (stage, steps) in enumerate((stage, steps) for stage, steps in plan if steps):
            trial = [healer.find_heaviest(steps), *steps[: WARM_UP - 1 + TIMED]]
            clock = _Clock()
            healer.plan, healer.progress = [(stage, trial)], clock
            healer.how = replace(how, save_every=1 if stage.is_local else len(trial))
            healer.state = State(Path(folder) / f"{number}", "trial")
            healer.heal()
            saving = time.perf_counter() - clock.times[-1]
            timed = clock.times[min(WARM_UP, len(clock.times) - 2) :]
            each.append((timed[-1] - timed[0]) / (len(timed) - 1))
            repeated, held = healer.count_repeated(len(steps))
            seconds += each[-1] * len(steps) - repeated * _time_encoding(healer, steps[:TIMED])
            encoded = max(encoded, held)
            seconds += saving * (1 if stage.is_local else len(steps) // how.choose_save_every(len(steps)))
    work = healer.count_work(plan[0][1][:TIMED])
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


def _time_encoding(healer: Healer, steps: Sequence[Sequence[int]]) -> float:
    """Seconds a step, which later epochs need not spend again."""
    source = healer.source(steps=steps)
    began = time.perf_counter()
    for index in range(len(source)):
        source[index]
    return (time.perf_counter() - began) / len(source)


def _read_peak(device: torch.device) -> int:
    """Of the device; on the CPU of the whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
