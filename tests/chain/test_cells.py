"""A comparison's cells: none is taken for another, and every one that can be is taken again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from tiny import save_chain_model
from workspaces import copy, list_files, refuse, succeed, to_words, write_source

pytestmark = pytest.mark.long

GRID = {"strategies": "random", "ratios": "0.13", "baselines": "wanda"}
RECIPE = {"epochs": "1", "lr": "1e-3", "heal-batch-size": "4", "grad-accum": "1"}
CELLS = {"dense", "wanda", "pruned", "healed"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a vision tower from which layers can go, too."""
    folder = tmp_path_factory.mktemp("towered") / "towered"
    save_chain_model(folder, tower=6)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a dataset: 6 of 20 samples are held out."""
    space = tmp_path_factory.mktemp("cells") / "w"
    data = write_source(space.parent / "alice", count=20)
    succeed("prepare", data, "--holdout", "0.3", "--calibration", "0.3", "-w", space)
    return space


def build(model: Path, space: Path, **options: object) -> list[object]:
    given = {**GRID, **RECIPE, **{name.replace("_", "-"): value for name, value in options.items()}}
    return ["compare", model, *to_words(given), "--no-speed", "-w", space, "--json"]


@pytest.fixture(scope="module")
def compared(model: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first comparison, of the language model's layers."""
    space = copy(prepared, tmp_path_factory.mktemp("compared") / "w")
    succeed(*build(model, space))
    return space


@pytest.fixture
def space(compared: Path, tmp_path: Path) -> Path:
    return copy(compared, tmp_path / "w")


def list_cells(space: Path) -> dict[str, bytes]:
    """File -> content."""
    return {path.name: path.read_bytes() for path in (space / "compare").glob("*.json")}


def compare(words: list[object], space: Path) -> tuple[set[str], dict[str, float]]:
    """The stages whose cells were made, the others being what they were; and method -> loss of each row."""
    before = list_cells(space)
    done = succeed(*words)
    after = list_cells(space)
    assert {name: after[name] for name in before} == before, "what is there stays as it is"
    total, found = map(int, re.findall(r"(\d+) cells, (\d+) of them are there", done.said)[-1])
    files = after.keys() - before.keys()
    assert len(files) == total - found
    new = {name.partition("-")[0] for name in files}
    rows = {f"{row['method']}, healed" if row["is_healed"] else row["method"]: row for row in done.json["rows"]}
    return new, {name: row["loss"] for name, row in rows.items()}


# Layers of other stacks


def test_cells_of_two_stacks_are_not_mixed_up(model: Path, prepared: Path, tmp_path: Path) -> None:
    """Of both stacks the layer of one index goes, and that of another is tuned."""
    space, fresh = copy(prepared, tmp_path / "w"), copy(prepared, tmp_path / "fresh")
    vision = build(model, space, stack="vision", ratios="0.17", protect="0-2,5")
    language = {"protect": "0-2,5-7"}
    made, towers = compare(vision, space)
    assert made == CELLS
    chosen = [(row["dropped"], row["tuned"]) for row in index_rows(space).values()]
    before = list_files(space)
    sentence = refuse(*build(model, space, **language))
    assert "stack was vision, and is language now" in sentence
    assert list_files(space) == before
    made, found = compare([*build(model, space, **language), "--force"], space)
    assert [(row["dropped"], row["tuned"]) for row in index_rows(space).values()] == chosen, "else this shows nothing"
    assert made == {"pruned", "healed"}, "dense and wanda are the same whatever layers go"
    made, alone = compare(build(model, fresh, **language), fresh)
    assert found == alone, "as if there had been no other"
    assert found["random"] != towers["random"]
    made, again = compare([*vision, "--force"], space)
    assert (made, again) == (set(), towers), "and all of the first are there still"


# Other options


OPTIONS: dict[str, tuple[str, set[str]]] = {
    "epochs": ("2", {"healed"}),
    "lr": ("2e-3", {"healed"}),
    "heal-batch-size": ("2", {"healed"}),
    "grad-accum": ("2", {"healed"}),
    "warmup": ("0.5", {"healed"}),
    "max-length": ("100", {"healed"}),
    "heal-min-pixels": ("1000", {"healed"}),
    "heal-max-pixels": ("1000", {"healed"}),
    "objective": ("distill+anchor", {"healed"}),
    "distill-weight": ("0.7", {"healed"}),
    "anchor-weight": ("0.7", {"healed"}),
    "local-share": ("0.7", {"healed"}),
    "optim": ("sgd", {"healed"}),
    "seeds": ("1", {"healed"}),
    "eval-samples": ("3", CELLS),
    "eval-batch-size": ("2", CELLS),
    "eval-min-pixels": ("100", CELLS),
    "eval-max-pixels": ("1024", CELLS),
    "max-new-tokens": ("2", CELLS),
    "dtype": ("bfloat16", CELLS),
    "attn": ("eager", CELLS),
    "compensation-samples": ("1", {"wanda"}),
    "calibration-batch-size": ("1", {"wanda"}),
    "sparsity": ("1:4", {"wanda"}),
    "compensate": ("linear", {"pruned", "healed"}),
    "engine": ("ddp", set()),
    "processes": ("2", set()),
    "save-every": ("3", set()),
    "report-to": ("tensorboard", set()),
    "gradient-checkpointing": ("true", set()),
    "importance": ("taylor", set()),
    "keep": ("true", set()),
    "threads": ("1", set()),
}
"""Option -> a value, and the stages whose figures it may change."""


