"""The Hub's own library against a Hub on localhost: pinned commits, ranges instead of files, and going on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from finevision import make_card, make_image, make_row, write_subset
from hub import CONVERTED, SHA, Hub
from remote_forms import write_tables

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.io.artifacts import load_artifact

pytestmark = pytest.mark.long

REPO = "HuggingFaceM4/FineVision"
NAMES = ["chartqa", "geo170k(qa)", "yesbut"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subsets of 400 rows of about 4 kB in four files, 10 row groups each."""
    root = tmp_path_factory.mktemp("hub")
    for place, name in enumerate(NAMES):
        rows = [make_row(1000 * place + i) for i in range(400)]
        for number, row in enumerate(rows):
            row["images"][0]["bytes"] = make_image(1000 * place + number, 36)
        write_subset(root, name, rows, files=4)
    return root


@pytest.fixture
def hub(files: Path) -> Hub:
    card = make_card(NAMES, dict.fromkeys(NAMES, 400))
    return Hub({REPO: files, "someone/charts": files / "chartqa"}, {REPO: card})


def call(hub: Hub, folder: Path, *words: Any) -> subprocess.CompletedProcess[str]:
    return run(hub, folder, "prepare", *map(str, words), "-w", str(folder / "w"))


def run(hub: Hub, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "interlace_cli", *words]
    return subprocess.run(
        command, env=hub.environment(folder / "home"), capture_output=True, text=True, check=False, timeout=120
    )


def test_a_percent_is_drawn_by_ranges_at_a_pinned_commit(hub: Hub, files: Path, tmp_path: Path) -> None:
    planned = call(hub, tmp_path, "finevision", "--portion", "0.04", "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    announced = sum(draw["bytes"] for draw in json.loads(planned.stdout)["draws"])
    footers, hub.sent = hub.sent, 0
    done = call(hub, tmp_path, "finevision", "--portion", "0.04", "--json")
    assert done.returncode == 0, done.stderr
    assert "to read. This is a cluster sample" in done.stderr
    manifest = json.loads(done.stdout)
    assert (manifest["location"], manifest["revision"], manifest["selection"]) == (REPO, SHA, "clusters")
    assert manifest["kinds"] == dict.fromkeys(NAMES, 16)
    whole = sum(path.stat().st_size for path in files.rglob("*.parquet"))
    assert footers < whole
    assert announced < 0.25 * whole, "most of the files is left where it is"
    # The footers of the drawn files are read again when they are opened.
    assert announced <= hub.sent <= announced + 2.1 * footers


def test_what_was_read_is_not_read_again_after_a_failure(hub: Hub, tmp_path: Path) -> None:
    words = ("finevision", "--portion", "0.5", "--threads", "1")
    whole = call(hub, tmp_path / "a", *words)
    assert whole.returncode == 0, whole.stderr
    needed = hub.requests
    hub.requests, hub.fails_after = 0, int(0.75 * needed)
    broken = call(hub, tmp_path / "b", *words)
    assert broken.returncode == 1
    assert "Error: the Hub cannot be asked for" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert not (tmp_path / "b/w/dataset").exists()
    hub.requests, hub.fails_after = 0, None
    again = call(hub, tmp_path / "b", *words)
    assert again.returncode == 0, again.stderr
    assert "Going on from" in again.stderr
    assert hub.requests < 0.75 * needed
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / n / "w/dataset").rglob("*.*")} for n in "ab")
    assert first == second
    assert [path.name for path in (tmp_path / "b/w").iterdir()] == ["dataset"]


