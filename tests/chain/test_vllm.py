"""Answers by vLLM: what it is asked, what is made of what it says, and what is said where it cannot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workspaces import refuse, succeed

from interlace_cli.core.evaluate import evaluate
from interlace_cli.data.batches import Batcher
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import InterlaceError, MissingInputError, UsageError
from interlace_cli.evaluation import answering
from interlace_cli.evaluation.batch_answers import BatchAnswers
from interlace_cli.evaluation.quality import measure_quality
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.evaluation.vllm_process import find_version
from interlace_cli.evaluation.vllm_replies import generate_replies
from interlace_cli.families.model_files import open_model
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor
from interlace_cli.options import EvaluateOptions

VLLM = """
import json, os, signal
__version__ = "9.8"
MODE = os.environ.get("FAKE_VLLM", "")
class SamplingParams:
    def __init__(self, **fields):
        self.__dict__.update(fields)
class LLM:
    def __init__(self, **fields):
        if MODE == "cannot":
            raise ValueError("head size 24 is not supported\\nand more")
        self.calls, self.out = 0, os.environ["FAKE_VLLM_LOG"]
        self.log("load", fields | {"ranks": [name for name in os.environ if name in ("RANK", "WORLD_SIZE")]})
    def log(self, what, value):
        with open(self.out, "a") as file:
            file.write(json.dumps([what, value]) + "\\n")
    def generate(self, prompts, settings, use_tqdm):
        self.calls += 1
        if MODE == f"dies at {self.calls}":
            os.kill(os.getpid(), signal.SIGKILL)
        self.log("generate", vars(settings) | {"count": len(prompts)})
        return [self.answer(prompt, settings) for prompt in prompts]
    def answer(self, prompt, settings):
        tokens, images = prompt["prompt_token_ids"], prompt.get("multi_modal_data", {}).get("image", [])
        assert all(image.mode == "RGB" for image in images)
        class Output: pass
        one, found = Output(), Output()
        one.token_ids = (tokens[-3], tokens[-4], settings.stop_token_ids[0])
        found.outputs = [one]
        # A picture of the demo's world is 16 tokens.
        found.prompt_token_ids = tokens + [0] * (15 * len(images) + (MODE == "reads more"))
        return found
