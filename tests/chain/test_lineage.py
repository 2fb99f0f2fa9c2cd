"""Results that are put side by side belong together, and no checkpoint is judged on what it has seen."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from workspaces import (
    STEPS,
    Own,
    ask_status,
    build_run,
    copy,
    list_files,
    look_ahead,
    put_in_cache,
    refuse,
    succeed,
    write_source,
)

from interlace_cli.io.datasets import load_images, load_split
from interlace_cli.io.sample_keys import SAMPLE_KEYS, load_keys

pytestmark = pytest.mark.long

SPLIT = ["--holdout", "0.3", "--calibration", "0.25"]


@pytest.fixture
def space(own: Own, tmp_path: Path) -> Path:
    """The finished workspace, to be worked on."""
    return copy(own.space, tmp_path / "w")


def list_contents(dataset: Path, split: str) -> list[object]:
    """What each sample is, told without keys or hashes: its pictures' pixels, or its conversation."""
    return [
        tuple(image.tobytes() for image in load_images(dataset, sample))
        or tuple((turn.speaker, turn.value) for turn in sample.conversations)
        for sample in load_split(dataset, split)
    ]


def draw_otherwise(data: Path, space: Path, heldout: int = 12, seed: int = 1) -> tuple[int, int]:
    """Prepares the dataset with another seed; how many of the held-out samples were trained on before, and how many
    calibrated on."""
    before = {split: set(list_contents(space / "dataset", split)) for split in ("train", "calibration")}
    succeed("prepare", data, *SPLIT, "--seed", seed, "--force", "-w", space)
    now = list_contents(space / "dataset", "heldout")
    assert len(now) == heldout
    return sum(one in before["train"] for one in now), sum(one in before["calibration"] for one in now)


# What a checkpoint has seen


def test_samples_that_were_trained_or_calibrated_on_are_not_to_judge_by(own: Own, space: Path) -> None:
    trained, calibrated = draw_otherwise(own.data, space)
    assert trained > 3
    assert calibrated > 0
    before = list_files(space)
    sentence = refuse("eval", "--no-speed", "--force", "-w", space)
    assert f"healed was trained on {trained} of the 12 samples that it is judged on" in sentence
    for name in ("pruned", "healed"):
        assert f"{name} was calibrated on {calibrated} of the 12 samples" in sentence
    assert "--allow-overlap" in sentence
    assert list_files(space) == before
    done = succeed("eval", "--no-speed", "--force", "--allow-overlap", "-w", space, "--json")
    assert f"healed was trained on {trained} of the 12 samples" in done.said
    found = {one["name"]: (one["trained_on"], one["calibrated_on"]) for one in done.json["results"]}
    assert found == {"dense": (0, 0), "pruned": (0, calibrated), "healed": (trained, calibrated)}
    succeed("export", "--force", "-w", space)
    page = (space / "export/README.md").read_text()
    assert f"**healed was trained on {trained} of these 12 samples.**" in page
    assert f"**pruned was calibrated on {calibrated} of these 12 samples.**" in page
    assert f"{trained} of 12 samples seen" in page.split("---")[1]
    assert "held out" not in page.split("---")[1]
    assert f"healed was trained on {trained} of these 12 samples" in (space / "report.html").read_text()


def test_the_card_of_an_honest_evaluation_has_no_warning(own: Own) -> None:
    page = (own.space / "export/README.md").read_text()
    assert "on 12 held-out samples" in page
    assert not re.search(r"(trained|calibrated) on \d+ of", page)
    assert "held out" in page.split("---")[1]


def test_of_the_first_samples_alone_only_these_count(own: Own, space: Path) -> None:
    before = set(list_contents(space / "dataset", "train"))
    draw_otherwise(own.data, space)
    first = list_contents(space / "dataset", "heldout")[:5]
    trained = sum(one in before for one in first)
    sentence = refuse("eval", "--no-speed", "--force", "--samples", "5", "-w", space)
    assert f"healed was trained on {trained} of the 5 samples" in sentence


