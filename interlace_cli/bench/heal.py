"""Benchmark of a healing step: ours and the released way on the same model, timed in alternation.

"The released way" is the training recipe published with INTERLACE (arXiv 2511.19676). It makes the embeddings require
gradients, so the backward pass goes through every layer; it checkpoints every layer, computes the logits of all tokens,
and pads samples to a batch. Both ways train the same layers in the same precision with the same optimizer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.bench.depth import Depth, choose_tuned
from interlace_cli.bench.interleaved_timing import BASELINE, OURS, build_case
from interlace_cli.bench.shapes import ModelShape, build_model, build_samples
from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.data.rows import Encoded, PackedRow, build_rows, encode, pad
from interlace_cli.domain.benchmark import Case
from interlace_cli.families.modules import find_layers
from interlace_cli.families.packing import find_positions
from interlace_cli.healing.layout import Layout, apply_layout, choose_layout
from interlace_cli.healing.loss import choose_loss
from interlace_cli.healing.objective import Stage
from interlace_cli.healing.optimizer import choose_optim
from interlace_cli.healing.precision import autocast
from interlace_cli.healing.step import RowLoss, TermWeights
from interlace_cli.healing.trainable import apply_checkpointing, apply_trainable_set
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import import_transformers
from interlace_cli.runtime.accelerator import is_cuda, read_name, synchronize
from interlace_cli.runtime.memory import measure_peak

CPU_GOAL, CUDA_GOAL = 2.0, 2.5
"""Times as fast as the released way."""
SCALING = (1, 2, 4)
"""Steps in a row: their time and memory show whether anything grows."""


@dataclass(frozen=True)
class Patient:
    """A model without a quarter of its layers, the positions of the layers to train, and the samples of one step."""

    model: Any
    tuned: Sequence[int]
    samples: Sequence[Encoded]


def make_random(shape: ModelShape, tokens: int, device: str) -> Patient:
    """A random model of the shape without a quarter of its layers, and random samples of `tokens` tokens together."""
    model = build_model(shape, torch.bfloat16 if is_cuda(device) else torch.float32, device)
    return Patient(model, shape.tuned, build_samples(shape, tokens, model))


def load_patient(model: Any, batcher: Batcher, tokens: int, deepstack: int) -> Patient:
    """A dense model without its last quarter of layers, and training samples of at least `tokens` tokens together.

    The samples of the batcher's dataset are repeated if there are too few.
    """
    depth = Depth(model)
    depth.use(depth.kept)
    samples: list[Encoded] = []
    for sample in cycle(load_split(batcher.folder, "train")):
        samples.append(encode(sample, batcher, find_positions(model)))
        if sum(one.length for one in samples) >= tokens:
            break
    return Patient(model, choose_tuned(depth.kept, len(depth.layers) - depth.kept, deepstack), samples)


def measure_healing(
    patient: Patient,
    batch_size: int,
    repeats: int,
    optim: str,
    is_checkpointed: bool,
    device: str,
    advance: Callable[[], None],
) -> Case:
    """The case of one step: forward, backward and optimizer, `repeats` times each way in alternation.

    The first step of each way is a warm-up, in which its peak memory is measured. `optim` is the name of one of
    transformers' optimizers, which both ways run in the form that healing takes; `is_checkpointed` turns on gradient
    checkpointing in our way, too.
    """
    model, samples, dtype = patient.model, patient.samples, patient.model.dtype
    optim = choose_optim(optim, device, "auto")
    layers, tokens = find_layers(model), sum(len(sample.targets_T) for sample in samples)
    apply_trainable_set(model, layers, patient.tuned)
    layout = choose_layout(model, samples, dtype)
    rows = build_rows(samples, layout.is_packed, tokens, batch_size, layout.padding, layout.lengths)
    loss = RowLoss(Stage(("ce",)), choose_loss(model, rows[0].to(device, dtype)), TermWeights(0.0, 0.0))
    ours = _Ours(layout, loss, model, layers, patient.tuned, rows, is_checkpointed)
    groups = [samples[i : i + batch_size] for i in range(0, len(samples), batch_size)]
    theirs = _Released(model, layers, [pad(group) for group in groups], len(samples))
    ways = {OURS: ours.step, BASELINE: theirs.step}
    optimizers = {name: _build_optimizer(model, optim) for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, int | None] = dict.fromkeys(ways)
    for turn in range(repeats + 1):
        for name, step in ways.items():
            taken = _time(step, optimizers[name], device)
            if turn:
                seconds[name].append(taken)
            else:
                # It makes the optimizer's state anew, which is part of what a step takes.
                optimizers[name].state.clear()
                peaks[name] = measure_peak(partial(_step, step, optimizers[name]), device)
            # The peak of the other way must not include the optimizer state of this one.
            optimizers[name].state.clear()
            advance()
    machine = read_name(device) if is_cuda(device) else "cpu"
    per_second = {name: tokens / statistics.median(taken) for name, taken in seconds.items()}
    return build_case(
        "heal: a step",
        "the released way: gradients from the embeddings up, every layer checkpointed, all logits, padded",
        seconds,
        CUDA_GOAL if is_cuda(device) else CPU_GOAL,
        is_speedup=True,
        ours_peak_bytes=peaks[OURS],
        baseline_peak_bytes=peaks[BASELINE],
        notes=[
            f"{len(layers)} layers, {len(patient.tuned)} tuned; {tokens:,} tokens in {len(samples)} samples; {machine},"
            f" {str(dtype).removeprefix('torch.')}, {optim}; rows: {layout.attention}",
            f"{per_second[OURS]:,.0f} tokens/s, {per_second[BASELINE]:,.0f} the released way",
            *_describe_scaling(ours.step, optimizers[OURS], device),
        ],
    )


@dataclass
class _Ours:
    layout: Layout
    loss: RowLoss
    model: Any
    layers: nn.ModuleList
    tuned: Sequence[int]
    rows: Sequence[PackedRow]
    is_checkpointed: bool

    def step(self) -> None:
        """Forward and backward pass of all rows, as `finetune` does it."""
        _forget_checkpoints(self.model)
        apply_layout(self.model, self.layout)
        if self.is_checkpointed:
            apply_checkpointing(self.model, self.layers, self.tuned)
        device, dtype = self.model.device, self.model.dtype
        for row in self.rows:
            with autocast(device, dtype):
                token = self.loss.compute(self.model, row.to(device, dtype)).token
            token.backward()  # type: ignore[no-untyped-call]


@dataclass
class _Released:
    model: Any
    layers: nn.ModuleList
    rows: Sequence[PackedRow]
    samples: int

    def step(self) -> None:
        """Forward and backward pass of all batches, as the released recipe does it."""
        model, device, dtype = self.model, self.model.device, self.model.dtype
        _forget_checkpoints(model)
        model.set_attn_implementation("sdpa")
        apply_checkpointing(model, self.layers, [0])
        handle = model.get_input_embeddings().register_forward_hook(_require_gradients)
        for row in self.rows:
            there = row.to(device, dtype)
            inputs = dict(there.inputs)
            labels = torch.full_like(inputs["input_ids"], IGNORE)
            labels[:, inputs.pop("logits_to_keep") + 1] = there.targets_BK
            with autocast(device, dtype):
                loss = model(**inputs, labels=labels, use_cache=False).loss
            loss.backward()
        handle.remove()


def _require_gradients(module: nn.Module, args: Any, output: Tensor) -> None:
    del module, args
    output.requires_grad_(True)


def _forget_checkpoints(model: Any) -> None:
    """Turns off gradient checkpointing in all modules."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False


