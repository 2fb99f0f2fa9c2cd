"""`compare` from nothing to the table on the demo model, killed in the middle, and the table itself."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.domain.comparison import Cell
from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.statistics import find_deviation, find_interval, resample_retentions
from interlace_cli.evaluation.table import Measured, build_rows
from interlace_cli.io.artifacts import build_origin

pytestmark = pytest.mark.long

GRID = ["--strategies", "interlace,shortgpt,interlace/loss", "--ratios", "0.25,0.375", "--seeds", "0,1"]
SMALL = ["--max-samples", "160", "--epochs", "1", "--more-seeds-at", "0.25", "--no-speed"]


def call(*words: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A comparison that was killed in the middle, and went on."""
    space = tmp_path_factory.mktemp("compare") / "w"
    words = [str(word) for word in ("compare", "demo", *GRID, *SMALL, "-w", space, "--json")]
    process = subprocess.Popen([sys.executable, "-m", "interlace_cli", *words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(space.glob("compare/*.json"))) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    _, err = process.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in space.glob("compare/*.json")}
    assert 5 <= len(before) < 12, err
    code, out, err = call(*words)
    assert code == 0, err
    assert f"{len(before)} of them are there" in err
    kept = {path.name: path.stat().st_mtime_ns for path in space.glob("compare/*.json") if path.name in before}
    assert kept == before, "what was there was not made again"
    return space, json.loads(out)


def test_every_cell_of_the_grid_is_in_the_table(compared: tuple[Path, dict]) -> None:
    _, record = compared
    found = [(row["method"], row["ratio"], row["is_healed"], row["seeds"]) for row in record["rows"]]
    assert found[:4] == [
        ("dense", None, False, []),
        ("wanda 2:4", None, False, []),
        ("magnitude 2:4", None, False, []),
        ("dense-ft", None, True, [0, 1]),
    ]
    methods = ["interlace", "shortgpt", "interlace/loss"]
    quarter = [(name, 0.25, healed, [0, 1] if healed else []) for name in methods for healed in (False, True)]
    more = [("shortgpt", 0.375, healed, [0] if healed else []) for healed in (False, True)]
    assert sorted(found[4:]) == sorted(quarter + more)
    assert {(one["method"], one["ratio"]) for one in record["unreached"]} == {
        (name, 0.375) for name in ("interlace", "interlace/loss")
    }
    assert all(row["sparsity"] == 0.5 for row in record["rows"] if "2:4" in row["method"])
    assert all(len(row["dropped"]) == 16 * row["sparsity"] for row in record["rows"] if row["ratio"])
    assert record["rows"][0]["retention"] == 100.0
    assert record["rows"][3]["relative_dense_ft"] == 100.0


def test_what_drops_and_tunes_the_same_is_measured_once(compared: tuple[Path, dict]) -> None:
    space, record = compared
    cells = {path.name for path in space.glob("compare/*.json")}
    rows = [row for row in record["rows"] if row["ratio"] is not None]
    pruned = {tuple(row["dropped"]) for row in rows}
    healed = {(tuple(row["dropped"]), tuple(row["tuned"]), seed) for row in rows for seed in row["seeds"]}
    assert len([name for name in cells if name.startswith("pruned-")]) == len(pruned)
    assert len([name for name in cells if name.startswith("healed-")]) == len(healed)
    assert not (space / "compare/work").exists(), "checkpoints are gone when they are evaluated"
    assert not (space / "compare/checkpoints").exists()


def test_the_same_call_makes_nothing_and_the_same_table(compared: tuple[Path, dict]) -> None:
    space, record = compared
    before = {path: path.read_bytes() for path in space.glob("compare.*")}
    code, out, err = call("compare", "demo", *GRID, *SMALL, "-w", space, "--json")
    assert code == 0, err
    cells = len(list(space.glob("compare/*.json")))
    assert f"{cells} cells, {cells} of them are there" in err
    assert json.loads(out) == record
    assert {path: path.read_bytes() for path in space.glob("compare.*")} == before


