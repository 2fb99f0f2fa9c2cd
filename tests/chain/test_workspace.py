"""A workspace is its user's: nothing is taken for something else, nothing is replaced or written that nobody asked for,
and what is stale, damaged or wrong is said before the first step starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finevision import make_card, make_image, make_row, write_subset
from tiny import save_chain_model
from workspaces import (
    LEFT_OUT,
    STEPS,
    Own,
    ask_status,
    build_run,
    call,
    change,
    copy,
    draw_other_picture,
    list_files,
    list_times,
    look_ahead,
    refuse,
    succeed,
    to_words,
    write_source,
)

from interlace_cli.errors import InterlaceError

AFTER_PREPARE = list(STEPS[1:])


@pytest.fixture
def space(own: Own, tmp_path: Path) -> Path:
    """The finished workspace, to be worked on."""
    return copy(own.space, tmp_path / "w")


@pytest.fixture
def alice(own: Own, tmp_path: Path) -> Path:
    """Its source, in another folder."""
    return copy(own.data.parent, tmp_path / "alice") / own.data.name


def check_refused(words: list[str], space: Path, step: str, *reasons: str) -> str:
    """`run` refuses, saying why, and leaves everything as it was; a dry run says the same beforehand."""
    before = list_files(space)
    action, why = look_ahead(words)[step]
    sentence = refuse(*words)
    assert action == "refuse", why
    for reason in reasons:
        assert reason in why
        assert reason in sentence
    assert "Add --force" in sentence
    assert list_files(space) == before
    return sentence


def check_remade(words: list[str], space: Path, *remade: str) -> dict[str, Any]:
    """With --force exactly these steps are done, as a dry run says, and then all of it is up to date."""
    ahead = look_ahead(words, "--force")
    record = succeed(*words, "--force", "--json").json
    assert set(record["seconds"]) == set(remade)
    for step in STEPS:
        possible = (
            ("replace", "complete", "make anew", "skip or replace") if step in remade else ("skip", "skip or replace")
        )
        assert ahead[step][0] in possible, (step, ahead)
    stamps = list_times(space)
    assert succeed(*words, "--json").json["skipped"] == list(STEPS)
    stamps.pop("report.html")
    assert {name: time for name, time in list_times(space).items() if name != "report.html"} == stamps
    return record


# The source


def test_the_same_content_in_another_folder_is_the_same(own: Own, space: Path, alice: Path) -> None:
    words = build_run(own.model, alice, space)
    assert {action for action, _ in look_ahead(words).values()} == {"skip"}
    assert succeed(*words, "--json").json["skipped"] == list(STEPS)


def other_folder(own: Own, root: Path) -> dict[str, object]:
    return {"data": write_source(root / "bob", own.data.name, seed=7)}


def other_pictures(own: Own, root: Path) -> dict[str, object]:
    (root / "alice/images/5.png").write_bytes(draw_other_picture())
    return {}


def other_conversation(own: Own, root: Path) -> dict[str, object]:
    data = root / "alice" / own.data.name
    data.write_text(data.read_text().replace('"gpt", "value": "', '"gpt", "value": "not ', 1))
    return {}


def picture_gone(own: Own, root: Path) -> dict[str, object]:
    (root / "alice/images/5.png").unlink()
    return {}


def other_image_root(own: Own, root: Path) -> dict[str, object]:
    write_source(root / "bob", own.data.name, seed=7)
    return {"image-root": root / "bob"}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (other_folder, "images/0.png, images/1.png, images/10.png and 38 more have other content"),
        (other_pictures, "images/5.png has other content"),
        (other_conversation, "vqa.json has other content"),
        (picture_gone, "images/5.png is gone"),
        (other_image_root, "images/0.png, images/1.png, images/10.png and 37 more have other content"),
    ],
)
def test_another_source_is_not_taken_for_the_one_that_is_there(
    edit: Callable[[Own, Path], dict[str, object]], said: str, own: Own, space: Path, alice: Path, tmp_path: Path
) -> None:
    options = {"data": alice, **edit(own, tmp_path)}
    words = own.at(space, **options)
    assert "from vqa.json" in check_refused(words, space, "prepare", said)
    single = ["prepare", str(options["data"]), "--holdout", "0.3", "--calibration", "0.25", "-w", str(space)]
    if "image-root" in options:
        single += ["--image-root", str(options["image-root"])]
    before = list_files(space)
    assert said in refuse(*single)
    assert list_files(space) == before


def test_with_force_all_is_made_of_the_other_source(own: Own, space: Path, tmp_path: Path) -> None:
    bob = write_source(tmp_path / "bob", own.data.name, seed=7)
    before = {name: json.loads((space / name).read_text()) for name in ("analysis.json", "eval.json")}
    record = check_remade(own.at(space, data=bob), space, *STEPS)
    fresh = tmp_path / "fresh"
    succeed(*own.at(fresh, data=bob))
    for name in ("pruned/model.safetensors", "healed/model.safetensors", "healed/interlace-samples.npz"):
        assert (space / name).read_bytes() == (fresh / name).read_bytes(), "as if there had been nothing before"
    ours, theirs = (succeed(*own.at(at, data=bob), "--json").json for at in (space, fresh))
    for name in ("dense", "pruned", "healed", "plan"):
        assert ours[name] == theirs[name]
    assert record["dense"]["loss"] != before["eval.json"]["results"][0]["loss"]
    assert json.loads((space / "analysis.json").read_text())["inputs"] != before["analysis.json"]["inputs"]


def test_datasets_of_the_hub_are_told_by_their_owners(own: Own, tmp_path: Path) -> None:
    """Of two names with the same files behind them."""
    mirror, space = tmp_path / "mirror", tmp_path / "w"
    rows = [make_row(index) for index in range(30)]
    for index, row in enumerate(rows):
        row["images"][0]["bytes"] = make_image(index, 36)
    write_subset(mirror, "default", rows, files=1)
    (mirror / "README.md").write_text(str(make_card(["default"], {"default": 30})))
    words = ["prepare", "alice/vqa", "--mirror", str(mirror), "-w", str(space)]
    succeed(*words)
    before = list_files(space)
    assert "it is up to date" in refuse(*words)
    sentence = refuse("prepare", "bob/vqa", *words[2:])
    assert "source was alice/vqa, and is bob/vqa now" in sentence
    run = ["run", str(own.model), "--data", "bob/vqa", "--mirror", str(mirror), "-w", str(space)]
    assert "source was alice/vqa, and is bob/vqa now" in refuse(*run)
    assert list_files(space) == before


# The model


def other_chat_template(model: Path) -> None:
    file = model / "chat_template.jinja"
    file.write_text(file.read_text().replace("{%", "A question: {%", 1))


def other_image_size(model: Path) -> None:
    config = json.loads((model / "processor_config.json").read_text())
    config["image_processor"]["size"]["longest_edge"] //= 4
    (model / "processor_config.json").write_text(json.dumps(config))


def other_image_size_in_a_file_of_its_own(model: Path) -> None:
    (model / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 16, "longest_edge": 1024}}')


def other_tokenizer(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["unk_token"] = "other"
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


def other_generation(model: Path) -> None:
    change(model / "generation_config.json", max_new_tokens=3)


def other_config(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    (model / "config.json").write_text(json.dumps(config))


def other_weights(model: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    save_file({name: value * 2 for name, value in tensors.items()}, model / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (other_chat_template, "processor, tokenizer or chat template changed"),
        (other_image_size, "processor, tokenizer or chat template changed"),
        (other_image_size_in_a_file_of_its_own, "processor, tokenizer or chat template changed"),
        (other_tokenizer, "processor, tokenizer or chat template changed"),
        (other_generation, "processor, tokenizer or chat template changed"),
        (other_config, "the model changed"),
        (other_weights, "the model changed"),
    ],
)
def test_a_model_that_was_changed_in_place_is_not_the_same(
    edit: Callable[[Path], None], said: str, own: Own, space: Path, tmp_path: Path
) -> None:
    model = copy(own.model, tmp_path / "chain-model0")
    words = build_run(model, own.data, space)
    assert succeed(*words, "--json").json["skipped"] == list(STEPS), "a copy is the same"
    edit(model)
    check_refused(words, space, "analyze", said)
    for single in (["analyze", model], ["prune", model, "--allow-mismatch"], ["plan", "--model", model]):
        before, found = list_files(space), call(*single, "-w", space)
        assert list_files(space) == before, "nothing is taken for what it is not"
        assert found.code == 1 or single[0] == "plan", found.err


def test_with_force_all_is_made_of_the_other_model(own: Own, space: Path, tmp_path: Path) -> None:
    model = copy(own.model, tmp_path / "m")
    other_chat_template(model)
    check_remade(build_run(model, own.data, space), space, *AFTER_PREPARE)
    assert (space / "healed/chat_template.jinja").read_bytes() == (model / "chat_template.jinja").read_bytes()


# The analysis


@pytest.fixture(scope="module")
def measured(own: Own, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose analysis has loss and gradients on four samples."""
    space = tmp_path_factory.mktemp("measured") / "w"
    succeed("prepare", "demo", "--max-samples", "120", "--calibration", "0.3", "-w", space)
    both = ["--importance", "loss,taylor", "--loss-samples", "4", "--search-ratio", "0"]
    succeed("analyze", own.model, *both, "-w", space)
    return space


