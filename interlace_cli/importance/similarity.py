"""How similar hidden states are across spans of layers: one pass, with nothing kept but sums.

Shape legend: B samples, T tokens, N = B T places, H hidden size, L layers, P span lengths (3), M modalities (all,
image, text).
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.families.modules import get_hidden

SPANS = (1, 2, 3)
MODALITIES = ("all", "image", "text")
CPU_CHUNK, DEVICE_CHUNK = 1 << 20, 1 << 24
"""Elements that are turned into unit vectors and compared at once: what fits a cache; what keeps a GPU busy. Chunks
of a cache's size took 0.39 of the time of whole tensors at 4 x 1100 x 4096 on two CPU cores."""


class ForwardDone(Exception):  # noqa: N818 - not an error
    """Raised behind the last layer: norm and head are not computed."""


class SpanHook:
    """Taps the true input of every decoder layer and sums the cosines across spans of 1, 2 and 3 layers.

    `x[i]` is what enters layer i, read by a pre-hook, because between layers a model may add something that no layer
    returns (DeepStack); `x[L]` is what leaves the last layer. Only four states are held, as unit vectors in float32, in
    one place for all batches of a shape. Nothing waits for the device. After a forward, `similarity` [P, L, B, M]
    holds, for span length p (1-based) and start i, the mean over a sample's tokens of cos(x[i], x[i+p]), 0 where a
    sample has no token of a modality. Spans that would end behind x[L] stay 0. `angles` [B, L+1, L+1] holds the angular
    distance arccos(cos) / pi between the states of the last token in front of any two layers (arXiv 2403.17887); rows
    are padded on the left, so that it stands at the last place.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        self.layers = layers
        self.weights_MBT: Tensor | None = None
        self.similarity: Tensor | None = None
        self.angles: Tensor | None = None
        self.tokens = 0
        self._modalities = torch.ones(len(MODALITIES), dtype=torch.bool)
        self._ring: Tensor | None = None
        self._cosines: Tensor | None = None
        self._last_tokens: list[Tensor] = []
        self._seen = 0
        self._handles: list[Any] = []

    def __enter__(self) -> SpanHook:
        for layer in self.layers:
            self._handles.append(layer.register_forward_pre_hook(self._on_input, with_kwargs=True))
        self._handles.append(self.layers[-1].register_forward_hook(self._on_last_output))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._ring = None

    def run(self, model: nn.Module, inputs: dict[str, Tensor], is_image_BT: Tensor) -> Tensor:
        """One forward up to the last layer. Returns `similarity` on the model's device."""
        self.tokens = 0
        mask_BT = inputs["attention_mask"].bool()
        masks_MBT = torch.stack([mask_BT, mask_BT & is_image_BT, mask_BT & ~is_image_BT]).float()
        self.weights_MBT = masks_MBT / masks_MBT.sum(-1, keepdim=True).clamp(min=1)
        self._forward(model, {**inputs, "use_cache": False})
        assert self.similarity is not None
        last_BLH = torch.stack(self._last_tokens, dim=1)
        cosine_BLL = torch.einsum("bih,bjh->bij", last_BLH, last_BLH).clamp(-1, 1)
        self.angles = torch.arccos(cosine_BLL) / torch.pi
        return self.similarity

    def run_on_all(self, model: nn.Module, inputs: dict[str, Tensor], is_image: bool) -> Tensor | None:
        """As `run`, for one sample, over every token that the layers see; `tokens` says how many. For layers whose
        tokens are not the prompt's, those of a vision tower say, in whatever shape. None if no layer was called."""
        self.weights_MBT, self.tokens = None, 0
        self._modalities = torch.tensor([True, is_image, not is_image])
        self._forward(model, inputs)
        return self.similarity

    @torch.inference_mode()
    def _forward(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        self._last_tokens, self._seen, self.similarity = [], 0, None
        with suppress(ForwardDone):
            model(**inputs)
        if self._seen:
            assert self._cosines is not None
            assert self.weights_MBT is not None
            cosines_PLBT = self._cosines.view(*self._cosines.shape[:2], *self.weights_MBT.shape[1:])
            self.similarity = torch.einsum("plbt,mbt->plbm", cosines_PLBT, self.weights_MBT)

    def _on_input(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del layer
        self._take(get_hidden(args, kwargs))

    def _on_last_output(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del layer, args
        self._take(output[0] if isinstance(output, tuple) else output)
        raise ForwardDone

    def _take(self, hidden_BTH: Tensor) -> None:
        if self.weights_MBT is None or self.tokens:
            hidden_BTH = hidden_BTH.reshape(1, -1, hidden_BTH.shape[-1])
            self.tokens = hidden_BTH.shape[1]
            weights_M = self._modalities.to(hidden_BTH.device) / self.tokens
            self.weights_MBT = weights_M[:, None, None].expand(-1, 1, self.tokens)
        samples, tokens, size = hidden_BTH.shape
        if not self._seen:
            self._make_room(samples * tokens, size, hidden_BTH.device)
        assert self._ring is not None
        assert self._cosines is not None
        hidden_NH = hidden_BTH.reshape(-1, size)
        unit_NH = self._ring[self._seen % len(self._ring)]
        most = CPU_CHUNK if hidden_NH.device.type == "cpu" else DEVICE_CHUNK
        for part in _cut(len(hidden_NH), max(most // size, 1)):
            torch.nn.functional.normalize(hidden_NH[part].float(), dim=-1, out=unit_NH[part])
            for p in range(1, min(self._seen, len(SPANS)) + 1):
                earlier_NH = self._ring[(self._seen - p) % len(self._ring)]
                torch.linalg.vecdot(earlier_NH[part], unit_NH[part], out=self._cosines[p - 1, self._seen - p, part])
        self._last_tokens.append(unit_NH.view(samples, tokens, size)[:, -1].clone())
        self._seen += 1

    def _make_room(self, places: int, size: int, device: torch.device) -> None:
        shape = (len(SPANS) + 1, places, size)
        if self._ring is None or self._ring.shape != shape or self._ring.device != device:
            self._ring = None
            self._ring = torch.empty(shape, device=device)
        self._cosines = torch.zeros(len(SPANS), len(self.layers), places, device=device)


def _cut(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]
