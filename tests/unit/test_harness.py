"""Result files in the harnesses' real formats; retention as in the paper's table; commands as the harnesses take
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.core.evaluate import evaluate
from interlace_cli.demo import CHECKPOINT
from interlace_cli.domain.evaluation import Evaluation, Result
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import ArtifactError, ExistsError, InterlaceError, MissingInputError, UsageError
from interlace_cli.evaluation.harness import lmms_eval, vlmevalkit
from interlace_cli.evaluation.harness.benchmarks import PAPER, choose_benchmarks
from interlace_cli.evaluation.harness.retention import Found, build_rows
from interlace_cli.evaluation.harness.runner import (
    import_results,
    read_results,
    run_harness,
)
from interlace_cli.families.model_files import open_model
from interlace_cli.io.artifacts import load_artifact, save_artifact
from interlace_cli.options import EvaluateOptions

# The paper's rows (Qwen3-VL-8B-Instruct): Dense-FT and INTERLACE at 25%.
CATEGORIES = {"Text/Chart": 4, "GVQA": 3, "Perception": 3, "Inst&Sci": 2}


def write_lmms(path: Path, results: dict[str, Any]) -> Path:
    """As lmms-eval 0.7.3 lays its file out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"results": results, "configs": {}, "versions": {}, "config": {"model": "qwen3_vl"}, "git_hash": None}
    path.write_text(json.dumps(data))
    return path


def lmms_scores(share: float) -> dict[str, Any]:
    """Every benchmark at `share` of full marks, in the unit that its task has."""
    results: dict[str, Any] = {}
    for one in PAPER:
        entry = {"alias": one.task, f"{one.metric},none": share * 100 / one.scale}
        results[one.task] = {**entry, f"{one.metric}_stderr,none": 0.01 * 100 / one.scale}
    results["pope"] = {"alias": "pope", "pope_accuracy,none": 0.5, **results["pope"]}
    results["textvqa_val"]["exact_match_stderr,none"] = "N/A"
    return results


def test_lmms_eval_files_are_read_in_percent(tmp_path: Path) -> None:
    path = write_lmms(tmp_path / "20261101_000000_results.json", lmms_scores(0.8))
    kind, scores, errors = read_results(path)
    assert (kind, set(scores)) == ("lmms-eval", {one.name for one in PAPER})
    assert list(scores.values()) == pytest.approx([80.0] * len(PAPER))
    assert errors.keys() == scores.keys() - {"TextVQA"}
    assert errors["POPE"] == pytest.approx(1.0)
    write_lmms(tmp_path / "20261102_000000_results.json", lmms_scores(0.4))
    assert read_results(tmp_path)[1]["AI2D"] == pytest.approx(40.0), "the newest file"


def write_kit(folder: Path, model: str, share: float) -> Path:
    """As VLMEvalKit writes them: `<work_dir>/<model>/<eval_id>/<model>_<dataset><suffix>`."""
    run = folder / model / "T20261101_Gabc"
    run.mkdir(parents=True)
    for one in PAPER:
        value = share * 100 / one.kit_scale
        text = {
            "overall": f'"split","Overall","other"\n"none","{value}","0.1"\n',
            "hrbench": f"cycle,type,accuracy\n0,all,0.1\nAverage,single,0.2\nAverage,all,{value}\n",
            "pope": f'"split","Overall","acc"\n"Overall","{value}","33"\n"random","1","1"\n',
            "ocrbench": json.dumps({"Text Recognition": 200, "Final Score": 800, "Final Score Norm": value}),
            "mia": f'"type","score"\n"grammar","1"\n"overall","{value}"\n',
        }[one.layout]
        (run / f"{model}_{one.dataset}{vlmevalkit.SUFFIXES[one.layout]}").write_text(text)
    return folder / model


def test_vlmevalkit_folders_are_read_in_percent(tmp_path: Path) -> None:
    kind, scores, _ = read_results(write_kit(tmp_path, "healed", 0.75))
    assert kind == "vlmevalkit"
    assert scores == {one.name: pytest.approx(75.0) for one in PAPER}


def test_results_of_two_checkpoints_become_the_papers_table(tmp_path: Path) -> None:
    dense = write_lmms(tmp_path / "dense_results.json", lmms_scores(0.8))
    short = lmms_scores(0.6)
    del short["hrbench8k"]
    healed = write_lmms(tmp_path / "healed_results.json", short)
    found = import_results([("dense", dense), ("healed", healed)], {"dense": "f1", "healed": "f2"})
    assert {name: len(members) for name, members in found.categories.items()} == CATEGORIES
    first, second = found.rows
    assert (first.average, first.relative, first.fingerprint) == (pytest.approx(80.0), None, "f1")
    assert second.relative == pytest.approx(75.0)
    assert second.category_retention == {category: pytest.approx(75.0) for category in CATEGORIES}
    assert found.not_run == {"HRBench8K": "not among the results"}
    assert "HRBench8K" not in second.retention
    assert first.categories["Perception"] == pytest.approx(80.0), "over what both have"


