"""The built-in demo: a rendered world of small pictures, questions about them, and a small Qwen3-VL trained on both.

To change: the pictures -> `world.py`; the questions -> `questions.py`; the model's sizes, tokenizer and processor ->
`model.py`. The trained weights are in `checkpoint/`; a change of any of these needs new ones (`demo_training/`).
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of the trained model that is shipped with the package."""
