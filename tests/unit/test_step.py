"""One step of healing: packed rows, the head's loss, gradients and FLOPs, each beside a plain way to the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.data.rows import Encoded, PackedRow, build_rows, encode, pack, pad
from interlace_cli.families.modules import find_layers
from interlace_cli.families.packing import find_positions
from interlace_cli.healing.cost import Workload
from interlace_cli.healing.layout import choose_layout
from interlace_cli.healing.loss import CHUNK, HeadLoss, LogitsLoss, choose_loss
from interlace_cli.healing.objective import Stage
from interlace_cli.healing.step import RowLoss, TermWeights
from interlace_cli.healing.trainable import apply_checkpointing, apply_trainable_set
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor

CE = Stage(("ce",))
WEIGHTS = TermWeights(0.5, 1.0)


@pytest.fixture(scope="module")
def llava_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import save_llava_chain_model

    folder = tmp_path_factory.mktemp("llava")
    save_llava_chain_model(folder)
    return folder


@pytest.fixture(params=["qwen", "llava"])
def case(request: Any, chain_model: Path, llava_model: Path, small_dataset: Path) -> tuple[Any, list[Encoded]]:
    """A random model with two layers that train, and a dozen samples of its own."""
    path = chain_model if request.param == "qwen" else llava_model
    model = load_model(path, "float32", "cpu")
    apply_trainable_set(model, find_layers(model), [3, 5])
    batcher = Batcher(load_processor(path, 784, 50176), small_dataset)
    positions = find_positions(model)
    return model, [encode(sample, batcher, positions) for sample in load_split(small_dataset, "train")[:12]]


def take(model: Any, rows: list[PackedRow], loss: HeadLoss | LogitsLoss) -> tuple[float, dict[str, torch.Tensor]]:
    """Sum of the cross-entropies, and the gradients."""
    model.zero_grad()
    total = 0.0
    for row in rows:
        token = RowLoss(CE, loss, WEIGHTS).compute(model, row).token
        token.backward()
        total += float(token.detach())
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def take_plainly(model: Any, samples: list[Encoded]) -> tuple[float, dict[str, torch.Tensor]]:
    """Sample by sample, all logits, everything requires gradients."""
    required = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(True)
    model.zero_grad()
    total = 0.0
    for sample in samples:
        inputs = {name: value[None] for name, value in sample.tokens.items()} | sample.whole
        logits = model(**inputs, use_cache=False).logits
        loss = functional.cross_entropy(logits[0], sample.targets_T, ignore_index=IGNORE, reduction="sum")
        loss.backward()
        total += float(loss.detach())
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if required[name]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(required[name])
    model.zero_grad()
    return total, grads


@pytest.mark.parametrize("max_tokens", [10_000, 100])
def test_packed_rows_give_the_loss_and_gradients_of_single_samples(
    case: tuple[Any, list[Encoded]], max_tokens: int
) -> None:
    model, samples = case
    wanted, gradients = take_plainly(model, samples)
    layout = choose_layout(model, samples, torch.float32)
    assert layout.attention == "segments"
    rows = build_rows(samples, True, max_tokens, 4)
    assert (len(rows) == 1) == (max_tokens == 10_000)
    assert sum(row.padded_tokens for row in rows) == sum(len(sample.targets_T) for sample in samples), (
        "nothing is padded"
    )
    found, ours = take(model, rows, choose_loss(model, rows[0]))
    assert found == pytest.approx(wanted, rel=1e-5)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, atol=2e-5, rtol=1e-4)


def test_padded_batches_do_the_same(case: tuple[Any, list[Encoded]]) -> None:
    model, samples = case
    wanted, gradients = take_plainly(model, samples)
    rows = build_rows(samples, False, 10_000, 5)
    assert sum(row.tokens for row in rows) / sum(row.padded_tokens for row in rows) >= 0.95
    found, ours = take(model, rows, choose_loss(model, rows[0]))
    assert found == pytest.approx(wanted, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, atol=2e-5, rtol=1e-4)


def test_a_model_whose_samples_would_see_each_other_is_not_packed(
    case: tuple[Any, list[Encoded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions that do not begin anew are what makes samples leak into each other."""
    model, samples = case

    def leak(samples: list[Encoded], lengths: Any = None) -> PackedRow:
        row = pack(samples)
        positions = row.inputs["position_ids"]
        row.inputs["position_ids"] = torch.arange(positions.shape[-1]).expand(positions.shape).contiguous()
        return row

    monkeypatch.setattr("interlace_cli.healing.layout.pack", leak)
    assert choose_layout(model, samples, torch.float32).attention == "padded"