def test_a_task_of_samples_that_were_trained_on_is_refused_too(own: Own, space: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(f"- {{name: all, source: {own.data}}}\n")
    train = len(load_split(space / "dataset", "train"))
    sentence = refuse("eval", "--no-speed", "--force", "--tasks", tmp_path / "tasks.yaml", "-w", space)
    assert f"healed was trained on {train} of the 40 samples" in sentence


def test_only_samples_that_were_trained_on_count(own: Own, space: Path, tmp_path: Path) -> None:
    """One step of eight samples, of more that were there."""
    words = ["finetune", "--epochs", "0.1", "--batch-size", "8", "--grad-accum", "1", "--force", "-w", space]
    assert succeed(*words, "--json").json["healing"]["steps"] == 1
    assert len(load_split(space / "dataset", "train")) > 16
    (tmp_path / "tasks.yaml").write_text(f"- {{name: all, source: {own.data}}}\n")
    sentence = refuse("eval", "--no-speed", "--force", "--tasks", tmp_path / "tasks.yaml", "-w", space)
    assert "healed was trained on 8 of the 40 samples" in sentence


def test_other_samples_are_not_refused(own: Own, space: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    data = write_source(tmp_path / "bob", own.data.name, count=20, seed=7)
    succeed("prepare", data, "--holdout", "0.5", "--out", other)
    known = {one for split in ("train", "calibration") for one in list_contents(space / "dataset", split)}
    assert not known & set(list_contents(other, "heldout"))
    words = ["eval", "--no-speed", "--dataset", other, "--out", tmp_path / "e.json", "-w", space, "--json"]
    found = succeed(*words).json
    assert [(one["trained_on"], one["calibrated_on"]) for one in found["results"]] == [(0, 0)] * 3


@pytest.fixture(scope="module")
def texts(own: Own, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source most of whose conversations have no picture, one of them six times; and what was made of it."""
    root = tmp_path_factory.mktemp("texts")
    data = write_source(root / "alice", texts=30)
    records = json.loads(data.read_text())
    for record in records[-5:]:
        record["conversations"] = records[-6]["conversations"]
    data.write_text(json.dumps(records))
    succeed(*build_run(own.model, data, root / "w"))
    return data, root / "w"


def test_conversations_without_pictures_are_known_by_what_is_said(texts: tuple[Path, Path], tmp_path: Path) -> None:
    data, space = texts[0], copy(texts[1], tmp_path / "w")
    trained, calibrated = draw_otherwise(data, space, heldout=10)
    assert trained > 0
    assert calibrated > 0
    sentence = refuse("eval", "--no-speed", "--force", "-w", space)
    assert f"healed was trained on {trained} of the 10 samples" in sentence
    assert f"healed was calibrated on {calibrated} of the 10 samples" in sentence


def test_no_conversation_is_in_two_splits(texts: tuple[Path, Path]) -> None:
    """The run of a source that says one thing twice ends with an evaluation."""
    train, calibration, heldout = (
        set(list_contents(texts[1] / "dataset", split)) for split in ("train", "calibration", "heldout")
    )
    assert not train & heldout
    assert not calibration & heldout
    assert not train & calibration


def test_what_is_exported_published_or_cut_again_keeps_its_list(
    own: Own, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    lists = [load_keys(space / name) for name in ("pruned", "healed", "export")]
    assert [sorted(one) for one in lists] == [["calibrated"], ["calibrated", "trained"], ["calibrated", "trained"]]
    assert (space / f"healed/{SAMPLE_KEYS}").read_bytes() == (space / f"export/{SAMPLE_KEYS}").read_bytes()
    published, cache = shutil.copytree(space / "export", tmp_path / "published"), tmp_path / "cache"
    put_in_cache(published, cache, "me/short", "5" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    succeed("prune", published, "--drop-layers", "2", "--out", tmp_path / "shorter", "-w", tmp_path / "v")
    planned = tmp_path / "planned"
    succeed("analyze", published, "--dataset", own.space / "dataset", "-w", planned)
    succeed("plan", "--drop", "1", "--strategy", "shortgpt", "-w", planned)
    succeed("prune", "-w", planned)
    trained, calibrated = draw_otherwise(own.data, space)
    for location in (published, "me/short", f"me/short@{'5' * 40}", tmp_path / "shorter", planned / "pruned"):
        words = ["eval", location, "--no-speed", "--dataset", space / "dataset", "-w", tmp_path / "v"]
        sentence = refuse(*words)
        name = Path(str(location)).name
        assert f"{name} was trained on {trained} of the 12 samples" in sentence
        assert f"{name} was calibrated on {calibrated} of the 12 samples" in sentence
    # Healed again, on other samples, it has seen both.
    words = ["finetune", tmp_path / "shorter", "--tune-layers", "1", "--epochs", "0.1", "--out", tmp_path / "again"]
    succeed(*words, "--dataset", own.space / "dataset", "-w", tmp_path / "v")
    sentence = refuse("eval", tmp_path / "again", "--no-speed", "--dataset", space / "dataset", "-w", tmp_path / "v")
    assert f"again was trained on {trained} of the 12 samples" in sentence


def test_weights_that_other_samples_lead_to_get_their_list(own: Own, space: Path, tmp_path: Path) -> None:
    """With other samples to calibrate on the same layers are chosen: nothing has to be made but the list."""
    draw_otherwise(own.data, space)
    words = own.at(space, seed="1", **{"heal-min-pixels": "784"})
    stamp = (space / "pruned/model.safetensors").stat().st_mtime_ns
    before = json.loads((space / "pruned/interlace.json").read_text())
    record = succeed(*words, "--force", "--json").json
    assert {one["name"]: one for one in json.loads((space / "eval.json").read_text())["results"]}["healed"][
        "trained_on"
    ] == 0
    assert set(record["plan"]["drop"]) == set(before["dropped"]), "else this test shows nothing"
    assert (space / "pruned/model.safetensors").stat().st_mtime_ns == stamp
    wanted = load_split(space / "dataset", "calibration")
    for name in ("pruned", "healed", "export"):
        assert len(load_keys(space / name)["calibrated"]) == len(wanted)
    assert succeed(*words, "--json").json["skipped"] == list(STEPS)
    # A list that is gone, or broken, is written again.
    whole = list_files(space)
    for name, broken in (("pruned", None), ("healed", b"no list"), ("export", None)):
        file = space / name / SAMPLE_KEYS
        file.unlink()
        if broken is not None:
            file.write_bytes(broken)
    assert [look_ahead(words)[step][0] for step in ("prune", "finetune")] == ["complete"] * 2
    assert set(succeed(*words, "--json").json["seconds"]) == {"prune", "finetune", "export"}
    now = list_files(space)
    assert {name: now[name] for name in whole if name != "report.html"} == {
        name: whole[name] for name in whole if name != "report.html"
    }


# What belongs together


@pytest.fixture
def recut(space: Path) -> Path:
    """The workspace after another cut, beside what was healed before it."""
    succeed("plan", "--ratio", "0.13", "--force", "-w", space)
    succeed("prune", "--force", "-w", space)
    return space


def list_drops(space: Path) -> tuple[str, str]:
    """The layers that healed and pruned lack, as they are shown."""
    cards = [json.loads((space / name / "interlace.json").read_text()) for name in ("healed", "pruned")]
    healed, pruned = (", ".join(map(str, card["dropped"])) for card in cards)
    assert healed != pruned
    return healed, pruned


def test_a_healed_checkpoint_of_another_cut_is_not_in_one_table_with_it(own: Own, recut: Path) -> None:
    healed, pruned = list_drops(recut)
    before = list_files(recut)
    sentence = refuse("eval", "--no-speed", "--force", "-w", recut)
    assert "healed and pruned do not belong together" in sentence
    assert f"healed lacks layers {healed}, pruned lacks {pruned}" in sentence
    assert "--allow-mismatch" in sentence
    status = succeed("status", "-w", recut, "--json").json["mismatches"]
    assert len(status) == 1
    assert f"healed lacks layers {healed}, pruned lacks {pruned}" in status[0]
    assert list_files(recut) == before
    succeed("report", "-w", recut)
    page = (recut / "report.html").read_text()
    assert "healed and pruned do not belong together" in page
    assert "pruned was made again after it" in page

    done = succeed("eval", "--no-speed", "--force", "--allow-mismatch", "-w", recut)
    assert "healed and pruned do not belong together" in done.said
    before = list_files(recut)
    sentence = refuse("export", "--force", "-w", recut)
    assert "pruned in the evaluation and the healed checkpoint do not belong together" in sentence
    assert list_files(recut) == before
    done = succeed("export", "--force", "--allow-mismatch", "-w", recut)
    assert "do not belong together" in done.said


def test_a_run_goes_on_with_one_cut(own: Own, recut: Path) -> None:
    record = succeed(*own.at(recut, ratio="0.13"), "--force", "--json").json
    assert [record[name]["layers"] for name in ("dense", "pruned", "healed")] == [8, 7, 7]
    assert succeed("status", "-w", recut, "--json").json["mismatches"] == []


def test_a_plan_of_another_cut_does_not_heal(own: Own, space: Path) -> None:
    succeed("plan", "--ratio", "0.13", "--force", "-w", space)
    before = list_files(space)
    for words in (["finetune", "--force"], ["finetune", "--force", "--estimate"]):
        sentence = refuse(*words, "-w", space)
        assert "drops layers" in sentence
        assert "the checkpoint was cut by 3, 5" in sentence
        assert "--allow-mismatch" in sentence
        assert list_files(space) == before
    condition, why = ask_status(space)["prune"]
    assert condition == "stale"
    assert "3, 5 then" in why
    succeed("finetune", "--force", "--allow-mismatch", "--epochs", "0.1", "-w", space)


@pytest.fixture(scope="module")
def stranger(own: Own, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Another model of the same kind, and a cut of it."""
    from safetensors.numpy import load_file, save_file

    root = tmp_path_factory.mktemp("stranger")
    model = copy(own.model, root / "stranger")
    tensors = load_file(model / "model.safetensors")
    save_file({name: value * 2 for name, value in tensors.items()}, model / "model.safetensors", {"format": "pt"})
    succeed("prune", model, "--drop-layers", "3,5", "--out", root / "short", "-w", root / "v")
    return model, root / "short"


def test_a_list_given_by_hand_is_looked_at_too(
    own: Own, space: Path, stranger: tuple[Path, Path], tmp_path: Path
) -> None:
    model, short = stranger
    words = ["--no-speed", "--samples", "2", "-w", space, "--out", tmp_path / "e.json"]
    cases: list[tuple[list[object], str]] = [
        ([own.model, short], f"short and {own.model.name} do not belong together: short comes from stranger"),
        ([model, space / "healed"], "healed and stranger do not belong together"),
        ([own.model, space / "pruned", short], "short and"),
        ([short, space / "healed"], "healed and short do not belong together"),
    ]
    before = list_files(space)
    for given, said in cases:
        sentence = refuse("eval", *given, *words)
        assert said in sentence
        assert "--allow-mismatch" in sentence
        assert list_files(space) == before
    assert not (tmp_path / "e.json").exists()
    done = succeed("eval", own.model, short, *words, "--allow-mismatch")
    assert "short comes from stranger" in done.said
    # These do.
    for given in ([own.model, space / "healed"], [space / "pruned", space / "healed"], [own.model, model]):
        succeed("eval", *given, *words, "--force")


def test_cuts_side_by_side_need_not_be_parents(own: Own, space: Path, tmp_path: Path) -> None:
    succeed("prune", own.model, "--drop-layers", "2", "--out", tmp_path / "other", "-w", tmp_path / "v")
    words = ["--no-speed", "--samples", "2", "-w", space, "--out", tmp_path / "e.json"]
    succeed("eval", own.model, space / "pruned", tmp_path / "other", *words)
    succeed("eval", own.model, tmp_path / "other", space / "pruned", space / "healed", *words, "--force")
    assert "healed and other do not belong together" in refuse(
        "eval", own.model, tmp_path / "other", space / "healed", *words, "--force"
    )


def test_a_plan_for_another_model_is_not_cut_by(own: Own, space: Path, stranger: tuple[Path, Path]) -> None:
    before = list_files(space)
    sentence = refuse("prune", stranger[0], "--force", "-w", space)
    assert f"the plan was made for {own.model.name}" in sentence
    assert "and stranger is another model" in sentence
    assert "--allow-mismatch" in sentence
    assert list_files(space) == before
    succeed("prune", stranger[0], "--force", "--allow-mismatch", "-w", space)
    sentence = refuse("eval", "--no-speed", "--force", "-w", space)
    assert "healed and dense do not belong together" in sentence


def test_an_evaluation_of_another_model_is_not_in_the_card(
    own: Own, space: Path, stranger: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ["eval", stranger[0], space / "healed", "--no-speed", "--samples", "2", "--allow-mismatch"]
    succeed(*words, "--out", tmp_path / "e.json", "-w", space)
    sentence = refuse("export", "--evaluation", tmp_path / "e.json", "--out", tmp_path / "x", "-w", space)
    assert "the evaluation and the healed checkpoint do not belong together" in sentence
    assert "stranger" in sentence
    assert not (tmp_path / "x").exists()
