"""Time to first token, tokens per second and peak memory of checkpoints, timed in alternation where there are
several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from interlace_cli.data.batches import Inputs, to_model
from interlace_cli.domain.evaluation import Speed
from interlace_cli.evaluation.generation import build_timed_config, replaced
from interlace_cli.options.evaluate import GREEDY
from interlace_cli.runtime import accelerator
from interlace_cli.runtime.accelerator import synchronize
from interlace_cli.runtime.dispatch import find_devices
from interlace_cli.runtime.memory import read_status, reset_peak

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WARM_UPS = 2
"""Rounds that are run and not counted."""


def measure_speed(
    models: Sequence[PreTrainedModel], inputs: Inputs, repeats: int, way: str = GREEDY, new_tokens: int = 33
) -> list[Speed]:
    """The speed of each model on one prompt of batch size 1: medians over `repeats`. `way`: see `Generator`.

    In each round every model runs once, so a machine that slows down slows all of them alike. The decoding speed is
    (new_tokens - 1) / (time for `new_tokens` - time for the first).
    """
    first: list[list[float]] = [[] for _ in models]
    whole: list[list[float]] = [[] for _ in models]
    memory = [_measure_memory(model, inputs, new_tokens, way) for model in models]
    for repeat in range(WARM_UPS + repeats):
        for index, model in enumerate(models):
            one, many = _time(model, inputs, 1, way), _time(model, inputs, new_tokens, way)
            if repeat >= WARM_UPS:
                first[index].append(one)
                whole[index].append(many)
    results = []
    for index in range(len(models)):
        ttft, total = statistics.median(first[index]), statistics.median(whole[index])
        results.append(
            Speed(
                ttft_ms=1000 * ttft,
                tokens_per_second=(new_tokens - 1) / max(total - ttft, 1e-9),
                peak_memory_bytes=memory[index],
                repeats=repeats,
                prompt_tokens=inputs["input_ids"].shape[1],
                new_tokens=new_tokens,
            )
        )
    return results


def time_first_token(
    models: Sequence[PreTrainedModel], inputs: Inputs, repeats: int, way: str = GREEDY
) -> list[list[float]]:
    """Seconds to the first token as `[repeat][model]`; in each round every model runs once."""
    times = [[_time(model, inputs, 1, way) for model in models] for _ in range(WARM_UPS + repeats)]
    return times[WARM_UPS:]


@torch.inference_mode()
def _time(model: PreTrainedModel, inputs: Inputs, new_tokens: int, way: str) -> float:
    """Seconds to generate exactly `new_tokens` tokens; moving the inputs to the device is not counted."""
    moved = to_model(inputs, model)
    config = build_timed_config(model, way, new_tokens)
    with replaced(model, config):
        _synchronize(model)
        began = time.perf_counter()
        model.generate(**moved, generation_config=config)
        _synchronize(model)
        return time.perf_counter() - began


def _synchronize(model: PreTrainedModel) -> None:
    for device in find_devices(model):
        synchronize(device)


def _measure_memory(model: PreTrainedModel, inputs: Inputs, new_tokens: int, way: str) -> int | None:
    """Bytes: the weights plus the peak that generating adds to them. None if the system does not report its peak."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    gpus = [device for device in find_devices(model) if accelerator.is_cuda(device)]
    if gpus:
        before = sum(map(accelerator.read_held, gpus))
        for gpu in gpus:
            accelerator.reset_peak(gpu)
        _time(model, inputs, new_tokens, way)
        return weights + sum(map(accelerator.read_peak, gpus)) - before
    if not reset_peak():
        return None
    before = read_status("VmRSS")
    _time(model, inputs, new_tokens, way)
    return weights + max(read_status("VmHWM") - before, 0)
