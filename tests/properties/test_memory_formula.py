"""The memory formula, by what must hold whatever the numbers: more of anything takes no less, and each way of saving
memory saves some."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.domain.model import LayerWidths
from interlace_cli.healing.memory_need import CHUNK, ModelSizes, Need, RowSizes, Way, count_need

GIB = 2**30
OPTIMS = ["adamw_torch", "adamw_torch_fused", "adamw_8bit", "sgd"]


@st.composite
def widths(draw: st.DrawFn) -> LayerWidths:
    heads, size = draw(st.sampled_from([4, 8, 32])), draw(st.sampled_from([64, 128]))
    return LayerWidths(
        hidden=draw(st.integers(256, 8192)),
        query=heads * size,
        key_value=draw(st.sampled_from([1, 2, heads])) * size,
        heads=heads,
        intermediate=draw(st.integers(512, 30_000)),
        vocabulary=draw(st.integers(1000, 200_000)),
        is_gated=draw(st.booleans()),
        has_query_norm=draw(st.booleans()),
    )


@st.composite
def models(draw: st.DrawFn) -> ModelSizes:
    w = draw(widths())
    attention = 2 * w.hidden * w.query + 2 * w.hidden * w.key_value
    layer = attention + (3 if w.is_gated else 2) * w.hidden * w.intermediate + 2 * w.hidden
    count = draw(st.integers(2, 40))
    tuned = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))
    rest = w.vocabulary * w.hidden + draw(st.integers(0, 10**9))
    return ModelSizes(
        w, [layer] * count, sorted(tuned), rest, draw(st.integers(0, 3)), element=draw(st.sampled_from([2, 4]))
    )


@st.composite
def rows(draw: st.DrawFn) -> RowSizes:
    tokens = draw(st.integers(1, 32_768))
    return RowSizes(tokens, draw(st.integers(0, tokens)), draw(st.integers(0, tokens)), draw(st.booleans()))


ways = st.builds(Way, st.sampled_from(["ddp", "offload"]), st.booleans(), st.sampled_from(OPTIMS))


@given(models(), rows(), ways, st.data())
def test_more_takes_no_less(sizes: ModelSizes, row: RowSizes, way: Way, data: st.DataObject) -> None:
    need = count_need(sizes, row, way).device
    more = data.draw(st.integers(1, 5000))
    wider = sizes.widths.model_copy(update={"vocabulary": sizes.widths.vocabulary + more})
    for larger in (
        replace(row, tokens=row.tokens + more),
        replace(row, labels=min(row.labels + more, row.tokens)),
        replace(row, image_tokens=min(row.image_tokens + more, row.tokens)),
        replace(row, is_alone=False),
        replace(row, mask=1),
    ):
        assert count_need(sizes, larger, way).device >= need
    for larger in (
        replace(sizes, rest=sizes.rest + more),
        replace(sizes, layers=[*sizes.layers, sizes.layers[-1]]),
        replace(sizes, widths=wider),
        replace(sizes, teacher=more, has_distill=True, anchors=1),
    ):
        assert count_need(larger, row, way).device >= need


@given(models(), rows(), ways, st.data())
def test_another_tuned_layer_takes_no_less(sizes: ModelSizes, row: RowSizes, way: Way, data: st.DataObject) -> None:
    free = sorted(set(range(len(sizes.layers))) - set(sizes.tuned))
    if free:
        one_more = replace(sizes, tuned=sorted([*sizes.tuned, data.draw(st.sampled_from(free))]))
        before, after = count_need(sizes, row, way), count_need(one_more, row, way)
        assert after.device >= before.device
        assert after.host > before.host or not way.is_offloaded


@given(models(), rows(), st.booleans())
def test_each_way_of_saving_memory_saves_some(sizes: ModelSizes, row: RowSizes, is_checkpointed: bool) -> None:
    needs = [
        count_need(sizes, row, Way("ddp", is_checkpointed, optim))
        for optim in ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "sgd")
    ]
    assert [need.device for need in needs] == sorted((need.device for need in needs), reverse=True)
    assert not any(need.host for need in needs)
    offloaded = count_need(sizes, row, Way("offload", is_checkpointed))
    assert offloaded.device < needs[1].device
    # The training state is not gone: it lies on the host.
    assert offloaded.host >= 16 * sizes.tuned_parameters


@given(models(), rows())
def test_checkpointing_saves_what_more_than_one_layer_keeps(sizes: ModelSizes, row: RowSizes) -> None:
    whole, checkpointed = (count_need(sizes, row, Way("offload", one)).device for one in (False, True))
    # A layer that is computed again has its input beside it.
    state = sizes.element * sizes.widths.hidden * row.tokens
    assert checkpointed <= whole + 2 * state


@given(models(), ways, st.integers(2 * CHUNK, 20_000), st.integers(0, 20_000))
def test_logits_are_held_by_the_chunk(sizes: ModelSizes, way: Way, labels: int, more: int) -> None:
    few, many = (count_need(sizes, RowSizes(65_536, count), way).device for count in (labels, labels + more))
    assert many - few <= 2 * sizes.element * sizes.widths.hidden * more


@given(st.integers(0, 100 * GIB), st.integers(0, 100 * GIB), st.integers(0, 100 * GIB))
def test_what_fits_leaves_room_beside_it(device: int, host: int, free: int) -> None:
    need = Need(device, host)
    assert need.fits(None)
    kept = min(GIB, free / 16)
    assert need.fits(None, free) == (host == 0 or host * 1.05 + kept <= free)
    assert need.fits(free) == (device * 1.05 + kept <= free)
