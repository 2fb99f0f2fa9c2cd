"""The built-in world, its questions, and a small Qwen3-VL trained on them."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of the trained model that comes with the package."""
