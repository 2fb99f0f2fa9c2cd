"""Benchmark of `analyze`: beside the released code, beside a bare forward pass, and including the reading of files.

"The released way" is the analysis script published with INTERLACE (arXiv 2511.19676). It makes three passes, one per
span length, with one sample at a time, keeps every hidden state, and computes the head for every token.

Both ways must give the same similarities before they are timed. The released way compares the outputs of layers, ours
their inputs. These differ where DeepStack adds vision features between layers, and at the last layer, whose output it
takes after the final norm. Those layers are left out of the check.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interlace_cli.bench.interleaved_timing import BASELINE, OURS, build_case, time_interleaved
from interlace_cli.bench.machine import measure_flops
from interlace_cli.data.batches import Batcher, Inputs, order_by_length, to_model
from interlace_cli.data.prefetch import count_threads, cut
from interlace_cli.domain.benchmark import Case
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import InterlaceError
from interlace_cli.families.modules import find_layers
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.importance.rows import measure_rows
from interlace_cli.importance.similarity import SPANS, ForwardDone, SpanHook
from interlace_cli.io.datasets import load_split
from interlace_cli.runtime.accelerator import synchronize
from interlace_cli.runtime.memory import measure_peak

GOAL = 6.0
"""Times as fast as the released way."""
FORWARD_GOAL = 1.08
"""Times as long as a bare forward pass."""
TOLERANCE = 2e-3
"""Largest difference in similarity between the two ways; ten times that in bfloat16."""


@dataclass(frozen=True)
class Material:
    """A model and its samples: as read, in batches, and one by one.

    `deepstack` is the number of first layers after which vision features are added (DeepStack). `about` describes the
    samples for people.
    """

    model: Any
    batcher: Batcher
    samples: Sequence[Sample]
    batch_size: int
    batches: Sequence[Inputs]
    singles: Sequence[Inputs]
    deepstack: int
    about: str

    @property
    def tokens(self) -> int:
        """The number of tokens of all samples, without padding."""
        return sum(int(single["attention_mask"].sum()) for single in self.singles)


def build_material(model: Any, batcher: Batcher, count: int, batch_size: int, deepstack: int, about: str) -> Material:
    """The first `count` calibration samples of the batcher's dataset, in batches of `batch_size` and one by one."""
    first = load_split(batcher.folder, "calibration")[:count]
    asked = [first[i] for i in order_by_length(first)]
    batches = [batcher.build_prompts(chosen) for chosen in cut(asked, batch_size)]
    singles = [batcher.build_prompts([one]) for one in asked]
    return Material(model, batcher, asked, batch_size, batches, singles, deepstack, about)


def measure_analysis(material: Material, repeats: int, device: str, advance: Callable[[], None]) -> list[Case]:
    """Three cases: against the released way, against a bare forward pass, and reading ahead against reading in turn.

    Raises InterlaceError if ours and the released way give different similarities.
    """
    work = _Work(material)
    work.check_alike()
    peaks = {name: measure_peak(way, device) for name, way in ((OURS, work.ours), (BASELINE, work.released))}
    floor = work.count_flops() / measure_flops(device, material.model.dtype)
    about = {
        "floor_seconds": floor,
        "floor": "FLOPs of the layers and the vision tower, at the rate of a large matrix product",
    }
    released = time_interleaved({OURS: work.ours, BASELINE: work.released}, repeats, advance)
    bare = time_interleaved({OURS: work.ours, BASELINE: work.forward}, repeats, advance)
    pictures = time_interleaved({OURS: work.from_files_ahead, BASELINE: work.from_files_in_turn}, repeats, advance)
    making = statistics.median(time_interleaved({OURS: work.make_inputs}, 1, lambda: None)[OURS])
    count, threads = len(material.singles), work.threads
    rate = count / statistics.median(released[OURS])
    notes = [f"{count} samples of {material.tokens / count:.0f} tokens, {material.about}; {rate:,.1f} samples/s"]
    return [
        build_case(
            "analyze: all spans in one pass",
            "the released way: three passes, batch size 1, all hidden states kept, head computed",
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
            "a bare forward pass of the same batches up to the last layer",
            bare,
            FORWARD_GOAL,
            is_speedup=False,
            **about,
        ),
        build_case(
            f"analyze: from files, read ahead in {threads} thread{'s' if threads > 1 else ''}",
            "the same, but each batch is read when it is needed",
            pictures,
            None,
            is_speedup=True,
            notes=[f"reading and encoding alone take {1000 * making / count:.1f} ms per sample in one thread"],
        ),
    ]


