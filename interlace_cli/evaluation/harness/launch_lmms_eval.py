"""`python -m interlace_cli.evaluation.harness.launch_lmms_eval ...`: lmms-eval's own command, after torchvision is made
importable (`io/models.py`)."""

from __future__ import annotations


def main() -> None:
    """Runs lmms-eval with this process's arguments."""
    import runpy

    from interlace_cli.io.models import import_transformers

    import_transformers()
    runpy.run_module("lmms_eval", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
