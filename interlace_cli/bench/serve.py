"""What a shorter model saves when it serves: time to the first token and tokens a second, dense beside pruned, over
image sizes and batch sizes.

The ideal: of the decoder's own time, found by a clock around its layers, the dropped layers' share is saved, and
nothing else. The goal is nine tenths of that speedup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from interlace_cli.bench.shapes import Shape, build_model, build_sample
from interlace_cli.bench.turns import BASELINE, OURS, build_case, take_turns
from interlace_cli.data.batches import Inputs, to_device
from interlace_cli.data.rows import pad
from interlace_cli.domain.benchmark import Case
from interlace_cli.families.modules import find_layers
from interlace_cli.io.memory import measure_peak

SHARE, WORDS = 0.9, 64


def measure_serving(
    shape: Shape,
    sides: Sequence[int],
    batch_sizes: Sequence[int],
    new_tokens: int,
    repeats: int,
    device: str,
    advance: Callable[[], None],
) -> list[Case]:
    """Two cases for each size of image and batch: prefill, and the tokens after it."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    dense = build_model(shape, dtype, device, shape.layers).eval()
    short = build_model(shape, dtype, device, shape.kept).eval()
    share = 1 - shape.kept / shape.layers
    weights = [sum(p.numel() * p.element_size() for p in model.parameters()) for model in (dense, short)]
    cases = []
    for side in sides:
        for size in batch_sizes:
            inputs = _build_inputs(shape, side, size, dense)
            about = f"{side * side / 1e6:.2f} MP, batch {size}"
            for name, tokens in (("first token", 1), (f"{new_tokens} tokens", new_tokens)):
                ways = {OURS: _generate(short, inputs, tokens), BASELINE: _generate(dense, inputs, tokens)}
                seconds = take_turns(ways, repeats, advance)
                ideal = _find_ideal(dense, ways[BASELINE], share)
                held = [measure_peak(way, device) for way in ways.values()]
                case = build_case(f"serve: {name}, {about}", "the dense model", seconds, SHARE * ideal, is_speedup=True)
                note = f"ideal {ideal:.2f} x; weights {weights[1] / 1e6:,.0f} MB, dense {weights[0] / 1e6:,.0f} MB"
                update = {"notes": [note], "ours_peak_bytes": held[0], "baseline_peak_bytes": held[1]}
                cases.append(case.model_copy(update=update))
    return cases


def _build_inputs(shape: Shape, side: int, size: int, model: Any) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    length = (side // 32) ** 2 + WORDS
    row = pad([build_sample(shape, length, side, model, generator) for _ in range(size)])
    kept = {name: value for name, value in row.inputs.items() if name != "logits_to_keep"}
    return to_device(kept, model.device, model.dtype)


def _generate(model: Any, inputs: Inputs, tokens: int) -> Callable[[], None]:
    @torch.inference_mode()
    def run() -> None:
        model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _find_ideal(model: Any, way: Callable[[], None], share: float) -> float:
    """The speedup if `share` of the layers' time were saved, and nothing else."""
    clock = _LayerClock(model)
    began = time.perf_counter()
    way()
    total = time.perf_counter() - began
    clock.remove()
    return total / (total - share * clock.seconds)


class _LayerClock:
    """Seconds from the first layer's input to the last one's output, over all forwards."""

    def __init__(self, model: Any) -> None:
        layers = find_layers(model)
        self.is_cuda = model.device.type == "cuda"
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
        if self.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()