def test_transformers_own_mask_is_taken_where_segments_do_not_understand(
    case: tuple[Any, list[Encoded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, samples = case
    monkeypatch.setattr("interlace_cli.families.varlen._find_cuts", lambda tokens, more: None)
    assert choose_layout(model, samples, torch.float32).attention == "sdpa"
    row = pack(samples)
    found, _ = take(model, [row], choose_loss(model, row))
    assert found == pytest.approx(take_plainly(model, samples)[0], rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("labels", [5, CHUNK + 3])
def test_the_heads_loss_is_that_of_plain_logits(share: float, labels: int) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50)
    head.requires_grad_(False)
    hidden, teacher = torch.randn(2, labels, 16, requires_grad=True), torch.randn(2 * labels, 16)
    targets = torch.randint(0, 50, (2, labels))

    class Model:
        def __call__(self, **inputs: Any) -> Any:
            return type("Out", (), {"logits": head(hidden)})

    row = PackedRow({}, targets)
    results = []
    for loss, wanted in ((HeadLoss(head), teacher), (LogitsLoss(), head(teacher))):
        hidden.grad = None
        token, ce = loss.compute(Model(), row, wanted if share else None, share)
        (3 * token).backward()
        results.append((token.detach(), ce.detach(), hidden.grad.clone()))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    log_p, log_t = head(hidden).log_softmax(-1).flatten(0, 1), head(teacher).log_softmax(-1)
    divergence = functional.kl_div(log_p, log_t, log_target=True, reduction="sum")
    expected = (1 - share) * functional.cross_entropy(log_p, targets.flatten(), reduction="sum") + share * divergence
    torch.testing.assert_close(results[0][0], expected.detach(), rtol=1e-4, atol=1e-4)


def test_logits_of_all_tokens_are_never_made(case: tuple[Any, list[Encoded]]) -> None:
    model, samples = case
    row = pack(samples)
    loss = choose_loss(model, row)
    assert isinstance(loss, HeadLoss)
    seen: list[tuple[int, ...]] = []
    original = functional.linear

    def linear(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        made = original(hidden, *rest)
        seen.append(tuple(made.shape))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "linear", linear)
        take(model, [row], loss)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    logits = [shape for shape in seen if shape[-1] == vocabulary]
    assert logits == [(int(row.is_label_BK.sum()), vocabulary)]


def test_a_scale_behind_the_head_is_seen(case: tuple[Any, list[Encoded]]) -> None:
    model, samples = case
    row = pad(samples[:3])
    original = model.forward

    def forward(**inputs: Any) -> Any:
        outputs = original(**inputs)
        outputs.logits = outputs.logits / 2
        return outputs

    model.forward = forward
    assert isinstance(choose_loss(model, row), LogitsLoss)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_nothing_is_computed_twice_below_the_first_tuned_layer(
    case: tuple[Any, list[Encoded]], is_checkpointed: bool
) -> None:
    model, samples = case
    if is_checkpointed:
        apply_checkpointing(model, find_layers(model), [3, 5])
    model.train()
    runs: dict[int, int] = {}
    graphs: dict[int, bool] = {}

    def note(layer: Any, args: Any, output: torch.Tensor, index: int) -> None:
        runs[index] = runs.get(index, 0) + 1
        graphs.setdefault(index, output.requires_grad)

    for index, layer in enumerate(find_layers(model)):
        # At its beginning: the second run ends as soon as all that is needed is there.
        layer.input_layernorm.register_forward_hook(partial(note, index=index))
    choose_layout(model, samples, torch.float32)
    runs.clear()
    graphs.clear()
    take(model, [pack(samples)], HeadLoss(model.get_output_embeddings()))
    assert graphs == {index: index >= 3 for index in range(8)}
    twice = {index for index, count in runs.items() if count == 2}
    assert twice == (set(range(3, 8)) if is_checkpointed else set())


def test_flops_are_those_of_the_formula(case: tuple[Any, list[Encoded]]) -> None:
    model, samples = case
    choose_layout(model, samples, torch.float32)
    row, layers = pack(samples), find_layers(model)
    loss = choose_loss(model, row)
    # The one whose products the counter sees.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        take(model, [row], loss)
    matrices = [sum(p.numel() for p in layer.parameters() if p.ndim == 2) for layer in layers]
    work = Workload(
        below=sum(matrices[:3]),
        frozen=matrices[4] + matrices[6] + matrices[7],
        tuned=matrices[3] + matrices[5],
        head=model.get_output_embeddings().weight.numel(),
        tokens=row.tokens,
        labels=int(row.is_label_BK.sum()),
        pairs=sum(len(sample.targets_T) ** 2 for sample in samples),
        width=layers[0].self_attn.q_proj.out_features,
        layers_below=3,
        layers_above=5,
    )
    counted = counter.get_flop_counts()
    tower = next(name for name in counted if name.endswith(("visual", "vision_tower")))
    outside = (tower, f"{tower.rpartition('.')[0]}.multi_modal_projector")
    around = sum(sum(counts.values()) for name, counts in counted.items() if name in outside)
    total = counter.get_total_flops() - around
    assert total == pytest.approx(work.flops, rel=0.02)
    assert work.released_flops > 1.5 * work.flops


def test_a_window_that_samples_do_not_reach_is_not_forgotten(case: tuple[Any, list[Encoded]]) -> None:
    """`segments` knows no windows, and on samples shorter than the window nothing would show it."""
    model, samples = case
    model.config.get_text_config().layer_types = ["sliding_attention"] * 8
    model.config.get_text_config().sliding_window = 500
    assert choose_layout(model, samples, torch.float32).attention != "segments"


def test_the_trial_of_the_loss_tells_the_model_what_training_tells_it(case: tuple[Any, list[Encoded]]) -> None:
    """Where the samples of a row lie, above all: some layers are told nothing else (Chameleon's)."""
    model, samples = case
    row = pack(samples, "host")
    original, told = model.forward, []

    def forward(**inputs: Any) -> Any:
        told.append(inputs)
        return original(**inputs)

    model.forward = forward
    try:
        choose_loss(model, row)
    finally:
        model.forward = original
    assert told
    for inputs in told:
        assert inputs.keys() >= row.arguments.keys()
        assert torch.equal(inputs["cu_seq_lens_q"], row.arguments["cu_seq_lens_q"])
