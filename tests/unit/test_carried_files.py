"""What goes with a model's weights, and what of a folder stays where it is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from making import make_cut
from outcome import call, refuse
from tiny import TINY

from interlace_cli.io.models import import_transformers
from interlace_cli.io.side_files import choose_side_files, find_side_files

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"
LEFT_NAMES = """
    trainer_state.json training_args.bin optimizer.pt scheduler.pt rng_state_0.pth latest zero_to_fp32.py
    events.out.tfevents.1700000000.node.1.0 nohup.out slurm-123.out train.log predictions.jsonl args.json
    generated_predictions.jsonl all_results.json train_results.json eval_results.json trainer_log.jsonl
    training_loss.png wandb/latest-run.json runs/Nov/events.out.tfevents.1 global_step100/mp_rank_00_model_states.pt
    params.json consolidated.safetensors recipe.yaml kv_cache_scales.json pytorch_model.bin pytorch_model.bin.index.json
    model.gguf tf_model.h5 onnx/model.onnx original/params.json modelcard.json run.sh train.py configuration.json
    ds_config.json environment.json .env notes.md
"""
CARRIED_NAMES = """
    LICENSE LICENSE.txt NOTICE USE_POLICY.md tokenizer.json tokenizer_config.json special_tokens_map.json
    added_tokens.json vocab.json merges.txt vocab.txt tokenizer.model spiece.model qwen.tiktoken tekken.json
    preprocessor_config.json processor_config.json video_preprocessor_config.json audio_tokenizer_config.json
    generation_config.json chat_template.jinja chat_template.json additional_chat_templates/tool.jinja
    hf_quant_config.json quantize_config.json quant_config.json custom_generate/generate.py
