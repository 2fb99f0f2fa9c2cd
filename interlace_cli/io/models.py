"""Loading models and processors with transformers, also where torchvision is missing or of another build."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.domain.memory import describe_bytes
from interlace_cli.errors import (
    CheckpointError,
    InterlaceError,
    ShortageError,
    UnsupportedModelError,
    UsageError,
    first_line,
)
from interlace_cli.io.checkpoints import open_checkpoint
from interlace_cli.io.integrity import check_files
from interlace_cli.io.load_report import shortages_raised
from interlace_cli.io.missing_packages import advise
from interlace_cli.io.model_json import parse_model_json
from interlace_cli.io.placement import Placement
from interlace_cli.io.saved_names import describe_lack, read_failure, read_report
from interlace_cli.io.text_processor import TextProcessor
from interlace_cli.io.torchvision import do_without_video_processors, repair_torchvision
from interlace_cli.runtime.accelerator import is_cpu
from interlace_cli.runtime.device import choose_dtype, use_device
from interlace_cli.runtime.memory import is_out_of_memory
from interlace_cli.runtime.shortage import read_shortage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

IMAGE_TEXT_TO_TEXT, CAUSAL_LM = "AutoModelForImageTextToText", "AutoModelForCausalLM"
ON_FILES_ALONE = (
    "`interlace plan --model MODEL --strategy random` and `interlace prune --drop-layers` work on its files alone."
)


def load_config(path: Path) -> PreTrainedConfig:
    """transformers' config of the folder. Raises CheckpointError if it cannot be read."""
    transformers = import_transformers()
    check_known(path)
    try:
        return transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    # Config classes raise whatever their checks happen to raise; all of it means that config.json is wrong.
    except Exception as error:
        raise CheckpointError(f"transformers cannot read {path / 'config.json'}: {_describe(error)}") from error


def check_goes_on_from_prompt(path: Path, what: str) -> None:
    """Raises UnsupportedModelError, before any weights are loaded, if the model is an encoder with a decoder: its
    answers do not go on from the prompt, and `what` ("healing") is made for models whose do."""
    config = load_config(path)
    if config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{what} is for models that go on from their prompt, and {config.model_type} is an encoder with a decoder"
            " of its own.",
            "It can be analyzed by similarity, planned, and pruned.",
        )


def resolve_config(path: str) -> dict[str, Any] | None:
    """config.json of the folder with everything that it leaves to its class. None if transformers does not know the
    architecture, or its own class of that name is not the one that the config was written for."""
    if not knows(path):
        return None
    try:
        return load_config(Path(path)).to_dict()
    except CheckpointError:
        if "auto_map" in _read_config(Path(path)):
            return None
        raise