@pytest.mark.parametrize("importance", ["taylor", "loss"])
def test_loss_and_gradients_are_measured_on_as_many_samples_as_are_asked_for(
    importance: str, own: Own, measured: Path, tmp_path: Path
) -> None:
    space = copy(measured, tmp_path / "w")
    words = ["analyze", own.model, "--importance", importance, "--search-ratio", "0", "-w", space]
    before = json.loads((space / "analysis.json").read_text())
    assert before[importance]["samples"] == 4
    succeed(*words, "--loss-samples", "20")
    after = json.loads((space / "analysis.json").read_text())
    assert after[importance]["samples"] == 20
    other = {"taylor": "loss", "loss": "taylor"}[importance]
    assert after[other] == before[other], "what was not asked for stays"
    assert after["similarity"] == before["similarity"]
    alone = tmp_path / "alone"
    shutil.copytree(space / "dataset", alone / "dataset")
    succeed(*words[:-1], alone, "--loss-samples", "20")
    assert json.loads((alone / "analysis.json").read_text())[importance] == after[importance]
    stamp = (space / "analysis.json").stat().st_mtime_ns
    succeed(*words, "--loss-samples", "20")
    assert (space / "analysis.json").stat().st_mtime_ns == stamp, "and once"


def test_another_importance_leaves_what_does_not_look_at_it(own: Own, space: Path) -> None:
    more = {"importance": "similarity,taylor", "loss-samples": "4"}
    words = own.at(space, **more)
    assert look_ahead(words)["analyze"] == ("complete", "the gradients were not measured")
    stamps = {name: time for name, time in list_times(space).items() if not name.startswith(("analysis", "report"))}
    record = succeed(*words, "--json").json
    assert list(record["seconds"]) == ["analyze"]
    assert {name: list_times(space)[name] for name in stamps} == stamps
    assert json.loads((space / "analysis.json").read_text())["taylor"]["samples"] == 4
    # Not so where the strategy looks at it.
    chosen = own.at(space, **more, criterion="taylor")
    check_refused(chosen, space, "plan", "criterion was similarity, and is taylor now")


