"""Generates with vLLM, in an interpreter that has it: `PYTHON vllm_worker.py ANSWERS`, where ANSWERS is an open file.

That interpreter need not have interlace, so this file imports the standard library, and what vLLM brings along. The
first line on stdin is the model with its settings, each of the others a chunk of prompts; each is answered by a line of
JSON on ANSWERS. What libraries say goes to stdout and stderr.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Answers until stdin ends."""
    answers = os.fdopen(int(sys.argv[-1]), "w")

    def answer(**said: Any) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    try:
        setup = json.loads(sys.stdin.readline())
        # In this process: what cannot be loaded is then raised here, and nothing is left behind.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        model, facts = load(setup)
        answer(**facts)
        for line in sys.stdin:
            answer(**generate(model, json.loads(line)))
    # Whatever a library raises is said by who has started this.
    except BaseException as error:
        answer(error=describe(error))
        raise


def describe(error: BaseException) -> str:
    """In one line; of pydantic's errors the first one's own words."""
    faults = error.errors() if hasattr(error, "errors") and callable(error.errors) else []
    text = str(faults[0]["msg"] if faults else error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def load(setup: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model, and what runs it."""
    import vllm
    from vllm.platforms import current_platform

    device = str(current_platform.device_type)
    model = vllm.LLM(
        model=setup["model"],
        dtype=setup["dtype"],
        seed=setup["seed"],
        max_model_len=setup["max_model_len"],
        limit_mm_per_prompt={"image": setup["images"]} if setup["images"] else None,
        mm_processor_kwargs=setup["processor"] or None,
        # Compiling pays where a GPU answers many questions.
        enforce_eager=device == "cpu",
        # Nothing of the model's generation_config.json but the tokens that end a reply.
        generation_config="vllm",
        disable_log_stats=True,
    )
    return model, {"vllm": vllm.__version__, "device": device}


def generate(model: Any, chunk: dict[str, Any]) -> dict[str, Any]:
    """The new tokens of each prompt, greedily, and how many tokens vLLM has read of it."""
    from PIL import Image
    from vllm import SamplingParams

    prompts = []
    for prompt in chunk["prompts"]:
        given: dict[str, Any] = {"prompt_token_ids": prompt["tokens"]}
        if prompt["images"]:
            images = []
            for path in prompt["images"]:
                with Image.open(path) as image:
                    images.append(image.convert("RGB"))
            given["multi_modal_data"] = {"image": images}
        prompts.append(given)
    settings = SamplingParams(
        temperature=0.0,
        max_tokens=chunk["limit"],
        stop_token_ids=chunk["stop_ids"],
        ignore_eos=False,
        detokenize=False,
        skip_special_tokens=False,
    )
    found = model.generate(prompts, settings, use_tqdm=False)
    tokens = [list(one.outputs[0].token_ids) for one in found]
    return {"tokens": tokens, "read": [len(one.prompt_token_ids or ()) for one in found]}


if __name__ == "__main__":
    main()