def name_cells(model: Path, space: Path, **options: str) -> dict[str, str]:
    """Stage -> file of its cell; nothing is made."""
    from interlace_cli.core.cells import Method, open_grid
    from interlace_cli.core.run import compose_options
    from interlace_cli.domain.progress import Silent
    from interlace_cli.options import CompareOptions, PlanOptions

    given = {**GRID, **RECIPE, **{name.replace("_", "-"): value for name, value in options.items()}}
    made = compose_options(CompareOptions, {**given, "model": model, "workspace": space})
    methods = [Method("random", 0.13, PlanOptions(strategy="random", ratio=0.13))]
    cells = open_grid(made, methods, Silent())
    cells.decide_plans()
    return {job.stage: job.file for line in cells.list_lines() for job in line.jobs}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_cell_is_named_after_all_that_may_change_its_figures(option: str, model: Path, compared: Path) -> None:
    value, stages = OPTIONS[option]
    first, other = name_cells(model, compared), name_cells(model, compared, **{option: value})
    assert set(first.values()) == set(list_cells(compared))
    assert {stage for stage in CELLS if first[stage] != other[stage]} == stages


@pytest.mark.parametrize("option", ["epochs", "eval-max-pixels", "dtype", "compensation-samples"])
def test_a_cell_is_taken_again_where_nothing_it_depends_on_is_another(option: str, model: Path, space: Path) -> None:
    value, stages = OPTIONS[option]
    words = build(model, space, **{option: value})
    before = list_files(space)
    assert "exists already" in refuse(*words)
    assert list_files(space) == before
    first = {name: row["loss"] for name, row in index_rows(space).items()}
    new, found = compare([*words, "--force"], space)
    assert new == stages
    changed = {name for name in first if found[name] != first[name]}
    assert changed, "else this test shows nothing"
    assert stages == CELLS or not changed & {"dense", "random"}
    new, again = compare([*build(model, space), "--force"], space)
    assert (new, again) == (set(), first), "all that was there is there again"


def index_rows(space: Path) -> dict[str, dict[str, float]]:
    rows = json.loads((space / "compare.json").read_text())["rows"]
    return {f"{row['method']}, healed" if row["is_healed"] else row["method"]: row for row in rows}


def test_a_table_grows_without_force(model: Path, space: Path) -> None:
    first = index_rows(space)
    more = {"seeds": "0,1", "strategies": "random,shortgpt", "baselines": "wanda,magnitude"}
    made, _ = compare(build(model, space, **more), space)
    assert made >= {"healed", "magnitude"}
    assert not made & {"dense", "wanda"}
    grown = index_rows(space)
    assert grown["wanda 2:4"]["loss"] == first["wanda 2:4"]["loss"]
    assert {"magnitude 2:4", "shortgpt"} <= grown.keys()


def test_anew_makes_every_cell_again(model: Path, space: Path) -> None:
    before, written = list_cells(space), list_times(space)
    done = succeed(*build(model, space), "--anew")
    assert "4 cells, 0 of them are there" in done.said
    after = list_cells(space)
    assert after.keys() == before.keys()
    for name in before:
        was, now = json.loads(before[name]), json.loads(after[name])
        assert (now["loss"], now["points"]) == (was["loss"], was["points"])
    assert not written & list_times(space), "each file was written again"


def list_times(space: Path) -> set[tuple[str, int]]:
    """Name and time (ns) of each cell's file."""
    return {(file.name, file.stat().st_mtime_ns) for file in (space / "compare").glob("*.json")}


def test_a_cell_that_is_gone_or_broken_is_made_again(model: Path, space: Path) -> None:
    first = index_rows(space)
    cells = sorted((space / "compare").glob("*.json"))
    cells[0].unlink()
    cells[1].write_text("{")
    done = succeed(*build(model, space))
    assert "4 cells, 2 of them are there" in done.said
    assert {name: row["loss"] for name, row in index_rows(space).items()} == {
        name: row["loss"] for name, row in first.items()
    }


# Other models and samples


def test_no_cell_is_of_another_model_or_dataset(model: Path, space: Path, tmp_path: Path) -> None:
    other = copy(model, tmp_path / "towered")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("{%", "A question: {%", 1))
    refuse(*build(other, space))
    made, _ = compare([*build(other, space), "--force"], space)
    assert made == CELLS
    bob = write_source(tmp_path / "bob", count=20, seed=7)
    words = build(model, space, data=bob, holdout="0.3")
    before = list_files(space)
    refuse(*words)
    assert list_files(space) == before
    made, _ = compare([*words, "--force"], space)
    assert made == CELLS
    shutil.rmtree(space)
