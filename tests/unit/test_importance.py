"""Loss and gradients layer by layer, against the obvious way: whole forwards with layers bypassed, autograd by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from making import make_analysis
from tiny import TINY
from torch import Tensor

from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.data.labels import keep_label_positions, sum_losses
from interlace_cli.domain.analysis import Analysis
from interlace_cli.families.modules import bypassed, find_entangled, find_layers
from interlace_cli.families.replay import Replay
from interlace_cli.families.ways import Way, can_replay
from interlace_cli.importance.correlation import compute_spearman
from interlace_cli.importance.loss import Limits, count_candidates, search_by_loss
from interlace_cli.importance.search_state import SearchState
from interlace_cli.importance.taylor import measure_taylor
from interlace_cli.io.arrays import load_arrays
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor


def forget(*_: Any, **__: Any) -> None:
    """A listener that keeps nothing."""


@pytest.mark.parametrize("name", TINY)
def test_a_model_run_on_from_any_layer_computes_the_same(name: str) -> None:
    model, inputs = TINY[name].build_model(), TINY[name].build_inputs()
    layers = find_layers(model)
    assert can_replay(model, layers, inputs)
    free = [layer for layer in range(len(layers)) if layer not in find_entangled(model)]
    with torch.inference_mode():
        for drop in ([free[0]], [free[2]], [free[1], free[3]]):
            with bypassed(model, drop):
                wanted = model(**inputs, use_cache=False).logits
            stream: dict[int, Tensor] = {}
            with Replay(model, layers) as replay:
                recording, _ = replay.record(inputs, keep=stream.__setitem__)
                assert replay.layer_runs == len(layers)
                found = replay.run(recording, drop[0], stream[drop[0]], drop).logits
                assert replay.layer_runs == 2 * len(layers) - drop[0] - len(drop)
                entering = replay.run(recording, drop[0], stream[drop[0]], stop=drop[0] + 2)
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
            torch.testing.assert_close(entering, stream[drop[0] + 2])
    assert not [module for module in model.modules() if "forward" in vars(module)], "the model is as it was"


@pytest.mark.parametrize("name", ["gemma4", "pix2struct"])
def test_a_model_that_cannot_be_run_on_is_found_out(name: str) -> None:
    """Their later layers take more from earlier ones than the hidden state."""
    config = zoo.build_config(name)
    model = zoo.build_model(config)
    assert not can_replay(model, find_layers(model), zoo.build_inputs(name, config))
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_a_forward_that_was_replaced_before_is_there_again(loaded: tuple[Any, Any, list[dict[str, Tensor]]]) -> None:
    model, layers, _ = loaded
    layers[3].forward = own = layers[3].forward
    with Replay(model, layers):
        assert layers[3].forward is not own
    assert vars(layers[3])["forward"] is own
    del layers[3].forward


@pytest.fixture(scope="module")
def loaded(chain_model: Path, small_dataset: Path) -> tuple[Any, Any, list[dict[str, Tensor]]]:
    """A tiny model, its layers, and a few batches with labels."""
    model = load_model(chain_model)
    batcher = Batcher(load_processor(chain_model), small_dataset)
    samples = load_split(small_dataset, "calibration")[:9]
    batches = [keep_label_positions(batcher.build_conversations(samples[i : i + 4])) for i in range(0, 9, 4)]
    return model, find_layers(model), batches


def naive_loss(model: Any, batches: list[dict[str, Tensor]], drop: list[int]) -> float:
    total = tokens = 0.0
    with torch.inference_mode(), bypassed(model, drop):
        for batch in batches:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            total += float(sum_losses(model(**inputs, use_cache=False), batch["labels"]).sum())
            tokens += int((batch["labels"] != IGNORE).sum())
    return total / tokens


def naive_search(model: Any, batches: list[dict[str, Tensor]], protected: set[int], depth: int) -> list[int]:
    """SLEB's algorithm 1, word by word."""
    dropped: list[int] = []
    while len(dropped) < depth:
        losses = {i: naive_loss(model, batches, [*dropped, i]) for i in range(8) if i not in {*dropped, *protected}}
        dropped.append(min(losses, key=lambda i: losses[i]))
    return dropped