def test_the_table_for_people_programs_and_pages(compared: tuple[Path, dict]) -> None:
    space, record = compared
    code, out, err = call("compare", "demo", *GRID, *SMALL, "-w", space)
    assert code == 0, err
    assert "keeps the most" in out
    assert "interlace at 37.5% was left out: interlace can drop" in out
    rows = list(csv.DictReader((space / "compare.csv").open()))
    assert [row["method"] for row in rows] == [row["method"] for row in record["rows"]]
    assert float(rows[5]["retention"]) == record["rows"][5]["retention"]
    page = (space / "compare.md").read_text()
    assert len([line for line in page.splitlines() if line.startswith("| ")]) == len(rows) + 1
    figure = ElementTree.parse(space / "compare.svg").getroot()
    assert figure.tag.endswith("svg")
    texts = [node.text for node in figure.iter() if node.tag.endswith("text")]
    assert {"interlace", "shortgpt", "25.0%", "37.5%"} <= set(texts)


def test_a_config_file_holds_the_grid(compared: tuple[Path, dict], tmp_path: Path) -> None:
    space, record = compared
    config = tmp_path / "grid.yaml"
    config.write_text(
        "model: demo\nmax-samples: 160\nepochs: 1\nmore_seeds_at: 0.25\n"
        "strategies: [interlace, shortgpt, interlace/loss]\nratios: [0.25, 0.375]\nseeds: [0, 1]\n"
    )
    code, out, err = call("compare", "--config", config, "--no-speed", "-w", space, "--json")
    assert code == 0, err
    assert json.loads(out) == record
    config.write_text("strategys: interlace\n")
    code, _, err = call("compare", "--config", config, "-w", tmp_path / "w")
    assert (code, "there is no option 'strategys'" in err) == (2, True)
    assert not (tmp_path / "w").exists()


def list_cells(space: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in space.glob("compare/*.json")}


