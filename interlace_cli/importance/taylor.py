"""First-order estimates of the loss change when a layer is dropped, from one backward pass for each batch.

`taylor_weight`: sum over the layer's weights of |gradient x weight|, where the gradient is that of the mean loss over
all samples (Kim et al. 2024, "Shortened LLaMA", arXiv 2402.02834, section 3.2). It needs the gradients of all the
layers' weights at once.

`taylor_activation`: the layer's output is x + f(x); without the layer it is x. The loss L of a sample then changes by
about |<dL/d(x + f(x)), f(x)>| (Molchanov et al. 2017, arXiv 1611.06440, equation 7, with the residual branch as the
unit). Without the absolute value, the samples of a trained model cancel out.

Shape legend: B samples, T tokens, H hidden size, L layers, N samples in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.data.batches import IGNORE
from interlace_cli.data.labels import keep_positions
from interlace_cli.domain.progress import Advance
from interlace_cli.errors import NotFiniteError, UnsupportedModelError
from interlace_cli.families.finite import advise_dtype, explain_not_finite
from interlace_cli.families.modules import get_hidden, get_output, split_tokens
from interlace_cli.runtime.borrowing import is_borrowing
from interlace_cli.runtime.dispatch import find_offloaded
from interlace_cli.runtime.wide import to_wide

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Taylor:
    """`taylor_weight` [L]: of the mean loss per answer token. `taylor_activation` [L][N]: of each sample's loss, summed
    over its answer tokens, in nats. `tokens` [N]: numbers of answer tokens. Samples are in the order of the batches."""

    taylor_weight: list[float]
    taylor_activation: list[list[float]]
    tokens: list[int]


def measure_taylor(model: nn.Module, layers: nn.ModuleList, batches: Iterable[Inputs], advance: Advance) -> Taylor:
    """One forward and backward of each batch. `batches` hold `labels` [B, K] for the logits that they ask for.
    Afterwards the parameters require gradients as before, and hold none. Raises UnsupportedModelError for a model with
    offloaded weights."""
    if offloaded := " and the ".join(find_offloaded(model)):
        raise UnsupportedModelError(
            f"taylor needs the gradients of all weights at once, and weights are offloaded to the {offloaded}.",
            "Leave taylor out of --importance, or take more or larger GPUs.",
        )
    if is_borrowing(model):
        raise UnsupportedModelError(
            "taylor needs the gradients of all weights at once, and --device-map fsdp has those of one layer.",
            "Leave taylor out of --importance, or take --device-map auto.",
        )
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    hook = _BranchHook(layers)
    tokens: list[int] = []
    try:
        model.requires_grad_(False)
        layers.requires_grad_(True)
        with hook:
            for batch in batches:
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                labels_BK = batch["labels"]
                outputs = model(**inputs, use_cache=False)
                logits_BKV = keep_positions(outputs.logits, inputs["logits_to_keep"]).float()
                total = nn.functional.cross_entropy(
                    logits_BKV.flatten(0, 1), labels_BK.flatten(), ignore_index=IGNORE, reduction="sum"
                )
                if not bool(torch.isfinite(total)):
                    hook.__exit__()
                    raise explain_not_finite(model, layers, inputs, "the loss")
                hook.begin(*inputs["input_ids"].shape)
                total.backward()  # type: ignore[no-untyped-call]
                tokens += hook.read((labels_BK != IGNORE).sum(-1))
                advance(len(labels_BK))
        taylor_weight = [total / max(sum(tokens), 1) for total in _sum_gradients_times_weights(layers)]
        _check_finite(taylor_weight, hook.taylor_activation, next(model.parameters()).dtype)
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
    return Taylor(taylor_weight, hook.taylor_activation, tokens)


def _check_finite(weights: Sequence[float], activations: Sequence[Sequence[float]], dtype: torch.dtype) -> None:
    for layer in reversed(range(len(weights))):
        if not all(map(math.isfinite, (weights[layer], *activations[layer]))):
            name = str(dtype).removeprefix("torch.")
            raise NotFiniteError(f"the gradient at layer {layer} is NaN or infinite in {name}.", advise_dtype(name))


def _sum_gradients_times_weights(layers: nn.ModuleList) -> list[float]:
    """Of each layer; the device is waited for once."""
    tuned = [[parameter for parameter in layer.parameters() if parameter.grad is not None] for layer in layers]
    found = [
        to_wide((parameter.grad.float() * parameter.detach().float()).abs())  # type: ignore[union-attr]
        .sum(dtype=torch.float64)
        .reshape(1)
        for own in tuned
        for parameter in own
    ]
    values = iter(_read(found))
    return [sum(next(values) for _ in own) for own in tuned]


def _read(found: Sequence[Tensor]) -> list[float]:
    """All values of vectors that may lie on several devices."""
    values: list[float] = torch.cat([part.to(found[0].device) for part in found]).tolist() if found else []
    return values


class _BranchHook:
    """Hooks that collect |<gradient of a layer's output, output - input>| of every layer and sample."""

    def __init__(self, layers: nn.ModuleList) -> None:
        self.layers = layers
        self.taylor_activation: list[list[float]] = [[] for _ in layers]
        self.shape = (0, 0)
        self._estimates: dict[int, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> _BranchHook:
        for index, layer in enumerate(self.layers):
            self._handles.append(layer.register_forward_hook(self._build_hook(index), with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin(self, samples: int, tokens: int) -> None:
        """Call before the backward pass of a batch of `samples`, padded to `tokens`."""
        self.shape, self._estimates = (samples, tokens), {}

    def read(self, counts_B: Tensor) -> list[int]:
        """Call after it: takes the estimates to the host, 0 of layers without a gradient, and returns the counts. Both
        at once, as the device is waited for."""
        found = sorted(self._estimates)
        values = _read([self._estimates[index] for index in found] + [to_wide(counts_B).double()])
        size = self.shape[0]
        for index, activation in enumerate(self.taylor_activation):
            at = found.index(index) * size if index in self._estimates else None
            activation += [0.0] * size if at is None else values[at : at + size]
        return [int(count) for count in values[len(found) * size :]]

    def _build_hook(self, index: int) -> Any:
        def on_output(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            del layer
            out_BTH = get_output(output)
            branch_BTH = out_BTH.detach() - get_hidden(args, kwargs).detach().to(out_BTH.device)

            def on_gradient(gradient_BTH: Tensor) -> None:
                products = gradient_BTH.float() * branch_BTH.float()
                estimate_B = to_wide(split_tokens(products, *self.shape)).sum((1, 2), dtype=torch.float64).abs()
                self._estimates[index] = estimate_B

            if out_BTH.requires_grad:
                out_BTH.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        return on_output
