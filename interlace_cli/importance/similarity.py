"""How similar hidden states are across spans of layers, measured in one forward that keeps only sums.

    S_p[i] = mean over tokens of cos(x[i], x[i+p])      x[i] enters layer i; x[L] leaves the last layer

in -1 ... 1; high means that the span of p layers changes little (arXiv 2511.19676, section 3).

Shape legend: B samples, T tokens, N = B T token positions, H hidden size, L layers, P span lengths (SPAN_LENGTHS), M
modalities (all, image, text).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.modules import get_hidden, get_output, split_tokens
from interlace_cli.importance.span_lengths import SPAN_LENGTHS

SPANS = SPAN_LENGTHS
"""Another name for SPAN_LENGTHS, which bench/analyze.py imports."""
MODALITIES = ("all", "image", "text")
"""The tokens that a similarity is averaged over: all of a sample, its image tokens, or its other ones."""
CPU_CHUNK, DEVICE_CHUNK = 1 << 20, 1 << 24
"""Elements that are normalised and compared at once: few enough for a CPU's cache, and enough to keep a GPU busy. On
two CPU cores, cache-sized chunks took 0.39 of the time of whole tensors (4 x 1100 x 4096)."""


class ForwardDone(Exception):  # noqa: N818 - not an error
    """Ends the forward after the last layer, so that the final norm and the head are not computed."""


class SpanHook:
    """Hooks every layer's input and averages the cosines across spans of SPAN_LENGTHS layers. Use inside `with`.

    `x[i]` is read by a pre-hook on layer i, and not from the output of layer i - 1, because a model may add something
    in between (DeepStack). It is compared on the device that it is on: where a layer has handed over to another device,
    the P states before it follow. A layer that a forward skips (Llama 3.2 Vision's cross-attention, in a batch without
    pictures) changes nothing: its S_1 is 1. A token's state is all that the model holds for it, several streams side by
    side where there are some. Only P + 1 states are held, as float32 unit vectors, in a buffer that is reused for all
    batches of the same shape. The hooks never wait for the device.

    After a forward: `similarity` [P, L, B, M]: at [p - 1, i, b, m], S_p[i] of sample b over its tokens of modality m; 0
    if it has none, and 0 for spans that would end after x[L]. `angles` [B, L+1, L+1]: angular distances arccos(cos) /
    pi, 0 ... 1, between the last token's states before any two layers (Gromov et al. 2024, arXiv 2403.17887). Rows are
    padded on the left, so the last token is at the last position.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        self.layers = layers
        self.weights_MBT: Tensor | None = None
        self.similarity: Tensor | None = None
        self.angles: Tensor | None = None
        self.tokens = 0
        self._modalities = torch.ones(len(MODALITIES), dtype=torch.bool)
        self._rings: dict[torch.device, Tensor] = {}
        self._ring: Tensor | None = None
        self._cosines: Tensor | None = None
        self._last_tokens: list[Tensor] = []
        self._seen = 0
        self._output: Tensor | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> SpanHook:
        for index, layer in enumerate(self.layers):
            self._handles.append(layer.register_forward_pre_hook(self._build_input_hook(index), with_kwargs=True))
            self._handles.append(layer.register_forward_hook(self._build_output_hook(index)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._rings.clear()
        self._ring = None

    def run(self, model: nn.Module, inputs: dict[str, Tensor], is_image_BT: Tensor) -> Tensor:
        """One forward up to the last layer. `is_image_BT` marks image tokens. Returns `similarity` [P, L, B, M] on the
        model's device, and sets `angles`."""
        self.tokens = 0
        mask_BT = inputs["attention_mask"].bool()
        masks_MBT = torch.stack([mask_BT, mask_BT & is_image_BT, mask_BT & ~is_image_BT]).float()
        self.weights_MBT = masks_MBT / masks_MBT.sum(-1, keepdim=True).clamp(min=1)
        self._forward(model, {**inputs, "use_cache": False})
        assert self.similarity is not None
        last_BLH = torch.stack([state.to(self.similarity.device) for state in self._last_tokens], dim=1)
        cosine_BLL = torch.einsum("bih,bjh->bij", last_BLH, last_BLH).clamp(-1, 1)
        self.angles = torch.arccos(cosine_BLL) / torch.pi
        return self.similarity

    def run_on_all(self, model: nn.Module, inputs: dict[str, Tensor], is_image: bool) -> Tensor | None:
        """As `run`, for one sample, averaged over all tokens that the layers see, in whatever shape; `tokens` is their
        number. For layers whose tokens are not the prompt's, such as a vision tower's. Returns [P, L, 1, M], or None if
        no layer was called."""
        self.weights_MBT, self.tokens = None, 0
        self._modalities = torch.tensor([True, is_image, not is_image])
        self._forward(model, inputs)
        return self.similarity

    @torch.inference_mode()
    def _forward(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        self._last_tokens, self._seen, self.similarity, self._output, self._ring = [], 0, None, None, None
        with suppress(ForwardDone):
            model(**inputs)
        if self._output is not None and self._seen <= len(self.layers):
            self._take(len(self.layers), self._output)
        self._output = None
        if self._seen:
            assert self._cosines is not None
            assert self.weights_MBT is not None
            cosines_PLBT = self._cosines.view(*self._cosines.shape[:2], *self.weights_MBT.shape[1:])
            cosines_PLBT = cosines_PLBT.to(self.weights_MBT.device)
            # What stands at padding may be NaN, which no weight of 0 takes away.
            cosines_PLBT.masked_fill_(self.weights_MBT.sum(0) == 0, 0)
            self.similarity = torch.einsum("plbt,mbt->plbm", cosines_PLBT, self.weights_MBT)

    def _build_input_hook(self, index: int) -> Callable[..., None]:
        def on_input(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del layer
            self._take(index, get_hidden(args, kwargs))

        return on_input

    def _build_output_hook(self, index: int) -> Callable[..., None]:
        def on_output(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            del layer, args
            self._output = get_output(output)
            if index == len(self.layers) - 1:
                self._take(index + 1, self._output)
                raise ForwardDone

        return on_output

    def _take(self, index: int, hidden: Tensor) -> None:
        """Takes the state x[index]. Those before it that have not been seen are the same: their layers were skipped."""
        if index < self._seen:
            raise UnsupportedModelError(f"layer {index} is called again, or behind later ones, in one forward.")
        if self.weights_MBT is None or self.tokens:
            hidden_BTH = hidden.reshape(1, -1, hidden.shape[-1])
            self.tokens = hidden_BTH.shape[1]
            weights_M = self._modalities.to(hidden_BTH.device) / self.tokens
            self.weights_MBT = weights_M[:, None, None].expand(-1, 1, self.tokens)
        else:
            hidden_BTH = split_tokens(hidden, *self.weights_MBT.shape[1:])
        for _ in range(self._seen, index + 1):
            self._compare(hidden_BTH)

    def _compare(self, hidden_BTH: Tensor) -> None:
        """Compares the next state with the P states before it."""
        samples, tokens, size = hidden_BTH.shape
        if self._ring is None or self._ring.device != hidden_BTH.device:
            self._make_room(samples * tokens, size, hidden_BTH.device)
        assert self._ring is not None
        assert self._cosines is not None
        hidden_NH = hidden_BTH.reshape(-1, size)
        unit_NH = self._ring[self._seen % len(self._ring)]
        most = CPU_CHUNK if hidden_NH.device.type == "cpu" else DEVICE_CHUNK
        for part in _cut(len(hidden_NH), max(most // size, 1)):
            torch.nn.functional.normalize(hidden_NH[part].float(), dim=-1, out=unit_NH[part])
            for p in range(1, min(self._seen, len(SPAN_LENGTHS)) + 1):
                earlier_NH = self._ring[(self._seen - p) % len(self._ring)]
                torch.linalg.vecdot(earlier_NH[part], unit_NH[part], out=self._cosines[p - 1, self._seen - p, part])
        self._last_tokens.append(unit_NH.view(samples, tokens, size)[:, -1].clone())
        self._seen += 1

    def _make_room(self, positions: int, size: int, device: torch.device) -> None:
        """Buffers for `positions` = B T tokens on `device`: the states [P + 1, N, H], reused if they fit, and the
        cosines [P, L, N]; with what those of the device before hold."""
        shape, earlier = (len(SPAN_LENGTHS) + 1, positions, size), self._ring
        if device not in self._rings or self._rings[device].shape != shape:
            self._rings.pop(device, None)
            self._rings[device] = torch.empty(shape, device=device)
        self._ring = self._rings[device]
        if earlier is None or self._cosines is None:
            self._cosines = torch.zeros(len(SPAN_LENGTHS), len(self.layers), positions, device=device)
            return
        self._ring.copy_(earlier)
        self._cosines = self._cosines.to(device)


def _cut(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]