# Files that are gone


GONE = {
    "pruned/model.safetensors": "prune",
    "pruned/config.json": "prune",
    "healed/model.safetensors": "finetune",
    "healed/config.json": "finetune",
    "export/model.safetensors": "export",
    "analysis.safetensors": "analyze",
    "eval.safetensors": "eval",
    "dataset/data/part-00000-of-00001.parquet": "prepare",
    "dataset/index/split-train.bin": "prepare",
}


@pytest.mark.parametrize(("name", "step"), GONE.items())
def test_a_file_that_is_gone_is_a_reason_to_make_it_again(name: str, step: str, own: Own, space: Path) -> None:
    before = (space / name).read_bytes()
    (space / name).unlink()
    condition, why = ask_status(space)[step]
    assert condition == "damaged", why
    words = own.at(space)
    action, reason = look_ahead(words)[step]
    assert (action, reason) == ("make anew", why)
    assert Path(name).name in why or name.startswith("dataset/"), why
    assert "gone" in why
    done = succeed(*words, "--json")
    assert f"{why}: it is made again" in done.said
    assert list(done.json["seconds"]) == [step], "what is made of it is the same"
    assert (space / name).read_bytes() == before


def test_a_shard_that_is_gone_is_a_reason_to_make_it_again(own: Own, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    model, space = tmp_path / "sharded", tmp_path / "w"
    shutil.copytree(own.model, model, ignore=shutil.ignore_patterns("model.safetensors"))
    loaded = AutoModelForImageTextToText.from_pretrained(own.model)
    loaded.save_pretrained(model, max_shard_size="600KB")
    words = build_run(model, own.data, space)
    succeed(*words)
    for folder, step in (("pruned", "prune"), ("healed", "finetune")):
        shards = sorted((space / folder).glob("*.safetensors"))
        assert len(shards) > 1
        shards[-1].unlink()
        assert look_ahead(words)[step] == ("make anew", f"{shards[-1].name} is gone")
        assert list(succeed(*words, "--json").json["seconds"]) == [step]
        index = space / folder / "model.safetensors.index.json"
        index.unlink()
        assert look_ahead(words)[step] == ("make anew", f"{index.name} is gone")
        assert list(succeed(*words, "--json").json["seconds"]) == [step]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("pruned/model.safetensors", "prune"),
        ("healed/model.safetensors", "finetune"),
        ("export/model.safetensors", "export"),
        ("analysis.safetensors", "analyze"),
    ],
)
def test_a_file_that_was_cut_off_is_a_reason_to_make_it_again(name: str, step: str, own: Own, space: Path) -> None:
    before = (space / name).read_bytes()
    (space / name).unlink()
    (space / name).write_bytes(before[: len(before) // 2])
    words = own.at(space)
    assert look_ahead(words)[step][0] == "make anew"
    done = succeed(*words, "--json")
    assert "it is made again" in done.said
    assert list(done.json["seconds"]) == [step]
    assert (space / name).read_bytes() == before


def test_a_list_of_files_that_is_broken_can_be_replaced(own: Own, space: Path) -> None:
    before = (space / "dataset/files.jsonl").read_bytes()
    (space / "dataset/files.jsonl").write_text("x")
    assert "files.jsonl is broken" in check_refused(own.at(space), space, "prepare", "files.jsonl is broken")
    assert ask_status(space)["prepare"][0] == "stale"
    words = ["prepare", own.data, "--holdout", "0.3", "--calibration", "0.25", "-w", space]
    assert "files.jsonl is broken" in refuse(*words)
    succeed(*words, "--force")
    assert (space / "dataset/files.jsonl").read_bytes() == before
    assert succeed(*own.at(space), "--json").json["skipped"] == list(STEPS)


def test_a_model_that_was_moved_is_the_same(own: Own, tmp_path: Path) -> None:
    model, space = copy(own.model, tmp_path / "here"), tmp_path / "w"
    words = build_run(model, own.data, space)
    succeed(*words)
    model.rename(tmp_path / "there")
    assert "there is no model folder" in refuse(*words)
    moved = build_run(tmp_path / "there", own.data, space)
    assert set(look_ahead(moved).values()) == {("skip", "")}
    (space / "eval.json").unlink()
    record = succeed(*moved, "--json").json
    assert list(record["seconds"]) == ["eval"]
    assert [record[name]["layers"] for name in ("dense", "pruned", "healed")] == [8, 6, 6]


def test_a_dataset_whose_samples_are_gone_is_one_sentence_for_who_needs_them(own: Own, space: Path) -> None:
    for name in ("index/split-heldout.bin", "data/part-00000-of-00001.parquet"):
        (space / "dataset" / name).unlink()
        for command in ("eval", "finetune", "analyze"):
            sentence = refuse(command, "-w", space, "--force")
            assert "the samples are not those that manifest.json speaks of" in sentence
            assert "Run `interlace prepare --force`" in sentence


# Whose workspace it is


def test_a_run_takes_the_model_and_the_dataset_of_its_workspace(own: Own, space: Path) -> None:
    words = own.at(space)
    assert succeed(words[0], *words[2:], "--json").json["skipped"] == list(STEPS)
    words = own.at(space, data=LEFT_OUT, holdout=LEFT_OUT, calibration=LEFT_OUT)
    record = succeed(words[0], *words[2:], "--json").json
    assert record["skipped"] == list(STEPS)
    assert record["model"] == own.model.name


def test_the_demo_does_not_replace_anything_of_ones_own(own: Own, space: Path) -> None:
    before = list_files(space)
    for words in (["run"], ["run", "demo"], ["run", "demo", "--data", "demo"], ["compare", "demo"]):
        found = call(*words, "-w", space)
        assert found.code == 1, found.out
        assert "exists already" in found.sentence
        assert "Add --force" in found.sentence
        assert list_files(space) == before
    for command in ("prepare", "analyze"):
        assert "exists already" in refuse(command, "demo", "-w", space)
        assert list_files(space) == before


def test_a_comparison_takes_the_dataset_that_is_there_and_replaces_none(own: Own, space: Path, tmp_path: Path) -> None:
    manifest = (space / "dataset/manifest.json").read_bytes()
    grid = ["--strategies", "random", "--ratios", "0.13", "--baselines", "", "--epochs", "1", "--no-speed"]
    bob = write_source(tmp_path / "bob", seed=7)
    before = list_files(space)
    assert "38 more have other content" in refuse("compare", "--data", bob, *grid, "-w", space)
    assert list_files(space) == before
    found = succeed("compare", *grid, "-w", space, "--json").json
    assert (found["model"], found["samples"]) == (own.model.name, 12)
    assert (space / "dataset/manifest.json").read_bytes() == manifest


def test_a_dataset_without_a_model_asks_for_one(own: Own, tmp_path: Path) -> None:
    space = tmp_path / "w"
    succeed("prepare", own.data, "-w", space)
    before = list_files(space)
    for command in (["run"], ["compare"], ["analyze"]):
        sentence = refuse(*command, "-w", space, code=2)
        assert "MODEL is missing" in sentence
        assert "vqa.json" in sentence
        assert list_files(space) == before


def test_a_model_without_a_dataset_asks_for_one(own: Own, tmp_path: Path) -> None:
    for command in ("run", "compare"):
        assert "needs --data" in refuse(command, own.model, "-w", tmp_path / "w", code=2)
    assert not (tmp_path / "w").exists()


def test_an_empty_workspace_has_the_demo(tmp_path: Path) -> None:
    from interlace_cli.core.run import compose_options
    from interlace_cli.options import CompareOptions, RunOptions

    for record in (RunOptions, CompareOptions):
        made = compose_options(record, {"workspace": tmp_path / "w"})
        assert (made.model, made.data) == ("demo", "demo")
        assert (made.finetune.lr, made.prepare.holdout) == (5e-4, 0.2)
    status = succeed("status", "-w", tmp_path / "w", "--json").json
    assert {one["condition"] for one in status["holdings"]} == {"missing"}
    assert status["model"] is None
    assert not (tmp_path / "w").exists()


# Files that were not asked for


MADE: dict[str, tuple[list[str], set[str]]] = {
    "prepare": (["prepare", "DATA", "--holdout", "0.3", "--calibration", "0.25"], {"dataset/"}),
    "analyze": (["analyze", "MODEL"], {"analysis.json", "analysis.safetensors"}),
    "scores": (["analyze", "MODEL", "--write-scores", "W/s"], {"s/"}),
    "plan, dry": (["plan", "--ratio", "0.25", "--selection", "optimal", "--dry-run"], set()),
    "plan": (["plan", "--ratio", "0.25", "--selection", "optimal"], {"plan.json"}),
    "plan elsewhere": (["plan", "--ratio", "0.13", "--out", "W/p2.json"], {"p2.json"}),
    "figure": (["plan", "--ratio", "0.25", "--selection", "optimal", "--figure", "W/p.svg"], {"p.svg"}),
    "prune, dry": (["prune", "--dry-run"], set()),
    "prune": (["prune"], {"pruned/"}),
    "prune elsewhere": (["prune", "--out", "W/p2"], {"p2/"}),
    "weights": (["prune", "MODEL", "--method", "magnitude"], {"magnitude/"}),
    "estimate": (["finetune", "--estimate"], set()),
    "finetune": (["finetune", "--epochs", "0.1"], {"healed/"}),
    "eval elsewhere": (["eval", "--no-speed", "--out", "W/ev2.json"], {"ev2.json", "ev2.safetensors"}),
    "eval": (["eval", "--no-speed"], {"eval.json", "eval.safetensors", "report.html"}),
    "eval elsewhere again": (["eval", "--no-speed", "--out", "W/ev3.json"], {"ev3.json", "ev3.safetensors"}),
    "export": (["export"], {"export/"}),
    "report elsewhere": (["report", "--out", "W/r2.html"], {"r2.html"}),
    "compare": (
        ["compare", "--strategies", "random", "--ratios", "0.13", "--baselines", "", "--epochs", "0.1", "--no-speed"],
        {"compare.json", "compare.md", "compare.csv", "compare.svg", "compare/"},
    ),
    "status": (["status"], set()),
    "run, dry": (["run", "MODEL", "--dry-run"], set()),
    "env": (["env"], set()),
    "schema": (["schema", "plan"], set()),
    "saved": (["plan", "--ratio", "0.25", "--selection", "optimal", "--save-config", "W/c.yaml"], {"c.yaml"}),
}


@pytest.mark.long
def test_no_command_writes_what_it_was_not_asked_for(own: Own, tmp_path: Path) -> None:
    space = tmp_path / "w"
    known = {"DATA": str(own.data), "MODEL": str(own.model)}
    inputs = {**list_files(own.model), **list_files(own.data.parent)}
    before: dict[str, str] = {}
    for name, (words, made) in MADE.items():
        words = [known.get(word, word.replace("W/", f"{space}/")) for word in words]
        place = [] if words[0] in ("env", "schema") else ["-w", str(space)]
        succeed(*words, *place)
        after = list_files(space) if space.exists() else {}
        assert {key: after[key] for key in before} == before, f"{name} has changed what was there"
        new = after.keys() - before.keys()
        assert {file.partition("/")[0] + ("/" if "/" in file else "") for file in new} == made, name
        before = after
    assert {**list_files(own.model), **list_files(own.data.parent)} == inputs


def test_a_refused_or_dry_call_makes_no_workspace(own: Own, tmp_path: Path) -> None:
    space = tmp_path / "a/b"
    for words in (
        ["plan", "--ratio", "0.25"],
        ["analyze", own.model],
        ["run", own.model, "--data", own.data, "--ratio", "0.9"],
        ["run", own.model, "--data", tmp_path / "none.json"],
        ["finetune", "--device", "tpu"],
        ["status"],
    ):
        call(*words, "-w", space)
        assert not (tmp_path / "a").exists(), words
    succeed("run", own.model, "--data", own.data, "--dry-run", "-w", space)
    assert not (tmp_path / "a").exists()


# What is refused


def test_who_is_refused_learns_what_is_there_and_what_replaces_it(own: Own, space: Path) -> None:
    model = own.model.name
    cases: list[tuple[list[object], list[str]]] = [
        (["prepare", own.data, "--holdout", "0.3", "--calibration", "0.25"], ["from vqa.json", "it is up to date"]),
        (["prepare", own.data, "--seed", "1"], ["from vqa.json", "holdout 0.3", "seed was 0, and is 1 now"]),
        (["analyze", own.model, "--text", "conversation"], [f"of {model}", "text was prompt, and is conversation now"]),
        (["plan", "--ratio", "0.13"], [f"of {model}", "ratio 0.25", "ratio was 0.25, and is 0.13 now"]),
        (["prune"], [f"pruned, from {model} without layers", "it is up to date"]),
        (["finetune", "--lr", "1e-3", "--batch-size", "8", "--grad-accum", "1"], ["healed", "it is up to date"]),
        (["finetune", "--lr", "2e-3"], [f"healed, from {model}", "lr was 0.001, and is 0.002 now"]),
        (["eval", "--no-speed"], ["of dense, pruned, healed", "it is up to date"]),
        (["eval", "--no-speed", "--samples", "3"], ["of dense, pruned, healed", "samples was not set, and is 3 now"]),
        (["export"], ["healed", "it is up to date"]),
        (["export", "--name", "mine"], ["healed", "name was not set, and is mine now"]),
    ]
    before = list_files(space)
    for words, wanted in cases:
        sentence = refuse(*words, "-w", space)
        for part in ("exists already", *wanted, f"`interlace {words[0]} --force` replaces it"):
            assert part in sentence, sentence
        assert list_files(space) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "cee"}, "cee"),
        ({"objective": "ce,local"}, "local"),
        ({"device": "cuda"}, "--device cuda cannot be used here"),
        ({"engine": "zero9"}, "zero9"),
        ({"engine": "zero2"}, "zero2"),
        ({"optim": "sgdd"}, "sgdd"),
        ({"report-to": "wandb"}, "wandb"),
        ({"ratio": "0.9"}, "can drop at most"),
        ({"protect": "0-7"}, "can drop at most 0"),
        ({"stack": "decoder"}, "decoder"),
        ({"tasks": "TASKS"}, "task 0"),
        ({"tasks": "none.yaml"}, "none.yaml"),
        ({"weight": "text=x"}, "text=x"),
        ({"criterion": "loss", "strategy": "random"}, "--criterion belongs to the strategy interlace"),
        ({"heal-min-pixels": "100000"}, "more than --heal-max-pixels"),
        ({"dtype": "bf61"}, "Did you mean bfloat16?"),
        ({"attn": "flush"}, "flush"),
    ],
)
@pytest.mark.parametrize("command", ["run", "compare"])
def test_all_options_are_checked_before_the_first_step(
    command: str, options: dict[str, str], said: str, own: Own, tmp_path: Path
) -> None:
    if command == "compare" and options.keys() & {"ratio", "protect"}:
        pytest.skip("what cannot drop so much is left out of the table")
    tasks, space = tmp_path / "tasks.yaml", tmp_path / "w"
    tasks.write_text("- {source: demo, metric: nonsense}\n")
    if command == "compare" and "strategy" in options:
        options, said = {"strategies": "random/loss"}, "--criterion belongs to the strategy interlace"
    words = to_words({name: tasks if value == "TASKS" else value for name, value in options.items()})
    found = call(
        command, own.model, "--data", own.data, *(["--ratio", "0.13"] * (command == "run")), *words, "-w", space
    )
    assert found.code in (1, 2), found.out
    assert said in found.sentence, found.err
    assert not space.exists(), "nothing is written"


