"""`eval` in several processes, interrupted, gone on with in another number of them: the figures of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workspaces import call

from interlace_cli.core.evaluate import evaluate
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.progress import Silent
from interlace_cli.evaluation import quality
from interlace_cli.options import EvaluateOptions

SETTINGS: dict[str, Any] = {"samples": 14, "batch_size": 3, "max_new_tokens": 4, "device": "cpu"}
WORDS = ["--samples", "14", "--batch-size", "3", "--max-new-tokens", "4", "--device", "cpu", "--no-speed"]
BATCHES = 5


def build(models: tuple[Path, Path], dataset: Path, out: Path) -> EvaluateOptions:
    names = tuple(f"{name}={path}" for name, path in zip(("dense", "cut"), models, strict=True))
    return EvaluateOptions(checkpoints=names, dataset=dataset, out=out, workspace=out.parent, speed=False, **SETTINGS)


def check_same(found: Path, wanted: Path) -> None:
    """To the bit, the loss too."""
    assert json.loads(found.read_bytes())["results"] == json.loads(wanted.read_bytes())["results"]
    assert found.with_suffix(".safetensors").read_bytes() == wanted.with_suffix(".safetensors").read_bytes()
    left = {path.name for path in found.parent.iterdir()} - {found.name, found.with_suffix(".safetensors").name}
    assert not left, "no file of an unfinished evaluation is left"


@pytest.fixture(scope="module")
def models(chain_model: Path, pruned: Path) -> tuple[Path, Path]:
    return chain_model, pruned


@pytest.fixture(scope="module")
def whole(models: tuple[Path, Path], small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By one process, at once."""
    out = tmp_path_factory.mktemp("whole") / "e.json"
    evaluate(build(models, small_dataset, out), Silent())
    return out


def count_batches(monkeypatch: pytest.MonkeyPatch, most: int | None = None) -> list[int]:
    """One entry for each batch that is computed; Ctrl-C at the one after `most`."""
    compute, ran = quality.compute_loss, []

    def counted(*given: Any) -> tuple[float, int]:
        if most is not None and len(ran) == most:
            raise KeyboardInterrupt
        ran.append(1)
        return compute(*given)

    monkeypatch.setattr(quality, "compute_loss", counted)
    return ran


@pytest.mark.parametrize("most", [2, BATCHES + 4])
def test_one_process_goes_on_behind_the_last_batch(
    most: int,
    models: tuple[Path, Path],
    small_dataset: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = build(models, small_dataset, tmp_path / "e.json")
    with monkeypatch.context() as patch:
        count_batches(patch, most)
        with pytest.raises(KeyboardInterrupt):
            evaluate(options, Silent())
    assert not options.out.exists()  # type: ignore[union-attr]
    ran = count_batches(monkeypatch)
    evaluate(options, Silent())
    assert len(ran) == 2 * BATCHES - most
    check_same(tmp_path / "e.json", whole)


def test_a_checkpoint_is_named_in_the_call(whole: Path, models: tuple[Path, Path]) -> None:
    found = Evaluation.model_validate_json(whole.read_bytes())
    assert [result.name for result in found.results] == ["dense", "cut"]
    assert [result.location for result in found.results] == [str(model) for model in models]
    twice = call("eval", f"a={models[0]}", f"a={models[1]}", "-w", whole.parent / "none")
    assert twice.code == 2
    assert "two checkpoints are called a" in twice.sentence


KILL = """
import os, signal, sys
if os.environ.get("RANK") == "1" and "eval" in sys.argv:
    from interlace_cli.evaluation import quality
    compute, ran = quality.compute_loss, []
    def counted(*given):
        if len(ran) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ran.append(1)
        return compute(*given)
    quality.compute_loss = counted
"""
"""What a process of several begins with: the second is killed at its second batch."""


WATCH = """
import os
if os.environ.get("RANK") == "1":
    from interlace_cli.evaluation import speed
    def measure_speed(*given):
        raise AssertionError("the first process alone measures speed")
    speed.measure_speed = measure_speed
"""


def begin_with(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started from now on run this first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.engines
def test_two_processes_one_killed_and_then_one_process(
    models: tuple[Path, Path], small_dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "w" / "e.json"
    words = ["eval", f"dense={models[0]}", f"cut={models[1]}", "--dataset", small_dataset, "--out", out, *WORDS]
    with monkeypatch.context() as patch:
        begin_with(KILL, tmp_path / "site", patch)
        killed = call(*words, "-w", out.parent, "--processes", 2)
    assert killed.code == 1
    assert "SIGKILL" in killed.sentence
    saved = {path.name: path.read_bytes().count(b"\n") - 1 for path in out.parent.glob("*.jsonl")}
    assert saved["e.answers.1.jsonl"] == 1
    ran = count_batches(monkeypatch)
    done = call(*words, "-w", out.parent)
    assert done.code == 0, done.err
    assert "an earlier call has answered" in done.said
    assert len(ran) == 2 * BATCHES - sum(saved.values())
    check_same(out, whole)


@pytest.mark.engines
@pytest.mark.soak
def test_under_a_launcher_all_answer_and_the_first_times(
    models: tuple[Path, Path], small_dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun itself."""
    begin_with(WATCH, tmp_path / "site", monkeypatch)
    out = tmp_path / "w" / "e.json"
    words = ["eval", f"dense={models[0]}", f"cut={models[1]}", "--dataset", str(small_dataset), "--out", str(out)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "interlace_cli", *words, *WORDS[:-1], "--repeats", "1", "-w", str(out.parent), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = Evaluation.model_validate_json(done.stdout)
    assert all(result.speed is not None for result in found.results)
    one = Evaluation.model_validate_json(whole.read_bytes())
    alike = [result.model_copy(update={"speed": None}) for result in found.results]
    assert alike == one.results
    assert out.with_suffix(".safetensors").read_bytes() == whole.with_suffix(".safetensors").read_bytes()
    assert {path.name for path in out.parent.iterdir()} == {"e.json", "e.safetensors"}