def change(words: list[str], **options: str) -> list[str]:
    """With other values of these options, which are there or not."""
    changed = list(words)
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in changed:
            changed[changed.index(flag) + 1] = value
        else:
            changed += [flag, value]
    return changed


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ratios": "0.25"}, "it has rows of ratios 0.375"),
        ({"strategies": "interlace,random"}, "it has rows of strategies shortgpt, interlace/loss"),
        ({"seeds": "1"}, "it has rows of seeds 0"),
        ({"baselines": "wanda"}, "it has rows of baselines magnitude, dense-ft"),
        ({"objective": "anchor"}, "it has rows of objective ce"),
        ({"compensate": "linear"}, "it has rows of compensate none"),
        ({"more_seeds_at": "0.375"}, "more_seeds_at was 0.25, and is 0.375 now"),
        ({"lr": "1e-3"}, "lr was 0.0005, and is 0.001 now"),
        ({"heal_max_pixels": "40000"}, "heal_max_pixels was 50176, and is 40000 now"),
        ({"eval_max_pixels": "4096"}, "eval_max_pixels was not set, and is 4096 now"),
        ({"eval_samples": "10"}, "eval_samples was not set, and is 10 now"),
        ({"sparsity": "1:4"}, "sparsity was 2:4, and is 1:4 now"),
        ({"compensation_samples": "9"}, "compensation_samples was 128, and is 9 now"),
        ({"protect": "3"}, "protect was not set, and is 3 now"),
        ({"stack": "vision"}, "stack was language, and is vision now"),
        ({"tasks": "TASKS"}, "it was made from the held-out samples; it was made without task world"),
        ({"max_samples": "150"}, "max_samples was 160, and is 150 now"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_table_is_not_replaced_by_another_without_force(
    options: dict[str, str], reason: str, compared: tuple[Path, dict], tmp_path: Path
) -> None:
    space, _ = compared
    (tmp_path / "tasks.yaml").write_text("- {name: world, source: demo, samples: 5}\n")
    given = {name: str(tmp_path / "tasks.yaml") if value == "TASKS" else value for name, value in options.items()}
    before = {path: path.read_bytes() for path in space.rglob("*") if path.is_file()}
    code, out, err = call("compare", "demo", *change([*GRID, *SMALL], **given), "-w", space, "--json")
    assert (code, out) == (1, ""), err
    assert reason in " ".join(err.split())
    assert err.count("Error: ") == 1
    assert "--force" in err
    assert {path: path.read_bytes() for path in space.rglob("*") if path.is_file()} == before


def test_a_table_of_another_model_stays(compared: tuple[Path, dict], chain_model: Path) -> None:
    space, _ = compared
    before = {path: path.read_bytes() for path in space.glob("*.*")}
    code, _, err = call("compare", chain_model, *GRID, *SMALL, "-w", space)
    assert code == 1
    assert "compare.json exists already: it is of interlace demo. Add --force" in " ".join(err.split())
    assert {path: path.read_bytes() for path in space.glob("*.*")} == before


def test_a_table_grows_by_the_cells_that_are_not_there(compared: tuple[Path, dict], tmp_path: Path) -> None:
    space, record = compared
    shutil.copytree(space, tmp_path / "w")
    before = list_cells(tmp_path / "w")
    more = change([word for word in SMALL if word not in ("--more-seeds-at", "0.25")], baselines="magnitude")
    code, _, err = call("compare", *GRID, *more, "-w", tmp_path / "w")
    assert (code, "it has rows of baselines wanda, dense-ft" in err) == (1, True), err
    more = [word for word in SMALL if word not in ("--more-seeds-at", "0.25")]
    code, out, err = call("compare", *GRID, *more, "-w", tmp_path / "w", "--json")
    assert code == 0, err
    assert f"{len(before) + 1} cells, {len(before)} of them are there" in err
    after = list_cells(tmp_path / "w")
    assert {name: after[name] for name in before} == before
    (name,) = after.keys() - before.keys()
    assert name.startswith("healed-")
    assert name.endswith("-seed1.json")
    rows = json.loads(out)["rows"]
    assert len(rows) == len(record["rows"])
    assert {row["method"] for row in rows if row["ratio"] == 0.375 and row["seeds"] == [0, 1]} == {"shortgpt"}
    assert [row for row in rows if row["ratio"] != 0.375] == [row for row in record["rows"] if row["ratio"] != 0.375]


def test_another_table_keeps_the_cells_and_anew_makes_them_again(compared: tuple[Path, dict], tmp_path: Path) -> None:
    space, record = compared
    shutil.copytree(space, tmp_path / "w")
    before = list_cells(tmp_path / "w")
    small = change([*GRID, *SMALL], strategies="shortgpt", ratios="0.375", seeds="0", baselines="")
    small = ["compare", *small, "-w", str(tmp_path / "w"), "--json", "--force"]
    code, out, err = call(*small, "--lr", "1e-3", "--keep")
    assert code == 0, err
    assert "3 cells, 2 of them are there" in err
    after = list_cells(tmp_path / "w")
    assert {name: after[name] for name in before} == before
    (made,) = after.keys() - before.keys()
    (kept,) = (tmp_path / "w/compare/checkpoints").iterdir()
    assert made == f"{kept.name}.json"
    assert (kept / "model.safetensors").exists()
    assert not (tmp_path / "w/compare/work").exists()
    other = json.loads(out)["rows"]
    assert [(row["method"], row["is_healed"]) for row in other] == [
        ("dense", False),
        ("shortgpt", False),
        ("shortgpt", True),
    ]
    code, out, err = call("compare", *GRID, *SMALL, "-w", tmp_path / "w", "--json", "--force")
    assert code == 0, err
    assert f"{len(before)} cells, {len(before)} of them are there" in err
    assert json.loads(out) == record
    code, out, err = call(*small, "--anew")
    assert code == 0, err
    assert "3 cells, 0 of them are there" in err
    again = list_cells(tmp_path / "w")
    assert len([name for name in before if again[name] != before[name]]) == 3
    for name in before:
        old, new = (json.loads((where / "compare" / name).read_text()) for where in (space, tmp_path / "w"))
        assert old["points"] == new["points"], "as if it had not been made again"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--strategies", "best"], "there is no strategy 'best'"),
        (["--strategies", "interlace/fast"], "'fast' is no word of it"),
        (["--strategies", "sleb/optimal"], "--selection belongs to the strategy interlace, not to sleb"),
        (["--ratios", "0.25,1.5"], "is not between 0 and 1"),
        (["--ratios", "quarter"], "--ratios does not take"),
        (["--baselines", "sparsegpt"], "--baselines does not take"),
        (["--config", "nowhere.yaml"], "cannot read nowhere.yaml"),
    ],
)
def test_a_wrong_grid(words: list[str], sentence: str, tmp_path: Path) -> None:
    code, out, err = call("compare", *words, "-w", tmp_path / "w")
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.split())
    assert not (tmp_path / "w").exists()