def test_json_of_any_other_harness(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"AI2D_TEST": 80, "my_task": 50.0}))
    (tmp_path / "b.json").write_text(json.dumps({"AI2D_TEST": 60, "my_task": 25.0}))
    found = import_results([("dense", tmp_path / "a.json"), ("short", tmp_path / "b.json")], {})
    assert found.categories == {"Text/Chart": ["AI2D"], "tasks": ["my_task"]}
    assert found.rows[1].retention == {"AI2D": pytest.approx(75.0), "my_task": pytest.approx(50.0)}
    assert found.rows[1].relative == pytest.approx(62.5)


def test_what_is_no_result_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="there are no results"):
        read_results(tmp_path / "none.json")
    (tmp_path / "x.json").write_text('{"a": "b"}')
    for path in (tmp_path / "x.json", tmp_path):
        with pytest.raises(ArtifactError, match="holds no results that can be read"):
            read_results(path)
    write_lmms(tmp_path / "y.json", {"ai2d": {"alias": "ai2d", "other,none": 1.0}})
    with pytest.raises(ArtifactError, match="has no score exact_match for AI2D; it has alias, other,none"):
        read_results(tmp_path / "y.json")
    kit = write_kit(tmp_path / "kit", "m", 0.5)
    next(kit.rglob("*AI2D*")).write_text("nothing\n1\n")
    with pytest.raises(ArtifactError, match="is not laid out as VLMEvalKit writes AI2D"):
        read_results(kit)


scores = st.dictionaries(st.sampled_from("abcdef"), st.just(0.0) | st.floats(0.01, 100), min_size=1)


@given(st.lists(scores, min_size=1, max_size=4))
def test_retention_is_the_mean_of_ratios_over_what_all_have(rows: list[dict[str, float]]) -> None:
    categories = {"x": ["a", "b", "c"], "y": ["d", "e", "f"]}
    made = build_rows([(str(i), None, Found(dict(row))) for i, row in enumerate(rows)], categories)
    shared = [name for name in "abcdef" if all(name in row for row in rows)]
    for row, one in zip(rows, made, strict=True):
        assert one.scores == row
        assert one.average == (pytest.approx(sum(row[n] for n in shared) / len(shared)) if shared else None)
        ratios = {n: 100 * row[n] / rows[0][n] for n in shared if rows[0][n] > 0}
        assert one.retention == ({} if one is made[0] else pytest.approx(ratios))
        if ratios and one is not made[0]:
            assert one.relative == pytest.approx(sum(ratios.values()) / len(ratios))


def test_the_papers_benchmarks_are_asked_by_any_name() -> None:
    paper = choose_benchmarks("paper")
    assert [one.name for one in paper] == [one.name for one in PAPER]
    assert [one.name for one in choose_benchmarks("pope,VStarBench,mia_bench")] == ["POPE", "V*", "MIABench"]
    (own,) = choose_benchmarks("my_task:acc")
    assert (own.name, own.metric, own.known) == ("my_task", "acc", None)
    with pytest.raises(UsageError, match="names no benchmark"):
        choose_benchmarks(" , ")


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = choose_benchmarks("V*")[0]
    words = lmms_eval.build_command(Path("m"), "qwen3_vl", ["device=cpu"], asked, Path("o"), 2, 5, Path("t"))
    text = " ".join(words[1:])
    assert text == (
        "-m interlace_cli.evaluation.harness.launch_lmms_eval --model qwen3_vl --model_args pretrained=m,device=cpu"
        " --tasks vstar_bench --batch_size 2 --output_path o --log_samples --limit 5 --include_path t"
    )
    monkeypatch.delenv("VLMEVALKIT", raising=False)
    with pytest.raises(MissingInputError, match="there is no VLMEvalKit"):
        vlmevalkit.build_command(Path("c"), Path("o"), has_key=False)


KIT = """
import json, sys
from pathlib import Path
words = sys.argv[1:]
config = json.loads(Path(words[words.index("--config") + 1]).read_text())
work = Path(words[words.index("--work-dir") + 1])
((name, model),) = config["model"].items()
((dataset, entry),) = config["data"].items()
assert Path(model["model_path"], "config.json").exists() and model["class"] == "Qwen3VLChat", model
assert words[words.index("--judge") + 1] == "exact_matching"
if dataset == "POPE":
    sys.exit("no such file: POPE.tsv")
with open(work.parent / "calls", "a") as calls:
    calls.write(f"{name} {dataset} {entry}\\n")
out = work / name / "T1"
out.mkdir(parents=True, exist_ok=True)
(out / f"{name}_{dataset}_acc.csv").write_text(f"split,Overall\\nnone,{0.9 if name == 'dense' else 0.45}\\n")
"""


