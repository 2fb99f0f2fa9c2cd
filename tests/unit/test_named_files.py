"""Files that a call names itself: none of other content is lost without --force."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.errors import ExistsError
from interlace_cli.io.files import write_named


def test_the_same_content_may_be_written_again_and_other_content_with_force(tmp_path: Path) -> None:
    path = tmp_path / "notes.svg"
    write_named(path, b"one", force=False)
    write_named(path, b"one", force=False)
    with pytest.raises(ExistsError, match="exists already, with other content"):
        write_named(path, b"two", force=False)
    assert path.read_bytes() == b"one"
    write_named(path, b"two", force=True)
    assert path.read_bytes() == b"two"


@pytest.mark.parametrize("name", ["call.yaml", "call.toml", "roles.svg"])
def test_a_plan_replaces_no_file_of_ones_own(name: str, tmp_path: Path) -> None:
    own = tmp_path / name
    own.write_text("mine")
    option = "--figure" if name.endswith(".svg") else "--save-config"
    words = [
        "plan",
        "--model",
        "demo",
        "--drop",
        "2",
        "--strategy",
        "random",
        option,
        str(own),
        "-w",
        str(tmp_path / "w"),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert f"{own} exists already, with other content." in " ".join(done.stderr.split())
    assert own.read_text() == "mine"
    assert CliRunner().invoke(app, [*words, "--force"]).exit_code == 0
    assert own.read_text() != "mine"


def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    space, own = tmp_path / "w", tmp_path / "page.html"
    words = ["plan", "--model", "demo", "--drop", "2", "--strategy", "random", "-w", str(space)]
    assert CliRunner().invoke(app, words).exit_code == 0
    report = ["report", "-w", str(space), "--out", str(own)]
    own.write_text("<html>mine</html>")
    refused = CliRunner().invoke(app, report)
    assert refused.exit_code == 1
    assert "is no report of interlace" in " ".join(refused.stderr.split())
    assert own.read_text() == "<html>mine</html>"
    assert CliRunner().invoke(app, [*report, "--force"]).exit_code == 0
    assert CliRunner().invoke(app, report).exit_code == 0, "a report is made anew freely"