# Status


def test_status_of_a_finished_workspace(own: Own, space: Path) -> None:
    assert ask_status(space) == dict.fromkeys(STEPS, ("up to date", ""))
    found = succeed("status", "-w", space, "--json").json
    assert (found["model"], found["source"], found["mismatches"]) == (str(own.model), "vqa.json", [])
    shown = succeed("status", "-w", space).out
    assert "from vqa.json" in shown
    assert shown.count("up to date") >= len(STEPS)


def test_status_says_what_is_stale_and_why(own: Own, space: Path, alice: Path, tmp_path: Path) -> None:
    shutil.rmtree(space / "export")
    (space / "healed/model.safetensors").unlink()
    succeed("plan", "--ratio", "0.13", "--force", "-w", space)
    found = ask_status(space)
    assert found["prepare"] == ("up to date", "")
    assert found["plan"] == ("up to date", "")
    assert found["prune"][0] == "stale"
    assert "the layers that the plan drops: " in found["prune"][1]
    assert found["finetune"][0] in ("stale", "damaged")
    assert found["export"][0] == "missing"
    # Where the dataset came from is known, and looked at again.
    space = tmp_path / "v"
    succeed("prepare", alice, "-w", space)
    assert ask_status(space)["prepare"] == ("up to date", "")
    (alice.parent / "images/3.png").write_bytes(draw_other_picture())
    condition, why = ask_status(space)["prepare"]
    assert condition == "stale"
    assert "images/3.png has other content" in why


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": "loss", "loss-samples": "4", "search-ratio": "0"},
        {"compensate": "linear"},
        *(
            pytest.param(options, marks=pytest.mark.long)
            for options in (
                {"strategy": "sleb", "triplet-selection": LEFT_OUT, "loss-samples": "4", "search-ratio": "0.25"},
                {"stack": "vision", "ratio": "0.34", "strategy": "consecutive", "triplet-selection": LEFT_OUT},
                {"weight": "image=2,text=1"},
                {"name": "mine", "license": "mit"},
                {"tasks": "TASKS", "allow-overlap": None},
            )
        ),
    ],
)
def test_status_takes_things_by_the_settings_they_were_made_with(
    options: dict[str, str | None], own: Own, tmp_path: Path
) -> None:
    space, model = tmp_path / "w", own.model
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text(f"- {{name: charts, source: {own.data}, samples: 4}}\n")
    if options.get("stack") == "vision":
        model = tmp_path / "towered"
        save_chain_model(model, tower=6)
    words = build_run(model, own.data, space, **{k: str(tasks) if v == "TASKS" else v for k, v in options.items()})
    succeed(*words)
    assert ask_status(space) == dict.fromkeys(STEPS, ("up to date", ""))
    assert set(look_ahead(words).values()) == {("skip", "")}


