"""Plans for the tokens, sources and kinds that a user cares for."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.core.plan import plan
from interlace_cli.domain.analysis import Analysis, Calibration, Group, SpanSimilarity
from interlace_cli.domain.importance import GreedyStep, LossImportance, TaylorImportance
from interlace_cli.domain.layers import count_drops
from interlace_cli.domain.model import ModelFacts
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import MissingInputError, RatioError, UsageError
from interlace_cli.io.artifacts import build_origin, save_artifact
from interlace_cli.options import AnalyzeOptions, PlanOptions
from interlace_cli.options.shared import parse_weights
from interlace_cli.strategies.needs import complete_analysis
from interlace_cli.strategies.weighting import build_scores, weigh_scores

LAYERS = 8


def spans(*redundant: int) -> SpanSimilarity:
    """Layers that are redundant, and all others not."""
    s1 = [0.9 if layer in redundant else 0.5 for layer in range(LAYERS)]
    return SpanSimilarity(s1=s1, s2=[0.5] * (LAYERS - 1), s3=[0.5] * (LAYERS - 2))


def build_analysis(**more: object) -> Analysis:
    facts = ModelFacts(
        name="tiny",
        location="tiny",
        fingerprint="0",
        model_type="qwen3_vl",
        layer_parameters=[100] * LAYERS,
        layer_bytes=[200] * LAYERS,
        embedding_parameters=10,
        head_parameters=0,
        rest_parameters=50,
        total_bytes=200 * LAYERS + 120,
        attention_width=8,
        deepstack_layers=0,
        is_tied=True,
    )
    groups = [
        Group(
            by="source",
            name="charts",
            samples=5,
            similarity=spans(2, 3),
            loss_increase=[0.1 * i for i in range(LAYERS)],
        ),
        Group(
            by="source",
            name="text",
            samples=5,
            similarity=spans(4),
            loss_increase=[0.8 - 0.1 * i for i in range(LAYERS)],
        ),
    ]
    return Analysis(
        kind=Analysis.KIND,
        schema_version=1,
        created_by=build_origin("analyze", {}),
        inputs={},
        model=facts,
        calibration=Calibration(samples=10, tokens=20, image_tokens=4, vision_patches=16),
        similarity=spans(1),
        image=spans(5),
        text=spans(6),
        groups=groups,
    ).model_copy(update=more)


def loss(path: list[int]) -> LossImportance:
    return LossImportance(
        dense=1.0,
        single=[1.0 + 0.1 * layer for layer in range(LAYERS)],
        path=[GreedyStep(layer=layer, loss=1.5) for layer in path],
        protected=[],
        samples=4,
        answer_tokens=9,
        layer_runs=5,
        naive_layer_runs=9,
    )


def decide(folder: Path, **options: Any) -> Plan:
    """By the analysis in the folder, with nothing written."""
    return plan(PlanOptions(workspace=folder, dry_run=True, **options), Silent())


def chosen(analysis: Analysis, weights: dict[str, float]) -> list[int]:
    """The layers whose S1 is above the others'."""
    s1 = weigh_scores(analysis, weights).s1
    return [layer for layer, value in enumerate(s1) if value > 0.5]


def test_only_what_is_named_counts_and_text_is_the_modality() -> None:
    analysis = build_analysis()
    assert build_scores(analysis).s1[1] == 0.9
    assert chosen(analysis, {"charts": 1}) == [2, 3]
    assert chosen(analysis, {"text": 1}) == [6]
    assert chosen(analysis, {"source:text": 1}) == [4]
    assert chosen(analysis, {"image": 2, "charts": 1}) == [2, 3, 5]
    s1 = weigh_scores(analysis, {"image": 3, "charts": 1}).s1
    assert s1[5] == pytest.approx(0.5 + 0.4 * 3 / 4)
    assert s1[2] == pytest.approx(0.5 + 0.4 * 1 / 4)


def test_the_order_of_weights_moves_no_bit(tmp_path: Path) -> None:
    weights = {"charts": 0.1, "text": 0.7, "image": 0.3}
    save_artifact(build_analysis(), tmp_path / "analysis.json")
    orders = list(permutations(f"{name}={weight}" for name, weight in weights.items()))
    plans = [decide(tmp_path, drop=1, weight=order) for order in orders]
    assert len({str(plan.inputs) for plan in plans}) == 1, "another plan, as far as `run` knows"


def test_the_loss_increase_is_weighed_where_every_group_has_one() -> None:
    analysis = build_analysis()
    loss_increase = weigh_scores(analysis, {"charts": 1, "source:text": 1}).loss_increase
    assert loss_increase == pytest.approx([0.4] * LAYERS)
    assert weigh_scores(analysis, {"charts": 1, "image": 1}).loss_increase == ()


