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
from tiny import save_llava_chain_model
from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.run_view import RunView

STEPS = ["prepare", "analyze", "plan", "prune", "finetune", "eval", "export"]


def call(*words: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def finished(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str | Path], dict]:
    """The words of the call and the record it printed."""
    space = tmp_path_factory.mktemp("run") / "space"
    words = ["run", chain_model, "--data", "demo", "--max-samples", "160", "--lr", "1e-3", "--ratio", "0.25"]
    words += ["-w", space, "--json"]
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
    code, out, err = call(*words, "--rank", "loss", "--weight", "chart=1", "--ratio", "0.25", "--json")
    assert code == 0, err
    analysis = json.loads((tmp_path / "analysis.json").read_text())
    assert analysis["loss"]["samples"] > 0
    assert {group["by"] for group in analysis["groups"]} == {"kind", "source"}
    record = json.loads(out)
    code, out, err = call(*words, "--strategy", "sleb", "--drop", "2", "--json")
    assert code == 0, err
    assert json.loads(out)["skipped"] == ["prepare", "analyze"], "the loss is measured once"
    assert json.loads(out)["plan"]["strategy"] == "sleb"
    assert record["plan"]["strategy"] == "interlace"


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
    with pytest.raises(KeyboardInterrupt):
        output.interrupt()
    with pytest.raises(KeyboardInterrupt), BarProgress().task("eval", 2, "samples") as advance:
        advance()
    with pytest.raises(KeyboardInterrupt):
        RunView(BarProgress()).on_step("eval", "done", 1.0)


def test_an_edited_plan_is_taken_by_the_later_steps(finished: tuple[list[str | Path], dict], tmp_path: Path) -> None:
    words, record = finished
    space = tmp_path / "space"
    shutil.copytree(record["workspace"], space)
    plan = json.loads((space / "plan.json").read_text())
    freed = plan["drop"][0]
    plan["roles"][freed] = "keep"
    for name in ("drop", "tune", "anchor", "summary", "layers"):
        del plan[name]
    (space / "plan.json").write_text(json.dumps(plan))
    changed = [space if word == Path(record["workspace"]) else word for word in words]
    code, out, err = call(*changed)
    assert code == 0, err
    again = json.loads(out)
    assert freed not in again["plan"]["drop"]
    assert again["pruned"]["layers"] == 7
    assert "plan" in again["skipped"]
    assert "prune" in again["seconds"]
    # Asking for another plan must not lose the edit.
    code, _, err = call(*changed, "--strategy", "random")
    assert code == 1
    assert "edited by hand" in err


def test_another_ratio_redoes_only_what_depends_on_it(finished: tuple[list[str | Path], dict], tmp_path: Path) -> None:
    words, record = finished
    space = tmp_path / "space"
    shutil.copytree(record["workspace"], space)
    changed = [space if word == Path(record["workspace"]) else word for word in words]
    code, out, err = call(*changed, "--drop", "1")
    assert code == 2
    assert "either --ratio or --drop" in err
    changed[changed.index("0.25")] = "0.13"
    code, out, err = call(*changed, "--no-speed")
    assert code == 0, err
    again = json.loads(out)
    assert set(again["skipped"]) == {"prepare", "analyze"}
    assert again["healed"]["layers"] == 7
    assert again["healed"]["ttft_ms"] is None


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
