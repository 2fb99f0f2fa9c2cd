"""A step of healing our way and the released recipe's way, on one random model, timed in turns.

The released way (method.md): the embeddings are made to require gradients, so that the backward pass goes through every
layer; every layer is checkpointed; logits of all tokens; samples in a padded batch. Both train the same layers of the
same model, in the same precision, with the same optimizer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.bench.shapes import Shape, build_model, build_samples
from interlace_cli.bench.turns import BASELINE, OURS, build_case
from interlace_cli.data.batches import IGNORE
from interlace_cli.data.rows import Row, build_rows, pad
from interlace_cli.domain.benchmark import Case
from interlace_cli.families.modules import find_layers
from interlace_cli.healing.head import choose_loss
from interlace_cli.healing.layout import Layout, apply_layout, choose_layout
from interlace_cli.healing.objective import Stage
from interlace_cli.healing.step import RowLoss, Weights
from interlace_cli.healing.trainable import apply_checkpointing, apply_trainable_set
from interlace_cli.io.models import import_transformers

CPU_GOAL, CUDA_GOAL = 2.0, 2.5


def measure_healing(
    shape: Shape,
    tokens: int,
    batch_size: int,
    repeats: int,
    optim: str,
    is_checkpointed: bool,
    device: str,
    advance: Callable[[], None],
) -> Case:
    """Times both ways in turns; the first of each warms up and is not counted. Peaks are of the device's memory."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model = build_model(shape, dtype, device)
    layers = find_layers(model)
    apply_trainable_set(model, layers, shape.tuned)
    samples = build_samples(shape, tokens, model)
    layout = choose_layout(model, samples, dtype)
    rows = build_rows(samples, layout.is_packed, tokens, batch_size)
    loss = RowLoss(Stage(("ce",)), choose_loss(model, rows[0].to(device, dtype)), Weights(0.0, 0.0))
    ours = _Ours(layout, loss, model, layers, shape.tuned, rows, is_checkpointed)
    groups = [samples[i : i + batch_size] for i in range(0, len(samples), batch_size)]
    theirs = _Released(model, layers, [pad(group) for group in groups], len(samples))
    ways = {OURS: ours.step, BASELINE: theirs.step}
    optimizers = {name: _build_optimizer(model, optim) for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, int | None] = dict.fromkeys(ways)
    for turn in range(repeats + 1):
        for name, step in ways.items():
            taken, peak = _time(step, optimizers[name], device)
            # The other way's turn: its peak is not to count this one's moments.
            optimizers[name].state.clear()
            peaks[name] = peak if turn == 0 else peaks[name]
            if turn:
                seconds[name].append(taken)
            advance()
    place = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    per_second = {name: tokens / statistics.median(taken) for name, taken in seconds.items()}
    return build_case(
        "heal: a step",
        "the released way: gradients from the embeddings up, every layer checkpointed, all logits, padded",
        seconds,
        CUDA_GOAL if device.startswith("cuda") else CPU_GOAL,
        is_speedup=True,
        ours_peak_bytes=peaks[OURS],
        baseline_peak_bytes=peaks[BASELINE],
        notes=[
            f"{shape.kept} layers, {len(shape.tuned)} tuned; {tokens:,} tokens in {len(samples)} samples; {place},"
            f" {str(dtype).removeprefix('torch.')}, {optim}; rows: {layout.attention}",
            f"{per_second[OURS]:,.0f} tokens/s, {per_second[BASELINE]:,.0f} the released way",
        ],
    )


@dataclass
class _Ours:
    layout: Layout
    loss: RowLoss
    model: Any
    layers: nn.ModuleList
    tuned: Sequence[int]
    rows: Sequence[Row]
    is_checkpointed: bool

    def step(self) -> None:
        """Forward and backward of all rows."""
        _forget_checkpoints(self.model)
        apply_layout(self.model, self.layout)
        if self.is_checkpointed:
            apply_checkpointing(self.model, self.layers, self.tuned)
        device, dtype = self.model.device, self.model.dtype
        for row in self.rows:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                token = self.loss.compute(self.model, row.to(device, dtype)).token
            token.backward()  # type: ignore[no-untyped-call]


@dataclass
class _Released:
    model: Any
    layers: nn.ModuleList
    rows: Sequence[Row]
    samples: int

    def step(self) -> None:
        """Forward and backward of all batches."""
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
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(**inputs, labels=labels, use_cache=False).loss
            loss.backward()
        handle.remove()


def _require_gradients(module: nn.Module, args: Any, output: Tensor) -> None:
    del module, args
    output.requires_grad_(True)


def _forget_checkpoints(model: Any) -> None:
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False


def _build_optimizer(model: Any, optim: str) -> torch.optim.Optimizer:
    transformers = import_transformers()
    arguments = transformers.TrainingArguments(output_dir="none", optim=optim, learning_rate=1e-5, report_to="none")
    make, options = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return make([p for p in model.parameters() if p.requires_grad], **options)


def _time(step: Callable[[], None], optimizer: torch.optim.Optimizer, device: str) -> tuple[float, int | None]:
    """Seconds of a whole step, the optimizer's included, and the peak of the device's memory."""
    is_cuda = device.startswith("cuda")
    if is_cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    step()
    optimizer.step()
    optimizer.zero_grad()
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began, torch.cuda.max_memory_allocated() if is_cuda else None
