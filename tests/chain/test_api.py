"""The Python API: the same records, artifacts and errors as the command line, with progress by callback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from workspaces import STEPS, Own, copy, list_files, put_in_cache, succeed

import interlace_cli as interlace
from interlace_cli.domain.progress import Advance
from interlace_cli.errors import ExistsError, MissingInputError, UsageError

REVISION = "3" * 40


class Listener:
    """Keeps what it is told: tasks with the work that was done of them, lines, and steps."""

    def __init__(self) -> None:
        self.tasks: dict[str, float] = {}
        self.totals: dict[str, float] = {}
        self.lines: list[str] = []
        self.steps: list[tuple[str, str]] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Advance]:
        assert unit
        self.tasks.setdefault(description, 0)
        self.totals[description] = total

        def advance(done: float = 1, note: str = "") -> None:
            del note
            self.tasks[description] += done

        yield advance

    def on_step(self, step: str, state: str, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append((step, state))


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Listener]:
    """The demo's chain, step by step, and what each returned."""
    space, listener = tmp_path_factory.mktemp("api") / "w", Listener()
    common: dict[str, Any] = {"workspace": space, "progress": listener}
    made: dict[str, Any] = {}
    made["prepare"] = interlace.prepare(source="demo", max_samples=60, holdout=0.2, calibration=0.2, **common)
    made["analyze"] = interlace.analyze(model="demo", **common)
    made["plan"] = interlace.plan(ratio=0.25, **common)
    made["prune"] = interlace.prune(**common)
    recipe = {"lr": 5e-4, "epochs": 2, "batch_size": 32, "grad_accum": 1}
    made["finetune"] = interlace.finetune(**recipe, **common)
    made["eval"] = interlace.evaluate(speed=False, **common)
    made["export"] = interlace.export(**common)
    return space, made, listener


def test_each_step_returns_what_it_has_written(chained: tuple[Path, dict[str, Any], Listener]) -> None:
    space, made, _ = chained
    files = {
        "prepare": "dataset/manifest.json",
        "analyze": "analysis.json",
        "plan": "plan.json",
        "eval": "eval.json",
        "prune": "pruned/interlace.json",
        "finetune": "healed/interlace.json",
        "export": "export/interlace.json",
    }
    for step, name in files.items():
        record = made[step].checkpoint if step == "prune" else made[step]
        written = json.loads((space / name).read_text())
        assert written["kind"] == record.kind
        assert written["inputs"] == record.inputs
        assert written["created_by"] == record.created_by.model_dump()
    assert sum(facts.samples for facts in made["prepare"].splits.values()) == 60
    assert len(made["plan"].drop) == 4
    assert made["prune"].checkpoint.dropped == made["finetune"].dropped == made["plan"].drop
    assert [result.layers for result in made["eval"].results] == [16, 12, 12]
    assert made["finetune"].healing.last_loss < made["finetune"].healing.first_loss


def test_progress_is_told(chained: tuple[Path, dict[str, Any], Listener]) -> None:
    listener = chained[2]
    wanted = {"prepare", "analyze", "prune", "eval dense", "eval pruned", "eval healed"}
    assert wanted < listener.tasks.keys()
    for task in wanted:
        assert listener.tasks[task] == listener.totals[task] > 0, task
    healing = listener.tasks.keys() - wanted
    assert healing, "so is healing's"
    assert all(listener.tasks[task] > 0 for task in healing)


def test_a_run_finds_all_of_it_up_to_date(chained: tuple[Path, dict[str, Any], Listener]) -> None:
    space, made, _ = chained
    listener = Listener()
    record = interlace.run(workspace=space, speed=False, progress=listener, on_step=listener.on_step)
    assert record.skipped == list(STEPS)
    assert listener.steps == [(step, "skipped") for step in STEPS]
    assert (record.model, record.plan.drop) == ("interlace demo", made["plan"].drop)
    assert record.healed.score == made["eval"].results[2].score
    # And so does the command line.
    assert succeed("run", "--no-speed", "-w", space, "--json").json["skipped"] == list(STEPS)