# A dry run


@pytest.mark.parametrize(
    ("options", "remade"),
    [
        ({"ratio": "0.13"}, ["plan", "prune", "finetune", "eval", "export"]),
        ({"lr": "2e-3"}, ["finetune", "eval", "export"]),
        ({"eval-samples": "5"}, ["eval", "export"]),
        ({"license": "mit"}, ["export"]),
        ({"seed": "1"}, list(STEPS)),
    ],
)
def test_a_dry_run_agrees_with_the_run(options: dict[str, str], remade: list[str], own: Own, space: Path) -> None:
    words = own.at(space, **options)
    before = list_files(space)
    ahead = look_ahead(words)
    for step in STEPS:
        possible = ("refuse", "skip or refuse") if step in remade else ("skip", "skip or refuse")
        assert ahead[step][0] in possible, (step, ahead)
    assert ahead[remade[0]][0] == "refuse"
    assert {ahead[step][0] for step in STEPS[: STEPS.index(remade[0])]} <= {"skip"}
    refuse(*words)
    assert list_files(space) == before
    check_remade(words, space, *remade)


def test_a_dry_run_of_nothing_makes_everything(own: Own, tmp_path: Path) -> None:
    ahead = look_ahead(own.at(tmp_path / "w"))
    assert {action for action, _ in ahead.values()} == {"make"}
    assert not (tmp_path / "w").exists()