"""
"""It says two tokens of the prompt again, and ends."""
SETTINGS: dict[str, Any] = {"samples": 70, "batch_size": 8, "max_new_tokens": 5, "device": "cpu", "speed": False}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """A vLLM for this interpreter, whose fault can be named; returns what it was asked until then."""
    site, log = tmp_path / "site", tmp_path / "log"
    (site / "vllm").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text(VLLM)
    platform = "class current_platform:\n    import os\n    device_type = os.environ.get('FAKE_DEVICE', 'cpu')\n"
    (site / "vllm" / "platforms.py").write_text(platform)
    (site / "vllm_fake-9.8.dist-info").mkdir()
    (site / "vllm_fake-9.8.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-fake\nVersion: 9.8\n")
    (site / "vllm_fake-9.8.dist-info" / "top_level.txt").write_text("vllm\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAKE_VLLM_LOG", str(log))

    def set_fault(fault: str) -> list[Any]:
        monkeypatch.setenv("FAKE_VLLM", fault)
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    return set_fault


def build(model: Path, dataset: Path, out: Path, **more: Any) -> EvaluateOptions:
    given = {**SETTINGS, "backend": "vllm", **more}
    return EvaluateOptions(checkpoints=(str(model),), dataset=dataset, out=out, workspace=out.parent, **given)


def test_it_is_asked_what_transformers_is_asked(
    chain_model: Path,
    small_dataset: Path,
    tmp_path: Path,
    fake: Callable[[str], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "0")
    seen: list[Any] = []
    score = answering.score_answers

    def look(answers: list[str], samples: Any) -> Any:
        seen.append(answers)
        return score(answers, samples)

    monkeypatch.setattr(answering, "score_answers", look)
    options = build(chain_model, small_dataset, tmp_path / "e.json", samples=None, seed=4, dtype="bfloat16")
    found = evaluate(options, Silent())
    (loaded, setup), *asked = fake("")
    assert loaded == "load"
    assert setup["model"] == str(chain_model)
    assert (setup["dtype"], setup["seed"], setup["limit_mm_per_prompt"]) == ("bfloat16", 4, {"image": 1})
    assert setup["ranks"] == [], "it would wait for the other processes"
    samples = load_split(small_dataset, "heldout")
    assert sum(call["count"] for _, call in asked) == len(samples)
    assert {(call["temperature"], call["max_tokens"]) for _, call in asked} == {(0.0, 5)}
    processor = load_processor(chain_model)
    batcher = Batcher(processor, small_dataset)
    assert asked[0][1]["stop_token_ids"][0] == processor.tokenizer.eos_token_id
    for sample, answer in zip(samples, seen[0], strict=True):
        prompt = batcher.tokenizer(batcher.render(sample)[0].prompt, add_special_tokens=False)["input_ids"]
        assert answer == processor.tokenizer.decode([prompt[-3], prompt[-4]], skip_special_tokens=True).strip()
    assert found.versions["vllm"] == "9.8"
    assert found.created_by.settings["backend"] == "vllm"
    assert found.results[0].cut == 0
    own = build(
        chain_model, small_dataset, tmp_path / "t.json", samples=None, seed=4, dtype="bfloat16", backend="transformers"
    )
    plain = evaluate(own, Silent())
    assert plain.results[0].loss == found.results[0].loss
    assert "backend" not in plain.created_by.settings
    assert "vllm" not in plain.versions


def test_killed_it_goes_on_behind_the_last_chunk(
    chain_model: Path,
    small_dataset: Path,
    tmp_path: Path,
    fake: Callable[[str], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("interlace_cli.evaluation.vllm_replies.CHUNK", 20)
    whole = evaluate(build(chain_model, small_dataset, tmp_path / "whole" / "e.json", samples=50), Silent())
    before = fake("dies at 3")
    options = build(chain_model, small_dataset, tmp_path / "w" / "e.json", samples=50)
    with pytest.raises(InterlaceError, match=r"vLLM was killed \(SIGKILL\)"):
        evaluate(options, Silent())
    assert not (tmp_path / "w" / "e.json").exists()
    fake("")
    found = evaluate(options, Silent())
    asked = [call["count"] for what, call in fake("")[len(before) :] if what == "generate"]
    assert asked == [20, 20, 10], "the last one alone is asked again"
    assert found.results == whole.results
    assert {path.name for path in (tmp_path / "w").iterdir()} == {"e.json", "e.safetensors"}


@pytest.mark.parametrize(
    ("fault", "device", "sentence"),
    [
        ("cannot", "cpu", "vLLM cannot run it: ValueError: head size 24 is not supported. Leave --backend out"),
        ("reads more", "cpu", "tokens of the prompt of sample"),
        ("", "cuda", "computes on cuda, and transformers on cpu. Give --device cuda"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(
    fault: str,
    device: str,
    sentence: str,
    chain_model: Path,
    small_dataset: Path,
    tmp_path: Path,
    fake: Callable[[str], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_DEVICE", device)
    fake(fault)
    with pytest.raises(InterlaceError) as caught:
        evaluate(build(chain_model, small_dataset, tmp_path / "w" / "e.json", samples=4), Silent())
    assert sentence in str(caught.value)
    assert not (tmp_path / "w").exists()


def test_where_it_is_not_installed(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    words = ["eval", chain_model, "--dataset", small_dataset, "-w", tmp_path / "w", "--samples", 2]
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'no such thing' >&2\nexit 3\n")
    program.chmod(0o755)
    said = refuse(*words, "--backend", f"vllm={program}")
    assert f"vLLM is not installed for {program}: no such thing. Install it" in said
    said = refuse(*words, "--backend", f"vllm={tmp_path}", code=2)
    assert f"{tmp_path} is no program" in said
    assert not (tmp_path / "w").exists()
    if find_vllm() != "vllm":
        with pytest.raises(MissingInputError, match="vLLM is not installed"):
            find_version("vllm")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"backend": "sglang"}, "--backend does not take 'sglang'"),
        ({"backend": "vllm="}, "--backend does not take 'vllm='"),
        ({"backend": "transformers=python"}, "--backend does not take 'transformers=python'"),
        ({"generation_config": "model"}, "--backend vllm decodes greedily"),
        ({"device_map": "auto", "device": "auto"}, "vLLM has ways of its own"),
    ],
    ids=str,
)
def test_options_that_contradict_it(more: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        build(tmp_path, tmp_path, tmp_path / "e.json", **more)
    assert sentence in str(caught.value)


# --- the real one


def find_vllm() -> str | None:
    """$INTERLACE_VLLM is the python of an environment with it."""
    backend = f"vllm={os.environ['INTERLACE_VLLM']}" if "INTERLACE_VLLM" in os.environ else "vllm"
    try:
        find_version(backend)
    except InterlaceError:
        return None
    return backend


@pytest.mark.harness
def test_its_greedy_tokens_are_those_of_transformers(small_dataset: Path, tmp_path: Path) -> None:
    """Of a model whose heads its attention takes, dense and cut, in float32."""
    backend = find_vllm()
    if backend is None:
        pytest.skip("vLLM is not installed; $INTERLACE_VLLM may name the python of an environment with it")
    from tiny import save_servable_model

    dense = tmp_path / "dense"
    save_servable_model(dense)
    succeed("prune", dense, "--drop-layers", "3,5", "-w", tmp_path / "w")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    tasks = [EvalTask("heldout", small_dataset, load_split(small_dataset, "heldout")[:24])]
    for model in (dense, tmp_path / "w" / "pruned"):
        options = EvaluateOptions(backend=backend, dtype="float32", device="cpu", max_new_tokens=12)
        processor = load_processor(model)
        replies = generate_replies("it", open_model(str(model)), processor, tasks, options, BatchAnswers(), Silent())
        batcher = Batcher(processor, small_dataset)
        wanted = measure_quality(load_model(model), batcher, tasks[0].samples, 8, 12, lambda *_: None, print)
        assert len(set(wanted.answers)) > 1
        assert [reply.text for reply in replies.by_task[0]] == wanted.answers
        assert sum(reply.is_cut for reply in replies.by_task[0]) == wanted.cut