def _build_optimizer(model: Any, optim: str) -> torch.optim.Optimizer:
    transformers = import_transformers()
    arguments = transformers.TrainingArguments(output_dir="none", optim=optim, learning_rate=1e-5, report_to="none")
    make, options = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return make([p for p in model.parameters() if p.requires_grad], **options)


def _describe_scaling(step: Callable[[], None], optimizer: torch.optim.Optimizer, device: str) -> list[str]:
    """Time per step and peak memory of so many steps in a row, one line each."""
    lines = []
    for count in SCALING:

        def work(count: int = count) -> None:
            for _ in range(count):
                _step(step, optimizer)

        seconds = min(_time(work, None, device) for _ in range(2)) / count
        optimizer.state.clear()
        peak = measure_peak(work, device)
        held = "" if peak is None else f", {peak / 1e6:,.0f} MB above the model"
        lines.append(f"{count} step{'s' if count > 1 else ''}: {1000 * seconds:,.0f} ms each{held}")
    return lines


def _step(step: Callable[[], None], optimizer: torch.optim.Optimizer | None) -> None:
    step()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()


def _time(step: Callable[[], None], optimizer: torch.optim.Optimizer | None, device: str) -> float:
    """Seconds of one step, including the optimizer's."""
    synchronize(device)
    began = time.perf_counter()
    _step(step, optimizer)
    synchronize(device)
    return time.perf_counter() - began