def test_a_run_of_its_own_tells_its_steps(own: Own, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    space, listener = copy(own.space, tmp_path / "w"), Listener()
    shutil.rmtree(space / "healed")
    given = {"lr": 1e-3, "heal_batch_size": 8, "grad_accum": 1, "holdout": 0.3, "calibration": 0.25}
    given |= {"ratio": 0.25, "triplet_selection": "optimal", "speed": False, "data": str(own.data)}
    record = interlace.run(workspace=space, progress=listener, on_step=listener.on_step, **given)
    assert set(record.seconds) == {"finetune"}
    done = [(step, state) for step in STEPS for state in (["running", "done"] if step == "finetune" else ["skipped"])]
    assert listener.steps == done
    assert sum(listener.tasks.values()) > 0
    captured = capfd.readouterr()
    assert captured.out == "", "a program's stdout is its own"


@pytest.mark.long
def test_a_comparison(chained: tuple[Path, dict[str, Any], Listener], tmp_path: Path) -> None:
    space, listener = copy(chained[0], tmp_path / "w"), Listener()
    grid: dict[str, Any] = {"strategies": ["random", "shortgpt"], "ratios": 0.13, "baselines": (), "epochs": 1}
    found = interlace.compare(workspace=space, speed=False, progress=listener, on_step=listener.on_step, **grid)
    assert (found.rows[0].method, found.rows[0].is_healed) == ("dense", False)
    assert {row.method for row in found.rows} == {"dense", "random", "shortgpt"}
    assert listener.steps == [("prepare", "skipped"), ("analyze", "skipped")]
    assert any(line.endswith("0 of them are there") for line in listener.lines)
    assert json.loads((space / "compare.json").read_text())["samples"] == found.samples
    again = Listener()
    assert interlace.compare(workspace=space, speed=False, progress=again, **grid) == found
    assert not [task for task in again.tasks if task.startswith("eval")]


# Options


def test_options_are_records_too(own: Own, tmp_path: Path) -> None:
    space = copy(own.space, tmp_path / "w")
    options = interlace.options.PlanOptions(ratio=0.25, selection="optimal", workspace=space)
    assert interlace.plan(options).drop == [3, 5]
    changed = interlace.plan(options, selection="greedy", ratio=0.13, dry_run=True)
    assert len(changed.drop) == 1
    assert interlace.plan(ratio="0.25", triplet_selection="optimal", workspace=str(space)).drop == [3, 5]


def test_a_record_of_a_run_is_taken_as_it_is(own: Own, tmp_path: Path) -> None:
    from interlace_cli import options

    space = copy(own.space, tmp_path / "w")
    record = options.RunOptions(
        model=str(own.model),
        data=str(own.data),
        prepare=options.PrepareOptions(holdout=0.3, calibration=0.25),
        plan=options.PlanOptions(ratio=0.25, selection="optimal"),
        finetune=options.FinetuneOptions(lr=1e-3, batch_size=8, grad_accum=1),
        evaluate=options.EvaluateOptions(speed=False),
        workspace=space,
    )
    assert interlace.run(record).skipped == list(STEPS)
    with pytest.raises(ExistsError, match=r"lr was 0\.001, and is 0\.002 now"):
        interlace.run(record, lr=2e-3)


def test_what_one_step_of_a_record_is_told_is_not_lost(own: Own) -> None:
    from interlace_cli.options import AnalyzeOptions, CompareOptions, FinetuneOptions, PrepareOptions, RunOptions

    before = list_files(own.space)
    with pytest.raises(UsageError, match="run has one seed for all of its steps, and its finetune has 3"):
        interlace.run(RunOptions(finetune=FinetuneOptions(seed=3), workspace=own.space))
    with pytest.raises(UsageError, match="compare has one device for all of its steps"):
        interlace.compare(CompareOptions(analyze=AnalyzeOptions(device="cuda"), workspace=own.space))
    with pytest.raises(UsageError, match="run has no option out of its step prepare"):
        interlace.run(RunOptions(prepare=PrepareOptions(out=Path("x")), workspace=own.space))
    # What is said beside the record holds for all steps.
    with pytest.raises(ExistsError, match="seed was 0, and is 4 now"):
        interlace.run(RunOptions(finetune=FinetuneOptions(seed=3), workspace=own.space), seed=4, data=own.data)
    assert list_files(own.space) == before


# Errors


def test_errors_say_what_to_do_and_print_nothing(own: Own, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    empty, space = tmp_path / "none", copy(own.space, tmp_path / "w")
    before = list_files(space)
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: interlace.plan(rato=0.25, workspace=space), UsageError, "there is no option 'rato'. Did you mean"),
        (lambda: interlace.plan(ratio=2, workspace=space), UsageError, "--ratio 2 is not between 0 and 1"),
        (lambda: interlace.plan(ratio=None, workspace=space), UsageError, "--ratio"),
        (lambda: interlace.prune(workspace=empty), MissingInputError, "Run `interlace plan` first"),
        (lambda: interlace.prepare(source="no/where.json", workspace=empty), interlace.InterlaceError, "no/where.json"),
        (lambda: interlace.finetune(device="cuda", force=True, workspace=space), UsageError, "--device cuda cannot"),
        (lambda: interlace.prepare(source=own.data, workspace=space), ExistsError, "exists already .from vqa.json"),
        (lambda: interlace.run(model="demo", workspace=space), ExistsError, "exists already"),
        (lambda: interlace.run(workspace=space, lr=9, data=own.data), ExistsError, "exists already"),
    ]
    for function, kind, said in cases:
        with pytest.raises(kind, match=said) as caught:
            function()
        assert isinstance(caught.value, interlace.InterlaceError)
        assert caught.value.what
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert list_files(space) == before
    assert not empty.exists()