@pytest.mark.parametrize("weights", [{"nothing": 1.0}, {"charts": 0.0}, {"charts": -1.0, "image": 2.0}])
def test_senseless_weights(weights: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--weight"):
        weigh_scores(build_analysis(), weights)


@pytest.mark.parametrize("text", ["text", "text=", "=2", "text=much", "text=-1", "text=inf", "text=nan"])
def test_weights_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--weight does not take"):
        parse_weights(text, "--weight")
    with pytest.raises(UsageError, match="--weight does not take"):
        PlanOptions(weight=text)


def test_weights_are_read() -> None:
    assert parse_weights("text=2, charts=0.5", "--weight") == (("charts", 0.5), ("text", 2.0))
    assert parse_weights("", "--weight") == ()
    for given in ("text=2, charts=0.5", ["text=2", "charts=0.5"], (("text", 2.0), ("charts", 0.5))):
        assert dict(PlanOptions(weight=given).weight) == {"charts": 0.5, "text": 2.0}
    assert PlanOptions().weight == ()


def test_what_was_not_measured_is_asked_for(tmp_path: Path) -> None:
    save_artifact(build_analysis(), tmp_path / "analysis.json")
    for strategy, importance in (("sleb", "loss"), ("taylor", "taylor")):
        with pytest.raises(MissingInputError, match=f"analyze --importance {importance}"):
            decide(tmp_path, drop=2, strategy=strategy)
    with pytest.raises(MissingInputError, match="analyze --importance loss"):
        decide(tmp_path, drop=2, criterion="loss")
    with pytest.raises(UsageError, match="angular needs"):
        decide(tmp_path, drop=2, strategy="angular")


def test_what_was_measured_over_all_cannot_be_weighed(tmp_path: Path) -> None:
    taylor = TaylorImportance(taylor_weight=[1.0] * LAYERS, taylor_activation=[1.0] * LAYERS, samples=4)
    save_artifact(build_analysis(loss=loss([4, 2]), taylor=taylor), tmp_path / "analysis.json")
    for strategy in ("sleb", "taylor"):
        assert len(decide(tmp_path, drop=2, strategy=strategy).drop) == 2
        with pytest.raises(UsageError, match=f"{strategy} cannot be weighed by charts"):
            decide(tmp_path, drop=2, strategy=strategy, weight="charts=1")
    by_loss = {"drop": 1, "criterion": "loss", "protect": ()}
    assert decide(tmp_path, **by_loss, weight="charts=1").drop == [0], (
        "the loss increase grows with the layer on charts"
    )
    assert decide(tmp_path, **by_loss, weight="source:text=1").drop == [6], "it falls on text; 7 can only be an anchor"


def test_a_search_that_ends_too_early_says_how_far_it_went(tmp_path: Path) -> None:
    save_artifact(build_analysis(loss=loss([4, 2, 7, 3])), tmp_path / "analysis.json")
    assert decide(tmp_path, drop=2, strategy="sleb").drop == [2, 4]
    with pytest.raises(RatioError, match=r"sleb can drop 2 of 8 layers.*The greedy search by loss.*--search-ratio"):
        decide(tmp_path, drop=3, strategy="sleb")
    assert decide(tmp_path, drop=4, strategy="sleb", protect=()).drop == [2, 3, 4, 7]


def test_a_search_with_other_protection_is_not_taken_for_the_plans_own(tmp_path: Path) -> None:
    """It dropped 4 while it was not allowed to try 5 and 7."""
    found = loss([4, 2]).model_copy(update={"protected": [5, 7]})
    save_artifact(build_analysis(loss=found), tmp_path / "analysis.json")
    assert decide(tmp_path, drop=2, strategy="sleb", protect=(5, 7, 0)).drop == [2, 4]
    with pytest.raises(UsageError, match=r'left layers 5 alone.*analyze --importance loss --protect "7"'):
        decide(tmp_path, drop=1, strategy="sleb")
    with pytest.raises(UsageError, match=r'left layers 5, 7 alone.*--protect ""'):
        decide(tmp_path, drop=1, strategy="sleb", protect=())


def test_an_analysis_searches_as_the_plans_that_follow_it_need() -> None:
    sleb = PlanOptions(strategy="sleb", ratio=0.6, protect=(4,))
    made = complete_analysis(AnalyzeOptions(), [sleb, PlanOptions(ratio=0.9)], lambda: 8)
    assert (made.importance, made.protect, made.search_ratio) == (("similarity", "loss"), (4,), 0.6)
    made = complete_analysis(AnalyzeOptions(), [PlanOptions(strategy="sleb", drop=7, paper=True)], lambda: 11)
    assert (made.protect, count_drops(made.search_ratio, 11)) == ((), 7)
    made = complete_analysis(AnalyzeOptions(protect=(1,)), [sleb, PlanOptions(weight="charts=1", stack="text")], int)
    assert (made.protect, made.by, made.stack) == ((1,), ("modality", "kind", "source"), "text")
    assert complete_analysis(AnalyzeOptions(), [PlanOptions(ratio=0.9, protect=(4,))], int) == AnalyzeOptions()


def test_the_table_shows_the_loss_increase_and_whether_similarity_can_be_trusted(tmp_path: Path) -> None:
    save_artifact(build_analysis(loss=loss([4]), correlation=0.25), tmp_path / "analysis.json")
    done = CliRunner().invoke(app, ["plan", "--ratio", "0.25", "-w", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    assert "loss increase" in done.stdout
    assert "loss_increase" not in done.stdout
    assert "0.7000" in done.stdout
    said = " ".join(done.stdout.split())
    assert "Spearman correlation of 1 - S1 with the loss increase of dropping that layer: +0.25;" in said
    assert "similarity misleads on this model" in said
