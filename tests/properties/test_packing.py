"""Which samples share a row: decisions about lengths, tried by the hundred."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.data.packing import PADDING, group_alike, pack_rows
from interlace_cli.healing.layer_pairs import find_anchors, find_local_spans
from interlace_cli.healing.recipe import Recipe

LENGTHS = st.lists(st.integers(0, 300), max_size=60)


@given(LENGTHS, st.integers(1, 400))
def test_every_sample_with_something_to_learn_is_in_one_row(lengths: list[int], room: int) -> None:
    rows = pack_rows(lengths, room)
    assert sorted(i for row in rows for i in row) == [i for i, length in enumerate(lengths) if length]
    for row in rows:
        assert sum(lengths[i] for i in row) <= room or len(row) == 1
        assert [lengths[i] for i in row] == sorted((lengths[i] for i in row), reverse=True), "neighbours of one length"


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_rows_are_few(lengths: list[int]) -> None:
    rows = pack_rows(lengths, 100)
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert all(a + b > 100 for a, b in combinations(sums, 2)), "no two rows would fit into one"


@given(LENGTHS, st.integers(1, 2000), st.integers(1, 8))
def test_padded_batches_are_alike_in_length(lengths: list[int], max_tokens: int, max_samples: int) -> None:
    groups = group_alike(lengths, max_tokens, max_samples)
    assert sorted(i for group in groups for i in group) == [i for i, length in enumerate(lengths) if length]
    for group in groups:
        size = len(group) * max(lengths[i] for i in group)
        assert len(group) <= max_samples
        assert size <= max_tokens or len(group) == 1
        assert size - sum(lengths[i] for i in group) <= PADDING * size + 1e-9


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 3), st.floats(0.1, 4), st.integers(0, 5))
def test_an_epoch_takes_every_sample_once(samples: int, batch: int, accumulate: int, epochs: float, seed: int) -> None:
    recipe = Recipe(batch_size=batch, grad_accum=accumulate, epochs=epochs, seed=seed)
    steps = recipe.plan_steps(samples)
    assert len(steps) == recipe.count_steps(samples)
    assert steps == recipe.plan_steps(samples)
    flat = [i for step in steps for i in step]
    for start in range(0, len(flat), samples):
        epoch = flat[start : start + samples]
        assert len(set(epoch)) == len(epoch)
    assert all(len(step) <= batch * accumulate for step in steps)


@given(st.integers(1, 60), st.sampled_from(["ce", "local", "local,ce", "local,distill+anchor"]), st.floats(0, 1))
def test_stages_share_the_steps(steps: int, objective: str, share: float) -> None:
    recipe = Recipe(objective=objective, local_share=share)
    parts = recipe.divide_steps([[i] for i in range(steps)])
    assert [i for _, part in parts for i in part] == [[i] for i in range(steps)]
    assert len(parts) == len(recipe.stages)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """Number of layers, which are kept, which of them are tuned."""
    count = draw(st.integers(2, 24))
    kept = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))
    return count, kept, sorted(draw(st.sets(st.sampled_from(kept))))


@given(cuts())
def test_local_spans_cover_each_gap_once_and_only_gaps(cut: tuple[int, list[int], list[int]]) -> None:
    count, kept, tuned = cut
    spans = find_local_spans(kept, tuned, count)
    covered = [layer for span in spans for layer in range(span.start, span.stop) if layer != span.layer]
    assert len(covered) == len(set(covered))
    assert not set(covered) & set(kept)
    for span in spans:
        assert span.layer in tuned
        assert span.start <= span.layer < span.stop
        assert span.stop - span.start > 1
    for gone in set(range(count)) - set(kept) - set(covered):
        before = max((layer for layer in kept if layer < gone), default=None)
        behind = min((layer for layer in kept if layer > gone), default=None)
        assert before not in tuned
        assert behind not in tuned, "a gap beside a tuned layer is made up for"


@given(cuts(), st.sets(st.integers(0, 23)))
def test_what_is_compensated_in_front_of_a_gap_is_not_learnt_again_behind_it(
    cut: tuple[int, list[int], list[int]], compensated: set[int]
) -> None:
    count, kept, tuned = cut
    for span in find_local_spans(kept, tuned, count, sorted(compensated)):
        front = max((layer for layer in kept if layer < span.start), default=-1)
        assert span.start == span.layer or front not in compensated
        assert span.stop - span.start > 1


@given(cuts())
def test_anchors_are_frozen_and_behind_a_tuned_layer(cut: tuple[int, list[int], list[int]]) -> None:
    _, kept, tuned = cut
    anchors = find_anchors(kept, tuned)
    assert set(anchors) <= set(kept) - set(tuned)
    for layer in tuned:
        behind = [other for other in kept if other > layer and other not in tuned]
        assert not behind or behind[0] in anchors


def test_of_a_triplet_they_are_the_pair_and_the_anchor() -> None:
    spans = find_local_spans([0, 1, 3, 4, 5, 7], [3, 5], 8)
    assert [(span.layer, span.start, span.stop) for span in spans] == [(3, 2, 4), (5, 5, 7)]
    assert find_anchors([0, 1, 3, 4, 5, 7], [3, 5]) == [4, 7]