def test_anew_makes_what_is_up_to_date(own: Own, space: Path) -> None:
    words = own.at(space)
    assert {action for action, _ in look_ahead(words, "--anew").values()} == {"make anew"}
    before = list_files(space)
    assert set(succeed(*words, "--anew", "--json").json["seconds"]) == set(STEPS)
    after = list_files(space)
    for name in ("healed/model.safetensors", "analysis.json", "plan.json"):
        assert after[name] == before[name], "the same again"


def test_env_says_what_a_bug_report_needs() -> None:
    import torch

    from interlace_cli import __version__

    found = succeed("env", "--json").json
    assert found["programs"]["interlace"] == __version__
    assert found["programs"]["torch"] == torch.__version__
    assert "ddp" in found["optional"]["engines"]
    shown = succeed("env").out
    assert torch.__version__ in shown
    assert "TOKEN" not in shown.upper().replace("TOKENIZERS", "")


# Options in files


@pytest.mark.parametrize("suffix", ["yaml", "toml"])
def test_a_saved_run_is_the_same_run(suffix: str, own: Own, space: Path, tmp_path: Path) -> None:
    file, again = tmp_path / f"run.{suffix}", tmp_path / f"again.{suffix}"
    more = {"weight": "image=1,text=1", "protect": "0,1,7", "importance": "taylor", "loss-samples": "4"}
    words = own.at(space, **more)
    succeed(*words, "--force", "--save-config", file)
    record = succeed("run", "--config", file, "--save-config", again, "--json").json
    assert record["skipped"] == list(STEPS)
    assert again.read_text() == file.read_text()
    assert set(look_ahead(["run", "--config", str(file)]).values()) == {("skip", "")}
    # The command line goes first.
    assert look_ahead(["run", "--config", str(file), "--lr", "0.5"])["finetune"][0] == "refuse"
    assert record["options"]["lr"] == 1e-3
    # What was run is in the record, too.
    whole = tmp_path / "record.yaml"
    whole.write_text(json.dumps(record["options"]))
    assert succeed("run", "--config", whole, "--json").json["skipped"] == list(STEPS)