def _read_config(path: Path) -> dict[str, Any]:
    """config.json as it stands; empty where it cannot be read, which transformers then says in its own words."""
    try:
        found = parse_model_json((path / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def load_model(
    path: Path, dtype: str = "auto", device: str | Placement = "auto", attention: str | None = None
) -> PreTrainedModel:
    """The model in evaluation mode on `device`, or spread over several by a placement; `dtype` `native` is the
    checkpoint's own. Raises CheckpointError if weights are missing, do not fit, or are not what interlace wrote."""
    placement = Placement(device) if isinstance(device, str) else device
    placement.announce(path, dtype, attention)
    check_files(path)
    transformers = import_transformers()
    if _read_config(path).keys() & {"model_type", "auto_map"}:
        check_loadable(path)
    chosen = use_device(placement.device)
    wanted = "auto" if dtype == "native" else choose_dtype(dtype, chosen)
    auto = getattr(transformers, choose_auto_class(load_config(path).model_type))
    try:
        with placement.loading(chosen) as loading, _reading_here(), shortages_raised():
            model, report = auto.from_pretrained(
                path,
                dtype=wanted,
                trust_remote_code=False,
                attn_implementation=attention,
                # It is told of below, by name.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **loading.arguments,
            )
            loading.model = model
    # What is said in plain words already.
    except InterlaceError:
        raise
    # As with configs: what classes of all makers raise on files of all makers. Memory is another matter.
    except Exception as error:
        if is_out_of_memory(error):
            raise _describe_shortage(path, error, chosen, device) from error
        failure = read_failure(error, open_checkpoint(path).tensors)
        if failure is not None:
            raise describe_lack(path, failure) from error
        raise CheckpointError(f"transformers cannot load {path}: {_describe(error)}") from error
    found = read_report(len(model.state_dict()), report)
    if not found.is_whole:
        raise describe_lack(path, found)
    if placement.is_dispatched:
        return model.eval()
    try:
        return model.to(chosen).eval()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise _describe_shortage(path, error, chosen, device) from error


def _describe_shortage(path: Path, error: Exception, used: str, asked: str | Placement) -> ShortageError:
    size, shortage = describe_bytes(open_checkpoint(path).total_bytes, 2), read_shortage(error, used)
    if isinstance(asked, Placement):
        fix = asked.advise(used)
    # The command has no option for several devices.
    else:
        fix = "End what else uses this memory." if is_cpu(used) else "Take --device cpu, or end what else uses the GPU."
    what = f"{path}, {size} of weights on disk, does not fit into the memory: {shortage}."
    return ShortageError(what, fix, shortage.is_on_host)


@contextmanager
def _reading_here() -> Iterator[None]:
    """Inside the context, transformers reads weights in this thread where it has a dispatch mode of torch's (one that
    counts, or pretends): modes are a thread's own, and transformers' threads would not have it."""
    import torch

    name = "HF_DEACTIVATE_ASYNC_LOAD"
    if not torch._C._len_torch_dispatch_stack() or name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]


def choose_auto_class(model_type: str) -> str:
    """Which of transformers' auto classes loads a model of this type: the one for images and text where transformers
    maps the type to it, else the one for causal language models, else (dual encoders, such as CLIP) the plain one."""
    import_transformers()
    from transformers.models.auto import modeling_auto

    if model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return IMAGE_TEXT_TO_TEXT
    return CAUSAL_LM if model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "AutoModel"


def is_text_only(model_type: str) -> bool:
    """Whether transformers has a model of this type for text, and none that sees or hears."""
    import_transformers()
    from transformers.models.auto import modeling_auto

    is_multimodal = model_type in modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    return choose_auto_class(model_type) == CAUSAL_LM and not is_multimodal


def knows(path: str) -> bool:
    """Whether transformers knows the type of the model in the folder, in the layout that its config.json has."""
    config, known = _read_config(Path(path)), import_transformers().CONFIG_MAPPING
    model_type = config.get("model_type")
    return isinstance(model_type, str) and model_type in known and _reads_count(known[model_type], config)


def _reads_count(config_class: Any, config: dict[str, Any]) -> bool:
    """Whether the class takes its language model's layer count from a flat config, which Qwen2-VL's does. Older code
    has layouts of its own under the same type: the original LLaVA's is flat, and transformers' LLaVA ignores that."""
    count = config.get("num_hidden_layers")
    if type(count) is not int or "text_config" in config or "text_config" not in config_class.sub_configs:
        return True
    found = []
    for number in (count, count + 1):
        try:
            read = config_class.from_dict({**config, "num_hidden_layers": number})
            found.append(read.get_text_config(decoder=True).num_hidden_layers)
        # As in `load_config`, which says what is wrong.
        except Exception:
            return True
    return found[0] != found[1]


def check_loadable(path: Path) -> None:
    """Raises CheckpointError for a model that cannot be loaded here: custom code, older layouts, and models that are
    several in one."""
    transformers = import_transformers()
    from transformers.models.auto import modeling_auto

    check_known(path)
    model_type = _read_config(path).get("model_type", "")
    if choose_auto_class(model_type) == "AutoModel" and model_type not in modeling_auto.MODEL_MAPPING_NAMES:
        raise CheckpointError(
            f"the model cannot be loaded: transformers {transformers.__version__} has no class for a whole"
            f" {model_type} model that answers in text.",
            ON_FILES_ALONE,
        )


def check_known(path: Path) -> None:
    """Raises CheckpointError for a model that transformers does not know. One with neither a type nor code of its own
    is another matter."""
    config = _read_config(path)
    kind = config.get("model_type")
    if knows(str(path)) if isinstance(kind, str) else "auto_map" not in config:
        return
    version, names = import_transformers().__version__, config.get("architectures")
    what = f"{kind} models" if kind else "models"
    written_for = f" written for {names[0]}" if isinstance(names, list) and names else ""
    raise CheckpointError(
        f"the model cannot be loaded: transformers {version} does not know {what}{written_for},"
        " and code from a checkpoint is never run.",
        ON_FILES_ALONE,
    )


def to_stored_tensors(model: PreTrainedModel, held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters by their names in the model -> by their names on disk, where experts may lie one by one and
    projections side by side: transformers' own way back, which `save_pretrained` takes too."""
    import_transformers()
    from transformers.core_model_loading import revert_weight_conversion

    stored: dict[str, torch.Tensor] = revert_weight_conversion(model, held)
    return stored


def _describe(error: Exception) -> str:
    """With its name, where it is none that is meant to be read."""
    if "trust_remote_code" in str(error):
        return "it needs code of its own to be loaded, and code from a checkpoint is never run"
    is_meant = isinstance(error, (ValueError, OSError, RuntimeError, ImportError))
    return first_line(error) if is_meant else f"{type(error).__name__}: {first_line(error)}"


def load_processor(path: Path, min_pixels: int | None = None, max_pixels: int | None = None) -> Any:
    """The processor; `min_pixels`, `max_pixels` bound each image's area where its image processor has such bounds. Of a
    language model the tokenizer, as a `TextProcessor`."""
    transformers = import_transformers()
    # A processor may lie alone, with no model.
    model_type = load_config(path).model_type if (path / "config.json").exists() else ""
    if is_text_only(model_type):
        processor: Any = TextProcessor(_load_part(path, "tokenizer", transformers.AutoTokenizer))
    else:
        processor = _load_part(path, "processor", transformers.AutoProcessor)
        _check_processor(processor, path, model_type)
        size = processor.image_processor.size
        if min_pixels or max_pixels:
            names = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
            if size and all(size.get(name) for name in names):
                processor.image_processor.size = {name: value or size[name] for name, value in names.items()}
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    if processor.tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"the tokenizer of {path} has neither a pad_token nor an eos_token, so nothing can fill up a batch.",
            "Name one in its tokenizer_config.json, as the model has it that it was made from.",
        )
    return processor


def _load_part(path: Path, what: str, auto: Any) -> Any:
    try:
        return auto.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        what_is_wrong = f"transformers cannot load the {what} of {path}: {_describe(error).rstrip('.')}."
        raise CheckpointError(what_is_wrong, advise(error)) from error


def _check_processor(processor: Any, path: Path, model_type: str) -> None:
    if hasattr(processor, "tokenizer") and hasattr(processor, "image_processor"):
        return
    if model_type and choose_auto_class(model_type) == "AutoModel":
        raise CheckpointError(
            f"{path} is a {model_type} model, which is neither a vision-language model nor a causal language model.",
            "Only `plan` and `prune` work on it.",
        )
    raise CheckpointError(f"{path} has no image processor.", "Copy the base model's processor files beside it.")


def check_attention(name: str | None) -> None:
    """Raises UsageError for a way to attend that transformers does not know. One of a kernel repository of the Hub
    (`owner/name`) is looked for when it is used."""
    if name is None or "/" in name:
        return
    import_transformers()
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = sorted({"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()})
    if name not in known:
        raise UsageError(f"--attn does not take {name!r}.", f"It takes {', '.join(known)}.")


def import_transformers() -> Any:
    """transformers, with the two troubles of torchvision out of the way and its own progress bars and hints off."""
    repair_torchvision()
    _settle_deepspeed()
    try:
        import transformers
    except ImportError as error:
        raise InterlaceError(f"transformers cannot be imported: {error}.", "Install interlace again.") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if importlib.util.find_spec("torchvision") is None:
        do_without_video_processors()
    return transformers


@cache
def _settle_deepspeed() -> None:
    """Where DeepSpeed is installed, accelerate loads it, and without a GPU it says on stdout that it takes the CPU."""
    if importlib.util.find_spec("deepspeed") is None:
        return
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
