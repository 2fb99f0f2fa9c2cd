"""The command line as a person meets it: bad input is one sentence and the right exit code, and leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from interlace_cli.cli.app import app


def call(*words: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


def refuse(code: int, sentence: str, *words: str | Path) -> None:
    """The call ends with `code` and one sentence that holds `sentence`; nothing on stdout, no traceback."""
    found, out, err = call(*words)
    assert found == code, err
    assert sentence in " ".join(err.split())
    assert "Traceback" not in err
    assert not out


@pytest.fixture
def scores(tmp_path: Path) -> list[Path]:
    """Released score files of a model of 12 layers, the later the more redundant."""
    files = []
    for p in (1, 2, 3):
        data = {str(i): [0.5 + i / 100, 0.5 + i / 100] for i in range(12 - p)}
        files.append(tmp_path / f"pack{p}_hidden_state_similarities.json")
        files[-1].write_text(json.dumps(data))
    return files


@pytest.mark.parametrize("ratio", ["0", "1", "-0.5", "1.5", "nan"])
def test_a_ratio_outside_of_0_and_1(ratio: str, scores: list[Path], tmp_path: Path) -> None:
    refuse(2, "is not between 0 and 1", "plan", "--ratio", ratio, "--scores", *scores, "-w", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_ratio_that_is_no_number(tmp_path: Path) -> None:
    refuse(2, "--ratio does not take 'abc'. It takes a number.", "plan", "--ratio", "abc", "-w", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_wrong_call_is_said_before_anything_is_looked_at(small_dataset: Path, tmp_path: Path) -> None:
    refuse(2, "is not between 0 and 1", "plan", "--ratio", "0", "-w", tmp_path / "w")
    refuse(2, "is not between 0 and 1", "run", "--ratio", "1", "-w", tmp_path / "w")
    refuse(2, "--strategy does not take 'best'. It takes interlace,", "run", "--strategy", "best", "-w", tmp_path / "w")
    refuse(2, "Did you mean shortgpt? It takes", "run", "--strategy", "shortgtp", "-w", tmp_path / "w")
    words = ["nowhere", "-w", tmp_path / "w"]
    refuse(1, "there is no model folder", "analyze", *words, "--dataset", small_dataset)
    refuse(1, "there is no model folder", "run", *words, "--data", "demo")
    assert not (tmp_path / "w").exists()


def test_neither_ratio_nor_drop_and_both(scores: list[Path], tmp_path: Path) -> None:
    refuse(2, "either --ratio or --drop", "plan", "--scores", *scores, "-w", tmp_path)
    refuse(2, "either --ratio or --drop", "plan", "--ratio", ".2", "--drop", "3", "--scores", *scores, "-w", tmp_path)


def test_an_impossible_ratio_names_the_largest_that_is_possible(scores: list[Path], tmp_path: Path) -> None:
    words = ["plan", "--strategy", "interlace_oa", "--scores", *scores, "-w", tmp_path]
    refuse(2, "can drop 3 of 12 layers (ratio 0.25), not 6", *words, "--ratio", "0.5")
    assert call(*words, "--ratio", "0.25")[0] == 0


def test_no_analysis_yet_names_the_command_that_makes_it(tmp_path: Path) -> None:
    refuse(1, "Run `interlace analyze` first", "plan", "--ratio", "0.25", "-w", tmp_path)
    refuse(1, "Run `interlace prepare` first", "analyze", "demo", "-w", tmp_path)
    refuse(1, "Run `interlace plan` first", "prune", "-w", tmp_path)
    refuse(1, "Run `interlace prune` first", "finetune", "-w", tmp_path)
    refuse(1, "Run `interlace finetune` first", "export", "-w", tmp_path)


def test_models_that_are_not_there(tmp_path: Path) -> None:
    refuse(1, "there is no model folder", "prune", tmp_path / "nowhere", "--drop-layers", "1", "-w", tmp_path / "w")
    (tmp_path / "empty").mkdir()
    refuse(1, "has no config.json", "prune", tmp_path / "empty", "--drop-layers", "1", "-w", tmp_path / "w")
    refuse(2, "--drop-layers does not take '3-1'", "prune", tmp_path, "--drop-layers", "3-1", "-w", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_plan_for_another_model(chain_model: Path, tmp_path: Path, scores: list[Path]) -> None:
    assert call("plan", "--ratio", "0.25", "--scores", *scores, "-w", tmp_path)[0] == 0
    refuse(1, "the plan is for a model of 12 layers", "prune", chain_model, "-w", tmp_path)
    refuse(2, "names no model", "prune", "-w", tmp_path)
    assert not (tmp_path / "pruned").exists()


def test_an_edited_plan_that_is_not_consistent(chain_model: Path, tmp_path: Path, scores: list[Path]) -> None:
    call("plan", "--ratio", "0.25", "--scores", *scores, "-w", tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["roles"][plan["drop"][0]] = "keep"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    refuse(1, f"drop and roles differ at layer {plan['drop'][0]}", "prune", chain_model, "-w", tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    again = ["plan", "--ratio", "0.25", "--scores", *scores, "-w", tmp_path]
    refuse(1, "delete drop. `interlace plan --force` replaces it", *again)
    assert (tmp_path / "plan.json").read_bytes() == before
    assert call(*again, "--force")[0] == 0


def test_an_edited_plan_is_replaced_with_force_alone(tmp_path: Path, scores: list[Path]) -> None:
    words = ["plan", "--ratio", "0.25", "--scores", *scores, "-w", tmp_path]
    assert call(*words)[0] == 0
    made = (tmp_path / "plan.json").read_bytes()
    stamp = (tmp_path / "plan.json").stat().st_mtime_ns
    assert call(*words)[0] == 0
    assert (tmp_path / "plan.json").stat().st_mtime_ns == stamp, "the same plan is left as it is"
    plan = json.loads(made)
    plan["roles"][plan["drop"][0]] = "keep"
    for name in ("drop", "tune", "anchor", "summary", "layers"):
        del plan[name]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    refuse(1, "plan.json exists already (edited by hand, ratio 0.25): it was edited by hand.", *words)
    refuse(1, "ratio was 0.25, and is 0.1 now. `interlace plan --force` replaces it", *words, "--ratio", "0.1")
    assert json.loads((tmp_path / "plan.json").read_text()) == plan
    assert call(*words, "--force")[0] == 0
    assert (tmp_path / "plan.json").read_bytes() == made


@pytest.mark.parametrize("place", ["file/space", "/proc/space"])
def test_a_workspace_that_cannot_be_written(place: str, tmp_path: Path, scores: list[Path]) -> None:
    (tmp_path / "file").write_text("a file")
    space = tmp_path / place
    refuse(1, "cannot write", "plan", "--ratio", "0.25", "--scores", *scores, "-w", space)
    refuse(1, "cannot write", "prepare", "demo", "--max-samples", "5", "-w", space)


def test_a_source_that_is_not_there_or_of_no_use(tmp_path: Path) -> None:
    refuse(1, "there is no file or folder", "prepare", tmp_path / "none.json", "-w", tmp_path / "w")
    (tmp_path / "bad.jsonl").write_text('{"image": "x.png", "conversations": [{"from": "human", "value": "a"}]}\n[]\n')
    refuse(1, "has no record that can be used", "prepare", tmp_path / "bad.jsonl", "-w", tmp_path / "w")
    assert not (tmp_path / "w/dataset").exists()


def test_a_broken_image_is_counted_and_listed(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    turns = [{"from": "human", "value": "<image>\nColor?"}, {"from": "gpt", "value": "red"}]
    data = [{"image": name, "conversations": turns} for name in ("good.png", "bad.png")]
    (tmp_path / "data.json").write_text(json.dumps(data))
    code, out, err = call("prepare", tmp_path / "data.json", "-w", tmp_path / "w", "--json")
    assert code == 0, err
    manifest = json.loads(out)
    assert manifest["skipped"] == {"image does not open": 1}
    assert manifest["skipped_records"] == [{"record": "record 1", "reason": "image does not open", "count": 1}]


def test_options_that_do_not_fit_this_machine(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    words = ["analyze", chain_model, "--dataset", small_dataset, "-w", tmp_path]
    refuse(2, "--dtype does not take 'int8'", *words, "--dtype", "int8")
    refuse(2, "--device gpu7 cannot be used here", *words, "--device", "gpu7")
    assert not list(tmp_path.iterdir())


def test_a_bug_is_called_one(tmp_path: Path, scores: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace_cli.core.plan.check_free", lambda *_: {}["no such key"])
    refuse(
        1,
        "KeyError: 'no such key' This is a bug of interlace",
        "plan",
        "--ratio",
        "0.25",
        "--scores",
        *scores,
        "-w",
        tmp_path,
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["plan", "--ratio", "0.25", "-w", str(tmp_path), "--debug"])
    assert type(done.exception).__name__ == "MissingInputError"


def test_plan_json_has_what_programs_need(scores: list[Path], tmp_path: Path) -> None:
    code, out, _ = call("plan", "--ratio", "0.25", "--scores", *scores, "-w", tmp_path, "--json")
    plan = json.loads(out)
    assert code == 0
    assert out == (tmp_path / "plan.json").read_text()
    assert len(plan["roles"]) == 12
    for role in ("drop", "tune", "anchor"):
        assert plan[role] == [i for i, name in enumerate(plan["roles"]) if name == role]
    assert len(plan["drop"]) == 3


def test_plan_shows_every_layer_and_why(scores: list[Path], tmp_path: Path) -> None:
    code, out, _ = call("plan", "--ratio", "0.25", "--scores", *scores, "-w", tmp_path)
    assert code == 0
    for word in ("triplet 8-10", "S1 0.5900 > 0.5800 of layer 8", "protected: 11", "layers: 12 → 9", "╭ 1"):
        assert word in out


def test_quiet_says_nothing(scores: list[Path], tmp_path: Path) -> None:
    assert call("plan", "--ratio", "0.25", "--scores", *scores, "-w", tmp_path, "--quiet") == (0, "", "")


@pytest.mark.parametrize("artifact", ["dataset", "analysis", "plan", "checkpoint", "evaluation"])
def test_schemas_can_be_printed(artifact: str) -> None:
    code, out, _ = call("schema", artifact)
    assert code == 0
    assert {"kind", "schema", "created_by", "inputs"} <= json.loads(out)["properties"].keys()


def test_the_workspace_may_come_from_the_environment(
    scores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLACE_WORKSPACE", str(tmp_path / "elsewhere"))
    assert call("plan", "--ratio", "0.25", "--scores", *scores)[0] == 0
    assert (tmp_path / "elsewhere/plan.json").exists()


def test_what_libraries_print_does_not_reach_stdout(tmp_path: Path) -> None:
    """DeepSpeed speaks on stdout when it is loaded, and its compiler does by itself."""
    code = (
        "import os, sys\n"
        "from interlace_cli.cli.console import output\n"
        "with output.own_stdout():\n"
        "    print('a library'); os.system('echo its compiler'); output.write('the result\\n')\n"
        "print('afterwards')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "the result\nafterwards\n"
    assert done.stderr == "a library\nits compiler\n"


def press_ctrl_c_at(name: str, folder: Path, *words: str) -> tuple[int, str, str]:
    """A command that is interrupted where its program calls the function `name`: code, stdout, stderr."""
    code = """
import os, signal, sys
from interlace_cli.cli import app

name = sys.argv.pop(1)
found = getattr(app, name)

def call(*given):
    os.kill(os.getpid(), signal.SIGINT)
    return found(*given)

setattr(app, name, call)
app.main()
"""
    command = [sys.executable, "-c", code, name, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("words", "code"), [(("schema", "plan"), 0), (("report", "-w", "none"), 1)])
def test_ctrl_c_when_all_is_done_changes_nothing(words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    """What was said stands, and so does the exit code."""
    found, out, err = press_ctrl_c_at("has_open_group", tmp_path, *words)
    assert found == code, err
    assert "Traceback" not in err
    assert bool(out) is (code == 0)


def test_ctrl_c_before_the_command_has_begun_is_said_as_later(tmp_path: Path) -> None:
    found, out, err = press_ctrl_c_at("build_app", tmp_path, "schema", "plan")
    assert (found, out) == (130, "")
    assert err.startswith("Error: interrupted;")
    assert err.count("\n") <= 2
