"""Language models that read text alone, through every step: against plain transformers where that tells the truth."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from text_models import CHAT_TEMPLATE, build_tokenizer, iter_conversations, save_language_model, write_conversations
from torch.nn import functional
from workspaces import CHOICE, RECIPE, Own, call, draw_other_picture, refuse, succeed, to_words

from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.domain.dataset import Sample
from interlace_cli.families.architectures import ARCHITECTURES, LANGUAGE_MODELS
from interlace_cli.families.modules import bypassed, find_layers
from interlace_cli.families.replay import Replay
from interlace_cli.io.arrays import load_arrays
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import choose_auto_class, import_transformers, is_text_only
from interlace_cli.io.text_processor import TextProcessor

OBJECTIVES = "local,ce+distill+anchor"
MEASURED = ("--importance", "loss", "--importance", "taylor", "--loss-samples", "3", "--repeats", "1")
NO_TEMPLATE = "no chat template"


def load_plainly(folder: Path) -> Any:
    model, report = import_transformers().AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


def render(sample: Sample) -> tuple[str, str]:
    """The prompt and the answer as the template writes them, by hand."""
    question, answer = (turn.value for turn in sample.conversations)
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", f"{answer}<|im_end|>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Own:
    """A whole run on a tiny Llama, with every kind of importance and objective."""
    root = tmp_path_factory.mktemp("language")
    save_language_model(root / "llama")
    data, space = write_conversations(root), root / "w"
    options = {**RECIPE, **CHOICE, "data": data, "workspace": space, "objective": OBJECTIVES, "portion": 1}
    said = succeed("run", root / "llama", *to_words(options), *MEASURED, "--verify").said
    assert NO_TEMPLATE not in said
    return Own(root / "llama", data, space, [])


@torch.inference_mode()
def test_similarities_are_those_of_plain_hidden_states(finished: Own) -> None:
    model, tokenizer = load_plainly(finished.model), import_transformers().AutoTokenizer.from_pretrained(finished.model)
    seen: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    samples = load_split(finished.space / "dataset", "calibration")
    arrays = load_arrays(finished.space / "analysis.safetensors")
    for number, sample in enumerate(samples):
        seen.clear()
        ids = tokenizer(render(sample)[0], add_special_tokens=False, return_tensors="pt").input_ids
        model(ids)
        wanted = [float(functional.cosine_similarity(a, b, dim=-1).mean()) for a, b in itertools.pairwise(seen)]
        found = arrays["all_s1"][number].tolist()
        assert found[: len(wanted)] == pytest.approx(wanted, abs=1e-5)
        assert arrays["tokens"][number] == ids.shape[1]
        assert not arrays["image_tokens"][number]
    analysis = json.loads((finished.space / "analysis.json").read_text())
    assert analysis["image"] is None
    assert analysis["calibration"]["image_tokens"] == analysis["calibration"]["vision_patches"] == 0


@torch.inference_mode()
def test_losses_are_those_of_plain_transformers(finished: Own) -> None:
    tokenizer = import_transformers().AutoTokenizer.from_pretrained(finished.model)
    found = json.loads((finished.space / "eval.json").read_text())
    folders = {"dense": finished.model, "pruned": finished.space / "pruned", "healed": finished.space / "healed"}
    assert [row["name"] for row in found["results"]] == list(folders)
    for row in found["results"]:
        model, total, count = load_plainly(folders[row["name"]]), 0.0, 0
        for sample in load_split(finished.space / "dataset", "heldout"):
            prompt, answer = (tokenizer(text, add_special_tokens=False).input_ids for text in render(sample))
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            total += float(functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
            count += len(answer)
        assert row["loss"] == pytest.approx(total / count, abs=1e-4)
        assert row["layers"] == len(model.model.layers)


def test_only_tuned_layers_change_and_samples_are_packed(finished: Own) -> None:
    pruned, healed = (load_plainly(finished.space / name).state_dict() for name in ("pruned", "healed"))
    tuned = json.loads((finished.space / "healed/interlace.json").read_text())["tune"]
    changed = {name.split(".")[2] for name in pruned if not torch.equal(pruned[name], healed[name])}
    assert changed == {str(position) for position in tuned}
    estimate = succeed("finetune", "-w", finished.space, "--estimate", "--json", "--out", finished.space / "none").json
    assert estimate["layout"] == "segments"


def test_the_export_is_a_language_model_with_a_card_that_says_so(finished: Own) -> None:
    folder = finished.space / "export"
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-generation\n" in card
    assert "type: text-generation\n" in card
    assert not any(word in card.lower() for word in ("image", "picture", "vision", "pixel", "mmproj")), card
    snippet = card.split("```python\n")[1].split("```")[0]
    name = snippet.split('path = "')[1].split('"')[0]
    scope: dict[str, Any] = {}
    exec(snippet.replace(f'"{name}"', repr(str(folder))), scope)
    assert len(scope["model"].model.layers) == 6
    assert scope["output"].shape[1] > scope["inputs"]["input_ids"].shape[1]
    page = (finished.space / "report.html").read_text()
    assert "S1 image" not in page


def test_what_needs_pictures_is_refused_with_the_reason(finished: Own, tmp_path: Path) -> None:
    said = refuse("prune", finished.model, "--drop-layers", "2", "--stack", "vision", "--out", tmp_path / "x")
    assert said == "a llama model has no vision stack that could be cut. Its stacks are language, text."
    assert "reads text alone" in refuse("bench", "analyze", "--model", finished.model, code=2)
    said = refuse("export", "-w", finished.space, "--format", "gguf", "--out", tmp_path / "gguf", code=2)
    assert "convert_hf_to_gguf.py" in said


def test_samples_with_images_are_counted_out_or_refused(finished: Own, tmp_path: Path) -> None:
    records = list(iter_conversations(30))
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(draw_other_picture(number))
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A shape."}]
        records.append({"id": f"image-{number}", "image": f"{number}.png", "conversations": turns})
    (tmp_path / "mixed.json").write_text(json.dumps(records))
    (tmp_path / "shown.json").write_text(json.dumps(records[30:]))
    drawn = ["--portion", "1", "--holdout", "0.3", "--calibration", "0.3"]
    space = tmp_path / "w"
    succeed("prepare", tmp_path / "mixed.json", "-w", space, *drawn)
    splits = {split: load_split(space / "dataset", split) for split in ("calibration", "train", "heldout")}
    count, shown = len(splits["calibration"]), {name: sum(bool(s.image) for s in own) for name, own in splits.items()}
    assert all(shown.values())
    found = succeed("analyze", finished.model, "-w", space, "--json")
    assert f"{shown['calibration']} of {count} calibration samples have images" in found.said
    assert found.json["calibration"]["samples"] == count - shown["calibration"]
    succeed("plan", "-w", space, "--ratio", "0.25")
    succeed("prune", "-w", space)
    healed = succeed("finetune", "-w", space, *to_words(RECIPE), "--json").json
    assert healed["healing"]["samples"] == len(splits["train"]) - shown["train"]
    judged = succeed("eval", space / "healed", "-w", space, "--dataset", space / "dataset", "--no-speed", "--json").json
    assert sum(judged["samples"].values()) == len(splits["heldout"]) - shown["heldout"]
    succeed("prepare", tmp_path / "shown.json", "-w", tmp_path / "v", *drawn)
    said = refuse("analyze", finished.model, "-w", tmp_path / "v")
    assert "have images, and a llama model reads text alone" in said


def test_a_base_model_is_asked_in_plain_lines_and_that_is_said(finished: Own, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(finished.model, base)
    build_tokenizer(template=None).save_pretrained(base)
    (base / "chat_template.jinja").unlink()
    assert NO_TEMPLATE in succeed("analyze", base, "-w", tmp_path, "--dataset", finished.space / "dataset").said
    tokenizer = build_tokenizer(template=None)
    sample = load_split(finished.space / "dataset", "train")[0]
    question, answer = (turn.value for turn in sample.conversations)
    batch = Batcher(TextProcessor(tokenizer), tmp_path).build_conversations([sample])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    assert tokenizer.decode(ids) == f"User: {question}\nAssistant: {answer}<|endoftext|>\n"
    assert tokenizer.decode(ids[labels != IGNORE]) == f"{answer}<|endoftext|>"


def test_a_text_processor_refuses_images_and_gives_no_token_types() -> None:
    processor = TextProcessor(build_tokenizer())
    assert set(processor(text=["Tea."], padding=True)) == {"input_ids", "attention_mask"}
    shown = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    with pytest.raises(ValueError, match="text alone"):
        processor.apply_chat_template(shown, tokenize=False)
    with pytest.raises(ValueError, match="no images"):
        processor(text=["Tea."], images=[[b""]])
    # As the template alone would print it.
    said = processor.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": "A"}]}], tokenize=False)
    assert said == "<|im_start|>user\nA<|im_end|>\n"
    assert "{'type'" in processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "A"}]}],
        tokenize=False,
        chat_template=CHAT_TEMPLATE.replace("message['content']", "message['content'] | string"),
    )


@pytest.mark.parametrize(
    ("model_type", "auto"),
    [("llama", "CausalLM"), ("gemma3_text", "CausalLM"), ("gemma3", "ImageTextToText"), ("fuyu", "ImageTextToText")],
)
def test_the_class_is_the_one_that_transformers_maps_the_config_to(model_type: str, auto: str) -> None:
    transformers = import_transformers()
    config = transformers.AutoConfig.for_model(model_type)
    assert choose_auto_class(model_type) == f"AutoModelFor{auto}"
    assert type(config) in getattr(transformers, f"AutoModelFor{auto}")._model_mapping
    assert (type(config) in transformers.AutoModelForImageTextToText._model_mapping) == (auto == "ImageTextToText")


def test_a_type_that_is_mapped_to_text_alone_may_see_all_the_same() -> None:
    """Phi-4 Multimodal stands among the causal language models only."""
    assert choose_auto_class("phi4_multimodal") == "AutoModelForCausalLM"
    assert not is_text_only("phi4_multimodal")
    assert is_text_only("llama")
    known = [name for name in ARCHITECTURES if name in import_transformers().CONFIG_MAPPING]
    assert {choose_auto_class(name) for name in known} == {"AutoModelForImageTextToText"}
    assert all(is_text_only(name) for name in LANGUAGE_MODELS)


@torch.inference_mode()
def test_layers_that_return_tuples_are_dropped_before_they_have_run() -> None:
    """Falcon's do. The first drop of a calibration may be of layers that no pass has run before."""
    config = zoo.build_config("falcon")
    model, inputs = zoo.build_model(config), zoo.build_inputs("falcon", config)
    for drop in ([0, 3], [1, 6]):
        with bypassed(model, drop):
            wanted = model(**inputs, use_cache=False).logits
        with Replay(model, find_layers(model)) as replay:
            found = replay.record({**inputs, "use_cache": False}, drop)[1].logits
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["florence2", "pix2struct"])
def test_an_encoder_with_a_decoder_is_refused_before_anything_is_made(name: str, finished: Own, tmp_path: Path) -> None:
    """By what cannot be done with it, not by what its processor says on the way."""
    folder, text = tmp_path / name, "an encoder with a decoder of its own"
    zoo.build_model(zoo.build_config(name)).save_pretrained(folder)
    words = ["run", folder, "--data", finished.data, "-w", tmp_path / "w", *to_words(RECIPE), "--ratio", "0.25"]
    assert text in refuse(*words)
    assert not (tmp_path / "w").exists()
    assert f"eval is for models that go on from their prompt, and {name} is {text}" in refuse(
        "eval", folder, "--dataset", finished.space / "dataset", "-w", tmp_path / "w"
    )


def test_other_kinds_of_models_are_refused_by_what_they_are(tmp_path: Path) -> None:
    transformers = import_transformers()
    tiny = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 4, "num_heads": 2, "vocab_size": 300}
    transformers.AutoModel.from_config(transformers.T5Config(**tiny)).save_pretrained(tmp_path / "t5")
    build_tokenizer().save_pretrained(tmp_path / "t5")
    succeed("prepare", write_conversations(tmp_path), "-w", tmp_path, "--portion", "1", "--calibration", "0.3")
    said = refuse("analyze", tmp_path / "t5", "-w", tmp_path)
    assert "neither a vision-language model nor a causal language model" in said
    assert call("plan", "--model", tmp_path / "t5", "--drop", "1", "-w", tmp_path).code == 0