def test_any_dataset_of_the_hub_by_its_columns(hub: Hub, tmp_path: Path) -> None:
    done = call(hub, tmp_path, "someone/charts", "--max-samples", 20, "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert (manifest["source"], manifest["revision"]) == ("someone/charts", SHA)
    assert sum(manifest["kinds"].values()) == 20


def test_a_dataset_of_other_files_is_read_from_the_hubs_conversion(hub: Hub, files: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/data.csv").write_text("a,b\n")
    (tmp_path / "parquet/default").mkdir(parents=True)
    shutil.copytree(files / "chartqa", tmp_path / "parquet/default/train")
    hub.datasets["someone/table"], hub.converted["someone/table"] = tmp_path / "own", tmp_path / "parquet"
    done = call(hub, tmp_path, "someone/table", "--max-samples", 5, "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert (manifest["revision"], sum(manifest["kinds"].values())) == (CONVERTED, 5)
    pinned = call(hub, tmp_path, "someone/table", "--revision", SHA, "--force")
    assert pinned.returncode == 1
    assert f"someone/table has no Parquet file at {SHA}" in pinned.stderr


def test_what_is_not_there_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    none = call(hub, tmp_path, "someone/nothing")
    assert (none.returncode, none.stdout) == (1, "")
    assert none.stderr.strip() == "Error: there is no dataset someone/nothing on the Hub. Check the name."
    hub.server.shutdown()
    hub.server.server_close()
    gone = call(hub, tmp_path, "finevision")
    assert gone.returncode == 1
    assert "the Hub cannot be asked for HuggingFaceM4/FineVision" in gone.stderr
    assert "name a local copy with --mirror" in gone.stderr


def test_a_model_is_pinned_to_its_commit(hub: Hub, chain_model: Path, tmp_path: Path) -> None:
    """In what is cut from it, and where the dense model is looked for again."""
    shutil.copytree(chain_model, tmp_path / "repository")
    others = ["consolidated.safetensors", "pytorch_model.bin", "model.onnx", "demo.png"]
    for name in others:
        (tmp_path / "repository" / name).write_bytes(b"another form")
    hub.models["someone/tiny"] = tmp_path / "repository"
    assert (
        run(hub, tmp_path, "plan", "--model", "someone/tiny", "--ratio", "0.25", "-w", str(tmp_path / "w")).returncode
        == 0
    )
    assert hub.served == {"config.json"}, "a plan needs no weights"
    for name in ("someone/tiny", "someone/tiny@main"):
        words = ["prune", name, "--drop-layers", "3", "--out", str(tmp_path / "short"), "--json", "--force"]
        done = run(hub, tmp_path, *words)
        assert done.returncode == 0, done.stderr
        base = json.loads(done.stdout)["checkpoint"]["base"]
        assert (base["location"], base["name"], base["revision"]) == (name, "someone/tiny", SHA)
        card = load_artifact(tmp_path / "short/interlace.json", CheckpointCard)
        assert card.base.pinned == f"someone/tiny@{SHA}"
    assert hub.served == {path.name for path in chain_model.iterdir()}, "weights in other forms stay where they are"
    none = run(hub, tmp_path, "plan", "--model", "someone/tiny@other", "--ratio", "0.25", "-w", str(tmp_path / "w"))
    assert none.returncode == 1
    assert "someone/tiny has no revision other" in none.stderr


FORMS = {
    "pickles": (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "save_pretrained it elsewhere"),
    "adapter": (["adapter_config.json", "adapter_model.safetensors"], "Merge it first"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_model_in_another_form_is_refused_before_it_is_fetched(
    form: str, hub: Hub, chain_model: Path, tmp_path: Path
) -> None:
    folder = hub.models["someone/old"] = tmp_path / "repository"
    shutil.copytree(chain_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    names, sentence = FORMS[form]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    done = run(hub, tmp_path, "prune", "someone/old", "--drop-layers", "3", "--out", str(tmp_path / "short"))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "someone/old" in done.stderr
    assert names[0] in done.stderr
    assert hub.served <= {"config.json"}


def test_only_the_weights_that_are_read_are_fetched(hub: Hub, chain_model: Path, tmp_path: Path) -> None:
    """Not those of an older save in shards, nor a state of training."""
    folder = hub.models["someone/mixed"] = Path(shutil.copytree(chain_model, tmp_path / "repository"))
    (folder / "checkpoint-5").mkdir()
    for name in ("model-00001-of-00001.safetensors", "checkpoint-5/model.safetensors", "checkpoint-5/optimizer.pt"):
        (folder / name).write_bytes(b"large")
    index = {"metadata": {}, "weight_map": {"x": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    done = run(
        hub, tmp_path, "prune", "someone/mixed", "--drop-layers", "3", "--out", str(tmp_path / "short"), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert "model-00001-of-00001.safetensors" not in hub.served
    assert "optimizer.pt" not in hub.served
    cached = next((tmp_path / "home").rglob("snapshots")) / SHA
    assert [path.name for path in cached.rglob("*.safetensors")] == ["model.safetensors"]
    assert "not read: model.safetensors.index.json" in done.stderr


def test_without_a_model_the_recorded_commit_is_cut(hub: Hub, chain_model: Path, tmp_path: Path) -> None:
    """Not what the branch has become since."""
    hub.models["someone/tiny"] = chain_model
    space = tmp_path / "w"
    done = run(hub, tmp_path, "plan", "--model", str(chain_model), "--ratio", "0.25", "-w", str(space))
    assert done.returncode == 0, done.stderr
    plan = json.loads((space / "plan.json").read_text())
    del plan["sha256"]
    plan["model"] |= {"location": "someone/tiny@moved", "revision": SHA}
    (space / "plan.json").write_text(json.dumps(plan))
    done = run(hub, tmp_path, "prune", "-w", str(space), "--json")
    assert done.returncode == 0, done.stderr
    base = json.loads(done.stdout)["checkpoint"]["base"]
    assert (base["location"], base["revision"]) == (f"someone/tiny@{SHA}", SHA)


def test_of_the_base_model_export_fetches_its_card_alone(hub: Hub, chain_model: Path, tmp_path: Path) -> None:
    """For the licence; where the weights have gone from the cache."""
    hub.models["someone/tiny"] = Path(shutil.copytree(chain_model, tmp_path / "repository"))
    (tmp_path / "repository/README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    short = str(tmp_path / "short")
    assert run(hub, tmp_path, "prune", "someone/tiny", "--drop-layers", "3", "--out", short).returncode == 0
    shutil.rmtree(tmp_path / "home")
    hub.served.clear()
    done = run(hub, tmp_path, "export", short, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "license: bsd-3-clause" in (tmp_path / "out/README.md").read_text()
    assert hub.served == {"README.md"}


def test_files_of_a_repository_are_read_at_their_address(tmp_path: Path) -> None:
    """`hf://`: the same samples as from a local copy."""
    write_tables(tmp_path / "talks")
    hub = Hub({"someone/talks": tmp_path / "talks"})
    made = call(hub, tmp_path / "remote", f"hf://datasets/someone/talks@{SHA}", "--json")
    assert made.returncode == 0, made.stderr
    copy = call(hub, tmp_path / "local", tmp_path / "talks", "--json")
    assert [json.loads(one.stdout)["splits"] for one in (made, copy)] == [json.loads(copy.stdout)["splits"]] * 2
    assert json.loads(made.stdout)["source"] == "talks"
    refused = call(hub, tmp_path / "nothing", "hf://datasets/someone/nothing")
    assert refused.returncode == 1
    assert "there is nothing at hf://datasets/someone/nothing" in " ".join(refused.stderr.split())