# torch, and models of the Hub


def run_script(code: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )


def test_importing_it_loads_nothing_heavy(own: Own) -> None:
    code = """
import sys
import interlace_cli as interlace
heavy = {"torch", "transformers", "numpy", "pydantic", "datasets", "PIL"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
for name in interlace.__all__:
    assert getattr(interlace, name) is not None
assert not {"torch", "transformers", "datasets"} & sys.modules.keys()
plan = interlace.plan(workspace=sys.argv[1], ratio=0.13, dry_run=True)
assert len(plan.drop) == 1
assert not {"torch", "transformers", "datasets"} & sys.modules.keys(), "deciding needs no torch"
"""
    done = run_script(code, own.space)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_every_function_is_documented() -> None:
    functions = ("prepare", "analyze", "plan", "prune", "finetune", "evaluate", "export", "run", "compare")
    for name in functions:
        assert name in interlace.__all__
        assert "Options" in getattr(interlace, name).__doc__ or name == "run"
        assert set(getattr(interlace, name).__annotations__) >= {"options", "progress", "return"}
    with pytest.raises(AttributeError):
        interlace.nothing  # noqa: B018


@pytest.mark.long
def test_a_model_in_the_hubs_cache_is_pruned_at_its_commit(own: Own, tmp_path: Path) -> None:
    """Offline, through links into blobs, pinned by revision; the branch leads to the same commit."""
    home = tmp_path / "home"
    put_in_cache(own.model, home / "hub", "someone/tiny", REVISION)
    code = """
import json, sys
import interlace_cli as interlace
from pathlib import Path

found, root = {}, Path(sys.argv[2])
for name, location in {"pinned": f"someone/tiny@{sys.argv[1]}", "branch": "someone/tiny"}.items():
    made = interlace.prune(model=location, drop_layers="3,5", out=root / name, workspace=root / "w").checkpoint
    found[name] = [made.base.location, made.base.name, made.base.revision, made.base.pinned, made.dropped]
for location in ("someone/tiny@other", "someone/none"):
    try:
        interlace.prune(model=location, drop_layers="3,5", out=root / "x", workspace=root / "w")
    except interlace.InterlaceError as error:
        found[location] = str(error)
assert "torch" not in sys.modules, "surgery builds no model"
print(json.dumps(found))
"""
    environment = {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    done = run_script(code, REVISION, tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    pinned = f"someone/tiny@{REVISION}"
    assert found["pinned"] == [pinned, "someone/tiny", REVISION, pinned, [3, 5]]
    assert found["branch"] == ["someone/tiny", "someone/tiny", REVISION, pinned, [3, 5]]
    assert "and HF_HUB_OFFLINE=1 keeps the Hub from being asked" in found["someone/none"]
    assert "someone/tiny" in found["someone/tiny@other"]
    interlace.prune(model=own.model, drop_layers=(3, 5), out=tmp_path / "local", workspace=tmp_path / "v")
    for name in ("pinned", "branch"):
        for file in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "local" / file).read_bytes()
            assert not (tmp_path / name / file).is_symlink(), "a checkpoint of its own"
    assert not (tmp_path / "w").exists()