def cell(hits: str, seed: int | None = None) -> Cell:
    return Cell(
        kind=Cell.KIND,
        schema_version=1,
        created_by=build_origin("test", {}),
        inputs={},
        name="",
        dropped=[],
        tuned=[],
        seed=seed,
        loss=1.0,
        points=[float(hit) for hit in hits],
        seconds=0.0,
    )


def sample(kind: str, source: str) -> Sample:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    return Sample.model_validate({"id": "", "image": [], "conversations": turns, "source": source, "kind": kind})


def test_rows_by_hand() -> None:
    samples = [sample("a", "one")] * 2 + [sample("b", "one")] * 2 + [sample("c", "two")] * 2
    rows = build_rows(
        [
            Measured("dense", None, 0.0, [cell("111110")], None),
            Measured("dense-ft", None, 0.0, [cell("111010", 0)], None),
            Measured("x", 0.5, 0.5, [cell("101010", 0), cell("111010", 1)], None),
            Measured("y", 0.5, 0.5, [cell("000000", 0)], None),
            Measured("x", 0.5, 0.5, [cell("100000")], None),
        ],
        samples,
        seed=0,
    )
    dense, tuned, x, y, raw = rows
    assert dense.score == pytest.approx((1 + 1 + 0.5) / 3)
    assert dense.families == {"one": 1.0, "two": 0.5}
    # x: kind a 0.5 and 1, b 0.5 and 0.5, c 0.5 and 0.5.
    assert x.score == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert x.retention == pytest.approx(100 * (0.75 + 0.5 + 1) / 3)
    assert x.score_deviation == pytest.approx(np.std([1.5 / 3, 2 / 3], ddof=1))
    assert x.relative_dense_ft == pytest.approx(100 * (0.75 + 1 + 1) / 3)
    assert tuned.relative_dense_ft == pytest.approx(100)
    assert (x.margin, x.is_within_noise) == (0, True)
    assert y.margin == pytest.approx(-(x.retention or 0))
    assert y.is_within_noise is False
    assert raw.margin is None, "alone among those that were not healed"


def naive_interval(correct: np.ndarray, dense: np.ndarray, kinds: list[str]) -> tuple[float, float]:
    """One resample after another, as the textbook has it."""
    rng, values = random.Random(2), []
    for _ in range(1000):
        ratios = []
        for kind in sorted(set(kinds)):
            members = [index for index, name in enumerate(kinds) if name == kind]
            drawn = rng.choices(members, k=len(members))
            ratios.append(sum(correct[drawn]) / sum(dense[drawn]))
        values.append(100 * sum(ratios) / len(ratios))
    values.sort()
    return values[25], values[974]


def test_the_bootstrap_is_paired_and_that_of_a_single_checkpoint() -> None:
    rng = np.random.default_rng(5)
    kinds = [f"k{i % 4}" for i in range(200)]
    dense = (rng.random(200) < 0.9).astype(float)
    other = np.where(rng.random(200) < 0.15, 0.0, dense)
    draws = resample_retentions([dense[None], other[None], other[None]], dense, kinds, seed=1)
    assert (draws[:, 0] == 100).all()
    assert (draws[:, 1] == draws[:, 2]).all(), "the same samples for all"
    assert find_interval(draws[:, 1]) == pytest.approx(naive_interval(other, dense, kinds), abs=1.0)
    seeds = np.stack([dense, np.zeros(200)])
    wide = resample_retentions([seeds], dense, kinds, seed=1)[:, 0]
    assert find_interval(wide) == (0, 100), "two seeds that differ so much say that much is not known"
    assert find_deviation([1.0]) is None
