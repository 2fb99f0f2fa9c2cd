"""`run` from end to end on a tiny random model: what it prints, what it skips, what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub
from tiny import save_llava_chain_model
from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.run_view import RunView

STEPS = ["prepare", "analyze", "plan", "prune", "finetune", "eval", "export"]


def call(*words: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


def list_files(space: Path) -> dict[str, bytes]:
    return {str(path.relative_to(space)): path.read_bytes() for path in space.rglob("*") if path.is_file()}


def refuse_whole(space: Path, *words: str | Path) -> str:
    """The one sentence of a call that ends before its first step: nothing is made, nothing touched."""
    before = list_files(space)
    code, out, err = call(*words)
    assert (code, out) == (1, ""), err
    assert list_files(space) == before
    assert err.startswith("Error: "), "no step was begun"
    assert err.count("Error: ") == 1
    return " ".join(err.split())


def look_ahead(*words: str | Path) -> dict[str, tuple[str, list[str]]]:
    """Step -> what a dry run says of it."""
    code, out, err = call(*words, "--dry-run", "--json")
    assert (code, err) == (0, "")
    return {one["step"]: (one["action"], one["reasons"]) for one in json.loads(out)["steps"]}


def copy(finished: tuple[list[str | Path], dict], to: Path) -> tuple[list[str | Path], Path]:
    """The same call in a copy of its workspace."""
    words, record = finished
    shutil.copytree(record["workspace"], to / "space")
    return [to / "space" if word == Path(record["workspace"]) else word for word in words], to / "space"


@pytest.fixture(scope="module")
def finished(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str | Path], dict]:
    """The words of the call and the record it printed."""
    space = tmp_path_factory.mktemp("run") / "space"
    words = ["run", chain_model, "--data", "demo", "--max-samples", "160", "--lr", "1e-3", "--ratio", "0.25"]
    words += ["--repeats", "1", "-w", space, "--json"]
    code, out, err = call(*words)
    assert code == 0, err
    return words, json.loads(out)


def test_the_record_has_what_programs_need(finished: tuple[list[str | Path], dict]) -> None:
    _, record = finished
    for name in ("dense", "pruned", "healed"):
        assert {"layers", "parameters", "bytes", "score", "loss", "ttft_ms"} <= record[name].keys()
    assert [record[name]["layers"] for name in ("dense", "pruned", "healed")] == [8, 6, 6]
    assert record["dense"]["parameters"] > record["pruned"]["parameters"] == record["healed"]["parameters"]
    assert record["healed"]["loss"] < record["pruned"]["loss"], "a random model learns its answers' priors"
    assert len(record["plan"]["drop"]) == 2
    assert record["plan"].keys() >= {"drop", "tune", "anchor"}
    assert set(record["seconds"]) == set(STEPS)
    assert all(record[name]["ttft_ms"] > 0 for name in ("dense", "pruned", "healed"))


def test_the_workspace_has_the_conventional_names(finished: tuple[list[str | Path], dict]) -> None:
    space = Path(finished[1]["workspace"])
    names = {path.name for path in space.iterdir()}
    assert {"dataset", "analysis.json", "plan.json", "pruned", "healed", "eval.json", "export"} <= names
    assert not [name for name in names if name.startswith(".")], "no draft stays behind"


def test_a_second_run_does_nothing_and_says_the_same(finished: tuple[list[str | Path], dict]) -> None:
    words, record = finished
    weights = Path(record["workspace"]) / "healed/model.safetensors"
    stamp = weights.stat().st_mtime_ns
    code, out, _ = call(*words)
    again = json.loads(out)
    assert code == 0
    assert again["skipped"] == STEPS
    assert weights.stat().st_mtime_ns == stamp
    assert {name: again[name] for name in ("dense", "pruned", "healed", "plan")} == {
        name: record[name] for name in ("dense", "pruned", "healed", "plan")
    }


def test_a_run_with_no_data_named_takes_the_dataset_that_is_there(finished: tuple[list[str | Path], dict]) -> None:
    words, record = finished
    manifest = Path(record["workspace"]) / "dataset/manifest.json"
    before = manifest.read_bytes()
    unnamed = [word for word in words if word not in ("--data", "demo", "--max-samples", "160")]
    code, out, err = call(*unnamed)
    assert code == 0, err
    assert json.loads(out)["skipped"] == STEPS
    assert manifest.read_bytes() == before


def test_a_run_measures_what_its_strategy_chooses_by(chain_model: Path, tmp_path: Path) -> None:
    words = ["run", chain_model, "--data", "demo", "--max-samples", "120", "--lr", "1e-3", "--no-speed", "-w", tmp_path]
    code, out, err = call(*words, "--rank", "loss", "--weight", "chart=1", "--ratio", "0.25", "--verify", "--json")
    assert code == 0, err
    assert "verified: equals the dense model with these layers bypassed, by at most" in err
    analysis = json.loads((tmp_path / "analysis.json").read_text())
    assert analysis["loss"]["samples"] > 0
    assert {group["by"] for group in analysis["groups"]} == {"kind", "source"}
    record = json.loads(out)
    sleb = [*words, "--strategy", "sleb", "--drop", "2"]
    sentence = refuse_whole(tmp_path, *sleb)
    for change in ("criterion was loss, and is similarity now", "strategy was interlace, and is sleb now"):
        assert change in sentence
    assert "weight was chart=1, and is none now" in sentence
    code, out, err = call(*sleb, "--force", "--json")
    assert code == 0, err
    assert json.loads(out)["skipped"] == ["prepare", "analyze"], "the loss is measured once"
    assert json.loads(out)["plan"]["strategy"] == "sleb"
    assert record["plan"]["strategy"] == "interlace"


def test_what_a_run_would_replace_is_known_before_it_measures(
    finished: tuple[list[str | Path], dict], tmp_path: Path
) -> None:
    """Also where what the plan, or the healed checkpoint, would be made from is not there yet."""
    words, space = copy(finished, tmp_path)
    sentence = refuse_whole(space, *words, "--strategy", "sleb")
    assert "plan.json exists already" in sentence
    assert "strategy was interlace, and is sleb now" in sentence
    shutil.rmtree(space / "pruned")
    words[words.index("1e-3")] = "2e-3"
    sentence = refuse_whole(space, *words)
    assert "healed exists already" in sentence
    assert "lr was 0.001, and is 0.002 now" in sentence
    steps = look_ahead(*words)
    assert [steps[name][0] for name in STEPS] == ["skip"] * 3 + ["make", "refuse", "skip or refuse", "skip or refuse"]
    assert steps["finetune"][1] == ["lr was 0.001, and is 0.002 now"]


@pytest.mark.parametrize(("stack", "layers"), [("language", [8, 6, 6]), ("vision", [6, 5, 5])])
def test_the_chain_on_a_llava(stack: str, layers: list[int], tmp_path: Path) -> None:
    save_llava_chain_model(tmp_path / "llava")
    words = ["run", tmp_path / "llava", "--data", "demo", "--max-samples", "120", "--lr", "1e-3", "--no-speed"]
    code, out, err = call(*words, "--stack", stack, "-w", tmp_path / "w", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert [record[name]["layers"] for name in ("dense", "pruned", "healed")] == layers
    assert record["healed"]["loss"] < record["pruned"]["loss"]


def on_a_terminal(words: list[str | Path], interrupt_at: str | None = None) -> tuple[int, str]:
    """The exit code and what a terminal as stderr received; a Ctrl-C as soon as it shows `interrupt_at`."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "interlace_cli", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the process is
        while data := os.read(ours, 4096):
            seen += data
            if interrupt_at and interrupt_at.encode() in seen:
                process.send_signal(signal.SIGINT)
                interrupt_at = None
    os.close(ours)
    return process.wait(), seen.decode()