def test_a_harness_is_run_for_each_checkpoint_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command line is real; what answers is a script that checks the config and writes the kit's files."""
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit/run.py").write_text(KIT)
    monkeypatch.setenv("VLMEVALKIT", str(tmp_path / "kit"))
    for key in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    pair, asked = [("dense", "demo"), ("short", str(CHECKPOINT))], choose_benchmarks("AI2D,POPE,MIABench")
    options = EvaluateOptions(harness=vlmevalkit.NAME)
    found = run_harness(pair, asked, tmp_path / "runs", options, Silent())
    assert [row.scores for row in found.rows] == [{"AI2D": pytest.approx(90.0)}, {"AI2D": pytest.approx(45.0)}]
    assert found.rows[1].relative == pytest.approx(50.0)
    assert found.not_run["POPE"] == "vlmevalkit failed with exit code 1: no such file: POPE.tsv"
    assert "there is no key (OPENAI_API_KEY)" in found.not_run["MIABench"]
    run_harness(pair, asked, tmp_path / "runs", options, Silent())
    calls = [path.read_text().splitlines() for path in (tmp_path / "runs").rglob("calls")]
    assert [len(lines) for lines in calls] == [1, 1], "what was scored is not scored again"
    with pytest.raises(InterlaceError, match=r"scored nothing: vlmevalkit failed .* POPE\.tsv"):
        run_harness(pair, choose_benchmarks("POPE"), tmp_path / "other", options, Silent())


def import_into(folder: Path, *checkpoints: str, **options: Any) -> Evaluation:
    """`interlace eval CHECKPOINTS --import NAME=a.json`, each checkpoint being at 80% of AI2D."""
    (folder / "a.json").write_text('{"AI2D": 80}')
    given = [f"{name}={folder / 'a.json'}" for name in checkpoints or ("dense",)]
    return evaluate(
        EvaluateOptions(checkpoints=checkpoints, import_results=given, workspace=folder, **options), Silent()
    )


def test_benchmarks_stand_beside_what_was_evaluated(tmp_path: Path) -> None:
    out = tmp_path / "eval.json"
    found = import_into(tmp_path)
    again = load_artifact(out, Evaluation)
    assert again == found
    assert again.benchmarks is not None
    assert [(row.name, row.scores) for row in again.benchmarks.rows] == [("dense", {"AI2D": 80.0})]
    assert again.results == []
    results = [make_result("demo", open_model("demo").facts.fingerprint)]
    save_artifact(again.model_copy(update={"benchmarks": None, "results": results}), out)
    beside = import_into(tmp_path, "demo")
    assert beside.results == results
    assert beside.benchmarks is not None
    assert [(row.name, row.fingerprint) for row in beside.benchmarks.rows] == [("demo", results[0].fingerprint)]


def test_what_was_scored_is_not_lost_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "eval.json"
    made = import_into(tmp_path)
    before = out.read_bytes()
    with pytest.raises(ExistsError, match=r"has benchmarks already\. Add --force"):
        import_into(tmp_path)
    # Before hours are spent on it: the harness is not even looked for.
    monkeypatch.delenv("VLMEVALKIT", raising=False)
    with pytest.raises(ExistsError, match=r"has benchmarks already\. Add --force"):
        evaluate(EvaluateOptions(checkpoints=("demo",), harness="vlmevalkit", workspace=tmp_path), Silent())
    assert out.read_bytes() == before
    assert import_into(tmp_path, force=True).benchmarks == made.benchmarks
    other = made.model_copy(update={"benchmarks": None, "results": [make_result("demo", "f2")]})
    save_artifact(other, out)
    with pytest.raises(ExistsError, match="has an evaluation of other checkpoints already"):
        import_into(tmp_path, "demo")
    assert load_artifact(out, Evaluation).results == other.results
    assert import_into(tmp_path, "demo", force=True).results == []


def make_result(name: str, fingerprint: str) -> Result:
    fields = {"layers": 1, "parameters": 1, "bytes": 1, "score": 1.0, "loss": 1.0, "kinds": {"a": 1.0}}
    return Result.model_validate({"name": name, "location": "x", "fingerprint": fingerprint, **fields})


@pytest.mark.parametrize("given", [{"samples": 5}, {"include_path": "tasks"}])
def test_options_that_a_harness_does_not_have_are_refused(given: dict[str, Any]) -> None:
    assert EvaluateOptions(harness="lmms-eval", **given).harness == "lmms-eval"
    with pytest.raises(UsageError, match="VLMEvalKit takes neither --samples nor --include-path"):
        EvaluateOptions(harness="vlmevalkit", **given)


def test_options_of_a_harness_need_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--harness-arg belongs to --harness"):
        EvaluateOptions(harness_arg=("device=cpu",))
    with pytest.raises(UsageError, match="--harness runs benchmarks, and --import reads results"):
        EvaluateOptions(harness="lmms-eval", import_results=[f"dense={tmp_path}"])
    with pytest.raises(UsageError, match=r"--harness does not take 'lmms'\. Did you mean lmms-eval\?"):
        EvaluateOptions(harness="lmms")