@pytest.mark.parametrize("way", list(Way), ids=lambda way: way.value)
@pytest.mark.parametrize("protected", [{0, 1, 7}, set()])
def test_the_search_finds_what_the_naive_one_does(
    loaded: tuple[Any, Any, list[dict[str, Tensor]]], protected: set[int], way: Way
) -> None:
    model, layers, batches = loaded
    limits, state = Limits(frozenset({3}), frozenset(protected), 3), SearchState()
    told: list[float] = []
    search_by_loss(model, layers, "language", batches, limits, state, forget, lambda *_: told.append(1), way)
    assert [step.layer for step in state.path] == naive_search(model, batches, protected | {3}, 3)
    tokens = sum(state.tokens)
    assert state.path[-1].loss == pytest.approx(naive_loss(model, batches, [s.layer for s in state.path]), abs=1e-5)
    assert sum(state.dense) / tokens == pytest.approx(naive_loss(model, batches, []), abs=1e-5)
    assert state.single[3] is None, "locked"
    for layer in (0, 1, 2, 5, 7):
        wanted = naive_loss(model, batches, [layer])
        assert sum(state.single[layer] or []) / tokens == pytest.approx(wanted, abs=1e-5), f"layer {layer}"
    assert len(told) == count_candidates(8, limits)


def test_no_layer_is_run_twice_on_the_same_input(loaded: tuple[Any, Any, list[dict[str, Tensor]]]) -> None:
    """Every input of every layer over the whole search is another one; the naive search would run twice as many."""
    model, layers, batches = loaded
    seen: list[bytes] = []
    handles = []
    for index, layer in enumerate(layers):

        def on_input(_: Any, args: Any, kwargs: Any, index: int = index) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            seen.append(index.to_bytes(1, "big") + hidden.numpy().tobytes())

        handles.append(layer.self_attn.register_forward_pre_hook(on_input, with_kwargs=True))
    towers = 0

    def on_tower(*_: Any) -> None:
        nonlocal towers
        towers += 1

    handles.append(model.model.visual.blocks[0].register_forward_pre_hook(on_tower))
    state = SearchState()
    # DeepStack layers need what lies in front of the layers to be computed anew.
    limits = Limits(find_entangled(model), frozenset({7}), 3)
    search_by_loss(model, layers, "language", batches, limits, state, forget, forget, Way.DIRECT)
    for handle in handles:
        handle.remove()
    assert towers == len(batches), "what lies in front of the layers is computed once for a batch"
    assert len(seen) == len(set(seen)) == state.layer_runs
    free = 8 - len(limits.locked)
    naive = 8 + free * 7 + (free - 2) * 6 + (free - 3) * 5
    assert state.naive_layer_runs == naive * len(batches)
    assert state.layer_runs < 0.6 * state.naive_layer_runs


class Killed(Exception):  # noqa: N818 - not an error
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("after", [1, 4, 9, 12, 15])
def test_an_interrupted_search_goes_on(loaded: tuple[Any, Any, list[dict[str, Tensor]]], after: int) -> None:
    model, layers, batches = loaded
    limits, whole, state = Limits(frozenset(), frozenset({7}), 4), SearchState(), SearchState()
    search_by_loss(model, layers, "language", batches, limits, whole, forget, forget, Way.DIRECT)
    saved = 0

    def save(_: SearchState) -> None:
        nonlocal saved
        saved += 1
        if saved == after:
            raise Killed

    with pytest.raises(Killed):
        search_by_loss(model, layers, "language", batches, limits, state, save, forget, Way.DIRECT)
    kept = list(state.path)
    search_by_loss(model, layers, "language", batches, limits, state, forget, forget, Way.DIRECT)
    assert state.path[: len(kept)] == kept
    assert [step.layer for step in state.path] == [step.layer for step in whole.path]
    assert [step.loss for step in state.path] == pytest.approx([step.loss for step in whole.path])
    assert (state.layer_runs, state.naive_layer_runs) == (whole.layer_runs, whole.naive_layer_runs)
    assert [loss for one in state.single for loss in one or []] == pytest.approx(
        [loss for one in whole.single for loss in one or []]
    )