@pytest.mark.long
def test_a_terminal_shows_the_steps_and_an_interrupted_run_goes_on(
    finished: tuple[list[str | Path], dict], tmp_path: Path
) -> None:
    words, record = finished
    space = tmp_path / "space"
    words = [space if word == Path(record["workspace"]) else word for word in words]
    # Not earlier: torch's import of numpy swallows a KeyboardInterrupt.
    code, seen = on_a_terminal(words, interrupt_at="▸ eval")
    assert code == 130, seen
    assert "interrupted" in seen
    names = {path.name for path in space.iterdir()}
    assert names == {"dataset", "analysis.json", "analysis.safetensors", "plan.json", "pruned", "healed"}
    code, seen = on_a_terminal(words)
    assert code == 0, seen
    assert all(f"✓ {step}" in seen for step in STEPS)
    assert "up to date" in seen
    assert (space / "healed/model.safetensors").read_bytes() == (
        Path(record["workspace"]) / "healed/model.safetensors"
    ).read_bytes(), "as if it had not been interrupted"


def test_an_interruption_that_a_library_dropped_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python ignores a KeyboardInterrupt in the callback of a weak reference, as ThreadPoolExecutor has them."""
    monkeypatch.setattr(output, "interrupted", False)
    monkeypatch.setattr(output, "ended", False)
    with pytest.raises(KeyboardInterrupt):
        output.interrupt()
    with pytest.raises(KeyboardInterrupt), BarProgress().task("eval", 2, "samples") as advance:
        advance()
    with pytest.raises(KeyboardInterrupt):
        RunView(BarProgress()).on_step("eval", "done", 1.0)


def test_an_edited_plan_is_taken_by_the_later_steps(finished: tuple[list[str | Path], dict], tmp_path: Path) -> None:
    words, space = copy(finished, tmp_path)
    plan = json.loads((space / "plan.json").read_text())
    freed, left = plan["drop"]
    plan["roles"][freed] = "keep"
    for name in ("drop", "tune", "anchor", "summary", "layers"):
        del plan[name]
    (space / "plan.json").write_text(json.dumps(plan))
    # What was cut by the plan as it was stays until somebody says that it may go.
    sentence = refuse_whole(space, *words)
    assert "pruned exists already" in sentence
    assert f"the layers that the plan drops: {freed}, {left} then, {left} now" in sentence
    assert "Add --force" in sentence
    assert look_ahead(*words)["prune"][0] == "refuse"
    edit = (space / "plan.json").read_bytes()
    code, out, err = call(*words, "--force")
    assert code == 0, err
    again = json.loads(out)
    assert again["plan"]["drop"] == [left]
    assert again["pruned"]["layers"] == again["healed"]["layers"] == 7
    assert again["skipped"] == ["prepare", "analyze", "plan"]
    assert set(again["seconds"]) == {"prune", "finetune", "eval", "export"}
    assert (space / "plan.json").read_bytes() == edit
    # Asking for another plan, or for the same one anew, must not lose the edit.
    assert "edited by hand" in refuse_whole(space, *words, "--strategy", "random")
    assert "it was edited by hand" in refuse_whole(space, *words, "--anew")
    assert look_ahead(*words, "--anew")["plan"][0] == "refuse"
    assert "it was edited by hand" in refuse_whole(space, "plan", "--ratio", "0.25", "-w", space)


def test_another_ratio_redoes_only_what_depends_on_it(finished: tuple[list[str | Path], dict], tmp_path: Path) -> None:
    words, space = copy(finished, tmp_path)
    code, out, err = call(*words, "--drop", "1")
    assert code == 2
    assert "either --ratio or --drop" in err
    words[words.index("0.25")] = "0.13"
    words.append("--no-speed")
    sentence = refuse_whole(space, *words)
    assert "plan.json exists already" in sentence
    assert "ratio was 0.25, and is 0.13 now" in sentence
    assert "eval.json would be replaced too" in sentence
    code, out, err = call(*words, "--force")
    assert code == 0, err
    again = json.loads(out)
    assert again["skipped"] == ["prepare", "analyze"]
    assert set(again["seconds"]) == {"plan", "prune", "finetune", "eval", "export"}
    assert again["healed"]["layers"] == 7
    assert again["healed"]["ttft_ms"] is None


def test_a_dry_run_says_what_it_cannot_know(finished: tuple[list[str | Path], dict]) -> None:
    words = list(finished[0])
    assert look_ahead(*words) == dict.fromkeys(STEPS, ("skip", []))
    words[words.index("0.25")] = "0.13"
    later = ["it depends on what comes of the steps before"]
    for more, what in (([], "refuse"), (["--force"], "replace")):
        steps = look_ahead(*words, *more)
        assert steps["analyze"] == ("skip", [])
        assert steps["plan"] == (what, ["ratio was 0.25, and is 0.13 now"])
        assert {steps[name] == (f"skip or {what}", later) for name in STEPS[3:]} == {True}
    steps = look_ahead(*finished[0], "--anew")
    assert {action for action, _ in steps.values()} == {"make anew"}


def test_a_dry_run_refuses_what_cannot_work(finished: tuple[list[str | Path], dict]) -> None:
    words, _ = finished
    for more, sentence in ((["--objective", "cee"], "does not take 'cee'"), (["--ratio", "0.9"], "can drop at most")):
        code, out, err = call(*words, *more, "--dry-run")
        assert (code, out) == (2, "")
        assert sentence in err


def test_a_saved_call_asks_for_the_dataset_that_is_there(
    finished: tuple[list[str | Path], dict], tmp_path: Path
) -> None:
    """How its samples were drawn is not said again: the call that was saved had not said it either."""
    words, _ = finished
    unnamed = [word for word in words if word not in ("--data", "demo", "--max-samples", "160")]
    file = tmp_path / "run.yaml"
    code, _, err = call(*unnamed, "--dry-run", "--save-config", file)
    assert code == 0, err
    code, out, err = call("run", "--config", file, "--json")
    assert code == 0, err
    assert json.loads(out)["skipped"] == STEPS
    again = tmp_path / "record.json"
    again.write_text(json.dumps(json.loads(out)["options"]))
    assert look_ahead("run", "--config", again)["prepare"] == ("skip", ["the workspace's dataset is taken"])


def test_anew_makes_everything_again_to_the_same_bytes(finished: tuple[list[str | Path], dict], tmp_path: Path) -> None:
    words, space = copy(finished, tmp_path)
    before = list_files(space)
    code, out, err = call(*words, "--anew")
    assert code == 0, err
    assert set(json.loads(out)["seconds"]) == set(STEPS)
    after = list_files(space)
    assert before.keys() == after.keys()
    timed = {"eval.json", "report.html", "export/README.md"}
    assert {name for name in before if before[name] != after[name]} <= timed


@pytest.mark.engines
@pytest.mark.soak
def test_a_run_in_two_processes_is_the_same(finished: tuple[list[str | Path], dict], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    words, record = finished
    space = Path(record["workspace"])
    words = [tmp_path / "space" if word == space else word for word in words]
    command = [sys.executable, "-m", "interlace_cli", *map(str, words), "--processes", "2", "--no-speed"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert [step for line in said if (step := line.split(":")[0]) in STEPS] == STEPS
    assert len(said) == len(set(said)), "one process speaks"
    again = json.loads(done.stdout)
    assert again["plan"] == record["plan"]
    assert again["options"]["processes"] == 2
    for name in ("analysis.json", "analysis.safetensors", "plan.json"):
        assert (tmp_path / "space" / name).read_bytes() == (space / name).read_bytes()
    ours, theirs = (load_file(where / "healed/model.safetensors") for where in (tmp_path / "space", space))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=0)
    code, out, err = call(*words, "--no-speed")
    assert code == 0, err
    assert json.loads(out)["skipped"] == STEPS, "how many processes made it does not count"


def test_what_is_exported_is_pushed_whether_it_was_there_or_not(
    finished: tuple[list[str | Path], dict], tmp_path: Path
) -> None:
    words, space = copy(finished, tmp_path)
    hub = Hub({})

    def push(*more: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "interlace_cli", *map(str, words), "--push-to-hub", "someone/short", *more]
        environment = {**hub.environment(tmp_path / "home"), "HF_TOKEN": "hf_abcdefghijklmnop"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        return done.returncode, done.stdout, done.stderr

    code, _, err = push()
    assert code == 1
    assert "name was not set, and is someone/short now" in " ".join(err.split())
    assert not hub.uploads
    code, out, err = push("--force")
    assert code == 0, err
    assert list(json.loads(out)["seconds"]) == ["export"]
    assert "| vLLM | not tried | `vllm serve someone/short` |" in (space / "export/README.md").read_text()
    whole = {name: data for name, data in hub.uploads.items() if name != ".gitattributes"}
    assert whole == list_files(space / "export")
    hub.uploads.clear()
    code, out, err = push()
    assert code == 0, err
    assert json.loads(out)["skipped"] == STEPS
    assert "pushed to" in err
    assert {name: data for name, data in hub.uploads.items() if name != ".gitattributes"} == whole


def test_the_exported_folder_is_a_plain_checkpoint_with_a_card(finished: tuple[list[str | Path], dict]) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from interlace_cli.demo.world import build_picture, draw

    folder = Path(finished[1]["export"])
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| healed | 6 |" in card
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "interlace.json"} <= names
    # The card's own snippet, run as it stands.
    snippet = card.split("```python\n")[1].split("```")[0]
    picture = folder.parent / "picture.png"
    draw(build_picture("shapes", random.Random(0))).save(picture)
    name = snippet.split('path = "')[1].split('"')[0]
    code = snippet.replace(f'"{name}"', repr(str(folder))).replace('"picture.png"', repr(str(picture)))
    scope: dict = {}
    exec(code, scope)
    assert isinstance(scope["model"], torch.nn.Module)
    assert AutoModelForImageTextToText is scope["AutoModelForImageTextToText"]
    assert AutoProcessor is scope["AutoProcessor"]