def test_a_saved_run_of_the_dataset_that_is_there_takes_it_again(own: Own, space: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    words = own.at(space, data=LEFT_OUT, holdout=LEFT_OUT, calibration=LEFT_OUT)
    record = succeed(words[0], *words[2:], "--save-config", file, "--json").json
    assert record["skipped"] == list(STEPS)
    assert succeed("run", "--config", file, "--json").json["skipped"] == list(STEPS)
    (tmp_path / "record.yaml").write_text(json.dumps(record["options"]))
    assert succeed("run", "--config", tmp_path / "record.yaml", "--json").json["skipped"] == list(STEPS)


SAVED: dict[str, list[str]] = {
    "prepare": ["d.json", "--holdout", "0.3", "--subset", "a,b", "--min-relevance", "4", "--image-root", "i"],
    "analyze": ["demo", "--importance", "loss,taylor", "--by", "kind", "--protect", "0-2,7", "--attn", "eager"],
    "plan": ["--ratio", "0.25", "--weight", "text=2,image=1", "--threshold", "0.5", "--scores", "a", "b", "c"],
    "prune": ["demo", "--drop-layers", "3,5", "--dtype", "bf16", "--verify"],
    "finetune": ["--lr", "1e-5", "--tune-layers", "2-4", "--objective", "local,distill+anchor", "--epochs", "0.5"],
    "eval": ["a", "b", "--allow-mismatch", "--import", "dense=a.json", "--import", "pruned=b.json"],
    "export": ["--format", "hf", "--format", "gguf", "--public", "--name", "x", "--license", "mit"],
    "compare": ["demo", "--strategies", "interlace/loss,sleb", "--ratios", "0.1,0.25", "--seeds", "0,1"],
    "run": ["demo", "--data", "d.json", "--heal-batch-size", "4", "--eval-min-pixels", "9", "--anew"],
    "report": ["--out", "r.html"],
    "bench": ["prune"],
}


@pytest.mark.parametrize("suffix", ["yaml", "toml"])
@pytest.mark.parametrize("command", SAVED)
def test_a_saved_file_holds_the_options_of_every_command(
    command: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read again, it is the same record."""
    from interlace_cli.cli import derive

    seen: list[Any] = []
    save = derive._save_config

    def keep(made: Any, path: str) -> None:
        seen.append(made)
        save(made, path)
        raise InterlaceError("that is all.")

    monkeypatch.setattr(derive, "_save_config", keep)
    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    assert refuse(command, *SAVED[command], "--save-config", first) == "that is all."
    assert refuse(command, "--config", first, "--save-config", second) == "that is all."
    assert seen[0] == seen[1]
    assert first.read_text() == second.read_text()
