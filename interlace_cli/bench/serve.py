"""Benchmark of generation: time to the first token and for more tokens, pruned beside dense, by batch size.

The ideal speedup saves the dropped layers' share of the time spent in the decoder layers, and nothing else. Example: if
the layers take 80% of the time and a quarter of them is dropped, the ideal is 1 / (1 - 0.8 * 0.25) = 1.25. The goal is
nine tenths of the ideal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from interlace_cli.bench.depth import Depth
from interlace_cli.bench.interleaved_timing import BASELINE, OURS, build_case, time_interleaved
from interlace_cli.data.batches import Batcher, Inputs, to_model
from interlace_cli.domain.benchmark import Case
from interlace_cli.evaluation.generation import build_timed_config, generate
from interlace_cli.io.datasets import load_split
from interlace_cli.options.evaluate import GREEDY
from interlace_cli.runtime.accelerator import synchronize
from interlace_cli.runtime.memory import measure_peak

SHARE = 0.9
"""The goal as a share of the ideal speedup."""


def measure_serving(
    model: Any,
    batcher: Batcher,
    about: str,
    batch_sizes: Sequence[int],
    new_tokens: int,
    repeats: int,
    device: str,
    advance: Callable[[], None],
) -> list[Case]:
    """Two cases per batch size: one new token (prefill), and `new_tokens`. `about` names the image size for people."""
    depth = Depth(model)
    dense, kept = len(depth.layers), depth.kept
    weights = {count: _weigh(depth, count) for count in (kept, dense)}
    cases = []
    samples = load_split(batcher.folder, "calibration")
    for size in batch_sizes:
        inputs = to_model(batcher.build_prompts(samples[:size]), model)
        for name, tokens in (("first token", 1), (f"{new_tokens} tokens", new_tokens)):
            ways = {OURS: _generate(depth, kept, inputs, tokens), BASELINE: _generate(depth, dense, inputs, tokens)}
            seconds = time_interleaved(ways, repeats, advance)
            ideal = _find_ideal(depth, ways[BASELINE], 1 - kept / dense)
            held = [measure_peak(way, device) for way in ways.values()]
            title = f"serve: {name}, {about}, batch {size}"
            case = build_case(title, "the dense model", seconds, SHARE * ideal, is_speedup=True)
            note = f"ideal {ideal:.2f} x; weights {weights[kept]:,.0f} MB, dense {weights[dense]:,.0f} MB"
            update = {"notes": [note], "ours_peak_bytes": held[0], "baseline_peak_bytes": held[1]}
            cases.append(case.model_copy(update=update))
    return cases


def _weigh(depth: Depth, count: int) -> float:
    """MB of weights in use with `count` layers."""
    depth.use(count)
    return depth.count_bytes() / 1e6


def _generate(depth: Depth, count: int, inputs: Inputs, tokens: int) -> Callable[[], None]:
    """A function that generates exactly `tokens` tokens with `count` layers."""

    model = depth.model
    config = build_timed_config(model, GREEDY, tokens)

    @torch.inference_mode()
    def run() -> None:
        depth.use(count)
        generate(model, inputs, config)
        synchronize(model.device)

    return run


def _find_ideal(depth: Depth, way: Callable[[], None], share: float) -> float:
    """The speedup of `way` if `share` of the time in the layers were saved, and nothing else."""
    clock = _LayerClock(depth)
    began = time.perf_counter()
    way()
    total = time.perf_counter() - began
    clock.remove()
    return total / (total - share * clock.seconds)


class _LayerClock:
    """Seconds from the first layer's input to the last one's output, summed over all forward passes."""

    def __init__(self, depth: Depth) -> None:
        layers = depth.layers
        self.device = depth.model.device
        self.seconds, self.began = 0.0, 0.0
        self.handles = [layers[0].register_forward_pre_hook(self._begin), layers[-1].register_forward_hook(self._end)]

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _begin(self, *_: Any) -> None:
        self.began = self._now()

    def _end(self, *_: Any) -> None:
        self.seconds += self._now() - self.began

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()
