"""Similarities of models whose layers are skipped, or hold several streams for each token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.modules import find_layers, split_tokens
from interlace_cli.importance.similarity import SpanHook


@pytest.mark.parametrize(("name", "skipped"), [("mllama", [2, 5]), ("mllama", [2, 5, 7]), ("glm5_next", [])])
def test_similarity_is_that_of_the_states_between_the_layers(name: str, skipped: list[int]) -> None:
    """Against the outputs of all layers, taken one by one; a skipped one leaves the state as it is."""

    def skip(fields: dict[str, Any]) -> None:
        if skipped:
            fields["text_config"].update(cross_attention_layers=skipped)

    model = zoo.build_model(zoo.build_config(name, skip))
    layers = find_layers(model)
    ids = torch.randint(10, 50, (2, 12), generator=torch.Generator().manual_seed(3))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        states = collect_states(model, list(layers), inputs)
    with SpanHook(layers) as hook:
        found = hook.run(model, inputs, ids < 30)
    for p in (1, 2, 3):
        for layer in range(len(layers) - p + 1):
            cosine = torch.cosine_similarity(states[layer], states[layer + p], dim=-1)
            torch.testing.assert_close(found[p - 1, layer, :, 0], cosine.mean(1), atol=1e-5, rtol=0)
    assert all(found[0, layer, :, 0].min() > 1 - 1e-6 for layer in skipped)
    assert hook.angles is not None
    last = [state[:, -1] for state in states]
    angle = torch.arccos(torch.cosine_similarity(last[1], last[7], dim=-1)) / torch.pi
    torch.testing.assert_close(hook.angles[:, 1, 7], angle, atol=1e-5, rtol=0)


def collect_states(model: Any, layers: list[Any], inputs: dict[str, Tensor]) -> list[Tensor]:
    """The state before each layer and behind the last, [2, 12, everything of a token]."""
    entering: dict[int, Tensor] = {}
    leaving: list[Tensor] = []
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, index=index: entering.update({index: (args or list(kwargs.values()))[0]}),
            with_kwargs=True,
        )
        layer.register_forward_hook(lambda module, args, output: leaving.append(output))
    model(**inputs, use_cache=False)
    states, following = [], leaving[-1][0] if isinstance(leaving[-1], tuple) else leaving[-1]
    for index in range(len(layers), -1, -1):
        following = entering.get(index, following)
        states.append(following.flatten(2) if following.shape[:2] == (2, 12) else following.movedim(0, 2).flatten(2))
    for layer in layers:
        layer._forward_hooks.clear()
        layer._forward_pre_hooks.clear()
    return states[::-1]


def test_the_streams_of_a_token_are_told_from_samples_and_tokens() -> None:
    hidden = torch.arange(2 * 5 * 3 * 7.0).view(2, 5, 3, 7)
    assert torch.equal(split_tokens(hidden, 2, 5), hidden.flatten(2))
    streams_first = hidden.movedim(2, 0)
    assert torch.equal(split_tokens(streams_first, 2, 5), hidden.flatten(2))
    assert split_tokens(hidden[:, :, 0], 2, 5).shape == (2, 5, 7)
    with pytest.raises(UnsupportedModelError, match="cannot be told"):
        split_tokens(hidden, 3, 5)
