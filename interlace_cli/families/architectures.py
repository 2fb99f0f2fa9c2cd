"""The architectures that interlace is tested with. Each has a tiny model in `tests/zoo.py`; a test compares its pruned
checkpoint, loaded by plain transformers, with the dense model. Other architectures are pruned by the same general
rules and reported as untested.

This is a list of names only. The per-layer config fields of an architecture are declared in `edit.py`, its limits in
`limits.py`. The README's table is built from these lists (`build_table`), and a test compares the two.
"""

from __future__ import annotations

import textwrap

ARCHITECTURES = {
    "aria": "Aria",
    "aya_vision": "Aya Vision",
    "blip": "BLIP",
    "blip-2": "BLIP-2",
    "chameleon": "Chameleon",
    "cohere2_vision": "Command A Vision",
    "cohere_compass": "Cohere Compass",
    "cosmos3_edge": "Cosmos 3 Edge",
    "cosmos3_omni": "Cosmos 3 Omni",
    "deepseek_ocr2": "DeepSeek-OCR 2",
    "deepseek_vl": "DeepSeek-VL",
    "deepseek_vl_hybrid": "DeepSeek-VL hybrid",
    "emu3": "Emu3",
    "ernie4_5_vl_moe": "ERNIE 4.5 VL",
    "exaone4_5": "EXAONE 4.5",
    "fast_vlm": "FastVLM",
    "florence2": "Florence-2",
    "fuyu": "Fuyu",
    "gemma3": "Gemma 3",
    "gemma3n": "Gemma 3n",
    "gemma4": "Gemma 4",
    "gemma4_unified": "Gemma 4 Unified",
    "git": "GIT",
    "glm46v": "GLM-4.6V",
    "glm4v": "GLM-4V",
    "glm4v_moe": "GLM-4.5V",
    "glm5_next": "GLM-5 Next",
    "glm_ocr": "GLM-OCR",
    "got_ocr2": "GOT-OCR 2",
    "granite4_vision": "Granite 4 Vision",
    "granite_docling": "Granite Docling",
    "hunyuan_vl": "Hunyuan-VL",
    "hyperclovax_vision_v2": "HyperCLOVA X Vision",
    "idefics": "IDEFICS",
    "idefics2": "Idefics2",
    "idefics3": "Idefics3",
    "inkling_mm_model": "Inkling",
    "instructblip": "InstructBLIP",
    "internvl": "InternVL",
    "janus": "Janus",
    "kimi_k25": "Kimi K2.5",
    "kosmos-2": "KOSMOS-2",
    "kosmos-2.5": "KOSMOS-2.5",
    "lfm2_vl": "LFM2-VL",
    "lfm3_vl": "LFM3-VL",
    "lighton_ocr": "LightOnOCR",
    "llama4": "Llama 4",
    "llava": "LLaVA",
    "llava_next": "LLaVA-NeXT",
    "llava_next_video": "LLaVA-NeXT-Video",
    "llava_onevision": "LLaVA-OneVision",
    "minicpm_ocr": "MiniCPM-OCR",
    "minicpmv4_6": "MiniCPM-V 4.6",
    "minicpmv4_7": "MiniCPM-V 4.7",
    "minimax_m3_vl": "MiniMax-M3-VL",
    "mistral3": "Mistral 3",
    "mistral4": "Mistral 4",
    "mistral_large4": "Mistral Large 4",
    "mllama": "Llama 3.2 Vision",
    "molmo2": "Molmo 2",
    "muse_glimmer": "Muse Glimmer",
    "muse_spark": "Muse Spark",
    "nemotron_h_omni": "Nemotron-H Omni",
    "ovis2": "Ovis2",
    "paddleocr_vl": "PaddleOCR-VL",
    "paligemma": "PaliGemma",
    "perception_lm": "PerceptionLM",
    "pix2struct": "Pix2Struct",
    "pp_chart2table": "PP-Chart2Table",
    "qianfan_ocr": "Qianfan-OCR",
    "qwen2_5_omni_thinker": "Qwen2.5-Omni Thinker",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen2_vl": "Qwen2-VL",
    "qwen3_5": "Qwen3.5",
    "qwen3_5_moe": "Qwen3.5-MoE",
    "qwen3_omni_moe_thinker": "Qwen3-Omni Thinker",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL-MoE",
    "smolvlm": "SmolVLM",
    "step3p7": "Step 3.7",
    "t5gemma2": "T5Gemma 2",
    "unlimited_ocr": "Unlimited-OCR",
    "video_llama_3": "VideoLLaMA 3",
    "video_llava": "Video-LLaVA",
    "vipllava": "VipLLaVA",
}
"""`model_type` in config.json -> name in the README. A new entry needs a tiny model in `tests/zoo.py`."""

