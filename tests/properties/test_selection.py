"""Each strategy against a naive second implementation, what holds whatever the scores, and the plan made of it."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from naive_selection import NAIVE, NAIVE_DROPS, most_random_drops

from interlace_cli.domain.layers import Role, count_drops, describe_layers
from interlace_cli.domain.model import ModelFacts
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.scores import Criterion, Scores, Search, SelectionTask, TuneRule
from interlace_cli.errors import RatioError, UsageError
from interlace_cli.io.artifacts import build_origin
from interlace_cli.options import PlanOptions
from interlace_cli.options import plan as plan_options
from interlace_cli.strategies import STRATEGIES
from interlace_cli.strategies.decide import ModelConstraints, check_reach, decide_plan
from interlace_cli.strategies.interlace import rate_spans
from interlace_cli.strategies.tuning import assign_tuned

few_values = st.sampled_from([0.25, 0.5, 0.75])
any_cosine = st.floats(-1, 1)


@st.composite
def score_tables(draw: st.DrawFn, most: int = 48) -> Scores:
    """2 ... `most` layers; all scores from three values, all floats, or mixed."""
    layers = draw(st.integers(2, most))
    values = draw(st.sampled_from([few_values, any_cosine, few_values | any_cosine]))
    spans = [draw(st.lists(values, min_size=n, max_size=n)) for n in (layers, layers - 1, layers - 2)]
    rng = random.Random(draw(st.integers(0, 2**32)))
    return Scores(
        layers,
        *spans,
        angular=[[rng.choice([0.1, 0.2, rng.random()]) for _ in range(layers - n + 1)] for n in range(1, layers + 1)],
        loss_increase=[rng.choice([0.1, rng.random() - 0.2]) for _ in range(layers)],
        taylor_activation=[rng.choice([0.1, rng.random() - 0.2]) for _ in range(layers)],
        taylor_weight=[rng.choice([0.1, rng.random()]) for _ in range(layers)],
        path=rng.sample(range(layers), rng.randint(1, layers)),
    )


@st.composite
def tasks(draw: st.DrawFn) -> SelectionTask:
    scores = draw(score_tables())
    layers = scores.num_layers
    scores = scores.without_last() if draw(st.booleans()) else scores
    protected = draw(st.frozensets(st.integers(0, layers - 1), max_size=layers // 3))
    return SelectionTask(scores, draw(st.integers(1, layers)), protected, draw(st.integers(0, 2**32)))


def naive(name: str, scores: Scores, count: int, protected: set[int]) -> list[tuple[list[int], list[int], list[int]]]:
    return NAIVE[name](scores.s1, scores.s2, scores.s3, scores.num_layers, count, protected)


@pytest.mark.parametrize("name", NAIVE)
@settings(max_examples=300, deadline=None)
@given(task=tasks())
def test_a_strategy_chooses_what_the_naive_one_does(name: str, task: SelectionTask) -> None:
    picks = STRATEGIES[name](task)
    wanted = naive(name, task.scores, task.count, set(task.protected))
    assert [(pick.drop, pick.tune, pick.anchor) for pick in picks] == wanted


@pytest.mark.parametrize("name", NAIVE_DROPS)
@settings(max_examples=200, deadline=None)
@given(task=tasks())
def test_a_drop_only_strategy_drops_what_the_naive_one_does(name: str, task: SelectionTask) -> None:
    picks = STRATEGIES[name](task)
    assert [layer for pick in picks for layer in pick.drop] == NAIVE_DROPS[name](task)
    assert not any(pick.tune or pick.anchor for pick in picks)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), count=st.integers(1, 5), criterion=st.sampled_from(get_args(Criterion)))
def test_the_optimal_set_is_the_best_of_all_sets(data: st.DataObject, count: int, criterion: Criterion) -> None:
    """Against all sets of spans of a small model."""
    table = data.draw(score_tables(most=12))
    protected = data.draw(st.frozensets(st.integers(0, table.num_layers - 1), max_size=3))
    bar = data.draw(st.none() | st.floats(-1, 1))
    task = SelectionTask(table, count, protected, 0, criterion, "optimal", bar)
    both = [
        (list(range(start, start + length)), value, bar is None or similarity[start] >= bar)
        for length, similarity in ((3, table.s3), (2, table.s2))
        for start, value in enumerate(rate_spans(task, length))
        if protected.isdisjoint(range(start, start + length))
    ]
    triplets = [(span, value) for span, value, _ in both if len(span) == 3]
    are_enough = any(
        len({layer for span, _ in chosen for layer in span}) == 3 * count for chosen in combinations(triplets, count)
    )
    spans = triplets if are_enough else [(span, value) for span, value, passes in both if passes]

    def worth(chosen: list[tuple[list[int], float]]) -> tuple[int, int, float]:
        return len(chosen), sum(len(span) == 3 for span, _ in chosen), sum(value for _, value in chosen)

    best = (0, 0, 0.0)
    for size in range(1, count + 1):
        for chosen in combinations(spans, size):
            members = [layer for span, _ in chosen for layer in span]
            if len(set(members)) == len(members):
                best = max(best, worth(list(chosen)))
    picks = STRATEGIES["interlace"](task)
    assert worth([(pick.layers, pick.score or 0.0) for pick in picks]) == pytest.approx(best)
    loss_increase = {
        "loss": table.loss_increase,
        "taylor": table.taylor_activation,
        "similarity": [-s for s in table.s1],
    }[criterion]
    assert all(loss_increase[pick.drop[0]] <= loss_increase[pick.tune[0]] for pick in picks)


@settings(max_examples=300, deadline=None)
@given(task=tasks(), name=st.sampled_from(sorted(STRATEGIES)), rule=st.sampled_from(get_args(TuneRule)))
def test_any_drop_set_is_interleaved_by_one_rule(task: SelectionTask, name: str, rule: TuneRule) -> None:
    picks = STRATEGIES[name](task)
    done = assign_tuned(picks, task.scores, task.protected, rule)
    assert [pick.drop for pick in done] == [pick.drop for pick in picks]
    flat = [layer for pick in done for layer in pick.drop + pick.tune + pick.anchor]
    assert len(flat) == len(set(flat)), "roles overlap"
    assert task.protected.isdisjoint(flat) or name == "random"
    drop = {layer for pick in done for layer in pick.drop}
    tune = {layer for pick in done for layer in pick.tune}
    free = set(range(task.scores.num_layers)) - drop - task.protected
    if rule == "none":
        assert not tune
    elif rule == "nearest":
        assert len(tune) == min(len(drop), len(free)), "as many tuned as dropped, if there can be"
    else:
        lonely = [layer for layer in drop if not {layer - 1, layer + 1} & tune]
        assert not any({layer - 1, layer + 1} & (free - tune) for layer in lonely), "a free neighbour was left"
    assert all({layer - 1, layer - 2} & drop for pick in done for layer in pick.anchor), "an anchor follows its pair"


def test_a_pair_that_carries_the_model_is_not_taken() -> None:
    """Layer 0 of a model whose triplets are used up."""
    scores = Scores(8, [0.4] + [0.97] * 7, [0.38] + [0.95] * 6, [0.36, 0.5] + [0.93] * 4)
    options = PlanOptions(drop=3, protect=())
    with pytest.raises(RatioError, match=r"can drop 2 of 8 layers.*S2 below 0\.9300"):
        plan(scores, options)
    assert plan(scores, replace(options, threshold=0.3)).tune[0] == 0
    best = plan(scores, replace(options, selection="optimal"))
    assert 0 not in best.drop + best.tune
    assert best.pair_bar == 0.93
    assert plan(scores.without_last(), PlanOptions(drop=2, paper=True)).pair_bar is None


@settings(max_examples=300, deadline=None)
@given(task=tasks())
def test_random_drops_scored_layers_and_tunes_as_many_others(task: SelectionTask) -> None:
    picks = STRATEGIES["random"](task)
    assert len(picks) == most_random_drops(task.scores.s1, task.scores.num_layers, task.count, set(task.protected))
    assert all(len(pick.drop) == len(pick.tune) == 1 and pick.anchor == [] for pick in picks)
    assert all(pick.drop[0] < len(task.scores.s1) for pick in picks)


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=200, deadline=None)
@given(task=tasks())
def test_a_layer_has_one_role_at_most_and_a_protected_one_none(name: str, task: SelectionTask) -> None:
    picks = STRATEGIES[name](task)
    with_role = [layer for pick in picks for layer in pick.drop + pick.tune + pick.anchor]
    assert len(with_role) == len(set(with_role)), "picks overlap"
    assert set(with_role) <= set(range(task.scores.num_layers)) - task.protected
    assert all(pick.layers == sorted(pick.drop + pick.tune + pick.anchor) for pick in picks)
    assert sum(len(pick.drop) for pick in picks) <= task.count
    assert STRATEGIES[name](task) == picks, "the same seed, other picks"


@given(table=score_tables(), count=st.integers(1, 48), seed=st.integers(0, 9))
def test_without_last_the_last_layer_is_in_no_triplet_or_pair_and_never_dropped(
    table: Scores, count: int, seed: int
) -> None:
    last = table.num_layers - 1
    task = SelectionTask(table.without_last(), count, frozenset(), seed)
    assert all(last not in pick.layers for name in ("interlace", "interlace_oa") for pick in STRATEGIES[name](task))
    assert all(last not in pick.drop for name in STRATEGIES for pick in STRATEGIES[name](task))


def test_random_depends_on_the_seed_and_not_on_the_scores() -> None:
    flat = Scores(36, [0.5] * 36, [0.5] * 35, [0.5] * 34)
    wavy = replace(flat, s1=[0.1 * (i % 7) for i in range(36)])
    drawn = [STRATEGIES["random"](SelectionTask(flat, 9, frozenset(), seed)) for seed in range(20)]
    assert len({tuple(pick.drop[0] for pick in picks) for picks in drawn}) == 20
    assert STRATEGIES["random"](SelectionTask(wavy, 9, frozenset(), 3)) == drawn[3]


def test_a_tie_drops_the_first_and_equal_triplets_go_in_order() -> None:
    task = SelectionTask(Scores(9, [0.5] * 9, [0.5] * 8, [0.5] * 7), 3)
    assert [pick.layers for pick in STRATEGIES["interlace"](task)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [pick.drop for pick in STRATEGIES["interlace"](task)] == [[0], [3], [6]]


def facts(layers: int, deepstack: int) -> ModelFacts:
    return ModelFacts(
        name="tiny",
        location="tiny",
        fingerprint="0",
        model_type="qwen3_vl",
        layer_parameters=[100 + layer for layer in range(layers)],
        layer_bytes=[200] * layers,
        embedding_parameters=10,
        head_parameters=0,
        rest_parameters=50,
        total_bytes=200 * layers + 120,
        attention_width=8,
        deepstack_layers=deepstack,
        is_tied=True,
    )


def plan(scores: Scores, options: PlanOptions, deepstack: int = 0) -> Plan:
    constraints = ModelConstraints.by_facts(facts(scores.num_layers, deepstack))
    return decide_plan(scores, options, constraints, None, build_origin("plan", {}), {})


def refusal(scores: Scores, options: PlanOptions) -> RatioError | None:
    try:
        plan(scores, options)
    except RatioError as error:
        return error
    return None


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=150, deadline=None)
@given(table=score_tables(), data=st.data())
def test_a_plan_drops_exactly_k_or_names_a_count_that_it_can(name: str, table: Scores, data: st.DataObject) -> None:
    layers = table.num_layers
    protect = data.draw(st.none() | st.frozensets(st.integers(0, layers - 1), max_size=4).map(sorted).map(tuple))
    count = data.draw(st.integers(1, layers - 1))
    paper = protect is None and data.draw(st.booleans())
    options = PlanOptions(drop=count, strategy=name, protect=protect, paper=paper)
    if (error := refusal(table, options)) is not None:
        reach = int(error.what.split("can drop ")[1].split(f" of {layers} layers")[0])
        assert reach < count
        assert describe_layers([] if paper else [layers - 1] if protect is None else protect) in error.what
        assert (f"--drop {reach} or less" in error.fix) if reach else (error.fix == "")
        if reach == 0:
            return
        count = reach
    made = plan(table, replace(options, drop=count))
    assert len(made.drop) == count
    assert sorted(layer for pick in made.picks for layer in pick.drop) == made.drop
    for role in (Role.DROP, Role.TUNE, Role.ANCHOR):
        assert getattr(made, role.value) == [layer for layer in range(layers) if made.roles[layer] is role]
    assert [note.index for note in made.layers] == list(range(layers))
    assert set(made.protect).isdisjoint(made.drop + made.tune + made.anchor)
    assert not made.is_edited


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=100, deadline=None)
@given(layers=st.integers(2, 16), data=st.data())
def test_what_can_be_planned_is_not_refused_beforehand(name: str, layers: int, data: st.DataObject) -> None:
    """`run` checks the reach before anything is measured: it must not turn away what the scores would allow. Scores
    that rise from layer to layer leave no gaps between the spans that are taken, so that the reach is largest."""
    rising = [0.5 + layer / 100 for layer in range(layers)]
    table = Scores(
        layers,
        *(rising[: layers + 1 - length] for length in (1, 2, 3)),
        angular=[[0.5] * (layers - length) for length in range(layers)],
        taylor_weight=rising,
        path=range(layers),
    )
    protect = data.draw(st.none() | st.frozensets(st.integers(0, layers - 1), max_size=2).map(sorted).map(tuple))
    paper = protect is None and data.draw(st.booleans())
    count = data.draw(st.integers(1, layers - 1))
    options = PlanOptions(drop=count, strategy=name, protect=protect, paper=paper)
    if (error := refusal(table, options)) is not None:
        count = int(error.what.split("can drop ")[1].split(f" of {layers} layers")[0])
        assume(count)
        options = replace(options, drop=count)
        plan(table, options)
    check_reach(options, ModelConstraints.by_facts(facts(layers, 0)))


@pytest.mark.parametrize(("name", "reach"), [("interlace", 5), ("shortgpt", 10), ("random", 10)])
def test_what_no_scores_allow_is_refused_beforehand(name: str, reach: int) -> None:
    """Of 12 layers the last is protected, and 4: runs of 4 and 6 layers are free."""
    constraints = ModelConstraints.by_facts(facts(12, 0))
    options = PlanOptions(drop=reach, strategy=name, protect=(4, 11))
    check_reach(options, constraints)
    with pytest.raises(RatioError, match=rf"{name} can drop at most {reach} of 12 layers .* 4, 11 are left alone"):
        check_reach(replace(options, drop=reach + 1), constraints)


@pytest.mark.parametrize("name", NAIVE)
@settings(deadline=None)
@given(table=score_tables(), data=st.data())
def test_paper_protects_nothing_and_scores_without_the_last_layer(
    name: str, table: Scores, data: st.DataObject
) -> None:
    wanted = naive(name, table.without_last(), data.draw(st.integers(1, table.num_layers)), set())
    count = sum(len(drop) for drop, _, _ in wanted)
    assume(count)
    made = plan(table, PlanOptions(drop=count, strategy=name, paper=True), deepstack=3)
    assert made.protect == []
    assert [(pick.drop, pick.tune, pick.anchor) for pick in made.picks] == wanted


@pytest.mark.parametrize("name", NAIVE)
@settings(deadline=None)
@given(table=score_tables(), data=st.data())
def test_by_default_deepstack_layers_and_the_last_are_protected(name: str, table: Scores, data: st.DataObject) -> None:
    last = table.num_layers - 1
    wanted = naive(name, table, data.draw(st.integers(1, table.num_layers)), {0, 1, 2, last})
    count = sum(len(drop) for drop, _, _ in wanted)
    assume(count)
    threshold = -1.0 if name == "interlace" else None
    made = plan(table, PlanOptions(drop=count, strategy=name, threshold=threshold), deepstack=3)
    assert made.protect == [0, 1, 2, last]
    assert [(pick.drop, pick.tune, pick.anchor) for pick in made.picks] == wanted


FALLING = [0.9 - layer / 100 for layer in range(12)]
TWELVE = Scores(12, FALLING, FALLING[:11], FALLING[:10])


def test_what_is_protected_by_default_on_paper_and_by_choice() -> None:
    made = plan(TWELVE, PlanOptions(drop=2), deepstack=3)
    assert (made.protect, made.drop, made.tune, made.anchor) == ([0, 1, 2, 11], [3, 6], [4, 7], [5, 8])
    assert plan(TWELVE, PlanOptions(drop=2, paper=True), deepstack=3).drop == [0, 3]
    assert plan(TWELVE, PlanOptions(drop=2, protect=(4,)), deepstack=3).drop == [0, 5]
    unknown = decide_plan(TWELVE, PlanOptions(drop=2), ModelConstraints(), None, build_origin("plan", {}), {})
    assert unknown.protect == [11], "no model, no DeepStack"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "either --ratio or --drop"),
        ({"ratio": 0.2, "drop": 2}, "either --ratio or --drop"),
        ({"drop": 0}, "--drop 0 is less than 1"),
        ({"drop": 12}, "--drop 12 is not between 1 and 11"),
        ({"ratio": 0.0}, "--ratio 0 is not between 0 and 1"),
        ({"ratio": 1.0}, "--ratio 1 is not between 0 and 1"),
        ({"ratio": float("nan")}, "--ratio nan is not between 0 and 1"),
        ({"ratio": 0.08}, "--ratio 0.08 of 12 layers is no whole layer"),
        ({"drop": 2, "strategy": "best"}, "--strategy does not take 'best'"),
        ({"drop": 2, "criterion": "rank"}, "--criterion does not take 'rank'"),
        ({"drop": 2, "selection": "best"}, "--selection does not take 'best'"),
        ({"drop": 2, "tune": "all"}, "--tune does not take 'all'"),
        ({"drop": 2, "protect": (3, 12)}, "--protect names layer 12, and the layers are 0 to 11"),
        ({"drop": 2, "protect": (3,), "paper": True}, "--paper protects nothing"),
    ],
)
def test_a_senseless_option_is_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        plan(TWELVE, PlanOptions(**options))


def test_every_option_of_the_choice_decides() -> None:
    """From the record of options to the roles: each option is seen in the plan."""
    rising, falling = FALLING[::-1], FALLING
    table = Scores(12, falling, falling[:11], falling[:10], loss_increase=falling, taylor_activation=[1, *rising[:11]])
    usual = plan(table, PlanOptions(drop=2))
    assert (usual.drop, usual.tune, usual.strategy, usual.pair_bar) == ([0, 3], [1, 4], "interlace", 0.87)
    by_loss = plan(table, PlanOptions(drop=2, criterion="loss"))
    assert (by_loss.drop, by_loss.tune) == ([6, 9], [5, 8]), "the last triplets, and of each the second layer"
    assert plan(table, PlanOptions(drop=2, criterion="taylor")).drop == [1, 3], "not layer 0"
    assert plan(table, PlanOptions(drop=2, threshold=0.5)).pair_bar == 0.5
    greedy_loses = replace(table, s3=[0.8, 0.9, 0.5, 0.8, *[0.5] * 6])
    assert plan(greedy_loses, PlanOptions(drop=2)).drop == [1, 4]
    assert plan(greedy_loses, PlanOptions(drop=2, selection="optimal")).drop == [0, 3]
    assert plan(table, PlanOptions(drop=2, tune="none")).tune == []
    neighbours = PlanOptions(drop=3, strategy="shortgpt", protect=(5,))
    assert plan(table, neighbours).drop == [0, 1, 2]
    assert plan(table, neighbours).tune == [3, 4, 6], "the nearest free ones"
    assert plan(table, replace(neighbours, tune="paired")).tune == [3], "neighbours alone"
    drawn = {tuple(plan(table, PlanOptions(drop=2, strategy="random", seed=seed)).drop) for seed in range(8)}
    assert len(drawn) > 1


def test_what_options_and_strategies_name_is_the_same() -> None:
    """Options are read without the domain, and the domain knows no options: each has these words of its own."""
    assert get_args(Criterion) == plan_options.CRITERIA
    assert get_args(Search) == plan_options.SEARCHES
    assert get_args(TuneRule) == plan_options.TUNED
    assert tuple(STRATEGIES) == plan_options.STRATEGIES


def test_a_ratio_out_of_reach_names_the_reach_and_what_stands_in_the_way() -> None:
    with pytest.raises(RatioError) as caught:
        plan(TWELVE, PlanOptions(ratio=0.5, strategy="interlace_oa"), deepstack=3)
    assert "interlace_oa can drop 2 of 12 layers (ratio 0.1667), not 6" in caught.value.what
    assert "protected are 0-2, 11, and 9-10 have no free neighbours left" in caught.value.what


@pytest.mark.parametrize(
    ("ratio", "layers", "drops"),
    [(0.1, 36, 3), (0.15, 36, 5), (0.2, 36, 7), (0.25, 36, 9), (0.29, 100, 29), (0.7, 10, 7), (0.57, 100, 57)],
)
def test_the_number_of_drops_is_the_floor_in_decimal_arithmetic(ratio: float, layers: int, drops: int) -> None:
    assert count_drops(ratio, layers) == drops
    scores = Scores(layers, [0.5] * layers, [0.5] * (layers - 1), [0.5] * (layers - 2))
    if drops <= layers // 3:
        assert len(plan(scores, PlanOptions(ratio=ratio)).drop) == drops


@given(st.integers(1, 9999), st.integers(2, 200))
def test_no_decimal_ratio_is_rounded(ten_thousandths: int, layers: int) -> None:
    assert count_drops(ten_thousandths / 10000, layers) == ten_thousandths * layers // 10000
