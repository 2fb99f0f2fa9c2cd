"""How similar hidden states are across spans of layers: one pass, with nothing kept but sums.

Shape legend: B samples, T tokens, H hidden size, L layers, P span lengths (3), M modalities (all, image, text).
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.families.modules import get_hidden

SPANS = (1, 2, 3)
MODALITIES = ("all", "image", "text")


class ForwardDone(Exception):  # noqa: N818 - not an error
    """Raised behind the last layer: norm and head are not computed."""


class SpanTap:
    """Taps the true input of every decoder layer and sums the cosines across spans of 1, 2 and 3 layers.

    `x[i]` is what enters layer i, read by a pre-hook, because between layers a model may add something that no layer
    returns (DeepStack); `x[L]` is what leaves the last layer. Only the last three states are held, as unit vectors in
    float32. After a forward, `similarity` [P, L, B, M] holds, for span length p (1-based) and start i, the mean over a
    sample's tokens of cos(x[i], x[i+p]), 0 where a sample has no token of a modality. Spans that would end behind
    x[L] stay 0. `angles` [B, L+1, L+1] holds the angular distance arccos(cos) / pi between the states of the last token
    in front of any two layers (arXiv 2403.17887); rows are padded on the left, so that it stands at the last place.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        self.layers = layers
        self.weights_MBT: Tensor | None = None
        self.similarity: Tensor | None = None
        self.angles: Tensor | None = None
        self.tokens = 0
        self._modalities = torch.ones(len(MODALITIES), dtype=torch.bool)
        self._ring: list[Tensor] = []
        self._last_tokens: list[Tensor] = []
        self._seen = 0
        self._handles: list[Any] = []

    def __enter__(self) -> SpanTap:
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

    def run(self, model: nn.Module, inputs: dict[str, Tensor], is_image_BT: Tensor) -> Tensor:
        """One forward up to the last layer. Returns `similarity` on the model's device."""
        self.tokens = 0
        mask_BT = inputs["attention_mask"].bool()
        masks_MBT = torch.stack([mask_BT, mask_BT & is_image_BT, mask_BT & ~is_image_BT]).float()
        self.weights_MBT = masks_MBT / masks_MBT.sum(-1, keepdim=True).clamp(min=1)
        self._begin(mask_BT.shape[0], mask_BT.device)
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
        self._begin(1, next(self.layers.parameters()).device)
        self._forward(model, inputs)
        return self.similarity if self.tokens else None

    def _begin(self, samples: int, device: torch.device) -> None:
        shape = (len(SPANS), len(self.layers), samples, len(MODALITIES))
        self.similarity = torch.zeros(shape, device=device)
        self._ring, self._last_tokens, self._seen = [], [], 0

    def _forward(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        try:
            with torch.inference_mode():
                model(**inputs)
        except ForwardDone:
            pass
        self._ring = []

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
        unit_BTH = torch.nn.functional.normalize(hidden_BTH.float(), dim=-1)
        assert self.similarity is not None
        assert self.weights_MBT is not None
        for p, earlier_BTH in enumerate(reversed(self._ring), start=1):
            cosine_BT = torch.linalg.vecdot(earlier_BTH, unit_BTH)
            self.similarity[p - 1, self._seen - p] = (self.weights_MBT * cosine_BT).sum(-1).T
        self._ring = [*self._ring[-(len(SPANS) - 1) :], unit_BTH]
        self._last_tokens.append(unit_BTH[:, -1])
        self._seen += 1