LANGUAGE_MODELS = {
    "deepseek_v3": "DeepSeek-V3",
    "falcon": "Falcon",
    "falcon_h1": "Falcon-H1",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)",
    "glm4": "GLM-4",
    "gpt2": "GPT-2",
    "gpt_neox": "GPT-NeoX",
    "gpt_oss": "gpt-oss",
    "granitemoehybrid": "Granite 4",
    "lfm2": "LFM2",
    "llama": "Llama",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "nemotron_h": "Nemotron-H",
    "olmo2": "OLMo 2",
    "opt": "OPT",
    "phi3": "Phi-3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3-MoE",
    "qwen3_next": "Qwen3-Next",
    "smollm3": "SmolLM3",
}
"""The same for language models that read text alone."""

NEEDS = {"fast_vlm": "timm", "gemma3n": "timm", "inkling_mm_model": "scipy", "perception_lm": "timm"}
"""`model_type` -> package that transformers needs to build the model; its test is skipped where the package is missing.
Pruning needs none of them."""

OTHER_STACKS = {
    "vision": {
        "clip": "CLIP",
        "mllama": "Llama 3.2 Vision",
        "llava": "LLaVA",
        "llava_next": "LLaVA-NeXT",
        "llava_onevision": "LLaVA-OneVision",
        "qwen2_5_vl": "Qwen2.5-VL",
        "qwen2_vl": "Qwen2-VL",
        "qwen3_vl": "Qwen3-VL",
        "siglip": "SigLIP",
    },
    "text": {"clip": "CLIP", "siglip": "SigLIP"},
    "encoder": {"florence2": "Florence-2"},
    "decoder": {"florence2": "Florence-2"},
}
"""Stack -> `model_type` -> name: what is tested beside the language stacks of ARCHITECTURES."""


def is_tested(model_type: str, stack: str) -> bool:
    """Whether a test prunes this stack of this architecture. The language stack of an encoder-decoder is its
    decoder."""
    is_language = stack in ("language", "decoder") and (model_type in ARCHITECTURES or model_type in LANGUAGE_MODELS)
    return is_language or model_type in OTHER_STACKS.get(stack, {})


def build_table() -> str:
    """The README's table of tested architectures as Markdown, three columns, sorted by name, and the lines under it."""
    rows = sorted(ARCHITECTURES.items(), key=lambda item: item[1].lower())
    cells = [f"{name} (`{model_type}`){' †' * (model_type in NEEDS)}" for model_type, name in rows]
    columns = 3
    cells += [""] * (-len(cells) % columns)
    lines = ["| | | |", "|---|---|---|"]
    lines += ["| " + " | ".join(cells[i : i + columns]) + " |" for i in range(0, len(cells), columns)]
    others = [f"`--stack {stack}`: {', '.join(models.values())}." for stack, models in OTHER_STACKS.items()]
    needed = " and ".join(sorted(set(NEEDS.values())))
    listed = f"Language models without images: {', '.join(f'{n} (`{t}`)' for t, n in LANGUAGE_MODELS.items())}."
    texts = textwrap.fill(listed, 120, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, "", f"† tested where {needed} are installed.", "", texts, "", *others])
