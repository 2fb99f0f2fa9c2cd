"""Loading, also where torchvision is missing or broken. The patches have to be needed: these tests fail when not."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interlace_cli.demo import CHECKPOINT
from interlace_cli.demo.model import build_processor, save_processor
from interlace_cli.errors import CheckpointError, UsageError
from interlace_cli.io.missing_packages import find_missing_package
from interlace_cli.io.models import import_transformers, load_model, load_processor
from interlace_cli.runtime.device import choose_device, choose_dtype

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


@pytest.fixture
def qwen3_processor(tmp_path: Path) -> Path:
    """A folder whose processor is Qwen3-VL's own, with its video part."""
    import_transformers()
    save_processor(tmp_path)
    config = json.loads((tmp_path / "processor_config.json").read_text())
    config["processor_class"] = "Qwen3VLProcessor"
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.skipif(HAS_TORCHVISION, reason="the video part can be built where torchvision is")
def test_a_processor_with_a_video_part_needs_the_patch_and_works_with_it(qwen3_processor: Path) -> None:
    plain = "import sys; from transformers import AutoProcessor; AutoProcessor.from_pretrained(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", plain, str(qwen3_processor)], capture_output=True, check=False)
    assert done.returncode != 0, "transformers no longer needs `do_without_video_processors`: remove it"
    processor = load_processor(qwen3_processor)
    assert type(processor).__name__ == "Qwen3VLProcessor"
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"
    from PIL import Image

    ours = processor(text=[text], images=[Image.new("RGB", (64, 64))], return_tensors="pt")
    theirs = build_processor()(text=[text], images=[Image.new("RGB", (64, 64))], return_tensors="pt")
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.skipif(not HAS_TORCHVISION, reason="needs a torchvision, of any build")
def test_models_and_processors_load_beside_any_torchvision(qwen3_processor: Path) -> None:
    assert load_processor(qwen3_processor).image_processor is not None


def test_pixel_bounds_reach_the_image_processor(chain_model: Path) -> None:
    size = load_processor(chain_model, 784, 50176).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (784, 50176)
    assert load_processor(chain_model).image_processor.size["longest_edge"] == 4096


def test_a_checkpoint_that_lacks_weights_is_refused(chain_model: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(chain_model, tmp_path / "model")
    tensors = load_file(chain_model / "model.safetensors")
    tensors.pop("model.language_model.layers.3.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "model/model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 of .*layers\.3\.mlp\.up_proj"):
        load_model(tmp_path / "model")


def test_devices_and_dtypes_that_are_not_there() -> None:
    assert str(choose_dtype("auto", "cpu")) == "torch.float32"
    with pytest.raises(UsageError, match="int8"):
        choose_dtype("int8", "cpu")
    with pytest.raises(UsageError, match="nonsense"):
        choose_device("nonsense")


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ImportError("Package `num2words` is required. Install it with `pip install num2words`."), "num2words"),
        (ImportError("\nX requires the Torchvision library but it was not found in your environment."), "torchvision"),
        (ImportError("You can install it with:\n```\npip install -U scikit-learn\n```"), "scikit-learn"),
        (ModuleNotFoundError("No module named 'tiktoken.load'", name="tiktoken.load"), "tiktoken"),
        (ImportError("cannot import name 'x' from 'y'"), None),
        (ValueError("pip install anything"), None),
    ],
    ids=["num2words", "torchvision", "scikit-learn", "tiktoken", "name", "other"],
)
def test_the_package_that_a_models_files_need_is_found(error: Exception, package: str | None) -> None:
    assert find_missing_package(error) == package


@pytest.fixture
def smolvlm_processor(qwen3_processor: Path) -> Path:
    """A folder whose processor is SmolVLM's, as it is written with torchvision. Its constructor has to be given a video
    part, and its template asks that part for numbers of frames."""
    image = {"image_processor_type": "SmolVLMImageProcessorPil", "size": {"longest_edge": 64}}
    parts = {
        "image_processor": {**image, "max_image_size": {"longest_edge": 32}},
        "video_processor": {"video_processor_type": "SmolVLMVideoProcessor"},
    }
    config = {"processor_class": "SmolVLMProcessor", "image_seq_len": 4, **parts}
    (qwen3_processor / "processor_config.json").write_text(json.dumps(config))
    return qwen3_processor


def test_a_processor_that_needs_a_package_says_which(smolvlm_processor: Path) -> None:
    if importlib.util.find_spec("num2words") is not None:
        pytest.skip("num2words is installed here")
    with pytest.raises(CheckpointError, match="pip install num2words"):
        load_processor(smolvlm_processor)


@pytest.mark.skipif(HAS_TORCHVISION, reason="the video part can be built where torchvision is")
def test_a_processor_that_has_to_be_given_a_video_part_works_on_images(
    smolvlm_processor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_transformers()
    from PIL import Image
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", str, raising=False)
    processor = load_processor(smolvlm_processor)
    assert (type(processor).__name__, processor.image_seq_len) == ("SmolVLMProcessor", 4)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    assert "What?" in processor.apply_chat_template([turn], tokenize=False)
    pictures = [[Image.new("RGB", (64, 64), (200, 9, 40))]]
    found = processor(text=[f"{processor.image_token} What?"], images=pictures, return_tensors="pt")
    assert found["pixel_values"].equal(processor.image_processor(pictures, return_tensors="pt")["pixel_values"])
    processor.save_pretrained(tmp_path / "saved")
    assert "video_processor" not in json.loads((tmp_path / "saved/processor_config.json").read_text())
    assert load_processor(tmp_path / "saved").image_seq_len == 4


def test_a_tokenizer_without_pad_and_eos_is_the_models_fault(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "model")
    file = tmp_path / "model/tokenizer_config.json"
    config = {**json.loads(file.read_text()), "pad_token": None, "eos_token": None}
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"neither a pad_token nor an eos_token.*tokenizer_config\.json"):
        load_processor(tmp_path / "model")
