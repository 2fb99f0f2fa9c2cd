"""Every step on every architecture. What works, and why the rest does not, is the table in .github/architectures.md:
each row is made by this test, and compared with it. `INTERLACE_WRITE_GOLDEN=1` writes it anew."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import zoo
from zoo_chain import STEPS, Chain, ZooProcessor, describe, make_zoo_dataset

from interlace_cli.families.architectures import ARCHITECTURES, NEEDS
from interlace_cli.io.models import import_transformers

UNKNOWN = f"{'| ' * (len(STEPS) + 1)}not run: a package that it needs was missing |"
TABLE = Path(__file__).parents[2] / ".github" / "architectures.md"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_zoo_dataset(tmp_path_factory.mktemp("zoo"))


@pytest.mark.zoo
@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_step_does_what_the_table_says(
    name: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    if name not in import_transformers().CONFIG_MAPPING:
        pytest.skip("this transformers does not have it")
    chain = Chain(name, tmp_path, dataset)
    config = chain.save_model()

    def load(*words: object) -> ZooProcessor:
        return ZooProcessor(name, config)

    monkeypatch.setattr("interlace_cli.io.models.load_processor", load)
    monkeypatch.setattr("interlace_cli.evaluation.fidelity.load_processor", load)
    row = describe(chain.run())
    shutil.rmtree(tmp_path)
    if os.environ.get("INTERLACE_WRITE_GOLDEN"):
        write_row(name, row)
    assert read_rows().get(name) == row


def test_the_table_has_every_architecture() -> None:
    """Also those whose packages are missing here."""
    assert list(read_rows()) == sorted(ARCHITECTURES, key=lambda name: ARCHITECTURES[name].lower())
    header = TABLE.read_text().split("\n| architecture | ", 1)[1].split(" | why not |", 1)[0]
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
    rows = {**dict.fromkeys(ARCHITECTURES, UNKNOWN), **read_rows(), name: row}
    head = text[: text.index("| architecture |")]
    lines = [f"| architecture | {' | '.join(STEPS)} | why not |", "|---" * (len(STEPS) + 2) + "|"]
    order = sorted(ARCHITECTURES, key=lambda one: ARCHITECTURES[one].lower())
    TABLE.write_text(
        head + "\n".join([*lines, *(f"| {ARCHITECTURES[one]} (`{one}`) {rows[one]}" for one in order)]) + "\n"
    )