class _Work:
    """The ways that are timed, each a method without arguments."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.threads = max(count_threads(material.model.device), 1)
        self.model, self.layers = material.model, find_layers(material.model)
        self.batches, self.singles, self.deepstack = material.batches, material.singles, material.deepstack
        config = material.model.config
        names = (name for name in ("image_token_id", "image_token_index") if hasattr(config, name))
        self.image_token = int(getattr(config, next(names, ""), -1))

    def ours(self, count: int | None = None) -> Tensor:
        """Similarity [P, L, samples] over all tokens, measured as `analyze` does; `count` None: of all batches."""
        found = []
        with SpanHook(self.layers) as hook:
            for batch in self.batches[:count]:
                there = to_model(batch, self.model)
                found.append(hook.run(self.model, there, there["input_ids"] == self.image_token)[..., 0].cpu())
        return torch.cat(found, dim=2)

    @torch.inference_mode()
    def released(self) -> list[list[list[float]]]:
        """The similarity of each sample, as `[p - 1][i][sample]`, measured as the released script does."""
        result = []
        for p in SPANS:
            spans: list[list[float]] = [[] for _ in range(len(self.layers) - p)]
            for single in self.singles:
                there = to_model(single, self.model)
                states = self.model(**there, output_hidden_states=True, use_cache=False).hidden_states
                for i, values in enumerate(spans):
                    cosine = torch.nn.functional.cosine_similarity(states[i].float(), states[i + p].float(), dim=-1)
                    values.append(float(cosine.mean()))
            result.append(spans)
        return result

    @torch.inference_mode()
    def forward(self) -> None:
        """Runs all batches up to the last layer and measures nothing."""
        handle = self.layers[-1].register_forward_hook(_stop)
        for batch in self.batches:
            with suppress(ForwardDone):
                self.model(**to_model(batch, self.model), use_cache=False)
        synchronize(self.model.device)
        handle.remove()

    def from_files(self, threads: int) -> None:
        """The analysis, starting from the dataset's files, which `threads` threads read ahead; 0 reads in turn."""
        m = self.material
        silent = Silent()
        with silent.task("", 0, "") as follow:
            ways = (m.batcher, m.samples, m.batch_size, "prompt", follow, silent.say, threads)
            measure_rows(self.model, self.layers, LANGUAGE, *ways)

    def from_files_in_turn(self) -> None:
        """The analysis from files, without threads."""
        self.from_files(0)

    def from_files_ahead(self) -> None:
        """The analysis from files with threads, even on machines where they are off by default."""
        self.from_files(self.threads)

    def make_inputs(self) -> None:
        """Reads and encodes all samples, without running the model."""
        for chosen in cut(self.material.samples, self.material.batch_size):
            self.material.batcher.build_prompts(chosen)

    def check_alike(self) -> None:
        """Raises InterlaceError if the two ways give different similarities."""
        ours, theirs = self.ours(), self.released()
        for p in SPANS:
            # After the last layer with DeepStack (deepstack - 1), each layer's output is the next layer's input.
            for i in range(self.deepstack + 1, len(self.layers) - p):
                gap = (ours[p - 1, i] - torch.tensor(theirs[p - 1][i])).abs().max()
                if gap > TOLERANCE * (10 if self.model.dtype == torch.bfloat16 else 1):
                    raise InterlaceError(f"the two ways differ by {float(gap):.4f} at layer {i}, span {p}.")

    def count_flops(self) -> float:
        """The floating point operations of a bare forward pass of all batches."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.forward()
        return float(counter.get_total_flops())

    def describe_scaling(self, device: str) -> list[str]:
        """Time per sample and peak memory for a quarter, a half and all of the batches, one line each."""
        sizes = sorted({max(len(self.batches) // share, 1) for share in (4, 2, 1)})
        lines = []
        for size in sizes:
            seconds = time_interleaved({OURS: lambda size=size: self.ours(size)}, 3, lambda: None)[OURS]  # type: ignore[misc]
            peak = measure_peak(lambda size=size: self.ours(size), device)  # type: ignore[misc]
            count = sum(len(batch["input_ids"]) for batch in self.batches[:size])
            held = "" if peak is None else f", {peak / 1e6:,.0f} MB above the model"
            lines.append(f"{count} samples: {1000 * min(seconds) / count:.2f} ms each{held}")
        return lines


def _stop(*_: Any) -> None:
    raise ForwardDone
