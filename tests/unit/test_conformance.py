"""What counts as the same layer in the dense and the pruned model, on modules made for it: whatever a layer holds, and
whatever it is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from torch import nn

from interlace_cli.families.conformance import Built, compare

LAYERS = 6
Make = Callable[[int, int], dict[str, Any]]
"""(layer, layers) -> attributes."""


class Config:
    model_type = "made"

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": "made", **self.fields}


class Layer(nn.Module):
    def __init__(self, attributes: dict[str, Any]) -> None:
        super().__init__()
        self.inner = nn.Linear(2, attributes.pop("width", 2), device="meta")
        for name, value in attributes.items():
            setattr(self.inner, name, value)


def build(make: Make, layers: int, around: dict[str, Any] | None = None, fields: dict[str, Any] | None = None) -> Built:
    model: Any = nn.Module()
    model.config = Config(**(fields or {}))
    model.text = nn.Module()
    for name, value in (around or {}).items():
        setattr(model.text, name, value)
    model.text.layers = nn.ModuleList(Layer(make(layer, layers)) for layer in range(layers))
    return Built(model, model.text.layers, model.config.to_dict())


KEPT = [0, 1, 3, 5]
KINDS = "abcabc"
SAME: dict[str, tuple[Make, Make]] = {
    "its own number": (
        lambda i, n: {"layer_idx": i, "one_based": i + 1},
        lambda i, n: {"layer_idx": i, "one_based": i + 1},
    ),
    "another layer's number": (
        lambda i, n: {"kv_shared_layer_index": 3 if i > 3 else None},
        lambda i, n: {"kv_shared_layer_index": 2 if i > 2 else None},
    ),
    "a kind": (lambda i, n: {"kind": KINDS[i]}, lambda i, n: {"kind": KINDS[KEPT[i]]}),
    "all kinds": (lambda i, n: {"kinds": list(KINDS)}, lambda i, n: {"kinds": [KINDS[k] for k in KEPT]}),
    "layers of a kind": (lambda i, n: {"sparse_layers": [1, 2, 5]}, lambda i, n: {"sparse_layers": [1, 3]}),
    "places by layer": (lambda i, n: {"places": {1: 0, 5: 1}}, lambda i, n: {"places": {1: 0, 3: 1}}),
    "a shape": (lambda i, n: {"width": i % 3 + 1}, lambda i, n: {"width": KEPT[i] % 3 + 1}),
    "not a number": (lambda i, n: {"limit": float("nan")}, lambda i, n: {"limit": float("nan")}),
}
OTHER: dict[str, tuple[Make, Make, str]] = {
    "a rule by number": (
        lambda i, n: {"is_sliding": i % 2 == 0},
        lambda i, n: {"is_sliding": i % 2 == 0},
        "inner.is_sliding of layer 3 is False, and would become True",
    ),
    "a float by depth": (
        lambda i, n: {"scale": 1 / n},
        lambda i, n: {"scale": 1 / n},
        r"inner.scale of layer 0 is 0.1666\d*, and would become 0.25",
    ),
    "a number that stayed": (
        lambda i, n: {"kv_shared_layer_index": 3 if i > 3 else None},
        lambda i, n: {"kv_shared_layer_index": 3 if i > 2 else None},
        "inner.kv_shared_layer_index of layer 5 names layer 3",
    ),
    "a layer that went": (
        lambda i, n: {"kv_shared_layer_index": 2 if i > 3 else None},
        lambda i, n: {"kv_shared_layer_index": 1 if i > 2 else None},
        "inner.kv_shared_layer_index of layer 5 is 2, and would become 1",
    ),
    "an attribute more": (
        lambda i, n: {},
        lambda i, n: {"extra": 1} if i == 2 else {},
        "inner.extra of layer 3 is '<none>', and would become 1",
    ),
    "a shape": (
        lambda i, n: {"width": i % 3 + 1},
        lambda i, n: {"width": i % 3 + 1},
        r"inner.weight of layer 3 is \(\(1, 2\), 'torch.float32'\), and would become \(\(3, 2\)",
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_layers_that_are_the_same(name: str) -> None:
    dense, pruned = SAME[name]
    assert compare(build(dense, LAYERS), build(pruned, len(KEPT)), KEPT) is None


@pytest.mark.parametrize("name", OTHER)
def test_layers_that_are_not(name: str) -> None:
    dense, pruned, words = OTHER[name]
    with pytest.raises(AssertionError, match=words):
        assert_same(build(dense, LAYERS), build(pruned, len(KEPT)), KEPT)


def assert_same(dense: Built, pruned: Built, kept: Sequence[int]) -> None:
    found = compare(dense, pruned, kept)
    assert found is None, found


def plain(layer: int, layers: int) -> dict[str, Any]:
    return {}


def test_lists_around_the_layers_and_in_the_config_follow_them() -> None:
    dense = build(plain, LAYERS, {"types": list(KINDS)}, {"kinds": list(KINDS), "eos_token_id": [1] * LAYERS})
    cut = [KINDS[layer] for layer in KEPT]
    same = {"kinds": cut, "eos_token_id": [1] * LAYERS}
    assert_same(dense, build(plain, 4, {"types": cut}, same), KEPT)
    for around, fields in (({"types": list(KINDS)}, same), ({"types": cut}, {**same, "kinds": list(KINDS)})):
        assert compare(dense, build(plain, 4, around, fields), KEPT) is not None


def test_a_table_of_layers_outside_them_is_noticed_unless_it_has_a_rule() -> None:
    def table(rows: int) -> nn.Module:
        return nn.Embedding(rows, 2, device="meta")

    dense = build(plain, LAYERS, {"table": table(LAYERS)})
    words = r"text\.table\.weight, outside the layers, is \(6, 2\), and would become \(4, 2\)"
    with pytest.raises(AssertionError, match=words):
        assert_same(dense, build(plain, 4, {"table": table(4)}), KEPT)
    assert_same(dense, build(plain, 4, {"table": table(LAYERS)}), KEPT)
    sliced = {"embed_tokens_per_layer": table(LAYERS)}
    assert_same(build(plain, LAYERS, sliced), build(plain, 4, {"embed_tokens_per_layer": table(4)}), KEPT)


def test_another_number_of_layers_is_said() -> None:
    assert compare(build(plain, 6), build(plain, 5), KEPT) == "the pruned model has 5 layers instead of 4"
