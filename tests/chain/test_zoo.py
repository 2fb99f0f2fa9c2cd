"""Every step on every architecture. What works, and why the rest does not, is the table in .github/architectures.md:
each row is made by this test, and compared with it. `INTERLACE_WRITE_GOLDEN=1` writes it anew."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import zoo
from zoo_chain import STEPS, Chain, build_processor, describe, make_zoo_dataset

from interlace_cli.families.architectures import ARCHITECTURES, LANGUAGE_MODELS

UNKNOWN = f"{'| ' * (len(STEPS) + 1)}not run: a package that it needs was missing |"
TABLE = Path(__file__).parents[2] / ".github" / "architectures.md"


TITLES = {"architecture": ARCHITECTURES, "language model": LANGUAGE_MODELS}
"""First column of a table -> the names in it."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Whether it has pictures -> the dataset."""
    root = tmp_path_factory.mktemp("zoo")
    return {kind: make_zoo_dataset(root / str(kind), kind) for kind in (False, True)}


@pytest.mark.zoo
@pytest.mark.parametrize("name", [*zoo.NAMES, *zoo.TEXT_NAMES])
def test_every_step_does_what_the_table_says(
    name: str, datasets: dict[bool, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(name, tmp_path, datasets[name in ARCHITECTURES])
    config = chain.save_model()

    def load(*words: object) -> Any:
        return build_processor(name, config)

    monkeypatch.setattr("interlace_cli.io.models.load_processor", load)
    monkeypatch.setattr("interlace_cli.evaluation.fidelity.load_processor", load)
    row = describe(chain.run())
    shutil.rmtree(tmp_path)
    if os.environ.get("INTERLACE_WRITE_GOLDEN"):
        write_row(name, row)
    assert read_rows().get(name) == row


def test_the_tables_have_every_architecture() -> None:
    """Also those whose packages are missing here."""
    assert list(read_rows()) == [name for names in TITLES.values() for name in sort_names(names)]
    for title in TITLES:
        header = TABLE.read_text().split(f"\n| {title} | ", 1)[1].split(" | why not |", 1)[0]
        assert tuple(header.split(" | ")) == STEPS


def read_rows() -> dict[str, str]:
    """Architecture -> its row without the name."""
    rows = {}
    for line in TABLE.read_text().splitlines():
        first, _, rest = line.removeprefix("| ").partition(" | ")
        if line.startswith("| ") and first.endswith("`)"):
            rows[first.rpartition("(`")[2].removesuffix("`)")] = f"| {rest}"
    return rows


def write_row(name: str, row: str) -> None:
    text = TABLE.read_text()
    rows = {**read_rows(), name: row}
    lines = [text[: text.index("| architecture |")].rstrip()]
    for title, names in TITLES.items():
        lines += ["", f"| {title} | {' | '.join(STEPS)} | why not |", "|---" * (len(STEPS) + 2) + "|"]
        lines += [f"| {names[one]} (`{one}`) {rows.get(one, UNKNOWN)}" for one in sort_names(names)]
    TABLE.write_text("\n".join(lines) + "\n")


def sort_names(names: dict[str, str]) -> list[str]:
    """Types of models in the order of what people call them."""
    return sorted(names, key=lambda name: names[name].lower())
