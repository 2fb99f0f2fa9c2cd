"""The analysis, beside the released way and beside a bare forward of the same batches.

The released way (method.md): three passes, one for each span length; one sample at a time; every hidden state kept; the
head computed for every token. It compares what layers return, so it is checked to give our similarities where a model
adds nothing between layers, and not at the last layer, behind which it takes the normed state.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interlace_cli.bench.machine import measure_flops
from interlace_cli.bench.shapes import Shape, build_model, build_sample
from interlace_cli.bench.turns import BASELINE, OURS, build_case, take_turns
from interlace_cli.data.batches import Batcher, Inputs, order_by_length, to_device
from interlace_cli.data.rows import pad
from interlace_cli.domain.benchmark import Case
from interlace_cli.errors import InterlaceError
from interlace_cli.families.modules import find_layers
from interlace_cli.importance.similarity import SPANS, ForwardDone, SpanTap
from interlace_cli.io.datasets import load_split
from interlace_cli.io.memory import measure_peak
from interlace_cli.io.models import load_model, load_processor

GOAL = 6.0
FORWARD_GOAL = 1.08
TOLERANCE = 2e-3


@dataclass(frozen=True)
class Material:
    """A model, and the same samples in batches and one by one. `deepstack`: behind so many first layers something is
    added that no layer returns."""

    model: Any
    batches: Sequence[Inputs]
    singles: Sequence[Inputs]
    deepstack: int
    about: str

    @property
    def tokens(self) -> int:
        """Of all samples, padding left out."""
        return sum(int(single["attention_mask"].sum()) for single in self.singles)


def make_random(shape: Shape, samples: int, batch_size: int, side: int, device: str) -> Material:
    """A random dense model; samples of one image and 32 to 96 words."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model = build_model(shape, dtype, device, shape.layers).eval()
    generator = torch.Generator().manual_seed(0)
    image = (side // 32) ** 2
    lengths = torch.randint(image + 32, image + 97, (samples,), generator=generator).tolist()
    encoded = [build_sample(shape, length, side, model, generator) for length in sorted(lengths, reverse=True)]
    batches = [_strip(pad(encoded[i : i + batch_size]).inputs) for i in range(0, samples, batch_size)]
    singles = [_strip(pad([one]).inputs) for one in encoded]
    return Material(model, batches, singles, len(shape.deepstack), f"{side} x {side} pixels")


def load_material(path: Path, deepstack: int, dataset: Path, samples: int, batch_size: int, device: str) -> Material:
    """A checkpoint, asked about pictures of a prepared dataset through its own processor."""
    model, batcher = load_model(path, device=device), Batcher(load_processor(path), dataset)
    asked = load_split(dataset, "calibration")[:samples]
    asked = [asked[i] for i in order_by_length(asked)]
    batches = [batcher.build_prompts(asked[i : i + batch_size]) for i in range(0, len(asked), batch_size)]
    singles = [batcher.build_prompts([one]) for one in asked]
    return Material(model, batches, singles, deepstack, "pictures of the demo world")


def measure_analysis(material: Material, repeats: int, device: str, advance: Callable[[], None]) -> list[Case]:
    """Both cases. Raises InterlaceError if the two ways do not give the same similarities."""
    work = _Work(material)
    work.check_alike()
    peaks = {name: measure_peak(way, device) for name, way in ((OURS, work.ours), (BASELINE, work.released))}
    floor = work.count_flops() / measure_flops(device, material.model.dtype)
    about = {"floor_seconds": floor, "floor": "FLOPs of the layers and the tower, over those of a large matrix product"}
    released = take_turns({OURS: work.ours, BASELINE: work.released}, repeats, advance)
    bare = take_turns({OURS: work.ours, BASELINE: work.forward}, repeats, advance)
    count = len(material.singles)
    rate = count / statistics.median(released[OURS])
    notes = [f"{count} samples of {material.tokens / count:.0f} tokens, {material.about}; {rate:,.1f} samples/s"]
    return [
        build_case(
            "analyze: all spans in one pass",
            "the released way: three passes, batch 1, all hidden states kept, head computed",
            released,
            GOAL,
            is_speedup=True,
            ours_peak_bytes=peaks[OURS],
            baseline_peak_bytes=peaks[BASELINE],
            notes=[*notes, *work.describe_scaling(device)],
            **about,
        ),
        build_case(
            "analyze: what measuring adds",
            "a bare forward of the same batches up to the last layer",
            bare,
            FORWARD_GOAL,
            is_speedup=False,
            **about,
        ),
    ]


class _Work:
    """What is timed."""

    def __init__(self, material: Material) -> None:
        self.model, self.layers = material.model, find_layers(material.model)
        self.batches, self.singles, self.deepstack = material.batches, material.singles, material.deepstack
        config = material.model.config
        names = (name for name in ("image_token_id", "image_token_index") if hasattr(config, name))
        self.image_token = int(getattr(config, next(names, ""), -1))

    def ours(self, count: int | None = None) -> Tensor:
        """Similarity [P, L, samples] over all tokens, as `analyze` measures it."""
        found = []
        with SpanTap(self.layers) as tap:
            for batch in self.batches[:count]:
                there = to_device(batch, self.model.device, self.model.dtype)
                found.append(tap.run(self.model, there, there["input_ids"] == self.image_token)[..., 0].cpu())
        return torch.cat(found, dim=2)

    @torch.inference_mode()
    def released(self) -> list[list[list[float]]]:
        """`[p - 1][i]`: the similarity of each sample."""
        result = []
        for p in SPANS:
            spans: list[list[float]] = [[] for _ in range(len(self.layers) - p)]
            for single in self.singles:
                there = to_device(single, self.model.device, self.model.dtype)
                states = self.model(**there, output_hidden_states=True, use_cache=False).hidden_states
                for i, values in enumerate(spans):
                    cosine = torch.nn.functional.cosine_similarity(states[i].float(), states[i + p].float(), dim=-1)
                    values.append(float(cosine.mean()))
            result.append(spans)
        return result

    @torch.inference_mode()
    def forward(self) -> None:
        """All batches up to the last layer, and nothing measured."""
        handle = self.layers[-1].register_forward_hook(_stop)
        for batch in self.batches:
            with suppress(ForwardDone):
                self.model(**to_device(batch, self.model.device, self.model.dtype), use_cache=False)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        handle.remove()

    def check_alike(self) -> None:
        """That both ways measure the same. Raises InterlaceError."""
        ours, theirs = self.ours(), self.released()
        for p in SPANS:
            # Behind layer n - 1, the last after which DeepStack adds, what a layer returns is what the next one takes.
            for i in range(self.deepstack + 1, len(self.layers) - p):
                gap = (ours[p - 1, i] - torch.tensor(theirs[p - 1][i])).abs().max()
                if gap > TOLERANCE * (10 if self.model.dtype == torch.bfloat16 else 1):
                    raise InterlaceError(f"the two ways differ by {float(gap):.4f} at layer {i}, span {p}.")

    def count_flops(self) -> float:
        """Of a bare forward of all batches."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.forward()
        return float(counter.get_total_flops())

    def describe_scaling(self, device: str) -> list[str]:
        """Time and peak for a quarter, a half and all of the batches."""
        sizes = sorted({max(len(self.batches) // share, 1) for share in (4, 2, 1)})
        lines = []
        for size in sizes:
            seconds = take_turns({OURS: lambda size=size: self.ours(size)}, 3, lambda: None)[OURS]  # type: ignore[misc]
            peak = measure_peak(lambda size=size: self.ours(size), device)  # type: ignore[misc]
            count = sum(len(batch["input_ids"]) for batch in self.batches[:size])
            held = "" if peak is None else f", {peak / 1e6:,.0f} MB above the model"
            lines.append(f"{count} samples: {1000 * min(seconds) / count:.2f} ms each{held}")
        return lines


def _strip(inputs: Inputs) -> Inputs:
    return {name: value for name, value in inputs.items() if name != "logits_to_keep"}


def _stop(*_: Any) -> None:
    raise ForwardDone
