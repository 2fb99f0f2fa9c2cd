"""Calling layers again without the model's code around them: only where that is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from interlace_cli.errors import InterlaceError
from interlace_cli.families.calls import Calls, LayerCall, find_tail, move_tree, take_call
from interlace_cli.families.modules import bypassed, find_entangled, find_layers
from interlace_cli.families.replay import Replay
from interlace_cli.families.ways import Way, find_way
from interlace_cli.importance.room import Room, check_room, plan_room

CALL = LayerCall((), {}, None, torch.device("cpu"))


class Output(dict[str, Any]):
    """As transformers' outputs."""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor, scale: Tensor | None = None, cache: Any = None) -> Tensor:
        return hidden_states + self.linear(hidden_states) * (1 if scale is None else scale)


class Inner(nn.Module):
    """`kind` says what it does around its layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layers, self.norm = kind, nn.ModuleList(Layer() for _ in range(5)), nn.LayerNorm(4)
        self.embed = nn.Embedding(9, 4)

    def forward(self, input_ids: Tensor, use_cache: bool = True) -> Any:
        x = self.embed(input_ids)
        scale, cache = torch.ones(()), object() if self.kind == "cache" and use_cache else None
        for index, layer in enumerate(self.layers):
            x = layer(x, scale=scale, cache=cache)
            if self.kind == "scaled":
                scale = x.mean()
            if self.kind == "added" and index == 0:
                x = x + 1
        x = self.norm(x)
        return type("Made", (Output,), {"last": x})(last=x * 2 if self.kind == "doubled" else x)


class Outer(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model, self.head = Inner(kind), nn.Linear(4, 6)

    def forward(self, input_ids: Tensor, use_cache: bool = True) -> Any:
        made = Output(logits=self.head(self.model(input_ids, use_cache=use_cache)["last"]))
        made.logits = made["logits"]  # type: ignore[attr-defined]
        return made


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("plain", Way.DIRECT),
        ("cache", Way.DIRECT),
        # Only behind layer 0, where the sum is made.
        ("added", Way.DIRECT),
        # What the model multiplies with behind its norm.
        ("doubled", Way.THROUGH),
        # Layers are called with what depends on earlier ones.
        ("scaled", Way.WHOLE),
    ],
)
def test_layers_are_called_directly_where_that_is_the_same(kind: str, way: Way) -> None:
    model, inputs = Outer(kind), {"input_ids": torch.arange(6).view(2, 3)}
    layers = model.model.layers
    assert find_way(model, layers, inputs) is way


@pytest.mark.zoo
@pytest.mark.parametrize("name", [*zoo.NAMES, *zoo.TEXT_NAMES])
def test_direct_calls_compute_what_bypassed_layers_do(name: str) -> None:
    try:
        config = zoo.build_config(name)
        model, inputs = zoo.build_model(config), zoo.build_inputs(name, config)
    except ImportError as error:
        pytest.skip(str(error))
    layers = find_layers(model)
    way = find_way(model, layers, inputs)
    free = [layer for layer in range(len(layers)) if layer not in find_entangled(model)]
    if way is Way.WHOLE or len(free) < 3:
        pytest.skip("it cannot be run from the middle")
    drop, stream = [free[0], free[2]], {}
    with torch.inference_mode():
        with bypassed(model, drop):
            wanted = model(**inputs, use_cache=False).logits
        with Replay(model, layers, way is Way.DIRECT) as replay:
            recording, _ = replay.record(inputs, keep=stream.__setitem__)
            moved = recording.move(torch.clone)
            start = min(layer for layer in stream if layer >= drop[0])
            found = [replay.run(one, start, stream[start], drop).logits for one in (recording, moved)]
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=0, equal_nan=True)
    assert torch.equal(found[0], found[1]) or bool(wanted.isnan().any())


CALLED = st.sets(st.integers(0, 9), min_size=1).map(sorted)


@given(called=CALLED, joined=st.sets(st.integers(0, 9)), start=st.integers(0, 9), stop=st.integers(1, 10) | st.none())
def test_a_run_is_direct_only_if_nothing_happens_between_its_layers(
    called: list[int], joined: set[int], start: int, stop: int | None
) -> None:
    calls = Calls()
    for index in called:
        calls.add(index, CALL, index in joined)
    calls.known = 10
    calls.tail = find_tail(torch.ones(1), [], None)
    assert calls.list_run(start, None, 10) is None, "what follows the layers is not known"
    end = 10 if stop is None else stop
    found = calls.list_run(start, stop, 10) if stop is not None else None
    if found is not None:
        assert found == [index for index in called if start <= index < end]
        behind = [index for index in called if index >= max(start, end)][:1]
        assert set([*found, *behind][1:]) <= joined or (end == 10 and set(found[1:]) <= joined)
        assert end == 10 or behind


def test_what_a_layer_may_change_is_not_called_again() -> None:
    hidden = torch.ones(1)
    assert take_call((hidden, object()), {}) is None
    assert take_call((), {"hidden_states": hidden, "shared_kv_states": {}}) is None
    call = take_call((), {"hidden_states": hidden, "mask": None, "more": [1, hidden]})
    assert call is not None
    assert (call.name, sorted(call.kwargs)) == ("hidden_states", ["mask", "more"])


def test_a_tensor_is_moved_once_wherever_it_stands() -> None:
    seen: list[Tensor] = []

    def move(value: Tensor) -> Tensor:
        seen.append(value)
        return value.clone()

    one = torch.ones(2)
    tree = {"a": [one, (one, 3)], "call": LayerCall((one,), {}, None, one.device)}
    made = move_tree(tree, move)
    assert len(seen) == 1
    assert made["a"][0] is made["a"][1][0] is made["call"].args[0]
    assert made["a"][0] is not one


@given(needs=st.lists(st.integers(0, 1000), max_size=20), free=st.integers(0, 5000) | st.none())
def test_no_more_stays_than_there_is_room_for(needs: list[int], free: int | None) -> None:
    room = plan_room(needs, free)
    held = sum(need for need, stays in zip(needs, room.stays, strict=True) if stays)
    if free is None:
        assert all(room.stays)
        assert room.host_bytes == sum(needs)
        return
    assert held <= free
    assert room.host_bytes == 2 * (sum(needs) - held), "pinned memory comes in powers of two"
    assert all(held + need > int(0.9 * free) for need, stays in zip(needs, room.stays, strict=True) if not stays)


def test_what_does_not_fit_is_said_of_the_memory_where_it_would_lie() -> None:
    check_room(Room((True, False), 10), 10, 8)
    with pytest.raises(InterlaceError, match=r"2\.0 GB .* in the host's memory beside what the GPU takes, and 1\.0"):
        check_room(Room((True, False), 2_000_000_000), 1_000_000_000, 8)
    with pytest.raises(InterlaceError, match=r"in the host's memory, and 0\.0 GB are available"):
        check_room(plan_room([9], None), 8, 8)