"""
LEFT_BEHIND, CARRIED = LEFT_NAMES.split(), CARRIED_NAMES.split()


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"hub_token": SECRET}) if name.endswith(".json") else SECRET)


def list_all(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_what_belongs_to_the_model_is_carried(tmp_path: Path) -> None:
    """By prune, and by export out of a folder that was trained in meanwhile."""
    TINY["qwen3_vl"].save(tmp_path / "dense")
    own = list_all(tmp_path / "dense") | {"interlace.json"}
    fill(tmp_path / "dense", LEFT_BEHIND)
    fill(tmp_path / "dense", [name for name in CARRIED if name != "generation_config.json"])
    card = make_cut(tmp_path / "dense", [3], tmp_path / "cut")
    assert list_all(tmp_path / "cut") == own | set(CARRIED)
    top = {name.partition("/")[0] + "/" * ("/" in name) for name in LEFT_BEHIND if not name.startswith(".")}
    assert card.left == sorted(top)
    again = make_cut(tmp_path / "cut", [0], tmp_path / "again")
    assert again.left == []


def test_an_export_has_nothing_of_what_training_left(demo_workspace_files: Path) -> None:
    fill(demo_workspace_files / "healed", LEFT_BEHIND)
    found = call("export", "-w", demo_workspace_files, "--json")
    assert found.code == 0, found.err
    assert "Left behind, as no part of the model: all_results.json, args.json" in found.err
    assert "args.json" in json.loads(found.out)["left"]
    exported = demo_workspace_files / "export"
    assert not set(LEFT_BEHIND) & list_all(exported)
    assert not any(SECRET.encode() in path.read_bytes() for path in exported.rglob("*") if path.is_file())
    assert "args.json" not in (exported / "interlace.json").read_text()
    found = call("export", "-w", demo_workspace_files)
    assert "up to date" in found.err


@pytest.fixture
def demo_workspace_files(tmp_path: Path) -> Path:
    """With a healed checkpoint that no training has touched."""
    from interlace_cli.demo import CHECKPOINT

    make_cut(CHECKPOINT, [3], tmp_path / "w/healed")
    return tmp_path / "w"


def test_the_names_are_those_of_transformers_own_classes() -> None:
    """Its constants for processors, and what its tokenizers save."""
    transformers = import_transformers()
    from transformers import utils
    from transformers.tokenization_utils_base import ADDED_TOKENS_FILE, SPECIAL_TOKENS_MAP_FILE, TOKENIZER_CONFIG_FILE
    from transformers.utils.hub import CHAT_TEMPLATE_DIR, CHAT_TEMPLATE_FILE, LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE

    names = {utils.PROCESSOR_NAME, utils.FEATURE_EXTRACTOR_NAME, utils.IMAGE_PROCESSOR_NAME, utils.VIDEO_PROCESSOR_NAME}
    names |= {ADDED_TOKENS_FILE, SPECIAL_TOKENS_MAP_FILE, TOKENIZER_CONFIG_FILE, CHAT_TEMPLATE_FILE}
    names |= {utils.AUDIO_TOKENIZER_NAME, utils.GENERATION_CONFIG_NAME, LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE}
    names |= {f"{CHAT_TEMPLATE_DIR}/tool_use.jinja", "tokenizer.4.0.0.json"}
    sources = Path(transformers.__path__[0])
    for source in sorted(sources.glob("models/*/tokenization_*.py")):
        table = re.search(
            r"^VOCAB_FILES_NAMES = \{(.*?)\}", source.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        names |= set(re.findall(r': *"([^"]+)"', table[1])) if table else set()
    assert len(names) > 30
    assert names - choose_side_files(names, lambda name: "") == set()


def test_code_goes_with_the_model_and_what_it_opens(tmp_path: Path) -> None:
    texts = {
        "config.json": json.dumps(
            {"auto_map": {"AutoConfig": "configuration_x.XConfig", "AutoModel": "other/repo--far.Model"}}
        ),
        "tokenizer_config.json": json.dumps(
            {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}, "vocab_file": "x.vocab"}
        ),
        "configuration_x.py": "from .parts import (\n    One,\n    Two,\n)\nfrom . import helpers\n",
        "parts.py": "from .deep.inner import Three\nimport os\n",
        "deep/inner.py": "from ..shared import Four\nopen('bias.json')\n",
        "deep/unused.py": "",
        "shared.py": "PATH = os.path.join(here, 'assets/table.txt')",
        "helpers.py": "",
        "tokenization_x.py": 'load("x_tokens.yaml")  # not args.json',
        **dict.fromkeys(("x.vocab", "bias.json", "assets/table.txt", "assets/logo.png", "x_tokens.yaml"), "{}"),
        **dict.fromkeys(("args.json", "train.py", "zero_to_fp32.py", "far.py", "evaluate.py"), ""),
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = find_side_files(tmp_path)
    left = {"args.json", "train.py", "zero_to_fp32.py", "far.py", "evaluate.py", "deep/unused.py", "assets/logo.png"}
    assert set(found.left) == left - {"far.py"} | {"far.py"} & set(found.left)
    assert set(found.carried) == set(texts) - set(found.left) - {"config.json"}


def test_a_folder_of_links_is_neither_entered_nor_copied(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/tool.jinja").write_text(SECRET)
    (tmp_path / "model/additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    assert find_side_files(tmp_path / "model").carried == []
    shutil.rmtree(tmp_path / "model")


def edit_json(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(data | changes))


def test_names_of_layers_in_files_beside_the_config_follow(tmp_path: Path) -> None:
    """ModelOpt's list of what is not quantized, GPTQ's patterns in both of their places."""
    dense, out = tmp_path / "dense", tmp_path / "cut"
    TINY["qwen3_vl"].save(dense)
    pattern = r"+:.*\.(?:3|4|7)\..*"
    edit_json(dense / "config.json", quantization_config={"quant_method": "gptq", "dynamic": {pattern: {"bits": 8}}})
    edit_json(dense / "quantize_config.json", bits=4, dynamic={pattern: {"bits": 8}, r"-:.*\.6\..*": {}})
    excluded = ["lm_head", "model.layers.3*", "model.layers.4.self_attn*", "*.visual.blocks.3*"]
    edit_json(dense / "hf_quant_config.json", quantization={"quant_algo": "NVFP4", "exclude_modules": excluded})
    (dense / "LICENSE").write_text("of model.language_model.layers")
    make_cut(dense, [3, 6], out)
    kept = {layer: position for position, layer in enumerate([0, 1, 2, 4, 5, 7])}
    for name in ("config.json", "quantize_config.json"):
        found = json.loads((out / name).read_text())
        patterns = list(found.get("quantization_config", found)["dynamic"])
        matched = {
            n for n in kept.values() if any(re.match(p[2:], f"model.language_model.layers.{n}.mlp") for p in patterns)
        }
        assert matched == {kept[4], kept[7]}
    found = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
    assert found == {
        "quant_algo": "NVFP4",
        "exclude_modules": ["lm_head", "model.layers.3.self_attn*", "*.visual.blocks.3*"],
    }


def test_a_file_that_names_layers_in_a_form_of_its_own_is_refused(tmp_path: Path) -> None:
    """It goes with the model because its code opens it."""
    TINY["qwen3_vl"].save(tmp_path / "dense")
    edit_json(tmp_path / "dense/config.json", auto_map={"AutoConfig": "code.Config"})
    (tmp_path / "dense/code.py").write_text("open('scales.txt')")
    (tmp_path / "dense/scales.txt").write_text("model.language_model.layers.3.mlp 0.5")
    found = refuse("prune", tmp_path / "dense", "--drop-layers", "3", "--out", tmp_path / "cut", names="scales.txt")
    assert "in a form that is not known" in found.sentence
    refuse("prune", tmp_path / "dense", "--drop-layers", "3", "--dry-run", names="scales.txt")
    assert not (tmp_path / "cut").exists()
