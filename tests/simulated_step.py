"""The real healing step at a model's real sizes, on a pretend GPU whose tensors have no data: how much memory it takes.

Real are the model, the layout, the loss, checkpointing, the engines' trainable sets and optimizers; what is left out is
the Trainer around them, which holds no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pretend import Pretend

from interlace_cli.bench.shapes import ModelShape, build_model, build_sample, build_samples
from interlace_cli.data.rows import PackedRow, build_rows
from interlace_cli.domain.model import LayerWidths
from interlace_cli.families.modules import find_layers
from interlace_cli.healing.layout import apply_layout, choose_layout
from interlace_cli.healing.loss import HeadLoss
from interlace_cli.healing.memory_need import ModelSizes, RowSizes, Way, count_need
from interlace_cli.healing.objective import Stage
from interlace_cli.healing.offload import HostAdamW
from interlace_cli.healing.step import RowLoss, Teacher, TermWeights
from interlace_cli.healing.teacher import share_frozen
from interlace_cli.healing.trainable import apply_checkpointing, apply_trainable_set

GIB = 2**30


@dataclass(frozen=True)
class Simulated:
    """Bytes of the peak as they were simulated, and by the formula."""

    peak: int
    formula: int

    @property
    def error(self) -> float:
        return self.formula / self.peak - 1

    def __str__(self) -> str:
        return f"{self.peak / GIB:.2f} GiB, formula {self.formula / GIB:.2f} ({100 * self.error:+.1f}%)"


def simulate(
    shape: ModelShape,
    way: Way,
    tokens: int = 8192,
    row_tokens: int | None = None,
    tuned: Sequence[int] | None = None,
    objective: str = "ce",
    side: int | None = None,
) -> Simulated:
    """Two steps of `tokens` tokens in rows of `row_tokens`. `side`: pixels of each picture, one in a sample of
    `row_tokens`; else samples are short and their pictures small."""
    tuned = shape.tuned if tuned is None else list(tuned)
    row_tokens = row_tokens or tokens
    with Pretend(fake=True) as gpu:
        model = build_model(shape, torch.bfloat16, "cuda")
        layers = find_layers(model)
        apply_trainable_set(model, layers, tuned, way.is_offloaded)
        model.train()
        if side is None:
            samples = build_samples(shape, tokens, model)
        else:
            generator = torch.Generator().manual_seed(0)
            samples = [build_sample(shape, row_tokens, side, model, generator) for _ in range(tokens // row_tokens)]
        layout = choose_layout(model, samples[:1], torch.bfloat16)
        rows = build_rows(samples, layout.is_packed, row_tokens, 16)
        loss = _build_loss(shape, model, layers, layout, tuned, objective)
        if way.is_checkpointed:
            apply_checkpointing(model, layers, tuned)
        optimizer = _build_optimizer(model, layers, tuned, way)
        sizes = find_sizes(shape, model, layers, tuned)
        if loss.teacher is not None:
            dropped = (shape.layers - shape.kept) * sizes.layers[0]
            anchors = len(tuned) if "anchor" in objective else 0
            sizes = sizes.add_teacher(dropped, anchors, "distill" in objective)
        for _ in range(2):
            gpu.peak[0] = gpu.now[0]
            _step(model, rows, loss, optimizer, way)
        peak = gpu.peak[0]
    largest = max(rows, key=lambda row: row.padded_tokens)
    patches = largest.inputs["pixel_values"].shape[0] if "pixel_values" in largest.inputs else 0
    row = RowSizes(largest.padded_tokens, int(largest.is_label_BK.sum()), patches // 4, is_alone=len(rows) == 1)
    return Simulated(peak, count_need(sizes, row, way).device)


def _step(model: Any, rows: Sequence[PackedRow], loss: RowLoss, optimizer: Any, way: Way) -> None:
    for row in rows:
        with torch.autocast("cuda", torch.bfloat16):
            sums = loss.compute(model, row.to("cuda", torch.bfloat16))
            total = sums.token + sums.anchor
        del sums
        total.backward()
        del total
    if way.is_offloaded:
        optimizer.land()
    else:
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _build_optimizer(model: Any, layers: Any, tuned: Sequence[int], way: Way) -> Any:
    trained = [p for p in model.parameters() if p.requires_grad]
    if way.is_offloaded:
        return HostAdamW([{"params": trained}], layers=[layers[position] for position in tuned], lr=1e-5)
    if "8bit" in way.optim:
        return EightBits(trained)
    return torch.optim.AdamW(trained, lr=1e-5, fused="fused" in way.optim, foreach="fused" not in way.optim or None)


class EightBits:
    """The memory of bitsandbytes' AdamW, whose kernels need a GPU: two bytes, and two scales for 256 of them."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.parameters, self.state = parameters, []

    def step(self) -> None:
        if not self.state:
            for p in self.parameters:
                self.state += [torch.zeros(p.numel(), dtype=torch.uint8, device=p.device) for _ in range(2)]
                self.state += [torch.zeros(-(-p.numel() // 256), device=p.device) for _ in range(2)]

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None


def _build_loss(
    shape: ModelShape, model: Any, layers: Any, layout: Any, tuned: Sequence[int], objective: str
) -> RowLoss:
    stage, head = Stage(tuple(objective.split("+"))), HeadLoss(model.get_output_embeddings())
    weights = TermWeights(0.5, 1.0)
    if not stage.needs_teacher:
        return RowLoss(stage, head, weights)
    dense = build_model(shape, torch.bfloat16, "cuda", shape.layers).eval()
    apply_layout(dense, layout)
    dense.requires_grad_(False)
    share_frozen(model, dense, {})
    behind = [position + 1 for position in tuned]
    dense_layers = list(find_layers(dense))
    teacher = Teacher(dense, dense_layers, HeadLoss(dense.get_output_embeddings()), behind, list(layers), behind)
    return RowLoss(stage, head, weights, teacher)


def find_sizes(shape: ModelShape, model: Any, layers: Any, tuned: Sequence[int]) -> ModelSizes:
    """What the formula takes for a model of this shape."""
    widths = LayerWidths(
        hidden=shape.hidden,
        query=shape.heads * shape.head_dim,
        key_value=shape.kv_heads * shape.head_dim,
        heads=shape.heads,
        intermediate=shape.intermediate,
        vocabulary=shape.vocabulary,
        has_query_norm=True,
    )
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    rest = sum(p.numel() for p in model.parameters()) - sum(counts)
    return ModelSizes(widths, counts, tuned, rest, len(shape.deepstack))


def shrink(shape: ModelShape, layers: int, **more: Any) -> ModelShape:
    """The shape with fewer layers, in the tower too: the widths, which decide, are the same."""
    return replace(shape, layers=layers, vision_layers=2, deepstack=(0, 1), **more)