def test_gradients_equal_those_of_the_whole_loss_by_hand(loaded: tuple[Any, Any, list[dict[str, Tensor]]]) -> None:
    model, layers, batches = loaded
    found = measure_taylor(model, layers, batches, forget)
    assert all(parameter.grad is None for parameter in model.parameters())
    tokens = sum(int((batch["labels"] != IGNORE).sum()) for batch in batches)
    total = torch.zeros(())
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        total = total + _loss(model(**inputs, use_cache=False).logits, batch["labels"])
    (total / tokens).backward()
    for index in (0, 3, 7):
        wanted = sum(float((p.grad * p.detach()).abs().sum()) for p in layers[index].parameters())
        assert found.taylor_weight[index] == pytest.approx(wanted, rel=1e-4)
    model.zero_grad(set_to_none=True)

    # What scaling a layer's branch by 1 - e changes, to first order, is e times the estimate.
    batch, epsilon, layer = batches[0], 1e-3, layers[4]
    inputs = {name: value for name, value in batch.items() if name != "labels"}

    def shrink(_: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        before = args[0] if args else kwargs["hidden_states"]
        return output - epsilon * (output - before)

    with torch.no_grad():
        plain = sum_losses(model(**inputs, use_cache=False), batch["labels"]).tolist()
        handle = layer.register_forward_hook(shrink, with_kwargs=True)
        shrunk = sum_losses(model(**inputs, use_cache=False), batch["labels"]).tolist()
        handle.remove()
    slopes = [abs(after - before) / epsilon for before, after in zip(plain, shrunk, strict=True)]
    assert found.taylor_activation[4][: len(plain)] == pytest.approx(slopes, rel=0.05, abs=0.02)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def test_importances_are_added_to_the_analysis_and_measured_once(
    chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "analysis.json"
    few = {"samples": 20, "loss_samples": 12, "search_ratio": 0.4}

    def measure(**options: Any) -> Analysis:
        return make_analysis(chain_model, small_dataset, out, **few, **options)

    first = measure()
    assert first.loss is None
    assert [len(row) for row in first.angular or []] == list(range(8, 0, -1))
    second = measure(importance=("loss",), by=("kind",))
    assert second.similarity == first.similarity
    assert second.loss is not None
    assert len(second.loss.path) == 3
    assert second.loss.samples == 12
    assert not out.with_suffix(".search.json").exists()
    stamp = out.stat().st_mtime_ns
    again = measure(importance=("similarity", "loss"), by=("kind",))
    assert (again, out.stat().st_mtime_ns) == (second, stamp), "nothing is measured twice"
    both = measure(importance=("taylor",), by=("kind",))
    assert both.loss == second.loss
    assert both.taylor is not None
    assert load_artifact(out, Analysis) == both
    # The groups are a partition: their means, weighted by samples, are the whole's.
    assert sum(group.samples for group in both.groups) == 20
    for p in ("s1", "s3"):
        whole = getattr(both.similarity, p)[2]
        parts = sum(group.samples * getattr(group.similarity, p)[2] for group in both.groups) / 20
        assert parts == pytest.approx(whole)
    # And of what was measured on the first twelve alone, weighted by answer tokens.
    arrays = load_arrays(out.with_suffix(".safetensors"))
    kinds = [sample.kind for sample in load_split(small_dataset, "calibration")[:12]]
    for group in both.groups:
        members = [index for index, kind in enumerate(kinds) if kind == group.name]
        assert (group.loss_increase is None) == (not members)
        if members:
            rise = (arrays["loss_single"] - arrays["loss_dense"])[2, members].sum() / arrays["loss_tokens"][
                members
            ].sum()
            assert (group.loss_increase or [])[2] == pytest.approx(rise)
            slope = arrays["taylor_activation"][2, members].sum() / arrays["taylor_tokens"][members].sum()
            assert (group.taylor_activation or [])[2] == pytest.approx(slope)
    assert second.loss.loss_increase[2] == pytest.approx(
        (arrays["loss_single"] - arrays["loss_dense"])[2].sum() / arrays["loss_tokens"].sum()
    )
    data = json.loads(out.read_text())
    assert -1 <= data["correlation"] <= 1


def test_spearman_by_hand() -> None:
    assert compute_spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert compute_spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert compute_spearman([86, 97, 99, 100, 101], [2, 20, 28, 27, 50]) == pytest.approx(0.9)
    # Ties share their mean rank: ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
    assert compute_spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)
    assert compute_spearman([1, 1, 1], [1, 2, 3]) is None
    assert compute_spearman([1, 2], [1, 2]) is None
